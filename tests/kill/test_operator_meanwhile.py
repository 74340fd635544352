"""An operator acts while things die: what was asked for is done, once, whoever was down when it was asked."""

from dataclasses import replace

import pytest
from world import CRASHES, FINE, WAITS, World

HELD = replace(WAITS, ends_in="held")


def test_hold_and_release(world: World) -> None:
    """A file that is held while its job runs loses the job; released, it gets another at once."""
    (held,) = world.declares(1, (HELD,))
    world.keepupd.starts()
    world.waits(lambda: world.ran(held.name), "it runs")
    world.keepupctl("hold", held.name, "--reason", "not now")
    world.settles(30)
    world.keeps_its_promises()
    held.kind = WAITS
    world.opens_the_gate()
    world.keepupctl("release", held.name, "--reason", "now")
    world.settles(30)
    world.keeps_its_promises()
    assert world.ran(held.name) == 2


@pytest.mark.long
@pytest.mark.timeout(300)
def test_hold_release_and_retry_during_kills(world: World) -> None:
    held, other, sick, _ = world.declares(4, (HELD, WAITS, CRASHES, FINE))
    world.keepupd.starts()
    world.waits(lambda: world.ran(held.name) and world.ran(other.name), "both run")
    world.keepupd.killed()
    world.keepupctl("hold", held.name, "--reason", "asked while the daemon is down")
    world.keepupd.starts()
    world.waits(lambda: world.state(held.name) == "held", "held")
    world.keepupd.killed()
    world.batch.killed()
    world.batch.starts()
    world.keepupd.starts()
    world.waits(lambda: world.state(sick.name) == "debug", "debug")
    world.keepupctl("retry", sick.name, "--reason", "perhaps now")
    world.keepupd.killed()
    world.opens_the_gate()
    world.keepupd.starts()
    world.settles(60)
    world.keeps_its_promises()
    assert world.ran(sick.name) == 4, "two tries, and two more"
    assert world.ran(other.name) == 1
    world.keepupctl("release", held.name, "--reason", "on with it")
    world.keepupd.killed()
    held.kind = WAITS
    world.keepupd.starts()
    world.settles(60)
    world.keeps_its_promises()
