"""New databases for tests: SQLite files, or PostgreSQL's while the fixture `which_database` has set a server."""

import shutil
import tempfile
from functools import cache
from itertools import count
from pathlib import Path

import psycopg
from pools.postgres import Cluster
from sqlalchemy import Connection

from keepupd.store.database import Database
from keepupd.store.upgrade import upgrade

server: Cluster | None = None
_numbers = count(1)
_made: list[str] = []


def bare(folder: Path, name: str = "keepupd") -> str:
    """URL of a database without tables."""
    return f"sqlite:///{folder}/{name}.db" if server is None else _create(server, "template0")


def empty(folder: Path, name: str = "keepupd") -> str:
    """URL of a database with the schema and no rows: a copy, which is quicker than the migrations."""
    if server is not None:
        return _create(server, _template(server))
    shutil.copy(_empty_file(), folder / f"{name}.db")
    return f"sqlite:///{folder}/{name}.db"


@cache
def _empty_file() -> str:
    path = f"{tempfile.mkdtemp()}/empty.db"
    database = Database(f"sqlite:///{path}")
    upgrade(database)
    with database.engine.connect() as db:
        db.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
    database.close()
    return path


@cache
def _template(cluster: Cluster) -> str:
    url = _create(cluster, "template0")
    _made.clear()
    database = Database(url)
    upgrade(database)
    database.close()
    return url.rpartition("/")[2]


def _create(cluster: Cluster, template: str) -> str:
    name = f"test{next(_numbers)}"
    _order(cluster, f"CREATE DATABASE {name} TEMPLATE {template}")
    _made.append(name)
    return cluster.url(name)


def drop_all(cluster: Cluster) -> None:
    """The databases of a test that is over, whoever is still connected."""
    while _made:
        _order(cluster, f"DROP DATABASE {_made.pop()} WITH (FORCE)")


def _order(cluster: Cluster, sql: str) -> None:
    with psycopg.connect(cluster.url().replace("+psycopg", ""), autocommit=True) as db:
        db.execute(sql)


def spoil(url: str) -> None:
    """Make what is there unreadable."""
    if server is not None:
        return drop_all(server)
    path = Path(url.removeprefix("sqlite:///"))
    path.write_bytes(b"this is no database" * 100)
    for leftover in path.parent.glob(f"{path.name}-*"):
        leftover.unlink()
    return None


def unguarded(db: Connection) -> None:
    """For the rest of the transaction rows may go that others refer to: PostgreSQL refuses it, but to a superuser."""
    if db.dialect.name == "postgresql":
        db.exec_driver_sql("SET LOCAL session_replication_role = replica")
