"""What is wrong with a database itself, apart from what its rows say: for `keepupd db check`."""

from collections.abc import Iterator

from sqlalchemy import Connection, func, select, text

from keepupd.store.tables import metadata

MOST = 20  # faults of one kind to tell


def server(db: Connection) -> str:
    """SQLite or PostgreSQL, with its version."""
    name = {"sqlite": "SQLite", "postgresql": "PostgreSQL"}[db.dialect.name]
    return f"{name} {'.'.join(map(str, db.dialect.server_version_info or ()))}"


def counts(db: Connection) -> dict[str, int]:
    """Rows by table."""
    return {t.name: db.execute(select(func.count()).select_from(t)).scalar_one() for t in metadata.sorted_tables}


def faults(db: Connection) -> list[str]:
    """In words; reads the whole of an SQLite file."""
    return list(_of_file(db) if db.dialect.name == "sqlite" else _of_server(db))


def _of_file(db: Connection) -> Iterator[str]:
    for (said,) in db.exec_driver_sql(f"PRAGMA quick_check({MOST})"):
        if said != "ok":
            yield f"damaged: {said}"
    for row in db.exec_driver_sql("PRAGMA foreign_key_check").fetchmany(MOST):
        yield f"row {row[1]} of {row[0]} belongs to a missing row of {row[2]}"


def _of_server(db: Connection) -> Iterator[str]:
    for name, good in (("server_encoding", "UTF8"), ("fsync", "on"), ("synchronous_commit", "on")):
        if (found := db.execute(text(f"SHOW {name}")).scalar_one()) != good:
            yield f"{name} is {found}, must be {good}"
    if db.execute(select(func.pg_is_in_recovery())).scalar_one():
        yield "this server is a standby, which takes no writes"
    for table in metadata.sorted_tables:
        if table.autoincrement_column is not None and table.name != "units":  # units are numbered by the store
            sequence = db.execute(select(func.pg_get_serial_sequence(table.name, "id"))).scalar_one()
            next_id = db.execute(text(f"SELECT last_value + is_called::int FROM {sequence}")).scalar_one()
            if (db.execute(select(func.max(table.c.id))).scalar() or 0) >= next_id:
                yield f"the next id of {table.name} is taken"
