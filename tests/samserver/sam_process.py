"""A real keepup-sam process, and the few lines it takes to speak HTTP to it as its clients do."""

import http.client
import itertools
import json
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlencode


@dataclass
class Reply:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode()

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def lines(self) -> list[str]:
        return self.text.splitlines()

    @property
    def error(self) -> str | None:
        """The type of a refusal, whose form is checked on the way."""
        if self.status < 400:
            return None
        assert self.headers["Content-Type"] == "application/json"
        assert set(self.json) == {"error", "message"} and " " not in self.json["error"] and self.json["message"]
        return str(self.json["error"])


@dataclass
class Sam:
    """A server process and a client for it; one connection a call, so that threads may share it."""

    process: subprocess.Popen[str]
    port: int
    base: str
    db: Path
    numbers: itertools.count = field(default_factory=itertools.count)

    def call(self, method: str, path: str, form: Any = None, body: Any = None, **headers: str) -> Reply:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        return self.on(connection, method, path, form, body, close=True, **headers)

    def on(self, connection: http.client.HTTPConnection, method: str, path: str, form: Any = None, body: Any = None,
           close: bool = False, **headers: str) -> Reply:
        data = None
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        if form is not None:
            data, sent["Content-Type"] = urlencode(form, doseq=True), "application/x-www-form-urlencoded"
        if body is not None:
            data, sent["Content-Type"] = json.dumps(body), "application/json"
        connection.request(method, path if path.startswith("/sam/") else self.base + path, data, sent)
        reply = connection.getresponse()
        made = Reply(reply.status, dict(reply.getheaders()), reply.read())
        if close:
            connection.close()
        return made

    def get(self, path: str, **query: Any) -> Reply:
        return self.call("GET", path + ("?" + urlencode(query, doseq=True) if query else ""))

    def post(self, path: str, **form: Any) -> Reply:
        return self.call("POST", path, form)

    def new(self, stem: str) -> str:
        """A name no other test uses."""
        return f"{stem}_{next(self.numbers)}"

    def declare(self, name: str, located: bool = True, **fields: Any) -> int:
        metadata = {"file_name": name, "file_type": "test", "file_size": 10, **fields}
        reply = self.call("POST", "/files", body=metadata)
        assert reply.status == 201, reply.text
        if located:
            assert self.post(f"/files/id/{reply.text}/locations", add="demo:/data/d1").status == 200
        return int(reply.text)

    def list(self, dims: str) -> list[str]:
        reply = self.get("/files/list", dims=dims)
        assert reply.status == 200, reply.text
        return reply.lines

    def define(self, name: str, dims: str) -> str:
        assert self.post("/definitions/create", defname=name, dims=dims, group="dune").status == 200
        return name

    def start(self, dims: str, stem: str = "project") -> str:
        """A new project on a new definition; returns its path."""
        name = self.new(stem)
        self.define(f"{name}_def", dims)
        reply = self.post("/startProject", name=name, station="dune", group="dune", defname=f"{name}_def")
        assert reply.status == 200, reply.text
        return self.path_of(reply.text)

    def path_of(self, url: str) -> str:
        prefix = f"http://127.0.0.1:{self.port}"
        assert url.startswith(prefix)
        return url.removeprefix(prefix)

    def establish(self, project: str, **form: Any) -> str:
        reply = self.post(f"{project}/establishProcess", appname="reco", appversion="v1", node="n1", **form)
        assert reply.status == 200, reply.text
        return f"{project}/processes/{reply.text}"


def start_server(db: Path, *options: str) -> Sam:
    """Start keepup-sam on a free port and wait until it says that it serves."""
    command = [sys.executable, "-m", "keepupd.samserver.main", "serve", "--db", str(db), "--port", "0", *options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    line = process.stdout.readline()
    assert line.startswith("keepup-sam: serving http://127.0.0.1:"), line
    url = line.split()[2]
    return Sam(process, int(url.split(":")[2].partition("/")[0]), "/" + url.split("/", 3)[3], db)


def stop_server(sam: Sam) -> None:
    """Quiet for one that has ended already."""
    sam.process.terminate()
    sam.process.wait(10)
    sam.process.stdout.close()


def register(sam: Sam) -> None:
    """What the tests' files refer to."""
    sam.post("/values/data_disks", mountpoint="demo:/data")
    sam.post("/values/data_disks", mountpoint="enstore:/pnfs", disk_type="tape", url_prefix=[
        "root://door:1094/", "https://door:2880"])
    sam.post("/values/applications", family="art", name="reco", version="v1")
    sam.post("/values/applications", family="art", name="reco", version="v2")
    for name, kind in (("Test.label", "string"), ("Test.count", "int"), ("Test.energy", "float")):
        sam.post("/values/parameters", name=name, data_type=kind)
