"""Open the database: SQLite in WAL mode or PostgreSQL, reads and writes as transactions with typed errors.

A write transaction has a name: it is what the log says when the database refuses it, and what the crash tests aim at.
"""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sqlalchemy import Connection, Engine, create_engine, event, make_url, text
from sqlalchemy.exc import DatabaseError, OperationalError

from keepupd.core.errors import SchemaError, StoreUnavailable
from keepupd.store import postgres
from keepupd.store.tables import SCHEMA

LOCK_PATIENCE_S = 10


def open_engine(url: str, read_only: bool = False) -> Engine:
    """An engine for `url`. On SQLite: WAL, synced at each commit, and write transactions that lock at once."""
    if not url.startswith("sqlite"):
        return postgres.make_engine(url, LOCK_PATIENCE_S)
    engine = create_engine(url)
    event.listen(engine, "connect", _sqlite_reads if read_only else _sqlite_writes)
    event.listen(engine, "begin", _sqlite_begin)
    return engine


def _sqlite_writes(connection: Any, _record: Any) -> None:
    _sqlite_reads(connection, _record)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")  # a commit survives a power cut, too


def _sqlite_reads(connection: Any, _record: Any) -> None:
    connection.isolation_level = None  # SQLAlchemy's begin event below starts transactions, not the driver
    connection.execute(f"PRAGMA busy_timeout={LOCK_PATIENCE_S * 1000}")
    connection.execute("PRAGMA temp_store=FILE")


def _sqlite_begin(connection: Connection) -> None:
    writes = connection.get_execution_options().get("writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


class Database:
    """Transactions on one engine. Both raise StoreUnavailable when the database is locked, full or gone."""

    def __init__(self, url: str, read_only: bool = False):
        self.url = url
        self.engine = open_engine(url, read_only)
        self.is_postgres = self.engine.dialect.name == "postgresql"
        self.readers = self.engine.execution_options(**postgres.READS) if self.is_postgres else self.engine
        self.lock: postgres.DaemonLock | None = None

    @property
    def shown(self) -> str:
        """The URL, without its password."""
        return make_url(self.url).render_as_string(hide_password=True)

    def hold(self) -> None:
        """Be the database's one daemon from here on, or make sure of it; on SQLite the lock of its directory does that.

        Raises AlreadyRunning when another daemon has it, also when that took it while the server was away.
        """
        if self.is_postgres:
            self.lock = self.lock or postgres.DaemonLock(self.engine)
            with _typed_errors("the daemon's lock"):
                self.lock.hold()

    @contextmanager
    def read(self) -> Iterator[Connection]:
        with _typed_errors("reading"), self.readers.connect() as db, db.begin():
            yield db

    @contextmanager
    def connection(self) -> Iterator[Connection]:
        """One connection for several transactions, which share its temporary tables."""
        with _typed_errors("connecting"), self.engine.connect() as db:
            yield db

    @contextmanager
    def write(self, name: str, on: Connection | None = None) -> Iterator[Connection]:
        """One write transaction, on a connection of its own or on the given one."""
        with _typed_errors(name), nullcontext(on) if on is not None else self.engine.connect() as db:
            db.execution_options(writes=True)
            with db.begin():
                if self.is_postgres:
                    postgres.take_turn(db)
                if self.lock:
                    self.lock.hold()
                yield db
                self.before_commit(name)
            db.execution_options(writes=False)
            self.after_commit(name)

    def before_commit(self, name: str) -> None:
        """The last moment at which a crash undoes the transaction; the crash tests stop here."""

    def after_commit(self, name: str) -> None:
        """The first moment at which the transaction has happened; the crash tests stop here."""

    def close(self) -> None:
        if self.lock:
            self.lock.release()
        self.engine.dispose()


def look_only(url: str) -> Database | None:
    """A database to read without a trace; None where there is no file. SQLite then makes none beside it to read it."""
    if not url.startswith("sqlite:///"):
        return Database(url, read_only=True)
    path = Path(url.removeprefix("sqlite:///"))
    if not path.is_file():
        return None
    alone = "" if path.with_name(f"{path.name}-wal").exists() else "&immutable=1"  # nobody has it open
    found = Database(f"sqlite:///file:{quote(str(path))}?mode=ro{alone}&uri=true", read_only=True)
    found.url = url  # to be shown
    return found


@contextmanager
def _typed_errors(doing: str) -> Iterator[None]:
    try:
        yield
    except DatabaseError as error:
        words = " ".join(str(error.orig).split())
        gone = error.connection_invalidated or "connection failed" in words
        if not (gone or isinstance(error, OperationalError) or "not a database" in words or "malformed" in words):
            raise
        became = "is gone" if gone else "failed"
        raise StoreUnavailable(f"the database {became} at {doing!r}: {words}", _remedy(words)) from error


def _remedy(words: str) -> str:
    if "locked" in words:
        return "another process holds it (`fuser FILE`); the next pass tries again"
    if "lock timeout" in words:
        return "another process holds it (`select * from pg_stat_activity`); the next pass tries again"
    if "full" in words or "disk I/O" in words or "No space left" in words:
        return "free space on the disk of the database; the next pass tries again"
    if "not a database" in words or "malformed" in words:
        return "stop the daemon, move the database's files away and start it: keepupd rebuilds them from SAM and batch"
    return "the next pass tries again; if it goes on, see the database's own log"


def schema_version(db: Connection) -> str | None:
    """The schema the database has; None for an empty database."""
    if not db.dialect.has_table(db, "alembic_version"):
        return None
    return db.execute(text("SELECT version_num FROM alembic_version")).scalar()


def check_schema(db: Connection, config: Path | str) -> None:
    """Raises SchemaError when this keepupd and the database do not fit, with the command that mends it."""
    found = schema_version(db)
    if found != SCHEMA:
        raise SchemaError(
            f"the database has schema {found or 'none'}, this keepupd needs {SCHEMA}",
            f"stop the daemon and run `keepupd db upgrade -c {config}`"
            if found is None or found < SCHEMA
            else "it was written by a newer keepupd: install that version",
        )
