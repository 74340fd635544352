"""The worker against the real embedded SAM, with real projects, and with other workers at the same time."""
from collections import Counter

import pytest
from conftest import Node
from embedded_sam import EmbeddedSam


@pytest.fixture
def sam(tmp_path):
    server = EmbeddedSam(tmp_path)
    yield server
    server.stop()


@pytest.fixture
def node(tmp_path, sam, root_bytes):
    node = Node(tmp_path, sam, root_bytes)
    sam.has_disk(node.storage)
    sam.has_disk(node.results)
    return node


def test_a_real_sam_shows_what_the_worker_did(node, sam):
    node.has_input("run 1%41.root")
    sam.starts("keepup_L")
    done = node.work()
    assert done.code == 0 and done.report["steps"][-1]["outcome"] == "ok", done.log
    record = sam.record("run 1%41.root.out")
    assert [p["file_name"] for p in record["parents"]] == ["run 1%41.root"] and record["DUNE.campaign"] == "dune_x"
    assert [p["full_path"] for p in record["locations"]] == [done.output["location"]]
    assert set(record["checksum"]) == set(done.output["checksum"]) and record["process_id"] == done.report["process_id"]
    assert sam.count("project_name keepup_L and consumer_process_description 'L.1' and consumed_status consumed") == 1
    assert node.work(job="L.2").report["fault"] == "no_file"
    sam.post("/projects/dune/keepup_L/endProject", {"force": 1})
    assert node.work(job="L.3").report["fault"] == "no_file"
    assert node.work({**node.order(), "project": "never_started"}).report["fault"] == "no_file"


def test_jobs_of_one_launch_share_the_files_out(node, sam):
    for number in range(6):
        node.has_input(f"run{number}.root")
    sam.starts("keepup_L")
    jobs = [node.start(node.order(), job=f"L.{number}") for number in range(8)]
    done = [node.wait(job) for job in jobs]
    assert Counter(d.code for d in done) == {0: 6, 10: 2}, [d.log for d in done]
    assert sam.count("ischildof: (project_name keepup_L)") == 6 and len(node.copies()) == 6


def test_a_merge_of_a_whole_project(node, sam):
    for number in range(4):
        node.has_input(f"part{number}.root")
    sam.starts("keepup_L")
    done = node.work(node.merge_order())
    assert done.code == 0 and len(sam.record("merged.root")["parents"]) == 4, done.log
    assert sam.count("project_name keepup_L and consumed_status consumed") == 4


def test_a_merge_whose_file_lost_its_location_after_the_project_began_is_incomplete(node, sam):
    paths = [node.has_input(f"part{number}.root", event_count=number) for number in range(3)]
    sam.starts("keepup_L")
    sam.post("/files/name/part1.root/locations", {"remove": f"demo:{paths[1].parent}"})
    done = node.work(node.merge_order())
    assert done.fault == ("fetch", "incomplete") and done.report["message"].endswith("without part1.root"), done.log
    assert "execute" not in [step["name"] for step in done.report["steps"]] and node.copies() == []
    sam.post("/files/name/part1.root/locations", {"add": f"demo:{paths[1].parent}"})
    sam.starts("keepup_M")
    again = node.work({**node.merge_order(), "project": "keepup_M"}, job="M.1")
    assert again.code == 0 and len(sam.record("merged.root")["parents"]) == 3, again.log
    assert sam.record("merged.root")["event_count"] == 3


@pytest.mark.long
def test_workers_that_race_to_declare_one_output_leave_one_record(node, sam):
    """Late workers of lost jobs: five launches made the same output, each with other bytes, and declare it at once."""
    node.has_input("run1.root")
    jobs = []
    for number in range(5):
        sam.starts(f"keepup_{number}", "run1.root")
        order = node.order("/bin/sh", "-c", f"seq {number + 3} > {{output}}", checks={"root": False})
        jobs.append(node.start({**order, "project": f"keepup_{number}"}, job=f"K{number}.1"))
    done = [node.wait(job) for job in jobs]
    states = Counter(d.output["state"] for d in done)
    assert states["located"] == 1 and set(states) <= {"located", "lost_race", "copied"}, [d.log for d in done]
    assert all(d.code == 0 or d.report["fault"] == "record_differs" for d in done)
    (place,) = sam.record("run1.root.out")["locations"]
    (winner,) = [d for d in done if d.output["state"] == "located"]
    assert place["full_path"] == winner.output["location"]
    assert len(node.copies()) == 1 + states["copied"]


def test_a_parent_or_a_key_sam_does_not_know_is_refused_in_words(node, sam):
    node.has_input("run1.root")
    sam.starts("keepup_L")
    order = node.order()
    order["outputs"][0]["metadata"]["Nobody.registered"] = "x"
    done = node.work(order)
    assert done.fault == ("declare", "sam_refused") and "Nobody.registered" in done.report["message"]
