"""One condition on one column, as SQL with bound values: the rules of =, lists, ranges, wildcards, dates and runs.

A condition never holds for a missing value, whatever its operator; `not (...)` around it does. Texts compare by case.
Wildcards are `%` (any string) and `?` (one character); `_` is a plain character, as every file name has some.
"""

import json
import math
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from .dims import Condition, Value
from .errors import DimensionError

Bind = Callable[[object], str]      # remembers a value, returns its placeholder
INT_MAX = 2**63 - 1
NEGATIVE = {"!=": "=", "not in": "in", "not like": "like", "not range": "range"}


def condition_sql(column: str, kind: str, cond: Condition, bind: Bind) -> str:
    """SQL that is true where `column` meets the condition. Raises DimensionError for values of the wrong type."""
    if cond.op in NEGATIVE:
        positive = Condition(cond.name, NEGATIVE[cond.op], cond.values)
        return f"({column} IS NOT NULL AND NOT {condition_sql(column, kind, positive, bind)})"
    if kind == "path":
        other = column.replace("full_path", "path")
        return f"({condition_sql(column, 'text', cond, bind)} OR {condition_sql(other, 'text', cond, bind)})"
    if cond.op in ("=", "in", "like"):
        return _equals(column, kind, cond, bind)
    if kind in ("run", "block"):
        return (_run_order if kind == "run" else _block_order)(column, cond, bind)
    bounds = [_bounds(kind, cond.name, v) for v in cond.values]
    if cond.op == "range":
        return f"{column} BETWEEN {bind(bounds[0][0])} AND {bind(bounds[1][1])}"
    return f"{column} {cond.op} {bind(bounds[0][0])}"


def _equals(column: str, kind: str, cond: Condition, bind: Bind) -> str:
    """Any of the values, each of which may be a pattern, and for numbers and runs a range such as 5-10."""
    parts, plain = [], []
    for value in cond.values:
        ends = None if kind == "text" or value.quoted else re.fullmatch(r"(-?[\d.]+)-(-?[\d.]+)", value.text)
        if kind == "date" and not value.quoted:
            ends = re.fullmatch(rf"({DAY})-({DAY})", value.text, re.IGNORECASE)
        if ends:
            pair = (Value(ends[1]), Value(ends[2]))
            parts.append(condition_sql(column, kind, Condition(cond.name, "range", pair), bind))
        elif re.search(r"[%?]", value.text):
            parts.append(_pattern(column, kind, value.text, bind))
        elif kind == "run":
            parts.append(_run_is(column, cond, value, bind))
        elif kind == "block":
            parts.append(_block_order(column, Condition(cond.name, "range", (value, value)), bind))
        elif kind == "date":
            low, high = _bounds(kind, cond.name, value)
            parts.append(f"{column} BETWEEN {bind(low)} AND {bind(high)}")
        else:
            plain.append(_bounds(kind, cond.name, value)[0])
    if len(plain) == 1:
        parts.append(f"{column} = {bind(plain[0])}")
    elif plain:
        parts.append(f"{column} IN (SELECT value FROM json_each({bind(json.dumps(plain))}))")
    return any_of(parts)


def any_of(parts: list[str]) -> str:
    return _joined(parts, " OR ")


def all_of(parts: list[str]) -> str:
    return _joined(parts, " AND ")


def _joined(parts: list[str], word: str) -> str:
    """As a balanced tree: SQLite refuses expressions over 1000 deep."""
    while len(parts) > 100:
        parts = [f"({word.join(parts[i:i + 50])})" for i in range(0, len(parts), 50)]
    return parts[0] if len(parts) == 1 else f"({word.join(parts)})"


def glob(text: str) -> str:
    """The same pattern for SQLite's GLOB, whose `?` is ours."""
    return re.sub(r"[*\[]", r"[\g<0>]", text).replace("%", "*")


def _pattern(column: str, kind: str, text: str, bind: Bind) -> str:
    if kind == "text":
        prefix = re.split(r"[%?]", text)[0]
        bound = f"{column} >= {bind(prefix)} AND {column} < {bind(prefix + chr(0x10FFFF))} AND " if prefix else ""
        return f"({bound}{column} GLOB {bind(glob(text))})"
    if kind == "date":
        return f"strftime('%Y-%m-%dT%H:%M:%S', {column}, 'unixepoch') GLOB {bind(glob(text))}"
    if kind == "block":
        column = "b.low || '-' || b.high"
    return f"CAST({column} AS TEXT) GLOB {bind(glob(text))}"


def _bounds(kind: str, name: str, value: Value) -> tuple[object, object]:
    """First and last value meant: they differ only for a date without a time, which is a whole day."""
    if kind == "date":
        return date_bounds(name, value.text)
    return (value.text, value.text) if kind == "text" else (_number(kind, name, value),) * 2


def _number(kind: str, name: str, value: Value) -> float | int:
    pattern = r"[-+]?\d+" if kind == "int" else r"[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?"
    if not re.fullmatch(pattern, value.text, re.IGNORECASE | re.ASCII):
        raise DimensionError(f"dimension '{name}' takes {'a whole number' if kind == 'int' else 'a number'}, "
                             f"not '{value.text[:200]}'")
    number = int(value.text[:25]) if kind == "int" else float(value.text)
    if math.isinf(number):
        raise DimensionError(f"dimension '{name}' takes a finite number, not '{value.text[:200]}'")
    return max(-INT_MAX - 1, min(INT_MAX, number)) if kind == "int" else number


def _run(name: str, value: Value) -> tuple[int, int | None]:
    match = re.fullmatch(r"(\d{1,18})(?:\.(\d{1,18}))?", value.text, re.ASCII)
    if not match:
        raise DimensionError(f"dimension '{name}' takes a run or run.subrun, not '{value.text[:200]}'")
    return int(match[1]), int(match[2]) if match[2] else None


def _run_is(column: str, cond: Condition, value: Value, bind: Bind) -> str:
    run, subrun = _run(cond.name, value)
    return f"({column} = {bind(run)}" + (f" AND r.subrun = {bind(subrun)})" if subrun is not None else ")")


def _run_order(column: str, cond: Condition, bind: Bind) -> str:
    """Runs alone compare as runs; with a subrun they compare as pairs, and a file without subrun does not match."""
    if cond.op == "range":
        ends = zip((">=", "<="), cond.values, strict=True)
        return f"({' AND '.join(_run_order(column, Condition(cond.name, op, (v,)), bind) for op, v in ends)})"
    run, subrun = _run(cond.name, cond.values[0])
    if subrun is None:
        return f"{column} {cond.op} {bind(run)}"
    return f"(r.subrun IS NOT NULL AND ({column}, r.subrun) {cond.op} ({bind(run)}, {bind(subrun)}))"


def _block_order(column: str, cond: Condition, bind: Bind) -> str:
    """A range of blocks meets what overlaps it: < and <= ask for its first block, > and >= for its last."""
    numbers = [_number("int", cond.name, v) for v in cond.values]
    if cond.op == "range":
        return f"({column} <= {bind(numbers[1])} AND b.high >= {bind(numbers[0])})"
    return f"{column if '<' in cond.op else 'b.high'} {cond.op} {bind(numbers[0])}"


DAY = r"\d{4}-\d\d?-\d\d?|\d\d?-[a-z]{3}-(?:\d{4}|\d\d)"


def date_bounds(name: str, text: str) -> tuple[int, int]:
    """First and last second meant by a date, in seconds since 1970; without a zone it is UTC."""
    try:
        if re.fullmatch(DAY, text, re.IGNORECASE | re.ASCII):
            day = _day(text)
            return int(day.timestamp()), int((day + timedelta(days=1)).timestamp()) - 1
        moment = int(parse_time(text).timestamp())
    except (ValueError, OverflowError):
        raise DimensionError(f"dimension '{name}' takes a date such as 2024-05-06, 06-May-2024 or "
                             f"'2024-05-06T07:08:09+00:00', not '{text[:200]}'") from None
    return moment, moment


def _day(text: str) -> datetime:
    if text[4:5] == "-" and text[:4].isdigit():
        return datetime.strptime(text, "%Y-%m-%d").replace(tzinfo=UTC)
    return datetime.strptime(text, "%d-%b-%Y" if len(text.split("-")[2]) == 4 else "%d-%b-%y").replace(tzinfo=UTC)


def parse_time(text: str) -> datetime:
    """A moment in ISO form, T or blank between date and time, zone +0000, -05:00, Z or none: UTC. Raises ValueError."""
    tidy = re.sub(r"(:\d\d(?:\.\d+)?):?([+-]\d\d):?(\d\d)$", r"\1\2:\3", text.strip())   # fife_wrap writes 09:+00:00
    tidy = re.sub(r"(:\d\d(?:\.\d+)?) (\d\d):?(\d\d)$", r"\1+\2:\3", tidy)               # an unescaped + in a URL
    moment = datetime.fromisoformat(tidy)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
