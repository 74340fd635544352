"""Keep each analysis campaign's running total: add what was declared since, and declare the sum as a new version.

Level-triggered: what belongs in a total is what the store has as declared now. When a file of it belongs there no more
(a redo), or the state directory was lost, it is made again from scratch. The arithmetic is in totals.py.
"""

import logging
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from urllib.parse import quote

from sqlalchemy import Connection, func, select, update

from keepupd.clients.catalog import FileRecord, same_content
from keepupd.clients.storage import StorageUnavailable
from keepupd.clients.total_file import Total, TotalDamaged, kept_at, load, save
from keepupd.config import Campaign
from keepupd.core.chunks import chunked
from keepupd.core.errors import Transient
from keepupd.daemon.keeper import Keeper, say
from keepupd.daemon.totals import BadHistogramFile, HistogramFileUnavailable, add_to_total
from keepupd.daemon.versions import Newest, declare_version, newest_version
from keepupd.store import reads
from keepupd.store.tables import DECLARED, campaigns, units

AT_ONCE = 200  # files added in one pass; more follow in the next, so that other campaigns get their turn
CAUGHT_UP_FOR = timedelta(hours=1)  # counts as complete too: what is fed from outside never ends, but may rest

Signs = tuple[int, datetime | None, bool]  # declared files, when the newest was declared, whether no more is expected


class NotAdded(Transient):
    """Declared histogram files whose copies can't be had now."""


class Totals:
    """What was seen at the last look, by campaign. Lost at a restart, which costs one more look."""

    def __init__(self) -> None:
        self.looked: dict[int, datetime] = {}
        self.seen: dict[int, Signs] = {}
        self.newest: dict[int, Newest] = {}

    def poll(self, k: Keeper, now: datetime) -> None:
        """Look at the totals whose turn it is: every polls.totals_s, and at once when a campaign has just settled."""
        rest = timedelta(seconds=k.settings.polls.totals_s)
        for campaign_id, campaign in k.campaigns.items():
            if campaign.analysis is None:
                continue
            with k.database.read() as db:
                signs = _signs(db, campaign_id, now)
            last, before = self.looked.get(campaign_id), self.seen.get(campaign_id)
            settled_now = signs[2] and signs != before
            if signs != before and (settled_now or last is None or not timedelta(0) <= now - last < rest):
                with k.contained(f"total:{campaign.name}", now):
                    self._look(k, campaign_id, campaign, signs, now)

    def _look(self, k: Keeper, campaign_id: int, campaign: Campaign, signs: Signs, now: datetime) -> None:
        self.looked[campaign_id] = now
        total, lacking = bring_up(k, campaign_id, campaign)
        if not lacking:
            self._declare(k, campaign_id, campaign, total, settled=signs[2])
            self.seen[campaign_id] = signs
        else:
            del self.looked[campaign_id]  # the next pass goes on with them

    def _declare(self, k: Keeper, campaign_id: int, campaign: Campaign, total: Total, settled: bool) -> None:
        newest = self.newest.pop(campaign_id, None) or newest_version(k, campaign)  # not kept if anything goes wrong
        if _is_worth_it(campaign, total, newest, settled):
            newest = declare_version(k, campaign, total, newest)
        if newest.version != total.version:
            save(replace(total, version=newest.version), kept_at(k.settings.state_dir, campaign.name))
        self.newest[campaign_id] = newest


def _signs(db: Connection, campaign_id: int, now: datetime) -> Signs:
    """Cheap to ask: a counter, the end of an index, one row."""
    row = db.execute(select(campaigns).where(campaigns.c.id == campaign_id)).one()
    newest = db.execute(select(func.max(units.c.since)).where(units.c.campaign_id == campaign_id, DECLARED)).scalar()
    caught_up = row.state == "declared" and now - row.since >= CAUGHT_UP_FOR
    return reads.counts(db, campaign_id).get("declared", 0), newest, bool(row.complete) or caught_up


def _is_worth_it(campaign: Campaign, total: Total, newest: Newest, settled: bool) -> bool:
    assert campaign.analysis is not None
    new = total.files.keys() - newest.files
    changed = total.files.keys() != newest.files
    return bool(total.files) and (len(new) >= campaign.analysis.total.min_new_files or (settled and changed))


# --- the total itself -----------------------------------------------------------------------------------------------


def bring_up(k: Keeper, campaign_id: int, campaign: Campaign) -> tuple[Total, int]:
    """The total with what it lacked, AT_ONCE files at most, saved; and how many it still lacks.

    Raises NotAdded when copies can't be had, after adding the others.
    """
    path = kept_at(k.settings.state_dir, campaign.name)
    belongs = _belonging(k, campaign_id, campaign)
    before = _kept(campaign, path, belongs)
    total, away = before, []
    lacking = sorted(belongs - total.files.keys() - total.refused.keys())
    for names in chunked(lacking, AT_ONCE):
        total, not_there = _add(k, campaign, total, names)
        away += not_there
        if len(not_there) < len(names):
            break
    if total is not before or not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        save(total, path)
        say("total", campaign=campaign.name, files=len(total.files), refused=len(total.refused))
    with k.database.write("total refuses") as db:
        this = (campaigns.c.id == campaign_id) & (campaigns.c.total_refused != len(total.refused))
        db.execute(update(campaigns).where(this).values(total_refused=len(total.refused)))
    if away:
        some = ", ".join(away[:3])
        raise NotAdded(f"{len(away)} declared histogram files can't be added to the total now: {some}",
                       "see that their copies are where SAM says, and readable; it is tried again")  # fmt: skip
    return total, len(belongs - total.files.keys() - total.refused.keys())


def _belonging(k: Keeper, campaign_id: int, campaign: Campaign) -> set[str]:
    query = select(units.c.name, units.c.edition).where(units.c.campaign_id == campaign_id, DECLARED)
    with k.database.read() as db:
        rows = db.execute(query).all()
    return {name for row in rows for name in campaign.output_names(row.name, row.edition).values()}


def _kept(campaign: Campaign, path: Path, belongs: set[str]) -> Total:
    """The total as it was saved; from scratch when there is none, or when it holds what does not belong to it."""
    assert campaign.analysis is not None
    empty = Total(tuple(campaign.analysis.histograms))
    try:
        total = load(path)
    except FileNotFoundError:
        return empty
    except TotalDamaged as damage:
        say("total made again", logging.WARNING, campaign=campaign.name, why=damage.problem)
        return empty
    if total.names != empty.names or total.files.keys() - belongs:
        say("total made again", campaign=campaign.name, why="its histograms, or its files, are others now")
        return replace(empty, version=total.version)
    return replace(total, refused={name: why for name, why in total.refused.items() if name in belongs})


def _add(k: Keeper, campaign: Campaign, total: Total, names: Sequence[str]) -> tuple[Total, list[str]]:
    """Add what can be added; gives also the names whose copies can't be had now."""
    records, away = k.sam.records(names), []
    for name in names:
        url = _copy_of(campaign, records.get(name))
        try:
            if url is None:
                raise HistogramFileUnavailable(f"SAM shows no copy of {name} that can be reached", "see its locations")
            with k.storage.reading(url) as path:
                total = _checked(add_to_total(total, path, name), records[name])
        except BadHistogramFile as bad:
            say("histogram file refused", logging.WARNING, campaign=campaign.name, file=name, why=bad.problem)
            total = replace(total, refused={**total.refused, name: bad.problem})
        except (HistogramFileUnavailable, StorageUnavailable) as trouble:
            say("histogram file not added yet", logging.WARNING, file=name, why=trouble.problem)
            away.append(name)
    return total, away


def _copy_of(campaign: Campaign, record: FileRecord | None) -> str | None:
    """The URL of a good copy, as its campaign's outputs have theirs."""
    if record is None or record.retired or not record.good:
        return None
    for output in campaign.outputs:
        for location in record.locations:
            if url := output.url_of(location):
                return f"{url}/{quote(record.name)}"
    return None


def _checked(total: Total, record: FileRecord) -> Total:
    """Raises BadHistogramFile when the copy that was added is not the one that SAM describes."""
    found = total.files[record.name]
    if any(text.startswith("adler32:") for text in record.checksums) and not same_content([found], record.checksums):
        raise BadHistogramFile(record.name, f"SAM says {', '.join(record.checksums)}, its copy has {found}")
    return total
