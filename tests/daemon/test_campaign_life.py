"""The campaign's own life: changed files are taken up or refused, passive rules count, new input settles first."""

import pytest
from farm import CAMPAIGN, Farm
from prometheus_client import generate_latest
from sqlalchemy import select
from test_four_types import GENERATOR
from test_protect import FILES, at_work, changes, count, world

from keepupd.config import Campaign
from keepupd.daemon import life
from keepupd.daemon.check import Findings
from keepupd.daemon.check_campaign import check_campaign
from keepupd.daemon.metrics import Metrics
from keepupd.flow import build_flow
from keepupd.store.tables import attempts, campaigns, launches, passive_matches, units

# --- changed campaign files -----------------------------------------------------------------------------------------


def version(v):
    return {"argv": ["reco", "{input}", "{output}"], "application": {"family": "t", "name": "reco", "version": v}}


def test_what_may_not_change_is_refused_and_the_old_settings_stay_in_force(tmp_path):
    farm = Farm(tmp_path, flow=[{"name": "one"}, {"name": "two", "input": {"query": "data_tier digits"}}])
    farm.finds("a.raw")
    farm.passes(3)
    changes_both(farm, executable=version("v2"))
    assert settings_of(farm, "one").executable.application.version == "v2", "nothing was declared yet"
    farm.passes(2)
    for job in farm.starts_jobs():
        job.succeeds()
    farm.passes(2)
    changes_both(farm, executable=version("v3"), resources={"memory_mib": 4000})
    one, two = settings_of(farm, "one"), settings_of(farm, "two")
    assert (one.executable.application.version, one.resources.memory_mib) == ("v2", 2000)
    assert (two.executable.application.version, two.resources.memory_mib) == ("v3", 4000)
    assert "v2 → v3" in row_of(farm, "one").refused and "new name" in row_of(farm, "one").refused
    in_force = {c.name: c.executable.application.version for c in farm.keeper.campaigns.values()}
    assert in_force == {"one": "v2", "two": "v3"}
    changes_both(farm, executable=version("v2"), resources={"memory_mib": 4000})
    assert row_of(farm, "one").refused == "" and settings_of(farm, "one").resources.memory_mib == 4000


def test_check_shows_what_a_changed_file_would_do_and_changes_nothing(tmp_path):
    farm = world(tmp_path, FILES[:1], canary={"units": 2})
    for job in farm.starts_jobs():
        job.succeeds()
    farm.passes(2)
    before = farm.campaign_row()

    def checked(**settings):
        found, old = Findings(), farm.flow[0]
        new = old.model_validate(old.model_dump(mode="json") | settings)
        check_campaign(found, farm.keeper, new, True, farm.now)
        return [check["words"] for check in found.checks if "refused:" in check["words"]], found.campaigns[0]

    refused, told = checked(owner="others", resources={"memory_mib": 4000})
    assert refused == [] and "changed: owner: tests → others" in told["notes"]
    assert "changed: resources.memory_mib: 2000 → 4000" in told["notes"]
    assert any("2 unit(s) would run first" in note for note in told["notes"])
    assert not any("would run first" in note for note in checked(owner="others")[1]["notes"])
    [refusal], _ = checked(executable=version("v9"))
    assert "v1 → v9" in refusal and "new name" in refusal
    assert farm.campaign_row() == before


def changes_both(farm, **settings):
    farm.flow = [c.model_validate(c.model_dump(mode="json") | settings) for c in farm.flow]
    farm.restarts()
    farm.passes(1)


def row_of(farm, name):
    with farm.database.read() as db:
        return db.execute(select(campaigns).where(campaigns.c.name == name)).one()


def settings_of(farm, name):
    return Campaign.model_validate_json(row_of(farm, name).settings)


def test_an_attempt_keeps_the_settings_it_was_launched_with(tmp_path):
    farm = world(tmp_path, FILES[:1])
    [job] = farm.starts_jobs()
    changes(farm, resources={"memory_mib": 3000})
    with farm.database.read() as db:
        kept = db.execute(select(launches.c.settings)).scalar_one()
    assert '"memory_mib": 2000' in kept and '"memory_mib": 3000' in farm.campaign_row().settings
    job.succeeds()
    farm.passes(2)
    assert count(farm, "declared") == 1


# --- settle time ----------------------------------------------------------------------------------------------------


def test_a_file_is_left_alone_until_it_is_old_enough(tmp_path):
    farm = world(tmp_path, FILES[:1], settle_s=600)
    farm.later(minutes=5)
    farm.finds(FILES[1])
    farm.passes(2)
    assert at_work(farm) == 0
    farm.later(minutes=5)
    farm.passes(2)
    assert [job.input for job in farm.starts_jobs()] == [FILES[0]]
    farm.later(minutes=5)
    farm.passes(2)
    assert at_work(farm) == 2


def test_all_files_of_a_run_wait_for_the_youngest(tmp_path):
    farm = Farm(tmp_path, settle_s=600, settle_by="run")
    farm.finds("a.raw", runs=[[7, "physics"]])
    farm.finds("b.raw", runs=[[8, "physics"]])
    farm.finds("c.raw")
    farm.passes(1)
    farm.later(minutes=9)
    farm.finds("a2.raw", runs=[[7, "physics"]])
    farm.passes(1)
    farm.later(minutes=2)
    farm.passes(2)
    assert {job.input for job in farm.starts_jobs()} == {"b.raw", "c.raw"}, "run 7 had a file nine minutes later"
    farm.finds("b2.raw", runs=[[8, "physics"]])  # too late to stop what is on its way
    farm.passes(1)
    farm.later(minutes=8)
    farm.passes(2)
    assert {job.input for job in farm.starts_jobs()} == {"a.raw", "a2.raw"}
    farm.later(minutes=3)
    farm.passes(2)
    assert farm.state_of("b2.raw") == "running"


def test_a_file_that_is_tried_again_waits_for_no_youngest(tmp_path):
    farm = Farm(tmp_path, settle_s=600, settle_by="run")
    farm.finds("a.raw", runs=[[7, "physics"]])
    farm.passes(1)
    farm.later(minutes=11)
    farm.passes(3)
    farm.job_of("a.raw").dies()
    farm.passes(1)
    farm.operator("retry", "a.raw")
    farm.finds("b.raw", runs=[[7, "physics"]])
    farm.passes(1)
    assert farm.states() == {"a.raw": "running", "b.raw": "pending"}


# --- passive rules --------------------------------------------------------------------------------------------------


def test_a_passive_rule_counts_and_judging_goes_on(tmp_path):
    rule = {"name": "calibration_warning", "class": "crash", "words": "seen", "log": "no calibration", "passive": True}
    farm = world(tmp_path, FILES[:2], causes=[rule, rule | {"name": "also_seen"}])
    one, other = farm.starts_jobs()
    tail = {"signal": 11, "tail": ["W: no calibration for APA 3", "Segmentation fault"]}
    one.leaves(13, "execute", "signal", executable=tail)
    other.dies()
    farm.passes(1)
    assert {farm.unit(job.input).cause for job in (one, other)} == {"segmentation_fault"}
    with farm.database.read() as db:
        query = select(units.c.name, attempts.c.passive).join(attempts, attempts.c.unit_id == units.c.id)
        seen = dict(db.execute(query).all())
        counted = dict(db.execute(select(passive_matches.c.cause, passive_matches.c.n)).all())
    assert seen == {one.input: "calibration_warning,also_seen", other.input: ""}
    assert counted == {"calibration_warning": 1, "also_seen": 1}
    text = generate_latest(Metrics(farm.database, lambda: farm.now).registry).decode()
    assert 'keepupd_passive_matches_total{campaign="farm_reco",cause="also_seen"} 1.0' in text


# --- what is for ever -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        {"input": {"query": "data_tier raw and run_number 5"}},
        {"outputs": [CAMPAIGN["outputs"][0] | {"location": "demo:/elsewhere"}]},
        {"outputs": [CAMPAIGN["outputs"][0] | {"definitions": ["another_input"]}]},
        {"validation": {"min_events": 1}},
    ],
)
def test_where_files_come_from_and_go_to_stays_once_an_output_was_declared_even_while_it_is_redone(tmp_path, change):
    farm = world(tmp_path, FILES[:1])
    [job] = farm.starts_jobs()
    job.succeeds()
    farm.passes(2)
    farm.operator("redo", FILES[0])
    assert count(farm, "declared") == 0
    before = settings_of(farm, "farm_reco")
    changes(farm, **change)
    assert settings_of(farm, "farm_reco") == before and "new name" in row_of(farm, "farm_reco").refused
    changes(farm, **{key: CAMPAIGN.get(key, {}) for key in change}, retry={"attempts": 5}, limits={"jobs": 7})
    assert row_of(farm, "farm_reco").refused == "" and settings_of(farm, "farm_reco").limits.jobs == 7


def test_runs_of_a_generator_that_is_gone_are_not_given_out_again(tmp_path):
    def generator(name, first_run, units=4):
        spec = {"target_units": units, "events_per_unit": 1, "first_run": first_run, "subruns_per_run": 2}
        return GENERATOR | {"name": name, "generator": spec}

    farm = Farm(tmp_path, flow=[generator("gen_old", 10)])
    farm.passes(2)  # runs 10 and 11 are used
    new, well = (Campaign.model_validate(CAMPAIGN | generator("gen_new", run)) for run in (11, 12))
    before, farm.flow = farm.flow, [new]
    farm.keeper.flow = build_flow(farm.flow, "DUNE.campaign")
    found = Findings()
    check_campaign(found, farm.keeper, new, True, farm.now)
    told = "runs 11 to 12 of gen_new overlap 10 to 11, which gen_old has used"
    assert any(told in check["words"] and not check["ok"] for check in found.checks)
    with pytest.raises(life.RunsTaken, match=told):
        farm.restarts()
    assert row_of(farm, "gen_old").active, "nothing was written"
    farm.flow = [well]
    farm.restarts()
    farm.flow = before
    farm.restarts()
    assert row_of(farm, "gen_old").active and not row_of(farm, "gen_new").active, "one that comes back has its own runs"


def test_check_warns_of_an_input_without_files_that_no_campaign_here_makes(tmp_path):
    farm = Farm(tmp_path, flow=[{"name": "one"}, {"name": "two", "input": {"definition": "full_in"}}])
    farm.sam.create_definition("full_in", "data_tier 'full-reconstructed'")

    def warnings(campaign):
        found = Findings()
        check_campaign(found, farm.keeper, campaign, False, farm.now)
        return [check["words"] for check in found.checks if check.get("warning")]

    told = "SAM has no file now of its input, and no campaign here makes any: "
    assert [warnings(campaign) for campaign in farm.flow] == [[told + "data_tier raw"], [told + "definition full_in"]]
    farm.finds("a.raw")
    assert warnings(farm.flow[0]) == []
    farm.keeper.flow = build_flow([farm.flow[0], Campaign.model_validate(
        CAMPAIGN | {"name": "two", "input": {"query": "data_tier 'full-reconstructed'"}, "outputs": [
            CAMPAIGN["outputs"][0] | {"tier": "other"}]})], "DUNE.campaign")  # fmt: skip
    assert warnings(farm.keeper.flow.campaigns["two"]) == []
