"""Take in what is new, and adopt at once what SAM shows as done: in one transaction, so that it is never launched."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from sqlalchemy import Connection

from keepupd.campaign import outputs_of
from keepupd.config import Campaign
from keepupd.core.decide import Observation, decide
from keepupd.core.model import Move, Output, Unit
from keepupd.daemon.keeper import Keeper
from keepupd.daemon.outputs import Found, hold_for_bad, look_for_outputs, rival_guard
from keepupd.store import store
from keepupd.store.tables import EPOCH, AnyRow


def take_in(
    k: Keeper, campaign_id: int, names: Sequence[str], write: Callable[[Connection], list[Unit]], now: datetime,
    made: Mapping[str, str] | None = None,
) -> None:  # fmt: skip
    """`write` makes units of these names; those whose output SAM shows already are declared without a launch.

    made: what SAM shows of them under names that keepupd would not give, by the unit's name.
    """
    campaign, made = k.campaigns[campaign_id], made or {}
    known = look_ahead(k, campaign, names)
    with k.database.write("take in") as db:
        fresh = write(db)
        store.set_editions(db, [replace(u, edition=known[u.name].edition) for u in fresh if known[u.name].edition > 1])
        shown = {u.id: Output.LOCATED if u.name in made else known[u.name].output for u in fresh}
        adopted = [(unit, event) for unit in fresh if (event := decide(Observation(now, output=shown[unit.id]), unit))]
        moves = [_move(k, unit, event, known[unit.name], made.get(unit.name)) for unit, event in adopted]
        dests = store.apply(db, k.file_chart, moves, now)
    k.log_moves(campaign.name, moves, dests)


def _move(k: Keeper, unit: Unit, event: str, ahead: "Ahead", other_name: str | None) -> Move:
    if event != "output_seen":
        return hold_for_bad(k, unit, event, ahead.trouble, ahead.edition)
    why = "SAM shows its output already" + (f", by another name: {other_name}" if other_name else "")
    return Move(unit, event, why, guards=rival_guard(False), values={"edition": ahead.edition})


def made_under_other_names(
    k: Keeper, campaign: Campaign, inputs: Collection[AnyRow], editions: int = 1
) -> dict[str, str]:
    """Input files whose outputs are all in the campaign's output definitions, under names that keepupd would not give:
    made before it, or with another name template. The input's name -> an output's. `editions`: how many were made.

    Not for an analysis: its running total takes files by their names alone.
    """
    if campaign.type == "analysis" or not inputs:
        return {}
    mine = {n for file in inputs for e in range(editions) for n in campaign.output_names(file.name, e + 1).values()}
    children = f"ischildof: (file_id {', '.join(str(file.file_id) for file in inputs)})"
    dims = f"{children} and ({outputs_of(campaign, k.settings.sam.campaign_parameter)})"
    others = [file.name for file in k.sam.files(dims) if file.name not in mine]
    asked, found = {file.name for file in inputs}, dict[str, list[str]]()
    for name, record in k.sam.records(others).items():
        for parent in asked.intersection(record.parents):
            found.setdefault(parent, []).append(name)
    return {parent: min(names) for parent, names in found.items() if len(names) >= len(campaign.outputs)}


@dataclass(frozen=True, slots=True)
class Ahead:
    """What SAM shows of a unit's newest edition before we know it. A retired output means a later one is wanted,
    a bad one that a person may have had a later one made: where there is none, it is for a person to say."""

    edition: int
    output: Output
    trouble: str = ""


def look_ahead(k: Keeper, campaign: Campaign, names: Sequence[str]) -> dict[str, Ahead]:
    known: dict[str, Ahead] = {}
    asked = [Unit(n, 0, name, "pending", 0, EPOCH) for n, name in enumerate(names)]
    while asked:
        found = look_for_outputs(k, campaign, asked)
        known |= {unit.name: _ahead(known.get(unit.name), unit, found[unit.id]) for unit in asked}
        later = [unit for unit in asked if found[unit.id].retired or found[unit.id].state is Output.BAD]
        asked = [replace(unit, edition=unit.edition + 1) for unit in later]
    return known


def _ahead(before: Ahead | None, unit: Unit, found: Found) -> Ahead:
    if before is not None and before.output is Output.BAD and not found.records:
        return replace(before, edition=unit.edition)
    return Ahead(unit.edition, found.state, found.trouble)
