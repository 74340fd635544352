"""A small SAM that can be told to misbehave: the next answers to a call are faults from a script, then all is well.

It speaks as much of SAM's HTTP as the worker uses, keeps records, locations and file statuses in plain dicts, and notes
every call. The faults: "drop" (hang up), "lost" (do it, then hang up), "silent" (no answer), "drip" (a byte at a time),
"html" (a proxy's page with status 200), or (status, body, headers) to be sent as it stands.
"""
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, quote, unquote, urlsplit


class ScriptedSam:
    def __init__(self):
        self.faults = {}            # call name -> list of faults, used up from the front
        self.calls = []             # call names, in order
        self.records, self.locations, self.status = {}, {}, {}
        self.urls = {}              # file name -> what getNextFile says
        self.queue, self.held = [], None
        self.process_status, self.process_form, self.stopped = None, None, threading.Event()
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), self.handler())
        self.server.daemon_threads = True
        self.base = f"http://127.0.0.1:{self.server.server_port}/sam/dune/api"
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self):
        self.stopped.set()
        self.server.shutdown()
        self.server.server_close()

    def deliver(self, name, path, record, url=None):
        self.records[name] = {"file_name": name, "file_id": 1000 + len(self.records), **record}
        self.locations[name] = [f"demo:{path.parent}"]
        self.urls[name] = url or "file://" + quote(str(path))
        self.queue.append(name)

    # -- what each call does: (status, body)

    def find_project(self, form):
        return 200, f"{self.base}/projects/dune/{form['name']}"

    def establish_process(self, form):
        self.process_form = form
        return 200, "9001"

    def get_next_file(self, form):
        limit_reached = self.process_form["filelimit"] == "1" and self.status
        if self.held is None and (limit_reached or not self.queue):
            return 204, ""
        self.held = self.held or self.queue.pop(0)
        return 200, self.urls[self.held]

    def update_file_status(self, form):
        self.status[form["filename"]] = form["status"]
        if form["status"] in ("consumed", "skipped"):
            self.held = None
        return 200, "ok"

    def set_status(self, form):
        self.process_status = form["status"]
        return 200, "ok"

    def end_process(self, form):
        return 200, "ok"

    def metadata(self, form):
        found = self.records.get(form["file_name"])
        places = [{"full_path": p, "location": p} for p in self.locations.get(form["file_name"], [])]
        return 200, json.dumps([{**found, "locations": places}] if found else [])

    def declare(self, record):
        name = record["file_name"]
        if name in self.records:
            return 409, json.dumps({"error": "FileAlreadyExists", "message": f"{name} already exists"})
        for parent in record.get("parents", []):
            if parent["file_name"] not in self.records:
                message = f"Parent file '{parent['file_name']}' not found"
                return 400, json.dumps({"error": "InvalidMetadata", "message": message})
        self.records[name] = {**record, "file_id": 1000 + len(self.records)}
        return 201, str(self.records[name]["file_id"])

    def add_location(self, form):
        self.locations.setdefault(form["file"], []).append(form["add"])
        return 200, "ok"

    # -- HTTP

    def act_of(self, method, path):
        last = path.rpartition("/")[2]
        acts = {"findProject": self.find_project, "establishProcess": self.establish_process, "files": self.declare,
                "getNextFile": self.get_next_file, "updateFileStatus": self.update_file_status,
                "status": self.set_status, "endProcess": self.end_process, "metadata": self.metadata,
                "locations": self.add_location}
        return last, acts[last]

    def handler(sam):
        class Handler(BaseHTTPRequestHandler):
            protocol_version, disable_nagle_algorithm = "HTTP/1.1", True

            def log_message(self, *_):
                pass

            def answer(self):
                parts = urlsplit(self.path)
                body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
                form = {k: v[0] for k, v in parse_qs(parts.query or body, keep_blank_values=True).items()}
                if parts.path.endswith("/locations"):
                    form["file"] = unquote(parts.path.split("/")[-2])
                name, act = sam.act_of(self.command, parts.path)
                sam.calls.append(name)
                is_json = self.headers.get("Content-Type") == "application/json"
                fault = sam.faults[name].pop(0) if sam.faults.get(name) else None
                self.misbehave(fault, lambda: act(json.loads(body) if is_json else form))

            def misbehave(self, fault, act):
                if fault is None:
                    self.reply(*act(), {})
                elif isinstance(fault, tuple):
                    self.reply(*fault)
                elif fault == "html":
                    self.reply(200, "<html><body>Welcome to the hotel's network</body></html>", {})
                else:
                    if fault == "lost":
                        act()
                    elif fault == "silent":
                        sam.stopped.wait(20)
                    elif fault == "drip":
                        self.drip()
                    self.close_connection = True

            def drip(self):
                self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
                for _ in range(100):
                    time.sleep(0.1)
                    self.wfile.write(b"x")

            def reply(self, status, body, headers):
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                data = body.encode()
                if status != 204:
                    self.send_header("Content-Type", "application/json" if body[:1] in "[{" else "text/plain")
                    self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                if status != 204:
                    self.wfile.write(data)

            do_GET = do_POST = do_PUT = answer

            def handle(self):
                try:
                    super().handle()
                except OSError:
                    pass                    # the worker hung up on us: what some tests are about

        return Handler
