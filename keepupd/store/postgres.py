"""What PostgreSQL needs beyond SQLite: connections that notice when the server is gone, one writer at a time, a lock.

Transactions that write take turns by an advisory lock, as SQLite's do: a move means the same on both databases, no two
transactions wait for each other's rows, and none gives an id that another has given. The daemon's own lock is another:
the server frees it when the daemon's connection ends, however it ends.
"""

import os
import socket
import threading
from functools import cache
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, func, select, text
from sqlalchemy.exc import DBAPIError

from keepupd.core.errors import AlreadyRunning, StoreUnavailable

OURS = 0x6B656570  # "keep": our part of the advisory locks of a database
DAEMON, WRITER = 1, 2
# in seconds, the last in milliseconds; without them a write to a host that is gone waits for a quarter of an hour
NOTICES = {"connect_timeout": 10, "keepalives_idle": 30, "keepalives_interval": 10, "keepalives_count": 3,
           "tcp_user_timeout": 60 * 1000}  # fmt: skip
# the server notices as soon that we are gone, and frees our lock
SESSION = "SET tcp_keepalives_idle=30; SET tcp_keepalives_interval=10; SET tcp_keepalives_count=3"
READS = {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}  # all of a transaction sees one moment
HOLDER = """
SELECT coalesce(nullif(a.application_name, ''), 'server process ' || l.pid) || ' since '
  || coalesce(to_char(a.backend_start AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS "UTC"'), 'some time')
FROM pg_locks l LEFT JOIN pg_stat_activity a USING (pid)
WHERE l.locktype = 'advisory' AND l.granted AND l.classid = :ours AND l.objid = :daemon
  AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""


def make_engine(url: str, patience_s: float) -> Engine:
    """Raises StoreUnavailable without the driver. `patience_s`: how long to wait for another writer."""
    try:
        engine = create_engine(url, pool_pre_ping=True, connect_args=NOTICES)
    except ModuleNotFoundError as missing:
        raise StoreUnavailable(f"PostgreSQL needs {missing.name}", "pip install 'keepupd[postgres]'") from None
    event.listen(engine, "connect", lambda connection, _: _prepare(connection, patience_s))
    return engine


def _prepare(connection: Any, patience_s: float) -> None:
    words, whole = _adapters()
    connection.adapters.register_dumper(str, words)
    connection.adapters.register_loader("numeric", whole)
    connection.execute(f"SET lock_timeout={round(patience_s * 1000)}; {SESSION}")
    connection.commit()


@cache
def _adapters() -> tuple[Any, Any]:
    from psycopg.adapt import Loader  # only here: the library is an extra
    from psycopg.types.string import StrDumperUnknown

    class Words(StrDumperUnknown):
        """No text of PostgreSQL takes a NUL; logs of executables have them."""

        def dump(self, obj: str) -> Any:
            return super().dump(obj.replace("\0", "\N{SYMBOL FOR NULL}"))

    class Sum(Loader):
        """What sum() makes of whole numbers is one."""

        def load(self, data: Any) -> int:
            return int(bytes(data))

    return Words, Sum


def take_turn(db: Connection) -> None:
    """Wait until no other transaction writes; this one's end is the next one's turn."""
    db.execute(select(func.pg_advisory_xact_lock(OURS, WRITER)))


def holder(db: Connection) -> str | None:
    """The daemon that has the lock, in words."""
    return db.execute(text(HOLDER), {"ours": OURS, "daemon": DAEMON}).scalar()


class DaemonLock:
    """The lock of the one daemon, on a connection of its own. Threads may share it."""

    def __init__(self, engine: Engine):
        self.engine = engine
        self.db: Connection | None = None
        self.alone = threading.Lock()

    def hold(self) -> None:
        """Take the lock, or make sure of it: a restart of the server frees it, and then it is taken again.

        Raises AlreadyRunning, naming who has it.
        """
        with self.alone:
            if self.db is None or not self._is_held(self.db):
                self.db = None
                self.db = self._taken()

    def _is_held(self, db: Connection) -> bool:
        try:
            db.exec_driver_sql("SELECT 1")
        except DBAPIError:
            db.close()
            return False
        return True

    def _taken(self) -> Connection:
        db = self.engine.connect().execution_options(isolation_level="AUTOCOMMIT")
        me = f"keepupd pid {os.getpid()} on {socket.gethostname()}"[:63]  # the server keeps no more of a name
        db.execute(select(func.set_config("application_name", me, False)))
        if db.execute(select(func.pg_try_advisory_lock(OURS, DAEMON))).scalar():
            return db
        other = holder(db) or "another process"
        db.invalidate()  # the pool must not hand it out under this name
        db.close()
        raise AlreadyRunning(
            f"the database is held by {other}", "stop that daemon first: there is one for each database"
        )

    def release(self) -> None:
        with self.alone:
            if self.db is not None:
                self.db.invalidate()
                self.db.close()
            self.db = None
