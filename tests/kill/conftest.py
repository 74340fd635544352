"""A world of real processes for each test; its end ends them all."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from world import World


@pytest.fixture
def world(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[World]:
    (tmp_path / "w").mkdir()
    world = World(tmp_path / "w")
    yield world
    world.ends()
