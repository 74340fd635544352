"""Keep SAM's problem definitions: `<campaign>_held`, `_crash`, `_debug` list the files in trouble, for everyone to use.

A used definition can't be deleted, so a changed one is renamed with a time stamp and made anew, at most hourly.
They are also what a lost database is rebuilt from.
"""

import hashlib
import json
from datetime import datetime, timedelta

from sqlalchemy import Connection, select, update

from keepupd.core.errors import SamAbsent
from keepupd.daemon.keeper import Keeper, say
from keepupd.store.tables import campaigns, files, units

STATES = ("held", "crash", "debug")


def definition_of(campaign: str, state: str) -> str:
    return f"{campaign}_{state}"


def keep_problem_definitions(k: Keeper, now: datetime) -> None:
    rest = timedelta(seconds=k.settings.polls.problem_definitions_min_s)
    with k.database.read() as db:
        rows = db.execute(select(campaigns.c.id, campaigns.c.problems, campaigns.c.problems_at)).all()
    for row in rows:
        if row.id in k.campaigns and (row.problems_at is None or not timedelta(0) <= now - row.problems_at < rest):
            with k.contained(f"problems:{k.campaigns[row.id].name}", now):
                _keep(k, row.id, json.loads(row.problems), now)


def _keep(k: Keeper, campaign_id: int, written: dict[str, str], now: datetime) -> None:
    with k.database.read() as db:
        members = {state: _file_ids(db, campaign_id, state) for state in STATES}
    digests = {state: _digest(ids) for state, ids in members.items()}
    changed = [state for state in STATES if digests[state] != written.get(state, _digest([]))]
    for state in changed:
        _write(k, definition_of(k.campaigns[campaign_id].name, state), members[state], now)
    if changed:
        with k.database.write("problems written") as db:
            values = {"problems": json.dumps(digests), "problems_at": now}
            db.execute(update(campaigns).where(campaigns.c.id == campaign_id).values(values))


def _file_ids(db: Connection, campaign_id: int, state: str) -> list[int]:
    query = select(files.c.file_id).join(units, units.c.id == files.c.unit_id)
    mine = query.where(units.c.campaign_id == campaign_id, units.c.state == state).order_by(files.c.file_id)
    return list(db.execute(mine).scalars())


def _digest(ids: list[int]) -> str:
    return hashlib.sha256(json.dumps(ids).encode()).hexdigest()[:16]


def _write(k: Keeper, name: str, ids: list[int], now: datetime) -> None:
    dims = f"file_id {', '.join(map(str, ids or [0]))}"  # SAM's idiom for no file at all
    try:
        if k.sam.definition(name).split() == dims.split():
            return
        k.sam.rename_definition(name, f"{name}_until_{now:%Y%m%d_%H%M%S_%f}")
    except SamAbsent:
        pass
    k.sam.create_definition(name, dims, f"{len(ids)} files, kept by keepupd")
    say("problem definition written", definition=name, files=len(ids))
