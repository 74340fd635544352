"""Jobs that no file stands behind: held before they took one, or left by a campaign that is gone. None is orphaned."""

from typing import Any

from world import FINE, WAITS, World

from keepupd.localbatch.main import ask


def batch(world: World, op: str, **fields: Any) -> dict[str, Any]:
    return ask(world.home / "batch", {"v": 1, "op": op, **fields})


def keys(world: World, state: str) -> list[str]:
    return [job["key"] for job in batch(world, "look", cursor=None)["jobs"] if job["state"] == state]


def test_a_job_held_by_hand_before_it_took_a_file(world: World) -> None:
    """Another job does its work, and the held one goes with its launch."""
    world.declares(3, (WAITS,))
    world.keepupd.starts()
    world.waits(lambda: len(keys(world, "running")) == 2, "two run")
    (idle,) = keys(world, "idle")
    batch(world, "hold", keys=[idle], reason="a person wanted to")
    world.waits(lambda: world.rows("SELECT * FROM jobs WHERE state = 'held' AND judged"), "seen")
    world.opens_the_gate()
    world.settles(60)
    world.keeps_its_promises()


def test_running_jobs_of_a_campaign_that_nobody_knows(world: World) -> None:
    """They have our tag and no launch: removed, and nothing else waits for it."""
    order = {"launch": "20200101-000000-aaaa", "tag": "killed/other_reco/20200101-000000-aaaa", "files": {},
             "argv": ["sleep", "1000"], "numbers": [1, 2]}  # fmt: skip
    batch(world, "submit", **order)
    world.waits(lambda: keys(world, "running"), "they run")
    world.declares(3, (FINE,))
    world.keepupd.starts()
    world.settles(60)
    world.keeps_its_promises()
