"""(b) An idle pass: the daemon's whole pass with nothing new, with 300,000 known files against 3,000.

Everything is the daemon's own, on a database on disk, but for what is outside: SAM says the count that is known (its
own time for counting is left out) and the batch system says that nothing changed. Measured with all files declared,
and with a mix: work under way (the same on both sides, as it does not grow with the files ever seen) and 1 % in debug.
"""

import time
from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from common import WORK, Figure, fill, in_turns, make_keeper_at, median, ratio, remove
from sqlalchemy import func, insert, select, update

from keepupd.core.model import JobSeen, JobState, Launch, Look
from keepupd.daemon import courier
from keepupd.daemon.effects import EFFECTS
from keepupd.daemon.keeper import Keeper
from keepupd.daemon.passes import Passes
from keepupd.store.tables import attempts, jobs, launches, polls, units

SMALL, LARGE = 3_000, 300_000
UNDER_WAY = {"running": 1000, "pending": 200, "held": 100, "crash": 50}  # pending, held and crash: not due yet


@dataclass
class QuietSam:
    """Nothing new in SAM."""

    members: int

    def definition_count(self, name: str) -> int:
        return self.members

    def create_definition(self, name: str, dims: str, description: str = "") -> None:
        """It exists."""

    def definition(self, name: str) -> str:
        return ""

    def rename_definition(self, old: str, new: str) -> None:
        """Done."""


class QuietBatch:
    """Nothing new in the batch system."""

    def __init__(self, running: list[JobSeen]):
        self.running = running

    def look(self, daemon: str, cursor: str | None) -> Look:
        return Look([] if cursor else self.running, "1", complete=cursor is None)

    def submit(self, launch: Launch) -> None:
        raise AssertionError("an idle pass submits nothing")

    def fetch(self, job: JobSeen, into: Path) -> None:
        raise AssertionError("an idle pass fetches nothing")

    def remove(self, keys: Collection[str]) -> None:
        raise AssertionError("an idle pass removes nothing")

    def forget(self, launch_key: str) -> None:
        raise AssertionError("an idle pass forgets nothing")


class Idle:
    """A daemon that has nothing to do, with so many files known; one pass a call."""

    def __init__(self, home: Path, known: int, mixed: bool):
        remove(home)
        self.now = datetime.now(UTC)
        self.k = make_keeper_at(home)
        parts = UNDER_WAY | {"debug": known // 100} if mixed else {}
        fill(self.k, parts | {"declared": known - sum(parts.values())}, self.now - timedelta(hours=3))
        running = _under_way(self.k, self.now) if mixed else []
        quiet: Any = QuietSam(known)
        self.k.sam, self.k.batch = quiet, QuietBatch(running)
        with self.k.database.write("swept") as db:
            db.exec_driver_sql("UPDATE campaigns SET swept = counted + 10800000")
        self.passes = Passes(self.k)
        for _ in range(3):  # the first passes look at everything once, and write the problem definitions
            self.one_pass()

    def one_pass(self) -> float:
        """Seconds of one pass with its courier."""
        self.now += timedelta(seconds=1)
        begun = time.perf_counter()
        self.passes.one_pass(self.now)
        assert courier.deliver(self.k, EFFECTS, self.now) == 0
        return time.perf_counter() - begun

    def end(self) -> None:
        """Every poll must have gone well: what is broken is quick."""
        with self.k.database.read() as db:
            assert not db.execute(select(polls).where(polls.c.failed.is_not(None))).all()
        self.k.database.close()


def _under_way(k: Keeper, now: datetime) -> list[JobSeen]:
    """A launch with a job for each running unit; waiting units are due in an hour."""
    later = now + timedelta(hours=1)
    with k.database.write("fill") as db:
        db.execute(update(units).where(units.c.state.in_(["pending", "held", "crash"])).values(due=later))
        running = list(db.execute(select(units.c.id).where(units.c.state == "running")).scalars())
        launch = {"key": "20260101-000000-aaaa", "campaign_id": next(iter(k.campaigns)), "created": now,
                  "submitted": now, "settings": next(iter(k.campaigns.values())).as_json()}  # fmt: skip
        launch_id = db.execute(insert(launches).values(launch).returning(launches.c.id)).scalar_one()
        numbers = range(1, len(running) + 1)
        db.execute(insert(jobs), [{"launch_id": launch_id, "number": n, "state": "running", "host": "node1"} for n in
                                  numbers])  # fmt: skip
        db.execute(insert(attempts), [{"unit_id": unit, "launch_id": launch_id} for unit in running])
        assert db.execute(select(func.count()).select_from(jobs)).scalar_one() == UNDER_WAY["running"]
    tag = f"bench/x/{launch['key']}"
    return [JobSeen(f"{launch['key']}.{n}", tag, JobState.RUNNING, host="node1") for n in numbers]


def measure(quick: bool = False) -> list[Figure]:
    return [_compared("all declared", False, quick), _compared("mix", True, quick)]


def _compared(name: str, mixed: bool, quick: bool) -> Figure:
    large = LARGE // 10 if quick else LARGE
    one, other = Idle(WORK / "idle_large", large, mixed), Idle(WORK / "idle_small", SMALL, mixed)
    ours, base = in_turns(20 if quick else 200, one.one_pass, other.one_pass)
    one.end()
    other.end()
    detail = f"{large} files {median(ours) * 1000:.1f} ms, {SMALL} files {median(base) * 1000:.1f} ms"
    return Figure(f"idle pass, {name}: {large // 1000}k / 3k files", ratio(ours, base), "", 1.2, 1.2, detail=detail)
