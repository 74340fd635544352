"""Campaigns beside each other: two on one input definition, and what `keepupd check` says of a flow not yet begun."""

import pytest
from farm import Farm
from sqlalchemy import select

from keepupd.daemon.check import Findings
from keepupd.daemon.check_campaign import check_campaign
from keepupd.store.tables import campaigns, units

RECO = {"name": "reco", "input": {"query": "data_tier raw"}}
HISTOGRAMS = {
    "name": "histograms", "type": "analysis", "input": {"definition": "reco_input"}, "analysis": {"histograms": ["h"]},
    "outputs": [{"tier": "root-tuple", "file_type": "histogram", "location": "demo:/histograms"}],
    "executable": {"argv": ["plot", "{input}", "{output}"],
                   "application": {"family": "t", "name": "plot", "version": "v1"}},
}  # fmt: skip
NAMES = ("a.raw", "b.raw", "c.raw")


def states(farm):
    with farm.database.read() as db:
        rows = db.execute(
            select(campaigns.c.name.label("campaign"), units.c.name, units.c.state).join_from(units, campaigns)
        )
        return {(row.campaign, row.name): row.state for row in rows}


def jobs_of(farm, campaign):
    return {job.input: job for job in farm.batch.live_jobs() if job.order["campaign"] == campaign}


@pytest.fixture
def farm(tmp_path):
    farm = Farm(tmp_path, flow=[RECO, HISTOGRAMS])
    farm.finds(*NAMES, event_count=10)
    farm.passes(3)
    farm.starts_jobs()
    return farm


def test_a_reco_and_an_analysis_take_every_file_of_one_definition_each(farm):
    assert jobs_of(farm, "reco").keys() == jobs_of(farm, "histograms").keys() == set(NAMES)
    for job in farm.batch.live_jobs():
        job.succeeds()
    farm.passes(3)
    assert states(farm) == {(campaign, name): "declared" for campaign in ("reco", "histograms") for name in NAMES}
    assert [len(farm.outputs_of(name)) for name in NAMES] == [2, 2, 2]


def test_the_trouble_of_one_is_not_the_trouble_of_the_other(farm):
    for job in jobs_of(farm, "histograms").values():
        job.dies()
    jobs_of(farm, "reco")["a.raw"].is_held()
    for job in jobs_of(farm, "reco").values():
        job.succeeds() if job.live else None
    farm.passes(2)
    assert {state for (campaign, _), state in states(farm).items() if campaign == "histograms"} == {"crash"}
    farm.starts_jobs()
    jobs_of(farm, "reco")["a.raw"].succeeds()  # its retry, with more memory
    farm.passes(3)
    assert {state for (campaign, _), state in states(farm).items() if campaign == "reco"} == {"declared"}
    assert all("histograms" not in farm.outputs_of(name)[0] for name in NAMES)


def test_a_lost_database_gives_each_its_own_outputs_back(farm):
    for job in jobs_of(farm, "reco").values():
        job.succeeds()
    for job in jobs_of(farm, "histograms").values():
        job.dies()
    farm.passes(3)
    farm.loses_database()
    farm.passes(3)
    found = states(farm)
    assert {found["reco", name] for name in NAMES} == {"declared"}
    assert {found["histograms", name] for name in NAMES} == {"running"}
    assert not jobs_of(farm, "reco")


GENERATOR = {
    "name": "gen", "type": "generator", "input": {},
    "generator": {"target_units": 5, "events_per_unit": 1, "first_run": 1},
    "outputs": [{"tier": "simulated", "file_type": "mc", "location": "demo:/gen", "definitions": ["merge_input"]}],
    "executable": {"argv": ["gen", "{output}"], "application": {"family": "t", "name": "g", "version": "v1"}},
}  # fmt: skip
MERGE = {
    "name": "merge", "type": "merge", "merge": {"max_files": 3}, "input": {},
    "executable": {"argv": ["m", "{output}", "{inputs}"], "application": {"family": "t", "name": "m", "version": "v1"}},
}  # fmt: skip
ONWARD = {"name": "onward", "input": {"query": "defname: merge_output and data_tier full-reconstructed"}}


def checked(farm):
    found = Findings()
    for campaign in farm.flow:
        check_campaign(found, farm.keeper, campaign, False, farm.now)
    faults = [one["words"] for one in found.checks if not one["ok"] and "no directory" not in one["words"]]
    return faults, {one["name"]: one for one in found.campaigns}


def test_check_knows_what_a_flow_will_make_before_any_of_it_is_there(tmp_path):
    farm = Farm(tmp_path, flow=[GENERATOR, MERGE, ONWARD])
    faults, told = checked(farm)
    assert faults == []
    assert told["gen"]["would_launch"] == 5 and told["gen"]["in_sam"] == 5
    assert sorted(told["gen"]["job"]["order"]["units"]) == ["1", "2", "3", "4", "5"]
    assert (told["merge"]["in_sam"], told["merge"]["would_launch"]) == (0, 0)
    assert (told["onward"]["in_sam"], told["onward"]["would_launch"]) == (0, 0)


def test_check_counts_units_of_a_generator_that_are_made_already(tmp_path):
    farm = Farm(tmp_path, flow=[GENERATOR])
    farm.passes(3)
    for job in farm.starts_jobs()[:2]:
        job.succeeds()
    assert checked(farm)[1]["gen"]["adopted"] == 2 and checked(farm)[1]["gen"]["would_launch"] == 3


def test_an_input_that_nobody_makes_is_still_a_fault(tmp_path):
    farm = Farm(tmp_path, flow=[MERGE])
    faults, _ = checked(farm)
    assert len(faults) == 1 and "merge_input" in faults[0]
