"""The worker against a real XRootD server: files come in and go out, and what it makes of a server in trouble."""
import json
import os
import re
import signal
import threading
import time
import zlib
from pathlib import Path

import pytest

from keepupd.worker import keepup_worker as worker

HASTY = {"XRD_CONNECTIONWINDOW": "1", "XRD_CONNECTIONRETRY": "1", "XRD_REQUESTTIMEOUT": "2", "XRD_STREAMTIMEOUT": "2"}
LARGE = 300_000_000     # takes long enough to be interrupted


@pytest.fixture
def served(node, xrootd):
    """The node's storage and results are on the server."""
    place = xrootd.data / node.place.name
    for name in ("storage", "results"):
        (place / name).mkdir(parents=True)
    xrootd.owns()
    node.storage, node.results, node.xrootd = place / "storage", place / "results", xrootd
    return node


def takes(node, name="run1.root", **record):
    """An input on the server, delivered by its root: URL."""
    path = node.has_input(name, **record)
    node.sam.urls[name] = url(node, path)
    return path


def url(node, path):
    return f"{node.xrootd.url}/{worker.quote(str(path))}"


def order(node, *argv, scheme="root", **changes):
    made = node.order(*argv, **changes)
    top = node.xrootd.url + "/" if scheme == "root" else node.xrootd.web
    made["outputs"][0]["url"] = top + str(node.results)
    return made


def work(node, *argv, env=None, **changes):
    return node.work(order(node, *argv, **changes), env={**HASTY, **(env or {})})


# ---- all is well

@pytest.mark.parametrize("scheme", ["root", "http"])
def test_a_file_comes_in_and_goes_out(served, sam, scheme):
    takes(served)
    done = work(served, scheme=scheme)
    assert done.code == 0, done.log
    [copy] = served.copies()
    assert copy.read_bytes() == served.root_bytes and copy.name == "run1.root.out"
    assert re.fullmatch(r"1-[0-9a-z]+", copy.parent.name) and copy.parent.parent.name == "L"
    assert sam.locations["run1.root.out"] == [f"demo:{copy.parent}"]
    assert done.output["url"].endswith(str(copy)) and sam.status == {"run1.root": "consumed"}


@pytest.mark.parametrize("name", ["ü ß.root", "a%20b.root", "it's.root", "a b+c.root"])
def test_strange_names_come_in(served, name):
    takes(served, name)
    done = work(served, env={"LC_ALL": "C"})
    assert done.code == 0, done.log


def test_a_checksum_that_begins_with_zero_is_the_same_number(served):
    """xrdcp says it without the zero, xrdfs with it."""
    data = next(data for data in (b"%d" % n for n in range(100000)) if f"{zlib.adler32(data):08x}"[0] == "0")
    takes(served, data=data)
    assert work(served, checks={"root": False}).code == 0


def test_an_output_of_no_bytes_and_one_in_place_of_an_older_try(served):
    store = worker.store_at(f"{url(served, served.results)}/L/1-ab", 20)
    source, copy = served.place / "new", served.results / "L/1-ab/x.root"
    for data in (b"", b"first", b"second, since the reply to the first was lost"):
        source.write_bytes(data)
        store.put(str(source), "x.root", *worker.digests(str(source)))
        assert copy.read_bytes() == data
    store.remove("x.root")
    store.remove("x.root")
    assert list(served.results.iterdir()) == [], "with its directories"


# ---- the input is in trouble

def test_an_input_that_is_not_there_is_absent_at_once(served):
    takes(served).unlink()
    begun = time.monotonic()
    done = work(served, limits={"fetch_patience_s": 60})
    assert done.fault == ("fetch", "absent") and "3011" in done.report["message"]
    assert time.monotonic() - begun < 30, "not tried again"


def test_an_input_nobody_may_read_is_not_absent(served):
    """xrdcp's exit status is 54 for this too."""
    if os.geteuid():
        pytest.skip("an XRootD server that may not read needs root")
    takes(served).chmod(0)
    os.chown(served.storage / "run1.root", 0, 0)
    done = work(served)
    assert done.fault == ("fetch", "unreachable") and "permission denied" in done.report["message"]


@pytest.mark.parametrize("record", [{"checksum": ["adler32:00000001"]}, {"file_size": 7, "checksum": []}])
def test_another_checksum_or_size_than_the_catalogs_is_noticed(served, record):
    takes(served, **record)
    done = work(served, limits={"fetch_patience_s": 3})
    assert done.fault == ("fetch", "differs")
    assert done.log.count("is not what the catalog says; ") + done.log.count("; again in") == 1, "copied once more"


@pytest.mark.long
@pytest.mark.engine
def test_a_file_on_tape_is_waited_for(served):
    """The server says `Offline`, and fetches it meanwhile."""
    home = served.xrootd.home
    (home / "on_tape" / "run9.root").write_bytes(served.root_bytes)
    served.has_input("run9.root")
    served.sam.urls["run9.root"] = url(served, home / "data" / "tape" / "run9.root")
    done = work(served)
    assert done.fault == ("fetch", "not_staged") and "still on tape" in done.report["message"]
    served.sam.queue.append("run9.root")
    threading.Timer(3, (home / "mounted").touch).start()
    with_patience = order(served, limits={"fetch_patience_s": 90})
    served.sam.held, served.sam.status = None, {}
    done = served.work(with_patience, env=HASTY)
    (home / "mounted").unlink()
    assert done.code == 0 and "still on tape" in done.log, done.log


# ---- the server is in trouble

def test_a_server_that_is_away_is_unreachable(served):
    takes(served)
    served.sam.urls["run1.root"] = "root://127.0.0.1:9//data/run1.root"
    done = work(served)
    assert done.fault == ("fetch", "unreachable") and "onnection" in done.report["message"]


@pytest.mark.long
@pytest.mark.engine
def test_a_job_waits_for_a_server_that_comes_back(served):
    takes(served)
    served.xrootd.stops()
    job = served.start(order(served, limits={"fetch_patience_s": 60}), env=HASTY)
    while "again in" not in (job.scratch / "stdout").read_text():
        assert job.poll() is None
        time.sleep(0.05)
    served.xrootd.starts()
    done = served.wait(job)
    assert done.code == 0 and "again in" in done.log, done.log


def large_output(node, interrupt, **limits):
    """A job whose output is large, and what happens when the first bytes are on the server."""
    takes(node)
    argv = ("/bin/sh", "-c", f"head -c {LARGE} /dev/zero > {{output}}")
    job = node.start(order(node, *argv, checks={"root": False}, limits={"copy_patience_s": 0, **limits}), env=HASTY)
    give_up = time.monotonic() + 30
    while not any(path.stat().st_size > 1_000_000 for path in node.copies()):
        assert time.monotonic() < give_up and job.poll() is None, (job.scratch / "stdout").read_text()
        time.sleep(0.005)
    assert [path.name for path in node.copies()] == [".part"]
    interrupt(job)
    return node.wait(job)


@pytest.mark.long
@pytest.mark.engine
def test_a_server_stopped_in_the_middle_of_a_copy_leaves_nothing_under_the_final_name(served):
    done = large_output(served, lambda job: served.xrootd.stops())
    left = served.copies()
    served.xrootd.starts()
    assert done.fault == ("copy", "unreachable") and served.sam.records.keys() == {"run1.root"}
    assert all(path.name == ".part" for path in left), "and of a dead server nothing can be removed"


@pytest.mark.long
@pytest.mark.engine
def test_a_server_stopped_in_the_middle_and_back_gets_the_whole_copy(served):
    def back(job):
        served.xrootd.stops()
        served.xrootd.starts()

    done = large_output(served, back, copy_patience_s=60)
    assert done.code == 0, done.log
    [copy] = served.copies()
    assert copy.stat().st_size == LARGE and copy.name == "run1.root.out"


@pytest.mark.long
@pytest.mark.engine
def test_a_job_told_to_leave_in_the_middle_of_a_copy_removes_it(served):
    done = large_output(served, lambda job: job.send_signal(signal.SIGTERM))
    assert done.fault[1] == "ended_by_signal" and served.copies() == [], done.log


@pytest.mark.long
@pytest.mark.engine
def test_a_server_that_hangs_does_not_hold_the_job(served):
    takes(served)
    served.xrootd.freezes()
    try:
        done = work(served)
    finally:
        served.xrootd.thaws()
    assert done.fault == ("fetch", "unreachable")


# ---- outputs

def test_a_copy_that_came_out_different_is_noticed_and_removed(served, tmp_path):
    """Something on the way changes what xrdcp sends; checksums are asked of the server."""
    takes(served)
    (tmp_path / "bin").mkdir()
    bad = tmp_path / "bin" / "xrdcp"
    real = worker.subprocess.check_output(["which", "xrdcp"], universal_newlines=True).strip()
    bad.write_text(f'#!/bin/sh\ncase "$*" in *--posc*) echo more > more; exec {real} -f more "$7";; esac\n'
                   f'exec {real} "$@"')
    bad.chmod(0o755)
    done = work(served, env={"PATH": f"{bad.parent}:{os.environ['PATH']}"})
    assert done.fault == ("copy", "differs") and "the server says adler32" in done.report["message"], done.log
    assert served.copies() == []


@pytest.mark.parametrize("scheme", ["root", "http"])
def test_the_copy_of_the_second_to_declare_is_removed(served, sam, scheme):
    takes(served)
    sam.records["run1.root.out"] = {"file_name": "run1.root.out", "file_size": 1, "file_id": 7}
    sam.locations["run1.root.out"] = ["demo:/elsewhere"]
    done = work(served, scheme=scheme)
    assert done.code == 0 and done.output["state"] == "lost_race" and served.copies() == []


def test_a_directory_nobody_may_write_to_refuses_at_once(served):
    if os.geteuid():
        pytest.skip("an XRootD server that may not write needs root")
    takes(served)
    os.chown(served.results, 0, 0)
    served.results.chmod(0o755)
    done = work(served, limits={"copy_patience_s": 60})
    assert done.fault == ("copy", "refused") and "again in" not in done.log


def test_ifdh_is_asked_for_what_it_can_copy(served, tmp_path):
    stored = takes(served)
    (tmp_path / "bin").mkdir()
    ifdh = tmp_path / "bin" / "ifdh"
    ifdh.write_text(f'#!/bin/sh\necho "$*" >> {tmp_path}/asked\nexec xrdcp --nopbar "$2" "$3"\n')
    ifdh.chmod(0o755)
    done = work(served, env={"PATH": f"{ifdh.parent}:{os.environ['PATH']}"})
    assert done.code == 0, done.log
    [asked] = Path(tmp_path, "asked").read_text().splitlines()
    assert asked.split()[:2] == ["cp", url(served, stored)], "inputs; outputs are written and verified by the worker"
    assert json.loads((done.scratch / "report.json").read_text())["outputs"][0]["state"] == "located"
