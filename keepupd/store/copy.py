"""Copy a database from SQLite to PostgreSQL, all of it in one transaction: an interrupt leaves nothing behind."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Table, func, select, text

from keepupd.core.errors import KeepupError, StoreUnavailable
from keepupd.store.database import Database, check_schema
from keepupd.store.tables import metadata
from keepupd.store.upgrade import upgrade


def copy(source: Database, target: Database, config: Path, tell: Callable[[str], None]) -> None:
    """Every row of `source`, streamed, into the empty `target`; its tables are made where there are none.

    Raises KeepupError when the target has rows or a row does not fit, SchemaError for another keepupd's database.
    """
    upgrade(target)
    with source.read() as old, target.write("copy") as new:
        check_schema(old, config)
        check_schema(new, config)
        for table in metadata.sorted_tables:
            if new.execute(select(table).limit(1)).first() is not None:
                raise KeepupError(f"the database {target.shown} is not empty: {table.name} has rows",
                                  "make an empty one: docs/postgresql.md")  # fmt: skip
        for table in metadata.sorted_tables:
            tell(f"{table.name}: {_copy_table(old, new, table)} rows")
        new.exec_driver_sql("ANALYZE")  # its statistics are not what it would guess from


def _copy_table(old: Connection, new: Connection, table: Table) -> int:
    names = ", ".join(column.name for column in table.columns)
    rows = old.connection.cursor().execute(f"SELECT {names} FROM {table.name}")  # as they are stored, none converted
    _stream(rows, new.connection.cursor(), f"COPY {table.name} ({names}) FROM STDIN", table.name)
    counted = select(func.count()).select_from(table)
    there, here = old.execute(counted).scalar_one(), new.execute(counted).scalar_one()
    if there != here:
        raise KeepupError(f"{table.name}: {here} of {there} rows have arrived", "see the server's log, and try again")
    if table.autoincrement_column is not None:
        last = f"SELECT setval(pg_get_serial_sequence('{table.name}', 'id'), (SELECT max(id) FROM {table.name}))"
        new.execute(text(last))
    return int(here)


def _stream(rows: Any, cursor: Any, order: str, name: str) -> None:
    import psycopg  # only here: the library is an extra

    try:
        with cursor.copy(order) as out:
            for row in rows:
                out.write_row(row)
    except psycopg.OperationalError as error:
        raise StoreUnavailable(f"{name}: {_line(error)}", "nothing was copied; try again") from error
    except psycopg.DatabaseError as error:
        raise KeepupError(f"a row of {name} does not fit: {_line(error)}",
                          "nothing was copied; see `keepupd db check`, start the daemon on the old database once more"
                          " (it mends what it can at its next sweep), or see `keepupctl audit`") from error  # fmt: skip


def _line(error: Exception) -> str:
    return " ".join(str(error).split())
