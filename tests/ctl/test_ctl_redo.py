"""redo of an output that another campaign has used: refused with its name and what to do, or done anyway."""

import pytest
from farm import Farm
from test_ctl_groups import MERGE, groups, inputs_of_outputs

RECO = {
    "name": "reco", "input": {"query": "data_tier raw"}, "metadata": {"DUNE.sample": "1"},
    "outputs": [{"tier": "simulated", "file_type": "mc", "location": "demo:/r", "definitions": ["merge_input"]}],
}  # fmt: skip


@pytest.fixture
def farm(tmp_path):
    farm = Farm(tmp_path, flow=[RECO, MERGE])
    farm.sam.register_parameter("DUNE.sample")
    farm.finds("a.raw", "b.raw", "c.raw")
    works(farm)
    assert len(inputs_of_outputs(farm)) == 3
    yield farm
    farm.database.close()


def works(farm, rounds=3):
    for _ in range(rounds):
        farm.passes(3)
        for job in farm.starts_jobs():
            job.succeeds()
    farm.passes(2)


def state(shift, name):
    return shift.json("why", "--campaign", "reco", name)["state"]


def test_a_redo_of_what_was_merged_is_refused_with_the_group_and_the_way_out(farm, shift):
    [group] = [unit for names, unit in groups(farm).items() if unit.files == 3]
    with shift.daemon_answers():
        told = shift.reads("redo", "--campaign", "reco", "a.raw", "--reason", "wrong constants")
    assert f"a.raw: its output is in {group.name} of merge, declared" in told and "--anyway" in told
    assert state(shift, "a.raw") == "declared" and len(inputs_of_outputs(farm)) == 3


def test_asked_for_anyway_it_is_done(farm, shift):
    with shift.daemon_answers():
        told = shift.reads("redo", "--campaign", "reco", "a.raw", "--reason", "x", "--anyway")
    assert "redo: 1 file(s)" in told
    works(farm, 2)
    assert state(shift, "a.raw") == "declared" and farm.outputs_of("a.raw") == ["a_reco_e2.raw"]


def test_the_way_out_counts_each_event_once(farm, shift):
    [group] = [unit.name for unit in groups(farm).values() if unit.files == 3]
    with shift.daemon_answers():
        shift.reads("redo", group, "--reason", "x")
        shift.reads("hold", group, "--reason", "x")
        assert "redo: 1 file(s)" in shift.reads("redo", "--campaign", "reco", "a.raw", "--reason", "x")
    works(farm, 2)
    assert "--without a_reco.raw" in shift.reads("stuck", code=1)
    with shift.daemon_answers():
        shift.reads("dissolve", group, "--without", "a_reco.raw", "--reason", "x")
    works(farm, 2)
    made = [f for f in farm.sam.by_name.values() if "_merge" in f.name and f.locations and not f.retired]
    assert sorted(p["file_name"] for f in made for p in f.metadata["parents"]) == [
        "a_reco_e2.raw", "b_reco.raw", "c_reco.raw"]  # fmt: skip
