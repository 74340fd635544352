"""A host that eats files: no more jobs go there, what it cost is given back, and after some hours it may try again."""

import logging
from datetime import timedelta

import pytest
from farm import Farm
from sqlalchemy import select

from keepupd.core.errors import BatchUnavailable, UnitMoved
from keepupd.core.model import JobState, Move
from keepupd.core.report import WORKER_EXIT_CODES
from keepupd.store import reads, store
from keepupd.store.tables import attempts, counters, units
from keepupd.worker.keepup_worker import EXIT_CODES

FILES = [f"run{n:02d}.raw" for n in range(1, 9)]
OTHER = {"name": "farm_merge", "type": "reco", "input": {"query": "data_tier simulated"}}


@pytest.fixture
def farm(tmp_path):
    """Two campaigns; on another host a job runs all the while."""
    farm = Farm(tmp_path, flow=[{"limits": {"launch_size": 4}}, OTHER])
    farm.finds("at_work.raw")
    farm.passes(2)
    [job] = farm.starts_jobs()
    farm.finds(*FILES)
    farm.sam.put("sim1.raw", data_tier="simulated")
    farm.sam.put("sim2.raw", data_tier="simulated")
    farm.passes(2)
    assert job.host == "node1"
    return farm


def waiting(farm, host):
    """Idle jobs that may start there."""
    return [j for j in farm.batch.live_jobs() if j.state == JobState.IDLE and host not in j.shuns]


def eats(farm, most=1000, host="hole"):
    """The host takes what may start there, and has no disk for it; gives the files."""
    eaten = []
    for job in waiting(farm, host)[:most]:
        job.host = host
        if job.starts():
            job.leaves(13, "execute", "no_space")
            eaten.append(job.input)
    return eaten


def works(farm, host="node2"):
    for job in waiting(farm, host):
        job.host = host
        if job.starts():
            job.succeeds()


def sick(farm):
    return sorted(farm.keeper.sick_hosts)


def counted_right(farm):
    return "counters" not in farm.broken_sums()


def losses(farm):
    with farm.database.read() as db:
        return {row.name: row.losses for row in db.execute(select(units)) if row.losses}


def test_a_black_hole_is_shunned_and_what_it_cost_is_given_back(farm, caplog):
    eaten = eats(farm, 4)
    farm.passes(1)
    assert sick(farm) == [] and losses(farm) == dict.fromkeys(eaten, 1), "four may be chance"
    with caplog.at_level(logging.INFO, "keepupd"):
        eaten += eats(farm, 2)
        farm.passes(3)
    assert sick(farm) == ["hole"] and losses(farm) == {}
    assert caplog.text.count("host is sick") == 1 and "6 of 6 jobs failed there at once" in caplog.text
    assert waiting(farm, "hole") == [], "idle jobs shun it"
    assert {farm.unit(name).cause for name in eaten} == {"sick_host"} and counted_right(farm)
    assert "no disk space" in farm.unit(eaten[0]).why
    farm.later(minutes=5)
    farm.passes(3)
    assert waiting(farm, "node2") and waiting(farm, "hole") == [], "new launches shun it, too"
    for _ in range(4):
        works(farm)
        farm.passes(3)
        farm.later(minutes=5)
    states = farm.states()
    assert states.pop("at_work.raw") == "running" and set(states.values()) == {"declared"}
    assert losses(farm) == {}


def test_both_campaigns_count(farm):
    eaten = eats(farm)
    assert {"sim1.raw", "run01.raw"} <= set(eaten)
    farm.passes(1)
    assert sick(farm) == ["hole"] and losses(farm) == {}


def test_what_fails_there_while_it_is_sick_uses_up_nothing(farm):
    late = waiting(farm, "hole")[0]
    late.host = "hole"
    late.starts()
    eats(farm)
    farm.passes(1)
    late.leaves(13, "execute", "no_space")
    farm.passes(1)
    assert farm.state_of(late.input) == "held" and farm.unit(late.input).cause == "sick_host"
    assert losses(farm) == {}


def test_a_pass_that_read_a_file_before_is_outrun(farm):
    eaten = eats(farm, 4)
    farm.passes(1)
    with farm.database.read() as db:
        [before] = reads.units_by_id(db, [farm.unit(eaten[0]).id])
    eats(farm, 2)
    farm.passes(1)
    with pytest.raises(UnitMoved), farm.database.write("test") as db:
        store.apply(db, farm.keeper.file_chart, [Move(before, "retry", "late", who="ann")], farm.now)
    assert counted_right(farm)


def test_a_canary_that_was_eaten_is_not_replaced(tmp_path):
    farm = Farm(tmp_path, canary={"units": 6})
    farm.finds("at_work.raw", *FILES)
    farm.passes(2)
    farm.job_of("at_work.raw").host = "node1"
    assert len(farm.batch.jobs) == 6
    for job in farm.batch.live_jobs()[1:]:
        job.host = "hole"
        job.leaves(13, "execute", "no_space")
    farm.passes(3)
    assert sick(farm) == ["hole"] and len(farm.batch.live_jobs()) == 1
    farm.later(minutes=5)
    farm.passes(3)
    assert len(farm.batch.live_jobs()) == 6, "the same six, elsewhere"


def test_the_workers_exit_codes_are_known():
    assert set(EXIT_CODES.values()) == set(WORKER_EXIT_CODES)


def test_it_is_let_back_in_after_four_hours(farm, caplog):
    eats(farm)
    farm.passes(1)
    until = farm.keeper.sick_hosts["hole"].until
    assert timedelta(hours=3, minutes=59) < until - farm.now <= timedelta(hours=4)
    farm.later(hours=3, minutes=59)
    farm.passes(2)
    assert sick(farm) == ["hole"] and waiting(farm, "node2") and not waiting(farm, "hole")
    farm.later(minutes=2)
    with caplog.at_level(logging.INFO, "keepupd"):
        farm.passes(2)
    assert sick(farm) == [] and waiting(farm, "hole")
    assert caplog.text.count("host is let back in") == 1


def test_a_good_host_has_failures_too(farm):
    for n, job in enumerate(waiting(farm, "busy")):
        job.host = "busy"
        job.starts()
        job.leaves(13, "execute", "no_space") if n % 2 else job.succeeds()
    farm.passes(2)
    assert len(losses(farm)) == 5 and sick(farm) == [], "five failed, five did not"


def test_slow_failures_are_not_the_hosts(farm):
    began = farm.now - timedelta(hours=1)
    for job in waiting(farm, "slow"):
        job.host = "slow"
        job.starts()
        job.leaves(13, "execute", "no_space")
        job.facts["started"] = began
    farm.passes(2)
    assert sick(farm) == [] and len(losses(farm)) == 10


def test_one_file_that_fails_often_is_not_the_hosts_fault(tmp_path):
    farm = Farm(tmp_path)
    farm.finds("at_work.raw", "bad.raw")
    farm.passes(2)
    farm.job_of("at_work.raw")
    for _ in range(7):
        for job in farm.batch.live_jobs():
            if job.input != "at_work.raw" and (job.input or job.starts()):
                job.leaves(13, "execute", "no_space")
        farm.passes(1)
        farm.later(hours=1)
        farm.passes(2)
    assert sick(farm) == [] and farm.unit("bad.raw").losses == 7


def test_where_every_host_fails_the_fault_is_elsewhere(farm):
    """A campaign that asks for software that is nowhere does not empty the farm."""
    jobs = waiting(farm, "any")
    for host, some in (("a", jobs[:5]), ("b", jobs[5:])):
        for job in some:
            job.host = host
            job.starts()
            job.leaves(13, "execute", "missing")
    farm.passes(1)
    assert sick(farm) == [] and len(losses(farm)) == 10


def test_jobs_that_die_before_they_take_a_file_count(farm):
    for job in waiting(farm, "hole")[:6]:
        job.host = "hole"
        job.becomes(JobState.LEFT, exit_code=127)
    farm.passes(2)
    assert sick(farm) == ["hole"]
    assert waiting(farm, "node2") and not waiting(farm, "hole")


def test_workers_that_find_no_file_are_no_sign_of_it(farm):
    for job in waiting(farm, "poor"):
        job.host = "poor"
        job.leaves(10, "establish")
    farm.passes(2)
    assert sick(farm) == []


def test_a_restart_changes_nothing(farm):
    eats(farm, 6)
    farm.passes(1)
    assert sick(farm) == ["hole"]
    before = rows(farm)
    farm.restarts()
    farm.passes(1)
    assert sick(farm) == ["hole"] and losses(farm) == {} and rows(farm) == before
    assert not waiting(farm, "hole")


def rows(farm):
    """What was counted and marked."""
    with farm.database.read() as db:
        marked = db.execute(select(attempts.c.id, attempts.c.cause).where(attempts.c.ended.is_not(None)))
        counted = db.execute(select(counters).where(counters.c.n != 0))
        return sorted(map(tuple, marked)), sorted(map(tuple, counted))


def test_a_lost_database_forgets_it_and_its_jobs_may_go_there_again(farm):
    """The next five that it eats say it again; no file is lost for it."""
    eats(farm, 6)
    farm.passes(1)
    farm.loses_database()
    farm.passes(3)
    assert sick(farm) == [] and waiting(farm, "hole")
    farm.finds(*(f"more{n}.raw" for n in range(5)))
    farm.passes(3)
    eats(farm)
    farm.passes(1)
    assert sick(farm) == ["hole"] and losses(farm) == {} and counted_right(farm)


def test_a_batch_system_that_takes_no_edits_stops_nothing_else(farm, monkeypatch):
    def refuses(*_):
        raise BatchUnavailable("no edits", "ordered by the test")

    eats(farm, 6)
    with monkeypatch.context() as refusal:
        refusal.setattr(farm.batch, "exclude", refuses)
        farm.passes(2)
        assert sick(farm) == ["hole"] and losses(farm) == {}
        assert waiting(farm, "hole"), "those that were queued before"
        farm.finds("new.raw")
        farm.passes(2)
        assert farm.state_of("new.raw") == "running"
    farm.passes(1)
    assert not waiting(farm, "hole") and waiting(farm, "node2")
