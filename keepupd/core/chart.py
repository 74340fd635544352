"""Load and check a statechart; say where an event leads.

The charts are data (`statecharts/*.yaml`), executed by the `transitions` library. They name effects, which are carried
out elsewhere, and guards, whose answers come with the event: a chart calls nothing.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from itertools import combinations
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from transitions import Machine

from keepupd.core.errors import ChartError, EventRefused
from keepupd.core.lines import LinedFile, Place, perhaps


@dataclass(frozen=True, slots=True)
class Edge:
    """Where an event leads, and the effect it asks for."""

    dest: str
    effect: str | None


@dataclass(frozen=True, slots=True)
class Arrow:
    """One transition out of one state. All its guards must hold."""

    event: str
    source: str
    dest: str
    guards: frozenset[str] = frozenset()
    effect: str | None = None
    by: str | None = None

    def __str__(self) -> str:
        return f"{self.event} [{', '.join(sorted(self.guards))}]" if self.guards else self.event


class Chart:
    """A checked chart. Immutable, shared by all units and threads; `follow` says where an event leads."""

    def __init__(self, initial: str, states: Sequence[Mapping[str, Any]], arrows: Sequence[Arrow]):
        self.initial, self.arrows = initial, tuple(arrows)
        self._rows = {row["name"]: row for row in states}
        self.states = tuple(self._rows)
        self.guards = frozenset().union(*(arrow.guards for arrow in arrows))
        self._followed: dict[tuple[str, str, frozenset[str]], Edge] = {}
        # One machine without models: a model in it costs 7 kB and adding it grows with their number.
        self._machine = Machine(
            model=None,
            states=list(self.states),
            initial=initial,
            auto_transitions=False,
            transitions=[
                {"trigger": a.event, "source": a.source, "dest": a.dest, "conditions": sorted(a.guards)} for a in arrows
            ],
        )

    def follow(self, state: str, event: str, guards: frozenset[str] = frozenset()) -> Edge:
        """Where `event` leads from `state` while `guards` (names) hold. Raises EventRefused when nowhere."""
        edge = self._followed.get((state, event, guards))
        if edge is None:
            edge = self._followed[state, event, guards] = self._fire(state, event, guards)
        return edge

    def _fire(self, state: str, event: str, guards: frozenset[str]) -> Edge:
        open_ones = [a for a in self._from(state) if a.event == event and a.guards <= guards]
        if len(open_ones) == 1:  # two only when the caller says that guards hold which exclude each other
            token = SimpleNamespace(state=state, **{guard: guard in guards for guard in self.guards})
            if self._machine.events[event].trigger(token):
                return Edge(token.state, open_ones[0].effect)
        raise EventRefused(event, state, list(dict.fromkeys(map(str, self._from(state)))))

    def _from(self, state: str) -> list[Arrow]:
        return [arrow for arrow in self.arrows if arrow.source == state]

    def events(self, state: str, by: str | None = None) -> list[str]:
        """The events that can move a unit out of `state`; with `by="operator"` those that only an operator sends."""
        return list(dict.fromkeys(a.event for a in self._from(state) if by in (None, a.by)))

    def edges(self) -> set[tuple[str, str, str]]:
        """Every step there is: (source, event, dest)."""
        return {(arrow.source, arrow.event, arrow.dest) for arrow in self.arrows}

    def means(self, state: str) -> str:
        """What an operator should understand."""
        return str(self._rows[state]["means"])

    def do(self, state: str) -> str:
        """What an operator should type."""
        return str(self._rows[state]["do"])

    def late_after(self, state: str) -> timedelta | None:
        """How long a unit may stay before it counts as late; None for ever. For alerts: it moves nothing."""
        minutes = self._rows[state].get("late_after_min")
        return None if minutes is None else timedelta(minutes=minutes)

    def is_final(self, state: str) -> bool:
        return bool(self._rows[state].get("final", False))


def charts_dir() -> Path:
    """Where the charts are: inside the installed package, or at the top of a checkout."""
    package = Path(__file__).parents[1]
    installed = package / "statecharts"
    return installed if installed.is_dir() else package.parent / "statecharts"


def load_chart(path: Path, effects: frozenset[str], guards: frozenset[str]) -> Chart:
    """Read, check and build one chart; `effects` and `guards` are the names that exist.

    Raises ChartError with every fault found, each with its line.
    """
    file = LinedFile(path)
    if not file.faulty:
        _check_keys(file, (), file.data, TOP)
    if not isinstance(file.data, dict):
        file.refuse(ChartError)
    states = _rows(file, "states", STATE)
    transitions = _rows(file, "transitions", TRANSITION)
    _check_names(file, states, transitions, effects, guards)
    arrows = [(place, arrow) for place, row in transitions for arrow in _arrows(row)]
    _check_rivals(file, arrows)
    _check_ways(file, states, [arrow for _, arrow in arrows])
    if file.faulty:
        file.refuse(ChartError)
    return Chart(file.data["initial"], [row for _, row in states], [arrow for _, arrow in arrows])


# --- what a chart may say -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Key:
    """What the value of a key must be, in words and as a test."""

    words: str
    right: Callable[[Any], bool]
    needed: bool = False


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch(r"[a-z][a-z0-9_]*", value) is not None


def _is_names(value: Any) -> bool:
    return _is_name(value) or (isinstance(value, list) and bool(value) and all(map(_is_name, value)))


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


A_NAME = "a name of small letters, digits and _"
TOP = {
    "initial": Key(A_NAME, _is_name, needed=True),
    "states": Key("a list of states", lambda v: isinstance(v, list) and bool(v), needed=True),
    "transitions": Key("a list of transitions", lambda v: isinstance(v, list) and bool(v), needed=True),
}
STATE = {
    "name": Key(A_NAME, _is_name, needed=True),
    "means": Key("a few words", _is_text, needed=True),
    "do": Key("a few words", _is_text, needed=True),
    "late_after_min": Key("minutes, a whole number above 0", lambda v: type(v) is int and v > 0),
    "final": Key("true or false", lambda v: isinstance(v, bool)),
}
TRANSITION = {
    "trigger": Key(A_NAME, _is_name, needed=True),
    "source": Key("a state or a list of states", _is_names, needed=True),
    "dest": Key("a state", _is_name, needed=True),
    "guard": Key("a guard or a list of guards", _is_names),
    "effect": Key("an effect", _is_name),
    "by": Key("'operator', or left out", lambda v: v == "operator"),
}

Row = tuple[Place, dict[str, Any]]


def _check_keys(file: LinedFile, place: Place, value: Any, keys: Mapping[str, Key]) -> None:
    if not isinstance(value, dict):
        return file.fault(place, f"here must be a mapping with the keys {', '.join(keys)}, not {value!r}")
    for key in value:
        if key not in keys:
            file.fault((*place, str(key)), f"unknown key {key!r}; {perhaps(str(key), keys)}")
    for name, key in keys.items():
        if name not in value and key.needed:
            file.fault(place, f"key {name!r} is missing: {key.words}")
        elif name in value and not key.right(value[name]):
            file.fault((*place, name), f"{name} must be {key.words}, not {value[name]!r}")
    return None


def _rows(file: LinedFile, key: str, keys: Mapping[str, Key]) -> list[Row]:
    """Check each item of the list `key`; give those that are mappings at all."""
    items = file.data.get(key)
    places = [((key, number), item) for number, item in enumerate(items if isinstance(items, list) else ())]
    for place, item in places:
        _check_keys(file, place, item, keys)
    return [(place, item) for place, item in places if isinstance(item, dict)]


def _names(value: Any) -> list[str]:
    return [name for name in (value if isinstance(value, list) else [value]) if _is_name(name)]


def _arrows(row: Mapping[str, Any]) -> list[Arrow]:
    """A transition's arrows, one a source; of a faulty transition what can be understood, so that checks go on."""
    return [
        Arrow(event, source, dest, frozenset(_names(row.get("guard"))), row.get("effect"), row.get("by"))
        for event in _names(row.get("trigger"))
        for source in _names(row.get("source"))
        for dest in _names(row.get("dest"))
    ]


def _check_names(
    file: LinedFile, states: list[Row], transitions: list[Row], effects: frozenset[str], guards: frozenset[str]
) -> None:
    lines: dict[str, int] = {}
    for place, row in states:
        for name in _names(row.get("name")):
            if name in lines:
                file.fault(place, f"state {name!r} is defined twice, first in line {lines[name]}")
            lines.setdefault(name, file.line(place))
    known = {"source": lines, "dest": lines, "guard": guards, "effect": effects}
    for name in _names(file.data.get("initial")):
        if name not in lines:
            file.fault(("initial",), f"no state {name!r}; {perhaps(name, lines)}")
    for place, row in transitions:
        for key, there_are in known.items():
            for name in _names(row.get(key)):
                if name not in there_are:
                    what = "state" if there_are is lines else key
                    file.fault((*place, key), f"{row.get('trigger')}: no {what} {name!r}; {perhaps(name, there_are)}")


def _check_rivals(file: LinedFile, arrows: list[tuple[Place, Arrow]]) -> None:
    for (first, a), (second, b) in combinations(arrows, 2):
        if (a.event, a.source) == (b.event, b.source) and (a.guards <= b.guards or b.guards <= a.guards):
            file.fault(second, f"{a.event} from {a.source!r} could also go as line {file.line(first)} says: guard both")


def _check_ways(file: LinedFile, states: list[Row], arrows: list[Arrow]) -> None:
    initial = _names(file.data.get("initial"))
    reached, grows = set(initial), True
    while grows:
        found = {arrow.dest for arrow in arrows if arrow.source in reached}
        grows, reached = not found <= reached, reached | found
    for place, row in states:
        for name in _names(row.get("name")):
            if initial and name not in reached:
                file.fault(place, f"state {name!r} is never reached from {initial[0]!r}")
            if not row.get("final") and all(arrow.source != name or arrow.dest == name for arrow in arrows):
                file.fault(place, f"state {name!r} has no way out; add a transition, or final: true")
