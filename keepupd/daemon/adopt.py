"""Take in what is new, and adopt at once what SAM shows as done: in one transaction, so that it is never launched."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from sqlalchemy import Connection

from keepupd.config import Campaign
from keepupd.core.decide import Observation, decide
from keepupd.core.model import Move, Output, Unit
from keepupd.daemon.keeper import Keeper
from keepupd.daemon.outputs import look_for_outputs, rival_guard
from keepupd.store import store
from keepupd.store.tables import EPOCH


def take_in(
    k: Keeper, campaign_id: int, names: Sequence[str], write: Callable[[Connection], list[Unit]], now: datetime
) -> None:
    """`write` makes units of these names; those whose output SAM shows already are declared without a launch."""
    campaign = k.campaigns[campaign_id]
    known = look_ahead(k, campaign, names)
    with k.database.write("take in") as db:
        fresh = write(db)
        store.set_editions(db, [replace(u, edition=known[u.name].edition) for u in fresh if known[u.name].edition > 1])
        seen = {unit.id: Observation(now, output=known[unit.name].output) for unit in fresh}
        adopted = [(unit, event) for unit in fresh if (event := decide(seen[unit.id], unit))]
        moves = [
            Move(unit, event, "SAM shows its output already", guards=rival_guard(False),
                 values={"edition": known[unit.name].edition}) for unit, event in adopted
        ]  # fmt: skip
        dests = store.apply(db, k.file_chart, moves, now)
    k.log_moves(campaign.name, moves, dests)


@dataclass(frozen=True, slots=True)
class Ahead:
    """What SAM shows of a unit's newest edition before we know it. A retired output means a later one is wanted."""

    edition: int
    output: Output


def look_ahead(k: Keeper, campaign: Campaign, names: Sequence[str]) -> dict[str, Ahead]:
    known: dict[str, Ahead] = {}
    asked = [Unit(n, 0, name, "pending", 0, EPOCH) for n, name in enumerate(names)]
    while asked:
        found = look_for_outputs(k.sam, campaign, asked)
        known |= {unit.name: Ahead(unit.edition, found[unit.id].state) for unit in asked}
        asked = [replace(unit, edition=unit.edition + 1) for unit in asked if found[unit.id].retired]
    return known
