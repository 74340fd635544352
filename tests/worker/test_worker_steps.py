"""The worker's way through its seven steps, when all is well and when the unit itself is at fault."""
import hashlib
import json
import os
import signal
import stat
import time
import zlib
from pathlib import Path
from urllib.parse import unquote

import pytest

from keepupd.worker import keepup_worker as worker

BARE_MINIMUM = ["findProject", "establishProcess", "getNextFile", "metadata", "updateFileStatus", "files", "locations",
                "updateFileStatus", "status", "endProcess"]


def test_a_reco_job_declares_what_it_made_and_makes_no_call_too_many(node, sam):
    node.has_input("run1.root", data_stream="cosmics")
    done = node.work()
    assert (done.code, done.report["fault"], done.report["unit"]) == (0, None, "run1.root"), done.log
    assert sam.calls == BARE_MINIMUM
    record, (copy,) = sam.records["run1.root.out"], node.copies()
    assert record["parents"] == [{"file_name": "run1.root"}] and record["process_id"] == 9001
    assert record["checksum"] == [f"adler32:{zlib.adler32(node.root_bytes):08x}",
                                  f"enstore:{zlib.adler32(node.root_bytes, 0)}"]
    assert record["file_size"] == len(node.root_bytes) and record["runs"] == [[1, 2, "physics"]]
    assert (record["data_stream"], record["data_tier"]) == ("cosmics", "full-reconstructed")
    assert record["application"] == {"family": "keepup", "name": "reco", "version": "v1"}
    assert record["DUNE.campaign"] == "dune_x" and record["file_format"] == "root"
    assert sam.locations["run1.root.out"] == [f"demo:{copy.parent}"] == [done.output["location"]]
    assert copy.read_bytes() == node.root_bytes and copy.parent.name.startswith("1-")
    assert unquote(done.output["url"]) == f"file://{copy}" and done.output["state"] == "located"
    assert sam.status == {"run1.root": "consumed"} and sam.process_status == "completed"
    assert sam.process_form["description"] == "L.1" and sam.process_form["filelimit"] == "1"


def test_the_report_and_the_log_tell_the_story(node):
    node.has_input()
    done = node.work(node.order("/bin/sh", "-c", "echo hello; cp {input} {output}"))
    assert [(s["number"], s["name"], s["outcome"]) for s in done.report["steps"]] == [
        (1, "establish", "ok"), (2, "fetch", "ok"), (3, "execute", "ok"), (4, "validate", "ok"), (5, "copy", "ok"),
        (6, "declare", "ok"), (7, "finish", "ok")]
    for number, name in enumerate(["establish", "fetch", "execute", "validate", "copy", "declare", "finish"], 1):
        assert f"{number} {name}: started" in done.log and f"{number} {name}: ok in " in done.log
    ran = done.report["executable"]
    assert (ran["exit_code"], ran["signal"], ran["tail"]) == (0, None, ["hello"]) and ran["peak_mib"] > 0
    assert done.report["inputs"][0]["size"] == len(node.root_bytes) and done.report["inputs"][0]["file_id"] == 1000
    assert sorted(p.name for p in done.scratch.iterdir()) == ["executable.log", "order.json", "report.json", "stdout"]


def test_the_executables_metadata_is_declared_but_not_what_is_not_its_to_say(node, sam):
    node.has_input()
    said = {"event_count": 7, "first_event": [1, 2, 5], "last_event": 11, "runs": [[3, 4, "physics"]],
            "DUNE.x": "é", "data_tier": "raw", "file_size": 1}
    (node.place / "said.json").write_text(json.dumps(said))
    done = node.work(node.order("/bin/sh", "-c", f"cp {{input}} {{output}}; cp {node.place}/said.json {{metadata}}",
                                checks={"min_events": 7}))
    record = sam.records["run1.root.out"]
    assert done.code == 0
    assert [record[k] for k in ("event_count", "first_event", "last_event", "runs", "DUNE.x", "data_tier")] == [
        7, 5, 11, [[3, 4, "physics"]], "é", "full-reconstructed"]
    assert record["file_size"] == len(node.root_bytes) and "data_tier, file_size" in done.log


@pytest.mark.parametrize("said, fault", [
    ('{"event_count": 6}', "too_few_events"), ("{}", "bad_metadata"), ("[1]", "bad_metadata"),
    ('{"event_count": -1}', "bad_metadata"), ('{"event_count": NaN}', "bad_metadata"), ("{", "bad_metadata"),
    ('{"event_count": 9, "runs": 4}', "bad_metadata"), ('{"event_count": true}', "bad_metadata")])
def test_metadata_without_enough_events_or_sense_is_invalid(node, said, fault):
    node.has_input()
    (node.place / "said.json").write_text(said)
    done = node.work(node.order("/bin/sh", "-c", f"cp {{input}} {{output}}; cp {node.place}/said.json {{metadata}}",
                                checks={"min_events": 7}))
    assert (done.code, done.fault) == (14, ("validate", fault)), done.log
    assert node.copies() == []


def test_a_merge_takes_all_files_of_its_project(node, sam):
    for number in (1, 2, 3):
        node.has_input(f"part{number}.root", runs=[[number, 0, "physics"]], data_stream="cosmics")
    done = node.work(node.merge_order("cp $1 {output}; echo $#; cat {input_list}"))
    assert done.code == 0, done.log
    assert done.report["executable"]["tail"][0] == "3" and len(done.report["executable"]["tail"]) == 4
    record = sam.records["merged.root"]
    assert [p["file_name"] for p in record["parents"]] == ["part1.root", "part2.root", "part3.root"]
    assert record["runs"] == [[1, 0, "physics"], [2, 0, "physics"], [3, 0, "physics"]]
    assert record["data_stream"] == "cosmics"
    assert sam.status == dict.fromkeys(["part1.root", "part2.root", "part3.root"], "consumed")
    assert sam.process_form["filelimit"] == "0"


@pytest.mark.parametrize("left_out, words", [
    (["part2.root"], "2 of the group's 3 files; without part2.root"),
    (["part1.root", "part3.root"], "1 of the group's 3 files; without part1.root, part3.root"),
    ([], "3 of the group's 3 files; and stranger.root, not of the group")])
def test_a_merge_of_not_just_its_group_stops_before_the_executable(node, sam, left_out, words):
    for number in (1, 2, 3):
        node.has_input(f"part{number}.root")
    order = node.merge_order(f"touch {node.place}/ran; cp $1 {{output}}")
    sam.queue[:] = [name for name in sam.queue if name not in left_out]     # SAM passes over what has no location now
    if not left_out:
        node.has_input("stranger.root")
    done = node.work(order)
    assert (done.code, done.fault) == (12, ("fetch", "incomplete")) and words in done.report["message"], done.log
    assert not (node.place / "ran").exists() and node.copies() == [] and sam.process_status == "bad"


def test_a_merge_order_without_members_takes_no_file(node, sam):
    node.has_input()
    done = node.work(node.order(type="merge", units={"g1": {"unit": "g1", "outputs": {"reco": "merged.root"}}}))
    assert done.fault == ("order", "bad_order") and "names of its inputs" in done.report["message"]
    assert sam.calls == []


def test_a_merge_of_files_that_differ_in_what_is_inherited_is_refused(node, sam):
    node.has_input("part1.root", Data_Stream="cosmics")
    node.has_input("part2.root", data_stream="cosmics")
    node.has_input("part3.root", data_stream="beam")
    done = node.work(node.merge_order())
    assert (done.code, done.fault) == (14, ("validate", "conflict")), done.log
    assert "data_stream: 'cosmics' in part1.root, 'beam' in part3.root" in done.report["message"]
    assert node.copies() == [] and "merged.root" not in sam.records


def test_a_key_that_only_some_files_of_a_merge_have_is_a_conflict_too(node):
    node.has_input("part1.root", data_stream="cosmics")
    node.has_input("part2.root")
    done = node.work(node.merge_order())
    assert done.fault == ("validate", "conflict") and "None in part2.root" in done.report["message"]


def test_a_key_that_the_campaign_replaces_need_not_agree(node, sam):
    node.has_input("part1.root", data_stream="cosmics")
    node.has_input("part2.root", data_stream="beam")
    order = node.merge_order()
    order["outputs"][0]["metadata"]["DATA_STREAM"] = "both"
    done = node.work(order)
    assert done.code == 0 and sam.records["merged.root"]["DATA_STREAM"] == "both", done.log
    assert "data_stream" not in sam.records["merged.root"]


def test_events_of_a_merge_are_added_and_runs_united(node, sam):
    for number, events in ((1, 10), (2, 0), (3, 32)):
        node.has_input(f"part{number}.root", runs=[[number, 0, "physics"], [7, 0, "physics"]], event_count=events)
    done = node.work(node.merge_order("cp $1 {output}; echo '{\"runs\": [[9, 9, \"mc\"]]}' > {metadata}",
                                      checks={"min_events": 42}))
    assert done.code == 0, done.log
    record = sam.records["merged.root"]
    assert record["event_count"] == 42 and [run[0] for run in record["runs"]] == [1, 7, 2, 3]


@pytest.mark.parametrize("said", [41, 43, 0])
def test_a_merge_that_loses_or_makes_events_names_the_files(node, sam, said):
    node.has_input("part1.root", event_count=10)
    node.has_input("part2.root", event_count=32)
    done = node.work(node.merge_order(f"cp $1 {{output}}; echo '{{\"event_count\": {said}}}' > {{metadata}}"))
    assert (done.code, done.fault) == (14, ("validate", "events_differ")), done.log
    assert f"has {said} events, the inputs have 42: part1.root 10, part2.root 32" in done.report["message"]
    assert node.copies() == [] and "merged.root" not in sam.records


def test_events_are_not_compared_with_inputs_whose_events_sam_does_not_know(node, sam):
    node.has_input("part1.root", event_count=10)
    node.has_input("part2.root")
    done = node.work(node.merge_order("cp $1 {output}; echo '{\"event_count\": 25}' > {metadata}"))
    assert done.code == 0 and sam.records["merged.root"]["event_count"] == 25, done.log
    assert "event_count of 1 of 2 inputs" in done.log


def test_inputs_of_a_reco_may_have_more_events_than_its_output(node, sam):
    node.has_input(event_count=10)
    done = node.work(node.order("/bin/sh", "-c", "cp {input} {output}; echo '{\"event_count\": 3}' > {metadata}"))
    assert done.code == 0 and sam.records["run1.root.out"]["event_count"] == 3, done.log


def test_a_generator_needs_no_project(node, sam):
    params = {"run": 5, "subrun": 6, "seed": 42, "serial": 4, "events": 100, "run_type": "test"}
    units = {"4": {"unit": "serial-4", "outputs": {"reco": "gen_4.root"}, "params": params}}
    (node.place / "made.root").write_bytes(node.root_bytes)
    done = node.work(node.order("/bin/sh", "-c", f"echo {{run}} {{subrun}} {{seed}} {{events}} {{serial}}; "
                                f"cp {node.place}/made.root {{output}}", type="generator", project=None, units=units),
                     job="L.4")
    assert done.code == 0 and done.report["executable"]["tail"] == ["5 6 42 100 4"], done.log
    assert sam.calls == ["files", "locations"]
    assert sam.records["gen_4.root"]["runs"] == [[5, 6, "test"]] and "parents" not in sam.records["gen_4.root"]


def test_several_outputs_each_with_its_own_placeholders(node, sam):
    node.has_input()
    order = node.order("/bin/sh", "-c", "cp {input} {output:reco}; echo histogram > {output:hist}; "
                       """echo '{"event_count": 3}' > {metadata:hist}""")
    order["outputs"].append({"label": "hist", "location": f"demo:{node.results}", "url": f"file://{node.results}",
                             "checks": {"root": False}, "metadata": {"file_type": "histogram"}})
    order["units"]["run1.root"]["outputs"]["hist"] = "run1.hist"
    done = node.work(order)
    assert done.code == 0 and [o["state"] for o in done.report["outputs"]] == ["located", "located"], done.log
    assert sam.records["run1.hist"]["event_count"] == 3 and "event_count" not in sam.records["run1.root.out"]
    assert len({path.parent for path in node.copies()}) == 1


def test_a_shell_gets_quoted_values(node):
    node.has_input("it's; touch hacked.root")
    command = "cp {input} {output} && echo {campaign} {unit} $KEEPUP_INPUT_NAME | cat"
    done = node.work(node.order(shell=True, argv=command))
    assert done.code == 0 and not (done.scratch / "hacked.root").exists(), done.log
    assert done.report["executable"]["tail"] == ["dune_x it's; touch hacked.root it's; touch hacked.root"]


def test_the_environment_is_added(node):
    node.has_input()
    command = "cp {input} {output}; echo $A $KEEPUP_CAMPAIGN $KEEPUP_JOB $KEEPUP_UNIT"
    done = node.work(node.order("/bin/sh", "-c", command, environment={"A": "b"}))
    assert done.report["executable"]["tail"] == ["b dune_x L.1 run1.root"]


@pytest.mark.parametrize("change, words", [
    ({"argv": ["x", "{inptu}"]}, "{inptu}"), ({"argv": ["x", "{output:none}"]}, "{output:none}"),
    ({"version": 2}, "version is 2"), ({"argv": []}, "command"), ({"outputs": []}, "outputs"),
    ({"units": None}, "shape"), ({"type": "merge", "units": {}}, "exactly one unit"), ({"argv": None}, "shape"),
    ({"sam": {"user": "x"}}, "read_url"), ({"argv": ["cp", 4]}, "text")])
def test_a_bad_order_is_refused_before_it_takes_a_file(node, sam, change, words):
    node.has_input()
    done = node.work({**node.order(), **change})
    assert (done.code, done.fault) == (2, ("order", "bad_order")), done.log
    assert words in done.report["message"] and sam.calls == []


def test_an_order_that_is_no_json_still_leaves_a_report(node):
    assert node.work('{"version": 1,').report["fault"] == "bad_order"


def test_an_executable_that_asks_for_what_the_unit_lacks_is_a_bad_order(node):
    node.has_input()
    done = node.work(node.order("/bin/echo", "{seed}"))
    assert done.code == 2 and "{seed}" in done.report["message"]


@pytest.mark.parametrize("name", ["../../etc/run.root", "a b.root", "it's.root", 'say "hi".root', "100%41.root",
                                  "run\n1.root", "Größe-µ.root", "x" * 300, "12345", "-rf", ".."])
def test_strange_file_names_do_no_harm(node, sam, name):
    node.has_input(name, stored_as="stored.root", url=None)
    order = node.order("/bin/cp", "--", "{input}", "{output}")
    order["units"][name]["outputs"]["reco"] = "out " + name.replace("/", "_").replace("\n", "_")[:150]
    sam.urls[name] = json.dumps({"url": sam.urls[name], "filename": name})
    done = node.work(order, env={"LC_ALL": "C"})
    assert done.code == 0, done.log
    assert sam.status == {name: "consumed"} and done.report["inputs"][0]["name"] == name
    (copy,) = node.copies()
    assert copy.name == order["units"][name]["outputs"]["reco"]
    assert sorted(p.name for p in done.scratch.iterdir()) == ["executable.log", "order.json", "report.json", "stdout"]


def test_a_name_is_found_behind_its_quoted_url(node, sam):
    node.has_input("a b%41ü.root")
    assert node.work().code == 0 and sam.status == {"a b%41ü.root": "consumed"}


# ---- bad executables

def test_an_executable_that_is_missing(node, sam):
    node.has_input()
    done = node.work(node.order("no_such_reco", "{input}"))
    assert (done.code, done.fault) == (13, ("execute", "missing")) and "no_such_reco" in done.report["message"]
    assert sam.status == {"run1.root": "skipped"} and sam.process_status == "bad" and sam.calls[-1] == "endProcess"


def test_an_executable_that_cannot_be_started(node):
    node.has_input()
    plain = node.place / "notes.txt"
    plain.write_text("not a program")
    assert node.work(node.order(str(plain))).fault == ("execute", "cannot_start")
    plain.chmod(stat.S_IRWXU)                   # executable now, and still no program
    node.has_input("again.root")
    node.sam.status.clear()
    assert node.work(node.order(str(plain))).fault == ("execute", "cannot_start")


def test_an_executable_from_the_scratch_directory_is_found_first(node):
    node.has_input()
    scratch = node.make_scratch()
    (scratch / "cp").write_text('#!/bin/sh\necho ours; exec /bin/cp "$1" "$2"\n')
    (scratch / "cp").chmod(0o755)
    done = node.work(node.order("cp", "{input}", "{output}"), scratch=scratch)
    assert done.code == 0 and done.report["executable"]["tail"] == ["ours"]


def test_an_executable_that_fails_says_why(node):
    node.has_input()
    command = "seq 100; printf '\\033[31mred\\033[0m \\007bad hit\\n' >&2; exit 3"
    done = node.work(node.order("/bin/sh", "-c", command))
    assert (done.code, done.fault) == (13, ("execute", "exited"))
    ran = done.report["executable"]
    assert ran["exit_code"] == 3 and done.report["message"].endswith("its last line: red  bad hit")
    assert len(ran["tail"]) == 40 and ran["tail"][0] == "62"


def test_an_executable_that_dies_of_a_signal(node):
    node.has_input()
    done = node.work(node.order("/bin/sh", "-c", "kill -SEGV $$"))
    assert (done.code, done.fault) == (13, ("execute", "signal"))
    assert done.report["executable"]["signal"] == signal.SIGSEGV and "SIGSEGV" in done.report["message"]


def test_an_executable_that_found_no_space(node):
    node.has_input()
    done = node.work(node.order("/bin/sh", "-c", "echo 'write: No space left on device' >&2; exit 1"))
    assert done.fault == ("execute", "no_space")


def test_an_executable_that_hangs_is_ended_with_its_children(node):
    node.has_input()
    text = f"trap '' TERM; sleep 100 & echo $! > {node.place}/child; echo waiting; wait; sleep 100"
    done = node.work(node.order("/bin/sh", "-c", text, limits={"executable_wall_s": 0.5}))
    assert (done.code, done.fault) == (13, ("execute", "hangs"))
    assert "waiting" in done.report["message"]
    assert not alive(int((node.place / "child").read_text()))


def test_children_that_outlive_the_executable_are_ended(node):
    node.has_input()
    text = (f"sleep 100 & echo $! > {node.place}/same; "
            f"setsid sleep 100 > /dev/null 2>&1 & echo $! > {node.place}/other; cp {{input}} {{output}}; echo done")
    done = node.work(node.order("/bin/sh", "-c", text))
    assert done.code == 0 and done.report["executable"]["tail"] == ["done"], done.log
    assert not alive(int((node.place / "same").read_text())) and not alive(int((node.place / "other").read_text()))


def alive(number):
    try:
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_100_mb_on_stdout_leave_a_bounded_log_with_both_ends(node):
    node.has_input()
    done = node.work(node.order("/bin/sh", "-c", "echo first; head -c 100000000 /dev/zero | tr '\\0' 'x'; echo; "
                                "echo last; cp {input} {output}"))
    assert done.code == 0
    data = (done.scratch / "executable.log").read_bytes()
    assert data.startswith(b"first\nx") and data.endswith(b"x\nlast\n") and len(data) < (5 << 20) + 100
    assert b"[keepup_worker: %d bytes left out here]" % (100000012 - (5 << 20)) in data
    assert done.report["executable"]["tail"][-1] == "last"


# ---- bad outputs

@pytest.mark.parametrize("command, fault", [
    ("true", "no_output"), (": > {output}", "empty"), ("head -c 400 {input} > {output}", "truncated_root"),
    ("echo this is no ROOT file > {output}", "not_root"), ("(cat {input}; echo x) > {output}", "truncated_root"),
    ("mkdir {output}", "no_output"), ("printf root > {output}", "truncated_root")])
def test_an_output_that_is_not_whole_is_invalid(node, sam, command, fault):
    node.has_input()
    done = node.work(node.order("/bin/sh", "-c", command))
    assert (done.code, done.fault) == (14, ("validate", fault)), done.log
    assert node.copies() == [] and sam.status == {"run1.root": "skipped"} and sam.process_status == "bad"


def test_the_campaigns_own_check_has_the_last_word(node):
    node.has_input()
    check = ["/bin/sh", "-c", "cmp {input} {output} || exit 0; echo nothing was changed; exit 4"]
    done = node.work(node.order(checks={"command": check}))
    assert (done.code, done.fault) == (14, ("validate", "check_failed"))
    assert "exit status 4" in done.report["message"] and "nothing was changed" in done.report["message"]


def test_an_output_of_too_few_bytes_is_empty(node):
    node.has_input()
    assert node.work(node.order(checks={"min_bytes": 10**9})).fault == ("validate", "empty")


# ---- bad storage

def test_an_input_that_is_gone_is_absent_and_one_whose_file_system_is_away_unreachable(node):
    node.has_input("gone.root").unlink()
    assert node.work().fault == ("fetch", "absent")
    node.sam.status.clear()
    node.has_input("away.root")
    node.sam.urls["away.root"] = "file:///no/such/mount/away.root"
    assert node.work().fault == ("fetch", "unreachable")


@pytest.mark.parametrize("record", [{"file_size": 1}, {"checksum": ["adler32:00000001"]}, {"checksum": "md5:beef"},
                                    {"checksum": ["enstore:12"]}, {"crc": {"crc_value": 5}, "checksum": []}])
def test_an_input_that_differs_from_the_catalog_is_not_used(node, sam, record):
    node.has_input(**record)
    done = node.work(node.order())
    assert (done.code, done.fault) == (12, ("fetch", "differs")) and "catalog" in done.report["message"]
    assert done.report["executable"] is None and sam.status == {"run1.root": "skipped"}


def test_checksums_are_compared_as_numbers(node):
    data = b"\x00\x01"                          # adler32 with leading zeros
    number = zlib.adler32(data)
    node.has_input(data=data, checksum=[f"adler32:{number:x}".upper(), f"enstore:0{zlib.adler32(data, 0)}", "odd:17",
                                        f"sha256:{hashlib.sha256(data).hexdigest().upper()}"])
    done = node.work(node.order(checks={"root": False}))
    assert done.code == 0, done.log


def test_a_result_area_that_is_not_there_or_not_ours(node):
    node.has_input()
    order = node.order()
    order["outputs"][0]["url"] = f"file://{node.place}/nowhere"
    done = node.work(order)
    assert (done.code, done.fault) == (15, ("copy", "unreachable")) and not (node.place / "nowhere").exists()
    assert done.output["state"] == "made" and done.output["location"] is None
    node.sam.status.clear()
    node.has_input("b.root")
    order = node.order()
    order["outputs"][0]["url"] = "gopher://old/place"
    assert node.work(order).fault == ("copy", "refused")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_disk_is_named(node, tmp_path):
    """The kernel's own full device stands where the copy would be written."""
    (tmp_path / "data").write_bytes(b"x" * 10)
    with pytest.raises(OSError) as error:
        worker.copy_bytes(str(tmp_path / "data"), "/dev/full")
    assert worker.disk_failure(error.value, "x").fault == "no_space"


def test_a_missing_storage_is_waited_for(node):
    node.has_input("late.root")
    hidden = node.storage.rename(node.place / "hidden")
    process = node.start(node.order(limits={"fetch_patience_s": 20}))
    deadline = time.monotonic() + 20
    while "again in" not in (process.scratch / "stdout").read_text() and time.monotonic() < deadline:
        time.sleep(0.02)
    hidden.rename(node.storage)
    assert node.wait(process).code == 0
