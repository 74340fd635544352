"""Pieces of the worker, one by one: the ROOT file check, checksums, the capped log, copy tools, old Pythons."""
import ast
import http.server
import itertools
import json
import os
import re
import shutil
import struct
import subprocess
import sys
import threading
import zlib
from pathlib import Path

import numpy
import pytest
import uproot
from conftest import WORKER
from hypothesis import given, settings
from hypothesis import strategies as st

from keepupd.worker import keepup_worker as worker


def old_pythons():
    """Other Pythons that run here: those of pyenv, and those on PATH."""
    root = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    for minor in (6, 7, 8, 9, 10, 12, 13):
        places = [*root.glob(f"versions/3.{minor}.*/bin/python"), shutil.which(f"python3.{minor}")]
        yield from itertools.islice((str(place) for place in places if place and runs(place)), 1)


def runs(python):
    return subprocess.run([python, "-c", ""], stderr=subprocess.DEVNULL, check=False).returncode == 0


OLD_PYTHONS = list(old_pythons())


def test_it_is_valid_python_3_6_and_uses_the_standard_library_alone():
    text = WORKER.read_text()
    tree = ast.parse(text, feature_version=(3, 6))
    vermin = Path(sys.executable).parent / "vermin"
    found = subprocess.run([vermin, "--target=3.6-", "--violations", WORKER], stdout=subprocess.PIPE, check=False)
    assert found.returncode == 0, found.stdout
    imported = {a.name for node in ast.walk(tree) if isinstance(node, ast.Import) for a in node.names}
    imported |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {name.split(".")[0] for name in imported} <= set(sys.stdlib_module_names)


@pytest.mark.skipif(not OLD_PYTHONS, reason="no other Python here")
@pytest.mark.parametrize("python", OLD_PYTHONS)
def test_a_whole_job_on_an_old_python(node, sam, python):
    node.has_input("ü 1.root")
    done = node.work(node.order("/bin/sh", "-c", "cp {input} {output}; echo ü"), python=python, env={"LC_ALL": "C"})
    assert done.code == 0 and sam.status == {"ü 1.root": "consumed"}, done.log
    assert done.report["executable"]["tail"] == ["ü"]


# ---- ROOT files

def trouble(path, data):
    path.write_bytes(data)
    found = worker.root_trouble(str(path))
    return found and found[0]


def test_a_whole_root_file_is_whole_and_no_part_of_it_is(tmp_path, root_bytes):
    assert trouble(tmp_path / "a", root_bytes) is None
    for cut in range(0, len(root_bytes), 97):
        assert trouble(tmp_path / "a", root_bytes[:cut]) in ("truncated_root", "not_root")


def test_a_file_its_writer_never_closed_is_refused(tmp_path, root_bytes):
    """A killed writer leaves pointers of zero in the header: to the free list, the classes, the keys."""
    for offset in (16, 37, 20, 41):
        broken = root_bytes[:offset] + b"\0\0\0\0" + root_bytes[offset + 4:]
        assert trouble(tmp_path / "a", broken) == "truncated_root"
    keys = 100 + struct.unpack(">i", root_bytes[28:32])[0] + 26
    assert trouble(tmp_path / "a", root_bytes[:keys] + b"\0\0\0\0" + root_bytes[keys + 4:]) == "truncated_root"


def test_a_file_with_no_object_is_empty_and_one_with_a_histogram_or_a_directory_is_not(tmp_path):
    for name, fill in (("none", lambda f: None), ("dir", lambda f: f.mkdir("d")),
                       ("hist", lambda f: f.__setitem__("h", numpy.histogram([1, 2, 3])))):
        with uproot.recreate(tmp_path / name) as file:
            fill(file)
        found = worker.root_trouble(str(tmp_path / name))
        assert (found and found[0]) == ("empty" if name == "none" else None), (name, found)


def test_a_big_file_has_its_pointers_elsewhere(tmp_path, root_bytes):
    """Above 2 GB ROOT writes 64-bit pointers; the same small file in that layout."""
    version, begin, end, free, nfree_bytes, nfree, name, units, compress, info, info_bytes = struct.unpack_from(
        ">iiiiiiiBiii", root_bytes, 4)
    head = b"root" + struct.pack(">iiqqiiiBiqi", version + 1000000, begin, end, free, nfree_bytes, nfree, name, units,
                                 compress, info, info_bytes)
    assert trouble(tmp_path / "a", head + root_bytes[len(head):]) is None
    assert trouble(tmp_path / "a", head + root_bytes[len(head):-1]) == "truncated_root"


@settings(max_examples=200, deadline=None)
@given(data=st.binary(max_size=400))
def test_garbage_is_never_whole_and_never_a_crash(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "garbage.root"
    assert trouble(path, data) in ("not_root", "truncated_root")
    assert trouble(path, b"root" + data) == "truncated_root"


# ---- checksums

@given(data=st.binary(max_size=5000))
@settings(max_examples=50, deadline=None)
def test_both_adlers_are_those_of_sam(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "sum"
    path.write_bytes(data)
    size, sums = worker.digests(str(path))
    one, zero = int(sums["adler32"], 16), int(sums["enstore"])
    assert (size, len(sums["adler32"]), one) == (len(data), 8, zlib.adler32(data))
    low, high = (one & 0xffff) - 1, (one >> 16) - size      # the 0-seed from the 1-seed, by SAM's own rule
    assert zero == (high % 65521 << 16) + low % 65521


# ---- the capped log

@settings(max_examples=60, deadline=None)
@given(sizes=st.lists(st.integers(1, 60), max_size=40))
def test_the_log_keeps_both_ends(tmp_path_factory, sizes):
    path = str(tmp_path_factory.getbasetemp() / "capped.log")
    head, tail = worker.LOG_HEAD, worker.LOG_TAIL
    worker.LOG_HEAD, worker.LOG_TAIL = 50, 100
    try:
        log, written = worker.CappedLog(path), b""
        for number, size in enumerate(sizes):
            piece = bytes([65 + number % 50]) * size
            written += piece
            log.write(piece)
            assert os.path.getsize(path) <= 150
        log.close()
    finally:
        worker.LOG_HEAD, worker.LOG_TAIL = head, tail
    kept = Path(path).read_bytes()
    if len(written) <= 150:
        assert kept == written
    else:
        note = b"\n[keepup_worker: %d bytes left out here]\n" % (len(written) - 150)
        assert kept == written[:50] + note + written[-100:]


# ---- other ways to copy

def tool(place, name, text):
    (place / "bin").mkdir(exist_ok=True)
    path = place / "bin" / name
    path.write_text("#!/bin/sh\n" + text)
    path.chmod(0o755)
    return {"PATH": f"{place}/bin:{os.environ['PATH']}"}


@pytest.mark.parametrize("says, status, fault", [
    ("[ERROR] Server responded with an error: [3011] Unable to open file; no such file or directory", 54, "absent"),
    ("[ERROR] Local error: No space left on device", 53, "no_space"), ("[FATAL] Connection error", 51, "unreachable"),
    ("[3010] permission denied", 54 - 1, "unreachable")])
def test_what_xrdcp_says_becomes_a_fault(node, says, status, fault):
    node.has_input()
    node.sam.urls["run1.root"] = "root://door.example.org:1094//data/run1.root"
    env = tool(node.place, "xrdcp", f'echo "{says}"; exit {status}')
    done = node.work(env=env)
    assert (done.code, done.fault) == (12, ("fetch", fault)) and says[:20] in done.report["message"]


def test_no_xrdcp_on_the_node_is_named(node):
    node.has_input()
    node.sam.urls["run1.root"] = "root://door.example.org:1094//data/run1.root"
    done = node.work(node.order(), env={"PATH": "/nowhere"})
    assert done.fault == ("fetch", "unreachable") and "xrdcp cannot be run on this node" in done.report["message"]


def test_ifdh_is_used_where_the_node_has_it(node):
    stored = node.has_input()
    node.sam.urls["run1.root"] = "gsiftp://door.example.org/run1.root"
    env = tool(node.place, "ifdh", f'test "$1 $2" = "cp gsiftp://door.example.org/run1.root" && cp {stored} "$3"')
    assert node.work(env=env).code == 0


@pytest.fixture
def web():
    """A web server with one file that wants no token, since it is not https."""
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            found = self.server.files.get(self.path)
            self.send_response(200 if found and not self.headers.get("Authorization") else 404)
            self.end_headers()
            self.wfile.write(found or b"")

        def log_message(self, *_):
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    server.files = {}
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def test_http_input_is_fetched_and_the_token_is_not_shown_in_the_clear(node, web, tmp_path):
    (tmp_path / "token").write_text("secret")
    node.has_input("a.root")
    web.files["/a.root"] = node.root_bytes
    node.sam.urls["a.root"] = f"http://127.0.0.1:{web.server_port}/a.root"
    assert node.work(env={"BEARER_TOKEN_FILE": str(tmp_path / "token")}).code == 0
    node.sam.status.clear()
    node.has_input("b.root")
    node.sam.urls["b.root"] = f"http://127.0.0.1:{web.server_port}/b.root"
    assert node.work().fault == ("fetch", "absent")


@pytest.mark.parametrize("name", ["../x", "..", ".", "", "a b", "-rf", "a\n", "x" * 151, "ü", "a/b", "a\0"])
def test_no_strange_name_reaches_the_disk(name):
    assert worker.local_name(name, 3) == "file-3"
    assert worker.local_name(name + "/.root", 3) == "file-3.root"


def test_the_docs_name_every_exit_code_and_fault():
    text = (WORKER.parents[2] / "docs" / "worker.md").read_text()
    for name, code in worker.EXIT_CODES.items():
        assert re.search(rf"^\| {code} \| {name} \|", text, re.M), name
    source = WORKER.read_text()
    faults = set(re.findall(r'Failure\("([a-z_]+)"', source)) | {f for names in worker.FAULTS.values() for f in names}
    assert faults and all(f"`{fault}`" in text for fault in faults), faults - set(re.findall(r"`([a-z_]+)`", text))
    assert json.loads(re.search(r"```json\n(.*?)```", text, re.S).group(1))["version"] == 1
