"""A campaign that begins where another way of working left off, or on an empty database: what SAM shows is done stays
done, what waits for a person waits on, and no file is processed twice."""

import pytest
from farm import CAMPAIGN, Farm
from sqlalchemy import select

from keepupd.daemon.check import Findings
from keepupd.daemon.check_campaign import check_campaign
from keepupd.store.tables import campaigns, files, units

MERGE = {
    "name": "merge", "type": "merge", "merge": {"max_files": 2}, "input": {"query": "data_tier raw"},
    "canary": {"groups": 0},
    "executable": {"argv": ["m", "{output}", "{inputs}"], "application": {"family": "t", "name": "m", "version": "v1"}},
}  # fmt: skip
EARLIER = {"data_tier": "full-reconstructed", "file_type": "mc"}


@pytest.fixture
def farm(tmp_path):
    farm = Farm(tmp_path)
    yield farm
    farm.database.close()


def made_before(farm, name, *parents, campaign="farm_reco", location="demo:/old", **more):
    """An output that another way of working has made of these files, under a name of its own."""
    named = [{"file_name": parent} for parent in parents]
    farm.sam.put(name, location=location, **EARLIER | {"DUNE.campaign": campaign, "parents": named} | more)


def checked(farm):
    found = Findings()
    check_campaign(found, farm.keeper, farm.flow[0], False, farm.now)
    return found.campaigns[0] | {"said": str(vars(found))}


def test_children_in_the_output_definition_are_adopted_whatever_their_names(farm):
    farm.finds("a.raw", "b.raw", "c.raw", "d.raw")
    made_before(farm, "old_a.root", "a.raw")
    made_before(farm, "old_b.root", "b.raw", location=None)  # nobody ever gave it a location
    made_before(farm, "else_c.root", "c.raw", campaign="another")
    made_before(farm, "old_d.root", "d.raw", retired_date="2026-01-01")
    told = checked(farm)
    assert (told["in_sam"], told["adopted"], told["would_launch"]) == (4, 1, 3)
    assert "1 input files have outputs that are declared, but have no location yet" in told["said"]
    farm.passes(2)
    assert farm.states() == {"a.raw": "declared", "b.raw": "running", "c.raw": "running", "d.raw": "running"}
    assert "old_a.root" in farm.unit("a.raw").why and len(farm.batch.live_jobs()) == 3


def test_all_outputs_of_a_file_must_be_there(tmp_path):
    outputs = [CAMPAIGN["outputs"][0] | {"label": label, "name": "{stem}_{label}_{campaign}{edition}.root"}
               for label in ("one", "two")]  # fmt: skip
    argv = {"executable": CAMPAIGN["executable"] | {"argv": ["x", "{output:one}", "{output:two}"]}}
    farm = Farm(tmp_path, outputs=outputs, **argv)
    farm.finds("a.raw", "b.raw")
    for name in ("old_a1.root", "old_a2.root"):
        made_before(farm, name, "a.raw")
    made_before(farm, "old_b1.root", "b.raw")
    farm.passes(2)
    assert farm.states() == {"a.raw": "declared", "b.raw": "running"}
    farm.database.close()


def test_a_file_that_comes_later_with_its_output_is_adopted_too(farm):
    farm.finds("a.raw")
    farm.passes(2)
    farm.finds("b.raw")
    made_before(farm, "old_b.root", "b.raw")
    farm.passes(2)
    assert farm.state_of("b.raw") == "declared"


def test_redo_of_an_adopted_file_retires_the_output_that_was_there(farm):
    farm.finds("a.raw")
    made_before(farm, "old_a.root", "a.raw")
    farm.passes(2)
    farm.operator("redo", "a.raw")
    farm.passes(2)
    farm.job_of("a.raw").succeeds()
    farm.passes(3)
    assert farm.outputs_of("a.raw") == ["a_farm_reco_e2.raw"] and farm.sam.by_name["old_a.root"].retired


def test_a_late_redo_never_retires_the_new_output(farm):
    """The daemon is killed before it has retired the old one, and the job is quick."""
    farm.finds("a.raw")
    made_before(farm, "old_a.root", "a.raw")
    farm.passes(2)
    farm.operator("redo", "a.raw")
    made_before(farm, "a_farm_reco_e2.raw", "a.raw")
    farm.passes(3)
    assert farm.outputs_of("a.raw") == ["a_farm_reco_e2.raw"]


def group_members(farm):
    with farm.database.read() as db:
        query = select(units.c.name, units.c.state, files.c.name.label("file")).order_by(files.c.name)
        found = {}
        for row in db.execute(query.join(files, files.c.unit_id == units.c.id)):
            found.setdefault((row.name, row.state), []).append(row.file)
    return sorted((state, names) for (_, state), names in found.items())


def test_files_that_were_merged_before_are_in_no_new_group(tmp_path):
    farm = Farm(tmp_path, flow=[MERGE])
    farm.finds("a.raw", "b.raw", "c.raw", "d.raw", "gone.raw")
    made_before(farm, "old_ab.root", "a.raw", "b.raw", campaign="merge")
    made_before(farm, "old_cg.root", "c.raw", "gone.raw", campaign="merge")
    farm.sam.by_name["gone.raw"].locations = []
    assert checked(farm)["adopted"] == 3
    farm.passes(3)
    assert group_members(farm) == [("declared", ["a.raw", "b.raw"]), ("declared", ["c.raw", "gone.raw"])]
    farm.finds("e.raw")
    farm.sam.by_name["gone.raw"].locations = ["demo:/in"]
    farm.later(hours=2)
    farm.passes(3)
    assert ("running", ["d.raw", "e.raw"]) in group_members(farm) and len(group_members(farm)) == 3
    assert farm.broken_sums() == {}
    farm.database.close()


def test_a_merge_group_whose_row_is_lost_is_the_same_group_again(tmp_path):
    farm = Farm(tmp_path, flow=[MERGE])
    farm.finds("a.raw", "b.raw", "c.raw", "d.raw")
    farm.passes(3)
    for job in farm.starts_jobs():
        job.succeeds()
    farm.passes(3)
    before = group_members(farm)
    with farm.database.write("test") as db:
        db.exec_driver_sql("DELETE FROM units WHERE id = 1")
    farm.later(hours=2)
    farm.passes(1)
    assert farm.batch.live_jobs() == [] and farm.broken_sums() == {}
    farm.passes(1)
    assert group_members(farm) == before and farm.broken_sums() == {}
    farm.database.close()


def test_an_open_group_with_a_member_that_left_waits_for_it(tmp_path):
    farm = Farm(tmp_path, flow=[MERGE])
    farm.finds("a.raw", "b.raw")
    farm.batch.refusal = "full"  # the group is closed, and never launched
    farm.passes(3)
    farm.batch.refusal = ""
    farm.sam.by_name["b.raw"].locations = []
    for project in farm.sam.started.values():
        project.ended = True
    farm.loses_database()
    farm.passes(3)
    assert group_members(farm) == [("pending", ["a.raw", "b.raw"])] and not farm.batch.live_jobs()
    farm.sam.by_name["b.raw"].locations = ["demo:/in"]
    farm.later(hours=2)
    farm.passes(3)
    assert group_members(farm) == [("running", ["a.raw", "b.raw"])] and farm.broken_sums() == {}
    farm.database.close()


def test_after_a_lost_database_only_what_a_person_stopped_waits(farm):
    farm.finds("stopped.raw", "absent.raw", "crashed.raw", "bad.raw", "away.raw")
    farm.passes(2)
    jobs = {name: farm.job_of(name) for name in farm.states()}
    jobs["absent.raw"].finds_no_copy()
    jobs["crashed.raw"].dies()
    jobs["bad.raw"].makes_no_events()
    jobs["away.raw"].makes_no_events()
    farm.passes(2)
    farm.operator("hold", "stopped.raw")
    farm.passes(3)
    assert farm.sam.definition("farm_reco_stopped") == f"file_id {farm.sam.by_name['stopped.raw'].id}"
    farm.sam.by_name["away.raw"].locations = []
    farm.loses_database()
    farm.passes(3)
    assert farm.states() == {"stopped.raw": "held", "bad.raw": "debug", "away.raw": "debug",
                             "absent.raw": "running", "crashed.raw": "running"}  # fmt: skip
    farm.sam.by_name["away.raw"].locations = ["demo:/in"]
    farm.later(hours=2)
    farm.passes(2)
    assert farm.state_of("away.raw") == "debug" and farm.broken_sums() == {}


def test_no_group_is_planned_while_sam_refuses_to_tell_what_was(tmp_path, monkeypatch):
    farm = Farm(tmp_path, flow=[MERGE])
    farm.finds("a.raw", "b.raw")
    monkeypatch.setattr(farm.sam, "definitions", lambda prefix: farm.sam.fail_if_ordered("definitions") or 1 / 0)
    farm.passes(3)
    with farm.database.read() as db:
        assert db.execute(select(campaigns.c.recalled)).scalar_one() is None
    assert farm.states() == {}
    farm.database.close()
