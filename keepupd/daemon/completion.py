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


def closing(k: Keeper, campaign_id: int) -> str:
    """ "upstream complete" when this campaign has seen all that it will ever get; else empty."""
    with k.database.read() as db:
        rows = {row.id: row for row in db.execute(select(campaigns))}
    return "upstream complete" if _has_all_input(k, campaign_id, rows) else ""


def _has_all_input(k: Keeper, campaign_id: int, rows: Mapping[int, AnyRow]) -> bool:
    campaign, row = k.campaigns[campaign_id], rows[campaign_id]
    if campaign.generator is not None:
        return bool(row.ever_seen >= campaign.generator.units)
    if k.flow.is_open_ended(campaign.name) or row.counted is None:
        return False
    by_name = {other.name: other for other in rows.values()}
    ends = [by_name[maker].complete for maker in k.flow.makers_of(campaign.name)]
    if not all(ends):
        return False
    # counted after the last maker was complete, and all that was counted is known
    return bool(row.counted > max(ends) and row.sam_count == row.ever_seen - row.gone)


def note_completion(k: Keeper, now: datetime) -> None:
    """Write down which campaigns are complete now, or are not any more (a target was raised, a file is redone)."""
    with k.database.read() as db:
        rows = {row.id: row for row in db.execute(select(campaigns))}
        settled = {campaign_id: _is_settled(reads.counts(db, campaign_id)) for campaign_id in rows}
    for campaign_id in k.campaigns:
        row = rows[campaign_id]
        complete = settled[campaign_id] and _has_all_input(k, campaign_id, rows)
        if complete != bool(row.complete):
            with k.database.write("completion") as db:
                when = now if complete else None
                db.execute(update(campaigns).where(campaigns.c.id == campaign_id).values(complete=when))
            say("campaign complete" if complete else "campaign goes on", campaign=row.name)


def _is_settled(files: Mapping[str, int]) -> bool:
    return all(state in ("declared", "debug") for state, n in files.items() if n)
