"""Bad days of the daemon's own machine: its database locked, its disk full, its clock set, a second daemon, signals."""

import re
import resource
import signal
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from world import CAMPAIGN, FINE, MIXED, ONCE, SLOW, WAITS, World

from keepupd.store.database import LOCK_PATIENCE_S


@pytest.mark.long
@pytest.mark.timeout(300)
def test_the_database_is_locked_for_longer_than_anyone_waits(world: World) -> None:
    """The passes fail and say who; when the lock goes, all goes on."""
    inputs = world.declares(2, (FINE,))
    world.keepupd.starts()
    world.waits(lambda: set(world.states().values()) == {"declared"}, "a good beginning")
    with closing(sqlite3.connect(world.home / "state" / "keepupd.db", isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        inputs += world.declares(2, (FINE, ONCE))
        world.waits(lambda: "database is locked" in world.keepupd.said(), "it says so", LOCK_PATIENCE_S + 10)
        other.execute("ROLLBACK")
    assert "another process holds it" in world.keepupd.said()
    world.settles(60)
    world.keeps_its_promises()


@contextmanager
def small_disk(directory: Path) -> Iterator[Path]:
    """A file system of 8 MiB; needs root."""
    directory.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", directory]
    mounted = subprocess.run(mount, check=False, capture_output=True)
    if mounted.returncode:
        pytest.skip("needs root and the right to mount, for a small file system")
    try:
        yield directory
    finally:
        subprocess.run(["umount", "--lazy", directory], check=True)


def test_the_disk_of_the_database_is_full(world: World) -> None:
    """Nothing is lost and nothing moves; once there is room, all goes on."""
    with small_disk(world.home / "state"):
        world.declares(4, (FINE, ONCE))
        world.keepupd.starts()
        world.waits(lambda: set(world.states().values()) == {"declared"}, "a good beginning")
        fill(world.home / "state" / "ballast")
        world.declares(6, MIXED)
        world.waits(lambda: "free space on the disk of the database" in world.keepupd.said(), "it says so", 60)
        assert not world.keepupd.dead
        (world.home / "state" / "ballast").unlink()
        world.settles(90)
        world.keeps_its_promises()
        world.keepupd.stops()


def fill(path: Path) -> None:
    with path.open("wb", buffering=0) as ballast:
        try:
            while ballast.write(b"x" * 4096):
                pass
        except OSError:
            pass


@pytest.mark.long
@pytest.mark.timeout(300)
def test_writes_to_the_database_fail(world: World) -> None:
    """Without root: no file of the daemon may grow beyond a limit; with the limit gone all goes on."""
    world.declares(2, (FINE,))
    world.keepupd.starts()
    world.waits(lambda: set(world.states().values()) == {"declared"}, "a good beginning")
    assert world.keepupd.process
    pid = world.keepupd.process.pid
    before = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (4096, before[1]))
    world.declares(4, MIXED)
    world.waits(lambda: re.search("(pass|poll) failed", world.keepupd.said()), "it says so", 60)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, before)
    world.settles(90)
    world.keeps_its_promises()


@pytest.mark.long
def test_the_clock_is_set_forward_and_back_by_an_hour(world: World) -> None:
    """No job counts as lost, no retry waits for an hour, and nothing is done twice."""
    world.dies_at([])
    inputs = world.declares(6, (WAITS, ONCE))
    world.keepupd.starts()
    for ahead, words in ((3600, "seconds=3600"), (0, "seconds=-3600"), (-3600, "seconds=-3600"), (0, "seconds=3600")):
        seen = world.keepupd.said().count(words)
        world.waits(lambda: any(world.ran(one.name) for one in inputs), "jobs run")
        world.shifts_clock(ahead)
        world.waits(lambda seen=seen, words=words: world.keepupd.said().count(words) > seen, f"{ahead}: noticed")
        time.sleep(0.5)
    world.opens_the_gate()
    world.settles(60)
    world.keeps_its_promises()
    assert "lost=True" not in world.keepupd.said()
    assert [world.ran(one.name) for one in inputs] == [1, 2] * 3


def test_a_second_daemon_is_refused_and_told_who_is_there(world: World) -> None:
    world.keepupd.starts()
    second = subprocess.run(world.keepupd.command, capture_output=True, text=True, check=False, timeout=60)
    assert world.keepupd.process
    assert second.returncode == 1
    assert f"pid {world.keepupd.process.pid} on " in second.stderr and "remedy" in second.stderr
    assert not world.keepupd.dead
    assert world.keepupd.stops() == 0


@pytest.mark.long
@pytest.mark.timeout(300)
def test_sigterm_in_the_middle_of_a_pass(world: World) -> None:
    """The pass at work ends first, also while SAM hangs; then it leaves with exit code 0, and the next one goes on."""
    world.declares(8, (SLOW, FINE))
    world.keepupd.starts()
    world.waits(lambda: "running" in world.states().values(), "work")
    world.sam_server.signal(signal.SIGSTOP)
    time.sleep(0.5)
    assert world.keepupd.stops() == 0
    world.sam_server.signal(signal.SIGCONT)
    assert "leaving" in world.keepupd.said()
    world.keepupd.starts()
    world.settles(60)
    world.keeps_its_promises()


def test_sighup_takes_up_a_good_campaign_file_and_refuses_a_faulty_one(world: World) -> None:
    world.declares(1, (FINE,))
    world.keepupd.starts()
    world.writes_campaign(owner="someone else")
    world.keepupd.signal(signal.SIGHUP)
    world.waits(lambda: "campaigns reloaded" in world.keepupd.said(), "reloaded")
    assert settings_of(world)["owner"] == "someone else"
    world.writes_campaign(ownr="nobody", resources={"memory_mib": "plenty"})
    world.keepupd.signal(signal.SIGHUP)
    world.waits(lambda: "reload refused" in world.keepupd.said(), "refused")
    assert "kill.yaml" in world.keepupd.said() and "ownr" in world.keepupd.said()
    assert settings_of(world)["owner"] == "someone else"
    world.declares(2, (FINE,))
    world.settles(60)
    world.keeps_its_promises()


def settings_of(world: World) -> dict:
    (row,) = world.rows("SELECT json_extract(settings, '$.owner') AS owner FROM campaigns WHERE name = ?", CAMPAIGN)
    return dict(row)


def test_an_old_schema_is_refused_with_the_command_that_mends_it(world: World) -> None:
    world.keepupd.starts()
    world.keepupd.stops()
    with closing(sqlite3.connect(world.home / "state" / "keepupd.db")) as db, db:
        db.execute("UPDATE alembic_version SET version_num = '0000'")
    refused = subprocess.run(world.keepupd.command, capture_output=True, text=True, check=False, timeout=60)
    assert refused.returncode == 1
    assert f"keepupd db upgrade -c {world.config}" in refused.stderr
    with closing(sqlite3.connect(world.home / "state" / "keepupd.db")) as db, db:
        db.execute("UPDATE alembic_version SET version_num = '9999'")
    refused = subprocess.run(world.keepupd.command, capture_output=True, text=True, check=False, timeout=60)
    assert refused.returncode == 1 and "newer keepupd" in refused.stderr
