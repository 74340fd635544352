"""Outages need a second witness, and one job probes while they last; what files usually need is asked for at once."""

import pytest
from sqlalchemy import select
from test_protect import FILES, at_work, rounds, succeeds, world

from keepupd.core.consequences import parse_needs
from keepupd.store.tables import attempts

MEMORY = {"resources": {"memory_mib": 1000, "memory_cap_mib": 3000}}


def outcomes(farm):
    with farm.database.read() as db:
        rows = db.execute(select(attempts.c.outcome).where(attempts.c.ended.is_not(None)).order_by(attempts.c.id))
        return [outcome for outcome in rows.scalars() if outcome != "not_delivered"]


def on_hosts(farm, *hosts):
    """Jobs start there, in turn; gives those that have a file."""
    for n, job in enumerate(farm.batch.live_jobs()):
        job.host = hosts[n % len(hosts)]
    return farm.starts_jobs()


def test_an_outage_that_nobody_else_saw_is_a_trouble_of_its_input(tmp_path):
    farm = world(tmp_path, FILES[:3])
    first, *others = farm.starts_jobs()
    first.meets_an_outage()
    for job in others:
        job.succeeds()
    farm.passes(2)
    assert sorted(outcomes(farm)) == ["input", "ok", "ok"]
    unit = farm.unit(first.input)
    assert (unit.state, unit.cause, unit.tries, unit.losses) == ("held", "output_storage_down", 0, 0)


@pytest.mark.parametrize(
    ("hosts", "files", "klass"),
    [(["a", "b"], 3, "outage"), (["a"], 3, "input"), (["a", "b"], 2, "input"), (["a", "b", "c"], 9, "outage")],
)
def test_three_files_on_two_hosts_are_a_second_witness(tmp_path, hosts, files, klass):
    farm = world(tmp_path, FILES[:files])
    for job in on_hosts(farm, *hosts):
        job.meets_an_outage()
    farm.passes(1)
    assert set(outcomes(farm)) == {klass}


def test_they_are_one_also_when_they_fail_one_after_another_but_not_over_hours(tmp_path):
    farm = world(tmp_path, FILES[:6])
    jobs = on_hosts(farm, "a", "b")
    for job, minutes in zip(jobs, [60, 60, 4, 4, 60, 0], strict=True):
        job.meets_an_outage()
        farm.passes(1)
        farm.later(minutes=minutes)
    assert outcomes(farm) == ["input", "input", "input", "input", "outage", "outage"], "the last: it lasts still"


def test_the_daemons_own_silence_from_sam_is_a_second_witness(tmp_path):
    farm = world(tmp_path, FILES[:2])
    first, second = farm.starts_jobs()
    farm.sam.silent = True
    farm.passes(1)
    first.meets_an_outage("establish", "sam_unavailable")
    farm.sam.silent = False
    farm.passes(1)
    assert outcomes(farm) == ["outage"] and farm.state_of(first.input) == "held"
    second.meets_an_outage()  # of the storage, of which SAM's silence says nothing
    farm.passes(1)
    assert outcomes(farm) == ["outage", "input"]


def test_while_an_outage_lasts_one_job_probes_and_all_resumes_by_itself(tmp_path):
    farm = world(tmp_path, FILES[:8], limits={"jobs": 6})
    for job in on_hosts(farm, "a", "b"):
        job.meets_an_outage()
    farm.passes(2)
    for _ in range(10):
        assert at_work(farm) <= 1
        for job in farm.starts_jobs():
            job.meets_an_outage()
        farm.passes(2)
        farm.later(minutes=12)
    assert set(outcomes(farm)) == {"outage"}, "one that probes alone needs no third witness"
    assert {(u.tries, u.losses) for u in map(farm.unit, FILES[:8])} == {(0, 0)}
    farm.passes(2)
    rounds(farm, succeeds)
    assert at_work(farm) > 1, "the probe came home, so all that are due go"
    for _ in range(6):
        farm.later(hours=1)
        rounds(farm, succeeds)
    assert set(farm.states().values()) == {"declared"}


# --- memory ---------------------------------------------------------------------------------------------------------


def uses(farm, job, mib):
    job.succeeds()
    job.facts["peak_mib"] = mib
    farm.batch.touch(job)


def asked(farm):
    return {job.memory_mib for job in farm.batch.live_jobs()}


@pytest.mark.parametrize(
    ("peaks", "mib"),
    [
        ([800] * 20, 1000),  # never below the request
        ([1600] * 20, 2000),
        ([900] * 18 + [1700] * 2, 2200),  # the 95th percentile, 1700, and a quarter; in steps of 100
        ([900] * 19 + [5000], 1200),  # one large file is not usual
        ([4000] * 20, 3000),  # at most the cap
        ([2000] * 19, 1000),  # too few to be usual
    ],
)
def test_the_next_files_ask_for_what_recent_ones_used_and_a_quarter_more(tmp_path, peaks, mib):
    farm = world(tmp_path, FILES[: len(peaks)], **MEMORY)
    assert asked(farm) == {1000}
    for job, peak in zip(farm.starts_jobs(), peaks, strict=True):
        uses(farm, job, peak)
    farm.passes(2)
    farm.finds("next.raw")
    farm.passes(2)
    assert asked(farm) == {mib}
    assert farm.campaign_row().usual_mib == (mib if mib != 1000 else None)


def test_what_a_file_once_needed_is_remembered_for_it(tmp_path):
    farm = world(tmp_path, [*FILES, "big.raw"], **MEMORY)
    farm.job_of("big.raw").is_held(34)
    for job in farm.batch.live_jobs():
        uses(farm, job, 900)
    farm.passes(2)
    assert parse_needs(farm.unit("big.raw").needs) == {"memory_mib": 1500}, "half as much again as was asked"
    farm.finds("next.raw")
    farm.passes(2)
    by_file = {job.input: job.memory_mib for job in farm.starts_jobs()}
    assert by_file == {"big.raw": 1500, "next.raw": 1200}, "the usual, and more where more is known to be needed"
    farm.job_of("big.raw").succeeds()
    farm.passes(2)
    farm.operator("redo", "big.raw")
    farm.passes(2)
    assert 1500 in asked(farm)
