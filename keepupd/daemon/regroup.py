"""What operators ask for merge groups: flush closes all that waits, dissolve takes a group apart that is not under way.

Both ask SAM, so they begin before the transaction that answers the request.
"""

import json
from collections.abc import Collection
from datetime import datetime

from sqlalchemy import Connection, select

from keepupd.config import Campaign
from keepupd.core.errors import Transient
from keepupd.core.model import Move, Output, Unit
from keepupd.daemon import planning
from keepupd.daemon.keeper import Keeper
from keepupd.daemon.outputs import look_for_outputs
from keepupd.store import grouping, reads, store
from keepupd.store.tables import AnyRow, campaigns

SET_ASIDE = "set_aside"  # the cause of a file that an operator took out of its group


class NotRecalled(Transient):
    """SAM has not said yet which groups were closed before."""


def flush(k: Keeper, row: AnyRow, now: datetime) -> str:
    """Close the groups of all files that wait, full or not. Gives the answer."""
    campaign = k.campaigns[row.campaign_id]
    if campaign.merge is None:
        return f"{campaign.name} is of type {campaign.type}: only a merge has groups"
    with k.database.read() as db:
        recalled = db.execute(select(campaigns.c.recalled).where(campaigns.c.id == row.campaign_id)).scalar()
    if recalled is None:
        raise NotRecalled(f"the closed groups of {campaign.name} are not recalled yet", "wait until SAM answers")
    n = planning.close_full_groups(k, row.campaign_id, now, f"flushed by {row.who}: {row.reason}")
    return f"flush: {n} group(s) closed"


def may_not_dissolve(k: Keeper, row: AnyRow, now: datetime) -> str:
    """Why the group can't be taken apart, in words; empty when it can."""
    campaign = k.campaigns[row.campaign_id]
    with k.database.read() as db:
        unit, members = _group(db, row)
        tried = [attempt for attempt in reads.attempts_of(db, unit.id) if not attempt.outcome]
    if "dissolve" not in k.file_chart.events(unit.state, by="operator"):
        return f"dissolve is not for a group in {unit.state}"
    if tried:
        return f"launch {tried[-1].key} may still make its output; wait until that launch is over"
    if words := _misfit(set(json.loads(row.detail)), members):
        return words
    return _is_in_sam(k, campaign, unit)


def _group(db: Connection, row: AnyRow) -> tuple[Unit, set[str]]:
    [unit] = reads.units_by_id(db, json.loads(row.unit_ids))
    return unit, {file.name for file in reads.files_by_unit(db, [unit.id]).get(unit.id, ())}


def _misfit(bad: Collection[str], members: Collection[str]) -> str:
    strangers = sorted(set(bad) - set(members))
    if strangers:
        return f"not in this group: {', '.join(strangers)}"
    return "" if 0 < len(bad) < len(members) else "name the bad files, but not all: the others are to wait again"


def _is_in_sam(k: Keeper, campaign: Campaign, unit: Unit) -> str:
    found = look_for_outputs(k, campaign, [unit])[unit.id]
    if found.state is Output.ABSENT:
        return ""
    names = ", ".join(record.name for record in found.records)
    return f"SAM has its output {names}, which holds all its files; `keepupctl retry` takes it up"


def dissolve(k: Keeper, db: Connection, row: AnyRow, now: datetime) -> tuple[list[Move], list[str], str]:
    """Take the group apart: the bad files go to debug, the others wait for a group again."""
    unit, members = _group(db, row)
    bad = sorted(json.loads(row.detail))
    left = f"without {', '.join(bad)}; {len(members) - len(bad)} files wait for a group again"
    why = f"group {unit.name} goes on {left}: {row.reason}"
    retired = f"{unit.name}_dissolved_{now:%Y%m%d_%H%M%S_%f}"
    move = Move(unit, row.event, why, cause=SET_ASIDE, who=row.who, detail=retired, values={"launch_id": None})
    dests = store.apply(db, k.file_chart, [move], now)
    grouping.take_apart(db, unit, dests[0], SET_ASIDE, bad, now)
    return [move], dests, f"dissolved {left}"
