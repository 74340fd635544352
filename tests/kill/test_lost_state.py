"""The daemon's whole directory is gone: SAM, batch and storage remain, and from them it knows again what it must."""

import shutil
import time
from contextlib import suppress
from dataclasses import replace

import pytest
from world import CAMPAIGN, CRASHES, EMPTY, FINE, MISSING, SLOW, WAITS, World

from keepupd.core.errors import SamAbsent

FOR_AN_OPERATOR = replace(WAITS, ends_in="held")


@pytest.mark.long
def test_everything_is_where_it_was(world: World) -> None:
    """Jobs run, files are held (by an operator, by a cause) and in debug, when the directory is emptied."""
    troubled = world.declares(3, (MISSING, CRASHES, EMPTY))
    (stopped,) = world.declares(1, (FOR_AN_OPERATOR,))
    fine = world.declares(6, (FINE, SLOW), seconds=2)
    world.keepupd.starts()
    world.waits(lambda: world.ran(stopped.name), "it runs")
    world.keepupctl("hold", stopped.name, "--reason", "not this one")
    world.waits(lambda: remembered(world) >= {one.name for one in [*troubled, stopped]}, "SAM has the problems", 60)
    more = world.declares(4, (WAITS,))
    world.waits(lambda: any(world.ran(one.name) for one in more), "more jobs run")
    world.keepupd.killed()
    shutil.rmtree(world.home / "state")
    world.keepupd.starts()
    world.opens_the_gate()
    world.settles(90)
    world.keeps_its_promises(forgotten=True)
    assert [world.ran(one.name) for one in [*fine, *more]] == [1] * 10, "no file is processed twice for it"
    stopped.kind = FINE
    world.keepupctl("release", stopped.name, "--reason", "on with it")
    world.settles(60)
    world.keeps_its_promises(forgotten=True)


def remembered(world: World) -> set[str]:
    found: set[str] = set()
    for state in ("held", "debug"):
        with suppress(SamAbsent):  # a changed one is renamed before it is made anew
            found |= {file.name for file in world.sam.definition_files(f"{CAMPAIGN}_{state}")}
    return found


@pytest.mark.long
@pytest.mark.timeout(300)
def test_lost_again_and_again(world: World) -> None:
    """At whatever moment: what is declared stays declared, what runs is not run twice."""
    inputs = world.declares(24, (SLOW, FINE, FINE), seconds=1)
    for n in range(6):
        world.keepupd.starts()
        time.sleep(0.7 * n)
        world.keepupd.killed()
        shutil.rmtree(world.home / "state")
    world.keepupd.starts()
    world.settles(120)
    world.keeps_its_promises(forgotten=True)
    assert [world.ran(one.name) for one in inputs] == [1] * 24
