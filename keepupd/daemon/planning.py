"""Make units where files alone do not: a generator's serials, up to its target, and merge groups, as they fill.

Reco and analysis have a unit for each file, made when the file comes in (inputs.py).
"""

import logging
from collections.abc import Iterable, Mapping
from datetime import datetime
from functools import partial
from typing import Any

from sqlalchemy import Connection, select

from keepupd.config import Campaign
from keepupd.core.chunks import chunked
from keepupd.core.model import CatalogFile, Unit
from keepupd.core.plan import Group, GroupRules, close_groups
from keepupd.core.serials import unit_name
from keepupd.daemon import adopt
from keepupd.daemon.keeper import Keeper, say
from keepupd.store import grouping, reads
from keepupd.store.tables import AnyRow, campaigns

CHUNK = 500


def make_serials(k: Keeper, campaign_id: int, now: datetime) -> None:
    """Bring a generator's units up to its target; a target may be raised at any time, and never takes units away."""
    campaign = k.campaigns[campaign_id]
    assert campaign.generator is not None
    wanted = campaign.generator.units
    with k.database.read() as db:
        made = db.execute(select(campaigns.c.ever_seen).where(campaigns.c.id == campaign_id)).scalar_one()
    for serials in chunked(range(made + 1, wanted + 1), CHUNK):
        names = [unit_name(serial) for serial in serials]
        adopt.take_in(k, campaign_id, names, partial(_add_serials, campaign_id, names, now), now)
    if made < wanted:
        say("target", campaign=campaign.name, units=wanted, new=wanted - made)


def _add_serials(campaign_id: int, names: list[str], now: datetime, db: Connection) -> list[Unit]:
    return grouping.add_serials(db, campaign_id, names, now)


def keys_of(campaign: Campaign, record_metadata: Mapping[str, Any]) -> dict[str, Any]:
    """The values a file is grouped by, None for what it has not; `run` is the first of its runs. SAM's names of
    parameters are the same in capitals or not."""
    found = {key.lower(): value for key, value in record_metadata.items()}
    runs = found.get("runs") or [[None]]
    found["run"] = runs[0][0]
    assert campaign.merge is not None
    return {key: found.get(key.lower()) for key in campaign.merge.by}


def take_in_merge_files(k: Keeper, campaign_id: int, new: list[CatalogFile], now: datetime) -> None:
    """Ask SAM, in bulk, for what the files are grouped by, and let them wait for their group."""
    records = k.sam.records([file.name for file in new])
    campaign = k.campaigns[campaign_id]
    known = [(file, keys_of(campaign, records[file.name].metadata)) for file in new if file.name in records]
    with k.database.write("take in") as db:
        grouping.take_in_waiting(db, campaign_id, known, now)
    for key, names in lacking_keys((file.name, keys) for file, keys in known).items():
        say("files lack a grouping key, and are grouped as if theirs were empty", logging.WARNING,
            campaign=campaign.name, key=key, files=len(names), example=names[0])  # fmt: skip


def lacking_keys(known: Iterable[tuple[str, Mapping[str, Any]]]) -> dict[str, list[str]]:
    """Key -> the files that lack it, of (file, the values it is grouped by)."""
    found: dict[str, list[str]] = {}
    for name, keys in known:
        for key in [key for key, value in keys.items() if value is None]:
            found.setdefault(key, []).append(name)
    return found


def close_full_groups(k: Keeper, campaign_id: int, now: datetime, closing: str = "") -> int:
    """Close the groups whose time has come; gives how many. Only keys that may have a full group are looked into."""
    given = k.campaigns[campaign_id].merge
    assert given is not None
    rules = GroupRules.of(given.model_dump())
    with k.database.read() as db:
        if campaign_id in reads.not_recalled(db):
            return 0  # what waits may be in groups that only SAM knows
        totals = grouping.waiting_keys(db, campaign_id)
        keys = [key for key, *total in totals if closing or _may_close(rules, total, now)]
        groups = [
            group for key in keys for group in close_groups(grouping.waiting(db, campaign_id, key), rules, now, closing)
        ]
    for together in chunked(groups, CHUNK):
        close(k, campaign_id, together, now)
    return len(groups)


def close(
    k: Keeper, campaign_id: int, groups: list[Group], now: datetime, made: Mapping[str, str] | None = None
) -> None:
    """From here on membership is for ever: in the database now, and as a SAM definition before any launch.

    made: groups whose output SAM shows under another name, as in adopt.take_in.
    """
    names = [group.name for group in groups]
    adopt.take_in(k, campaign_id, names, lambda db: grouping.write_groups(db, campaign_id, groups, now), now, made)
    for group in groups:
        say(
            "group closed",
            campaign=k.campaigns[campaign_id].name,
            group=group.name,
            files=len(group.members),
            rule=group.rule,
        )


def _may_close(rules: GroupRules, total: list[AnyRow], now: datetime) -> bool:
    n, size, events, oldest = total
    return (
        (rules.max_files is not None and n >= rules.max_files)
        or (rules.max_bytes is not None and size >= rules.max_bytes)
        or (rules.max_events is not None and events >= rules.max_events)
        or (rules.max_age is not None and now - oldest >= rules.max_age)
    )
