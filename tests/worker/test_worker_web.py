"""The worker and WebDAV over TLS, with a bearer token: a door that wants one, and sends data on to another server."""
import http.server
import os
import re
import ssl
import subprocess
import threading
import zlib

import pytest

from keepupd.worker import keepup_worker as worker

TOKEN = "s3cret"


class Door(http.server.BaseHTTPRequestHandler):
    """Keeps files in a dict. Without the token, or the right the door gave to a URL, it does nothing."""
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def reply(self, status, data=b"", **headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def act(self):
        its, path, token = self.server, self.path, self.headers.get("Authorization")
        its.asked.append((self.command, path, token))
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if its.pool and self.command in ("GET", "PUT"):
            return self.reply(307 if token == f"Bearer {TOKEN}" else 403, Location=its.pool + path + "?right=x")
        if token != f"Bearer {TOKEN}" and not path.endswith("?right=x"):
            return self.reply(403)
        return self.obey(its.files, path.partition("?")[0], body)

    def obey(self, files, path, body):
        if self.command == "MKCOL":
            return self.reply(405)          # they are all there
        if self.command == "PUT":
            files[path] = body[:self.server.room]
            return self.reply(201)
        if path not in files:
            return self.reply(404)
        if self.command in ("GET", "HEAD"):
            digest = {"Digest": f"adler32={zlib.adler32(files[path]):x}"} if self.server.digests else {}
            return self.reply(200, files[path], **digest)
        data = files.pop(path)
        if self.command == "MOVE":
            files[re.sub(r"^https://[^/]+", "", self.headers["Destination"])] = data
        return self.reply(204)

    do_GET = do_HEAD = do_PUT = do_MKCOL = do_MOVE = do_DELETE = act


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    path = tmp_path_factory.mktemp("tls")
    subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost",
                    "-addext", "subjectAltName=DNS:localhost", "-keyout", path / "key", "-out", path / "cert"],
                   check=True, capture_output=True)
    return path


@pytest.fixture
def doors(certificate):
    """doors() starts one more server; each has its own files unless told otherwise."""
    made = []

    def start(files=None):
        door = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Door)
        door.files, door.asked, door.pool, door.digests, door.room = {} if files is None else files, [], "", True, None
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate / "cert", certificate / "key")
        door.socket = context.wrap_socket(door.socket, server_side=True)
        door.url = f"https://localhost:{door.server_port}"
        threading.Thread(target=door.serve_forever, args=(0.02,), daemon=True).start()
        made.append(door)
        return door

    yield start
    for door in made:
        door.shutdown()
        door.server_close()


def work(node, door, certificate, token=TOKEN, **changes):
    node.has_input(data=node.root_bytes)
    door.files["/in/run1.root"] = node.root_bytes
    node.sam.urls["run1.root"] = f"{door.url}/in/run1.root"
    order = node.order(**changes)
    order["outputs"][0]["url"] = f"{door.url}/out"
    (node.place / "token").write_text(token + "\n")
    return node.work(order, env={"BEARER_TOKEN_FILE": str(node.place / "token"),
                                 "SSL_CERT_FILE": str(certificate / "cert")})


def outputs(door):
    return {path: data for path, data in door.files.items() if path.startswith("/out")}


@pytest.mark.parametrize("digests", [True, False], ids=["server says checksum", "read back"])
def test_a_file_comes_in_and_goes_out_with_the_token(node, doors, certificate, digests):
    door = doors()
    door.digests = digests
    done = work(node, door, certificate)
    assert done.code == 0, done.log
    [(path, data)] = outputs(door).items()
    assert re.fullmatch(r"/out/L/1-\w+/run1.root.out", path) and data == node.root_bytes
    assert done.output["url"] == door.url + path and {token for _, _, token in door.asked} == {f"Bearer {TOKEN}"}


def test_where_the_door_sends_data_the_token_is_not_shown(node, doors, certificate):
    door = doors()
    pool = doors(door.files)
    door.pool = pool.url
    done = work(node, door, certificate)
    assert done.code == 0, done.log
    assert [method for method, _, _ in pool.asked] == ["GET", "PUT"] and {t for _, _, t in pool.asked} == {None}
    assert list(outputs(door).values()) == [node.root_bytes]


def test_a_wrong_token_is_refused_at_once(node, doors, certificate):
    done = work(node, doors(), certificate, token="wrong", limits={"fetch_patience_s": 60})
    assert done.fault == ("fetch", "unreachable") and "HTTP 403" in done.report["message"]
    assert "again in" not in done.log


def test_a_server_nobody_vouches_for_gets_no_token(node, doors, certificate, tmp_path):
    door = doors()
    (tmp_path / "cert").write_text("")
    done = work(node, door, tmp_path)
    assert done.fault == ("fetch", "unreachable") and door.asked == []
    assert "CERTIFICATE_VERIFY_FAILED" in done.report["message"], done.report["message"]


@pytest.mark.parametrize("digests", [True, False], ids=["server says checksum", "read back"])
def test_a_copy_cut_short_is_noticed_and_removed(node, doors, certificate, digests):
    door = doors()
    door.room, door.digests = 1000, digests
    done = work(node, door, certificate)
    assert done.fault == ("copy", "differs") and outputs(door) == {}, done.log


def test_the_copy_that_lost_is_removed_and_what_lies_beside_it_stays(doors, certificate, tmp_path, monkeypatch):
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate / "cert"))
    monkeypatch.setenv("BEARER_TOKEN_FILE", str(tmp_path / "token"))
    (tmp_path / "token").write_text(TOKEN)
    (tmp_path / "x").write_text("x")
    door = doors()
    store = worker.store_at(f"{door.url}/out/L/1-ab", 20)
    for name in ("one.root", "a b.root"):
        store.put(str(tmp_path / "x"), name, *worker.digests(str(tmp_path / "x")))
    assert outputs(door) == {"/out/L/1-ab/one.root": b"x", "/out/L/1-ab/a%20b.root": b"x"}
    store.remove("a b.root")
    store.remove("a b.root")
    assert list(outputs(door)) == ["/out/L/1-ab/one.root"] and not os.path.exists(tmp_path / "x.back")
