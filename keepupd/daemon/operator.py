"""Act on what operators asked for with keepupctl: each request is a row, done when it is answered."""

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, select, update

from keepupd.core.chunks import chunked, grouped
from keepupd.core.errors import EventRefused, KeepupError, Transient
from keepupd.core.model import Move, Unit
from keepupd.daemon import regroup, repair
from keepupd.daemon.keeper import Keeper, say
from keepupd.store import reads, store
from keepupd.store.tables import AnyRow, outbox, requests

CAUSE = "held_by_operator"
UNPARK = "unpark"
ANYWAY = "anyway"  # detail of a redo that was asked for though the output is in use
NAMED = 3  # files that an answer names
ASK_FIRST: dict[str, Callable[[Keeper, AnyRow, datetime], str]] = {  # of SAM, which no transaction may wait for
    "flush": regroup.flush, "dissolve": regroup.may_not_dissolve,
}  # fmt: skip
Done = tuple[list[Move], list[str], str]  # moves, the states they led to, the answer


def poll_requests(k: Keeper, now: datetime) -> None:
    with k.database.read() as db:
        asked = db.execute(select(requests).where(requests.c.done.is_(None)).order_by(requests.c.id)).all()
    silent = None
    for row in asked:
        try:
            act(k, row, now)
        except Transient as trouble:  # it stays open; the others need not wait for it
            silent = trouble
    if silent:
        raise silent


def act(k: Keeper, row: AnyRow, now: datetime) -> None:
    """Carry one request out as far as the chart allows, and answer it, in one transaction."""
    answer = _ask_first(k, row, now)
    with k.database.write("operator") as db:
        moves, dests, answer = ([], [], answer) if answer else _carry_out(k, db, row, now)
        db.execute(update(requests).where(requests.c.id == row.id).values(done=now, answer=answer))
    k.log_moves(_name(k, row.campaign_id), moves, dests)
    say("operator", who=row.who, event=row.event, campaign=_name(k, row.campaign_id), reason=row.reason, answer=answer)


def _ask_first(k: Keeper, row: AnyRow, now: datetime) -> str:
    try:
        return ASK_FIRST[row.event](k, row, now) if row.event in ASK_FIRST else ""
    except Transient:
        raise
    except KeepupError as refusal:
        return refusal.problem


def _carry_out(k: Keeper, db: Connection, row: AnyRow, now: datetime) -> Done:
    if row.event == UNPARK:
        return _unpark(db, row, now)
    if row.event == "repair":
        return [], [], repair.take_up(db, row, now)
    if row.event == "dissolve":
        return regroup.dissolve(k, db, row, now)
    return _move_units(k, db, row, now) if row.unit_ids else _move_campaign(k, db, row, now)


def _name(k: Keeper, campaign_id: int) -> str:
    campaign = k.campaigns.get(campaign_id)
    return campaign.name if campaign else f"#{campaign_id}"


def _move_campaign(k: Keeper, db: Connection, row: AnyRow, now: datetime) -> Done:
    try:
        dest = store.move_campaign(db, k.campaign_chart, row.campaign_id, row.event, now, row.reason, row.who)
    except EventRefused as refused:
        return [], [], refused.problem
    if row.event == "resume":
        store.vouch_for(db, row.campaign_id, now)
    return [], [], f"the campaign is now {dest}"


def _unpark(db: Connection, row: AnyRow, now: datetime) -> Done:
    """Try parked effects again at once; the request's ids are those of the outbox."""
    chosen = outbox.c.id.in_(json.loads(row.unit_ids)) & outbox.c.parked.is_not(None)
    n = db.execute(update(outbox).where(chosen).values(parked=None, due=now, tries=0)).rowcount
    return [], [], f"{n} effect(s) are tried again"


def _move_units(k: Keeper, db: Connection, row: AnyRow, now: datetime) -> Done:
    chosen = reads.units_by_id(db, json.loads(row.unit_ids))
    used = _used_downstream(k, db, row, chosen) if row.event == "redo" and row.detail != ANYWAY else {}
    able = [unit for unit in chosen if row.event in k.file_chart.events(unit.state, by="operator")]
    allowed = {unit.id for unit in able} - used.keys()
    moves = [_asked(row, unit, now) for unit in chosen if unit.id in allowed]
    dests = store.apply(db, k.file_chart, moves, now)
    refused = grouped((unit for unit in chosen if unit not in able), lambda unit: unit.state)
    left = [f"{len(units)} in state {state} let be: {row.event} is not for them" for state, units in refused.items()]
    return moves, dests, "; ".join([f"{row.event}: {len(moves)} file(s)", *left, *_told(used)])


def _used_downstream(k: Keeper, db: Connection, row: AnyRow, chosen: Sequence[Unit]) -> dict[int, str]:
    """Unit id -> why it is not redone: the new edition would be counted beside what was made of the old one."""
    campaign = k.campaigns[row.campaign_id]
    unit_of = {name: u for u in chosen for name in campaign.output_names(u.name, u.edition).values()}
    users = [user for names in chunked(unit_of, 500) for user in reads.users_of(db, row.campaign_id, names)]
    return {
        unit_of[user.input].id: f"{unit_of[user.input].name}: its output is in {user.unit} of {user.campaign}, "
        f"{user.state}" for user in users
    }  # fmt: skip


def _told(used: Mapping[int, str]) -> list[str]:
    if not used:
        return []
    some = [*used.values()][:NAMED] + (["..."] if len(used) > NAMED else [])
    remedy = "redo that one first, hold it, and redo this then; --anyway counts its events twice"
    return [f"{len(used)} let be, {'; '.join(some)} ({remedy})"]


def _asked(row: AnyRow, unit: Unit, now: datetime) -> Move:
    due, values, detail, cause = MEANING[row.event](unit, now)
    return Move(unit, row.event, row.reason, cause=cause, who=row.who, due=due, values=values, detail=detail)


Meaning = tuple[datetime | None, dict[str, Any], str, str]  # due, columns to set, detail of the effect, cause


def _hold(unit: Unit, now: datetime) -> Meaning:
    return None, {}, "", CAUSE


def _release(unit: Unit, now: datetime) -> Meaning:
    return now, {}, "", ""


def _retry(unit: Unit, now: datetime) -> Meaning:
    return now, {"tries": 0, "losses": 0}, "", ""


def _redo(unit: Unit, now: datetime) -> Meaning:
    return now, {"tries": 0, "losses": 0, "edition": unit.edition + 1}, str(unit.edition), ""


MEANING: dict[str, Callable[[Unit, datetime], Meaning]] = {
    "hold": _hold, "release": _release, "retry": _retry, "redo": _redo,
}  # fmt: skip
