"""The worker's report, read with suspicion: it comes from a node, and may be cut, empty or nonsense."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from keepupd.core.model import Failure

VERSION = 1
NO_FILE = 10  # the worker's exit code for "the project had no file for me": no failure
DECLARE = 16  # ... and for "output valid and copied, but not declared"
WORKER_EXIT_CODES = (0, 2, *range(10, 19))  # all that it ends with by itself


@dataclass(frozen=True, slots=True)
class OutputMade:
    """One output as the worker left it. `state`: made, copied, declared, located or lost_race."""

    label: str
    name: str
    size: int
    checksums: tuple[str, ...]
    location: str  # `node:/dir` with the directory of this job start
    url: str  # the same directory as jobs write to it
    state: str
    metadata: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Report:
    """What the worker says of its job."""

    key: str
    exit_code: int
    step: str
    fault: str
    message: str
    host: str
    inputs: tuple[str, ...]
    outputs: tuple[OutputMade, ...]
    executable: Mapping[str, Any]
    started: datetime | None
    ended: datetime | None

    @property
    def succeeded(self) -> bool:
        """Its outputs are valid and copied; whether SAM shows them is SAM's to say."""
        return self.exit_code == 0 or (self.exit_code == DECLARE and all(o.state != "made" for o in self.outputs))


def read_report(text: str) -> Report | None:
    """The report, or None for text that is not one."""
    try:
        return _report(json.loads(text))
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def _report(raw: Mapping[str, Any]) -> Report:
    return Report(
        key=str(raw["key"]), exit_code=int(raw["exit_code"]), step=str(raw.get("step") or ""),
        fault=str(raw.get("fault") or ""), message=str(raw.get("message") or ""), host=str(raw.get("host") or ""),
        inputs=tuple(str(one["name"]) for one in raw.get("inputs") or ()),
        outputs=tuple(_output(one) for one in raw.get("outputs") or ()),
        executable=dict(raw.get("executable") or {}),
        started=_time(raw.get("started")), ended=_time(raw.get("ended")),
    )  # fmt: skip


def _output(raw: Mapping[str, Any]) -> OutputMade:
    return OutputMade(
        label=str(raw["label"]), name=str(raw["name"]), size=int(raw.get("size") or 0),
        checksums=tuple(map(str, raw.get("checksum") or ())), location=str(raw.get("location") or ""),
        url=str(raw.get("url") or ""), state=str(raw.get("state") or "made"), metadata=dict(raw.get("metadata") or {}),
    )  # fmt: skip


def _time(text: Any) -> datetime | None:
    if not text:
        return None
    at = datetime.fromisoformat(str(text))
    return at if at.tzinfo else at.replace(tzinfo=UTC)


def failure_of(report: Report) -> Failure:
    """The facts of a job that reported why it did not succeed."""
    ran: Mapping[str, Any] = report.executable
    executing = report.step == "execute"
    tail: Sequence[str] = [str(line) for line in ran.get("tail") or ()]
    return Failure(
        step=report.step, fault=report.fault, message=report.message, tail=tail, host=report.host,
        exit_code=ran.get("exit_code") if executing else report.exit_code,
        signal=ran.get("signal") if executing else None,
        peak_mib=ran.get("peak_mib"),
    )  # fmt: skip
