"""File records: declare, modify, retire, read, and who descends from whom. All run inside a transaction of `db`."""

import json
import sqlite3
import time
from collections.abc import Iterable, Sequence
from typing import Any

from .errors import FileAlreadyExists, FileNotFound, InvalidMetadata
from .match import INT_MAX
from .metadata import Record, check, iso

Db = sqlite3.Connection


def file_id(db: Db, column: str, key: str) -> int:
    """The id of a file by file_name or file_id. Raises FileNotFound; a retired file is found."""
    row = None
    if column == "file_name" or (key.isascii() and key.isdigit() and int(key) <= INT_MAX):
        row = db.execute(f"SELECT file_id FROM files WHERE {column} = ?", (key,)).fetchone()
    if row is None:
        raise FileNotFound(f"File '{key}' not found")
    return int(row[0])


def declare(db: Db, raw: object, user: str) -> int:
    """Put one file in the catalog; returns its file_id. Raises InvalidMetadata, FileAlreadyExists (retired or not)."""
    name = raw.get("file_name") if isinstance(raw, dict) else None
    if isinstance(name, str) and db.execute("SELECT 1 FROM files WHERE file_name = ?", (name,)).fetchone():
        raise FileAlreadyExists(f"File '{name}' already exists")
    record = check(db, raw, new=True)
    columns = {"content_status": "good", "user_name": user, **record.columns, "create_date": int(time.time())}
    marks = ", ".join("?" * len(columns))
    cursor = db.execute(f"INSERT INTO files ({', '.join(columns)}) VALUES ({marks})", tuple(columns.values()))
    new_id = int(cursor.lastrowid or 0)
    _write_lists(db, new_id, record)
    return new_id


def declare_many(db: Db, raw: list[object], user: str) -> list[int]:
    """All or none. Raises what declare raises, naming the file."""
    ids = []
    for number, one in enumerate(raw):
        try:
            ids.append(declare(db, one, user))
        except InvalidMetadata as error:
            name = one.get("file_name") if isinstance(one, dict) else None
            raise InvalidMetadata([f"{name or f'item {number}'}: {p}" for p in str(error).split("\n")]) from None
    return ids


def modify(db: Db, column: str, key: str, raw: object, user: str) -> None:
    """Change only the fields given; null empties one. Raises FileNotFound, InvalidMetadata."""
    changed = file_id(db, column, key)
    if isinstance(raw, dict) and "file_name" in raw:
        name = db.execute("SELECT file_name FROM files WHERE file_id = ?", (changed,)).fetchone()[0]
        if raw["file_name"] != name:
            raise InvalidMetadata([f"field 'file_name': a file can't be renamed, it is {name!r}"])
    record = check(db, raw, new=False)
    if record.parents and changed in record.parents:
        raise InvalidMetadata(["field 'parents': a file can't be its own parent"])
    columns = {**record.columns, "update_date": int(time.time()), "update_user": user}
    db.execute(f"UPDATE files SET {', '.join(f'{c} = ?' for c in columns)} WHERE file_id = ?",
               (*columns.values(), changed))
    for table, owner, given in (("checksums", "file_id", record.checksums), ("runs", "file_id", record.runs),
                                ("parentage", "child_id", record.parents)):
        if given is not None:
            db.execute(f"DELETE FROM {table} WHERE {owner} = ?", (changed,))
    for param_id in record.parameters:
        db.execute("DELETE FROM file_parameters WHERE file_id = ? AND param_id = ?", (changed, param_id))
    _write_lists(db, changed, record)


def modify_many(db: Db, raw: list[object], user: str) -> None:
    """All or none; each has the file_name of the file to change."""
    for one in raw:
        if not isinstance(one, dict) or not isinstance(one.get("file_name"), str):
            raise InvalidMetadata(["each item must be an object with a file_name"])
        modify(db, "file_name", one["file_name"], one, user)


def _write_lists(db: Db, owner: int, record: Record) -> None:
    db.executemany("INSERT INTO checksums VALUES (?, ?)", [(owner, c) for c in record.checksums or ()])
    db.executemany("INSERT INTO runs VALUES (?, ?, ?, ?)", [(owner, *run) for run in record.runs or ()])
    db.executemany("INSERT INTO parentage VALUES (?, ?)", [(owner, p) for p in record.parents or ()])
    db.executemany("INSERT INTO file_parameters VALUES (?, ?, ?)",
                   [(owner, p, v) for p, v in record.parameters.items() if v is not None])


def retire(db: Db, column: str, key: str) -> None:
    """Hide a file from default queries for good; its name stays taken. Repeating it changes nothing."""
    db.execute("UPDATE files SET retired_date = coalesce(retired_date, ?) WHERE file_id = ?",
               (int(time.time()), file_id(db, column, key)))


def find_ids(db: Db, names: Sequence[str], ids: Sequence[str]) -> list[tuple[str, int]]:
    """(as asked, file_id) of the files that exist, in the order asked; the others are left out."""
    pairs = []
    known = db.execute("SELECT file_name, file_id FROM files WHERE file_name IN (SELECT value FROM json_each(?))",
                       (json.dumps(names),))
    by_name: dict[str, int] = dict(known.fetchall())
    pairs += [(n, by_name[n]) for n in dict.fromkeys(names) if n in by_name]
    numbers = {i: int(i) for i in ids if i.isascii() and i.isdigit() and len(i) < 20 and int(i) <= INT_MAX}
    found = {r[0] for r in db.execute("SELECT file_id FROM files WHERE file_id IN (SELECT value FROM json_each(?))",
                                      (json.dumps(list(numbers.values())),))}
    return pairs + [(asked, i) for asked, i in numbers.items() if i in found]


def records(db: Db, ids: Sequence[int], locations: bool = False, basic: bool = False) -> list[dict[str, Any]]:
    """Metadata as SAM shows them, in the order of ids; retired files are included, with their retired_date.

    basic leaves out parameters, runs and parents. One query a table, however many files.
    """
    chosen = (json.dumps(list(ids)),)
    made = {r["file_id"]: _core(r) for r in db.execute(
        "SELECT f.*, a.family, a.name, a.version FROM files f LEFT JOIN applications a USING (application_id) "
        "WHERE f.file_id IN (SELECT value FROM json_each(?))", chosen)}
    for r in db.execute("SELECT * FROM checksums WHERE file_id IN (SELECT value FROM json_each(?))", chosen):
        made[r["file_id"]]["checksum"].append(r["checksum"])
    if not basic:
        _add_details(db, made, chosen)
    if locations:
        for record in made.values():
            record["locations"] = []
        for r in db.execute("SELECT * FROM locations WHERE file_id IN (SELECT value FROM json_each(?)) "
                            "ORDER BY location_id", chosen):
            made[r["file_id"]]["locations"].append(location_json(r))
    return [{k: v for k, v in made[i].items() if v is not None and (v or k != "checksum")}
            for i in dict.fromkeys(ids) if i in made]


def _core(row: sqlite3.Row) -> dict[str, Any]:
    application = {k: row[k] for k in ("family", "name", "version")} if row["application_id"] else None
    ranges = row["lum_block_ranges"]
    return {"file_name": row["file_name"], "file_id": row["file_id"], "create_date": iso(row["create_date"]),
            "user": row["user_name"], "update_date": iso(row["update_date"]), "update_user": row["update_user"],
            "file_size": row["file_size"], "checksum": [], "content_status": row["content_status"],
            "file_type": row["file_type"], "file_format": row["file_format"], "group": row["group_name"],
            "data_tier": row["data_tier"], "data_stream": row["data_stream"], "application": application,
            "event_count": row["event_count"], "first_event": row["first_event"], "last_event": row["last_event"],
            "start_time": iso(row["start_time"]), "end_time": iso(row["end_time"]), "process_id": row["process_id"],
            "file_partition": row["file_partition"], "lum_block_ranges": json.loads(ranges) if ranges else None,
            "retired_date": iso(row["retired_date"])}


def _add_details(db: Db, made: dict[int, dict[str, Any]], chosen: tuple[str]) -> None:
    for r in db.execute("SELECT v.file_id, p.name, v.value FROM file_parameters v JOIN parameters p USING (param_id) "
                        "WHERE v.file_id IN (SELECT value FROM json_each(?)) ORDER BY p.name", chosen):
        made[r["file_id"]][r["name"]] = r["value"]
    for r in db.execute("SELECT * FROM runs WHERE file_id IN (SELECT value FROM json_each(?)) ORDER BY run, subrun",
                        chosen):
        run = [r["run"], r["subrun"], r["run_type"]]
        made[r["file_id"]].setdefault("runs", []).append([part for part in run if part is not None])
    for r in db.execute("SELECT g.child_id, f.file_name, f.file_id FROM parentage g JOIN files f ON f.file_id = "
                        "g.parent_id WHERE g.child_id IN (SELECT value FROM json_each(?)) ORDER BY f.file_id", chosen):
        made[r["child_id"]].setdefault("parents", []).append({"file_name": r["file_name"], "file_id": r["file_id"]})


def location_json(row: sqlite3.Row) -> dict[str, str]:
    """A location as clients read it: `location` is as it was added, `full_path` without a tape suffix."""
    return {"full_path": row["full_path"], "location": row["location"], "location_type": row["location_type"]}


def lineage(db: Db, start: int, direction: str) -> list[dict[str, Any]]:
    """Relatives of a file as nested nodes. A file met twice has its own relatives shown at the first place only.

    direction: parents, children (one step), ancestors, descendants (nested), rawancestors (those without parents).
    """
    up = direction in ("parents", "ancestors", "rawancestors")
    near, far, key = ("child_id", "parent_id", "parents") if up else ("parent_id", "child_id", "children")
    roots: dict[str, Any] = {"file_id": start}
    nodes, queue, seen = [roots], [roots], {start}
    while queue:
        node = queue.pop(0)
        below = [_node(r) for r in db.execute(
            f"SELECT f.file_id, f.file_name, f.retired_date FROM parentage g JOIN files f ON f.file_id = g.{far} "
            f"WHERE g.{near} = ? ORDER BY f.file_id", (node["file_id"],))]
        if below:
            node[key] = below
        fresh = [n for n in below if n["file_id"] not in seen]
        seen.update(n["file_id"] for n in fresh)
        nodes += fresh
        queue += fresh if direction not in ("parents", "children") else []
    if direction == "rawancestors":
        return [n for n in nodes[1:] if key not in n]
    found: list[dict[str, Any]] = roots.get(key, [])
    return found


def _node(row: sqlite3.Row) -> dict[str, Any]:
    node: dict[str, Any] = {"file_name": row["file_name"], "file_id": row["file_id"]}
    return {**node, "retired": True} if row["retired_date"] else node


def lineage_text(nodes: Iterable[dict[str, Any]], depth: int = 0) -> str:
    """One name a line, four blanks a generation. Deep families are cut at 200 generations."""
    return "".join(" " * 4 * depth + n["file_name"] + "\n" + (lineage_text(
        n.get("parents") or n.get("children") or [], depth + 1) if depth < 200 else "") for n in nodes)
