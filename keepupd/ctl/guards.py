"""What `keepupctl why` says of the guards of a campaign: canary, outage, usual memory, passive rules, changed settings.

The daemon's side of it: daemon/protect.py and daemon/life.py; both read how things stand with store/guards.py.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, select

from keepupd.changes import diff
from keepupd.ctl import reads
from keepupd.store import guards
from keepupd.store.reads import live_jobs
from keepupd.store.tables import AnyRow, passive_matches

Settings = Mapping[str, Any]


def guards_of(db: Connection, campaign: AnyRow, settings: Settings) -> dict[str, Any]:
    """How they stand, each in words; None or empty where there is nothing to say."""
    canary, outage = _canary(db, campaign, settings), guards.outage_of(db, campaign.id)
    passive = select(passive_matches.c.cause, passive_matches.c.n).where(passive_matches.c.campaign_id == campaign.id)
    return {
        "canary": None if canary is None else _in_words(canary),
        "outage": outage and f"{outage}: one job probes, and all goes on by itself when it ends",
        "memory": campaign.usual_mib and _usual(campaign.usual_mib, settings),
        "passive": {row.cause: row.n for row in db.execute(passive.order_by(passive_matches.c.cause))},
        "refused": campaign.refused and f"its changed file is not in force: {campaign.refused}",
    }


def stops(db: Connection, campaign: AnyRow, settings: Settings) -> Iterator[str]:
    """What of it keeps more files from being launched now."""
    canary, outage = _canary(db, campaign, settings), guards.outage_of(db, campaign.id)
    if canary is not None and not canary.room:
        yield f"waits for the canary: {_in_words(canary)}"
    if outage and sum(live_jobs(db, campaign.id).values()):
        yield f"waits for the end of an outage ({outage}), for which one job probes"


def _canary(db: Connection, campaign: AnyRow, settings: Settings) -> guards.Canary | None:
    wanted = settings.get("canary", {}).get("groups" if campaign.type == "merge" else "units", 0)
    return guards.canary_of(db, campaign, wanted)


def _in_words(canary: guards.Canary) -> str:
    out = canary.out + len(canary.again)
    return f"{canary.home} of {canary.wanted} declared, {out} out, {len(canary.failed)} in debug"


def _usual(usual_mib: int, settings: Settings) -> str:
    request = settings.get("resources", {}).get("memory_mib")
    return f"jobs ask for {usual_mib} MiB by what recent ones used, not for the campaign's {request}"


def memory_of(campaign: AnyRow, settings: Settings, unit: AnyRow) -> str:
    """What the file's next job asks for, where that is not the campaign's request."""
    if unit.state == "declared":
        return ""
    known = json.loads(unit.needs).get("memory_mib", 0) if unit.needs else 0
    if known > (campaign.usual_mib or 0):
        return f"its next job asks for {known} MiB: it has needed more before"
    return _usual(campaign.usual_mib, settings) if campaign.usual_mib else ""


def changed_since(db: Connection, launch_id: int | None, campaign: AnyRow) -> list[str]:
    """What of the settings is different now from what the file's last launch was made with, a line each."""
    launch = reads.launch(db, launch_id)
    return diff(launch.settings, campaign.settings) if launch is not None else []


def class_of(cause: str, tried: Sequence[AnyRow]) -> str:
    """The class of a file's cause: the outcome of the attempt that met it; empty where no attempt did."""
    return next((row.outcome for row in reversed(tried) if cause and row.cause == cause), "")
