"""Watch the input definitions: one count a poll; where it differs from what is known, a sweep through all members.

A sweep streams SAM's list, takes in new files, marks those that left or came back, and proves the sum rule. An output
that SAM shows already is adopted at once: such a file never runs.
"""

import logging
from datetime import datetime, timedelta

from sqlalchemy import Connection, select, update

from keepupd.core.model import CatalogFile
from keepupd.daemon import adopt, completion, planning
from keepupd.daemon.keeper import Keeper, say
from keepupd.store import intake
from keepupd.store.tables import AnyRow, campaigns

TAKE_IN = 500  # files in one transaction, and in one question to SAM


def poll_inputs(k: Keeper, now: datetime) -> None:
    for campaign_id in list(k.campaigns):
        campaign = k.campaigns[campaign_id]
        with k.contained(f"input:{campaign.name}", now):
            poll_input(k, campaign_id, now)


def poll_input(k: Keeper, campaign_id: int, now: datetime) -> None:
    if k.campaigns[campaign_id].type == "generator":
        planning.make_serials(k, campaign_id, now)  # its input is its target
    else:
        _poll_definition(k, campaign_id, now)
    if k.campaigns[campaign_id].type == "merge":
        planning.close_full_groups(k, campaign_id, now, completion.closing(k, campaign_id))


def _poll_definition(k: Keeper, campaign_id: int, now: datetime) -> None:
    """Ask SAM for one count, and look closer when it is not the one we know."""
    definition = k.campaigns[campaign_id].input.definition
    in_sam = k.sam.definition_count(definition)
    with k.database.write("input counted") as db:
        this = campaigns.c.id == campaign_id
        row = db.execute(select(campaigns).where(this)).one()
        db.execute(update(campaigns).where(this).values(sam_count=in_sam, counted=now))
    if _worth_a_sweep(row, in_sam, now, timedelta(seconds=k.settings.polls.sweep_s)):
        sweep(k, campaign_id, now)


def _worth_a_sweep(row: AnyRow, in_sam: int, now: datetime, rest: timedelta) -> bool:
    if row.swept is None or now - row.swept >= rest or now < row.swept:
        return True
    # a difference that the last sweep could not explain is looked at again only when SAM's count changes
    return bool(in_sam != row.ever_seen - row.gone and (in_sam != row.sam_count or row.difference == 0))


def sweep(k: Keeper, campaign_id: int, now: datetime) -> None:
    """Compare every member of the input definition with what is known."""
    campaign = k.campaigns[campaign_id]
    with k.database.connection() as db:
        listed = intake.fill_members(db, k.sam.definition_files(campaign.input.definition))
        with k.database.write("accounts", db):
            faults = intake.settle_accounts(db, campaign_id)  # first: what is taken in below would hide what was lost
            if intake.restore_units(db, campaign_id, now):
                intake.settle_accounts(db, campaign_id)
        taken = _take_in_all(k, db, campaign_id, now)
        with k.database.write("sweep", db):
            left, returned = intake.mark_gone_and_returned(db, campaign_id, now, now)
            _note_sweep(db, campaign_id, listed, faults, now)
    say("swept", campaign=campaign.name, members=listed, new=taken, left=left, returned=returned)
    for fault, n in faults.items():
        say("sum rule broken", logging.ERROR, campaign=campaign.name, by=fault, files=n, remedy="keepupctl audit")


def _note_sweep(db: Connection, campaign_id: int, listed: int, faults: dict[str, int], now: datetime) -> None:
    this = campaigns.c.id == campaign_id
    row = db.execute(select(campaigns.c.ever_seen, campaigns.c.gone).where(this)).one()
    difference = sum(faults.values()) + abs(listed - (row.ever_seen - row.gone))
    db.execute(update(campaigns).where(this).values(swept=now, sam_count=listed, difference=difference))


def _take_in_all(k: Keeper, db: Connection, campaign_id: int, now: datetime) -> int:
    taken = 0
    while new := intake.new_members(db, campaign_id, TAKE_IN):
        if k.campaigns[campaign_id].type == "merge":
            planning.take_in_merge_files(k, campaign_id, new, now)
        else:
            _take_in(k, campaign_id, new, now)
        taken += len(new)
    return taken


def _take_in(k: Keeper, campaign_id: int, new: list[CatalogFile], now: datetime) -> None:
    """Reco and analysis: each file is a unit."""
    campaign = k.campaigns[campaign_id]
    settle, names = timedelta(seconds=campaign.settle_s), [file.name for file in new]
    runs = _runs_of(k, names) if settle and campaign.settle_by == "run" else {}
    adopt.take_in(k, campaign_id, names, lambda db: intake.take_in(db, campaign_id, new, now, settle, runs), now)


def _runs_of(k: Keeper, names: list[str]) -> dict[str, str]:
    """The first run of each file that has one, by SAM's metadata."""
    found = {name: record.metadata.get("runs") for name, record in k.sam.records(names).items()}
    return {name: f"run {runs[0][0]}" for name, runs in found.items() if runs}
