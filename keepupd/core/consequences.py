"""What a cause means for one unit of one campaign: when it is due again, what it has used up, what it needs more of."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from keepupd.core.causes import Cause, Causes, Rule, policy_for, raised_needs
from keepupd.core.model import Failure, Unit


@dataclass(frozen=True, slots=True)
class Limits:
    """What a campaign's settings say of trying again. Memory in MiB, times in seconds."""

    attempts: int
    losses: int
    wait_s: float | None
    requested: Mapping[str, int]  # memory_mib, disk_mib, wall_s
    cap: Mapping[str, int]  # the most we may ask for


def consequences(
    cause: Cause, failed: Failure, unit: Unit, limits: Limits, repeats: int, now: datetime
) -> tuple[datetime | None, dict[str, Any]]:
    """When the unit is due (None: not by itself) and the columns to set."""
    short_of, needs = cause.policy.short_of, parse_needs(unit.needs)
    raised: dict[str, Any] | None = dict(needs)
    if short_of:
        asked, cap = limits.requested[short_of], _cap(limits, short_of, cause)
        raised = raised_needs(needs, failed, asked, cause.policy.raise_factor, cap, short_of)
    after = policy_for(
        cause, unit.tries, unit.losses, limits.attempts, limits.losses, limits.wait_s, repeats, capped=raised is None
    )
    values = {"tries": after.tries, "losses": after.losses, "needs": write_needs(needs if raised is None else raised)}
    return (None if after.wait is None else now + after.wait), values


def _cap(limits: Limits, what: str, cause: Cause) -> float:
    return limits.cap.get(what, limits.requested[what] * cause.policy.cap_factor)


def guards_at_time_up(causes: Causes, unit: Unit, limits: Limits, own: Sequence[Rule]) -> frozenset[str]:
    used_up = causes.used_up(unit.cause, unit.tries, unit.losses, limits.attempts, limits.losses, own)
    return frozenset({"used_up" if used_up else "tries_left"})


def parse_needs(text: str) -> dict[str, Any]:
    return dict(json.loads(text)) if text else {}


def write_needs(needs: Mapping[str, Any]) -> str:
    """Equal needs are equal texts: units with the same text share a launch."""
    return json.dumps(needs, sort_keys=True) if needs else ""
