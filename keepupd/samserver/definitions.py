"""Dataset definitions and their snapshots.

A definition may be renamed at any time, deleted only while no snapshot of it exists. A snapshot that would equal the
newest one of its definition is that one: taking it again gives the same number. A large snapshot is written in parts,
so that other writers get their turn; it counts from the moment it is complete.
"""

import hashlib
import re
import sqlite3
import time
from array import array
from typing import Any

from .compile import compile_dims
from .db import Database
from .errors import BadRequest, DefinitionExists, DefinitionInUse, DefinitionNotFound, SnapshotNotFound
from .metadata import iso

Db = sqlite3.Connection
PART = 20_000       # snapshot rows in one transaction: some 30 ms


def check_name(what: str, name: str) -> None:
    """Raises BadRequest for a name that can't stand in a URL and in a query."""
    if not name or len(name) > 200 or re.search(r"[/\x00-\x1f\x7f'\"]", name):
        raise BadRequest(f"{what} has 1 to 200 characters, without / or quotes, not {name[:300]!r}")


def find(db: Db, name: str) -> sqlite3.Row:
    """The definition of that name. Raises DefinitionNotFound."""
    row: sqlite3.Row | None = db.execute("SELECT * FROM definitions WHERE defname = ?", (name,)).fetchone()
    if row is None:
        raise DefinitionNotFound(f"Definition '{name}' not found")
    return row


def create(db: Db, name: str, dims: str, user: str, group: str, description: str) -> int:
    """Save a query under a name; returns its number. Raises DefinitionExists, DimensionError when it can't be run."""
    check_name("a definition's name", name)
    compile_dims(db, dims)
    try:
        cursor = db.execute(
            "INSERT INTO definitions (defname, dimensions, username, group_name, description, create_date) "
            "VALUES (?, ?, ?, ?, ?, ?)", (name, dims, user, group, description, int(time.time())))
    except sqlite3.IntegrityError:
        raise DefinitionExists(f"Definition '{name}' already exists") from None
    return int(cursor.lastrowid or 0)


def describe(db: Db, name: str) -> dict[str, Any]:
    """A definition as JSON. Raises DefinitionNotFound."""
    row = find(db, name)
    return {"defname": row["defname"], "defid": row["definition_id"], "dimensions": row["dimensions"],
            "username": row["username"], "group": row["group_name"], "description": row["description"],
            "create_time": iso(row["create_date"])}


def rename(db: Db, name: str, new_name: str, description: str) -> None:
    """Give it another name or description; snapshots keep it. Raises DefinitionNotFound, DefinitionExists."""
    row = find(db, name)
    if new_name:
        check_name("a definition's name", new_name)
    try:
        db.execute("UPDATE definitions SET defname = ?, description = ? WHERE definition_id = ?",
                   (new_name or name, description or row["description"], row["definition_id"]))
    except sqlite3.IntegrityError:
        raise DefinitionExists(f"Definition '{new_name}' already exists") from None


def delete(db: Db, name: str) -> None:
    """Raises DefinitionNotFound, DefinitionInUse when it has a snapshot."""
    row = find(db, name)
    if db.execute("SELECT 1 FROM snapshots WHERE definition_id = ?", (row["definition_id"],)).fetchone():
        raise DefinitionInUse(f"Definition '{name}' can't be deleted: snapshots of it exist; rename it instead")
    db.execute("DELETE FROM definitions WHERE definition_id = ?", (row["definition_id"],))


async def take_snapshot(db: Database, name: str) -> int:
    """Freeze the definition's files as they are now; returns the number. Raises DefinitionNotFound, DimensionError."""
    ids = await db.query(_evaluate, name)
    digest = hashlib.sha256(ids.tobytes()).hexdigest()
    snapshot_id, is_new = await db.write(_begin_snapshot, name, digest, len(ids))
    if is_new:
        for start in range(0, len(ids), PART):
            await db.write(_fill_snapshot, snapshot_id, start, ids[start:start + PART])
        await db.write(_finish_snapshot, snapshot_id)
    return snapshot_id


def _evaluate(db: Db, name: str) -> "array[int]":
    query = compile_dims(db, find(db, name)["dimensions"])
    return array("q", (row[0] for row in db.execute(query.select("f.file_id"), query.args)))


def _begin_snapshot(db: Db, name: str, digest: str, count: int) -> tuple[int, bool]:
    definition_id = find(db, name)["definition_id"]
    last = db.execute("SELECT * FROM snapshots WHERE definition_id = ? ORDER BY version DESC LIMIT 1",
                      (definition_id,)).fetchone()
    if last and last["ready"] and last["digest"] == digest:
        return int(last["snapshot_id"]), False
    cursor = db.execute(
        "INSERT INTO snapshots (definition_id, version, digest, file_count, create_date) VALUES (?, ?, ?, ?, ?)",
        (definition_id, last["version"] + 1 if last else 1, digest, count, int(time.time())))
    return int(cursor.lastrowid or 0), True


def _fill_snapshot(db: Db, snapshot_id: int, start: int, ids: "array[int]") -> None:
    db.executemany("INSERT INTO snapshot_files VALUES (?, ?, ?)",
                   ((snapshot_id, number, file_id) for number, file_id in enumerate(ids, start + 1)))


def _finish_snapshot(db: Db, snapshot_id: int) -> None:
    db.execute("UPDATE snapshots SET ready = 1 WHERE snapshot_id = ?", (snapshot_id,))


def newest_snapshot(db: Db, name: str) -> int:
    """The newest complete snapshot. Raises DefinitionNotFound, SnapshotNotFound."""
    row = db.execute("SELECT max(snapshot_id) FROM snapshots WHERE definition_id = ? AND ready",
                     (find(db, name)["definition_id"],)).fetchone()
    if row[0] is None:
        raise SnapshotNotFound(f"Definition '{name}' has no snapshot yet")
    return int(row[0])


def names(db: Db, filters: dict[str, str], after: int | None, before: int | None) -> list[str]:
    """Names of definitions. filters: defname, username, group_name, each may hold `%`; times in seconds since 1970."""
    where, args = like_filters(filters)
    rows = db.execute(f"SELECT defname FROM definitions WHERE {where} AND create_date >= ? AND create_date <= ? "
                      "ORDER BY definition_id", (*args, after or 0, 2**62 if before is None else before))
    return [r[0] for r in rows]


def like_filters(filters: dict[str, str]) -> tuple[str, list[str]]:
    """SQL and values for columns that must match a text, `%` standing for any string; empty texts match all."""
    given = {column: value for column, value in filters.items() if value}
    globs = [re.sub(r"[*?\[]", r"[\g<0>]", value).replace("%", "*") for value in given.values()]
    return " AND ".join(["1", *(f"{column} GLOB ?" for column in given)]), globs
