"""Nonsense for every endpoint: bad forms, huge values, wrong types, binary, unfinished requests.

Nothing may give a 5xx, a traceback or a lost reply, and the catalog must be whole afterwards."""

import json
import random
import socket
import sqlite3
from urllib.parse import quote

import pytest
from sam_process import register, stop_server

from keepupd.samserver import routes_files, routes_projects, routes_values

ROUTES = [(verb, path) for verbs, path, _ in (*routes_projects.ROUTES, *routes_files.ROUTES, *routes_values.ROUTES)
          for verb in verbs.split()]
NASTY = ["", " ", "0", "-1", "1", "99999999999999999999999", "1e308", "x" * 300, "x" * 70_000, "\x00", "a\nb",
         "\r\n\r\n",
         "é", "\ud7ff", "%", "%%%", "_", "'", '"', "';--", "(", "file_id 1", "data_tier raw and", "../..", "a/b",
         "None",
         "name", "[]", "{}", "null", "true", "file_1", "p1", "d1", "demo:/data/d1", "2024-01-01", "transferred",
         "ok",
         "any", "?", "#", "&", "=", "+", "%zz", "%ff", "HTTP/1.1 200 OK\r\n\r\n"]
FIELDS = ["name", "defname", "dims", "file_name", "file_id", "station", "group", "user", "snapshot_id", "filename",
          "status", "add", "remove", "value", "mountpoint", "url_prefix", "data_type", "category", "family", "version",
          "format",
          "fileinfo", "locations", "basic", "schema", "schemas", "filelimit", "process_limit", "description", "dump",
          "started_after", "ended_before", "after", "useProcess", "disk_type", "filter_path", "checksums", "list"]
BODIES = [None, [], {}, "text", 5, True, 1.5, [None], [[]], [{}], {"file_name": None}, {"file_name": []}]
KEYS = ["file_name", "file_type", "file_size", "checksum", "crc", "runs", "parents", "application", "start_time",
        "event_count", "content_status", "group", "user", "lum_block_ranges", "Test.label", "Test.count", "Test.energy",
        "A.b", "username", "create_date", "data_tier"]


def value(pick, depth=2):
    kinds = [pick.choice(NASTY)[:5000], pick.randrange(-5, 5), 2**63, -2**70, 1e300, None, True, 0.5, "x" * 199]
    if depth:
        key = pick.choice([*KEYS, "crc_value", "file_id", "family", "x"])
        kinds += [[value(pick, depth - 1) for _ in range(3)], {key: value(pick, depth - 1)}]
    return pick.choice(kinds)


def body(pick):
    if pick.random() < .2:
        return json.dumps(pick.choice(BODIES)).encode()
    if pick.random() < .15:
        return pick.choice([b"{", b"\xff\xfe", b"[" * 20_000, b'{"a": NaN}', b'{"file_name": "\\ud800"}', b"\x00" * 100,
                            b'{"file_size": 1' + b"0" * 5000 + b"}"])
    good = {"file_name": f"fuzz_{pick.random()}", "file_type": "test", "file_size": 1}
    made = {**(good if pick.random() < .7 else {}), **{k: value(pick) for k in pick.sample(KEYS, pick.randrange(4))}}
    return json.dumps([made] if pick.random() < .1 else made).encode()


def request(pick, base):
    verb, path = pick.choice(ROUTES)
    while "{" in path:
        before, _, rest = path.partition("{")
        name, _, after = rest.partition("}")
        likely = {"by": ["name", "id"], "file": ["file_1", "1"], "name": ["d1", "Test.count"],
                  "station": ["dune", "name"], "project": ["p1"], "process": ["1", "2"],
                  "kind": ["data_tiers", "parents", "ancestors"],
                  "description": ["1.1"]}[name.split(":")[0]]
        chosen = pick.choice(likely) if pick.random() < .7 else pick.choice(NASTY)[:3000]
        path = before + quote(chosen, safe="") + after
    query = "&".join(f"{pick.choice(FIELDS)}={quote(pick.choice(NASTY)[:3000])}" for _ in range(pick.randrange(3)))
    headers = pick.choice(["", "Accept: application/json\r\n", "Accept: */*\r\nFrom: \xff\r\n", "SAM-Role: *\r\n"])
    data = b""
    if verb in ("POST", "PUT") and pick.random() < .5:
        data, headers = body(pick), headers + "Content-Type: application/json\r\n"
    elif verb in ("POST", "PUT", "DELETE"):
        data = "&".join(f"{pick.choice(FIELDS)}={quote(pick.choice(NASTY))}" for _ in range(pick.randrange(5))).encode()
        if pick.random() < .1:
            data = pick.randbytes(200)
        headers += "Content-Type: application/x-www-form-urlencoded\r\n"
    version = pick.choice(["1.0", "1.1"])
    head = f"{verb} {base}{path}?{query} HTTP/{version}\r\nHost: h\r\nConnection: close\r\n{headers}"
    return head.encode("latin-1") + f"Content-Length: {len(data)}\r\n\r\n".encode() + data


def send(port, data, finish=True):
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        try:
            connection.sendall(data)
            reply = b""
            while finish and (piece := connection.recv(65536)):
                reply += piece
        except ConnectionError:
            pass
    return reply


def rounds(tmp_path, new_server, count, capfd):
    server = new_server(tmp_path / "catalog.db")
    register(server)
    server.declare("file_1")
    server.define("d1", "file_name file%")
    server.post("/startProject", name="p1", defname="d1", station="dune")
    server.establish("/projects/dune/p1", description="1.1")
    for seed in range(count):
        pick = random.Random(seed)
        data = request(pick, server.base)
        if pick.random() < .05:
            send(server.port, data[:pick.randrange(len(data))], finish=False)       # a client that dies
            continue
        reply = send(server.port, data)
        status = int(reply.split(b" ", 2)[1]) if reply else 0
        assert 200 <= status < 500, (seed, data[:2000], reply[:2000])
        assert b"Traceback" not in reply
        if status >= 400 and b"application/json" in reply:
            assert set(json.loads(reply.partition(b"\r\n\r\n")[2])) == {"error", "message"}
    assert server.post("/files/metadata", file_name="file_1").json[0]["file_id"] == 1
    assert server.declare("after_all")
    stop_server(server)
    check = sqlite3.connect(tmp_path / "catalog.db")
    assert check.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    located = ("SELECT count(*) FROM files f WHERE located != EXISTS (SELECT 1 FROM locations l "
               "WHERE l.file_id = f.file_id)")
    assert check.execute(located).fetchone() == (0,)
    check.close()
    assert "Traceback" not in capfd.readouterr().err


def test_nonsense_is_refused_and_does_no_damage(tmp_path, new_server, capfd):
    rounds(tmp_path, new_server, 600, capfd)


@pytest.mark.long
@pytest.mark.timeout(600)
def test_much_nonsense_is_refused_and_does_no_damage(tmp_path, new_server, capfd):
    rounds(tmp_path, new_server, 15_000, capfd)


def test_broken_requests_are_refused_or_dropped(sam):
    base = sam.base.encode()
    for data in (b"\r\n\r\n", b"GET\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"\x16\x03\x01\x02\x00\x01", b"x" * 100_000,
                 b"GET " + base + b"/files/name/\xff/metadata HTTP/1.1\r\nHost: x\r\n\r\n",
                 b"POST " + base + b"/files HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n",
                 b"POST " + base + b"/files HTTP/1.1\r\nHost: x\r\nContent-Length: ten\r\n\r\n",
                 b"GET " + base + b"/files/count?" + b"dims=x" * 30_000 + b" HTTP/1.0\r\n\r\n"):
        reply = send(sam.port, data + b"\r\n" * 2, finish=data[:1] not in b"x\r")
        assert not reply or 400 <= int(reply.split(b" ", 2)[1]) < 500, (data[:60], reply[:300])
    assert sam.get("/files/count", dims="file_id 0").text == "0"


def test_a_body_without_end_is_cut_off(sam):
    with socket.create_connection(("127.0.0.1", sam.port), timeout=30) as connection:
        connection.sendall(f"POST {sam.base}/files HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n".encode())
        chunk = b"100000\r\n" + b" " * 0x100000 + b"\r\n"
        try:
            for _ in range(70):
                connection.sendall(chunk)
            reply = connection.recv(65536)
        except ConnectionError:
            reply = b"HTTP/1.1 413"
    assert reply.startswith(b"HTTP/1.1 413")
