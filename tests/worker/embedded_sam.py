"""A keep-up SAM server in a process of its own, and what can stand between it and a worker."""
import http.client
import json
import re
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import quote, urlencode, urlsplit


class EmbeddedSam:
    """keepup-sam, and as much of a client as these stories need."""
    def __init__(self, place):
        command = [Path(sys.executable).parent / "keepup-sam", "serve", "--db", place / "sam.db", "--port", "0"]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        self.base = re.search(r"http://\S+", self.process.stdout.readline()).group(0)
        self.queue, self.status = [], {}
        self.post("/values/parameters", {"name": "DUNE.campaign", "category": "DUNE", "data_type": "string"})
        self.post("/values/applications", {"family": "keepup", "name": "reco", "version": "v1"})

    def stop(self):
        self.process.terminate()
        self.process.wait(10)

    def post(self, path, form=None, record=None):
        data = json.dumps(record) if record is not None else urlencode(form)
        kind = "application/json" if record is not None else "application/x-www-form-urlencoded"
        request = urllib.request.Request(self.base + path, data.encode(), {"Content-Type": kind, "SAM-Role": "*"})
        try:
            return urllib.request.urlopen(request).read().decode()
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{path}: {error.code} {error.read().decode()}") from error

    def get(self, path):
        request = urllib.request.Request(self.base + path, headers={"Accept": "application/json"})
        return urllib.request.urlopen(request).read().decode()

    def has_disk(self, directory):
        self.post("/values/data_disks", {"mountpoint": f"demo:{directory}"})

    def deliver(self, name, path, record, url=None):
        self.post("/files", record={"file_name": name, "file_type": "detector", "data_tier": "raw",
                                    "file_format": "root", **record})
        self.post(f"/files/name/{quote(name, safe='')}/locations", {"add": f"demo:{path.parent}"})
        self.queue.append(name)

    def starts(self, project, *names):
        names = names or self.queue
        dims = " or ".join(f"file_name '{name}'" for name in names)
        self.post("/definitions/create", {"defname": project, "dims": dims, "group": "dune"})
        return self.post("/startProject", {"name": project, "station": "dune", "group": "dune", "defname": project})

    def count(self, dims):
        return int(self.get("/files/count?" + urlencode({"dims": dims})))

    def record(self, name):
        return json.loads(self.post("/files/metadata", {"file_name": name, "locations": 1}))[0]


class Between:
    """Passes a worker's calls on to SAM, but for one kind: "declare" or "locate".

    What becomes of that kind: "lost" (the first is done, its reply lost), "late" (the same, but only at `go` does the
    worker learn that there is none), "busy" (503, always), "held" (waits for `go`, and is not passed on when `gone` is
    set by then). `reached` is set when such a call has come, or is done.
    """
    def __init__(self, base, call, fault):
        self.base, self.ending, self.fault = base, {"declare": "/files", "locate": "/locations"}[call], fault
        self.reached, self.go, self.gone = threading.Event(), threading.Event(), False
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), self.handler())
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}{urlsplit(base).path}"
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self):
        self.gone = True
        self.go.set()
        self.server.shutdown()
        self.server.server_close()

    def pass_on(self, path, body, headers):
        """Status, content type and body of SAM's reply."""
        connection = http.client.HTTPConnection(urlsplit(self.base).netloc, timeout=20)
        connection.request("POST", path, body, headers)
        reply = connection.getresponse()
        answer = reply.status, reply.getheader("Content-Type") or "text/plain", reply.read()
        connection.close()
        return answer

    def answer(self, path, body, headers):
        """What the worker gets; None: nothing, and the connection is closed."""
        fault = self.fault if path.endswith(self.ending) else None
        if not fault:
            return self.pass_on(path, body, headers)
        again, answer = self.reached.is_set(), None
        if fault in ("lost", "late"):
            answer = self.pass_on(path, body, headers)
        self.reached.set()
        if fault == "busy":
            return 503, "text/plain", b"busy"
        if fault in ("held", "late"):
            self.go.wait(60)
        if fault == "held":
            return None if self.gone else self.pass_on(path, body, headers)
        return answer if again else None

    def handler(self):
        between = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"] or 0))
                headers = {name: self.headers[name] for name in ("Content-Type", "Accept", "SAM-Role", "From")
                           if self.headers[name]}
                answer = between.answer(self.path, body, headers)
                if answer is None:
                    self.close_connection = True
                    return
                self.send_response(answer[0])
                self.send_header("Content-Type", answer[1])
                self.send_header("Content-Length", str(len(answer[2])))
                self.end_headers()
                self.wfile.write(answer[2])

            def log_message(self, *_):
                pass

        return Handler
