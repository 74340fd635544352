"""Ask SAM for outputs by their known names, in bulk: the only way a file becomes declared."""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta

from keepupd.clients.catalog import FileRecord
from keepupd.config import Campaign
from keepupd.core.decide import Observation, decide
from keepupd.core.model import Failure, Move, Output, Unit
from keepupd.daemon.declaring import differing_copies
from keepupd.daemon.keeper import Keeper
from keepupd.store import reads, store

LOOK = 500  # units in one question
AGAIN_MAX = timedelta(hours=1)
MARKED_BAD = "output_marked_bad"  # the cause, in causes.yaml


@dataclass(frozen=True, slots=True)
class Found:
    """A unit's outputs in SAM, taken together."""

    state: Output
    retired: bool
    records: tuple[FileRecord, ...]
    trouble: str = ""  # why it is held, in words: two located copies that are not alike, or one is marked bad


def look_for_outputs(k: Keeper, campaign: Campaign, wanted: Collection[Unit]) -> dict[int, Found]:
    """What SAM shows of each unit's outputs. Raises SamUnavailable."""
    names = {unit.id: list(campaign.output_names(unit.name, unit.edition).values()) for unit in wanted}
    records = k.sam.records([name for listed in names.values() for name in listed])
    return {unit.id: _taken_together(k, campaign, names[unit.id], records) for unit in wanted}


def _taken_together(k: Keeper, campaign: Campaign, names: list[str], records: dict[str, FileRecord]) -> Found:
    found = tuple(records[name] for name in names if name in records)
    alive = [record for record in found if not record.retired]
    if not alive:
        return Found(Output.ABSENT, bool(found), found)
    if bad := _marked_bad(alive):
        return Found(Output.BAD, False, found, bad)
    if differ := "; ".join(filter(None, (differing_copies(k, campaign, record) for record in alive))):
        return Found(Output.DIFFERS, False, found, differ)
    whole = len(alive) == len(names) and all(record.locations for record in alive)
    return Found(Output.LOCATED if whole else Output.VIRTUAL, False, found)


def _marked_bad(alive: Collection[FileRecord]) -> str:
    """Which output is bad, and the good ones that were made with it: a later edition would make these twice."""
    bad, good = ([r.name for r in alive if r.good is is_good] for is_good in (False, True))
    if not bad:
        return ""
    return ", ".join(bad) + "".join(f"; first, `samweb retire-file {name}`, made with it" for name in good)


def poll_outputs(k: Keeper, now: datetime) -> None:
    """Look for the outputs of validated units whose turn it is."""
    for campaign_id, campaign in k.campaigns.items():
        with k.contained(f"output:{campaign.name}", now):
            while _poll_output(k, campaign_id, campaign, now) == LOOK:
                pass


def _poll_output(k: Keeper, campaign_id: int, campaign: Campaign, now: datetime) -> int:
    with k.database.read() as db:
        waiting = reads.due_units(db, campaign_id, ["validated"], now, LOOK)
    if not waiting:
        return 0
    found = look_for_outputs(k, campaign, waiting)
    with k.database.write("outputs seen") as db:
        rivals = reads.has_rivals(db, [unit.id for unit in waiting])
        moves = [
            _move(k, unit, event, found[unit.id], unit.id in rivals)
            for unit in waiting
            if (event := decide(Observation(now, found[unit.id].state), unit))
        ]
        dests = store.apply(db, k.file_chart, moves, now)
        moved = {move.unit.id for move in moves}
        soon = timedelta(seconds=k.settings.polls.outputs_s)
        store.postpone(db, [(unit, _next_look(unit, now, soon)) for unit in waiting if unit.id not in moved])
    k.log_moves(campaign.name, moves, dests)
    return len(waiting)


def _move(k: Keeper, unit: Unit, event: str, found: Found, rivals: bool) -> Move:
    if found.state is Output.DIFFERS:
        cause = k.causes.judge(Failure(step="declare", fault="record_differs", message=found.trouble))
        why = f"{cause.words}; take the wrong copy's location out of SAM, then `keepupctl release`"
        return Move(unit, event, why, cause=cause.name)
    if found.state is Output.BAD:
        return hold_for_bad(k, unit, event, found.trouble, unit.edition + 1)
    return Move(unit, event, "SAM shows the output", guards=rival_guard(rivals))


def hold_for_bad(k: Keeper, unit: Unit, event: str, trouble: str, edition: int) -> Move:
    """Its output's name is taken, and the output is bad: only a later edition can be made, when a person wants it."""
    cause = k.causes.judge(Failure(step="declare", fault="output_bad", message=trouble))
    redo = "`keepupctl release` makes it again, as its next edition"
    why = f"{cause.words}; {redo}; or mark it good there, then `keepupctl audit --repair` takes it as declared"
    return Move(unit, event, why, cause=cause.name, values={"edition": edition})


def rival_guard(has_rivals: bool) -> frozenset[str]:
    """Output seen: other attempts may have left copies that lost."""
    return frozenset({"has_rivals" if has_rivals else "alone"})


def _next_look(unit: Unit, now: datetime, soon: timedelta) -> datetime:
    """Soon at first, then after half the time it has waited already."""
    return now + min(max(soon, (now - unit.since) / 2), AGAIN_MAX)
