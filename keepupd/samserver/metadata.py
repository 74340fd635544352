"""What metadata may say: a JSON object from a client, checked and turned into rows, or back into JSON and text.

Every problem is found at once, one line each. Producers send numbers as strings, one checksum as a bare string, the old
`crc` object, and fields the server owns (file_id, create_date ...) copied from another record: all are accepted, the
last kind ignored.
"""

import json
import math
import re
import sqlite3
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from .errors import InvalidMetadata
from .match import INT_MAX, parse_time

MAX_NAME = 199          # characters: clients refuse 200
MAX_TEXT = 4000         # characters of any other text
TEXTS = {"file_type": "file_types", "file_format": "file_formats", "data_tier": "data_tiers",
         "data_stream": "data_streams", "group": "groups"}       # field -> type of its registered values
NUMBERS = ("file_size", "event_count", "first_event", "last_event", "process_id", "file_partition")
TIMES = ("start_time", "end_time")
OWNED = {"file_id", "create_date", "update_date", "update_user", "retired_date", "locations", "children"}
HEX_DIGITS = {"adler32": 8, "md5": 32, "sha1": 40, "sha256": 64, "sha512": 128}
COLUMN = {"group": "group_name", "user": "user_name"}


@dataclass
class Record:
    """Checked metadata. `columns` go into the files table; a list is None when the client did not give that field."""

    columns: dict[str, object] = field(default_factory=dict)
    checksums: list[str] | None = None
    runs: list[tuple[int, int | None, str | None]] | None = None
    parents: list[int] | None = None
    parameters: dict[int, object] = field(default_factory=dict)     # by param_id; None removes one


def check(db: sqlite3.Connection, raw: object, new: bool) -> Record:
    """Check metadata of a new file, or changes to an old one. Raises InvalidMetadata with every problem."""
    if not isinstance(raw, dict):
        raise InvalidMetadata(["metadata must be a JSON object"])
    checker = _Checker(db, new)
    for key, value in raw.items():
        checker.take(str(key), value)
    for key in ("file_name", "file_type", "file_size") if new else ():
        if raw.get(key) is None and not any(f"'{key}'" in p for p in checker.problems):
            checker.problems.append(f"Missing field '{key}'")
    if checker.problems:
        raise InvalidMetadata(checker.problems)
    return checker.record


def name_problem(name: object) -> str | None:
    """Why this can't be a file name, or None."""
    if not isinstance(name, str) or not name:
        return "file_name must be a non-empty string"
    if len(name) > MAX_NAME:
        return f"file_name has {len(name)} characters, the limit is {MAX_NAME}"
    if "/" in name or any(ord(c) < 32 or ord(c) == 127 for c in name) or name in (".", ".."):
        return f"file_name must not contain '/' or control characters: {name!r}"
    return None


class _Checker:
    def __init__(self, db: sqlite3.Connection, new: bool):
        self.db, self.new, self.record, self.problems = db, new, Record(), list[str]()
        self.special: dict[str, Callable[[Any], None]] = {
            "file_name": self.file_name, "checksum": self.checksum, "crc": self.crc, "application": self.application,
            "runs": self.runs, "parents": self.parents, "content_status": self.content_status,
            "lum_block_ranges": self.lum_block_ranges, "user": self.user}

    def take(self, key: str, value: Any) -> None:
        if key in OWNED:
            return
        if value is None:
            self.clear(key)
        elif key in self.special:
            self.special[key](value)
        elif key in TEXTS:
            if self.is_text(key, value) and self.is_registered(key, value):
                self.record.columns[COLUMN.get(key, key)] = value
        elif key in NUMBERS:
            self.record.columns[key] = self.number(key, value)
        elif key in TIMES:
            self.time(key, value)
        elif "." in key:
            self.parameter(key, value)
        else:
            self.problems.append(f"Unknown field '{key}'")

    def clear(self, key: str) -> None:
        """null: the field is left out, or in a modification emptied."""
        if key in ("checksum", "runs", "parents") and not self.new:
            setattr(self.record, key if key != "checksum" else "checksums", [])
        elif key == "application":
            self.record.columns["application_id"] = None
        elif key in ("file_name", "file_type", "file_size", "content_status", "user", "crc"):
            return
        elif key in TEXTS or key in NUMBERS or key in TIMES or key == "lum_block_ranges":
            self.record.columns[COLUMN.get(key, key)] = None
        elif "." in key:
            self.parameter(key, None)
        else:
            self.problems.append(f"Unknown field '{key}'")

    def is_text(self, key: str, value: object) -> bool:
        good = isinstance(value, str) and 0 < len(value) <= MAX_TEXT
        if not good:
            self.problems.append(f"field '{key}' must be a string of 1 to {MAX_TEXT} characters")
        return good

    def is_registered(self, key: str, value: str) -> bool:
        kind = TEXTS.get(key, "run_types")
        try:
            _known(self.db, "SELECT 1 FROM registered WHERE type = ? AND value = ?", kind, value)
        except KeyError:
            self.problems.append(f"Unknown {key} (register it under values/{kind}): '{value}'")
            return False
        return True

    def number(self, key: str, value: object) -> int | None:
        if isinstance(value, str) and re.fullmatch(r"[0-9]{1,19}", value):
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= INT_MAX:
            self.problems.append(f"field '{key}' must be a whole number of at least 0")
            return None
        return value

    def time(self, key: str, value: object) -> None:
        try:
            if isinstance(value, bool) or not isinstance(value, str | int | float):
                raise ValueError
            moment = parse_time(value) if isinstance(value, str) else datetime.fromtimestamp(value, UTC)
            self.record.columns[key] = int(moment.timestamp())
        except (ValueError, OverflowError, OSError):
            self.problems.append(f"field '{key}' must be a time such as 2024-05-06T07:08:09+00:00")

    def file_name(self, value: object) -> None:
        if problem := name_problem(value):
            self.problems.append(f"field 'file_name': {problem}")
        elif self.new:
            self.record.columns["file_name"] = value

    def user(self, value: object) -> None:
        if self.is_text("user", value) and self.new:
            self.record.columns["user_name"] = value

    def content_status(self, value: object) -> None:
        if value not in ("good", "bad"):
            self.problems.append("field 'content_status' must be good or bad")
        self.record.columns["content_status"] = value

    def lum_block_ranges(self, value: object) -> None:
        self.record.columns["lum_block_ranges"] = json.dumps(value)
        if not isinstance(value, list):
            self.problems.append("field 'lum_block_ranges' must be a list")

    def checksum(self, value: object) -> None:
        self.record.checksums = self.record.checksums or []
        for one in value if isinstance(value, list) else [value]:
            if problem := checksum_problem(one):
                self.problems.append(problem)
            elif str(one) not in self.record.checksums:
                self.record.checksums.append(str(one))

    def crc(self, value: object) -> None:
        number = str(value.get("crc_value", "")) if isinstance(value, dict) else ""
        if not re.fullmatch(r"[0-9]{1,20}", number):
            self.problems.append("field 'crc' must be {\"crc_value\": number, \"crc_type\": \"adler 32 crc type\"}")
        else:
            self.checksum(f"enstore:{number}")

    def application(self, value: object) -> None:
        parts = [value.get(k, "") for k in ("family", "name", "version")] if isinstance(value, dict) else [""]
        if not all(isinstance(p, str) and p for p in parts):
            self.problems.append("field 'application' must have family, name and version")
            return
        try:
            (self.record.columns["application_id"],) = _known(
                self.db, "SELECT application_id FROM applications WHERE (family, name, version) = (?, ?, ?)", *parts)
        except KeyError:
            self.problems.append(f"Unknown application (register it under values/applications): '{' '.join(parts)}'")

    def runs(self, value: object) -> None:
        self.record.runs = []
        for run in value if isinstance(value, list) else [None]:
            if not isinstance(run, list | tuple) or not 1 <= len(run) <= 3:
                self.problems.append("field 'runs' must be a list of [run, subrun, run_type] or [run, run_type]")
                continue
            kind = run[-1] if isinstance(run[-1], str) and not run[-1].isdigit() else None
            numbers = [self.number("runs", n) for n in (run[:-1] if kind else run)]
            if len(numbers) in (1, 2) and numbers[0] is not None and (kind is None or self.is_registered(
                    "run_type", kind)):
                self.record.runs.append((numbers[0], numbers[1] if len(numbers) == 2 else None, kind))
            elif len(numbers) not in (1, 2):
                self.problems.append(f"field 'runs': {run!r} must be [run, subrun, run_type] or [run, run_type]")

    def parents(self, value: object) -> None:
        self.record.parents = []
        for parent in value if isinstance(value, list) else [None]:
            by_id = isinstance(parent, dict) and "file_id" in parent
            key = parent.get("file_id" if by_id else "file_name") if isinstance(parent, dict) else parent
            if isinstance(key, bool) or not isinstance(key, str | int) or (isinstance(key, int) and abs(key) > INT_MAX):
                self.problems.append("field 'parents' must be a list of {\"file_name\": ...} or {\"file_id\": ...}")
                continue
            column = "file_id" if by_id else "file_name"
            row = self.db.execute(f"SELECT file_id FROM files WHERE {column} = ?", (key,)).fetchone()
            if row is None:
                self.problems.append(f"Unknown parent file '{key}'")
            elif row[0] not in self.record.parents:
                self.record.parents.append(row[0])

    def parameter(self, key: str, value: object) -> None:
        try:
            param_id, data_type = _known(self.db, "SELECT param_id, data_type FROM parameters WHERE name = ?", key)
            self.record.parameters[param_id] = None if value is None else parameter_value(data_type, value)
        except KeyError:
            self.problems.append(f"Unknown parameter (register it under values/parameters): '{key}'")
        except (ValueError, OverflowError):
            kind = "float and finite" if data_type == "float" else data_type
            self.problems.append(f"parameter '{key}' must be of type {kind}, and at most {MAX_TEXT} characters")


@lru_cache(maxsize=20_000)
def _known(db: sqlite3.Connection, select: str, *values: str) -> tuple[Any, ...]:
    """A registered value's row. It is remembered: nothing registered is ever changed or removed. Raises KeyError."""
    row = db.execute(select, values).fetchone()
    if row is None:
        raise KeyError(values)
    return tuple(row)


def parameter_value(data_type: str, value: object) -> str | int | float:
    """A parameter's value as stored; one of type string takes numbers, as producers send them.

    Raises ValueError, or OverflowError for infinity as an int.
    """
    if isinstance(value, bool) or not isinstance(value, str | int | float) or len(str(value)) > MAX_TEXT:
        raise ValueError(value)
    if data_type == "string":
        return str(value)
    if isinstance(value, str) and "_" in value:     # Python would read 1_000
        raise ValueError(value)
    number = int(value) if data_type == "int" else float(value)
    if not math.isfinite(number) or (data_type == "int" and abs(number) > INT_MAX):
        raise ValueError(value)
    if isinstance(value, float) and number != value:
        raise ValueError(value)
    return number


def checksum_problem(value: object) -> str | None:
    """Why this is no `algorithm:value`, or None. An algorithm we don't know may have any value."""
    algorithm, colon, digits = value.partition(":") if isinstance(value, str) else ("", "", "")
    if not (algorithm and colon and digits) or len(str(value)) > 300:
        return "field 'checksum' must be a list of 'algorithm:value'"
    if algorithm == "enstore":
        return None if re.fullmatch(r"[0-9]{1,20}", digits) else "checksum enstore: value is not a decimal number"
    wanted = HEX_DIGITS.get(algorithm)
    if wanted and len(digits) != wanted:
        return f"checksum {algorithm}: value is wrong length, {len(digits)} instead of {wanted}"
    if wanted and not re.fullmatch(r"[0-9a-fA-F]+", digits):
        return f"checksum {algorithm}: value is not hexadecimal"
    return None


def iso(seconds: int | None) -> str | None:
    """A time as SAM prints it: 2024-05-06T07:08:09+00:00."""
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC).isoformat()


LABELS = ("file_name", "file_id", "create_date", "user", "update_date", "update_user", "file_size", "checksum",
          "content_status", "file_type", "file_format", "group", "data_tier", "data_stream", "application",
          "event_count", "first_event", "last_event", "start_time", "end_time", "process_id", "file_partition",
          "retired_date")


def as_text(record: dict[str, Any]) -> Iterable[tuple[str, object]]:
    """Label and value pairs of a record, in SAM's order."""
    for key in LABELS:
        value = record.get(key)
        if key == "application" and value:
            value = f"{value['family']} {value['name']} {value['version']}"
        for one in value if isinstance(value, list) else [value]:
            yield key.replace("_", " ").title(), one
    yield from ((k, v) for k, v in record.items() if "." in k)
    for run, *subrun, kind in record.get("runs", []):
        yield "Runs", f"{run}{''.join(f'.{s:04d}' for s in subrun)}{f' ({kind})' if kind else ''}"
    yield from (("Parents", p["file_name"]) for p in record.get("parents", []))
    yield from (("Locations", where["location"]) for where in record.get("locations", []))
