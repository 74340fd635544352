"""Record what an operator asks for, and wait a moment for the daemon's answer. Only the daemon moves anything.

A request keeps the real unix user and the reason; daemon/operator.py acts on it and answers.
"""

import json
import os
import pwd
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from sqlalchemy import insert, select

from keepupd.core.chunks import chunked, grouped
from keepupd.core.errors import EventRefused, KeepupError, NotFound
from keepupd.ctl import reads
from keepupd.ctl.desk import Desk
from keepupd.store.database import Database
from keepupd.store.tables import AnyRow, requests

PATIENCE_S = 5.0  # the daemon looks for requests every polls.operator_s, by default 2 s
TOGETHER = 1000  # units of one request
MOST = 100_000  # units of one command


@dataclass(frozen=True)
class Selection:
    """What to ask for: units by campaign; none of a campaign means the campaign itself."""

    event: str
    units: dict[int, list[AnyRow]]
    let_be: list[str]  # in words: what the chart does not allow

    @property
    def chosen(self) -> list[AnyRow]:
        return [unit for units in self.units.values() for unit in units]


def select_files(desk: Desk, event: str, names: Sequence[str], campaign: str | None) -> Selection:
    """Files by their names. Raises NotFound, Ambiguous, or EventRefused when the chart allows it for none of them."""
    with desk.read() as db:
        found = [reads.find_file(db, name, campaign) for name in dict.fromkeys(names)]
    chart = desk.chart("file")
    there = {one.unit.id: one.unit for one in found if one.unit is not None}
    allowed = [unit for unit in there.values() if event in chart.events(unit.state, by="operator")]
    let_be = [f"{u.name} is in {u.state}: {event} is not for it" for u in there.values() if u not in allowed]
    let_be += [f"{one.name} is in no state yet" for one in found if one.unit is None]
    if not allowed and there:
        state = next(iter(there.values())).state
        raise EventRefused(event, state, chart.events(state, by="operator"))
    return Selection(event, grouped(allowed, lambda unit: int(unit.campaign_id)), let_be)


def select_by(desk: Desk, event: str, campaign: str, state: str | None, cause: str | None) -> Selection:
    """All files of a campaign, or of one state or cause, that the chart allows the event for."""
    chart = desk.chart("file")
    allowed = [s for s in chart.states if event in chart.events(s, by="operator")]
    if state is not None and state not in allowed:
        raise EventRefused(event, state, chart.events(state, by="operator"))
    with desk.read() as db:
        row = reads.campaign_named(db, campaign)
        found = list(reads.listed(db, row.id, [state] if state else allowed, cause, MOST + 1))
    if len(found) > MOST:
        raise KeepupError(f"more than {MOST} files are chosen", "choose by --state and --cause, or pause the campaign")
    return Selection(event, {row.id: found} if found else {}, [])


def select_campaign(desk: Desk, event: str, name: str) -> Selection:
    with desk.read() as db:
        row = reads.campaign_named(db, name)
    chart = desk.chart("campaign")
    if event not in chart.events(row.state, by="operator"):
        raise EventRefused(event, row.state, chart.events(row.state, by="operator"))
    return Selection(event, {row.id: []}, [])


def again(desk: Desk, ids: Sequence[int]) -> list[int]:
    """The parked effects of these ids; all that are parked for none. Raises NotFound."""
    with desk.read() as db:
        parked = [int(row.id) for row in reads.effects(db) if row.parked]
    missing = set(ids) - set(parked)
    if missing or not parked:
        raise NotFound("parked effect", ", ".join(map(str, sorted(missing))) or "at all")
    return list(ids) or parked


def record(desk: Desk, chosen: Selection, reason: str, detail: str = "") -> list[int]:
    """Write the requests down, in one transaction; gives their ids. Raises StoreUnavailable."""
    rows = [
        {"at": desk.now, "who": real_user(), "event": chosen.event, "campaign_id": campaign_id, "reason": reason,
         "detail": detail, "unit_ids": json.dumps([unit.id for unit in together]) if together else ""}
        for campaign_id, units in chosen.units.items() for together in (list(chunked(units, TOGETHER)) or [[]])
    ]  # fmt: skip
    return write_down(desk, rows)


def record_again(desk: Desk, ids: Sequence[int], reason: str) -> list[int]:
    row = {"at": desk.now, "who": real_user(), "event": "unpark", "campaign_id": 0, "reason": reason}
    return write_down(desk, [row | {"unit_ids": json.dumps(list(ids))}])


def write_down(desk: Desk, rows: Sequence[dict[str, Any]]) -> list[int]:
    with closing(Database(desk.settings["database"])) as database, database.write("operator's request") as db:
        return [db.execute(insert(requests).values(row).returning(requests.c.id)).scalar_one() for row in rows]


def answers(desk: Desk, ids: Sequence[int]) -> dict[str, Any]:
    """What the daemon answered so far; waits for all of it, PATIENCE_S at most."""
    until = time.monotonic() + PATIENCE_S
    while True:
        with desk.read() as db:
            done = db.execute(select(requests).where(requests.c.id.in_(ids), requests.c.done.is_not(None))).all()
        if len(done) == len(ids) or time.monotonic() > until:
            return {"requests": len(ids), "taken": len(done), "answers": [row.answer for row in done]}
        time.sleep(0.1)


def real_user() -> str:
    """Who types: the person behind sudo, not the account that sudo changed to."""
    try:
        account = pwd.getpwuid(os.getuid()).pw_name
    except KeyError:  # an account that only the kernel knows, as in containers
        account = f"uid {os.getuid()}"
    return (os.environ.get("SUDO_USER") or account)[:80]
