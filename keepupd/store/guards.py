"""How the guards of a campaign stand, as the tables show it: its canary, and an outage that lasts.

The daemon decides by it (daemon/protect.py), keepupctl shows it. Nothing is kept beside the units and attempts
themselves; a campaign's epoch says since when they count: when it was defined, changed or resumed.
"""

from dataclasses import dataclass

from sqlalchemy import Connection, func, or_, select

from keepupd.store.tables import DECLARED, AnyRow, attempts, launches, units

TRIED_AGAIN = ("resource", "node")  # held for these, a canary comes back by itself; for all others it is replaced


@dataclass(frozen=True, slots=True)
class Canary:
    """The few units that a new, changed or resumed campaign runs first. Whose output was adopted counts as home."""

    wanted: int
    home: int  # declared
    out: int  # on their way, or in crash or held until they are tried again by themselves
    again: tuple[int, ...]  # ids of those that wait in pending for another try
    failed: tuple[tuple[str, str], ...]  # cause and reason of those in debug

    @property
    def has_failed(self) -> bool:
        return len(self.failed) >= self.wanted

    @property
    def room(self) -> int:
        """How many may be launched now, those that are tried again among them."""
        return 0 if self.has_failed else max(0, self.wanted - self.home - self.out)


def canary_of(db: Connection, campaign: AnyRow, wanted: int) -> Canary | None:
    """The canary of a campaign (a row of the table); None when none is wanted or it has come home."""
    if not campaign.canary or not wanted:
        return None
    home = _home(db, campaign)
    if home >= wanted:
        return None
    tried = _tried(db, campaign)
    return Canary(
        wanted, home,
        out=sum(_is_out(unit) for unit in tried),
        again=tuple(unit.id for unit in tried if unit.state == "pending"),
        failed=tuple((unit.cause, unit.why) for unit in tried if unit.state == "debug"),
    )  # fmt: skip


def _home(db: Connection, campaign: AnyRow) -> int:
    """Declared since the epoch, and by no launch from before it."""
    of_now = or_(launches.c.id.is_(None), launches.c.created >= campaign.epoch)
    query = select(func.count()).select_from(units.outerjoin(launches, launches.c.id == units.c.launch_id))
    mine = (units.c.campaign_id == campaign.id, DECLARED, units.c.since >= campaign.epoch)
    return db.execute(query.where(*mine, of_now)).scalar_one()


def _tried(db: Connection, campaign: AnyRow) -> list[AnyRow]:
    """Units launched since the epoch and not declared, each with how its last attempt went."""
    every = attempts.alias()
    last = select(func.max(every.c.id)).where(every.c.unit_id == units.c.id).scalar_subquery()
    query = (
        select(units.c.id, units.c.state, units.c.cause, units.c.why, attempts.c.outcome, attempts.c.cause.label("met"))
        .join(launches, launches.c.id == units.c.launch_id)
        .outerjoin(attempts, attempts.c.id == last)
        .where(launches.c.campaign_id == campaign.id, launches.c.created >= campaign.epoch, units.c.state != "declared")
    )
    return list(db.execute(query))


def _is_out(unit: AnyRow) -> bool:
    held_for_a_retry = unit.state == "held" and unit.outcome in TRIED_AGAIN and unit.cause == unit.met
    return unit.state in ("running", "validated", "crash") or held_for_a_retry


def outage_of(db: Connection, campaign_id: int) -> str:
    """The cause of the outage that its last attempt met; empty when that met none."""
    mine = (attempts.c.campaign_id == campaign_id) & attempts.c.ended.is_not(None)
    query = select(attempts.c.outcome, attempts.c.cause).where(mine)
    last = db.execute(query.order_by(attempts.c.ended.desc(), attempts.c.id.desc()).limit(1)).first()
    return last.cause if last and last.outcome == "outage" else ""
