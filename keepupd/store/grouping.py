"""Merge groups in the store: files that wait, groups that are closed; and a generator's units, which have no files."""

import json
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, bindparam, func, insert, select, update

from keepupd.core.chunks import chunked
from keepupd.core.errors import UnitMoved
from keepupd.core.model import CatalogFile, Unit
from keepupd.core.plan import Group, Waiting, group_name
from keepupd.store.store import UNIT_COLUMNS, Wanted, count, next_unit_id, unit_of, want
from keepupd.store.tables import WAITING, campaigns, files, units

CHUNK = 1000


def take_in_waiting(
    db: Connection, campaign_id: int, new: Sequence[tuple[CatalogFile, dict[str, Any]]], at: datetime
) -> None:
    """Files of a merge campaign seen for the first time, with the values they are grouped by: pending, in no unit."""
    rows = [
        {"campaign_id": campaign_id, "file_id": f.file_id, "name": f.name, "size": f.size, "events": f.events,
         "seen": at, "group_key": json.dumps(keys, sort_keys=True)} for f, keys in new
    ]  # fmt: skip
    db.execute(insert(files), rows)
    count(db, {(campaign_id, "pending", ""): len(rows)})
    seen = campaigns.c.ever_seen + len(rows)
    db.execute(update(campaigns).where(campaigns.c.id == campaign_id).values(ever_seen=seen))


def waiting_keys(db: Connection, campaign_id: int) -> list[tuple[str, int, int, int, datetime]]:
    """For each set of grouping values: files that wait, their bytes and events, and when the oldest was seen."""
    rows = db.execute(
        select(
            files.c.group_key, func.count(), func.sum(files.c.size), func.sum(files.c.events), func.min(files.c.seen)
        )
        .where(files.c.campaign_id == campaign_id, WAITING, files.c.gone.is_(None))
        .group_by(files.c.group_key)
    )
    return [tuple(row) for row in rows]


def waiting(db: Connection, campaign_id: int, group_key: str) -> list[Waiting]:
    columns = (files.c.file_id, files.c.name, files.c.size, files.c.events, files.c.seen)
    mine = (files.c.campaign_id == campaign_id) & WAITING & files.c.gone.is_(None) & (files.c.group_key == group_key)
    return [Waiting(*row) for row in db.execute(select(*columns).where(mine))]


def waiting_among(db: Connection, campaign_id: int, file_ids: Sequence[int]) -> list[Waiting]:
    """Those of these files that wait for a group."""
    columns = (files.c.file_id, files.c.name, files.c.size, files.c.events, files.c.seen)
    found: list[Waiting] = []
    for chunk in chunked(file_ids, CHUNK):
        mine = (files.c.campaign_id == campaign_id) & WAITING & files.c.file_id.in_(chunk)
        found += [Waiting(*row) for row in db.execute(select(*columns).where(mine))]
    return found


def write_groups(db: Connection, campaign_id: int, groups: Sequence[Group], at: datetime) -> list[Unit]:
    """Close groups: each becomes a unit, its files are that unit's for ever. They stay pending: no counter moves.

    Raises UnitMoved when another pass, or an operator's flush, has taken one of the files in the meantime.
    """
    members = [member.file_id for group in groups for member in group.members]
    if (free := len(waiting_among(db, campaign_id, members))) != len(members):
        raise UnitMoved(len(members), free)
    first = next_unit_id(db)
    fixed = {"campaign_id": campaign_id, "state": "pending", "since": at, "due": at}
    rows = [
        {"id": first + n, "name": group.name, "files": len(group.members), "seen": min(m.seen for m in group.members),
         "origin": group.rule, "why": f"group closed: {group.rule}"} | fixed for n, group in enumerate(groups)
    ]  # fmt: skip
    db.execute(insert(units), rows)
    taken = [{"b_file": m.file_id, "b_unit": first + n} for n, group in enumerate(groups) for m in group.members]
    mine = (files.c.campaign_id == campaign_id) & (files.c.file_id == bindparam("b_file"))
    db.execute(update(files).where(mine).values(unit_id=bindparam("b_unit")), taken)
    want(db, [Wanted("define", first + n) for n in range(len(groups))], at)
    made = db.execute(select(*UNIT_COLUMNS).where(units.c.id >= first, units.c.campaign_id == campaign_id))
    return [unit_of(row) for row in made]


def add_serials(db: Connection, campaign_id: int, names: Sequence[str], at: datetime) -> list[Unit]:
    """Units of a generator, by their serials; those that are there already stay as they are."""
    known = set(
        db.execute(select(units.c.name).where(units.c.campaign_id == campaign_id, units.c.name.in_(names))).scalars()
    )
    fresh = [name for name in names if name not in known]
    if not fresh:
        return []
    db.execute(insert(units), [
        {"id": unit_id, "campaign_id": campaign_id, "name": name, "state": "pending", "since": at, "seen": at,
         "due": at, "why": "wanted by the campaign's target"}
        for unit_id, name in enumerate(fresh, start=next_unit_id(db))
    ])  # fmt: skip
    count(db, {(campaign_id, "pending", ""): len(fresh)})
    seen = campaigns.c.ever_seen + len(fresh)
    db.execute(update(campaigns).where(campaigns.c.id == campaign_id).values(ever_seen=seen))
    rows = db.execute(select(*UNIT_COLUMNS).where(units.c.campaign_id == campaign_id, units.c.name.in_(fresh)))
    return [unit_of(row) for row in rows]


def take_apart(db: Connection, unit: Unit, state: str, cause: str, bad: Sequence[str], at: datetime) -> int:
    """The `bad` files alone stay in the unit, which is in `state` for `cause` now; the others wait for a group again.

    The unit keeps its history and attempts, so that they are found by the bad file's name. It takes the name that its
    members give it: tried again, it is a group like any other. Gives how many files wait again.
    """
    mine = files.c.unit_id == unit.id
    n = db.execute(update(files).where(mine, files.c.name.not_in(bad)).values(unit_id=None)).rowcount
    told = {"name": group_name(bad), "files": unit.files - n, "origin": f"taken out of group {unit.name}"}
    db.execute(update(units).where(units.c.id == unit.id).values(told))
    count(db, {(unit.campaign_id, state, cause): -n, (unit.campaign_id, "pending", ""): n})
    want(db, [Wanted("define", unit.id)], at)
    return n
