"""The daemon on PostgreSQL, and what becomes of it when the server crashes, restarts, or has a daemon already."""

import subprocess
import time

import databases
import pytest
import yaml
from world import BIN, World

pytestmark = [pytest.mark.long, pytest.mark.postgresql]


@pytest.fixture
def world(world: World, tmp_path) -> World:
    world.database = databases.bare(tmp_path)
    world.writes_settings()
    return world


def test_files_are_on_their_way_while_the_server_crashes_again_and_again(world, postgres):
    world.declares(16)
    world.keepupd.starts()
    for mode in ("immediate", "fast", "immediate", "immediate"):
        time.sleep(1.7)
        postgres.stop(mode)
        time.sleep(0.5)
        assert world.keepupctl("status", check=False).returncode == 4, "no database"
        postgres.start()
    world.settles(90)
    world.keeps_its_promises()
    assert "the database is gone" in world.keepupd.said()
    assert "kill_reco" in world.keepupctl("status").stdout


def test_a_second_daemon_leaves_at_once_and_says_who_is_there(world):
    world.keepupd.starts()
    other = world.home / "other.yaml"
    other.write_text(yaml.safe_dump(yaml.safe_load(world.config.read_text()) | {"state_dir": "elsewhere"}))
    run = [BIN / "keepupd", "run", "-c", other]
    second = subprocess.run(run, capture_output=True, text=True, timeout=30, check=False)
    assert second.returncode == 1
    assert f"the database is held by keepupd pid {world.keepupd.process.pid} on" in second.stderr
    world.keepupd.killed()  # -9: the server frees the lock by itself
    third = subprocess.run([BIN / "keepupd", "db", "upgrade", "-c", other], text=True, timeout=30, check=False)
    assert third.returncode == 0
