"""Declared exactly once: what the daemon does with an output that its job copied but did not get into SAM.

Output names are unique in SAM, so SAM itself refuses a second declaration: the first to declare wins. The rest is
making the winner's record and copy agree, and removing the copies that lost.
"""

from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from urllib.parse import quote

from keepupd.clients.catalog import FileRecord, same_content
from keepupd.config import Campaign
from keepupd.core.errors import KeepupError, SamRefused
from keepupd.core.model import Failure, Move, Unit
from keepupd.core.report import OutputMade, read_report
from keepupd.daemon.keeper import Keeper
from keepupd.store import reads, store
from keepupd.store.tables import AnyRow


class Retired(KeepupError):
    """SAM keeps the names of retired files: this one can't be declared again."""


def declare(k: Keeper, item: AnyRow, now: datetime) -> None:
    """Bring every output of a validated unit into SAM, with a location, from what its job reported."""
    unit, tried = _unit_and_attempts(k, item.key)
    if unit.state != "validated":
        return
    for output in _last_outputs(tried):
        try:
            _declare_one(k, unit, tried, output)
        except SamRefused as refusal:
            _hold(k, unit, f"SAM refuses {output.name}: {refusal.problem}", now)
            return
        except Retired as retired:
            _hold(k, unit, f"{retired.problem}; {retired.remedy}", now, "record_differs", unit.edition + 1)
            return
    with k.database.write("declared by us") as db:
        store.postpone(db, [(unit, now)])  # look for it at once


def _unit_and_attempts(k: Keeper, unit_id: int) -> tuple[Unit, Sequence[AnyRow]]:
    with k.database.read() as db:
        return reads.units_by_id(db, [unit_id])[0], reads.attempts_of(db, unit_id)


def _last_outputs(tried: Sequence[AnyRow]) -> tuple[OutputMade, ...]:
    for attempt in reversed(tried):
        path = Path(attempt.evidence, "report.json") if attempt.evidence else None
        report = read_report(path.read_text()) if path and path.exists() else None
        if report and report.succeeded:
            return report.outputs
    return ()


def _declare_one(k: Keeper, unit: Unit, tried: Sequence[AnyRow], mine: OutputMade) -> None:
    record = k.sam.records([mine.name]).get(mine.name)
    if record is None:
        k.sam.declare(mine.metadata)
        k.sam.add_location(mine.name, mine.location)
    elif record.retired:
        raise Retired(f"{record.name} was retired in SAM", "`keepupctl release` makes its next edition")
    elif not record.locations:
        _locate(k, unit, tried, record, mine)
    # else: it is there, by this job or by another that was first


def _locate(k: Keeper, unit: Unit, tried: Sequence[AnyRow], record: FileRecord, mine: OutputMade) -> None:
    """A record without location: add that of the copy it describes; where that is gone, let it describe ours."""
    if record.size != mine.size or not same_content(mine.checksums, record.checksums):
        for location, url in _copies(k, k.campaigns[unit.campaign_id], tried):
            found = k.storage.identify(f"{url}/{quote(record.name)}")
            if found and found[0] == record.size and same_content([found[1]], record.checksums):
                k.sam.add_location(record.name, location)
                return
        k.sam.modify(record.name, {"file_size": mine.size, "checksum": list(mine.checksums)})
    k.sam.add_location(record.name, mine.location)


def _copies(k: Keeper, campaign: Campaign, tried: Sequence[AnyRow]) -> Iterator[tuple[str, str]]:
    """(location, URL) of every directory that the jobs of these attempts made."""
    for output in campaign.outputs:
        for attempt in tried:
            below = f"{output.url}/{attempt.key}"
            for name in k.storage.list(below):
                if attempt.job_number is not None and name.startswith(f"{attempt.job_number}-"):
                    yield f"{output.location}/{attempt.key}/{name}", f"{below}/{name}"


def differing_copies(k: Keeper, campaign: Campaign, record: FileRecord) -> str:
    """What is wrong when SAM shows two copies of one output that are not alike: both values. Copies elsewhere, such as
    on tape, are not ours to judge, and a single one was compared by the job that made it."""
    made = {
        location: output.url + location.removeprefix(output.location)
        for output in campaign.outputs
        for location in record.locations
        if location.startswith(f"{output.location}/")
    }
    if len(made) < 2:
        return ""
    values = {location: value_of(k, url, record.name) for location, url in made.items()}
    said = ", ".join(f"{value} at {location}" for location, value in values.items())
    return f"{record.name} has located copies that differ: {said}" if len(set(values.values())) > 1 else ""


def value_of(k: Keeper, url: str, name: str) -> str:
    """Size and checksum of a copy in words. One that can't be read must not stop the look at all other files."""
    try:
        found = k.storage.identify(f"{url}/{quote(name)}")
    except KeepupError as trouble:
        return trouble.problem
    return f"{found[0]} bytes {found[1]}" if found else "no file"


def _hold(k: Keeper, unit: Unit, why: str, now: datetime, fault: str = "sam_refused", edition: int = 0) -> None:
    cause = k.causes.judge(Failure(step="declare", fault=fault, message=why))
    values = {"edition": edition or unit.edition}
    move = Move(unit, "declare_refused", why, cause=cause.name, values=values)
    with k.database.write("declaration refused") as db:
        dests = store.apply(db, k.file_chart, [move], now)
    k.log_moves(k.campaigns[unit.campaign_id].name, [move], dests)


def remove_losers(k: Keeper, item: AnyRow, now: datetime) -> None:
    """Remove the copies of a declared unit that SAM does not point to."""
    unit, tried = _unit_and_attempts(k, item.key)
    campaign = k.campaigns[unit.campaign_id]
    editions = [campaign.output_names(unit.name, n + 1).values() for n in range(unit.edition)]  # retired ones stay
    records = k.sam.records([name for names in editions for name in names])
    good = {location for record in records.values() for location in record.locations}
    if unit.state != "declared" or not any(records[name].locations for name in records.keys() & editions[-1]):
        return
    for location, url in _copies(k, campaign, tried):
        if location not in good:
            k.storage.remove_tree(url)
