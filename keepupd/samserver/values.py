"""What must be registered before files may use it: values, parameters, applications; and users."""

import json
import re
import sqlite3
from collections.abc import Sequence
from typing import Any

from .errors import BadRequest, NotFound, ValueExists
from .tables import GENERIC_VALUES

Db = sqlite3.Connection
DATA_TYPES = ("string", "int", "float")


def _check(what: str, value: str) -> None:
    if not value or len(value) > 200 or not value.isprintable():
        raise BadRequest(f"{what} has 1 to 200 printable characters, not {value[:300]!r}")


def kinds() -> dict[str, dict[str, object]]:
    """The generic types, as `GET /values?list=generic` shows them."""
    return {kind: {"args": ["value"], "description": meaning} for kind, (meaning, _) in GENERIC_VALUES.items()}


def values(db: Db, kind: str) -> list[str]:
    """Registered values of a generic type. Raises NotFound."""
    if kind not in GENERIC_VALUES:
        raise NotFound(f"no values of type '{kind}': there are {', '.join(GENERIC_VALUES)}, parameters, applications, "
                       "data_disks")
    return [r[0] for r in db.execute("SELECT value FROM registered WHERE type = ? ORDER BY value", (kind,))]


def add_values(db: Db, kind: str, new: Sequence[str]) -> None:
    """Register values of a generic type. Raises NotFound, BadRequest, ValueExists."""
    known = values(db, kind)
    if not new:
        raise BadRequest("'value' is missing or empty")
    for value in new:
        _check("a value", value)
        if value in known:
            raise ValueExists(f"Value '{value}' already exists in {kind}")
        db.execute("INSERT OR IGNORE INTO registered VALUES (?, ?)", (kind, value))


def parameters(db: Db) -> list[dict[str, str]]:
    return [{"name": r[0], "data_type": r[1]} for r in db.execute("SELECT name, data_type FROM parameters ORDER BY 1")]


def add_parameter(db: Db, name: str, data_type: str) -> None:
    """Register Category.name; names differ by more than case. Raises BadRequest, ValueExists."""
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_+-]*(\.[A-Za-z0-9_+-]+)+", name) or len(name) > 200:
        raise BadRequest(f"a parameter is Category.name, of letters, digits, _ . - +, not '{name[:300]}'")
    if data_type not in DATA_TYPES:
        raise BadRequest(f"data_type is one of {', '.join(DATA_TYPES)}, not '{data_type[:100]}'")
    if db.execute("SELECT 1 FROM parameters WHERE name = ?", (name,)).fetchone():
        raise ValueExists(f"Parameter {name} already exists")
    db.execute("INSERT INTO parameters (name, data_type) VALUES (?, ?)", (name, data_type))


def parameter_values(db: Db, name: str) -> list[object]:
    """Values in use, at most 10,000. Raises NotFound."""
    row = db.execute("SELECT param_id FROM parameters WHERE name = ?", (name,)).fetchone()
    if row is None:
        raise NotFound(f"Parameter '{name}' not found")
    return [r[0] for r in db.execute(
        "SELECT DISTINCT value FROM file_parameters WHERE param_id = ? ORDER BY value LIMIT 10000", (row[0],))]


def applications(db: Db, family: str, name: str, version: str) -> list[dict[str, str]]:
    """Registered applications; an empty argument matches all."""
    return [dict(r) for r in db.execute(
        "SELECT family, name, version FROM applications WHERE ?1 IN ('', family) AND ?2 IN ('', name) "
        "AND ?3 IN ('', version) ORDER BY 1, 2, 3", (family, name, version))]


def add_application(db: Db, family: str, name: str, version: str) -> None:
    """Register a family, name, version. Raises BadRequest, ValueExists."""
    for part in (family, name, version):
        _check("each of family, name and version", part)
    added = db.execute("INSERT OR IGNORE INTO applications (family, name, version) VALUES (?, ?, ?)",
                       (family, name, version))
    if added.rowcount == 0:
        raise ValueExists(f"Application {family} {name} {version} already exists")


def users(db: Db) -> list[str]:
    return [r[0] for r in db.execute("SELECT username FROM users ORDER BY 1")]


def user(db: Db, name: str) -> dict[str, Any]:
    """A user's record. Raises NotFound."""
    row = db.execute("SELECT record FROM users WHERE username = ?", (name,)).fetchone()
    if row is None:
        raise NotFound(f"User '{name}' not found")
    record: dict[str, Any] = json.loads(row[0])
    return record


def add_user(db: Db, record: object) -> None:
    """Register a user: an object with username. Raises BadRequest, ValueExists."""
    if not isinstance(record, dict) or not isinstance(record.get("username"), str):
        raise BadRequest("a user is an object with a username")
    _check("a username", record["username"])
    if record["username"] in users(db):
        raise ValueExists(f"User '{record['username']}' already exists")
    db.execute("INSERT INTO users VALUES (?, ?)", (record["username"], json.dumps(record)))


def modify_user(db: Db, name: str, changes: dict[str, Any]) -> None:
    """Change fields of a user's record, all but the name. Raises NotFound."""
    record = {**user(db, name), **changes, "username": name}
    db.execute("UPDATE users SET record = ? WHERE username = ?", (json.dumps(record), name))
