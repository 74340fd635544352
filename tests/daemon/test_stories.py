"""What becomes of files, told as stories: the real passes, store, charts and causes, in the fake world of farm.py."""

from datetime import timedelta

import databases
import pytest
from farm import Farm
from sqlalchemy import insert

from keepupd.daemon import courier
from keepupd.daemon.effects import EFFECTS
from keepupd.store.tables import units


@pytest.fixture
def farm(tmp_path):
    return Farm(tmp_path)


def test_a_file_is_launched_runs_and_is_declared(farm):
    farm.finds("a.raw")
    farm.passes(1)
    assert farm.state_of("a.raw") == "running"
    farm.job_of("a.raw").succeeds()
    farm.passes(3)
    assert farm.state_of("a.raw") == "declared"
    assert farm.story("a.raw") == ["launch", "output_seen"]
    assert farm.outputs_of("a.raw") == ["a_farm_reco.raw"]
    assert farm.campaign_row().state == "declared"
    assert farm.batch.jobs == {} and farm.sam.projects("keepup_", open_only=True) == []


def test_a_crash_is_tried_again_and_then_left_to_a_person(farm):
    farm.finds("run51.raw")
    farm.passes(2)
    farm.job_of("run51.raw").dies(signal=11)
    farm.passes(1)
    assert farm.state_of("run51.raw") == "crash"
    farm.later(minutes=9)  # causes.yaml lets a crash wait ten minutes
    farm.passes(2)
    assert farm.state_of("run51.raw") == "crash"
    farm.later(minutes=1)
    farm.passes(2)
    farm.job_of("run51.raw").dies(signal=11)
    farm.passes(1)
    assert farm.state_of("run51.raw") == "debug"
    assert farm.story("run51.raw")[-2:] == ["executable_died", "time_up"]
    assert farm.batch.live_jobs() == []


def test_an_operator_gives_a_file_in_debug_new_attempts(farm):
    farm.finds("a.raw")
    farm.passes(2)
    farm.job_of("a.raw").makes_no_events()
    farm.passes(1)
    assert farm.state_of("a.raw") == "debug"
    assert farm.operator("retry", "a.raw", reason="new calibration") == "retry: 1 file(s)"
    assert farm.unit("a.raw").tries == 0
    farm.passes(2)
    farm.job_of("a.raw").succeeds()
    farm.passes(1)
    assert farm.state_of("a.raw") == "declared"


def test_more_memory_is_asked_for_after_a_hold_and_no_attempt_is_used(farm):
    farm.finds("big.raw")
    farm.passes(2)
    farm.job_of("big.raw").is_held(code=34)
    farm.passes(1)
    assert farm.state_of("big.raw") == "held"
    farm.later(minutes=30)
    farm.passes(3)
    assert farm.job_of("big.raw").memory_mib == 3000
    assert farm.unit("big.raw").tries == 0


def test_jobs_of_a_launch_need_the_same(farm):
    farm.finds("big.raw", "a.raw")
    farm.passes(2)
    farm.job_of("big.raw").is_held(code=34)
    farm.job_of("a.raw").dies()
    farm.passes(1)
    farm.later(hours=1)
    farm.passes(3)
    asked = {job.input: job.memory_mib for job in (farm.job_of("big.raw"), farm.job_of("a.raw"))}
    assert asked == {"big.raw": 3000, "a.raw": 2000}


def test_what_sam_could_not_take_is_declared_by_the_daemon(farm):
    farm.finds("a.raw")
    farm.passes(2)
    farm.job_of("a.raw").succeeds(declares=False)
    farm.passes(1)
    assert farm.state_of("a.raw") == "validated"
    farm.passes(2)
    assert farm.state_of("a.raw") == "declared"
    assert len(farm.outputs_of("a.raw")) == 1


def test_a_job_that_died_between_declaring_and_locating_leaves_no_second_output(farm):
    farm.finds("a.raw")
    farm.passes(2)
    job = farm.job_of("a.raw")
    made = job.copies()
    farm.sam.declare(made["metadata"])
    job.is_killed()
    farm.passes(1)
    assert farm.state_of("a.raw") == "held"
    farm.later(hours=2)
    farm.passes(2)
    farm.job_of("a.raw").succeeds()
    farm.passes(4)
    assert farm.state_of("a.raw") == "declared"
    assert len(farm.outputs_of("a.raw")) == 1
    assert len(farm.storage.made) == 1, "the copy that lost is removed"


def test_a_silent_batch_system_moves_nothing(farm):
    farm.finds("a.raw", "b.raw")
    farm.passes(2)
    farm.job_of("a.raw")
    farm.batch.silent = True
    for _ in range(5):
        farm.later(hours=3)
        farm.passes(1)
    assert farm.states() == {"a.raw": "running", "b.raw": "running"}
    farm.finds("c.raw")
    farm.passes(2)
    assert farm.state_of("c.raw") == "pending", "nothing is launched while it is silent"
    farm.batch.silent = False
    farm.passes(2)
    assert farm.state_of("c.raw") == "running"


def test_a_job_is_lost_only_when_it_is_absent_for_ten_minutes(farm):
    farm.finds("a.raw")
    farm.passes(2)
    farm.job_of("a.raw").vanishes()
    farm.later(minutes=6)
    farm.passes(1)
    farm.later(minutes=6)
    farm.passes(1)
    assert farm.state_of("a.raw") == "running"
    farm.later(minutes=6)
    farm.passes(1)
    assert farm.state_of("a.raw") == "held"
    assert farm.unit("a.raw").cause == "job_lost"
    assert (farm.unit("a.raw").tries, farm.unit("a.raw").losses) == (0, 1)


def test_a_late_worker_of_a_lost_job_wins_when_it_is_first(farm):
    farm.finds("a.raw")
    farm.passes(2)
    late = farm.job_of("a.raw")
    late.vanishes()
    for _ in range(3):
        farm.later(minutes=6)
        farm.passes(1)
    assert farm.state_of("a.raw") == "held"
    late.declares(late.copies())
    farm.later(hours=2)
    farm.passes(2)
    assert farm.state_of("a.raw") == "declared"
    assert "launch" not in farm.story("a.raw")[1:], "it was not tried again"


def test_jobs_that_die_before_they_take_a_file_use_no_attempt(farm):
    farm.finds("a.raw", "b.raw")
    farm.passes(2)
    first, _ = farm.batch.live_jobs()
    first.is_killed()
    farm.passes(2)
    assert len(farm.batch.live_jobs()) == 2, "the launch is topped up"
    for name in ("a.raw", "b.raw"):
        farm.job_of(name).succeeds()
    farm.passes(3)
    assert set(farm.states().values()) == {"declared"}
    assert farm.unit("a.raw").tries == farm.unit("a.raw").losses == 0


def test_when_every_job_dies_early_the_files_wait_and_go_into_a_new_launch(farm):
    farm.finds("a.raw")
    farm.passes(2)
    for _ in range(4):
        for job in farm.batch.live_jobs():
            job.is_killed()
        farm.passes(1)
    assert farm.state_of("a.raw") == "pending"
    assert "not_delivered" in farm.story("a.raw")
    farm.passes(2)
    assert farm.batch.live_jobs() == [], "not at once again"
    farm.later(minutes=2)
    farm.passes(2)
    farm.job_of("a.raw").succeeds()
    farm.passes(2)
    assert farm.state_of("a.raw") == "declared"


def test_a_file_whose_copy_is_absent_is_held_and_looked_at_seldom(farm):
    farm.finds("a.raw")
    farm.passes(2)
    farm.job_of("a.raw").finds_no_copy()
    farm.passes(1)
    assert farm.unit("a.raw").cause == "input_copy_absent"
    assert farm.unit("a.raw").due - farm.now > timedelta(minutes=50)
    assert farm.unit("a.raw").tries == 0


def test_a_file_without_location_at_launch_is_held_and_its_job_not_made(farm):
    farm.finds("a.raw", "b.raw")
    farm.daemon.inputs(farm.now)
    farm.sam.by_name["b.raw"].locations = []
    farm.daemon.batch(farm.now)
    farm.passes(1)
    assert farm.states() == {"a.raw": "running", "b.raw": "held"}
    assert len(farm.batch.jobs) == 1


def test_a_file_that_leaves_is_not_launched_and_comes_back(farm):
    farm.finds("a.raw", "b.raw")
    farm.daemon.inputs(farm.now)
    farm.sam.by_name["b.raw"].locations = []
    farm.later(minutes=1)
    farm.daemon.inputs(farm.now)
    farm.passes(1)
    assert farm.states() == {"a.raw": "running", "b.raw": "pending"}
    assert farm.campaign_row().gone == 1
    farm.sam.by_name["b.raw"].locations = ["demo:/in"]
    farm.later(minutes=1)
    farm.passes(2)
    assert farm.state_of("b.raw") == "running"
    assert farm.campaign_row().gone == 0


def test_a_new_campaign_adopts_outputs_that_sam_shows_already(farm):
    farm.finds("a.raw", "b.raw")
    farm.sam.put("a_farm_reco.raw", "demo:/out/x", data_tier="full-reconstructed", parents=[{"file_name": "a.raw"}])
    farm.passes(1)
    assert farm.states() == {"a.raw": "declared", "b.raw": "running"}


def test_redo_retires_the_output_and_makes_the_next_edition(farm):
    farm.finds("a.raw")
    farm.passes(2)
    farm.job_of("a.raw").succeeds()
    farm.passes(2)
    farm.operator("redo", "a.raw", reason="wrong calibration")
    farm.passes(2)
    assert farm.sam.by_name["a_farm_reco.raw"].retired
    farm.job_of("a.raw").succeeds()
    farm.passes(2)
    assert farm.outputs_of("a.raw") == ["a_farm_reco_e2.raw"]
    farm.loses_database()
    farm.passes(2)
    assert (farm.state_of("a.raw"), farm.unit("a.raw").edition) == ("declared", 2)


@pytest.mark.parametrize("looks", [0, 1])
def test_a_hold_takes_away_a_job_that_started_since_the_last_look(farm, looks):
    farm.finds("a.raw", "b.raw")
    farm.passes(1 + looks)
    job, other = farm.job_of("a.raw"), farm.job_of("b.raw")
    farm.operator("hold", "a.raw")
    courier.deliver(farm.keeper, EFFECTS, farm.now)
    assert job.key not in farm.batch.jobs, "we saw it idle, or not yet; SAM knows that it has the file"
    assert other.key in farm.batch.jobs


def test_hold_takes_the_running_job_away_and_release_starts_anew(farm):
    farm.finds("a.raw", "b.raw")
    farm.passes(2)
    job = farm.job_of("a.raw")
    farm.operator("hold", "a.raw")
    farm.passes(1)
    assert farm.state_of("a.raw") == "held"
    assert job.key not in farm.batch.jobs
    assert farm.state_of("b.raw") == "running"
    farm.operator("release", "a.raw")
    farm.passes(2)
    assert farm.state_of("a.raw") == "running", "in a new launch: its removed job has left the old one"
    farm.job_of("b.raw").succeeds()
    for _ in range(3):
        farm.later(minutes=6)
        farm.passes(2)
    farm.job_of("a.raw").succeeds()
    farm.passes(2)
    assert farm.state_of("a.raw") == "declared"
    assert farm.outputs_of("a.raw") == ["a_farm_reco.raw"]


def test_a_paused_campaign_launches_nothing_and_what_is_on_its_way_goes_on(farm):
    farm.finds("a.raw")
    farm.passes(3)
    farm.operator("pause", reason="beam studies")
    farm.finds("b.raw")
    farm.job_of("a.raw").succeeds()
    farm.passes(3)
    assert farm.states() == {"a.raw": "declared", "b.raw": "pending"}
    farm.operator("resume", reason="go on")
    farm.passes(2)
    assert farm.state_of("b.raw") == "running"


def test_a_lost_database_is_rebuilt_with_jobs_on_their_way_and_files_in_trouble(farm):
    names = ["done.raw", "late.raw", "died.raw", "bad.raw", "stop.raw", "run.raw"]
    farm.finds(*names)
    farm.passes(2)
    jobs = {name: farm.job_of(name) for name in names}
    jobs["done.raw"].succeeds()
    jobs["bad.raw"].makes_no_events()
    farm.passes(2)
    farm.operator("hold", "stop.raw")
    farm.passes(2)
    farm.loses_database()
    jobs["late.raw"].succeeds()
    farm.passes(1)
    assert farm.state_of("bad.raw") == "debug" and farm.state_of("stop.raw") == "held"
    assert farm.state_of("run.raw") == "running", "its job goes on"
    assert farm.state_of("done.raw") == farm.state_of("late.raw") == "declared"
    jobs["died.raw"].succeeds()
    jobs["run.raw"].succeeds(declares=False)
    farm.passes(4)
    assert {name: state for name, state in farm.states().items() if state != "declared"} == {
        "bad.raw": "debug", "stop.raw": "held",
    }  # fmt: skip
    assert all(len(farm.outputs_of(name)) == 1 for name, state in farm.states().items() if state == "declared")


def test_nothing_is_launched_on_an_empty_database_before_sam_and_batch_have_answered(farm):
    farm.finds("a.raw")
    farm.batch.silent = True
    farm.passes(5)
    assert farm.state_of("a.raw") == "pending" if farm.states() else True
    assert farm.sam.projects("keepup_") == []
    farm.batch.silent, farm.sam.silent = False, True
    farm.passes(5)
    assert farm.sam.started == {}
    farm.sam.silent = False
    farm.passes(2)
    assert farm.state_of("a.raw") == "running"


def test_a_refused_launch_holds_the_campaign_and_loses_no_file(farm):
    farm.finds("a.raw")
    farm.batch.refusal = "a job may ask for 1000 MiB at most"
    farm.passes(3)
    assert farm.campaign_row().state == "held"
    assert "1000 MiB" in farm.campaign_row().why
    assert farm.state_of("a.raw") == "pending"
    farm.batch.refusal = ""
    farm.operator("resume", reason="limit raised")
    farm.passes(3)
    farm.job_of("a.raw").succeeds()
    farm.passes(2)
    assert farm.state_of("a.raw") == "declared"


def after_one_sweep(farm):
    farm.later(hours=2)
    farm.passes(1)
    return farm.campaign_row()


def behind_the_back(farm, sql):
    with farm.database.write("test") as db:
        databases.unguarded(db)
        db.exec_driver_sql(sql)


def test_a_state_deleted_behind_the_daemons_back_shows_within_one_sweep_and_is_mended(farm):
    farm.finds("a.raw", "b.raw", "c.raw")
    farm.passes(3)
    assert farm.campaign_row().difference == 0
    behind_the_back(farm, "DELETE FROM units WHERE name = 'a.raw'")
    assert after_one_sweep(farm).difference > 0
    assert after_one_sweep(farm).difference == 0, "mended"
    assert set(farm.states()) == {"a.raw", "b.raw", "c.raw"}


def test_a_state_added_behind_the_daemons_back_shows_in_every_sweep_and_is_never_launched(farm):
    farm.finds("a.raw")
    farm.passes(3)
    ghost = {"id": 99, "campaign_id": 1, "name": "ghost.raw", "state": "pending", "seen": farm.now, "since": farm.now}
    with farm.database.write("test") as db:
        db.execute(insert(units).values(ghost | {"due": farm.now}))
    assert after_one_sweep(farm).difference > 0
    assert after_one_sweep(farm).difference > 0, "until a person looks: keepupctl audit names it"
    farm.passes(2)
    assert farm.state_of("ghost.raw") == "pending" and farm.state_of("a.raw") == "running"


def test_a_file_deleted_behind_the_daemons_back_is_found_again(farm):
    farm.finds("a.raw", "b.raw")
    farm.passes(3)
    behind_the_back(farm, "DELETE FROM files WHERE name = 'a.raw'")
    after_one_sweep(farm)
    assert farm.campaign_row().difference > 0
    after_one_sweep(farm)
    assert farm.campaign_row().difference == 0 and farm.broken_sums() == {}


def test_a_file_hidden_in_sam_shows_as_gone_within_one_sweep(farm):
    farm.finds("a.raw", "b.raw")
    farm.passes(3)
    farm.sam.modify("b.raw", {"content_status": "bad"})
    assert farm.campaign_row().gone == 0
    row = after_one_sweep(farm)
    assert (row.gone, row.ever_seen, row.sam_count, row.difference) == (1, 2, 1, 0)


def test_a_wrong_counter_shows_within_one_sweep_and_is_set_right(farm):
    farm.finds("a.raw", "b.raw")
    farm.passes(3)
    behind_the_back(farm, "UPDATE counters SET n = n + 5 WHERE state = 'running'")
    assert after_one_sweep(farm).difference == 5
    assert after_one_sweep(farm).difference == 0 and farm.broken_sums() == {}


def test_a_file_that_left_while_the_database_was_lost_is_not_launched_beside_its_old_launch(farm):
    farm.finds("a.raw", "b.raw")
    farm.passes(2)
    farm.sam.by_name["a.raw"].locations = []
    farm.loses_database()
    farm.passes(2)
    assert farm.campaign_row().gone == 1 and farm.broken_sums() == {}
    farm.sam.by_name["a.raw"].locations = ["demo:/in"]
    farm.later(hours=2)
    farm.passes(2)
    assert farm.campaign_row().gone == 0
    assert len(farm.batch.live_jobs()) == 2, "the two of the old launch"
    for name in ("a.raw", "b.raw"):
        farm.job_of(name).succeeds()
    farm.passes(3)
    assert set(farm.states().values()) == {"declared"}
