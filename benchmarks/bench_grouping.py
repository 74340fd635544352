"""(f) Planning merge groups: what waiting files cost to put into groups, against reading them from the database."""

import time
from datetime import UTC, datetime, timedelta

from common import WORK, Figure, in_turns, median, remove, spread
from sqlalchemy import Connection, insert

from keepupd.core.plan import Group, GroupRules, Waiting, close_groups
from keepupd.store import grouping
from keepupd.store.database import Database
from keepupd.store.tables import campaigns, files
from keepupd.store.upgrade import upgrade

KEYS, CHUNK = 20, 10_000
RULES = GroupRules(max_files=50, max_bytes=10**11, max_events=10**6, max_age=timedelta(hours=1))
NOW = datetime(2026, 1, 5, 2, 0, tzinfo=UTC)


def measure(quick: bool) -> list[Figure]:
    n, home = 10_000 if quick else 100_000, WORK / "grouping"
    remove(home)
    home.mkdir(parents=True)
    database = Database(f"sqlite:///{home}/bench.db")
    upgrade(database)
    fill(database, n)

    def reading_s() -> float:
        with database.read() as db:
            began = time.perf_counter()
            read(db)
            return time.perf_counter() - began

    def planning_s() -> float:
        began = time.perf_counter()
        groups = [group for each in waiting for group in plan(each)]
        taken = time.perf_counter() - began
        assert sum(len(group.members) for group in groups) == n
        return taken

    with database.read() as db:
        waiting = read(db)
    reads, plans = in_turns(1 if quick else 7, reading_s, planning_s)
    database.close()
    detail = f"{n} files; reading {spread(reads)} s, planning {spread(plans)} s"
    return [Figure("grouping: planning / reading", median(plans) / median(reads), "x", 3.0, 3.0, detail=detail)]


def read(db: Connection) -> list[list[Waiting]]:
    """As the daemon reads them: by key."""
    return [grouping.waiting(db, 1, key) for key, *_ in grouping.waiting_keys(db, 1)]


def plan(waiting: list[Waiting]) -> list[Group]:
    groups = close_groups(waiting, RULES, NOW, "upstream complete")
    assert all(group.name for group in groups)  # the name is a hash of the members: part of the work
    return groups


def fill(database: Database, n: int) -> None:
    """A merge campaign whose files all wait; sizes and events vary, so that every rule is at work."""
    with database.write("bench") as db:
        db.execute(insert(campaigns).values(id=1, name="bench_merge", type="merge", settings="{}", state="running",
                                            since=NOW, created=NOW, epoch=NOW))  # fmt: skip
        for first in range(0, n, CHUNK):
            db.execute(insert(files), [_row(number) for number in range(first, first + CHUNK)])


def _row(n: int) -> dict[str, object]:
    return {
        "campaign_id": 1, "file_id": n + 1, "name": f"00000{n}_dune_mcc10_a_reco.root", "size": n * 7919 % 4 * 10**9,
        "events": n * 104_729 % 40_000, "seen": NOW - timedelta(seconds=n % 7200),
        "group_key": f'{{"run": {n % KEYS}}}',
    }  # fmt: skip
