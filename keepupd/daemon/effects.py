"""What keepupd does outside: one function for each effect that charts and launches ask for. Each is safe to repeat."""

import json
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any, cast

from sqlalchemy import Connection, delete, select, update

import keepupd.worker
from keepupd.config import Campaign
from keepupd.core.consequences import consequences
from keepupd.core.errors import JobRejected, SamAbsent, SamRefused, Transient
from keepupd.core.model import LIVE_JOB, Failure, JobState, Launch, Move, Unit
from keepupd.core.serials import serial_of
from keepupd.daemon import launching
from keepupd.daemon.adopt import made_under_other_names
from keepupd.daemon.declaring import declare, remove_losers
from keepupd.daemon.jobs import note_submitted
from keepupd.daemon.keeper import CLOSED_BY, Keeper, limits_of, project_name, say
from keepupd.daemon.repair import mend
from keepupd.fields import HISTOGRAM_CHECK
from keepupd.store import reads, store
from keepupd.store.tables import AnyRow, attempts, jobs, launches, units

WORKER = Path(keepupd.worker.__file__).with_name("keepup_worker.py")
# Nothing of the node's or the user's Python gets into the worker (PYTHONPATH, site-packages, a json.py in the scratch
# directory), and it starts sooner. The executable's environment is not touched.
ISOLATED = ["-I", "-S"]


class NotYet(Transient):
    """An effect that must wait for something else."""


def submit(k: Keeper, item: AnyRow, now: datetime) -> None:
    """Make a launch's definition, start its project, and give its jobs to the batch system."""
    launch, campaign, members = _launch(k, item.key)
    try:
        if campaign.type != "generator":
            _start_project(k, launch, campaign, members, now)
        if numbers := _wanted(k, launch.id):
            k.batch.submit(cluster_of(k, launch.key, launch.needs, campaign, members, numbers))
    except (JobRejected, SamRefused) as refusal:
        _give_back(k, launch, campaign, refusal, now)
    with k.database.write("submitted") as db:
        note_submitted(db, launch.id, now)


def _launch(k: Keeper, launch_id: int) -> tuple[AnyRow, Campaign, list[Unit]]:
    with k.database.read() as db:
        launch = db.execute(select(launches).where(launches.c.id == launch_id)).one()
        members = [unit for unit, _ in reads.units_of_launch(db, launch_id)]
    return launch, Campaign.model_validate_json(launch.settings), members


def _wanted(k: Keeper, launch_id: int) -> list[int]:
    waiting = (jobs.c.launch_id == launch_id) & (jobs.c.state == JobState.WANTED)
    with k.database.read() as db:
        return list(db.execute(select(jobs.c.number).where(waiting).order_by(jobs.c.number)).scalars())


def _start_project(k: Keeper, launch: AnyRow, campaign: Campaign, members: Sequence[Unit], now: datetime) -> None:
    name = project_name(campaign.name, launch.key)
    definition = project_name(campaign.name, members[0].name) if campaign.type == "merge" else name
    inputs = _define(k, campaign, definition, members)
    ids = [row.file_id for rows in inputs.values() for row in rows]
    k.sam.start_project(name, definition)
    if launch.submitted is None and int(k.sam.summary(name).get("files_in_snapshot", len(ids))) < len(ids):
        there = {file.file_id for file in k.sam.project_files(name)}
        _hold_absent(
            k, campaign, [u for u in members if any(f.file_id not in there for f in inputs[u.id])], launch, now
        )


def _define(
    k: Keeper, campaign: Campaign, name: str, members: Sequence[Unit], more: str = ""
) -> dict[int, list[AnyRow]]:
    """Make the definition of exactly the input files of these units; gives the files, by unit."""
    with k.database.read() as db:
        inputs = reads.files_by_unit(db, [unit.id for unit in members])
    ids = sorted(row.file_id for rows in inputs.values() for row in rows)
    k.sam.create_definition(name, f"file_id {', '.join(map(str, ids))}", f"{len(ids)} files for {campaign.name}{more}")
    return inputs


def define(k: Keeper, item: AnyRow, now: datetime) -> None:
    """A merge group is closed: its definition in SAM makes membership outlive this database."""
    with k.database.read() as db:
        group = reads.units_by_id(db, [item.key])[0]
        rule = db.execute(select(units.c.origin).where(units.c.id == item.key)).scalar_one()
    campaign = k.campaigns[group.campaign_id]
    _define(k, campaign, project_name(campaign.name, group.name), [group], CLOSED_BY + " ".join(rule.split())[:200])


def _hold_absent(k: Keeper, campaign: Campaign, lacking: Sequence[Unit], launch: AnyRow, now: datetime) -> None:
    """SAM's snapshot lacks these: they have no location now. As many jobs fewer are needed."""
    failed = Failure(step="job", fault="no_location", message="SAM shows no location of it")
    cause = k.causes.judge(failed, k.own_rules[launch.campaign_id])
    moves = []
    for unit in lacking:
        due, values = consequences(cause, failed, unit, limits_of(campaign), 0, now)
        if unit.state == "running" and unit.launch_id == launch.id:
            moves.append(Move(unit, "no_location", cause.words, cause=cause.name, due=due, values=values))
    with k.database.write("no location") as db:
        dests = store.apply(db, k.file_chart, moves, now)
        _drop_jobs(db, launch.id, len(moves))
    k.log_moves(campaign.name, moves, dests)


def _drop_jobs(db: Connection, launch_id: int, n: int) -> None:
    last = select(jobs.c.number).where(jobs.c.launch_id == launch_id, jobs.c.state == JobState.WANTED)
    numbers = list(db.execute(last.order_by(jobs.c.number.desc()).limit(n)).scalars())
    db.execute(delete(jobs).where(jobs.c.launch_id == launch_id, jobs.c.number.in_(numbers)))


def cluster_of(
    k: Keeper, key: str, needs: str, campaign: Campaign, members: Sequence[Unit], numbers: Sequence[int]
) -> Launch:
    """The exact job description of a launch, as the batch system gets it."""
    order = launching.order_of(k, campaign, key, members)
    files = {"keepup_worker.py": WORKER.read_text(), "order.json": json.dumps(order)} | campaign.executable.files
    if campaign.validation.histograms:
        files[HISTOGRAM_CHECK] = WORKER.with_name(HISTOGRAM_CHECK).read_text()
    return Launch(
        key, k.settings.name, campaign.name, numbers, files,
        argv=[k.settings.worker.python, *ISOLATED, "keepup_worker.py", "order.json", "--job", "{key}"],
        excluded_hosts=sorted(k.sick_hosts), units=_bound(campaign, members), lines=campaign.resources.lines,
        **cast(dict[str, Any], launching.resources_for(campaign, needs)),
    )  # fmt: skip


def _bound(campaign: Campaign, members: Sequence[Unit]) -> dict[int, str]:
    """Which unit a job is for, where that is known before SAM gives out files."""
    if campaign.type == "generator":
        return {serial_of(unit.name): unit.name for unit in members}
    return {1: members[0].name} if campaign.type == "merge" else {}


def _give_back(k: Keeper, launch: AnyRow, campaign: Campaign, refusal: Exception, now: datetime) -> None:
    """SAM or batch refuses this launch: its files go back to pending, and the campaign is held until a person acts."""
    why = f"launch {launch.key} was refused: {refusal}"
    with k.database.write("launch refused") as db:
        _drop_jobs(db, launch.id, 1_000_000)
        state = store.campaign_state(db, launch.campaign_id)
        if state in launching.LAUNCHING_STATES:
            store.move_campaign(db, k.campaign_chart, launch.campaign_id, "refused", now, why, cause="refused")
    say("campaign held", campaign=campaign.name, why=why, remedy=f"keepupctl resume {campaign.name}")


def close(k: Keeper, item: AnyRow, now: datetime) -> None:
    """End a launch's project and let the batch system forget its jobs, once nothing of it is needed to go on."""
    launch, campaign, members = _launch(k, item.key)
    waiting = [unit for unit in members if unit.state == "validated" and unit.launch_id == launch.id]
    if waiting:  # a lost database would need these jobs' reports to declare their outputs
        raise NotYet(f"{len(waiting)} outputs of launch {launch.key} are not in SAM yet", "`keepupctl stuck` shows why")
    if campaign.type != "generator":
        with suppress(SamAbsent):  # refused before it began, or SAM has cleaned it away
            k.sam.end_project(project_name(campaign.name, launch.key))
    k.batch.remove(_keys(k, launch.id, JobState.HELD))  # held before they took a file: no file's effect removed them
    try:
        k.batch.forget(launch.key)
    except JobRejected as stopping:  # a removed job takes a moment to end
        raise NotYet(stopping.problem, stopping.remedy) from stopping
    with k.database.write("launch closed") as db:
        db.execute(update(launches).where(launches.c.id == launch.id).values(closed=now))


def remove_job(k: Keeper, item: AnyRow, now: datetime) -> None:
    """Take away the job that has the unit: the one named, or the one that SAM gave its file to."""
    with k.database.read() as db:
        unit = reads.units_by_id(db, [item.key])[0]
    keys = [item.detail] if item.detail else []
    if not keys and unit.launch_id is not None:
        keys = _who_has(k, unit, unit.launch_id)
    if keys:
        k.batch.remove(keys)
        with k.database.write("jobs removed") as db:
            _note_removed(db, keys)


def _note_removed(db: Connection, keys: Sequence[str]) -> None:
    """A removed job has left, whether or not a look still shows it."""
    for key in keys:
        launch, _, number = key.rpartition(".")
        ours = jobs.c.launch_id.in_(select(launches.c.id).where(launches.c.key == launch))
        live = jobs.c.judged.is_(False) & jobs.c.state.in_(LIVE_JOB)
        db.execute(update(jobs).where(ours, jobs.c.number == int(number), live).values(state=JobState.LEFT))


def _keys(k: Keeper, launch_id: int, state: JobState) -> list[str]:
    there = (jobs.c.launch_id == launch_id) & (jobs.c.state == state)
    query = select(launches.c.key, jobs.c.number).join(launches, launches.c.id == jobs.c.launch_id).where(there)
    with k.database.read() as db:
        return [f"{key}.{number}" for key, number in db.execute(query)]


def _who_has(k: Keeper, unit: Unit, launch_id: int) -> list[str]:
    """The job that is bound to the unit, or to which SAM gave its file.

    It may run already when our last look saw it idle, or not at all.
    """
    bound = select(launches.c.key, attempts.c.job_number).join(launches, launches.c.id == attempts.c.launch_id)
    ours = (attempts.c.unit_id == unit.id) & (attempts.c.launch_id == launch_id) & attempts.c.job_number.is_not(None)
    with k.database.read() as db:
        if known := db.execute(bound.where(ours)).first():
            return [f"{known.key}.{known.job_number}"]
    likely_first = [key for state in reversed(LIVE_JOB) for key in _keys(k, launch_id, state)]
    if not likely_first:
        return []
    project = project_name(k.campaigns[unit.campaign_id].name, likely_first[0].rpartition(".")[0])
    if all(file.name != unit.name for file in k.sam.delivered(project)):
        return []
    return next(([key] for key in likely_first if _has(k, unit, project, key)), [])


def _has(k: Keeper, unit: Unit, project: str, key: str) -> bool:
    return any(file.name == unit.name for file in k.sam.delivered(project, key))


def retire_output(k: Keeper, item: AnyRow, now: datetime) -> None:
    """A redo: the outputs of the edition before leave SAM's results. Their copies stay where they are."""
    with k.database.read() as db:
        unit = reads.units_by_id(db, [item.key])[0]
        inputs = reads.files_by_unit(db, [unit.id]).get(unit.id, [])
    campaign = k.campaigns[unit.campaign_id]
    records = k.sam.records(list(campaign.output_names(unit.name, int(item.detail)).values()))
    if not records and campaign.type == "reco":  # adopted under another name
        records = k.sam.records(list(made_under_other_names(k, campaign, inputs, unit.edition).values()))
    for name, record in records.items():
        if not record.retired:
            k.sam.retire(name)


def retire_group(k: Keeper, item: AnyRow, now: datetime) -> None:
    """A group was dissolved: its definition gets the name in `detail`, lest a lost database closes it again."""
    with k.database.read() as db:
        unit = reads.units_by_id(db, [item.key])[0]
    campaign = k.campaigns[unit.campaign_id].name
    with suppress(SamAbsent):
        k.sam.rename_definition(project_name(campaign, item.detail.split("_")[0]), project_name(campaign, item.detail))


EFFECTS = {
    "define": define,
    "submit": submit,
    "close": close,
    "remove_job": remove_job,
    "declare": declare,
    "remove_losers": remove_losers,
    "retire_output": retire_output,
    "retire_group": retire_group,
    "mend": mend,
}
