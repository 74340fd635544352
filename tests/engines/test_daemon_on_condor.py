"""The daemon on a real HTCondor pool: one declared output for each input, no orphan, nothing left in the spool."""

import random
import time

import pytest
from condor_world import CondorWorld
from world import CRASHES, FINE, MIXED, ONCE, SLOW, WAITS, until

pytestmark = [pytest.mark.long, pytest.mark.engine, pytest.mark.timeout(400)]


def test_files_good_and_bad_end_where_they_belong(world: CondorWorld) -> None:
    world.declares(8, MIXED)
    world.keepupd.starts()
    world.settles(150)
    world.keeps_its_promises()


def test_killed_between_submission_and_commit_20_times(world: CondorWorld) -> None:
    """The jobs that it had submitted are found by their tag, and none is submitted twice."""
    world.dies_at(["before commit: submitted"])
    for _ in range(20):
        world.declares(1, (FINE,))
        world.keepupd.starts(wait=False)
        until(lambda: world.keepupd.dead, "it dies when the jobs are submitted", 60, world.keepupd.said)
        (world.home / "reached").rename(world.home / f"reached{time.monotonic_ns()}")
        (world.home / "reached").mkdir()
    world.keepupd.command = world.normal_command
    world.keepupd.starts()
    world.settles(150)
    world.keeps_its_promises()
    assert all(world.ran(one.name) == 1 for one in world.inputs)


def test_killed_at_moments_of_chance(world: CondorWorld) -> None:
    chance = random.Random(seed := random.SystemRandom().randrange(10**6))
    print(f"seed {seed}")
    world.declares(10, (FINE, ONCE, SLOW, CRASHES, FINE))
    for _ in range(8):
        world.keepupd.starts(wait=False)
        time.sleep(chance.uniform(0.5, 4))
        world.keepupd.killed()
    world.keepupd.starts()
    world.settles(200)
    world.keeps_its_promises()


def test_the_database_is_lost_while_jobs_run(world: CondorWorld) -> None:
    world.declares(3, (WAITS, FINE, WAITS))
    world.keepupd.starts()
    world.waits(lambda: world.ran("raw_001.txt") and world.ran("raw_003.txt"), "they run", 60)
    world.keepupd.killed()
    for path in (world.home / "state").glob("keepupd.db*"):
        path.unlink()
    world.keepupd.starts()
    world.waits(lambda: world.states().get("raw_001.txt") == "running", "it knows them again", 60)
    world.opens_the_gate()
    world.settles(150)
    world.keeps_its_promises(forgotten=True)
    assert all(world.ran(one.name) == 1 for one in world.inputs)


def test_the_schedd_is_away_for_a_while(world: CondorWorld) -> None:
    world.declares(4, (SLOW, FINE, ONCE, FINE))
    world.keepupd.starts()
    world.waits(lambda: world.ran("raw_001.txt"), "jobs run", 60)
    world.pool.run("condor_off", "-peaceful", "-schedd")
    world.pool.run("condor_off", "-fast", "-schedd")
    world.declares(2, (FINE,))
    time.sleep(20)
    world.pool.run("condor_on", "-schedd")
    world.settles(200)
    world.keeps_its_promises(losses=None)


def test_held_by_hand_and_released(world: CondorWorld) -> None:
    """Someone holds a job in HTCondor: its file is held with the reason; released in keepupd, it gets a new job."""
    (one,) = world.declares(1, (WAITS,))
    world.keepupd.starts()
    world.waits(lambda: world.ran(one.name), "it runs", 60)
    world.pool.run("condor_hold", "-all", "-reason", "let me look")
    world.waits(lambda: world.state(one.name) == "held", "held", 60)
    assert "let me look" in world.keepupctl("why", one.name).stdout
    world.opens_the_gate()
    world.keepupctl("release", one.name, "--reason", "seen enough")
    world.settles(100)
    world.keeps_its_promises()


def test_a_node_dies_under_a_job(world: CondorWorld) -> None:
    """The pool would start the job again; SAM would give it nothing. keepupd launches its file anew."""
    (one,) = world.declares(1, (SLOW,), seconds=8)
    world.keepupd.starts()
    world.waits(lambda: world.ran(one.name), "it runs", 60)
    world.pool.run("condor_off", "-fast", "-startd")
    time.sleep(3)
    world.pool.run("condor_on", "-startd")
    world.settles(250)
    world.keeps_its_promises(losses=None)
