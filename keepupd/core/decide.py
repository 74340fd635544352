"""Say which event, if any, an observation means for a unit, or for a campaign. Pure: all it knows is in its arguments.

When a file will not move, read this first: every automatic decision of keepupd about a file is one `case` below.
Where an event leads is in statecharts/file.yaml, what a failure means in statecharts/causes.yaml.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from keepupd.core.causes import Cause
from keepupd.core.model import Output, Unit


@dataclass(frozen=True, slots=True)
class Observation:
    """What is known of one unit at one moment. `output` is None when SAM was silent."""

    at: datetime
    output: Output | None = None
    succeeded: bool = False  # its job's report says: output valid and copied
    cause: Cause | None = None  # its job ended otherwise, and this is what that means
    launch_over: bool = False  # every job of its launch was judged, and none had taken it


def decide(seen: Observation, unit: Unit) -> str | None:  # noqa: PLR0911 - one `case` each
    """Name the event, or None to let the unit be."""
    if seen.output is Output.LOCATED and unit.state not in ("declared", "debug"):
        return "output_seen"  # adoption; before any retry or giving up
    match unit.state:
        case "running" if seen.succeeded:
            return "output_valid"
        case "running" if seen.cause:
            return seen.cause.event
        case "running" if seen.launch_over:
            return "not_delivered"
        case "validated" if seen.output in (Output.DIFFERS, Output.BAD):
            return "declare_refused"
        case "pending" if seen.output is Output.BAD:  # as it is taken in: its name is taken, a job would lose
            return "recall_held"
        case "held" | "crash" if unit.due and seen.at >= unit.due and seen.output is not None:
            return "time_up"  # with SAM silent nobody knows whether the output is there: wait
    return None


def decide_campaign(state: str, files: Mapping[str, int]) -> str | None:
    """The event that the counts of its files by state mean for a campaign. It must be true in two passes.

    Without files that left its input; of these alone, a state is there with 0."""
    if state in ("held", "crash", "debug"):
        return None  # set by an operator or a guard, left by `keepupctl resume`
    total = sum(files.values())
    settled = files.get("declared", 0) + files.get("debug", 0)
    validated = files.get("validated", 0)
    if not files:
        return None
    if settled == total:
        return "caught_up" if state != "declared" else None
    if settled + validated == total:
        return "all_validated" if state in ("pending", "running") else None
    return "work_seen" if state != "running" else None
