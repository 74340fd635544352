"""The questions keepupctl asks of the database, each answered by an index and bounded by a limit."""

from collections.abc import Collection, Iterator, Sequence
from datetime import datetime, timedelta
from typing import NamedTuple

from sqlalchemy import ColumnElement, Connection, bindparam, func, select

from keepupd.core.errors import Ambiguous, NotFound
from keepupd.store.reads import LEFT_SAM
from keepupd.store.tables import (
    AnyRow,
    attempts,
    campaigns,
    counters,
    files,
    history,
    jobs,
    launches,
    outbox,
    polls,
    units,
)  # fmt: skip

NEIGHBOURS = 100  # names before and after a misspelt one that may be meant
IN_TROUBLE_FIRST = ("debug", "crash", "held", "validated", "running", "pending", "declared")
# Written into the SQL as it stands: a bound value would hide from SQLite that the partial index fits.
OPEN = units.c.state.not_in(bindparam("settled", ["declared", "debug"], expanding=True, literal_execute=True))


class Found(NamedTuple):
    """A file in a campaign. One without unit, or a unit without file, breaks the sum rule (or waits for its group)."""

    name: str
    campaign: AnyRow
    unit: AnyRow | None
    file: AnyRow | None


# --- by name ------------------------------------------------------------------------------------------------------


def all_campaigns(db: Connection) -> Sequence[AnyRow]:
    return db.execute(select(campaigns).order_by(campaigns.c.name)).all()


def campaign_named(db: Connection, name: str) -> AnyRow:
    """Raises NotFound, with the closest names."""
    row = db.execute(select(campaigns).where(campaigns.c.name == _storable(name))).first()
    if row is None:
        raise NotFound("campaign", name, [known.name for known in all_campaigns(db)])
    return row


def find_file(db: Connection, name: str, campaign: str | None = None) -> Found:
    """A file, or a unit, by its name. Raises NotFound with close names, and Ambiguous where campaigns share it."""
    known = {row.id: row for row in ([campaign_named(db, campaign)] if campaign else all_campaigns(db))}
    ours, name = list(known), _storable(name)
    rows = db.execute(select(files).where(files.c.name == name, files.c.campaign_id.in_(ours)))
    found = {row.campaign_id: Found(name, known[row.campaign_id], unit_by_id(db, row.unit_id), row) for row in rows}
    for unit in db.execute(select(units).where(units.c.campaign_id.in_(ours), units.c.name == name)):
        found.setdefault(unit.campaign_id, Found(name, known[unit.campaign_id], unit, None))
    if len(found) > 1:
        raise Ambiguous(name, sorted(one.campaign.name for one in found.values()))
    if not found:
        raise NotFound("file", name, [*_close(db, name, ours), *(() if campaign else (r.name for r in known.values()))])
    return found.popitem()[1]


def _storable(name: str) -> str:
    """Bytes that are not UTF-8 reach us as lone surrogates, which no database takes; no name in it has them."""
    return name.encode("utf-8", "replace").decode()


def unit_by_id(db: Connection, unit_id: int | None) -> AnyRow | None:
    return db.execute(select(units).where(units.c.id == unit_id)).first()


def _close(db: Connection, name: str, ours: list[int]) -> list[str]:
    """Names beside it in the alphabet, also beside its first half: a slip is mostly in the second."""
    found: list[str] = []
    for start in (name, name[: len(name) // 2]):
        query = select(files.c.name).where(files.c.campaign_id.in_(ours)).limit(NEIGHBOURS)
        found += db.execute(query.where(files.c.name >= start).order_by(files.c.name)).scalars()
        found += db.execute(query.where(files.c.name < start).order_by(files.c.name.desc())).scalars()
    return list(dict.fromkeys(found))


# --- of a campaign ------------------------------------------------------------------------------------------------


def counts(db: Connection, campaign_id: int) -> dict[tuple[str, str], int]:
    """Files by (state, cause), from the counters."""
    rows = db.execute(select(counters).where(counters.c.campaign_id == campaign_id, counters.c.n != 0))
    return {(row.state, row.cause): row.n for row in rows}


def listed(
    db: Connection, campaign_id: int, states: Collection[str], cause: str | None, limit: int
) -> Iterator[AnyRow]:
    """Units of these states, those in trouble first, each state in the order of its index."""
    for state in IN_TROUBLE_FIRST:
        if state in states and limit > 0:
            query = select(units).where(units.c.campaign_id == campaign_id, units.c.state == state)
            query = query if cause is None else query.where(units.c.cause == cause)
            for row in db.execute(query.order_by(units.c.due, units.c.id).limit(limit)):
                limit -= 1
                yield row


def oldest_open(db: Connection, campaign_id: int) -> AnyRow | None:
    """The unit not declared and not set aside that was seen first, among those still in the input definition."""
    query = select(units).where(units.c.campaign_id == campaign_id, OPEN, ~LEFT_SAM).order_by(units.c.seen)
    return db.execute(query.limit(1)).first()


def late(db: Connection, campaign_id: int, state: str, after: timedelta, now: datetime, limit: int) -> Sequence[AnyRow]:
    """Units longer in `state` than `after`. They were seen before that, which the index of open units knows."""
    since = now - after
    return db.execute(
        select(units)
        .where(units.c.campaign_id == campaign_id, OPEN, units.c.seen < since)
        .where(units.c.state == state, units.c.since < since, ~LEFT_SAM)
        .order_by(units.c.seen)
        .limit(limit)
    ).all()


def due_before(db: Connection, campaign_id: int, due: datetime, most: int) -> int:
    """How many pending units are due before that time; counts no further than `most`."""
    earlier = select(units.c.id).where(
        units.c.campaign_id == campaign_id, units.c.state == "pending", units.c.due < due
    )
    return db.execute(select(func.count()).select_from(earlier.limit(most).subquery())).scalar_one()


def campaign_history(db: Connection, campaign_id: int, limit: int) -> Sequence[AnyRow]:
    return _newest(db, (history.c.unit_id.is_(None)) & (history.c.campaign_id == campaign_id), limit)


# --- of a unit ----------------------------------------------------------------------------------------------------


def unit_history(db: Connection, unit_id: int, limit: int) -> Sequence[AnyRow]:
    return _newest(db, history.c.unit_id == unit_id, limit)


def _newest(db: Connection, which: ColumnElement[bool], limit: int) -> Sequence[AnyRow]:
    """The last rows, oldest first."""
    return db.execute(select(history).where(which).order_by(history.c.id.desc()).limit(limit)).all()[::-1]


def attempts_of(db: Connection, unit_id: int) -> Sequence[AnyRow]:
    """Attempts, oldest first, with their launch's key and what the batch system said of the job."""
    this_job = (jobs.c.launch_id == attempts.c.launch_id) & (jobs.c.number == attempts.c.job_number)
    return db.execute(
        select(attempts, launches.c.key, jobs.c.hold_code, jobs.c.hold_reason, jobs.c.state.label("job_state"))
        .join(launches, launches.c.id == attempts.c.launch_id)
        .outerjoin(jobs, this_job)
        .where(attempts.c.unit_id == unit_id, attempts.c.outcome != "not_delivered")
        .order_by(attempts.c.id)
    ).all()


def launch(db: Connection, launch_id: int | None) -> AnyRow | None:
    return db.execute(select(launches).where(launches.c.id == launch_id)).first()


def jobs_of(db: Connection, launch_id: int) -> Sequence[AnyRow]:
    """Jobs of a launch that are not judged yet."""
    query = select(jobs).where(jobs.c.launch_id == launch_id, jobs.c.judged.is_(False)).order_by(jobs.c.number)
    return db.execute(query).all()


# --- the daemon's own ---------------------------------------------------------------------------------------------


def effects(db: Connection, key: int | None = None, of_launch: bool = False) -> Sequence[AnyRow]:
    """What the outbox still holds for a unit or a launch, in its order; all of it without a key."""
    query = select(outbox).order_by(outbox.c.id)
    if key is not None:
        launching = outbox.c.effect.in_(["submit", "close"])  # launches and units are numbered apart
        query = query.where(outbox.c.key == key, launching if of_launch else ~launching)
    return db.execute(query).all()


def poll(db: Connection, name: str) -> AnyRow | None:
    return db.execute(select(polls).where(polls.c.name == name)).first()


def all_polls(db: Connection) -> Sequence[AnyRow]:
    return db.execute(select(polls).order_by(polls.c.name)).all()
