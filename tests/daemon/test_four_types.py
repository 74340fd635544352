"""Generator, merge and analysis, and how completion travels down a flow: stories in the fake world."""

import pytest
from farm import Farm
from sqlalchemy import select

from keepupd.store.tables import campaigns, units

GENERATOR = {
    "name": "gen", "type": "generator",
    "generator": {"target_units": 5, "events_per_unit": 10, "first_run": 100, "subruns_per_run": 2},
    "input": {}, "metadata": {"DUNE.sample": "1"},
    "outputs": [{"tier": "simulated", "file_type": "mc", "location": "demo:/gen", "definitions": ["merge_input"]}],
    "executable": {"argv": ["gen", "{run}", "{output}"], "application": {"family": "t", "name": "g", "version": "v1"}},
}  # fmt: skip
MERGE = {
    "name": "merge", "type": "merge", "merge": {"by": ["DUNE.sample"], "max_files": 3}, "input": {},
    "outputs": [{"tier": "full-reconstructed", "file_type": "mc", "location": "demo:/merge"}],
    "executable": {"argv": ["merge", "{output}", "{inputs}"],
                   "application": {"family": "t", "name": "m", "version": "v1"}},
}  # fmt: skip


def make(folder, *flow):
    farm = Farm(folder, flow=flow)
    farm.sam.register_parameter("DUNE.sample")
    return farm


def of_campaign(farm, name):
    with farm.database.read() as db:
        mine = select(units).join(campaigns, campaigns.c.id == units.c.campaign_id).where(campaigns.c.name == name)
        return {row.name: row for row in db.execute(mine)}


def campaign_row(farm, name):
    with farm.database.read() as db:
        return db.execute(select(campaigns).where(campaigns.c.name == name)).one()


def until_quiet(farm, rounds=40):
    for _ in range(rounds):
        farm.passes(2, seconds=30)
        for job in farm.starts_jobs():
            job.succeeds()
    farm.passes(3)


@pytest.fixture
def farm(tmp_path):
    return make(tmp_path, GENERATOR)


def test_a_generator_makes_its_target_and_no_more(farm):
    until_quiet(farm, 4)
    made = of_campaign(farm, "gen")
    assert {name: row.state for name, row in made.items()} == {f"{n:08d}": "declared" for n in range(1, 6)}
    assert farm.sam.started == {}, "no project"
    assert campaign_row(farm, "gen").state == "declared"


def test_numbers_are_a_pure_function_of_the_serial_and_survive_a_retry_and_a_lost_database(farm):
    farm.passes(3)
    first = {job.unit["unit"]: job.unit["params"] for job in farm.starts_jobs()}
    numbers = {"run": 101, "subrun": 1, "seed": 101 * 2**20 + 1, "serial": 3, "events": 10, "run_type": "mc"}
    assert first["00000003"] == numbers
    assert len({(p["run"], p["subrun"]) for p in first.values()}) == len({p["seed"] for p in first.values()}) == 5
    for job in farm.batch.live_jobs():
        job.dies() if job.input == "3" else job.succeeds()
    farm.passes(2)
    farm.loses_database()
    farm.passes(2)
    farm.later(minutes=11)
    farm.passes(3)
    [again] = farm.starts_jobs()
    assert again.unit["params"] == first["00000003"]
    again.succeeds()
    farm.passes(2)
    assert {row.state for row in of_campaign(farm, "gen").values()} == {"declared"}


def test_jobs_on_their_way_are_known_again_after_the_database_is_lost(farm):
    farm.passes(3)
    jobs = farm.starts_jobs()
    farm.loses_database()
    farm.passes(3)
    assert len(farm.batch.live_jobs()) == 5, "none is made a second time"
    for job in jobs:
        job.succeeds()
    farm.passes(3)
    assert {row.state for row in of_campaign(farm, "gen").values()} == {"declared"}


def test_a_raised_target_makes_more(tmp_path):
    farm = make(tmp_path, GENERATOR)
    until_quiet(farm, 3)
    [before] = farm.flow
    farm.flow = [before.model_copy(update={"generator": before.generator.model_copy(update={"target_units": 7})})]
    farm.restarts()
    until_quiet(farm, 3)
    assert len(of_campaign(farm, "gen")) == 7
    assert {row.state for row in of_campaign(farm, "gen").values()} == {"declared"}


def test_full_groups_are_merged_and_upstream_complete_closes_the_last(tmp_path):
    farm = make(tmp_path, GENERATOR, MERGE)
    until_quiet(farm)
    groups = of_campaign(farm, "merge")
    closed_by = sorted((row.files, row.origin) for row in groups.values())
    assert closed_by == [(2, "upstream complete"), (3, "file count, 3 files")]
    assert {row.state for row in groups.values()} == {"declared"}
    assert campaign_row(farm, "merge").complete and campaign_row(farm, "merge").state == "declared"
    merged = [farm.sam.by_name[name] for name in farm.sam.by_name if "_merge" in name]
    parents = [parent["file_name"] for file in merged for parent in file.metadata["parents"]]
    assert len(parents) == len(set(parents)) == 5
    assert sum(file.metadata["event_count"] for file in merged) == 50


def test_a_group_waits_for_more_while_upstream_goes_on(tmp_path):
    farm = make(tmp_path, MERGE)
    for n in range(4):
        farm.sam.put(f"f{n}.root", data_tier="simulated", **{"DUNE.sample": "1", "DUNE.campaign": "gen"})
    farm.sam.create_definition("merge_input", "data_tier simulated")
    until_quiet(farm, 10)
    assert [row.files for row in of_campaign(farm, "merge").values()] == [3]
    assert campaign_row(farm, "merge").state == "running"


def test_files_of_different_keys_never_meet(tmp_path):
    farm = make(tmp_path, MERGE)
    for n in range(8):
        farm.sam.put(f"f{n}.root", data_tier="simulated", **{"DUNE.sample": str(n % 2)})
    farm.sam.create_definition("merge_input", "data_tier simulated")
    until_quiet(farm, 6)
    for name in [name for name in farm.sam.by_name if "_merge" in name]:
        parents = [parent["file_name"] for parent in farm.sam.by_name[name].metadata["parents"]]
        assert len({farm.sam.by_name[parent].metadata["DUNE.sample"] for parent in parents}) == 1


def test_closed_groups_keep_their_members_when_the_database_is_lost(tmp_path):
    farm = make(tmp_path, MERGE)
    for n in range(7):
        farm.sam.put(f"f{n}.root", data_tier="simulated", **{"DUNE.sample": "1"})
    farm.sam.create_definition("merge_input", "data_tier simulated")
    farm.passes(3)
    before = set(of_campaign(farm, "merge"))
    assert len(before) == 2
    farm.sam.put("f00.root", data_tier="simulated", **{"DUNE.sample": "1"})  # would come first in a new plan
    farm.loses_database()
    farm.passes(3)
    assert before <= set(of_campaign(farm, "merge"))
    assert {row.origin for row in of_campaign(farm, "merge").values()} == {"file count, 3 files"}, "SAM kept the rule"
    until_quiet(farm, 6)
    assert {row.state for row in of_campaign(farm, "merge").values()} == {"declared"}
    assert not farm.batch.live_jobs()


def test_a_merge_never_runs_without_a_file_of_its_group_and_waits_for_it(tmp_path):
    farm = make(tmp_path, MERGE)
    for n in range(3):
        farm.sam.put(f"f{n}.root", data_tier="simulated", event_count=10, **{"DUNE.sample": "1"})
    farm.sam.create_definition("merge_input", "data_tier simulated")
    farm.passes(3)
    [place] = farm.sam.by_name["f1.root"].locations
    farm.sam.remove_location("f1.root", place)  # its project has begun
    assert farm.starts_jobs() == []
    farm.passes(2)
    [group] = of_campaign(farm, "merge").values()
    assert (group.state, group.cause, group.tries) == ("held", "group_incomplete", 0)
    assert not farm.batch.live_jobs() and not [name for name in farm.sam.by_name if "_merge" in name]
    farm.sam.add_location("f1.root", place)
    farm.later(hours=2)
    farm.passes(4)
    [job] = farm.starts_jobs()
    job.succeeds()
    farm.passes(3)
    [group] = of_campaign(farm, "merge").values()
    [merged] = [file for name, file in farm.sam.by_name.items() if "_merge" in name]
    assert group.state == "declared" and len(merged.metadata["parents"]) == 3
    assert merged.metadata["event_count"] == 30


def test_a_generators_run_type_reaches_its_jobs(tmp_path):
    kind = GENERATOR["generator"] | {"run_type": "test"}
    farm = make(tmp_path, GENERATOR | {"generator": kind})
    farm.passes(3)
    assert {job.unit["params"]["run_type"] for job in farm.starts_jobs()} == {"test"}


def test_an_analysis_sends_its_jobs_the_check_of_histograms(tmp_path):
    farm = Farm(tmp_path, type="analysis", analysis={"histograms": ["slope"]}, validation={"histograms": ["slope"]})
    farm.finds("a.raw")
    farm.passes(3)
    job = farm.job_of("a.raw")
    assert job.order["outputs"][0]["checks"]["histograms"] == ["slope"]
    assert "uproot" in job.files["check_histograms.py"]


def test_a_killed_merge_job_is_tried_again_with_all_its_files(tmp_path):
    farm = make(tmp_path, MERGE)
    for n in range(3):
        farm.sam.put(f"f{n}.root", data_tier="simulated", **{"DUNE.sample": "1"})
    farm.sam.create_definition("merge_input", "data_tier simulated")
    farm.passes(3)
    [job] = farm.starts_jobs()
    job.is_killed()
    farm.passes(2)
    [unit] = of_campaign(farm, "merge").values()
    assert (unit.state, unit.losses, unit.tries) == ("held", 1, 0)
    farm.later(hours=2)
    farm.passes(3)
    [job] = farm.starts_jobs()
    assert len(job.inputs) == 3
    job.succeeds()
    farm.passes(3)
    assert [row.state for row in of_campaign(farm, "merge").values()] == ["declared"]
