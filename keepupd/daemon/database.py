"""The daemon's database: one daemon holds it, and makes it where there is none; and what `keepupd db` does with it."""

import fcntl
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path

from keepupd.config import Settings
from keepupd.core.errors import AlreadyRunning, KeepupError
from keepupd.store import health, postgres
from keepupd.store.copy import copy
from keepupd.store.database import Database, check_schema, look_only, schema_version
from keepupd.store.upgrade import upgrade


@contextmanager
def held_database(settings: Settings) -> Iterator[Database]:
    """Hold the state directory and the database alone. Raises AlreadyRunning, naming who holds it."""
    with _only_daemon(settings.state_dir), closing(Database(settings.database)) as database:
        database.hold()
        yield database


@contextmanager
def _only_daemon(state_dir: Path) -> Iterator[None]:
    state_dir.mkdir(parents=True, exist_ok=True)
    with (state_dir / "keepupd.lock").open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.seek(0)
            holder = lock.read().strip() or "another process"
            raise AlreadyRunning(
                f"{state_dir} is held by {holder}", "stop that daemon first: there is one for each database"
            ) from None
        lock.truncate(0)
        lock.write(f"pid {os.getpid()} on {socket.gethostname()} since {datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC\n")
        lock.flush()
        yield


def make_ready(database: Database, config: Path) -> None:
    """Make the tables where there are none. Raises SchemaError when the database fits another keepupd."""
    with database.read() as db:
        is_empty = schema_version(db) is None
    if is_empty:
        upgrade(database)
    with database.read() as db:
        check_schema(db, config)


def check(settings: Settings, tell: Callable[[str], None]) -> bool:
    """Tell what the database is, who holds it, how many rows it has, and what is wrong with it. Changes nothing."""
    database = look_only(settings.database)
    if database is None:
        tell(f"there is no database yet: {settings.database}; `keepupd run` makes it")
        return True
    with closing(database), database.read() as db:
        tell(f"{database.shown}: {health.server(db)}, schema {schema_version(db) or 'none'}")
        if database.is_postgres:
            tell(f"held by {postgres.holder(db) or 'no daemon'}")
        check_schema(db, settings.file)
        tell("rows: " + ", ".join(f"{name} {n}" for name, n in health.counts(db).items() if n))
        faults = health.faults(db)
    for fault in faults:
        tell(f"FAULT {fault}")
    tell("all is well" if not faults else f"{len(faults)} fault(s): see docs/postgresql.md")
    return not faults


def copy_to(settings: Settings, url: str, tell: Callable[[str], None]) -> None:
    """Copy the SQLite database of these settings into an empty PostgreSQL database; the daemon must be stopped."""
    with _only_daemon(settings.state_dir), closing(Database(url)) as target:
        target.hold()
        source = look_only(settings.database)
        if source is None or source.is_postgres:
            raise KeepupError("there is no SQLite database to copy from", "`database:` in the daemon's file says which")
        with closing(source):
            copy(source, target, settings.file, tell)
    tell(f"copied; now set `database: {target.shown}` in {settings.file}, and move the old file away")
