"""Read and check the table of causes, `statecharts/causes.yaml`, and a campaign's own rules: what a row may say.

What the rows mean for a failure is in causes.py.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from string import Formatter
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from keepupd.core.errors import CausesError
from keepupd.core.lines import LinedFile, Place, perhaps
from keepupd.core.model import Failure

CLASSES = ("outage", "input", "resource", "node", "crash", "invalid", "operator")
PLACEHOLDERS = frozenset({"message", "step", "fault", "exit_code", "signal", "host", "peak_mib", "hold_code", "known"})


# --- the table's rows ---------------------------------------------------------------------------------------------


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _as_ranges(value: Any) -> tuple[tuple[int, int], ...]:
    """[9, "11-13"] -> ((9, 9), (11, 13))"""
    ranges = []
    for item in _as_list(value):
        parts = re.fullmatch(r"(-?\d{1,9})(?:-(\d{1,9}))?", str(item))
        if isinstance(item, bool) or not parts or int(parts[2] or parts[1]) < int(parts[1]):
            raise ValueError(f"must be a number, a range 'low-high', or a list of them, not {item!r}")
        ranges.append((int(parts[1]), int(parts[2] or parts[1])))
    return tuple(ranges)


def _as_words(value: Any) -> Any:
    """Refuse placeholders that do not exist, before a failure in the night would."""
    for _, field, spec, conversion in Formatter().parse(value) if isinstance(value, str) else ():
        if field is not None and (field not in PLACEHOLDERS or spec or conversion):
            raise ValueError(f"no placeholder {{{field}}}; {perhaps(field, PLACEHOLDERS)}")
    return value


Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]
Words = Annotated[Text, BeforeValidator(_as_words)]
Names = Annotated[tuple[Text, ...], BeforeValidator(_as_list), Field(min_length=1)]
Ranges = Annotated[tuple[tuple[int, int], ...], BeforeValidator(_as_ranges), Field(min_length=1)]
Seconds = Annotated[float, Field(ge=0, le=31_536_000)]


class _Row(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Policy(_Row):
    """What is done about a cause. Times in seconds; `wait_s` None: held until an operator releases it."""

    uses: Literal["tries", "losses", "nothing"] = "nothing"
    wait_s: Seconds | None = None
    backoff: Annotated[float, Field(ge=1, le=100)] = 1
    max_wait_s: Seconds = 86400
    limit: Annotated[int, Field(ge=1)] | None = None  # in place of the campaign's limit of what it uses
    raise_factor: Annotated[float, Field(gt=1)] = 1.5
    cap_factor: Annotated[float, Field(ge=1)] = 4
    exclude_host_s: Annotated[float, Field(ge=0, le=86400)] = 0  # keepupctl looks no further back for them
    short_of: Literal["memory_mib", "disk_mib", "wall_s"] | None = None  # what the next job asks more of


class CauseClass(Policy):
    means: Text
    do: Text
    event: Text


class Rule(Policy):
    name: Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]*$")]
    klass: Literal["outage", "input", "resource", "node", "crash", "invalid", "operator"] = Field(alias="class")
    words: Words
    passive: Annotated[bool, Field(strict=True)] = False  # counts what it matches, and decides nothing
    event: Text | None = None
    step: Names | None = None
    fault: Names | None = None
    exit_code: Ranges | None = None
    signal: Ranges | None = None
    hold_code: Ranges | None = None
    message: re.Pattern[str] | None = None
    log: re.Pattern[str] | None = None

    @model_validator(mode="after")
    def _says_what_is_short(self) -> "Rule":
        if (self.klass == "resource") != (self.short_of is not None):
            raise ValueError("short_of goes with class resource, and class resource with short_of")
        return self

    @property
    def conditions(self) -> dict[str, Any]:
        """The match keys it has; without any it matches all."""
        return {key: value for key in MATCH_KEYS if (value := getattr(self, key)) is not None}

    def matches(self, failure: Failure) -> bool:
        return all(_holds(key, wanted, failure) for key, wanted in self.conditions.items())


MATCH_KEYS = ("step", "fault", "exit_code", "signal", "hold_code", "message", "log")
POLICY_KEYS = frozenset(Policy.model_fields)


def _holds(key: str, wanted: Any, failure: Failure) -> bool:
    if key == "log":
        return any(wanted.search(line) for line in failure.tail)
    value = getattr(failure, key)
    if isinstance(wanted, re.Pattern):
        return wanted.search(value) is not None
    if key in ("step", "fault"):
        return value in wanted
    return value is not None and any(low <= value <= high for low, high in wanted)


# --- loading ------------------------------------------------------------------------------------------------------


RowType = TypeVar("RowType", bound=BaseModel)


def read_table(path: Path, events: frozenset[str]) -> tuple[dict[str, CauseClass], list[Rule]]:
    """The classes and rules of the file; `events` are the file chart's. Raises CausesError with all faults."""
    file = LinedFile(path)
    if file.faulty or not isinstance(file.data, dict):
        file.fault((), "must have the keys classes and rules")
        file.refuse(CausesError)
    for key in file.data.keys() - {"classes", "rules"}:
        file.fault((str(key),), f"unknown key {key!r}; {perhaps(str(key), ('classes', 'rules'))}")
    classes = _load_classes(file, events)
    rules = _load_rules(file, events)
    if file.faulty:
        file.refuse(CausesError)
    return classes, rules


def parse_rules(
    rows: Sequence[Mapping[str, Any]], where: str, events: Collection[str] | None = None
) -> tuple[Rule, ...]:
    """A campaign's own rules, as they stand in its file. Raises CausesError; `where` begins each fault."""
    rules, faults = [], []
    for number, row in enumerate(rows, 1):
        rule, found = _parse(Rule, row)
        faults += [f"{where}: rule {number}: {words}" for _, words in found]
        if rule and not rule.conditions:
            faults.append(f"{where}: rule {number}: {rule.name!r} matches every failure; add {', '.join(MATCH_KEYS)}")
        if rule and rule.event and events is not None and rule.event not in events:
            faults.append(f"{where}: rule {number}: no event {rule.event!r}; {perhaps(rule.event, events)}")
        rules += [rule] if rule else []
    if faults:
        raise CausesError(where, faults)
    return tuple(rules)


def _parse(model: type[RowType], row: Any) -> tuple[RowType | None, list[tuple[Place, str]]]:
    """A row of the table, or its faults: where in the row, and in words."""
    try:
        return model.model_validate(row), []
    except ValidationError as error:
        return None, [(fault["loc"], _fault_words(model, fault)) for fault in error.errors()]


def _fault_words(model: type[BaseModel], fault: Any) -> str:
    key = str(fault["loc"][0]) if fault["loc"] else ""
    if fault["type"] == "extra_forbidden":
        return f"unknown key {key!r}; {perhaps(key, [f.alias or name for name, f in model.model_fields.items()])}"
    if fault["type"] == "missing":
        return f"key {key!r} is missing"
    words = fault["msg"].removeprefix("Value error, ")
    return f"{key}: {words}, not {fault['input']!r}" if key and fault["type"] != "value_error" else f"{words}"


def _load_classes(file: LinedFile, events: Collection[str]) -> dict[str, CauseClass]:
    rows, classes = file.data.get("classes"), {}
    if not isinstance(rows, dict):
        file.fault(("classes",), f"classes must be a mapping with the keys {', '.join(CLASSES)}")
        return {}
    for name in rows.keys() - set(CLASSES):
        file.fault(("classes", str(name)), f"unknown class {name!r}; {perhaps(str(name), CLASSES)}")
    for name in CLASSES:
        if name not in rows:
            file.fault(("classes",), f"class {name!r} is missing")
        elif row := _row(file, ("classes", name), CauseClass, rows[name], events):
            classes[name] = row
    return classes


def _load_rules(file: LinedFile, events: Collection[str]) -> list[Rule]:
    rows = file.data.get("rules")
    if not isinstance(rows, list) or not rows:
        file.fault(("rules",), "rules must be a list, whose last rule matches all")
        return []
    found = [(("rules", n), _row(file, ("rules", n), Rule, row, events)) for n, row in enumerate(rows)]
    rules = [(place, rule) for place, rule in found if rule]
    first: dict[str, int] = {}
    for place, rule in rules:
        is_last = place == ("rules", len(rows) - 1)
        if bool(rule.conditions) == is_last:
            file.fault(place, f"rule {rule.name!r}: the last rule, and no other, must match all (no match keys)")
        if rule.passive and is_last:
            file.fault(place, f"rule {rule.name!r}: the last rule decides what no other did, so it can't be passive")
        for what in (f"rule {rule.name!r}", f"a rule that matches {rule.conditions}"):
            if what in first:
                file.fault(place, f"{what} is here twice, first in line {first[what]}")
            first.setdefault(what, file.line(place))
    return [rule for _, rule in rules]


def _row(file: LinedFile, place: Place, model: type[RowType], row: Any, events: Collection[str]) -> RowType | None:
    parsed, faults = _parse(model, row)
    for below, words in faults:
        file.fault((*place, *below), words)
    event = row.get("event") if isinstance(row, dict) else None
    if event is not None and event not in events:
        file.fault((*place, "event"), f"no event {event!r}; {perhaps(str(event), events)}")
    return parsed
