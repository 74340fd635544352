"""The questions the daemon asks of its memory, each answered by an index and bounded by a limit."""

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, and_, exists, func, or_, select, tuple_

from keepupd.core.model import LIVE_JOB, JobState, Unit
from keepupd.store.store import UNIT_COLUMNS, unit_of
from keepupd.store.tables import (
    WAITING,
    AnyRow,
    attempts,
    campaigns,
    counters,
    files,
    jobs,
    launches,
    outbox,
    polls,
    units,
)

IDLE = ("pending", "held", "crash")  # states in which nothing of a unit is under way
_AWAY = exists().where(files.c.unit_id == units.c.id, files.c.gone.is_not(None))
_THERE = exists().where(files.c.unit_id == units.c.id, files.c.gone.is_(None))
_LOST = (units.c.state == "pending") & units.c.due.is_(None)  # no file stands behind it at all
LEFT_SAM = units.c.state.in_(IDLE) & ~_THERE & (_AWAY | _LOST)  # nothing is late there
ENDED_JOB = (JobState.LEFT, JobState.HELD, JobState.LOST)


def launchable(db: Connection, campaign_id: int, now: datetime, limit: int, which: Any = True) -> list[Unit]:
    """Pending units that are due, oldest first: not what an older launch may still deliver, nor what left SAM.
    `which`: a further condition."""
    open_attempt = exists().where(attempts.c.unit_id == units.c.id, attempts.c.outcome == "")
    rows = db.execute(
        select(*UNIT_COLUMNS)
        .where(units.c.campaign_id == campaign_id, units.c.state == "pending", units.c.due <= now, ~open_attempt, which)
        .order_by(units.c.due, units.c.id)
        .limit(limit)
    )
    return [unit_of(row) for row in rows]


def due_units(db: Connection, campaign_id: int, states: Collection[str], now: datetime, limit: int) -> list[Unit]:
    """Units of these states whose time has come; not while a job of theirs is still to be removed."""
    removing = exists().where(outbox.c.key == units.c.id, outbox.c.effect == "remove_job")
    rows = db.execute(
        select(*UNIT_COLUMNS)
        .where(units.c.campaign_id == campaign_id, units.c.state.in_(states), units.c.due <= now, ~removing)
        .order_by(units.c.due)
        .limit(limit)
    )
    return [unit_of(row) for row in rows]


def units_by_id(db: Connection, ids: Collection[int]) -> list[Unit]:
    return [unit_of(row) for row in db.execute(select(*UNIT_COLUMNS).where(units.c.id.in_(ids)))]


def units_of_launch(db: Connection, launch_id: int, open_only: bool = False) -> list[tuple[Unit, AnyRow]]:
    """Each unit of a launch with its attempt there."""
    query = (
        select(*UNIT_COLUMNS, attempts)
        .join(attempts, attempts.c.unit_id == units.c.id)
        .where(attempts.c.launch_id == launch_id)
        .order_by(units.c.id)
    )
    if open_only:
        query = query.where(attempts.c.outcome == "")
    return [(unit_of(row), row) for row in db.execute(query)]


def files_by_unit(db: Connection, unit_ids: Collection[int]) -> dict[int, list[AnyRow]]:
    """Input files of units."""
    found: dict[int, list[AnyRow]] = {}
    for row in db.execute(select(files).where(files.c.unit_id.in_(unit_ids)).order_by(files.c.file_id)):
        found.setdefault(row.unit_id, []).append(row)
    return found


def tried_in(
    db: Connection, launch_id: int, numbers: Collection[int], inputs: Collection[str]
) -> dict[int | str, tuple[Unit, int]]:
    """Units that jobs of this launch tried, with their attempts' ids: by job number, or by a file the job was given."""
    rows = db.execute(
        select(*UNIT_COLUMNS, attempts.c.id.label("attempt_id"), attempts.c.job_number, files.c.name.label("input"))
        .join(attempts, attempts.c.unit_id == units.c.id)
        .outerjoin(files, files.c.unit_id == units.c.id)
        .where(attempts.c.launch_id == launch_id)
        .where(or_(attempts.c.job_number.in_(numbers), attempts.c.job_number.is_(None) & files.c.name.in_(inputs)))
    )
    return {row.input if row.job_number is None else row.job_number: (unit_of(row), row.attempt_id) for row in rows}


def repeats(db: Connection, unit_ids: Collection[int]) -> dict[tuple[int, str], int]:
    """How often each cause has struck each of these units."""
    rows = db.execute(
        select(attempts.c.unit_id, attempts.c.cause, func.count())
        .where(attempts.c.unit_id.in_(unit_ids), attempts.c.cause != "")
        .group_by(attempts.c.unit_id, attempts.c.cause)
    )
    return {(unit_id, cause): n for unit_id, cause, n in rows}


def not_delivered(db: Connection, launch_id: int) -> dict[int, int]:
    """How many earlier launches ended without delivering the units of this one."""
    ours = select(attempts.c.unit_id).where(attempts.c.launch_id == launch_id)
    missed = (attempts.c.outcome == "not_delivered") & attempts.c.unit_id.in_(ours)
    return dict(db.execute(select(attempts.c.unit_id, func.count()).where(missed).group_by(attempts.c.unit_id)).all())


def not_recalled(db: Connection) -> dict[int, str]:
    """Id and name of the active campaigns that SAM and batch have not yet been asked about."""
    waiting = select(campaigns.c.id, campaigns.c.name).where(campaigns.c.recalled.is_(None), campaigns.c.active)
    return {row.id: row.name for row in db.execute(waiting)}


def open_launches(db: Connection, campaign_id: int | None = None) -> Sequence[AnyRow]:
    query = select(launches).where(launches.c.closed.is_(None)).order_by(launches.c.id)
    if campaign_id is not None:
        query = query.where(launches.c.campaign_id == campaign_id)
    return db.execute(query).all()


def ended_jobs(db: Connection, after: tuple[int, int], limit: int) -> Sequence[AnyRow]:
    """Jobs that left, are held or were lost, whose end is not judged yet, beyond `after` (launch, number)."""
    return db.execute(
        select(jobs, launches.c.key, launches.c.campaign_id, launches.c.settings.label("settings"))
        .join(launches, launches.c.id == jobs.c.launch_id)
        .where(jobs.c.judged.is_(False), jobs.c.state.in_(ENDED_JOB))
        .where(tuple_(jobs.c.launch_id, jobs.c.number) > tuple_(*after))
        .order_by(jobs.c.launch_id, jobs.c.number)
        .limit(limit)
    ).all()


def live_jobs(db: Connection, campaign_id: int) -> dict[str, int]:
    """Number of a campaign's jobs by state: wanted, idle and running."""
    rows = db.execute(
        select(jobs.c.state, func.count())
        .join(launches, launches.c.id == jobs.c.launch_id)
        .where(launches.c.closed.is_(None), launches.c.campaign_id == campaign_id)
        .where(jobs.c.judged.is_(False), jobs.c.state.in_(LIVE_JOB))
        .group_by(jobs.c.state)
    )
    return dict(rows.all())


def live_by_launch(db: Connection) -> dict[int, int]:
    """Number of jobs not judged yet, by launch; launches without one are left out."""
    rows = db.execute(select(jobs.c.launch_id, func.count()).where(jobs.c.judged.is_(False)).group_by(jobs.c.launch_id))
    return dict(rows.all())


def unjudged_jobs(db: Connection, launch_keys: Collection[str] | None = None) -> Sequence[AnyRow]:
    """Every job the batch system should still show, or whose end we have yet to judge; of all launches, or of these."""
    query = select(jobs, launches.c.key, launches.c.submitted).join(launches, launches.c.id == jobs.c.launch_id)
    if launch_keys is not None:
        query = query.where(launches.c.key.in_(launch_keys))
    return db.execute(query.where(jobs.c.judged.is_(False))).all()


def counts(db: Connection, campaign_id: int) -> dict[str, int]:
    """Files of a campaign by state, from the counters."""
    rows = db.execute(
        select(counters.c.state, func.sum(counters.c.n))
        .where(counters.c.campaign_id == campaign_id)
        .group_by(counters.c.state)
    )
    return {state: int(n) for state, n in rows if n}


def users_of(db: Connection, campaign_id: int, names: Collection[str]) -> Sequence[AnyRow]:
    """Units of other campaigns that these files are in, declared or on their way: input, unit, state, campaign."""
    in_use = units.c.state.in_(["running", "validated", "declared"]) & (files.c.campaign_id != campaign_id)
    return db.execute(
        select(
            files.c.name.label("input"), units.c.name.label("unit"), units.c.state, campaigns.c.name.label("campaign")
        )
        .join(units, units.c.id == files.c.unit_id)
        .join(campaigns, campaigns.c.id == files.c.campaign_id)
        .where(files.c.name.in_(names), in_use)
        .order_by(files.c.name)
    ).all()


def ever_declared(db: Connection, campaign_id: int) -> bool:
    """Whether any output of it is declared, or was: a redo gives it a later edition."""
    was = or_(units.c.state == "declared", units.c.edition > 1)
    return db.execute(select(units.c.id).where(units.c.campaign_id == campaign_id, was).limit(1)).first() is not None


def counts_without_left(db: Connection, campaign_id: int) -> dict[str, int]:
    """Files by state, but for those that left the input definition while nothing of theirs is under way: nobody waits
    for these. A state that has only such files is there, with 0."""
    found = counts(db, campaign_id)
    idle = sum(found.get(state, 0) for state in IDLE)
    gone = db.execute(select(campaigns.c.gone).where(campaigns.c.id == campaign_id)).scalar_one()
    if not 0 < idle <= gone:  # none has left, or some are there anyway: not asked of many files in each pass
        return found
    under_way = exists().where(attempts.c.unit_id == units.c.id, attempts.c.outcome == "")
    left = (
        select(units.c.state, func.count())
        .join(files, files.c.unit_id == units.c.id)
        .where(units.c.campaign_id == campaign_id, units.c.state.in_(IDLE), files.c.gone.is_not(None), ~under_way)
        .group_by(units.c.state)
    )
    for state, n in db.execute(left):
        found[state] -= n
    waiting = select(func.count()).where(files.c.campaign_id == campaign_id, WAITING, files.c.gone.is_not(None))
    if n := db.execute(waiting).scalar_one():
        found["pending"] -= n
    return found


def incomplete_groups(db: Connection, campaign_id: int, limit: int) -> dict[Unit, list[str]]:
    """Merge groups that are not under way and lack files that left SAM, others being there: group -> their names."""
    lacking = units.c.state.in_(IDLE) & _AWAY & _THERE
    rows = db.execute(
        select(*UNIT_COLUMNS).where(units.c.campaign_id == campaign_id, lacking).order_by(units.c.id).limit(limit)
    )
    return {unit: gone_members(db, [unit.id]) for unit in map(unit_of, rows)}


def left(db: Connection, unit_ids: Collection[int]) -> set[int]:
    """Those of these units that lack an input file: it left SAM."""
    query = select(files.c.unit_id).where(files.c.unit_id.in_(unit_ids), files.c.gone.is_not(None))
    return set(db.execute(query).scalars())


def gone_members(db: Connection, unit_ids: Collection[int]) -> list[str]:
    """Names of input files of these units that left SAM."""
    query = select(files.c.name).where(files.c.unit_id.in_(unit_ids), files.c.gone.is_not(None))
    return list(db.execute(query.order_by(files.c.name)).scalars())


def due_effects(db: Connection, now: datetime, limit: int) -> Sequence[AnyRow]:
    """The first undone effect of each key, when it is due and not parked."""
    first = select(func.min(outbox.c.id)).group_by(outbox.c.key, _family())
    return db.execute(
        select(outbox)
        .where(outbox.c.id.in_(first), outbox.c.due <= now, outbox.c.parked.is_(None))
        .order_by(outbox.c.id)
        .limit(limit)
    ).all()


def _family() -> Any:
    """Keys of launches and of units are different numbers: order holds within each."""
    return or_(outbox.c.effect == "submit", outbox.c.effect == "close")


def poll_is_good(db: Connection, name: str, since: datetime) -> bool:
    """Has this poll had an answer since then, and none missing after it?"""
    row = db.execute(select(polls).where(polls.c.name == name)).first()
    return bool(row and row.good and row.good >= since and (row.failed is None or row.failed <= row.good))


def has_rivals(db: Connection, unit_ids: Collection[int]) -> set[int]:
    """Units with more than one attempt that may have left a copy of the output."""
    rows = db.execute(
        select(attempts.c.unit_id)
        .where(attempts.c.unit_id.in_(unit_ids), attempts.c.outcome != "not_delivered")
        .group_by(attempts.c.unit_id)
        .having(func.count() > 1)
    )
    return {unit_id for (unit_id,) in rows}


def attempts_of(db: Connection, unit_id: int) -> Sequence[AnyRow]:
    """Every attempt at a unit that SAM delivered, oldest first, with its launch's key."""
    return db.execute(
        select(attempts, launches.c.key)
        .join(launches, launches.c.id == attempts.c.launch_id)
        .where(and_(attempts.c.unit_id == unit_id, attempts.c.outcome != "not_delivered"))
        .order_by(attempts.c.id)
    ).all()
