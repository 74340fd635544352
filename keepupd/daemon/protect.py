"""A campaign protects the farm: the canary, the circuit breaker, outages that need a second witness, and usual memory.

All of it is asked of the last attempts, by index (store/guards.py); campaigns of which no file moved are not asked.
"""

import logging
import math
from collections import Counter
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import NamedTuple

from sqlalchemy import Connection, select, update

from keepupd.config import Campaign
from keepupd.core.chunks import grouped
from keepupd.daemon.keeper import Keeper, say
from keepupd.store import guards, store
from keepupd.store.guards import Canary
from keepupd.store.tables import AnyRow, attempts, campaigns, launches

FAULTY = ("crash", "invalid", "resource")  # classes that speak against the campaign itself
WITNESS_FILES, WITNESS_HOSTS, WITNESS_TIME = 3, 2, timedelta(minutes=10)
WITNESSES = 500  # attempts looked at for them
RECENT = 200  # attempts that usual memory is taken from
FEWEST = 20  # below this nothing is usual yet
STEP_MIB = 100  # asked memory is rounded up to this: equal needs share a launch


def watch(k: Keeper, now: datetime) -> None:
    """Look after the campaigns whose files have moved since the last time."""
    for campaign_id in tuple(k.touched):
        k.touched.discard(campaign_id)  # before the look: what moves meanwhile touches it again
        try:
            look_after(k, campaign_id, now)
        except Exception:
            k.touched.add(campaign_id)
            raise


def look_after(k: Keeper, campaign_id: int, now: datetime) -> None:
    """Let the canary home, trip the breaker, note what memory is usual."""
    campaign = k.campaigns[campaign_id]
    with k.database.read() as db:
        row = db.execute(select(campaigns).where(campaigns.c.id == campaign_id)).one()
        canary = canary_of(db, row, campaign)
        why = _verdict(db, row, campaign, canary) if "breaker" in k.campaign_chart.events(row.state) else None
        new = {"canary": canary is not None, "usual_mib": usual_memory_mib(db, campaign_id, campaign)}
    if new != {name: row._mapping[name] for name in new}:
        same = (campaigns.c.id == campaign_id) & (campaigns.c.epoch == row.epoch)  # not vouched for in between
        with k.database.write("campaign looked after") as db:
            db.execute(update(campaigns).where(same).values(new))
        canary_word = "out" if canary else "home" if campaign.canaries else "none wanted"
        say("campaign looked after", campaign=row.name, canary=canary_word, usual_mib=new["usual_mib"])
    if why:
        _trip(k, campaign_id, *why, now)


# --- canary -------------------------------------------------------------------------------------------------------


def canary_of(db: Connection, row: AnyRow, campaign: Campaign) -> Canary | None:
    """None when it has come home, or none is wanted."""
    return guards.canary_of(db, row, campaign.canaries)


# --- circuit breaker ------------------------------------------------------------------------------------------------


def _verdict(db: Connection, row: AnyRow, campaign: Campaign, canary: Canary | None) -> tuple[str, str] | None:
    """Cause and words when launching must stop: every canary failed, or one cause dominates the last files."""
    if canary and canary.has_failed:
        cause, why = canary.failed[-1]
        return cause, f"every canary failed, {len(canary.failed)} of {canary.wanted}; the last: {why}"
    return _dominating(_last_of_each_file(db, row, campaign.breaker.window), campaign)


def _last_of_each_file(db: Connection, row: AnyRow, window: int) -> list[AnyRow]:
    """The newest attempt of each of the last `window` different files, of launches made since the epoch."""
    query = (
        select(attempts.c.unit_id, attempts.c.outcome, attempts.c.cause, attempts.c.why)
        .join(launches, launches.c.id == attempts.c.launch_id)
        .where(attempts.c.campaign_id == row.id, attempts.c.ended >= row.epoch, launches.c.created >= row.epoch)
        .order_by(attempts.c.ended.desc(), attempts.c.id.desc())
        .limit(4 * window)
    )
    newest: dict[int, AnyRow] = {}
    for one in db.execute(query):
        newest.setdefault(one.unit_id, one)
    return list(newest.values())[:window]


def _dominating(last: Sequence[AnyRow], campaign: Campaign) -> tuple[str, str] | None:
    causes = Counter(one.cause for one in last if one.outcome in FAULTY)
    cause, n = causes.most_common(1)[0] if causes else ("", 0)
    given = campaign.breaker
    if n < given.least or n <= given.share * len(last):
        return None
    example = next(one.why for one in last if one.cause == cause)
    return cause, f"{n} of the last {len(last)} files failed alike: {example}"


def _trip(k: Keeper, campaign_id: int, cause: str, words: str, now: datetime) -> None:
    with k.database.write("breaker") as db:
        store.move_campaign(db, k.campaign_chart, campaign_id, "breaker", now, words, cause=cause)
    name = k.campaigns[campaign_id].name
    say("campaign stopped itself", logging.ERROR, campaign=name, cause=cause, why=words,
        remedy=f"mend the cause, then keepupctl resume {name}")  # fmt: skip


# --- outages --------------------------------------------------------------------------------------------------------


class Suffered(NamedTuple):
    """An attempt of which its cause says: outage."""

    cause: str
    fault: str  # the worker's machine word
    unit_id: int
    host: str


def confirmed_outages(k: Keeper, campaign_id: int, suffered: Sequence[Suffered], now: datetime) -> set[str]:
    """The causes among them that a second witness confirms. The others are a trouble of one input alone."""
    with k.database.read() as db:
        lasting = guards.outage_of(db, campaign_id) if suffered else ""
        return {
            cause for cause, those in grouped(suffered, lambda one: one.cause).items()
            if cause == lasting or _sam_is_silent(k, those, now) or _many_suffer(db, cause, those, now)
        }  # fmt: skip


def _sam_is_silent(k: Keeper, those: Sequence[Suffered], now: datetime) -> bool:
    """The daemon's own questions to SAM had no answer either."""
    asked_sam = any(one.fault == "sam_unavailable" for one in those)
    return asked_sam and k.sam_silent is not None and k.sam_silent >= now - WITNESS_TIME


def _many_suffer(db: Connection, cause: str, those: Sequence[Suffered], now: datetime) -> bool:
    """Different files failed alike on different hosts, in this or any campaign."""
    alike = (attempts.c.cause == cause) & (attempts.c.ended >= now - WITNESS_TIME)
    rows = db.execute(select(attempts.c.unit_id, attempts.c.host).where(alike).distinct().limit(WITNESSES))
    seen = {(row.unit_id, row.host) for row in rows} | {(one.unit_id, one.host) for one in those}
    files, hosts = {unit_id for unit_id, _ in seen}, {host for _, host in seen}
    return len(files) >= WITNESS_FILES and len(hosts) >= WITNESS_HOSTS


def outage_room(db: Connection, campaign_id: int, live: int) -> int | None:
    """While an outage lasts one job probes, not all; None when there is none."""
    return max(0, 1 - live) if guards.outage_of(db, campaign_id) else None


# --- usual memory -----------------------------------------------------------------------------------------------------


def usual_memory_mib(db: Connection, campaign_id: int, campaign: Campaign) -> int | None:
    """The 95th percentile of what recent files used at their peak plus a quarter, up to the cap; None when the
    campaign's own request is enough. MiB."""
    mine = (attempts.c.campaign_id == campaign_id) & attempts.c.ended.is_not(None)
    columns = (attempts.c.outcome, attempts.c.peak_mib)
    rows = db.execute(select(*columns).where(mine).order_by(attempts.c.ended.desc()).limit(RECENT))
    peaks = sorted(row.peak_mib for row in rows if row.outcome == "ok" and row.peak_mib is not None)
    if len(peaks) < FEWEST:
        return None
    usual = peaks[math.ceil(0.95 * len(peaks)) - 1] * 1.25
    asked = min(math.ceil(usual / STEP_MIB) * STEP_MIB, campaign.resources.memory_cap_mib)
    return asked if asked > campaign.resources.memory_mib else None
