"""Mend what `keepupctl audit --repair` found and an operator asked for: SAM's record of an output and its copies.

Nothing is taken over from the audit but where to look: everything is asked anew, and a copy or a location goes only
when SAM shows another one that stands. Where no good copy is left nothing is done: a person types `keepupctl redo`.
"""

import json
import logging
import re
from collections.abc import Collection, Mapping
from dataclasses import replace
from datetime import datetime
from itertools import islice
from urllib.parse import quote

from sqlalchemy import Connection, select, update

from keepupd.campaign import Campaign
from keepupd.campaign_parts import Output
from keepupd.clients.catalog import FileRecord, same_content
from keepupd.clients.storage import StorageUnavailable
from keepupd.core.decide import Observation, decide
from keepupd.core.model import Move, Unit
from keepupd.core.model import Output as Shown
from keepupd.daemon.adopt import made_under_other_names
from keepupd.daemon.declaring import value_of
from keepupd.daemon.keeper import Keeper, say
from keepupd.daemon.outputs import MARKED_BAD, look_for_outputs, rival_guard
from keepupd.store import reads, store
from keepupd.store.store import Wanted
from keepupd.store.tables import AnyRow, campaigns, launches

OF_A_JOB = re.compile(r"/(\d{8}-\d{6}-[a-z0-9]{4})/\d+-\w+")  # what a job makes below its output's location


def take_up(db: Connection, row: AnyRow, now: datetime) -> str:
    """An operator's request: its detail has unit ids, each with the locations where copies were found."""
    db.execute(update(campaigns).where(campaigns.c.id == row.campaign_id).values(swept=None))  # the next poll sweeps
    found = json.loads(row.detail)
    store.want(db, [Wanted("mend", int(unit_id), json.dumps(places)) for unit_id, places in found.items()], now)
    return f"repair: a sweep of the input, {len(found)} file(s) to mend: see the daemon's log"


def mend(k: Keeper, item: AnyRow, now: datetime) -> None:
    """Make SAM's record and the copies of a unit's outputs agree, then look whether SAM shows it as done."""
    with k.database.read() as db:
        unit = next(iter(reads.units_by_id(db, [item.key])), None)
    if unit is None or unit.state in ("running", "validated"):
        if unit is not None:
            say("repair: left to its job, or to the declaration that is under way", unit=unit.name, state=unit.state)
        return
    campaign = k.campaigns[unit.campaign_id]
    records = _records(k, campaign, unit)
    places = _free(k, json.loads(item.detail))
    for output in campaign.outputs:
        record = records.get(campaign.output_names(unit.name, unit.edition)[output.label])
        if record is not None and not record.retired:
            used = {place for other in records.values() if other is not record for place in other.locations}
            _mend_one(k, output, record, [place for place in places if place not in used])
    _adopt(k, campaign, unit, now)


def _records(k: Keeper, campaign: Campaign, unit: Unit) -> dict[str, FileRecord]:
    """Of all editions: retired ones keep their copies."""
    editions = [campaign.output_names(unit.name, n + 1).values() for n in range(unit.edition)]
    return k.sam.records([name for names in editions for name in names])


def _free(k: Keeper, places: Collection[str]) -> list[str]:
    """Directories that jobs made and that no job can own any more."""
    with k.database.read() as db:
        busy = set(db.execute(select(launches.c.key).where(launches.c.closed.is_(None))).scalars())
    return [place for place in places if (made := OF_A_JOB.search(place)) and made[1] not in busy]


def _mend_one(k: Keeper, output: Output, record: FileRecord, places: Collection[str]) -> None:
    if not k.storage.list(output.url):
        raise StorageUnavailable(f"{output.url} shows nothing at all", "is it mounted? it is tried again")
    copies = {place: url for place in places if (url := output.url_of(place)) and _is_job_dir(output, place)}
    standing = {place for place in record.locations if _stands(k, output, record, place)}
    if not standing:
        standing = set(islice((place for place in copies if _is_as_recorded(k, copies[place], record)), 1))
        for place in standing:
            k.sam.add_location(record.name, place)
            say("repair: location added", file=record.name, location=place)
    if standing:
        _clear(k, record, standing, copies)
    else:
        _say_what_is_there(k, record, copies)


def _say_what_is_there(k: Keeper, record: FileRecord, copies: Mapping[str, str]) -> None:
    recorded = f"{record.size} bytes {' '.join(record.checksums) or 'without checksum'}"
    found = ", ".join(f"{value_of(k, url, record.name)} at {place}" for place, url in copies.items())
    remedy = "`keepupctl redo` makes it again, or mend its record in SAM by hand"
    say("repair: no copy has the recorded bytes", logging.WARNING, file=record.name, recorded=recorded,
        found=found or "no copy that is ours to judge", remedy=remedy)  # fmt: skip


def _is_job_dir(output: Output, place: str) -> bool:
    return OF_A_JOB.fullmatch(place.removeprefix(output.location.rstrip("/"))) is not None


def _stands(k: Keeper, output: Output, record: FileRecord, place: str) -> bool:
    """A location elsewhere, such as on tape, is not ours to judge."""
    url = output.url_of(place)
    return url is None or record.name in k.storage.list(url)


def _is_as_recorded(k: Keeper, url: str, record: FileRecord) -> bool:
    found = k.storage.identify(f"{url}/{quote(record.name)}")
    return found is not None and found[0] == record.size and same_content([found[1]], record.checksums)


def _clear(k: Keeper, record: FileRecord, standing: Collection[str], copies: Mapping[str, str]) -> None:
    """One location stands: those without a file go, and so do copies that SAM does not point to."""
    for place in sorted(set(record.locations) - set(standing)):
        k.sam.remove_location(record.name, place)
        say("repair: location without file removed", file=record.name, location=place)
    for place in sorted(copies.keys() - set(standing)):
        k.storage.remove_tree(copies[place])
        say("repair: copy that lost removed", file=record.name, location=place)


def _adopt(k: Keeper, campaign: Campaign, unit: Unit, now: datetime) -> None:
    edition, shown = unit.edition, look_for_outputs(k, campaign, [unit])[unit.id].state
    if shown is not Shown.LOCATED and unit.cause == MARKED_BAD:  # held with its next edition: it may be good after all
        before = look_for_outputs(k, campaign, [replace(unit, edition=edition - 1)])[unit.id].state
        edition, shown = (edition - 1, before) if before is Shown.LOCATED else (edition, shown)
    if shown is not Shown.LOCATED and campaign.type == "reco":
        with k.database.read() as db:
            inputs = reads.files_by_unit(db, [unit.id]).get(unit.id, [])
        shown = Shown.LOCATED if made_under_other_names(k, campaign, inputs, unit.edition) else shown
    if decide(Observation(now, shown), unit) == "output_seen":
        move = Move(unit, "output_seen", "SAM shows the output; found by an audit", guards=rival_guard(True),
                    values={"edition": edition})  # fmt: skip
        with k.database.write("repaired") as db:
            dests = store.apply(db, k.file_chart, [move], now)
        k.log_moves(campaign.name, [move], dests)
