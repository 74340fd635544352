"""The values keepupd reasons about: frozen dataclasses, no behaviour.

Sizes are in bytes, memory in MiB, durations in seconds, times aware and in UTC, unless a name says otherwise.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

STATES = ("pending", "running", "validated", "declared", "held", "crash", "debug")


class JobState(StrEnum):
    WANTED = "wanted"  # in our database; the batch system may not know it yet
    IDLE = "idle"
    RUNNING = "running"
    HELD = "held"  # the batch system's hold, not ours
    LEFT = "left"  # ended, with an exit status or without
    LOST = "lost"  # absent in two looks: declared lost by us


LIVE_JOB = (JobState.WANTED, JobState.IDLE, JobState.RUNNING)


class Output(StrEnum):
    """What SAM says of a unit's outputs, all of them together."""

    ABSENT = "absent"
    VIRTUAL = "virtual"  # declared, but without a location
    LOCATED = "located"
    DIFFERS = "differs"  # located twice, and the copies are not alike


@dataclass(frozen=True, slots=True)
class CatalogFile:
    """A file as SAM's file list gives it."""

    name: str
    file_id: int
    size: int = 0
    events: int = 0


@dataclass(frozen=True, slots=True)
class Unit:
    """What one job makes; a row of table `units`. What the file chart moves."""

    id: int
    campaign_id: int
    name: str
    state: str
    version: int
    since: datetime
    due: datetime | None = None
    files: int = 1  # its weight in the sum rule: input files, or 1 for a generator's unit
    tries: int = 0  # attempts used up
    losses: int = 0  # jobs lost, evicted or killed by their node
    cause: str = ""
    why: str = ""
    launch_id: int | None = None
    needs: str = ""  # JSON of what it needs beyond its campaign's settings; equal text shares a launch
    edition: int = 1  # goes up with each redo; part of the output's name


@dataclass(frozen=True, slots=True)
class Move:
    """One event for one unit, decided and not yet applied. `values` are further columns to set."""

    unit: Unit
    event: str
    why: str
    cause: str = ""
    who: str = "keepupd"
    due: datetime | None = None
    guards: frozenset[str] = frozenset()  # names of the guards that hold
    values: Mapping[str, Any] = field(default_factory=dict)
    detail: str = ""  # for the effect of the edge, for example the job to remove


@dataclass(frozen=True, slots=True)
class Launch:
    """A cluster of equal jobs, as the batch system gets it."""

    key: str
    daemon: str
    campaign: str
    numbers: Sequence[int]
    files: Mapping[str, str]  # name in the job's directory -> text
    argv: Sequence[str]  # {key} and {number} are replaced for each job
    cpus: int = 1
    memory_mib: int = 1000
    disk_mib: int = 1000
    wall_s: int = 3600
    environment: Mapping[str, str] = field(default_factory=dict)
    bring_home: Sequence[str] = ("report.json", "executable.log")
    excluded_hosts: Sequence[str] = ()
    units: Mapping[int, str] = field(default_factory=dict)  # number -> unit, where the job is bound to one
    lines: Mapping[str, str] = field(default_factory=dict)  # more lines of the batch system's own description

    @property
    def tag(self) -> str:
        """What the job's ad says before anything can go wrong: whose job this is."""
        return f"{self.daemon}/{self.campaign}/{self.key}"


@dataclass(frozen=True, slots=True)
class JobSeen:
    """One job as the batch system shows it. `key` is `launch.number`."""

    key: str
    tag: str
    state: JobState
    host: str = ""
    started: datetime | None = None
    ended: datetime | None = None
    exit_code: int | None = None
    signal: int | None = None
    hold_code: int | None = None
    hold_reason: str = ""
    peak_mib: int | None = None
    wall_s: float | None = None
    directory: Path | None = None  # where its stdout, stderr and report are, for a batch system on this machine


@dataclass(frozen=True, slots=True)
class Look:
    """Answer of one look at the batch system: what changed since `cursor`, or everything when `complete`."""

    jobs: Sequence[JobSeen]
    cursor: str
    complete: bool


@dataclass(frozen=True, slots=True)
class Failure:
    """Why an attempt did not succeed: the facts that rules of the table of causes match on."""

    step: str = ""  # the worker's step, or "job" where the job gave no report
    fault: str = ""  # the worker's machine word
    exit_code: int | None = None  # of the executable in step execute, else of the job
    signal: int | None = None  # the signal that ended the executable, else the job
    hold_code: int | None = None
    message: str = ""  # one sentence with values, from the report or the batch system
    tail: Sequence[str] = ()  # last lines of the executable's log
    host: str = ""
    peak_mib: int | None = None
