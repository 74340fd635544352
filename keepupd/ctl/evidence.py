"""Quote what an attempt left behind: the worker's report and the logs in its evidence directory, cleaned."""

import signal
from pathlib import Path
from typing import Any

from keepupd.core.report import Report, read_report
from keepupd.ctl.words import log_line
from keepupd.store.tables import AnyRow

LOGS = ("executable.log", "stdout", "stderr")  # what a job brings home beside report.json
TAIL_BYTES = 64 * 1024
QUOTED = 12  # lines


def evidence_of(attempt: AnyRow, number: int) -> dict[str, Any]:
    """The facts of one attempt, each from its row, its report or its logs; what is missing is named in `missing`."""
    folder = Path(attempt.evidence) if attempt.evidence else None
    report, missing = _report(folder)
    source = None if folder is None else _telling_log(folder, attempt.step)
    key = f"{attempt.key}.{attempt.job_number}" if attempt.job_number is not None else None
    return {
        "attempt": number, "launch": attempt.key, "job": key, "outcome": attempt.outcome or "not judged yet",
        "cause": attempt.cause, "passive": attempt.passive, "why": attempt.why,
        "step": attempt.step, "exit_code": attempt.exit_code,
        "signal": signal_name(attempt.signal), "hold_code": attempt.hold_code, "hold_reason": attempt.hold_reason or "",
        "host": attempt.host or (report.host if report else ""), "peak_mib": attempt.peak_mib,
        "started": attempt.started, "ended": attempt.ended, "directory": attempt.evidence,
        "message": report.message if report else "", "missing": missing,
        "log": source.name if source else None, "lines": tail(source)[-QUOTED:] if source else [],
    }  # fmt: skip


def _report(folder: Path | None) -> tuple[Report | None, str]:
    if folder is None:
        return None, ""
    if not folder.is_dir():
        return None, f"{folder} is not there: the job left nothing, or it was removed since"
    try:
        report = read_report((folder / "report.json").read_text(errors="replace"))
    except FileNotFoundError:
        return None, "the job left no report.json"
    except OSError as error:
        return None, f"report.json cannot be read: {error.strerror}"
    return report, "" if report else "report.json is not a worker's report"


def _telling_log(folder: Path, step: str) -> Path | None:
    """The log that says most: the executable's while it ran, else the worker's; the first that is not empty."""
    names = LOGS if step in ("execute", "validate") else ("stdout", "stderr", "executable.log")
    return next((folder / name for name in names if _size(folder / name)), None)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def tail(path: Path, most: int = TAIL_BYTES) -> list[str]:
    """The last lines of a log, as far as `most` bytes reach. A log may be huge, binary, or unreadable."""
    try:
        with path.open("rb") as stream:
            stream.seek(max(0, _size(path) - most))
            text = stream.read(most).decode(errors="replace")
    except OSError as error:
        return [f"({path} cannot be read: {error.strerror})"]
    return [log_line(line) for line in text.replace("\r\n", "\n").rstrip("\n").split("\n")]


def whole_logs(attempt: AnyRow) -> list[dict[str, Any]]:
    """Each log of an attempt that has something in it, its end where it is long."""
    folder = Path(attempt.evidence or "/nonexistent")
    found = [(folder / name, _size(folder / name)) for name in reversed(LOGS)]
    return [
        {"name": path.name, "path": str(path), "bytes": size,
         "left_out": max(0, size - TAIL_BYTES), "lines": tail(path)} for path, size in found if size
    ]  # fmt: skip


def signal_name(number: int | None) -> str | None:
    if number is None:
        return None
    try:
        return f"{number} ({signal.Signals(number).name})"
    except ValueError:
        return str(number)
