"""Files come in, leave and come back: the store's side of comparing an input definition with what is known.

The members of a definition are streamed into a temporary table, so that no list of files is ever held in memory, and
compared there by SQL. The sum rule is checked in the same place: what the counters say against what the rows say.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    MetaData,
    String,
    Table,
    and_,
    exists,
    func,
    insert,
    select,
    update,
)

from keepupd.core.chunks import chunked
from keepupd.core.model import CatalogFile, Unit
from keepupd.store.store import UNIT_COLUMNS, count, next_unit_id, unit_of
from keepupd.store.tables import KEYED, WAITING, campaigns, counters, files, units

CHUNK = 5000

members = Table(
    "members", MetaData(),
    Column("file_id", BigInteger, primary_key=True),
    Column("name", String, nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("events", BigInteger, nullable=False),
    prefixes=["TEMPORARY"],
)  # fmt: skip


def fill_members(db: Connection, listed: Iterable[CatalogFile]) -> int:
    """Stream SAM's list into the connection's temporary table; gives its length."""
    with db.begin():
        members.drop(db, checkfirst=False) if db.dialect.has_table(db, "members") else None
        members.create(db, checkfirst=False)
        for chunk in chunked(listed, CHUNK):
            rows = [{"file_id": f.file_id, "name": f.name, "size": f.size, "events": f.events} for f in chunk]
            db.execute(insert(members), rows)
        return db.execute(select(func.count()).select_from(members)).scalar_one()


def new_members(db: Connection, campaign_id: int, after: int, limit: int) -> list[CatalogFile]:
    """Members never seen before whose file id is above `after`, oldest first."""
    known = exists().where(files.c.campaign_id == campaign_id, files.c.file_id == members.c.file_id)
    with db.begin():
        columns = (members.c.name, members.c.file_id, members.c.size, members.c.events)
        new = select(*columns).where(members.c.file_id > after, ~known)
        rows = db.execute(new.order_by(members.c.file_id).limit(limit))
        return [CatalogFile(*row) for row in rows]


def take_in(
    db: Connection,
    campaign_id: int,
    new: Sequence[CatalogFile],
    at: datetime,
    settle: timedelta,
    runs: Mapping[str, str] | None = None,
) -> list[Unit]:
    """Files seen for the first time, each a unit of its own in pending. Gives the units, in the order of `new`.

    runs: file name -> run, where all files of a run wait for the youngest of them.
    """
    runs = runs or {}
    first = next_unit_id(db)
    known = _units_named(db, campaign_id, [f.name for f in new])  # a file row was lost, its unit was not
    fresh = [f for f in new if f.name not in known]
    ids = known | {f.name: first + n for n, f in enumerate(fresh)}
    if fresh:
        db.execute(insert(units), [
            {"id": ids[f.name], "campaign_id": campaign_id, "name": f.name, "state": "pending", "since": at, "seen": at,
             "due": at + settle, "why": "seen in the input definition"} for f in fresh
        ])  # fmt: skip
    db.execute(insert(files), [
        {"campaign_id": campaign_id, "file_id": f.file_id, "name": f.name, "size": f.size, "events": f.events,
         "seen": at, "unit_id": ids[f.name], "group_key": runs.get(f.name, "")} for f in new
    ])  # fmt: skip
    _wait_for_the_youngest(db, campaign_id, set(runs.values()), at + settle)
    count(db, {(campaign_id, "pending", ""): len(fresh)})
    seen = campaigns.c.ever_seen + len(new)
    db.execute(update(campaigns).where(campaigns.c.id == campaign_id).values(ever_seen=seen))
    rows = db.execute(select(*UNIT_COLUMNS).where(units.c.id.in_(ids.values())))
    return sorted((unit_of(row) for row in rows), key=lambda unit: unit.id)


def _wait_for_the_youngest(db: Connection, campaign_id: int, runs: Collection[str], due: datetime) -> None:
    """Files of these runs that were never launched."""
    for some in chunked(runs, CHUNK // 10):
        theirs = select(files.c.unit_id).where(files.c.campaign_id == campaign_id, KEYED, files.c.group_key.in_(some))
        never = (units.c.state == "pending") & units.c.launch_id.is_(None) & units.c.due.is_not(None)
        db.execute(update(units).where(units.c.id.in_(theirs), never).values(due=due))


def _units_named(db: Connection, campaign_id: int, names: Sequence[str]) -> dict[str, int]:
    rows = db.execute(
        select(units.c.name, units.c.id).where(units.c.campaign_id == campaign_id, units.c.name.in_(names))
    )
    return dict(rows.all())


MEMBER = exists().where(members.c.file_id == files.c.file_id)


def mark_gone(db: Connection, campaign_id: int, at: datetime) -> int:
    """Files that are not among the members, which must be all there are. A pending file that left is not launched."""
    gone = and_(files.c.campaign_id == campaign_id, files.c.gone.is_(None), files.c.seen < at, ~MEMBER)
    _set_due(db, gone, None)
    return _mark(db, campaign_id, gone, at, 1)


def mark_returned(db: Connection, campaign_id: int, at: datetime) -> int:
    """Files that had left and are among the members again: pending ones are launched now."""
    back = and_(files.c.campaign_id == campaign_id, files.c.gone.is_not(None), MEMBER)
    others = files.alias()  # a merge group waits until all of its files are back
    away = exists().where(others.c.unit_id == files.c.unit_id, others.c.gone.is_not(None),
                          others.c.file_id.not_in(select(members.c.file_id)))  # fmt: skip
    _set_due(db, back & ~away, at)
    return _mark(db, campaign_id, back, None, -1)


def _set_due(db: Connection, which: Any, due: datetime | None) -> None:
    chosen = select(files.c.unit_id).where(which)
    db.execute(update(units).where(units.c.id.in_(chosen), units.c.state == "pending").values(due=due))


def _mark(db: Connection, campaign_id: int, which: Any, gone: datetime | None, sign: int) -> int:
    n = db.execute(update(files).where(which).values(gone=gone)).rowcount
    total = campaigns.c.gone + sign * n
    db.execute(update(campaigns).where(campaigns.c.id == campaign_id).values(gone=total))
    return n


def settle_accounts(db: Connection, campaign_id: int) -> dict[str, int]:
    """What breaks the sum rule in the store itself, by its name; the counters are then set to what the rows say.

    An empty answer is the rule kept: ever seen = sum over the states, each file in exactly one of them.
    """
    faults = _counter_faults(db, campaign_id) | _row_faults(db, campaign_id)
    db.execute(counters.delete().where(counters.c.campaign_id == campaign_id))
    count(db, _true_counts(db, campaign_id))
    ever, gone = _true_totals(db, campaign_id)
    db.execute(update(campaigns).where(campaigns.c.id == campaign_id).values(ever_seen=ever, gone=gone))
    return {name: n for name, n in faults.items() if n}


def _true_counts(db: Connection, campaign_id: int) -> dict[tuple[int, str, str], int]:
    rows = db.execute(
        select(units.c.state, units.c.cause, func.sum(units.c.files))
        .where(units.c.campaign_id == campaign_id)
        .group_by(units.c.state, units.c.cause)
    )
    true = Counter({(campaign_id, state, cause): int(n) for state, cause, n in rows})
    waiting = select(func.count()).select_from(files).where(files.c.campaign_id == campaign_id, WAITING)
    true[campaign_id, "pending", ""] += db.execute(waiting).scalar_one()  # for a merge group to close
    return +true


def _true_totals(db: Connection, campaign_id: int) -> tuple[int, int]:
    ever, gone = db.execute(
        select(func.count(), func.count(files.c.gone)).where(files.c.campaign_id == campaign_id)
    ).one()
    return ever, gone


def _counter_faults(db: Connection, campaign_id: int) -> dict[str, int]:
    kept = {(campaign_id, row.state, row.cause): row.n for row in db.execute(
        select(counters).where(counters.c.campaign_id == campaign_id))}  # fmt: skip
    true = _true_counts(db, campaign_id)
    faults = {f"counter of {key[1]} {key[2]}".strip(): abs(kept.get(key, 0) - true.get(key, 0)) for key in kept | true}
    row = db.execute(select(campaigns.c.ever_seen, campaigns.c.gone).where(campaigns.c.id == campaign_id)).one()
    ever, gone = _true_totals(db, campaign_id)
    return faults | {"ever seen": abs(row.ever_seen - ever), "gone": abs(row.gone - gone)}


def _row_faults(db: Connection, campaign_id: int) -> dict[str, int]:
    ours = files.c.campaign_id == campaign_id
    unit = exists().where(units.c.id == files.c.unit_id)
    stateless = select(func.count()).select_from(files).where(ours, files.c.unit_id.is_not(None), ~unit)
    return {
        "files in no state": db.execute(stateless).scalar_one(),
        "states of no file": len(unfounded(db, campaign_id)),
    }


def unfounded(db: Connection, campaign_id: int) -> list[str]:
    """Names of units that no file of the campaign belongs to: nothing may be launched for them."""
    file = exists().where(files.c.unit_id == units.c.id)
    return list(db.execute(select(units.c.name).where(units.c.campaign_id == campaign_id, ~file)).scalars())


def without_state(db: Connection, campaign_id: int, merge: bool) -> list[str]:
    """Names of files whose unit is missing; what no file stands behind is not launched from now on. The files of a
    missing merge group wait again, and nothing is planned with them until the campaign is recalled from SAM."""
    file, unit = exists().where(files.c.unit_id == units.c.id), exists().where(units.c.id == files.c.unit_id)
    ghost = (units.c.campaign_id == campaign_id) & (units.c.state == "pending") & ~file
    db.execute(update(units).where(ghost).values(due=None))
    stateless = and_(files.c.campaign_id == campaign_id, files.c.unit_id.is_not(None), ~unit)
    if not merge:
        return list(db.execute(select(files.c.name).where(stateless)).scalars())
    if db.execute(update(files).where(stateless).values(unit_id=None)).rowcount:
        db.execute(update(campaigns).where(campaigns.c.id == campaign_id).values(recalled=None))
        settle_accounts(db, campaign_id)
    return []


def restore_units(db: Connection, campaign_id: int, names: Sequence[str], at: datetime) -> list[Unit]:
    """Give these files, whose unit is missing, a new one in pending."""
    mine = (files.c.campaign_id == campaign_id) & files.c.name.in_(names)
    made = []
    for unit_id, row in enumerate(db.execute(select(files).where(mine)).all(), start=next_unit_id(db)):
        db.execute(insert(units).values(
            id=unit_id, campaign_id=campaign_id, name=row.name, state="pending", since=at, seen=row.seen,
            due=None if row.gone else at, why="its state was missing; starts anew"))  # fmt: skip
        made.append(unit_id)
        this = and_(files.c.campaign_id == campaign_id, files.c.file_id == row.file_id)
        db.execute(update(files).where(this).values(unit_id=made[-1]))
    count(db, {(campaign_id, "pending", ""): len(made)})
    return [unit_of(row) for row in db.execute(select(*UNIT_COLUMNS).where(units.c.id.in_(made)))]
