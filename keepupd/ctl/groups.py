"""What operators ask of merge groups: flush what waits, with a preview; dissolve one without its bad files."""

import json
from typing import Any

from sqlalchemy import Connection

from keepupd.core.errors import EventRefused, KeepupError
from keepupd.core.plan import GroupRules, close_groups
from keepupd.ctl import reads
from keepupd.ctl.ask import real_user, write_down
from keepupd.ctl.desk import Desk
from keepupd.store import grouping
from keepupd.store.reads import files_by_unit
from keepupd.store.tables import AnyRow

NAMED = 5  # files of a group that the preview names


def preview(desk: Desk, campaign: str) -> dict[str, Any]:
    """The groups that a flush would close now, in the words of `views.groups`. Raises NotFound, or KeepupError."""
    with desk.read() as db:
        row = reads.campaign_named(db, campaign)
        rules = GroupRules.of(_merge(row))
        found = [
            (key, group)
            for key, *_ in grouping.waiting_keys(db, row.id)
            for group in close_groups(grouping.waiting(db, row.id, key), rules, desk.now, "flush")
        ]
    groups = [
        {"group": group.name, "by": json.loads(key), "closed_by": group.rule, "files": len(group.members),
         "events": sum(m.events for m in group.members), "bytes": sum(m.size for m in group.members),
         "names": [m.name for m in group.members[:NAMED]]} for key, group in found
    ]  # fmt: skip
    return {"campaign": row.name, "id": row.id, "groups": groups}


def _merge(row: AnyRow) -> dict[str, Any]:
    if row.type != "merge":
        raise KeepupError(f"{row.name} is of type {row.type}: only a merge has groups", "name a merge campaign")
    settings: dict[str, Any] = json.loads(row.settings)["merge"]
    return settings


def ask_to_flush(desk: Desk, campaign_id: int, reason: str) -> list[int]:
    return write_down(desk, [_request(desk, "flush", campaign_id, reason)])


def ask_to_dissolve(desk: Desk, name: str, campaign: str | None, bad: list[str], reason: str) -> list[int]:
    """`name` is the group's, or that of a file in it. Raises what the daemon would refuse in any case."""
    with desk.read() as db:
        found = reads.find_file(db, name, campaign)
        _merge(found.campaign)
        if found.unit is None:
            raise KeepupError(f"{name} is in no group yet", "it waits for one; `keepupctl why FILE`")
        _check_members(db, found.unit, bad)
    if "dissolve" not in desk.chart("file").events(found.unit.state, by="operator"):
        raise EventRefused("dissolve", found.unit.state, desk.chart("file").events(found.unit.state, by="operator"))
    asked = _request(desk, "dissolve", found.campaign.id, reason)
    return write_down(desk, [asked | {"unit_ids": json.dumps([found.unit.id]), "detail": json.dumps(bad)}])


def _check_members(db: Connection, unit: AnyRow, bad: list[str]) -> None:
    members = [row.name for row in files_by_unit(db, [unit.id]).get(unit.id, ())]
    for stranger in [one for one in bad if one not in members]:
        shown = ", ".join(members[:NAMED]) + (", ..." if len(members) > NAMED else "")
        raise KeepupError(f"{stranger} is not in group {unit.name}", f"its {len(members)} files are {shown}")
    if len(set(bad)) == len(members):
        words = "name the bad files alone: the others are to wait for a group again"
        raise KeepupError(f"nothing would be left of group {unit.name}", words)


def _request(desk: Desk, event: str, campaign_id: int, reason: str) -> dict[str, Any]:
    return {"at": desk.now, "who": real_user(), "event": event, "campaign_id": campaign_id, "reason": reason}
