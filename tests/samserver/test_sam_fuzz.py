"""Nonsense for every route: bad forms, huge values, wrong types, binary, wrong methods, unfinished requests.

Nothing may give a 5xx, a traceback or a lost reply; the database must be whole afterwards, and what the nonsense does
not name must read as before.
"""

import contextlib
import json
import random
import socket
import sqlite3
from urllib.parse import quote

import pytest
from sam_process import register, stop_server

from keepupd.samserver.server import ROUTES

CALLS = [(verb, path) for verbs, path, _ in ROUTES for verb in verbs.split()]
NASTY = ["", " ", "0", "-1", "1", "99999999999999999999999", "1e308", "x" * 300, "x" * 70_000, "\x00", "a\nb",
         "\r\n\r\n",
         "é", "\ud7ff", "%", "%%%", "_", "'", '"', "';--", "(", "file_id 1", "data_tier raw and", "../..", "a/b",
         "None",
         "name", "[]", "{}", "null", "true", "file_1", "p1", "d1", "demo:/data/d1", "2024-01-01", "transferred",
         "ok",
         "nan", "-inf", "1e400", "0x10", "٣", "any", "?", "#", "&", "=", "+", "%zz", "%ff", "HTTP/1.1 200 OK\r\n\r\n"]
FIELDS = ["name", "defname", "dims", "file_name", "file_id", "station", "group", "user", "snapshot_id", "filename",
          "status", "add", "remove", "value", "mountpoint", "url_prefix", "data_type", "category", "family", "version",
          "format",
          "fileinfo", "locations", "basic", "schema", "schemas", "filelimit", "process_limit", "description", "dump",
          "started_after", "ended_before", "after", "useProcess", "disk_type", "filter_path", "checksums", "list"]
BODIES = [None, [], {}, "text", 5, True, 1.5, [None], [[]], [{}], {"file_name": None}, {"file_name": []}]
KINDS = ["application/json", "application/json; charset=utf-99", "multipart/form-data; boundary=x", "text/plain", ";",
         "\xff"]
SENSE = {"locations": "add=demo:/data/d1&remove=demo:/data/d1", "content_status": "status=bad", "{name}": "defname=d1",
         "startProject": "name=p2&defname=d1", "createDefinition": "name=d2&dims=file_id+1", "status": "status=bad",
         "create": "defname=d3&dims=file_id+1", "setStatus": "status=ok", "updateFileStatus": "filename=file_1&status="
         "consumed", "data_disks": "mountpoint=demo:/data/d1", "list": "dims=file_id+1", "count": "dims=file_id+1"}
VERBS = ["GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "PROPFIND"]
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
                            b'{"file_size": 1' + b"0" * 5000 + b"}", b'{"file_name": "' + b"x" * 1_000_000 + b'"}'])
    good = {"file_name": f"fuzz_{pick.random()}", "file_type": "test", "file_size": 1}
    made = {**(good if pick.random() < .7 else {}), **{k: value(pick) for k in pick.sample(KEYS, pick.randrange(4))}}
    return json.dumps([made] if pick.random() < .1 else made).encode()


def target(pick, path):
    """A path of the route, its parts most often such as exist."""
    while "{" in path:
        before, _, rest = path.partition("{")
        name, _, after = rest.partition("}")
        likely = {"by": ["name", "id"], "file": ["file_1", "1"], "name": ["d1", "Test.count", "u1"],
                  "station": ["dune", "name"], "project": ["p1"], "process": ["1", "2"],
                  "kind": ["data_tiers", "parents", "ancestors"],
                  "description": ["1.1"]}[name.split(":")[0]]
        chosen = pick.choice(likely) if pick.random() < .8 else pick.choice(NASTY)[:3000]
        path = before + quote(chosen, safe="") + after
    query = "&".join(f"{pick.choice(FIELDS)}={quote(pick.choice(NASTY)[:3000])}" for _ in range(pick.randrange(3)))
    return f"{path}?{query}"


def request(pick, base, verb, path):
    headers = pick.choice(["", "Accept: application/json\r\n", "Accept: */*\r\nFrom: \xff\r\n", "SAM-Role: *\r\n",
                           "Timezone: ../../etc/passwd\r\n", "Timezone: America\r\n", "Timezone: Asia/Tokyo\r\n"])
    data = b""
    if verb in ("POST", "PUT") and pick.random() < .4:
        data, kind = body(pick), "application/json"
    elif verb in ("POST", "PUT", "DELETE"):
        data = "&".join(f"{pick.choice(FIELDS)}={quote(pick.choice(NASTY))}" for _ in range(pick.randrange(5))).encode()
        if pick.random() < .4:
            data = SENSE.get(path.rpartition("/")[2], "").encode() + b"&" + data
        if pick.random() < .1:
            data = pick.randbytes(200)
        kind = "application/x-www-form-urlencoded"
    if data and pick.random() < .9:
        headers += f"Content-Type: {kind if pick.random() < .9 else pick.choice(KINDS)}\r\n"
    version = pick.choice(["1.0", "1.1"])
    head = f"{verb} {base}{target(pick, path)} HTTP/{version}\r\nHost: h\r\nConnection: close\r\n{headers}"
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


def furnish(server):
    """What the nonsense is about, d1, p1, file_1 and their like, and what it never names: all that is called kept."""
    register(server)
    for name in ("file_1", *(f"other_{n}" for n in range(8))):
        server.declare(name)
    server.declare("kept_parent")
    server.declare("kept", parents=["kept_parent"], runs=[[7, 1, "mc"]], checksum=["md5:" + "0" * 32], **{
        "Test.label": "x", "Test.energy": 2.5})
    for name in ("p1", "kept_project"):
        server.define(f"{name}_def", "file_name file%" if name == "p1" else "file_name kept%")
        server.post("/startProject", name=name, defname=f"{name}_def", station="dune")
        for n in (1, 2):
            server.establish(f"/projects/dune/{name}", description=f"1.{n}")
    server.define("d1", "file_name file%")
    server.post("/projects/dune/kept_project/processes/3/getNextFile")
    for user in ("u1", "kept"):
        server.call("POST", "/users", body={"username": user})


def kept(server):
    paths = ["/files/name/kept/metadata?locations=1", "/files/name/kept/locations", "/files/name/kept/locations/url",
             "/files/name/kept/lineage/ancestors", "/files/list?dims=defname:kept_project_def&fileinfo=1",
             "/files/list?dims=file_name+kept%25+and+Test.energy+>+1", "/files/count?dims=isparentof:(file_name+kept)",
             "/files/summary?dims=snapshot_for_project_name+kept_project",
             "/definitions/name/kept_project_def/describe",
             "/definitions/list?defname=kept%25", "/projects?name=kept%25", "/projects/name/kept_project/summary",
             "/projects/name/kept_project/recovery_dimensions", "/users/name/kept", "/values/data_disks",
             "/files/list?dims=project_name+kept_project+and+consumed_status+delivered", "/files/list/dimensions"]
    replies = {path: server.get(path) for path in paths}
    assert all(reply.status == 200 and reply.body for reply in replies.values()), replies
    return {path: reply.text for path, reply in replies.items() if path[:7] != "/values" and "list/d" not in path}


def is_refused_or_served(data, reply, cut):
    status = int(reply.split(b" ", 2)[1]) if reply else 0
    assert cut or 200 <= status < 500, (data[:2000], reply[:2000])
    assert b"Traceback" not in reply and b"ServerFault" not in reply, (data[:2000], reply[:2000])
    head, _, body = reply.partition(b"\r\n\r\n")
    if b"application/json" in head and not data.startswith(b"HEAD"):
        made = json.loads(body, parse_constant=refuse_constant)
        assert status < 400 or set(made) == {"error", "message"}


def refuse_constant(name):
    raise AssertionError(f"{name} is not JSON")


def nonsense(base, each, seed):
    """(request, whether it is cut off): for each route `each` of its method, one cut off, one of another method."""
    pick = random.Random(seed)
    for verb, path in CALLS:
        for _ in range(each):
            yield request(pick, base, verb, path), False
        data = request(pick, base, verb, path)
        yield data[:pick.randrange(len(data))], True                                # a client that dies
        yield request(pick, base, pick.choice([v for v in VERBS if (v, path) not in CALLS]), path), False


def no_damage(tmp_path, new_server, capfd, each, seeds):
    server = new_server(tmp_path / "catalog.db")
    furnish(server)
    before = kept(server)
    for seed in seeds:
        for data, cut in nonsense(server.base, each, seed):
            is_refused_or_served(data, send(server.port, data, finish=not cut), cut)
    assert kept(server) == before and server.declare("after_all")
    stop_server(server)
    check = sqlite3.connect(tmp_path / "catalog.db")
    assert check.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    located = ("SELECT count(*) FROM files f WHERE located != EXISTS (SELECT 1 FROM locations l "
               "WHERE l.file_id = f.file_id)")
    assert check.execute(located).fetchone() == (0,)
    check.close()
    assert "Traceback" not in capfd.readouterr().err


def test_nonsense_for_every_route_is_refused_and_does_no_damage(tmp_path, new_server, capfd):
    no_damage(tmp_path, new_server, capfd, each=2, seeds=[1])


@pytest.mark.long
@pytest.mark.timeout(600)
def test_much_nonsense_for_every_route_is_refused_and_does_no_damage(tmp_path, new_server, capfd):
    no_damage(tmp_path, new_server, capfd, each=20, seeds=range(2, 10))


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


def test_many_requests_that_are_never_finished_hold_up_no_one(sam):
    halves = [f"POST {sam.base}/files HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{{".encode(),
              f"GET {sam.base}/files/count?di".encode(), b"G", b""]
    with contextlib.ExitStack() as stack:
        for n in range(200):
            connection = stack.enter_context(socket.create_connection(("127.0.0.1", sam.port), timeout=10))
            connection.sendall(halves[n % len(halves)])
        assert sam.get("/files/count", dims="file_id 0").text == "0"
        assert sam.declare(sam.new("amid_halves"))
