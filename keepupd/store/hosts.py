"""Which hosts are sick: they fail one file after the other within seconds; and what they cost is given back.

Nothing is kept beside the attempts and jobs themselves, so a host is let back in by itself, and a restart changes
nothing. When most hosts known fail alike the fault is not with hosts (a campaign asks for software that is nowhere, or
there is one host): then none counts as sick.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Connection,
    and_,
    bindparam,
    case,
    exists,
    func,
    literal,
    not_,
    or_,
    select,
    true,
    type_coerce,
    union_all,
    update,
)

from keepupd.core.causes import SICK_HOST, Policy
from keepupd.core.model import JobState
from keepupd.core.report import WORKER_EXIT_CODES
from keepupd.store import store
from keepupd.store.tables import EPOCH, AnyRow, attempts, jobs, launches, units

LEAST = 5  # different files that failed
QUICK_MS = 120_000  # from start to end, or it never started
BY_HAND = (1, 15)  # hold codes of a person's own
Excluding = Mapping[str, Policy]  # causes that speak against a host, as Causes.excluding() gives them


@dataclass(frozen=True, slots=True)
class SickHost:
    """`failed` quick failures among the `ended` jobs there, of 5 or more files; no job of ours goes there `until`."""

    until: datetime
    failed: int
    ended: int
    why: str  # what its last failure was, in words

    @property
    def words(self) -> str:
        return f"{self.failed} of {self.ended} jobs failed there at once, the last: {self.why}"


def sick_hosts(db: Connection, now: datetime, excluding: Excluding) -> dict[str, SickHost]:
    """Each sick host by its name: 5 different files failed there quickly, and more than half of all that ended. What
    counts is the last such failure, as long before it as a host is excluded, and all since."""
    since, suspects = now - 2 * _longest(excluding), _suspects(now, excluding)
    if db.execute(suspects.limit(1)).first() is None:  # as a rule; one look at what ended lately
        return {}
    failed = {row.host: row for row in db.execute(_failed(suspects, since, excluding))}
    well = dict(db.execute(_went_well(suspects, since, excluding)).all())
    found = {}
    for host, row in failed.items():
        if row.different >= LEAST and row.n > well.get(host, 0):
            until, why = EPOCH + timedelta(milliseconds=row.until), _why(db, host, since, excluding)
            found[host] = SickHost(until, row.n, row.n + well.get(host, 0), why)
    return found if 2 * len(found) <= len(_known(db, since) | found.keys()) else {}


def _suspects(now: datetime, excluding: Excluding) -> Any:
    """Hosts with quick failures enough; what ended there counts since `after`, long before the last failure."""
    longest = _longest(excluding)
    failures = _failures(now - 2 * longest, excluding)
    until = func.max(failures.c.until)
    after = func.max(failures.c.ended) - literal(longest // timedelta(milliseconds=1), BigInteger)
    enough = (until > _ms(now)) & (func.count(failures.c.unit_id.distinct()) >= LEAST)
    return select(failures.c.host, after.label("after"), until.label("until")).group_by(failures.c.host).having(enough)


def _failed(suspects: Any, since: datetime, excluding: Excluding) -> Any:
    its, one = suspects.subquery(), _failures(since, excluding)
    different = func.count(one.c.unit_id.distinct())
    query = select(one.c.host, its.c.until, func.count().label("n"), different.label("different"))
    here = query.join(its, (its.c.host == one.c.host) & (one.c.ended >= its.c.after))
    return here.group_by(one.c.host, its.c.until).order_by(one.c.host)


def _went_well(suspects: Any, since: datetime, excluding: Excluding) -> Any:
    """How many attempts ended otherwise there: well, or by no fault of the host."""
    its = suspects.subquery()
    here = (its.c.host == attempts.c.host) & (_as_ms(attempts.c.ended) >= its.c.after)
    query = select(attempts.c.host, func.count()).join(its, here)
    return query.where(attempts.c.ended >= since, not_(_failed_quickly(excluding))).group_by(attempts.c.host)


def _longest(excluding: Excluding) -> timedelta:
    return timedelta(seconds=max((policy.exclude_host_s for policy in excluding.values()), default=0))


def _ms(at: datetime) -> int:
    return (at - EPOCH) // timedelta(milliseconds=1)


def _as_ms(column: Any) -> Any:
    return type_coerce(column, BigInteger)


def _quick(table: Any) -> Any:
    return or_(table.c.started.is_(None), _as_ms(table.c.ended) - _as_ms(table.c.started) < QUICK_MS)


def _failed_quickly(excluding: Excluding) -> Any:
    return and_(attempts.c.outcome == "node", attempts.c.cause.in_(list(excluding)), _quick(attempts))


def _failures(since: datetime, excluding: Excluding) -> Any:
    """What speaks against a host, which is excluded for it `until` then. Times in milliseconds."""
    return union_all(_tried(since, excluding), _died_early(since, excluding)).subquery()


def _tried(since: datetime, excluding: Excluding) -> Any:
    after = {name: int(policy.exclude_host_s * 1000) for name, policy in excluding.items()}
    ended = _as_ms(attempts.c.ended)
    until = ended + case(after, value=attempts.c.cause, else_=0)
    query = select(attempts.c.host, attempts.c.unit_id, ended.label("ended"), until.label("until"))
    return query.where(attempts.c.ended >= since, attempts.c.host != "", _failed_quickly(excluding))


def _died_early(since: datetime, excluding: Excluding) -> Any:
    """Jobs that a host ended before they took a file: they have no attempt, and no report to find a cause by. An exit
    code of the worker's own means that it could work there."""
    this_job = (attempts.c.launch_id == jobs.c.launch_id) & (attempts.c.job_number == jobs.c.number)
    by_host = or_(
        jobs.c.signal.is_not(None), jobs.c.exit_code.not_in(WORKER_EXIT_CODES),
        and_(jobs.c.state == JobState.HELD, jobs.c.hold_code.not_in(BY_HAND)),
    )  # fmt: skip
    ended = _as_ms(jobs.c.ended)
    until = ended + literal(_longest(excluding) // timedelta(milliseconds=1), BigInteger)
    number = -literal(10**9, BigInteger) * jobs.c.launch_id - jobs.c.number  # counted as a file of its own
    return (
        select(jobs.c.host, number.label("unit_id"), ended.label("ended"), until.label("until"))
        .join(launches, launches.c.id == jobs.c.launch_id)
        .where(or_(launches.c.closed.is_(None), launches.c.closed >= since), launches.c.early_deaths > 0)
        .where(jobs.c.judged, jobs.c.host != "", jobs.c.ended >= since, by_host, _quick(jobs))
        .where(~exists().where(this_job))
    )


def _known(db: Connection, since: datetime) -> set[str]:
    """Hosts that ended or run any job of ours."""
    ended = select(attempts.c.host).where(attempts.c.ended >= since, attempts.c.host != "").distinct()
    at_work = jobs.c.judged.is_(False) & (jobs.c.state == JobState.RUNNING) & (jobs.c.host != "")
    return {*db.execute(ended).scalars(), *db.execute(select(jobs.c.host).where(at_work).distinct()).scalars()}


def _why(db: Connection, host: str, since: datetime, excluding: Excluding) -> str:
    query = select(attempts.c.why).where(*_on(host, since, excluding)).order_by(attempts.c.ended.desc()).limit(1)
    return db.execute(query).scalar() or "they ended before they took a file"


def _on(host: str, since: datetime, excluding: Excluding) -> tuple[Any, ...]:
    return attempts.c.host == host, attempts.c.ended >= since, _failed_quickly(excluding)


# --- what they cost -----------------------------------------------------------------------------------------------


def owed(db: Connection, sick: Collection[str], now: datetime, excluding: Excluding) -> list[AnyRow]:
    """Attempts lost on these hosts that are not given back yet, each with its unit."""
    columns = (
        attempts.c.id, attempts.c.cause, attempts.c.launch_id, units.c.id.label("unit_id"), units.c.campaign_id,
        units.c.state, units.c.files, units.c.cause.label("unit_cause"), units.c.launch_id.label("last_launch"),
    )  # fmt: skip
    since = now - 2 * _longest(excluding)
    query = select(*columns).join(units, units.c.id == attempts.c.unit_id).where(attempts.c.cause != SICK_HOST)
    return [row for host in sick for row in db.execute(query.where(*_on(host, since, excluding)))]


def give_back(db: Connection, lost: Sequence[AnyRow], excluding: Excluding) -> None:
    """Their cause becomes sick_host, which says that it is done; `why` stays. Units that wait for it bear it too."""
    if not lost:
        return
    marked = update(attempts).where(attempts.c.id == bindparam("b_id")).values(cause=SICK_HOST)
    db.execute(marked, [{"b_id": row.id} for row in lost])
    rows, delta = [], store.Delta()
    for row in lost:
        waits = row.state in store.TROUBLE and (row.unit_cause, row.last_launch) == (row.cause, row.launch_id)
        uses = excluding[row.cause].uses == "losses"
        rows.append({"b_id": row.unit_id, "b_n": int(uses), "b_waits": waits, "b_cause": SICK_HOST})
        if waits:
            delta[row.campaign_id, row.state, row.cause] -= row.files
            delta[row.campaign_id, row.state, SICK_HOST] += row.files
    fewer = case((units.c.losses > bindparam("b_n"), units.c.losses - bindparam("b_n")), else_=0)
    cause = case((bindparam("b_waits", type_=Boolean) == true(), bindparam("b_cause")), else_=units.c.cause)
    # the version tells a pass that is about to move the unit that it was outrun
    theirs = update(units).where(units.c.id == bindparam("b_id"))
    db.execute(theirs.values(losses=fewer, cause=cause, version=units.c.version + 1), rows)
    store.count(db, delta)
