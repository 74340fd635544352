"""`keepupctl why`: where a file or campaign stands, since when, why, the evidence, what comes next, what overrules it.

Every sentence is read from a row, a report or a log; nothing here is canned. The order of the keys is the order shown.
"""

import json
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from sqlalchemy import Connection

from keepupd.core.chart import Chart
from keepupd.core.errors import Ambiguous, KeepupError
from keepupd.core.model import STATES
from keepupd.core.naming import output_name
from keepupd.ctl import reads
from keepupd.ctl.desk import Desk
from keepupd.ctl.evidence import evidence_of
from keepupd.ctl.guards import changed_since, class_of, guards_of, memory_of
from keepupd.ctl.hosts import sick_hosts
from keepupd.ctl.prospects import Prospects, next_of_campaign, without
from keepupd.ctl.status import TROUBLE, is_failing, is_silent
from keepupd.ctl.words import for_shell, span, when
from keepupd.store import grouping
from keepupd.store.reads import live_jobs
from keepupd.store.tables import AnyRow

LAST = 5  # steps of history, and causes
EVENT_MEANS = {
    "hold": "stop it", "release": "try it now", "retry": "try it now, with all its attempts anew",
    "redo": "make its output again, as a new edition", "pause": "launch nothing more",
    "inspect": "launch nothing more while a person looks", "resume": "launch again",
    "dissolve": "set bad files aside, let the others wait for a group again",
}  # fmt: skip


def why(desk: Desk, name: str, campaign: str | None) -> dict[str, Any]:
    """What there is to say of a file, or of a campaign of that name. Raises NotFound or Ambiguous."""
    with desk.read() as db:
        if campaign is None and any(row.name == name for row in reads.all_campaigns(db)):
            return why_campaign(desk, db, reads.campaign_named(db, name))
        found = reads.find_file(db, name, campaign)
        return _without_unit(desk, found) if found.unit is None else why_file(desk, db, found, found.unit)


def why_file(desk: Desk, db: Connection, found: reads.Found, unit: AnyRow) -> dict[str, Any]:
    chart, typed = desk.chart("file"), _as_typed(db, found)
    ahead = Prospects(desk, db, chart, found)
    gone = found.file.gone if found.file is not None else None
    tried = [(n, row) for n, row in enumerate(reads.attempts_of(db, unit.id), 1) if row.outcome or row.evidence]
    limits = ahead.limits
    return _standing(desk, chart, "file", found.name, unit) | {
        "late": _is_late(desk, chart, unit) and not gone, "campaign": found.campaign.name, "unit": unit.name,
        "means": chart.means(unit.state), "cause": unit.cause, "class": class_of(unit.cause, [row for _, row in tried]),
        "why": unit.why, "do": limits["do"].replace("FILE", typed[-1]).replace("keepupctl", desk.command()),
        "hosts": _shunned(desk, db, unit),
        "left_definition": gone, "seen": unit.seen, "due": unit.due, "edition": unit.edition,
        "tries": unit.tries, "losses": unit.losses, "needs": unit.needs,
        "used_up": f"{unit.tries} of {limits['attempts']} attempts, {unit.losses} of {limits['losses']} lost jobs",
        "memory": memory_of(found.campaign, ahead.settings, unit),
        "changed_since_launch": changed_since(db, unit.launch_id, found.campaign),
        "outputs": _outputs(ahead.settings, unit), "group": _group(found, unit), "lacks": ahead.lacking,
        "evidence": evidence_of(tried[-1][1], tried[-1][0]) if tried else None,
        "all_logs": desk.command("log", *typed) if tried else "",
        "history": [dict(row._mapping) for row in reads.unit_history(db, unit.id, LAST)],
        "next": ahead.next() + _silence(desk, db),
        "overrule": _commands(desk, chart, unit.state, typed, unit.files > 1, without(ahead.lacking)),
    }  # fmt: skip


def _shunned(desk: Desk, db: Connection, unit: AnyRow) -> list[str]:
    """The hosts that its next job does not go to. (That the table of causes is faulty is said elsewhere.)"""
    with suppress(KeepupError):
        if unit.state in ("pending", "running", "held", "crash"):
            return [f"no job goes to {one['host']} until {when(one['until'], desk.now)}: {one['why']}"
                    for one in sick_hosts(desk, db)]  # fmt: skip
    return []


def _standing(desk: Desk, chart: Chart, kind: str, name: str, row: AnyRow) -> dict[str, Any]:
    age_s = (desk.now - row.since).total_seconds()
    late = _is_late(desk, chart, row)
    return {"kind": kind, "name": name, "state": row.state, "since": row.since, "since_s": age_s, "late": late}


def _without_unit(desk: Desk, found: reads.Found) -> dict[str, Any]:
    """A file in no state: in a merge campaign it waits for its group, in any other it breaks the sum rule."""
    waits = found.campaign.type == "merge" and found.file is not None and found.file.unit_id is None
    means = "waits for a group to close" if waits else "is in no state: this breaks the sum rule"
    then = "a group takes it in" if waits else "the next sweep gives it a state"
    said = {"kind": "file", "name": found.name, "campaign": found.campaign.name, "state": None, "means": means}
    flush = desk.command("flush", "--reason 'say why'", for_shell(found.campaign.name))
    overrule = [{"command": flush, "means": "close the groups of all that waits, full or not"}] if waits else []
    grouped_by = json.loads(found.file.group_key) if waits and found.file is not None else {}
    return said | {"grouped_by": grouped_by, "late": not waits, "next": [then], "overrule": overrule}


def _as_typed(db: Connection, found: reads.Found) -> list[str]:
    """The arguments that name this file and no other."""
    try:
        reads.find_file(db, found.name)
    except Ambiguous:
        return ["--campaign", for_shell(found.campaign.name), for_shell(found.name)]
    return [for_shell(found.name)]


def _is_late(desk: Desk, chart: Chart, row: AnyRow) -> bool:
    after = chart.late_after(row.state)
    return after is not None and desk.now - row.since > after


def _outputs(settings: Mapping[str, Any], unit: AnyRow) -> dict[str, str]:
    made = [(o["label"], o["name"]) for o in settings.get("outputs", ())]
    return {label: output_name(name, settings["name"], label, unit.name, unit.edition) for label, name in made}


def _group(found: reads.Found, unit: AnyRow) -> dict[str, Any] | None:
    """Of a file in a merge: its group, and the rule that closed it."""
    if found.campaign.type != "merge":
        return None
    return {"name": unit.name, "files": unit.files, "closed by": unit.origin}


def _commands(
    desk: Desk, chart: Chart, state: str, typed: list[str], is_group: bool = False, bad: str = ""
) -> list[dict[str, str]]:
    events = [event for event in chart.events(state, by="operator") if is_group or event != "dissolve"]
    more = {"dissolve": [bad or "--without BAD_FILE"]}
    return [
        {"command": desk.command(event, *more.get(event, ()), "--reason 'say why'", *typed),
         "means": EVENT_MEANS.get(event, event)} for event in events
    ]  # fmt: skip


def _silence(desk: Desk, db: Connection) -> list[str]:
    """What is said of the future holds only while there is a daemon."""
    last = max((at for row in reads.all_polls(db) for at in (row.good, row.failed) if at), default=None)
    age_s = (desk.now - last).total_seconds() if last else None
    seen = "has never worked on this database" if age_s is None else f"was last at work {span(age_s)} ago"
    return [f"but the daemon {seen}: is it running?"] if is_silent(age_s) else []


# --- a campaign ---------------------------------------------------------------------------------------------------


def why_campaign(desk: Desk, db: Connection, row: AnyRow) -> dict[str, Any]:
    chart, settings, counted = desk.chart("campaign"), json.loads(row.settings), reads.counts(db, row.id)
    files = {state: sum(n for (s, _), n in counted.items() if s == state) for state in STATES}
    oldest, polls = reads.oldest_open(db, row.id), _polls(db, row.name)
    about = ("description", "owner", "contact", "requested_by", "expected_files", "wanted_by")
    return _standing(desk, chart, "campaign", row.name, row) | {
        "type": row.type, "means": chart.means(row.state), "cause": row.cause, "why": row.why,
        "ungrouped": _ungrouped(db, row), "completion": row.outlook, "total": _refusals(desk, row),
        "about": {key: settings.get(key) for key in about}, "input": settings.get("input"), "drains": row.drains,
        "files": files,
        "causes": _causes(desk, db, row, counted), **guards_of(db, row, settings),
        "oldest": {"file": oldest.name, "state": oldest.state, "seen": oldest.seen} if oldest is not None else None,
        "sum_rule": {"difference": row.difference, "ever_seen": row.ever_seen, "left": row.gone,
                     "members_by_SAM": row.sam_count, "counted": row.counted, "swept": row.swept},
        "jobs": live_jobs(db, row.id), "polls": polls,
        "history": [dict(step._mapping) for step in reads.campaign_history(db, row.id, LAST)],
        "next": next_of_campaign(desk, db, row, files) + _silence(desk, db),
        "overrule": _commands(desk, chart, row.state, [for_shell(row.name)]),
    }  # fmt: skip


def _ungrouped(db: Connection, row: AnyRow) -> list[str]:
    """Of a merge: waiting files without a value of a key that they are grouped by."""
    found: dict[str, int] = {}
    for keys, n, *_ in grouping.waiting_keys(db, row.id) if row.type == "merge" else ():
        for key in [key for key, value in json.loads(keys).items() if value is None]:
            found[key] = found.get(key, 0) + n
    return [f"{n} waiting files have no {key}: they go together as if theirs were empty" for key, n in found.items()]


def _refusals(desk: Desk, row: AnyRow) -> str:
    if not row.total_refused:
        return ""
    return f"refuses {row.total_refused} histogram files: `{desk.command('total', for_shell(row.name))}` says which"


def _causes(desk: Desk, db: Connection, row: AnyRow, counted: Mapping[tuple[str, str], int]) -> list[dict[str, Any]]:
    """What files are in trouble for, the most frequent first, each with a file to look at."""
    top = sorted(((n, state, cause) for (state, cause), n in counted.items() if state in TROUBLE), reverse=True)[:LAST]
    found = []
    for n, state, cause in top:
        for unit in reads.listed(db, row.id, [state], cause, 1):
            klass = class_of(cause, reads.attempts_of(db, unit.id))
            found.append({"files": n, "state": state, "cause": cause, "class": klass, "example": unit.name,
                          "why": unit.why, "see": desk.command("why", for_shell(unit.name))})  # fmt: skip
    return found


def _polls(db: Connection, campaign: str) -> list[dict[str, Any]]:
    """The daemon's own polls and this campaign's: when each last succeeded and failed, and how."""
    mine = [row for row in reads.all_polls(db) if row.name.partition(":")[2] in ("", campaign)]
    return [dict(row._mapping) | {"failing": is_failing(row.good, row.failed)} for row in mine]
