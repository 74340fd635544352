"""Watch the input definitions: one count a poll; where it differs from what is known, first a look, then a sweep.

A look asks for the members that SAM made or changed lately, so that a new file among a million costs little. Where that
does not explain the count, and seldom in any case, a sweep streams SAM's whole list, takes in new files, marks those
that left or came back, and proves the sum rule. An output that SAM shows already is adopted at once: such a file never
runs.
"""

import logging
from datetime import datetime, timedelta
from functools import partial

from sqlalchemy import Connection, select, update

from keepupd.clients.catalog import quote
from keepupd.config import Campaign
from keepupd.core.chunks import chunked
from keepupd.core.errors import SamAbsent, SamRefused
from keepupd.core.model import CatalogFile, Unit
from keepupd.daemon import adopt, completion, planning
from keepupd.daemon.keeper import Keeper, say
from keepupd.draining import drain_of
from keepupd.store import intake
from keepupd.store.tables import AnyRow, campaigns

TAKE_IN = 500  # files in one transaction, and in one question to SAM
# How far before the last look a look begins: clocks differ, SAM shows late what it dates early, and a file may get its
# location, which changes none of its dates, days after it was declared. What even that misses, a sweep finds.
LOOK_BACK = (timedelta(minutes=15), timedelta(days=2))


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
    rest = timedelta(seconds=k.settings.polls.sweep_s)
    is_due = row.swept is None or not row.swept <= now < row.swept + rest
    if is_due or (_differs(row, in_sam) and not _a_look_explains(k, row, in_sam, now)):
        sweep(k, campaign_id, now)


def _differs(row: AnyRow, in_sam: int) -> bool:
    """A difference that the last sweep could not explain is looked at again only when SAM's count changes."""
    return bool(in_sam != row.ever_seen - row.gone and (in_sam != row.sam_count or row.difference == 0))


def _a_look_explains(k: Keeper, row: AnyRow, in_sam: int, now: datetime) -> bool:
    """Take in what is new; whether we then know as many members as SAM counts."""
    if row.difference or in_sam < row.ever_seen - row.gone:
        return False  # which files have left, or are in no state, only a sweep can tell
    definition, last = k.campaigns[row.id].input.definition, k.looked.get(row.id, row.swept)
    try:
        for back in LOOK_BACK:
            known = _look(k, row.id, definition, last - back, now)
            if known >= in_sam:
                break
        k.looked[row.id] = now
        # files may have come since the count: a second one has them in it
        return known == in_sam or in_sam < known <= k.sam.definition_count(definition)
    except SamRefused as refusal:
        say("no look for new files; a sweep instead", logging.WARNING, campaign=row.name, why=refusal.problem)
        return False


def _look(k: Keeper, campaign_id: int, definition: str, since: datetime, now: datetime) -> int:
    """Take in members that SAM made or changed since then; gives how many members are known after it."""
    date = quote(f"{since:%Y-%m-%dT%H:%M:%S}+0000")
    dims = f"defname: {quote(definition)} and (create_date >= {date} or update_date >= {date})"
    with k.database.connection() as db:
        intake.fill_members(db, k.sam.files(dims))
        with k.database.write("look", db):
            returned = intake.mark_returned(db, campaign_id, now)
        taken = _take_in_all(k, db, campaign_id, now)
        with db.begin():
            row = db.execute(select(campaigns).where(campaigns.c.id == campaign_id)).one()
    if taken or returned:
        say("found", campaign=row.name, new=taken, returned=returned)
    return int(row.ever_seen - row.gone)


def sweep(k: Keeper, campaign_id: int, now: datetime) -> None:
    """Compare every member of the input definition with what is known."""
    campaign = k.campaigns[campaign_id]
    drain = drain_words(k, campaign, k.sam.definition(campaign.input.definition))
    with k.database.connection() as db:
        listed = intake.fill_members(db, k.sam.definition_files(campaign.input.definition))
        with k.database.write("accounts", db):
            faults = intake.settle_accounts(db, campaign_id)  # first: what is taken in below would hide what was lost
            lost = intake.without_state(db, campaign_id, campaign.type == "merge")
        for names in chunked(lost, TAKE_IN):
            adopt.take_in(k, campaign_id, names, partial(_restore, campaign_id, names, now), now)
        taken = _take_in_all(k, db, campaign_id, now)
        with k.database.write("sweep", db):
            left, returned = intake.mark_gone(db, campaign_id, now), intake.mark_returned(db, campaign_id, now)
            _note_sweep(db, campaign_id, listed, faults, now, drain)
    k.looked.pop(campaign_id, None)
    say("swept", campaign=campaign.name, members=listed, new=taken, left=left, returned=returned)
    for fault, n in faults.items():
        say("sum rule broken", logging.ERROR, campaign=campaign.name, by=fault, files=n, remedy="keepupctl audit")


def _restore(campaign_id: int, names: list[str], now: datetime, db: Connection) -> list[Unit]:
    return intake.restore_units(db, campaign_id, names, now)


def _note_sweep(
    db: Connection, campaign_id: int, listed: int, faults: dict[str, int], now: datetime, drain: str
) -> None:
    this = campaigns.c.id == campaign_id
    row = db.execute(select(campaigns.c.ever_seen, campaigns.c.gone).where(this)).one()
    difference = sum(faults.values()) + abs(listed - (row.ever_seen - row.gone))
    db.execute(update(campaigns).where(this).values(swept=now, sam_count=listed, difference=difference, drains=drain))


def drain_words(k: Keeper, campaign: Campaign, dims: str) -> str:
    """How its input query takes out what is done, and what to do about it; "" when it does not."""

    def dims_of(name: str) -> str:
        try:
            return k.sam.definition(name)
        except SamAbsent:
            return ""

    drain = drain_of(dims, campaign, k.settings.sam.campaign_parameter, dims_of)
    return drain.words(campaign.input.definition) if drain else ""


def _take_in_all(k: Keeper, db: Connection, campaign_id: int, now: datetime) -> int:
    """Those whose record SAM does not give (any more) are left to the next time."""
    taken, last = 0, 0
    while new := intake.new_members(db, campaign_id, last, TAKE_IN):
        last = new[-1].file_id
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
    made = adopt.made_under_other_names(k, campaign, new)
    adopt.take_in(k, campaign_id, names, lambda db: intake.take_in(db, campaign_id, new, now, settle, runs), now, made)


def _runs_of(k: Keeper, names: list[str]) -> dict[str, str]:
    """The first run of each file that has one, by SAM's metadata."""
    found = {name: record.metadata.get("runs") for name, record in k.sam.records(names).items()}
    return {name: f"run {runs[0][0]}" for name, runs in found.items() if runs}
