"""Keep SAM's problem definitions: `<campaign>_held`, `_crash`, `_debug` list the files in trouble, for everyone to use.

All three are there from the first pass, so that a campaign may read one. A used definition can't be deleted, so a
changed one is renamed with a time stamp and made anew, at most hourly. They are also what a lost database is rebuilt
from. A generator's units are no files: its definitions match none, and name the units all the same.
"""

import hashlib
import json
import re
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, select, update

from keepupd.clients.catalog import Catalog
from keepupd.core.errors import SamAbsent
from keepupd.core.serials import unit_name
from keepupd.daemon.keeper import Keeper, say
from keepupd.store.tables import campaigns, files, units

STATES = ("held", "crash", "debug")
STOPPED = "stopped"  # of those held, the ones that only a person releases: a rebuilt database must not try them
UNTIL = "_until_"  # of one that was renamed, before the time


def definition_of(campaign: str, state: str) -> str:
    return f"{campaign}_{state}"


def is_kept_for(definition: str, campaign: str) -> bool:
    return definition in [definition_of(campaign, state) for state in STATES]


def dims_of_files(file_ids: list[int]) -> str:
    return f"file_id {', '.join(map(str, file_ids or [0]))}"  # SAM's idiom for no file at all


def dims_of_units(serials: list[int]) -> str:
    names = ", ".join(f"'{unit_name(serial)}'" for serial in serials)
    return f"file_id 0 and file_name {names}" if serials else dims_of_files([])


def remembered(sam: Catalog, campaign: str, state: str) -> tuple[str, list[int]]:
    """What SAM remembers of a campaign in this state: the definition that says so, and file ids; of a generator,
    serials. A kill between renaming and making leaves only renamed ones: then the newest speaks."""
    plain = definition_of(campaign, state)
    for name in [plain, *sorted(sam.definitions(f"{plain}{UNTIL}"), reverse=True)[:1]]:
        try:
            dims = sam.definition(name)
        except SamAbsent:
            continue
        listed = re.fullmatch(r"file_id (?:0 and file_name)?([0-9', ]+)", dims.strip())
        return name, [number for number in map(int, re.findall(r"\d+", listed[1] if listed else "")) if number]
    return "", []


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
        ids_of = _serials if k.campaigns[campaign_id].type == "generator" else _file_ids
        members = {state: ids_of(db, campaign_id, state) for state in (STOPPED, *STATES)}
    digests = {state: _digest(ids) for state, ids in members.items()}
    before = {STOPPED: _digest([])} | written  # this one is made when it is needed
    changed = [state for state in digests if digests[state] != before.get(state)]
    campaign = k.campaigns[campaign_id]
    dims_of = dims_of_units if campaign.type == "generator" else dims_of_files
    for state in changed:
        _write(k, definition_of(campaign.name, state), dims_of(members[state]), len(members[state]), now)
    if changed:
        with k.database.write("problems written") as db:
            at = now if written else None  # the first ones are empty as a rule: what changes first need not wait
            values = {"problems": json.dumps(digests), "problems_at": at}
            db.execute(update(campaigns).where(campaigns.c.id == campaign_id).values(values))


def _file_ids(db: Connection, campaign_id: int, state: str) -> list[int]:
    query = select(files.c.file_id).join(units, units.c.id == files.c.unit_id)
    mine = query.where(units.c.campaign_id == campaign_id, _is(state)).order_by(files.c.file_id)
    return list(db.execute(mine).scalars())


def _serials(db: Connection, campaign_id: int, state: str) -> list[int]:
    mine = select(units.c.name).where(units.c.campaign_id == campaign_id, _is(state))
    return [int(name) for name in db.execute(mine.order_by(units.c.name)).scalars()]


def _is(state: str) -> Any:
    return (units.c.state == "held") & units.c.due.is_(None) if state == STOPPED else units.c.state == state


def _digest(ids: list[int]) -> str:
    return hashlib.sha256(json.dumps(ids).encode()).hexdigest()[:16]


def _write(k: Keeper, name: str, dims: str, n: int, now: datetime) -> None:
    try:
        if k.sam.definition(name).split() == dims.split():
            return
        k.sam.rename_definition(name, f"{name}{UNTIL}{now:%Y%m%d_%H%M%S_%f}")
    except SamAbsent:
        pass
    k.sam.create_definition(name, dims, f"{n} files or units, kept by keepupd")
    say("problem definition written", definition=name, files=n)
