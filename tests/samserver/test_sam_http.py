"""The server under strain: refusals, long lists, broken connections, kill -9, long queries.

What each client sends and gets back, path by path, is in test_sam_exchanges.py.
"""

import contextlib
import http.client
import signal
import socket
import sqlite3
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from sam_process import register, stop_server

from keepupd.samserver import fill

IFDH = "From: pro@node1.example.org\r\nUser-Agent: WebAPI/2.1/Experiment/dune\r\n"


def raw(sam, request, limit=10):
    """Send bytes, read until the server closes; returns status line, header lines, body."""
    with socket.create_connection(("127.0.0.1", sam.port), timeout=limit) as connection:
        connection.sendall(request.encode() if isinstance(request, str) else request)
        data = b""
        while piece := connection.recv(65536):
            data += piece
    head, _, body = data.partition(b"\r\n\r\n")
    status, *headers = head.decode().split("\r\n")
    return status, headers, body


def ifdh(sam, method, path, form=None):
    """A request as ifdh writes it: HTTP/1.0, no Accept, bare names for empty items, Content-Length on an empty POST."""
    body, head = form or "", f"{method} {sam.base}{path} HTTP/1.0\r\nHost: 127.0.0.1:{sam.port}\r\n{IFDH}"
    if method == "POST":
        head += f"Content-Type: application/x-www-form-urlencoded\r\nContent-Length: {len(body)}\r\n"
    status, headers, reply = raw(sam, f"{head}\r\n{body}")
    assert "Connection: close" in headers
    assert f"Content-Length: {len(reply)}" in headers or status.split()[1] == "204"
    for line in headers:        # the demands of its header parser
        name, separator, value = line.partition(": ")
        assert separator and value and len(line) < 1024 and name == name.title() and name != "Transfer-Encoding", line
    return int(status.split()[1]), reply.decode()


def test_refusals_have_exactly_the_form_samweb_reads(sam):
    for method, path in (("GET", "/no/such/path"), ("PATCH", "/files"), ("GET", "/files/name/none/metadata"),
                         ("GET", "/files/count?dims=colour+red"), ("GET", "/files/count"),
                         ("GET", "/files/by/x/metadata")):
        reply = sam.call(method, path)
        assert 400 <= reply.status < 500 and reply.error and "Traceback" not in reply.text
    for dims in ("(" * 3000 + "file_id 1" + ")" * 3000, "not " * 3000 + "file_id 1",
                 "file_id 1" + " with limit 5" * 5000,
                 "file_id 1 " + "union file_id 1 minus file_id 2 " * 1000):
        assert sam.post("/files/count", dims=dims).error == "DimensionError"      # more than the database can take
    reply = sam.get("/files/count", dims="data_tier raw and and x 1")
    assert reply.error == "DimensionError"
    message = reply.json["message"].split("\n")
    assert "line 1, column 19" in message[0] and "a dimension name" in message[0] and message[2] == " " * 18 + "^"


def test_only_what_may_pass_by_itself_is_a_5xx(tmp_path, new_server, capfd):
    server = new_server(tmp_path / "catalog.db")
    server.call("POST", "/users", body={"username": "u1"})
    db = sqlite3.connect(server.db)
    db.execute("UPDATE users SET record = 'no JSON'")
    db.commit()
    assert (server.get("/users/name/u1").status, server.get("/users/name/u1").error) == (400, "ServerFault")
    db.execute("ALTER TABLE users RENAME TO away")
    reply = server.get("/users/name/u1")        # an administrator is at work, or the disk is full: samweb may try again
    assert (reply.status, reply.error, reply.headers["Retry-After"]) == (503, "ServiceUnavailable", "5")
    db.close()
    assert capfd.readouterr().err.count("Traceback") == 3


def test_a_long_list_comes_whole_and_with_its_length(sam):
    stem = sam.new("long" + "x" * 120)
    names = [f"{stem}_{n:05}" for n in range(12000)]
    metadata = [{"file_name": n, "file_type": "test", "file_size": 1} for n in names]
    assert sam.call("POST", "/files", body=metadata).status == 201
    reply = sam.get("/files/list", dims=f"file_name {stem}_% with availability anylocation")
    assert reply.lines == names and int(reply.headers["Content-Length"]) == len(reply.body) > 1024 * 1024
    wanted = names[:10000]
    asked = f"file_name {', '.join(wanted)} with availability anylocation"
    assert sam.call("POST", "/files/count", {"dims": asked}).text == "10000"
    status, body = ifdh(sam, "GET", f"/files/list?dims=file_name%20{stem}_%25%20with%20availability%20anylocation")
    assert status == 200 and body.splitlines() == names


def test_requests_in_a_row_and_in_pieces_on_one_connection(sam):
    with socket.create_connection(("127.0.0.1", sam.port), timeout=10) as connection:
        request = f"GET {sam.base}/files/count?dims=file_id+0 HTTP/1.1\r\nHost: x\r\n\r\n".encode()
        for method in (b"GET", b"HEAD", b"GET"):
            for byte in (method + request[3:], request):
                connection.sendall(byte[:30])
                time.sleep(0.01)
                connection.sendall(byte[30:])
                reply = connection.recv(65536)
                assert reply.startswith(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n"), reply
        connection.sendall(request * 3)                                       # pipelined
        got = b""
        while got.count(b"200 OK") < 3:
            got += connection.recv(65536)
        body = f"POST {sam.base}/files/count HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 14\r\n\r\n"
        connection.sendall(body.encode())
        assert connection.recv(100).startswith(b"HTTP/1.1 100")
        connection.sendall(b"dims=file_id+0")
        assert b"200 OK" in connection.recv(65536)


def test_kill_9_loses_no_acknowledged_write(tmp_path, new_server):
    server = new_server(tmp_path / "catalog.db")
    register(server)
    told, stop = [], threading.Event()

    def declare(worker):
        try:
            for n in range(100_000):
                server.declare(f"w{worker}_{n}")
                told.append(f"w{worker}_{n}")
        except OSError:
            stop.set()
    with ThreadPoolExecutor(4) as pool:
        for worker in range(4):
            pool.submit(declare, worker)
        time.sleep(1)
        server.process.send_signal(signal.SIGKILL)
        server.process.wait()
    assert stop.is_set() and len(told) > 20
    again = new_server(tmp_path / "catalog.db")
    assert set(told) <= set(again.list("file_name w%"))
    assert subprocess.run(["kill", "-INT", str(again.process.pid)], check=True).returncode == 0
    again.process.wait(5)                                                     # Ctrl-C ends it quickly


@pytest.mark.long
def test_a_long_query_holds_up_no_one_and_ends_with_the_server(tmp_path, new_server):
    fill.run(tmp_path / "catalog.db", 30_000, "dune")
    server = new_server(tmp_path / "catalog.db")
    register(server)
    slow = " union ".join(f"(file_name '%{n}%{n}%1%' with availability any)" for n in range(2000))

    def count():
        with contextlib.suppress(ConnectionError, http.client.HTTPException):
            server.post("/files/count", dims=slow)
    threads = [threading.Thread(target=count) for _ in range(3)]
    for thread in threads:
        thread.start()
    time.sleep(0.3)
    answered = 0
    while any(t.is_alive() for t in threads) and answered < 20:
        server.declare(f"quick{answered}")
        assert server.get(f"/files/name/quick{answered}/metadata").status == 200
        answered += 1
    assert answered == 20, "the queries were too quick to show anything"
    stop_server(server)
    for thread in threads:
        thread.join(10)
        assert not thread.is_alive()


def test_a_port_that_is_taken_is_said_in_one_line(sam, tmp_path):
    run = subprocess.run([*sam.process.args[:3], "serve", "--db", str(tmp_path / "x.db"), "--port", str(sam.port)],
                         capture_output=True, text=True, timeout=20, check=False)
    assert run.returncode == 1 and len(run.stderr.splitlines()) == 1 and "Address already in use" in run.stderr
