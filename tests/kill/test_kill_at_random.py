"""kill -9 at moments of chance, of each process; at the end all promises hold. The seed is printed with a failure."""

import random
import signal
import time

import pytest
from world import FINE, MIXED, ONCE, SLOW, World, until

SEEDS = [pytest.param(random.SystemRandom().randrange(10**6), id="any-seed")]


@pytest.mark.parametrize("seed", SEEDS)
def test_the_daemon_killed_a_few_times(world: World, seed: int) -> None:
    kills(world, files=14, times=4, seed=seed)


@pytest.mark.long
@pytest.mark.timeout(400)
@pytest.mark.parametrize("seed", SEEDS)
def test_the_daemon_killed_at_30_moments(world: World, seed: int) -> None:
    kills(world, files=60, times=30, seed=seed)


def kills(world: World, files: int, times: int, seed: int) -> None:
    """Files come in all the while; each life of the daemon lasts as chance will have it, from its first steps on."""
    print(f"seed {seed}")
    chance = random.Random(seed)
    world.declares(files - 2 * (files // 4))
    for n in range(times):
        begins = chance.random() < 0.25  # killed perhaps before it is up
        world.keepupd.starts(wait=not begins)
        if n < files // 4:
            world.declares(2)
        time.sleep(chance.uniform(0.3, 1.5) if begins else chance.uniform(0, 2.5))
        world.keepupd.killed()
    world.declares(files - len(world.inputs))
    world.keepupd.starts()
    world.settles(120)
    world.keeps_its_promises()


@pytest.mark.long
def test_keepup_batch_killed_twice(world: World) -> None:
    batch_killed(world, files=10, times=2)


@pytest.mark.long
@pytest.mark.timeout(200)
def test_keepup_batch_killed_often(world: World) -> None:
    batch_killed(world, files=40, times=12)


def batch_killed(world: World, files: int, times: int) -> None:
    """Its jobs run on, and it adopts them."""
    world.declares(files, (SLOW, FINE, SLOW, ONCE), seconds=0.5)
    world.keepupd.starts()
    for _ in range(times):
        until(world.workers, "jobs run")
        world.batch.killed()
        time.sleep(0.3)
        world.batch.starts()
        time.sleep(0.5)
    world.settles(90)
    world.keeps_its_promises()


@pytest.mark.long
@pytest.mark.timeout(200)
@pytest.mark.parametrize("seconds", [3, 20])
def test_sam_hangs_in_the_middle(world: World, seconds: int) -> None:
    world.declares(12, MIXED)
    world.keepupd.starts()
    until(lambda: "declared" in world.states().values(), "the first output")
    world.sam_server.signal(signal.SIGSTOP)
    time.sleep(seconds)
    world.sam_server.signal(signal.SIGCONT)
    world.settles(100)
    world.keeps_its_promises()


@pytest.mark.long
@pytest.mark.timeout(200)
@pytest.mark.parametrize("seconds", [3, pytest.param(20, marks=pytest.mark.long)])
def test_sam_is_killed_in_the_middle_and_comes_back(world: World, seconds: int) -> None:
    world.declares(12, MIXED)
    world.keepupd.starts()
    until(lambda: "declared" in world.states().values(), "the first output")
    world.sam_server.killed()
    time.sleep(seconds)
    world.sam_server.starts()
    world.settles(100)
    world.keeps_its_promises()


def test_a_worker_is_killed(world: World) -> None:
    """Its file is tried again; a node's fault uses up no try."""
    world.declares(4, (SLOW,), seconds=2)
    world.keepupd.starts()
    until(lambda: executing(world), "an executable runs")
    victim = executing(world)[0]
    victim.kill()
    world.settles(60)
    world.keeps_its_promises(losses=1)


def executing(world: World) -> list:
    return [worker for worker in world.workers() if worker.children()]
