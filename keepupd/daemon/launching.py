"""Plan launches: which pending units go together, and what a job of theirs is told.

Units are equal in settings and needs; SAM may give any file of a launch to any of its jobs. A launch is written down
whole (jobs, attempts, units in running) before anything is asked of SAM or batch; effects.py then carries it out.
"""

import random
import string
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, func, insert, select, update

from keepupd.config import Campaign
from keepupd.core.chunks import grouped
from keepupd.core.consequences import parse_needs, write_needs
from keepupd.core.model import JobState, Move, Unit
from keepupd.core.serials import run_subrun, seed_of, serial_of
from keepupd.daemon import protect
from keepupd.daemon.keeper import Keeper, project_name, say
from keepupd.store import reads, store
from keepupd.store.guards import Canary
from keepupd.store.store import Wanted
from keepupd.store.tables import AnyRow, attempts, campaigns, jobs, launches, units

MOST_EARLY_DEATHS = 3  # of a launch, before it is not topped up any more
AFTER_EARLY_DEATH = timedelta(minutes=1)  # wait before files are tried again whose jobs died before they took one
OFTEN, LONGEST_WAIT = 3, timedelta(hours=1)  # a file that launch after launch does not deliver waits, ever longer
LAUNCHING_STATES = ("pending", "running", "validated", "declared")


def plan_launches(k: Keeper, now: datetime) -> None:
    for campaign_id, campaign in k.campaigns.items():
        with k.contained(f"launch:{campaign.name}", now):
            plan_launch(k, campaign_id, now)


def plan_launch(k: Keeper, campaign_id: int, now: datetime) -> None:
    """Launch what is due, as far as the campaign's limits allow."""
    campaign = k.campaigns[campaign_id]
    with k.database.read() as db:
        row = db.execute(select(campaigns).where(campaigns.c.id == campaign_id)).one()
        due = launchable(db, row, campaign, now)
    alone = campaign.type == "merge"  # a project for each group, one job that takes all its files
    for needs, together in [(u.needs, [u]) for u in due] if alone else grouped(due, lambda u: u.needs).items():
        with k.database.write("launch planned") as db:
            asked = with_usual_memory(needs, row.usual_mib)
            key, moves, dests = write_launch(k, db, campaign, campaign_id, asked, together, now)
        say("launch", campaign=campaign.name, launch=key, jobs=len(together), needs=asked)
        k.log_moves(campaign.name, moves, dests)


def with_usual_memory(needs: str, usual_mib: int | None) -> str:
    """What a launch asks for: what its units are known to need, and what recent files usually used."""
    if usual_mib is None:
        return needs
    known = parse_needs(needs)
    return write_needs({**known, "memory_mib": max(usual_mib, known.get("memory_mib", 0))})


def launchable(db: Connection, row: AnyRow, campaign: Campaign, now: datetime) -> list[Unit]:
    """Due units that may go now: as many as there is room for; while the canary is out, canaries alone, and those
    that are tried again before new ones, so that a broken executable meets no more files than these."""
    canary = protect.canary_of(db, row, campaign)
    room = room_for(db, row, campaign, canary)
    if canary is None or not canary.again:
        return reads.launchable(db, row.id, now, room)
    again = reads.launchable(db, row.id, now, room, units.c.id.in_(canary.again))
    more = min(room - len(again), canary.room - len(canary.again))
    return [*again, *reads.launchable(db, row.id, now, max(0, more), units.c.id.not_in(canary.again))]


def room_for(db: Connection, row: AnyRow, campaign: Campaign, canary: Canary | None) -> int:
    """How many jobs may be added now, in one launch."""
    if row.state not in LAUNCHING_STATES or not row.active or row.recalled is None:
        return 0
    live = reads.live_jobs(db, row.id)
    waiting = live.get(JobState.IDLE, 0) + live.get(JobState.WANTED, 0)
    rooms = [
        campaign.limits.jobs - sum(live.values()), campaign.limits.idle_jobs - waiting, campaign.limits.launch_size,
        canary.room if canary else None, protect.outage_room(db, row.id, sum(live.values())),
    ]  # fmt: skip
    return max(0, min(room for room in rooms if room is not None))


def write_launch(
    k: Keeper, db: Connection, campaign: Campaign, campaign_id: int, needs: str, together: Sequence[Unit], now: datetime
) -> tuple[str, list[Move], list[str]]:
    key = new_key(now)
    row = {"key": key, "campaign_id": campaign_id, "created": now, "needs": needs, "settings": campaign.as_json()}
    launch_id = db.execute(insert(launches).values(row).returning(launches.c.id)).scalar_one()
    numbers = _numbers(campaign, together)
    add_jobs(db, launch_id, numbers)
    bound = zip(together, [None] * len(together) if sam_decides(campaign) else numbers, strict=True)
    db.execute(insert(attempts), [
        {"unit_id": u.id, "launch_id": launch_id, "campaign_id": campaign_id, "job_number": n} for u, n in bound
    ])  # fmt: skip
    why = f"launch {key}" + (f" with {needs}" if needs else "")
    moves = [Move(unit, "launch", why, values={"launch_id": launch_id}) for unit in together]
    dests = store.apply(db, k.file_chart, moves, now)
    store.want(db, [Wanted("submit", launch_id)], now)
    return key, moves, dests


def sam_decides(campaign: Campaign) -> bool:
    """Which job gets which file: SAM's to say, where a job takes one of many."""
    return campaign.type in ("reco", "analysis")


def _numbers(campaign: Campaign, together: Sequence[Unit]) -> Sequence[int]:
    """A generator's jobs bear the serials of their units, so that even a lost database knows which is which."""
    if campaign.type == "generator":
        return [serial_of(unit.name) for unit in together]
    return range(1, len(together) + 1)


def new_key(now: datetime) -> str:
    """A launch's name: when it was made, and letters of chance, so that a lost database never makes it again."""
    return f"{now:%Y%m%d-%H%M%S}-" + "".join(random.choices(string.ascii_lowercase + string.digits, k=4))


def add_jobs(db: Connection, launch_id: int, numbers: Sequence[int]) -> None:
    db.execute(insert(jobs), [{"launch_id": launch_id, "number": n, "state": JobState.WANTED} for n in numbers])


# --- what a job is told -------------------------------------------------------------------------------------------


def order_of(k: Keeper, campaign: Campaign, launch_key: str, members: Sequence[Unit]) -> dict[str, Any]:
    """order.json: all that the worker is told, the same for every job of a launch. Its form: docs/worker.md."""
    sam, worker, run = k.settings.sam, k.settings.worker, campaign.executable
    inputs = _members(k, campaign, members)
    generator = campaign.type == "generator"
    return {
        "version": 1, "daemon": k.settings.name, "campaign": campaign.name, "type": campaign.type, "launch": launch_key,
        "sam": {"read_url": sam.read_url, "write_url": sam.write_url, "station": sam.station, "group": sam.group,
                "user": sam.user, "patience_s": worker.patience_s, "timeout_s": worker.timeout_s},
        "project": None if generator else project_name(campaign.name, launch_key),
        "schemas": worker.schemas,
        "application": run.application.model_dump(),
        "argv": run.shell if run.shell is not None else run.argv, "shell": run.shell is not None,
        "environment": run.environment,
        "units": {str(serial_of(unit.name)) if generator else unit.name: _unit(campaign, unit) | inputs.get(unit.id, {})
                  for unit in members},
        "outputs": [_output(k, campaign, output) for output in campaign.outputs],
        "limits": {"executable_wall_s": campaign.limits.executable_wall_s, "fetch_patience_s": worker.fetch_patience_s,
                   "stage_patience_s": worker.stage_patience_s, "copy_patience_s": worker.copy_patience_s},
    }  # fmt: skip


def _members(k: Keeper, campaign: Campaign, groups: Sequence[Unit]) -> dict[int, dict[str, Any]]:
    """By group: all its files, which a merge must get from SAM before it begins."""
    if campaign.type != "merge" or not groups:
        return {}
    with k.database.read() as db:
        inputs = reads.files_by_unit(db, [group.id for group in groups])
    return {group_id: {"inputs": [row.name for row in rows]} for group_id, rows in inputs.items()}


def _unit(campaign: Campaign, unit: Unit) -> dict[str, Any]:
    outputs = campaign.output_names(unit.name, unit.edition)
    return {"unit": unit.name, "outputs": outputs, "params": _params(campaign, unit)}


def _params(campaign: Campaign, unit: Unit) -> dict[str, int | str]:
    """A generator's numbers: pure functions of campaign and serial, so a retry has the same ones."""
    if campaign.generator is None:
        return {}
    given, serial = campaign.generator, serial_of(unit.name)
    run, subrun = run_subrun(given.first_run, given.subruns_per_run, serial)
    return {
        "run": run,
        "run_type": given.run_type,
        "subrun": subrun,
        "seed": seed_of(run, subrun),
        "serial": serial,
        "events": given.events_per_unit,
    }


def _output(k: Keeper, campaign: Campaign, output: Any) -> dict[str, Any]:
    fixed = {"data_tier": output.tier, "file_type": output.file_type, "file_format": output.file_format}
    ours = {k.settings.sam.campaign_parameter: campaign.name}
    return {
        "label": output.label, "location": output.location, "url": output.url,
        "checks": campaign.validation.model_dump(),
        "metadata": {**fixed, **campaign.metadata, **output.metadata, **ours}, "inherit": output.inherit,
    }  # fmt: skip


def resources_for(campaign: Campaign, needs: str) -> dict[str, int]:
    """What a job asks of the batch system: the campaign's request, or what its units are known to need."""
    asked = campaign.resources.model_dump(include={"cpus", "memory_mib", "disk_mib", "wall_s"})
    return asked | {name: value for name, value in parse_needs(needs).items() if name in asked}


# --- the end of a launch ------------------------------------------------------------------------------------------


def end_launches(k: Keeper, now: datetime) -> None:
    """Top up launches that lost jobs before these took a file; close those whose last job was judged."""
    with k.database.read() as db:
        waiting = [row for row in reads.open_launches(db) if row.over is None and row.submitted]
        live = reads.live_by_launch(db)
        missing = [(row, _missing(db, row, live[row.id])) for row in waiting if row.id in live]
    for row, n in missing:
        if n > 0:
            _top_up(k, row, n, now)
    for row in waiting:
        if row.id not in live:
            _end_launch(k, row, now)


def _missing(db: Connection, launch: AnyRow, live: int) -> int:
    """Units that more jobs are needed for, since jobs died before they took one."""
    if not 0 < launch.early_deaths <= MOST_EARLY_DEATHS:
        return 0
    return len(reads.units_of_launch(db, launch.id, open_only=True)) - live


def _top_up(k: Keeper, launch: AnyRow, missing: int, now: datetime) -> None:
    with k.database.write("launch topped up") as db:
        used = db.execute(select(func.max(jobs.c.number)).where(jobs.c.launch_id == launch.id)).scalar_one()
        add_jobs(db, launch.id, range(used + 1, used + missing + 1))
        store.want(db, [Wanted("submit", launch.id)], now)
    say("launch topped up", launch=launch.key, jobs=missing)


def _end_launch(k: Keeper, launch: AnyRow, now: datetime) -> None:
    """Its jobs are all judged: what none of them took goes back to pending, and the project is ended."""
    first_due = now + AFTER_EARLY_DEATH if launch.early_deaths else now
    with k.database.write("launch over") as db:
        left = [unit for unit, _ in reads.units_of_launch(db, launch.id, open_only=True)]
        before = reads.not_delivered(db, launch.id)
        moves = []
        for unit in left:
            if unit.state == "running" and unit.launch_id == launch.id:
                again, why = before.get(unit.id, 0), f"launch {launch.key} ended without delivering it"
                due = first_due
                if again >= OFTEN:
                    due = now + min(AFTER_EARLY_DEATH * 2 ** min(again - OFTEN, 10), LONGEST_WAIT)
                    why += f", as {again} others before it: SAM gives this file to no job"
                moves.append(Move(unit, "not_delivered", why, due=due))
        dests = store.apply(db, k.file_chart, moves, now)
        open_ones = (attempts.c.launch_id == launch.id) & (attempts.c.outcome == "")
        db.execute(update(attempts).where(open_ones).values(outcome="not_delivered"))
        db.execute(update(launches).where(launches.c.id == launch.id).values(over=now))
        store.want(db, [Wanted("close", launch.id)], now)
    k.log_moves(k.campaigns[launch.campaign_id].name, moves, dests)
    say("launch over", campaign=k.campaigns[launch.campaign_id].name, launch=launch.key, not_delivered=len(moves))
