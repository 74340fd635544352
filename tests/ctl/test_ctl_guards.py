"""What `keepupctl status` and `why` say of canary, breaker, outage, memory, passive rules and changed settings."""

import pytest
from farm import SETTINGS, Farm
from sqlalchemy import select

from keepupd.store.tables import launches

RULE = {"name": "no_calibration", "class": "crash", "words": "seen", "log": "no calibration", "passive": True}
FILES = [f"run{n:02d}.raw" for n in range(1, 7)]


@pytest.fixture
def world(farm, shift):
    """Makes the fixture's farm and shift another campaign's."""

    def make(files=FILES, **campaign):
        folder = farm.folder / "other"
        folder.mkdir()
        other = Farm(folder, **campaign)
        shift.config.write_text(f"{SETTINGS}\ndatabase: {other.url}\n")
        farm.now, shift.farm = other.now, other
        other.finds(*files)
        other.passes(3)
        farm.now = other.now
        return other

    return make


def changes(farm, **settings):
    farm.flow = [farm.flow[0].model_validate(farm.flow[0].model_dump(mode="json") | settings)]
    farm.restarts()
    farm.passes(1)


def in_status(shift):
    [campaign] = shift.json("status")["campaigns"]
    return campaign


def test_a_canary_that_is_out_is_shown_with_how_far_it_is(world, shift):
    farm = world(canary={"units": 2})
    assert in_status(shift)["canary"] == {"declared": 0, "of": 2}
    assert "the canary is out, 0 of 2 declared" in shift.reads("status")
    assert "waits for the canary: 0 of 2 declared, 2 out, 0 in debug" in shift.reads("why", FILES[5])
    first, second = farm.starts_jobs()
    first.succeeds()
    second.dies()
    farm.passes(2)
    facts = shift.json("why", "farm_reco")
    assert facts["canary"] == "1 of 2 declared, 1 out, 0 in debug"
    assert any("waits for the canary" in words for words in facts["next"])
    farm.later(minutes=11)
    farm.passes(2)
    for job in farm.starts_jobs():
        job.succeeds()
    farm.passes(2)
    assert in_status(shift)["canary"] is None and "canary" not in shift.reads("status")


def test_a_breaker_is_shown_with_its_cause(world, shift):
    farm = world(breaker={"window": 6, "share": 0.5, "least": 4})
    for job in farm.starts_jobs():
        job.dies()
    farm.passes(1)
    found = in_status(shift)
    assert (found["state"], found["cause"], found["top_cause_class"]) == ("crash", "segmentation_fault", "crash")
    said = shift.reads("status")
    assert "farm_reco CRASH since" in said and "6 of the last 6 files failed alike: segmentation fault" in said
    assert "most for segmentation_fault (6, class crash)" in said
    said = shift.reads("why", "farm_reco")
    assert "6 of the last 6" in said and "class crash" in said
    assert "keepupctl resume --reason 'say why' farm_reco" in said


def test_an_outage_is_shown_while_it_lasts(world, shift):
    farm = world(FILES[:3])
    for n, job in enumerate(farm.batch.live_jobs()):
        job.host = f"node{n}"
    for job in farm.starts_jobs():
        job.meets_an_outage()
    farm.passes(2)
    assert in_status(shift)["outage"] == "output_storage_down"
    assert "! farm_reco: outage, output_storage_down: one job probes" in shift.reads("status")
    assert shift.json("why", "farm_reco")["outage"].startswith("output_storage_down: one job probes")
    assert shift.json("why", FILES[0])["class"] == "outage"
    farm.later(minutes=2)
    farm.passes(2)
    assert "waits for the end of an outage (output_storage_down)" in shift.reads("why", FILES[2])
    for job in farm.starts_jobs():
        job.succeeds()
    farm.passes(1)
    assert in_status(shift)["outage"] is None and "outage" not in shift.reads("status")


def test_usual_memory_is_shown_with_what_the_campaign_asked_for(world, shift):
    farm = world([f"a{n}.raw" for n in range(20)], resources={"memory_mib": 1000})
    for job in farm.starts_jobs():
        job.succeeds()
        job.facts["peak_mib"] = 1600
        farm.batch.touch(job)
    farm.passes(2)
    farm.finds("big.raw", "next.raw")
    farm.daemon.inputs(farm.now)
    assert in_status(shift)["usual_memory_mib"] == 2000
    assert "jobs ask for 2000 MiB of memory, by what recent ones used" in shift.reads("status")
    words = "jobs ask for 2000 MiB by what recent ones used, not for the campaign's 1000"
    assert words in shift.reads("why", "farm_reco") and words in shift.reads("why", "next.raw")
    farm.passes(2)
    farm.job_of("big.raw").is_held(34)
    farm.daemon.batch(farm.now)
    assert "its next job asks for" not in shift.reads("why", "next.raw")


def test_what_a_file_has_needed_before_is_said(world, shift):
    farm = world(FILES[:1])
    farm.job_of(FILES[0]).is_held(34)
    farm.passes(1)
    said = shift.json("why", FILES[0])
    assert said["memory"] == "its next job asks for 3000 MiB: it has needed more before"


def test_passive_rules_are_counted_and_shown_beside_the_cause(world, shift):
    farm = world(FILES[:2], causes=[RULE])
    for job in farm.starts_jobs():
        job.leaves(13, "execute", "signal", executable={"signal": 11, "tail": ["W: no calibration"]})
    farm.passes(1)
    assert in_status(shift)["passive"] == {"no_calibration": 2}
    assert shift.json("why", "farm_reco")["passive"] == {"no_calibration": 2}
    facts = shift.json("why", FILES[0])
    assert (facts["cause"], facts["evidence"]["passive"]) == ("segmentation_fault", "no_calibration")
    assert "passive no_calibration" in shift.reads("why", FILES[0])


def test_a_file_says_which_settings_changed_since_its_launch(world, shift):
    farm = world(FILES[:1])
    assert shift.json("why", FILES[0])["changed_since_launch"] == []
    changes(farm, resources={"memory_mib": 3000})
    assert "resources.memory_mib: 2000 → 3000" in shift.json("why", FILES[0])["changed_since_launch"]
    with farm.database.read() as db:
        assert "2000" in db.execute(select(launches.c.settings)).scalar_one()


def test_a_refused_change_is_shown_until_the_file_is_put_right(world, shift):
    farm = world(FILES[:1])
    for job in farm.starts_jobs():
        job.succeeds()
    farm.passes(2)
    old = farm.flow
    changes(farm, metadata={"DUNE.generators": "other"})
    assert "DUNE.generators" in in_status(shift)["refused_change"]
    assert "its changed file is not in force" in shift.reads("status")
    assert "start a campaign with a new name" in shift.reads("why", "farm_reco")
    farm.flow = old
    farm.restarts()
    assert in_status(shift)["refused_change"] == "" and "not in force" not in shift.reads("status")
