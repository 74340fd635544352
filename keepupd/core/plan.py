"""How input files become units, where one job takes several: merge groups, and the rules that close them.

Pure. A group is a run of files with equal grouping keys, in the order they were seen. Once closed, membership is for
ever; a file that arrives later starts a new group. A group's name is a hash of its sorted members, so that the same
files are the same group, whenever and by whomever they are put together.
"""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any


@dataclass(frozen=True, slots=True)
class Waiting:
    """A file that no group has taken yet. `size` in bytes."""

    file_id: int
    name: str
    size: int
    events: int
    seen: datetime


@dataclass(frozen=True, slots=True)
class GroupRules:
    """When a group is full. None: that limit is not set."""

    max_files: int | None = None
    max_bytes: int | None = None
    max_events: int | None = None
    max_age: timedelta | None = None

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> "GroupRules":
        """As the settings of a merge campaign say them; max_age_s in seconds."""
        age_s = given.get("max_age_s")
        age = None if age_s is None else timedelta(seconds=age_s)
        return cls(given.get("max_files"), given.get("max_bytes"), given.get("max_events"), age)


@dataclass(frozen=True, slots=True)
class Group:
    members: tuple[Waiting, ...]
    rule: str  # in words: what closed it
    was: str = ""  # of a group recalled from SAM: its name, which a member that has left since does not change

    @property
    def name(self) -> str:
        return self.was or group_name(file.name for file in self.members)


def group_name(names: Iterable[str]) -> str:
    text = "\n".join(sorted(names))
    return "g" + hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def close_groups(waiting: Iterable[Waiting], rules: GroupRules, now: datetime, closing: str = "") -> list[Group]:
    """The groups closed now, of files with equal keys. `closing` (upstream complete, flushed) closes the rest too."""
    groups: list[Group] = []
    members: list[Waiting] = []
    size = events = 0

    def close(rule: str) -> None:
        nonlocal size, events
        groups.append(Group(tuple(members), rule))
        members.clear()
        size = events = 0

    for file in sorted(waiting, key=lambda file: (file.seen, file.file_id)):
        if members and (rule := _over(size + file.size, events + file.events, rules)):
            close(rule)  # without this file, which would be too much
        members.append(file)
        size, events = size + file.size, events + file.events
        if rule := _full(len(members), size, events, rules):
            close(rule)
    if members and (rule := closing or _old(members[0], rules, now)):
        close(rule)
    return groups


def _over(size: int, events: int, rules: GroupRules) -> str:
    if rules.max_bytes is not None and size > rules.max_bytes:
        return f"total size, {rules.max_bytes} bytes"
    if rules.max_events is not None and events > rules.max_events:
        return f"event count, {rules.max_events} events"
    return ""


def _full(n: int, size: int, events: int, rules: GroupRules) -> str:
    if rules.max_files is not None and n >= rules.max_files:
        return f"file count, {rules.max_files} files"
    return _over(size + 1, events + 1, rules)  # exactly full is full


def _old(oldest: Waiting, rules: GroupRules, now: datetime) -> str:
    if rules.max_age is not None and now - oldest.seen >= rules.max_age:
        return f"age of the oldest, {rules.max_age.total_seconds():.0f} s"
    return ""
