"""apply(): the one way a state changes; and the counters, history and outbox that change with it in one transaction.

All functions take a connection whose transaction the caller opened with Database.write(name).
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple, cast

from sqlalchemy import Connection, Table, bindparam, func, insert, select, update
from sqlalchemy.dialects import postgresql, sqlite

from keepupd.core.chart import Chart
from keepupd.core.errors import UnitMoved
from keepupd.core.model import Move, Unit
from keepupd.store.tables import AnyRow, campaigns, counters, history, outbox, passive_matches, units

UNIT_COLUMNS = [units.c[name] for name in Unit.__dataclass_fields__]
WHY_MAX = 2000  # characters of a reason kept in a row; the evidence has the rest
TROUBLE = ("held", "crash", "debug")  # the states that keep their cause

Delta = Counter[tuple[int, str, str]]  # (campaign, state, cause) -> files


class Wanted(NamedTuple):
    """An effect to queue: what is wanted outside, once the transaction is committed."""

    effect: str
    key: int
    detail: str = ""


def unit_of(row: AnyRow) -> Unit:
    return Unit(*row[: len(UNIT_COLUMNS)])


def next_unit_id(db: Connection) -> int:
    """Units are numbered here, not by the database, in the transaction that writes them: no other writes meanwhile."""
    return int(db.execute(select(func.max(units.c.id))).scalar() or 0) + 1


def apply(db: Connection, chart: Chart, moves: Sequence[Move], at: datetime) -> list[str]:
    """Move units along the chart: state, history, counters and effects together. Gives the new states, in order.

    Raises EventRefused for a move that is not on the chart, and UnitMoved when another pass was faster for any of them:
    then the caller's transaction is lost as a whole, and the next pass looks again.
    """
    if not moves:
        return []
    edges = [chart.follow(move.unit.state, move.event, move.guards) for move in moves]
    dests = [edge.dest for edge in edges]
    _set_states(db, moves, dests, at)
    _write_history(db, moves, dests, at)
    _count_moves(db, moves, dests)
    wanted = [Wanted(e.effect, m.unit.id, m.detail) for m, e in zip(moves, edges, strict=True) if e.effect]
    want(db, wanted, at)
    return dests


def _set_states(db: Connection, moves: Sequence[Move], dests: Sequence[str], at: datetime) -> None:
    # the bound values keep plain column names where the unit keeps its own: one statement serves every kind of move
    guarded = (
        update(units)
        .where(units.c.id == bindparam("b_id"), units.c.version == bindparam("b_version"))
        .values({name: bindparam(f"b_{name}") for name in _SET} | {"version": units.c.version + 1})
    )
    rows = [_row(move, dest, at) for move, dest in zip(moves, dests, strict=True)]
    moved = db.execute(guarded, rows).rowcount
    if moved != len(moves):
        raise UnitMoved(len(moves), moved)


_KEPT = ("tries", "losses", "launch_id", "needs", "edition")  # columns a move may set by its `values`
_SET = ("state", "since", "due", "cause", "why", *_KEPT)


def _row(move: Move, dest: str, at: datetime) -> dict[str, Any]:
    unit = move.unit
    row = {
        "b_id": unit.id, "b_version": unit.version, "b_state": dest, "b_since": at, "b_due": move.due,
        "b_cause": cause_in(move, dest), "b_why": move.why[:WHY_MAX], "b_tries": unit.tries, "b_losses": unit.losses,
        "b_launch_id": unit.launch_id, "b_needs": unit.needs, "b_edition": unit.edition,
    }  # fmt: skip
    if move.values:
        row.update({f"b_{name}": value for name, value in move.values.items()})
    return row


def cause_in(move: Move, dest: str) -> str:
    """The cause a unit carries in its new state: none where nothing is wrong."""
    return (move.cause or move.unit.cause) if dest in TROUBLE else ""


def _write_history(db: Connection, moves: Sequence[Move], dests: Sequence[str], at: datetime) -> None:
    rows = [
        {"campaign_id": m.unit.campaign_id, "unit_id": m.unit.id, "at": at, "source": m.unit.state, "event": m.event,
         "dest": dest, "cause": m.cause, "why": m.why[:WHY_MAX], "who": m.who}
        for m, dest in zip(moves, dests, strict=True)
    ]  # fmt: skip
    db.execute(insert(history), rows)


def _count_moves(db: Connection, moves: Sequence[Move], dests: Sequence[str]) -> None:
    delta: Delta = Counter()
    for move, dest in zip(moves, dests, strict=True):
        unit = move.unit
        delta[unit.campaign_id, unit.state, unit.cause if unit.state in TROUBLE else ""] -= unit.files
        delta[unit.campaign_id, dest, cause_in(move, dest)] += unit.files
    count(db, delta)


def count(db: Connection, delta: Mapping[tuple[int, str, str], int]) -> None:
    """Add to the counters of (campaign, state, cause)."""
    rows = [
        {"campaign_id": campaign, "state": state, "cause": cause, "n": n}
        for (campaign, state, cause), n in delta.items()
        if n
    ]
    if rows:
        db.execute(_adding_up(counters, db.dialect.name), rows)


def count_passive(db: Connection, campaign_id: int, matched: Mapping[str, int]) -> None:
    """Add to how often each passive rule has matched."""
    rows = [{"campaign_id": campaign_id, "cause": cause, "n": n} for cause, n in matched.items()]
    if rows:
        db.execute(_adding_up(passive_matches, db.dialect.name), rows)


def _adding_up(table: Table, dialect: str) -> Any:
    """An insert that adds to `n` where the row is there already."""
    maker = cast(Any, {"sqlite": sqlite.insert, "postgresql": postgresql.insert}[dialect])
    new = maker(table)
    return new.on_conflict_do_update(index_elements=list(table.primary_key), set_={"n": table.c.n + new.excluded.n})


def want(db: Connection, wanted: Iterable[Wanted], at: datetime) -> None:
    """Queue effects; the courier carries them out after the commit."""
    rows = [{"effect": w.effect, "key": w.key, "detail": w.detail, "created": at, "due": at} for w in wanted]
    if rows:
        db.execute(insert(outbox), rows)


def move_campaign(
    db: Connection,
    chart: Chart,
    campaign_id: int,
    event: str,
    at: datetime,
    why: str,
    who: str = "keepupd",
    cause: str = "",
) -> str:
    """Move a campaign along its chart, with a history row. Gives the new state. Raises EventRefused."""
    state = db.execute(select(campaigns.c.state).where(campaigns.c.id == campaign_id)).scalar_one()
    dest = chart.follow(state, event).dest
    db.execute(
        update(campaigns).where(campaigns.c.id == campaign_id).values(
            state=dest, since=at, why=why, cause=cause, version=campaigns.c.version + 1, candidate="")
    )  # fmt: skip
    db.execute(
        insert(history).values(campaign_id=campaign_id, unit_id=None, at=at, source=state, event=event, dest=dest,
                               cause=cause, why=why[:WHY_MAX], who=who)
    )  # fmt: skip
    return dest


def postpone(db: Connection, later: Sequence[tuple[Unit, datetime]]) -> None:
    """Look at these units again at their time; they stay where they are."""
    if later:
        db.execute(
            update(units).where(units.c.id == bindparam("b_id")).values(due=bindparam("b_due")),
            [{"b_id": unit.id, "b_due": due} for unit, due in later],
        )


def set_editions(db: Connection, later: Sequence[Unit]) -> None:
    """Units whose earlier editions were retired before this database knew them."""
    if later:
        db.execute(
            update(units).where(units.c.id == bindparam("b_id")).values(edition=bindparam("b_edition")),
            [{"b_id": unit.id, "b_edition": unit.edition} for unit in later],
        )


def vouch_for(db: Connection, campaign_id: int, at: datetime) -> None:
    """A person has defined, changed or resumed it: failures before this do not count, and a canary goes first."""
    db.execute(update(campaigns).where(campaigns.c.id == campaign_id).values(epoch=at, canary=True))


def campaign_state(db: Connection, campaign_id: int) -> str:
    return str(db.execute(select(campaigns.c.state).where(campaigns.c.id == campaign_id)).scalar_one())
