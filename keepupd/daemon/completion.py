"""Completion travels down the flow: when all upstream is settled for good, a merge closes its last groups.

A campaign is complete when nothing can come any more and every file it has is declared, or in debug and said so. A
generator knows its target; the others ask who makes their input. An input that nobody here makes never ends.
"""

from collections.abc import Mapping
from datetime import datetime

from sqlalchemy import select, update

from keepupd.daemon.keeper import Keeper, say
from keepupd.store import reads
from keepupd.store.tables import AnyRow, campaigns

NAMED = 5  # campaigns that a sentence names


def closing(k: Keeper, campaign_id: int) -> str:
    """ "upstream complete" when this campaign has seen all that it will ever get; else empty."""
    with k.database.read() as db:
        rows = {row.id: row for row in db.execute(select(campaigns))}
    return "" if _still_to_come(k, campaign_id, rows) else "upstream complete"


def _still_to_come(k: Keeper, campaign_id: int, rows: Mapping[int, AnyRow]) -> str:
    """Why this campaign may get more, in words; empty when it has seen all that it will ever get."""
    campaign, row = k.campaigns[campaign_id], rows[campaign_id]
    if campaign.name not in k.flow.campaigns:
        return "its file is gone from the configuration"
    if campaign.generator is not None:
        return "" if row.ever_seen >= campaign.generator.units else "it has not begun all units of its target"
    if k.flow.is_open_ended(campaign.name):
        return "it is fed from outside: caught up at times, never complete"
    by_name = {other.name: other for other in rows.values()}
    makers = [by_name[maker] for maker in k.flow.makers_of(campaign.name)]
    if waits := [maker.name for maker in makers if not maker.complete]:
        return f"upstream is not complete: {', '.join(waits[:NAMED])}{', ...' if len(waits) > NAMED else ''}"
    # counted after the last maker was complete, and all that was counted is known
    counted = row.counted and row.counted > max(maker.complete for maker in makers)
    known = counted and row.sam_count == row.ever_seen - row.gone
    return "" if known else "upstream is complete; the last of its input is being looked for in SAM"


def note_completion(k: Keeper, now: datetime) -> None:
    """Write down which campaigns are complete now, or are not any more (a target was raised, a file is redone)."""
    with k.database.read() as db:
        rows = {row.id: row for row in db.execute(select(campaigns))}
        files = {campaign_id: reads.counts_without_left(db, campaign_id) for campaign_id in rows}
    in_debug = {row.name: files[row.id].get("debug", 0) for row in rows.values()}
    for campaign_id in k.campaigns:
        row = rows[campaign_id]
        lacks = _still_to_come(k, campaign_id, rows) or _unsettled(files[campaign_id])
        outlook = (lacks or "it is complete") + _never_to_come(k, row.name, in_debug)
        if (not lacks) != bool(row.complete) or outlook != row.outlook:
            with k.database.write("completion") as db:
                told = {"complete": None if lacks else row.complete or now, "outlook": outlook}
                db.execute(update(campaigns).where(campaigns.c.id == campaign_id).values(told))
        if (not lacks) != bool(row.complete):
            say("campaign goes on" if lacks else "campaign complete", campaign=row.name, why=outlook)


def _unsettled(files: Mapping[str, int]) -> str:
    open_ones = [state for state, n in files.items() if n and state not in ("declared", "debug")]
    return f"upstream is complete; some of its own files are in {', '.join(sorted(open_ones))}" if open_ones else ""


def _never_to_come(k: Keeper, name: str, in_debug: Mapping[str, int]) -> str:
    """What files in debug keep from this campaign, until a person acts."""
    above = k.flow.upstream_of(name) if name in k.flow.campaigns else []
    lost = [f"{in_debug[maker]} of {maker}" for maker in above if in_debug[maker]]
    return f"; upstream in debug, so perhaps missing here: {', '.join(lost)}" if lost else ""
