"""A campaign protects the farm: the canary and the circuit breaker, in the fake world."""

import pytest
from farm import Farm
from sqlalchemy import select
from test_four_types import MERGE

from keepupd.daemon import protect
from keepupd.store.tables import attempts

FILES = [f"run{n:02d}.raw" for n in range(1, 21)]
BREAKER = {"window": 20, "share": 0.5, "least": 4}


def world(folder, files=FILES, **campaign):
    farm = Farm(folder, **campaign)
    farm.finds(*files)
    farm.passes(3)
    return farm


def rounds(farm, end, n=1, seconds=30):
    """So often: every job starts and comes to this end, then two passes."""
    for _ in range(n):
        for job in farm.starts_jobs():
            end(job)
        farm.passes(2, seconds)


def at_work(farm):
    return len(farm.batch.live_jobs())


def count(farm, state):
    return list(farm.states().values()).count(state)


def changes(farm, **settings):
    """The campaign's file is changed, and the daemon told so."""
    farm.flow = [farm.flow[0].model_validate(farm.flow[0].model_dump(mode="json") | settings)]
    farm.restarts()
    farm.passes(1)


def ever_tried(farm):
    """Different files that any job was ever given."""
    with farm.database.read() as db:
        return set(db.execute(select(attempts.c.unit_id).where(attempts.c.ended.is_not(None))).scalars())


def fails(job):
    job.dies()


def succeeds(job):
    job.succeeds()


def no_storage(job):
    job.meets_an_outage()


# --- canary ---------------------------------------------------------------------------------------------------------


def test_a_new_campaign_runs_a_few_first_and_all_when_they_are_declared(tmp_path):
    farm = world(tmp_path, canary={"units": 3})
    assert at_work(farm) == 3
    first, *others = farm.starts_jobs()
    first.succeeds()
    farm.passes(5)
    assert at_work(farm) == 2, "one at home opens no gate"
    for job in others:
        job.succeeds()
    farm.passes(2)
    assert at_work(farm) == 17 and not farm.campaign_row().canary
    rounds(farm, succeeds)
    assert set(farm.states().values()) == {"declared"}


def test_a_campaign_with_fewer_files_than_canaries_does_them_all(tmp_path):
    farm = world(tmp_path, FILES[:2], canary={"units": 3})
    rounds(farm, succeeds)
    assert set(farm.states().values()) == {"declared"}
    farm.finds(*FILES[2:6])
    farm.passes(3)
    assert at_work(farm) == 1, "the last canary"
    rounds(farm, succeeds, 2)
    assert set(farm.states().values()) == {"declared"}


def test_a_broken_executable_costs_a_canary_and_no_more(tmp_path):
    farm = world(tmp_path, canary={"units": 3})
    for _ in range(6):
        rounds(farm, fails)
        farm.later(minutes=11)
    row = farm.campaign_row()
    assert len(ever_tried(farm)) == 3 and count(farm, "pending") == 17
    assert (row.state, row.cause) == ("crash", "segmentation_fault")
    assert "every canary failed, 3 of 3" in row.why and "segmentation fault" in row.why
    farm.later(days=3)
    farm.passes(5)
    assert at_work(farm) == 0


@pytest.mark.parametrize(
    ("end", "cause"),
    [
        (lambda job: job.leaves(13, "execute", "missing"), "executable_missing"),  # class node: tried elsewhere
        (lambda job: job.is_held(34), "memory_over_request"),  # class resource: asks for more at once
        (lambda job: job.makes_no_events(), "too_few_events"),  # class invalid: to debug at once
    ],
)
def test_nor_does_one_that_is_held_and_tried_again_by_itself(tmp_path, end, cause):
    farm = world(tmp_path, canary={"units": 2})
    for _ in range(9):
        rounds(farm, end)
        farm.later(hours=2)
    assert len(ever_tried(farm)) == 2, farm.states()
    assert (farm.campaign_row().state, farm.campaign_row().cause) == ("crash", cause)


def test_a_canary_that_crashes_is_tried_again_before_any_other_file(tmp_path):
    farm = world(tmp_path, canary={"units": 1})
    rounds(farm, fails)
    assert (count(farm, "crash"), at_work(farm)) == (1, 0)
    farm.later(minutes=11)
    farm.passes(2)
    [job] = farm.starts_jobs()
    assert job.input == FILES[0]
    job.succeeds()
    farm.passes(2)
    assert at_work(farm) == 19


@pytest.mark.parametrize("stopped_by", ["outage", "input", "operator"])
def test_a_canary_stopped_by_what_is_not_its_fault_is_replaced(tmp_path, stopped_by):
    farm = world(tmp_path, canary={"units": 1})
    [job] = farm.starts_jobs()
    if stopped_by == "outage":
        job.meets_an_outage("establish", "sam_unavailable")
        farm.keeper.sam_silent = farm.now
    elif stopped_by == "input":
        job.finds_no_copy()
    else:
        farm.operator("hold", FILES[0])
    farm.passes(3)
    assert farm.state_of(FILES[0]) == "held"
    [other] = farm.starts_jobs()
    assert other.input == FILES[1]


def test_a_bad_file_among_the_canaries_does_not_stop_a_good_campaign(tmp_path):
    farm = world(tmp_path, canary={"units": 2})
    bad, good = farm.starts_jobs()
    bad.makes_no_events()
    good.succeeds()
    farm.passes(2)
    assert at_work(farm) == 1, "the one in debug is replaced"
    rounds(farm, succeeds)
    assert at_work(farm) == 17 and farm.campaign_row().state == "running"


def test_of_a_merge_one_group_goes_first(tmp_path):
    farm = Farm(tmp_path, flow=[MERGE | {"canary": {"groups": 1}, "merge": {"by": [], "max_files": 2}}])
    for n in range(6):
        farm.sam.put(f"f{n}.root", data_tier="simulated")
    farm.sam.create_definition("merge_input", "data_tier simulated")
    farm.passes(3)
    assert len(farm.states()) == 3 and at_work(farm) == 1
    rounds(farm, succeeds)
    assert at_work(farm) == 2


def test_a_changed_campaign_runs_a_canary_and_its_old_jobs_do_not_count(tmp_path):
    farm = world(tmp_path, canary={"units": 2}, limits={"jobs": 6})
    rounds(farm, succeeds)
    assert at_work(farm) == 6
    old = farm.starts_jobs()
    changes(farm, resources={"memory_mib": 3000})
    assert farm.campaign_row().canary
    for job in old:
        job.succeeds()
    farm.passes(2)
    assert at_work(farm) == 2, "what the old settings made says nothing of the new ones"
    rounds(farm, succeeds)
    assert at_work(farm) == 6


def test_a_new_contact_needs_no_canary(tmp_path):
    farm = world(tmp_path, canary={"units": 2})
    rounds(farm, succeeds)
    changes(farm, contact="new@example.org", limits={"jobs": 500}, retry={"attempts": 5})
    assert not farm.campaign_row().canary and at_work(farm) == 18


def test_a_lost_database_asks_for_no_canary_where_outputs_are_declared(tmp_path):
    farm = world(tmp_path, canary={"units": 2}, limits={"jobs": 6})
    rounds(farm, succeeds, 2)
    farm.loses_database()
    farm.passes(3)
    assert at_work(farm) == 6


# --- circuit breaker ------------------------------------------------------------------------------------------------


def test_one_dominating_cause_stops_the_campaign_and_says_why_in_words(tmp_path):
    farm = world(tmp_path, breaker=BREAKER, limits={"jobs": 5})
    rounds(farm, fails)
    row = farm.campaign_row()
    assert (row.state, row.cause) == ("crash", "segmentation_fault")
    assert row.why.startswith("5 of the last 5 files failed alike: segmentation fault")
    farm.later(hours=1)
    farm.passes(3)
    assert at_work(farm) == 0, "nothing is launched"
    assert count(farm, "pending") == 20, "the crashed wait like the others, and no attempt is spent"


def test_files_on_their_way_move_on_when_the_breaker_has_tripped(tmp_path):
    farm = world(tmp_path, breaker=BREAKER, limits={"jobs": 6})
    *some, last = farm.starts_jobs()
    for job in some:
        job.dies()
    farm.passes(1)
    assert farm.campaign_row().state == "crash"
    last.succeeds()
    farm.passes(2)
    assert farm.state_of(last.input) == "declared"


def test_one_file_that_fails_often_is_no_dominating_cause(tmp_path):
    farm = world(tmp_path, FILES[:1], breaker=BREAKER, retry={"attempts": 50, "wait_s": 1})
    rounds(farm, fails, 12)
    assert farm.campaign_row().state == "running"


def test_a_share_below_the_limit_is_no_dominating_cause(tmp_path):
    farm = world(tmp_path, breaker=BREAKER)
    for n, job in enumerate(farm.starts_jobs()):
        job.dies() if n % 2 else job.succeeds()
    farm.passes(2)
    assert count(farm, "crash") == 10 and farm.campaign_row().state == "running"


@pytest.mark.parametrize("innocent", [lambda job: job.finds_no_copy(), lambda job: job.is_killed(), no_storage])
def test_input_nodes_and_outages_do_not_trip_it(tmp_path, innocent):
    farm = world(tmp_path, breaker=BREAKER)
    rounds(farm, innocent)
    assert count(farm, "held") == 20 and farm.campaign_row().state == "running"


def test_invalid_outputs_trip_it_even_where_they_were_the_last_files(tmp_path):
    farm = world(tmp_path, breaker=BREAKER)
    rounds(farm, lambda job: job.makes_no_events())
    row = farm.campaign_row()
    assert count(farm, "debug") == 20 and (row.state, row.cause) == ("crash", "too_few_events")


def test_resume_forgets_old_failures_and_sends_a_canary_first(tmp_path):
    farm = world(tmp_path, breaker=BREAKER, limits={"jobs": 10}, retry={"attempts": 5}, canary={"units": 2})
    rounds(farm, succeeds)
    old = farm.starts_jobs()
    for job in old[:5]:
        job.dies()
    farm.passes(1)
    assert farm.campaign_row().state == "crash"
    farm.operator("resume", reason="a new release is installed")
    for job in old[5:]:
        job.dies()  # with the old release
    farm.passes(2)
    assert farm.campaign_row().state == "running" and at_work(farm) == 2
    rounds(farm, succeeds)
    assert farm.campaign_row().state == "running" and at_work(farm) > 2


def test_a_campaign_that_is_broken_still_stops_again_after_its_canary(tmp_path):
    farm = world(tmp_path, breaker=BREAKER, limits={"jobs": 5}, retry={"attempts": 2, "wait_s": 1}, canary={"units": 1})
    rounds(farm, succeeds)
    rounds(farm, fails)
    assert farm.campaign_row().state == "crash"
    before = ever_tried(farm)
    farm.operator("resume")
    rounds(farm, fails, 6)
    assert farm.campaign_row().state == "crash" and "every canary failed" in farm.campaign_row().why
    assert len(ever_tried(farm) - before) <= 1


def test_a_campaign_at_rest_is_not_looked_after(tmp_path, monkeypatch):
    farm = world(tmp_path, FILES[:2])
    looked = []
    monkeypatch.setattr(protect, "look_after", lambda k, campaign_id, now: looked.append(campaign_id))
    farm.passes(3)
    assert looked == []
    rounds(farm, succeeds)
    assert set(looked) == {1}
