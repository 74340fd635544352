"""The short reading commands: files, history, log, stuck, chart. Each gives what --json prints and views.py shows."""

from collections.abc import Collection, Iterator
from datetime import timedelta
from typing import Any

from sqlalchemy import Connection

from keepupd.core.errors import NotFound
from keepupd.ctl import reads
from keepupd.ctl.desk import Desk
from keepupd.ctl.evidence import LOGS, whole_logs
from keepupd.ctl.prospects import SHOWN, effect_in_words, without
from keepupd.ctl.words import for_shell
from keepupd.store.reads import incomplete_groups
from keepupd.store.tables import AnyRow

OLD_EFFECT = timedelta(minutes=10)
LATE_SHOWN = 20  # late files named, of each campaign and state
STEPS = 10_000


def files(desk: Desk, campaign: str, states: Collection[str], cause: str | None, limit: int) -> dict[str, Any]:
    """Files of a campaign, those in trouble first. Raises NotFound."""
    with desk.read() as db:
        row = reads.campaign_named(db, campaign)
        shown = list(reads.listed(db, row.id, states, cause, limit))
        counted = reads.counts(db, row.id)
    total = sum(n for (state, c), n in counted.items() if state in states and cause in (None, c))
    columns = ("name", "state", "since", "due", "cause", "why", "tries", "losses", "edition")
    return {"campaign": row.name, "total": total, "files": [{key: getattr(u, key) for key in columns} for u in shown]}


def history(desk: Desk, name: str, campaign: str | None) -> dict[str, Any]:
    """Every move of a file, or of the campaign of that name, oldest first. Raises NotFound or Ambiguous."""
    with desk.read() as db:
        row = None if campaign else next((c for c in reads.all_campaigns(db) if c.name == name), None)
        if row is not None:
            steps = reads.campaign_history(db, row.id, STEPS)
        else:
            found = reads.find_file(db, name, campaign)
            steps = reads.unit_history(db, found.unit.id, STEPS) if found.unit is not None else []
            row = found.campaign
    return {"name": name, "campaign": row.name, "steps": [dict(step._mapping) for step in steps]}


def log(desk: Desk, name: str, campaign: str | None, number: int | None) -> dict[str, Any]:
    """The logs of one attempt, by default the last that left any. Raises NotFound or Ambiguous."""
    with desk.read() as db:
        found = reads.find_file(db, name, campaign)
        tried = reads.attempts_of(db, found.unit.id) if found.unit is not None else []
    if number is None:
        number = max((n for n, row in enumerate(tried, 1) if row.evidence), default=len(tried))
    if not 1 <= number <= len(tried):
        raise NotFound("attempt", f"{number} of {name}: it has {len(tried)}")
    attempt, logs = tried[number - 1], whole_logs(tried[number - 1])
    where = attempt.evidence or "any directory: it has not ended, or was lost"
    missing = "" if logs else f"none of {', '.join(LOGS)} is in {where}"
    return {
        "name": name, "attempt": number, "of": len(tried), "launch": attempt.key, "host": attempt.host,
        "directory": attempt.evidence, "missing": missing, "logs": logs,
    }  # fmt: skip


def stuck(desk: Desk) -> dict[str, Any]:
    """What waits for a person, or waits too long: effects, and files late in their state."""
    with desk.read() as db:
        return {"stuck": list(_stuck(desk, db))}


def _stuck(desk: Desk, db: Connection) -> Iterator[dict[str, Any]]:
    for row in reads.effects(db):
        if row.parked or row.created < desk.now - OLD_EFFECT:
            what, name = _of(db, row)
            words = effect_in_words(row, desk.now)
            again = ("again", str(row.id), "--reason", "WHY") if row.parked else ("why", for_shell(name))
            command = desk.command(*again)
            yield {"what": what, "since": row.parked or row.created, "why": words, "command": command}
    chart = desk.chart("file")
    for campaign in reads.all_campaigns(db):
        yield from _incomplete(desk, db, campaign) if campaign.type == "merge" and campaign.gone else ()
        for state in chart.states:
            after = chart.late_after(state)
            for unit in reads.late(db, campaign.id, state, after, desk.now, LATE_SHOWN) if after else ():
                command = desk.command("why", "--campaign", for_shell(campaign.name), for_shell(unit.name))
                what = f"{unit.name} is late in {state}"
                yield {"what": what, "since": unit.since, "why": unit.why, "command": command}


def _incomplete(desk: Desk, db: Connection, campaign: AnyRow) -> Iterator[dict[str, Any]]:
    """Merge groups that wait for files that left SAM: perhaps for ever."""
    for group, gone in incomplete_groups(db, campaign.id, LATE_SHOWN).items():
        named = ", ".join(gone[:SHOWN]) + (", ..." if len(gone) > SHOWN else "")
        command = desk.command("dissolve", for_shell(group.name), without(gone), "--reason", "WHY")
        words = f"{named} left SAM: it goes on when all its files are back, or is dissolved without"
        what = f"group {group.name} of {campaign.name} is incomplete, in {group.state}"
        yield {"what": what, "since": group.since, "why": words, "command": command}


def _of(db: Connection, effect: AnyRow) -> tuple[str, str]:
    """What an effect is for, in words, and the file or campaign to ask about."""
    launch = reads.launch(db, effect.key) if effect.effect in ("submit", "close") else None
    if launch is not None:
        name = next(c.name for c in reads.all_campaigns(db) if c.id == launch.campaign_id)
        return f"launch {launch.key} of {name}", name
    unit = reads.unit_by_id(db, effect.key)
    return (f"file {unit.name}", unit.name) if unit is not None else (f"unit {effect.key}", str(effect.key))


def chart(desk: Desk, name: str) -> dict[str, Any]:
    drawn = desk.chart(name)
    states = [{"name": s, "means": drawn.means(s), "do": drawn.do(s), "final": drawn.is_final(s)} for s in drawn.states]
    columns = ("event", "source", "dest", "effect", "by")
    arrows = [{key: getattr(a, key) for key in columns} | {"guards": sorted(a.guards)} for a in drawn.arrows]
    return {"initial": drawn.initial, "states": states, "transitions": arrows}
