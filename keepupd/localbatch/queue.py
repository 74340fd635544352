"""The queue on disk (queue.db, SQLite in WAL mode): every job that was ever submitted and not forgotten, and its state.

One process writes. Each change of a job takes the next number of one counter, so `look` can say what changed since. The
counter starts at the milliseconds of the queue's creation, so that a cursor of a queue that was here before is noticed.
Commits survive kill -9 of keepup-batch; when the machine loses power the last ones may be lost.
"""

import contextlib
import json
import sqlite3
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from keepupd.localbatch.procs import BOOT_ID
from keepupd.localbatch.requests import Submit

VERSION = 1
SCHEMA = """
CREATE TABLE meta (version INTEGER, first INTEGER, changes INTEGER, boot TEXT);
CREATE TABLE submissions (      -- what the jobs of one submission have in common
    id INTEGER PRIMARY KEY, launch TEXT, tag TEXT, argv TEXT, environment TEXT, bring_home TEXT,
    cpus INTEGER, memory_mib INTEGER, disk_mib INTEGER, limit_s INTEGER);
CREATE TABLE jobs (
    seq INTEGER PRIMARY KEY, launch TEXT, number INTEGER, submission INTEGER REFERENCES submissions,
    state TEXT,                 -- idle, running, held, left, removed
    slot INTEGER, submitted REAL, started REAL, ended REAL, exit_code INTEGER, signal INTEGER,
    hold_code INTEGER, hold_reason TEXT DEFAULT '',     -- with state running: it is being stopped, to be held
    removing INTEGER DEFAULT 0,                         -- 1 with state running: it is being stopped, to be removed
    peak_mib INTEGER, wall_s REAL, changed INTEGER, UNIQUE (launch, number));
CREATE INDEX jobs_state ON jobs (state, seq);
CREATE INDEX jobs_changed ON jobs (changed);
CREATE TABLE forgotten (launch TEXT PRIMARY KEY, highest INTEGER);  -- jobs up to this number are known for ever
"""
WHOLE = "SELECT j.*, s.* FROM jobs j JOIN submissions s ON s.id = j.submission"
RESET = ", ".join(f"{name} = NULL" for name in (
    "slot", "started", "ended", "exit_code", "signal", "hold_code", "peak_mib", "wall_s"))  # fmt: skip


class QueueError(Exception):
    """queue.db can't be used; the message says why and what to do."""


def parts(key: str) -> tuple[str, int]:
    """Launch and number of a job key `launch.number`; number -1, which no job has, when it is not such a key."""
    launch, _, number = key.rpartition(".")
    return launch, int(number) if number.isdecimal() and len(number) < 18 else -1


class Queue:
    """Reads return sqlite3.Row; every write goes inside `with queue.transaction()`."""

    def __init__(self, path: Path):
        new = not path.exists() or path.stat().st_size == 0
        self._db = sqlite3.connect(path, isolation_level=None)
        self._db.row_factory = sqlite3.Row
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = NORMAL")
        if new:
            first = int(time.time() * 1000)
            self._db.executescript(
                f"BEGIN; {SCHEMA} INSERT INTO meta VALUES ({VERSION}, {first}, {first}, '{BOOT_ID}'); COMMIT"
            )
        version, self._first = self._db.execute("SELECT version, first FROM meta").fetchone()
        if version != VERSION:
            raise QueueError(
                f"{path} has version {version}, this keepup-batch reads {VERSION}; start the version that wrote it, "
                "or empty the directory once its jobs are done"
            )

    def close(self) -> None:
        self._db.close()

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._db.execute("COMMIT")
        except BaseException:
            with contextlib.suppress(sqlite3.Error):
                self._db.execute("ROLLBACK")
            raise

    def boot_was_another(self) -> bool:
        """Whether the machine was started anew since the last call: then no job of before can be running."""
        (before,) = self._db.execute("SELECT boot FROM meta").fetchone()
        self._db.execute("UPDATE meta SET boot = ?", (BOOT_ID,))
        return bool(before != BOOT_ID)

    def _next_changes(self, count: int = 1) -> int:
        """Take `count` numbers of the change counter; the first of them."""
        row = self._db.execute("UPDATE meta SET changes = changes + ? RETURNING changes", (count,)).fetchone()
        return int(row[0]) - count + 1

    # --- jobs come in ---------------------------------------------------------------------------------------------

    def submit(self, order: Submit, now: float) -> tuple[int | None, int]:
        """Queue the jobs whose key is not known. Returns the id of the submission (None: all known), and how many."""
        forgotten = self._db.execute("SELECT highest FROM forgotten WHERE launch = ?", (order.launch,)).fetchone()
        known = {n for (n,) in self._db.execute("SELECT number FROM jobs WHERE launch = ?", (order.launch,))}
        above = forgotten[0] if forgotten else -1
        numbers = [n for n in dict.fromkeys(order.numbers) if n > above and n not in known]
        if not numbers:
            return None, 0
        limits = order.limits
        submission = self._db.execute(
            "INSERT INTO submissions VALUES (NULL, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (order.launch, order.tag, json.dumps(order.argv), json.dumps(order.environment),
             json.dumps(order.bring_home), limits.cpus, limits.memory_mib, limits.disk_mib, limits.wall_s),
        ).lastrowid  # fmt: skip
        first = self._next_changes(len(numbers))
        self._db.executemany(
            "INSERT INTO jobs (launch, number, submission, state, submitted, changed) VALUES (?, ?, ?, 'idle', ?, ?)",
            ((order.launch, number, submission, now, first + i) for i, number in enumerate(numbers)),
        )
        return submission, len(numbers)

    # --- jobs change ----------------------------------------------------------------------------------------------

    def set(self, seq: int, **values: Any) -> None:
        """Change columns of one job."""
        values["changed"] = self._next_changes()
        self._db.execute(
            f"UPDATE jobs SET {', '.join(f'{name} = ?' for name in values)} WHERE seq = ?", (*values.values(), seq)
        )

    def reset(self, seq: int) -> None:
        """Back to idle, at its old place in the queue, as if it had never started."""
        self._db.execute(f"UPDATE jobs SET {RESET}, hold_reason = '' WHERE seq = ?", (seq,))
        self.set(seq, state="idle")

    def forget(self, launch: str) -> int:
        """Delete the jobs of a launch; that its numbers were used is kept for ever. Returns how many are in the way."""
        counts = self._db.execute(
            "SELECT count(*) FILTER (WHERE state NOT IN ('left', 'removed')), max(number) FROM jobs WHERE launch = ?",
            (launch,),
        ).fetchone()
        if counts[0] == 0 and counts[1] is not None:
            self._db.execute(
                "INSERT INTO forgotten VALUES (?, ?)"
                " ON CONFLICT DO UPDATE SET highest = max(highest, excluded.highest)",
                (launch, counts[1]),
            )
            self._db.execute("DELETE FROM jobs WHERE launch = ?", (launch,))
            self._db.execute("DELETE FROM submissions WHERE launch = ?", (launch,))
        return int(counts[0])

    # --- questions ------------------------------------------------------------------------------------------------

    def _rows(self, where: str, *values: Any) -> list[sqlite3.Row]:
        return self._db.execute(f"{WHOLE} WHERE {where}", values).fetchall()

    def first_idle(self) -> sqlite3.Row | None:
        return next(iter(self.in_state("idle", 1)), None)

    def in_state(self, state: str, count: int = 1_000_000) -> list[sqlite3.Row]:
        return self._rows("state = ? ORDER BY seq LIMIT ?", state, count)

    def jobs(self, keys: Iterable[str]) -> list[sqlite3.Row]:
        """The jobs with these keys; a key that nobody submitted is left out."""
        return [row for key in keys for row in self._rows("j.launch = ? AND number = ?", *parts(key))]

    def changed_since(self, cursor: int, removed_too: bool, count: int) -> list[sqlite3.Row]:
        where = "changed > ? AND (? OR state <> 'removed') ORDER BY changed LIMIT ?"
        return self._rows(where, cursor, removed_too, count)

    def changes(self) -> int:
        """The counter's value: the cursor of one who has seen everything."""
        return int(self._db.execute("SELECT changes FROM meta").fetchone()[0])

    def knows(self, cursor: int) -> bool:
        """Whether this queue can have given out this cursor."""
        return bool(self._first <= cursor <= self.changes())

    def counts(self) -> dict[str, int]:
        return dict(map(tuple, self._db.execute("SELECT state, count(*) FROM jobs GROUP BY state")))
