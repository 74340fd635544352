"""What the tests of real engines share."""

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from pools.condor import Pool

sys.path.insert(0, str(Path(__file__).parents[1] / "kill"))  # its world of processes serves here too

from condor_world import CondorWorld

SHARED = Path("/var/tmp/keepup-data")  # what nodes and storage share


@pytest.fixture
def world(condor: Pool) -> Iterator[CondorWorld]:
    home = Path(tempfile.mkdtemp(prefix="w", dir=SHARED))
    home.chmod(0o755)
    world = CondorWorld(home, condor)
    yield world
    world.ends()
