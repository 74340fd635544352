"""A whole flow of hundreds of files, its daemon killed over and over: at the end the events are all there."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from soak_world import FlowWorld


@pytest.fixture
def world(tmp_path: Path) -> Iterator[Callable[[int], FlowWorld]]:
    made: list[FlowWorld] = []

    def make(units: int) -> FlowWorld:
        (tmp_path / "w").mkdir()
        made.append(FlowWorld(tmp_path / "w", units))
        made[0].starts()
        return made[0]

    yield make
    for one in made:
        one.ends()


@pytest.mark.long
def test_a_small_flow_with_a_killed_daemon_ends_with_every_event(world: Callable[[int], FlowWorld]) -> None:
    small = world(8)
    small.until_done({0.3: small.kill, 0.6: small.loses_state}, 100)
    small.has_every_event_once()
    small.left_nothing_behind()


@pytest.mark.long
@pytest.mark.timeout(900)
def test_a_flow_of_four_hundred_files_survives_whatever_happens(world: Callable[[int], FlowWorld]) -> None:
    """20 kills, its state lost once with merges open, SAM away twice, groups closing meanwhile."""
    large = world(186)
    kills = {(n + 0.5) / 20: large.kill for n in range(20)}
    away = dict.fromkeys((0.3, 0.7), large.sam_is_away)
    large.until_done(kills | away | {0.6: large.loses_state}, 800)
    assert large.kills == 20
    large.has_every_event_once()
    large.left_nothing_behind()
