"""One SQLite file, one writer thread, two pools of readers: nothing a reader does ever blocks a writer.

Every write is one short BEGIN IMMEDIATE transaction in the writer thread, committed before the client hears of it.
WAL with synchronous=NORMAL: a killed server loses nothing it acknowledged; a power cut can lose the last seconds, never
the consistency. Long queries have a pool of their own, so that they don't hold up short ones.
"""

import asyncio
import sqlite3
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Concatenate, ParamSpec, TypeVar

from . import tables

P = ParamSpec("P")
T = TypeVar("T")
BUSY_TIMEOUT_S = 30.0       # another process (fill, sqlite3) may hold the file that long before a call fails


def connect(path: Path) -> sqlite3.Connection:
    """Open the catalog for one thread at a time, in autocommit mode: transactions are written out in full."""
    db = sqlite3.connect(path, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False,
                         cached_statements=512)
    db.row_factory = sqlite3.Row
    for pragma in ("journal_mode = WAL", "synchronous = NORMAL", "mmap_size = 1073741824", "cache_size = -16000",
                   "wal_autocheckpoint = 4000"):     # pages: fewer, longer pauses of the writer for a disk to catch up
        db.execute(f"PRAGMA {pragma}")
    return db


class Database:
    """The catalog file and the threads that may touch it."""

    def __init__(self, path: Path, experiment: str):
        self.path = path
        self.writer = connect(path)
        tables.create(self.writer, experiment)
        tables.drop_unfinished_snapshots(self.writer)
        self.own = threading.local()
        self.readers: list[sqlite3.Connection] = []
        self.write_thread = ThreadPoolExecutor(1, "writer")
        self.short_readers = ThreadPoolExecutor(2, "short", initializer=self._open_reader)
        self.long_readers = ThreadPoolExecutor(4, "long", initializer=self._open_reader)

    def _open_reader(self) -> None:
        self.own.db = connect(self.path)
        self.own.db.execute("PRAGMA query_only = 1")
        self.readers.append(self.own.db)

    async def write(self, work: Callable[Concatenate[sqlite3.Connection, P], T], *args: P.args, **kw: P.kwargs) -> T:
        """Run `work(db, ...)` in one transaction; when it raises, nothing of it is kept."""
        return await asyncio.get_running_loop().run_in_executor(
            self.write_thread, lambda: transact(self.writer, "BEGIN IMMEDIATE", work, *args, **kw))

    async def read(self, work: Callable[Concatenate[sqlite3.Connection, P], T], *args: P.args, **kw: P.kwargs) -> T:
        """Run a look-up of a few rows."""
        return await asyncio.get_running_loop().run_in_executor(
            self.short_readers, lambda: transact(self.own.db, "BEGIN", work, *args, **kw))

    async def query(self, work: Callable[Concatenate[sqlite3.Connection, P], T], *args: P.args, **kw: P.kwargs) -> T:
        """Run what may take long: anything with dimensions in it."""
        return await asyncio.get_running_loop().run_in_executor(
            self.long_readers, lambda: transact(self.own.db, "BEGIN", work, *args, **kw))

    def interrupt(self) -> None:
        """Stop the queries under way: their callers get a temporary error."""
        for db in self.readers:
            db.interrupt()

    def close(self) -> None:
        """Finish the write under way, and fold the log into the file."""
        self.interrupt()
        for pool in (self.short_readers, self.long_readers, self.write_thread):
            pool.shutdown(cancel_futures=True)
        for db in (*self.readers, self.writer):
            db.close()


def transact(db: sqlite3.Connection, begin: str, work: Callable[Concatenate[sqlite3.Connection, P], T],
             *args: P.args, **kw: P.kwargs) -> T:
    """Run `work(db, ...)` between begin and commit, so that all its statements see one state of the catalog."""
    db.execute(begin)
    try:
        result = work(db, *args, **kw)
    except BaseException:
        if db.in_transaction:       # SQLite has already rolled back after some errors, a full disk for one
            db.execute("ROLLBACK")
        raise
    db.execute("COMMIT")
    return result
