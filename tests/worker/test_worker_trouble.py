"""SAM slow, silent, wrong or down; replies lost; others who were quicker; signals at every step."""
import json
import signal
import subprocess
import sys
import time
import zlib

import pytest
from conftest import WORKER

BUSY = (503, "busy", {})
NOT_FOUND = (404, json.dumps({"error": "ProjectNotFound", "message": "Project 'keepup_L' not found"}), {})
REFUSED = (403, json.dumps({"error": "HTTPForbidden", "message": "who are you?"}), {})
CALLS = ["findProject", "establishProcess", "getNextFile", "metadata", "updateFileStatus", "files", "locations",
         "status", "endProcess"]


def check_that_all_went_well(node, sam, done):
    assert done.code == 0 and done.output["state"] == "located", done.log
    assert sam.status == {"run1.root": "consumed"} and len(node.copies()) == 1
    assert set(sam.locations["run1.root.out"]) == {done.output["location"]} and "run1.root.out" in sam.records


@pytest.mark.parametrize("fault", ["lost", "drop", pytest.param(BUSY, marks=pytest.mark.long),
                                   pytest.param("html", marks=pytest.mark.long)])
@pytest.mark.parametrize("call", CALLS)
def test_one_bad_answer_to_any_call_changes_nothing(node, sam, call, fault):
    node.has_input()
    sam.faults[call] = [fault]
    check_that_all_went_well(node, sam, node.work())


def test_a_bad_answer_to_every_call_changes_nothing(node, sam):
    node.has_input()
    sam.faults = {call: ["html" if number % 2 else BUSY] for number, call in enumerate(CALLS)}
    check_that_all_went_well(node, sam, node.work())


@pytest.mark.parametrize("fault", ["silent", "drip"])
def test_a_sam_that_does_not_finish_its_answer_is_asked_again(node, sam, fault):
    node.has_input()
    sam.faults["getNextFile"] = [fault]
    done = node.work()
    assert done.code == 0 and "asking again" in done.log


def test_sam_down_from_the_start(node, sam):
    node.has_input()
    order = node.order()
    order["sam"].update(patience_s=1)
    sam.stop()
    done = node.work(order)
    assert (done.code, done.fault) == (11, ("establish", "sam_unavailable")), done.log


@pytest.mark.parametrize("call", ["findProject", "establishProcess"])
def test_a_404_that_sam_did_not_say_is_no_end_of_the_project(node, sam, call):
    node.has_input()
    sam.faults[call] = [(404, "<html><title>404 Not Found</title></html>", {})]
    done = node.work()
    assert done.code == 11 and done.fault != ("establish", "no_file"), done.log


def test_a_sam_that_refuses_is_not_asked_twice(node, sam):
    node.has_input()
    sam.faults["establishProcess"] = [REFUSED]
    done = node.work()
    assert (done.code, done.fault) == (11, ("establish", "sam_refused")) and "who are you?" in done.report["message"]
    assert sam.calls == ["findProject", "establishProcess"]


@pytest.mark.parametrize("call, fault", [
    ("findProject", NOT_FOUND), ("establishProcess", (400, '{"error": "ProjectEnded", "message": "it has ended"}', {})),
    ("getNextFile", (400, '{"error": "ProjectEnded", "message": "it has ended"}', {})), ("getNextFile", (204, "", {}))])
def test_no_project_or_no_file_left_is_no_failure(node, sam, call, fault):
    node.has_input()
    sam.faults[call] = [fault]
    done = node.work()
    assert (done.code, done.report["fault"]) == (10, "no_file"), done.log
    assert sam.process_status in (None, "completed") and sam.status == {}


def test_a_file_that_is_being_staged_is_waited_for(node, sam):
    node.has_input()
    sam.faults["getNextFile"] = [(202, "wait:1", {"Retry-After": "1"})]
    assert node.work().code == 0
    node.has_input("b.root")
    sam.status.clear()
    sam.faults["getNextFile"] = [(202, "wait:1", {"Retry-After": "1"})] * 5
    done = node.work()
    assert (done.code, done.fault) == (12, ("fetch", "not_staged")) and sam.process_status == "bad"


@pytest.mark.parametrize("body", ['{"url": "%s", "filename": "a.root"}', "%s\na.root", "%s", "%s\n"])
def test_every_form_of_a_delivery_is_understood(node, sam, body):
    node.has_input("a.root")
    order, sam.urls["a.root"] = node.order(), body % sam.urls["a.root"]
    assert node.work(order).code == 0 and sam.status == {"a.root": "consumed"}


def test_a_file_that_is_not_in_the_order_is_given_back(node, sam):
    order = node.order()
    node.has_input("surprise.root")
    done = node.work(order)
    assert done.code == 2 and "surprise.root" in done.report["message"] and sam.status == {"surprise.root": "skipped"}


def test_a_connection_closed_while_the_executable_ran_is_opened_again(node, sam):
    """A server closes idle connections; the next call must not wait, nor count as trouble."""
    node.has_input()
    sam.faults["files"] = ["drop"]
    done = node.work()
    assert done.code == 0 and "asking again" not in done.log


# ---- declared exactly once

def declared_before(node, sam, **changes):
    """Another worker has declared our output's name."""
    data = node.root_bytes
    sam.records["run1.root.out"] = {"file_name": "run1.root.out", "file_size": len(data),
                                    "checksum": [f"adler32:{zlib.adler32(data):08x}"], **changes}


def test_declared_and_located_by_another_is_a_lost_race_and_our_copy_goes(node, sam):
    node.has_input()
    declared_before(node, sam, file_size=5)
    sam.locations["run1.root.out"] = ["demo:/theirs"]
    done = node.work()
    assert (done.code, done.output["state"]) == (0, "lost_race"), done.log
    assert list(node.results.iterdir()) == [] and sam.locations["run1.root.out"] == ["demo:/theirs"]


def test_declared_alike_but_not_located_gets_our_copy(node, sam):
    node.has_input()
    declared_before(node, sam)
    done = node.work()
    assert (done.code, done.output["state"]) == (0, "located")
    assert sam.locations["run1.root.out"] == [done.output["location"]]


@pytest.mark.parametrize("change", [{"file_size": 1}, {"checksum": ["adler32:00000001"]}, {"checksum": "enstore:7"},
                                    {"retired_date": "2026-01-01T00:00:00+00:00"}])
def test_declared_differently_and_not_located_is_left_to_the_daemon(node, sam, change):
    node.has_input()
    declared_before(node, sam, **change)
    done = node.work()
    assert (done.code, done.fault) == (16, ("declare", "record_differs")), done.log
    assert len(node.copies()) == 1 and done.output["state"] == "copied" and sam.status == {"run1.root": "skipped"}


def test_parents_that_sam_does_not_know(node, sam):
    node.has_input()
    message = json.dumps({"error": "InvalidMetadata", "message": "Parent file 'run1.root' not found"})
    sam.faults["files"] = [(400, message, {})]
    assert node.work().fault == ("declare", "parents_missing")


def test_sam_down_at_the_declaration_leaves_all_the_daemon_needs_in_the_report(node, sam):
    node.has_input()
    order = node.order()
    order["sam"].update(patience_s=1)
    sam.faults["files"] = [BUSY] * 20
    done = node.work(order)
    assert (done.code, done.fault) == (16, ("declare", "sam_unavailable")), done.log
    (copy,) = node.copies()
    assert done.output["state"] == "copied" and done.output["location"] == f"demo:{copy.parent}"
    assert sam.declare(done.output["metadata"])[0] == 201       # what the daemon will do


def test_one_refused_output_does_not_keep_the_other_back(node, sam):
    node.has_input()
    order = node.order("/bin/sh", "-c", "cp {input} {output:reco}; cp {input} {output:two}")
    order["outputs"].append({**order["outputs"][0], "label": "two"})
    order["units"]["run1.root"]["outputs"]["two"] = "two.root"
    sam.faults["files"] = [REFUSED]
    done = node.work(order)
    assert (done.code, done.fault) == (16, ("declare", "sam_refused"))
    assert [o["state"] for o in done.report["outputs"]] == ["copied", "located"]


def test_two_workers_that_made_the_same_output_leave_one_record(node, sam):
    node.has_input("run1.root")
    node.has_input("run2.root")
    order = node.order()
    order["units"] = {name: {"unit": "u", "outputs": {"reco": "same.root"}} for name in ("run1.root", "run2.root")}
    first = node.start(order, job="L.1")
    one = node.wait(first)
    sam.held, sam.status = None, {}
    two = node.work(order, job="M.1")
    assert (one.output["state"], two.output["state"]) == ("located", "lost_race")
    assert len(node.copies()) == 1 and sam.locations["same.root"] == [one.output["location"]]


def test_a_failing_finish_does_not_undo_a_declaration(node, sam):
    node.has_input()
    sam.faults.update(status=[BUSY] * 9, endProcess=[REFUSED] * 9)
    done = node.work()
    assert done.code == 0 and done.report["steps"][-1]["outcome"] == "warned"


# ---- signals

def reached(process, text):
    """Wait until the worker's log says it is there."""
    deadline = time.monotonic() + 20
    while text not in (process.scratch / "stdout").read_text():
        assert time.monotonic() < deadline and process.poll() is None, (process.scratch / "stdout").read_text()
        time.sleep(0.01)


@pytest.mark.parametrize("which", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGXCPU])
def test_a_signal_ends_the_executable_and_leaves_a_report(node, sam, which):
    node.has_input()
    process = node.start(node.order("/bin/sh", "-c", f"touch {node.place}/begun; sleep 50"))
    while not (node.place / "begun").exists():
        time.sleep(0.01)
    process.send_signal(which)
    done = node.wait(process)
    assert (done.code, done.fault) == (18, ("execute", "ended_by_signal")), done.log
    assert which.name in done.report["message"]
    assert sam.status == {"run1.root": "skipped"} and sam.process_status == "bad"
    assert sorted(p.name for p in done.scratch.iterdir()) == ["executable.log", "order.json", "report.json", "stdout"]


@pytest.mark.parametrize("step, call", [("establish", "getNextFile"), ("fetch", "metadata"), ("declare", "files")])
def test_sigterm_while_sam_is_silent_leaves_a_report(node, sam, step, call):
    node.has_input()
    order = node.order()
    order["sam"].update(timeout_s=30)
    sam.faults[call] = ["silent"]
    process = node.start(order)
    reached(process, step + ": started")
    while call not in sam.calls:
        time.sleep(0.01)
    process.terminate()
    done = node.wait(process)
    assert (done.code, done.fault) == (18, (step, "ended_by_signal")), done.log
    assert sam.process_status == "bad" or step == "establish"
    if step == "declare":
        assert len(node.copies()) == 1 and done.output["state"] == "copied" and done.output["metadata"]["parents"]


def test_sigterm_in_the_validation_and_in_the_copy(node):
    node.has_input()
    process = node.start(node.order(checks={"command": ["/bin/sleep", "50"]}))
    reached(process, "4 validate: started")
    process.terminate()
    assert node.wait(process).fault == ("validate", "ended_by_signal")
    node.has_input("b.root")
    node.sam.status.clear()
    order = node.order(limits={"copy_patience_s": 60})
    order["outputs"][0]["url"] += "/not/there/yet"
    process = node.start(order)
    reached(process, "again in")
    process.terminate()
    done = node.wait(process)
    assert done.fault == ("copy", "ended_by_signal") and done.output["location"] is None and node.copies() == []


def test_sigterm_after_the_last_declaration_is_a_success(node, sam):
    node.has_input()
    order = node.order()
    order["sam"].update(timeout_s=30)
    sam.faults["status"] = ["silent"]
    process = node.start(order)
    reached(process, "7 finish: started")
    process.terminate()
    done = node.wait(process)
    assert done.code == 0 and done.report["steps"][-1]["outcome"] == "warned"


# ---- by hand, and on every Python

def test_it_works_by_hand_without_sam(tmp_path, root_bytes):
    (tmp_path / "my file.root").write_bytes(root_bytes)
    (tmp_path / "out").mkdir()
    argv = [sys.executable, WORKER, "--input", "my file.root", "--outdir", "out", "--", "cp", "{input}", "{output}"]
    assert subprocess.run(argv, cwd=tmp_path, stdout=subprocess.DEVNULL, check=False).returncode == 0
    report = json.loads((tmp_path / "report.json").read_text())
    assert [s["name"] for s in report["steps"]] == ["fetch", "execute", "validate", "copy"]
    assert (tmp_path / report["outputs"][0]["url"][len("file://"):]).read_bytes() == root_bytes
    assert (tmp_path / "my file.root").exists() and not list(tmp_path.glob("keepup-work-*"))


def test_help_shows_how(tmp_path):
    done = subprocess.run([sys.executable, WORKER, "--help"], stdout=subprocess.PIPE, text=True, check=True)
    assert "--input FILE" in done.stdout and "10 no_file" in done.stdout and "{metadata}" in done.stdout
