"""Rebuild what an earlier database knew, from SAM and the batch queue alone; for a new campaign, find nothing.

Declared outputs are adopted, open launches are recognised by their projects and by the tags of their jobs, what waits
for a person and what is in debug by the problem definitions. Other files in held or crash start anew: they would be
tried again by themselves. Nothing is launched for a campaign before all of these have answered once.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, insert, select, update

from keepupd.campaign import outputs_of
from keepupd.core.chunks import chunked
from keepupd.core.model import CatalogFile, JobSeen, Move, Unit
from keepupd.core.plan import Group
from keepupd.core.serials import serial_of, unit_name
from keepupd.daemon import planning
from keepupd.daemon.inputs import sweep
from keepupd.daemon.keeper import CLOSED_BY, Keeper, project_name, say
from keepupd.daemon.problems import STOPPED, remembered
from keepupd.store import grouping, intake, reads, store
from keepupd.store.store import UNIT_COLUMNS, unit_of
from keepupd.store.tables import attempts, campaigns, files, jobs, launches, units

GROUP = re.compile(r"g[0-9a-f]{16}")
OWN_QUERY = re.compile(r"file_id ([0-9]+(?:, [0-9]+)*)")  # of a group's definition, as effects.py writes it
LAUNCH_KEY = re.compile(r"\d{8}-\d{6}-[a-z0-9]{4}")
CHUNK = 1000
EVENTS = {STOPPED: "recall_held", "debug": "recall_debug"}


def recall(k: Keeper, now: datetime) -> None:
    """Recall every campaign that was not yet. Raises BatchUnavailable; one that SAM refuses holds up no other."""
    with k.database.read() as db:
        waiting = [campaign_id for campaign_id in reads.not_recalled(db) if campaign_id in k.campaigns]
    if waiting:
        queue = k.batch.look(k.settings.name, None).jobs
        for campaign_id in waiting:
            with k.contained(f"recall:{k.campaigns[campaign_id].name}", now):
                _recall_campaign(k, campaign_id, queue, now)


def _recall_campaign(k: Keeper, campaign_id: int, queue: Sequence[JobSeen], now: datetime) -> None:
    campaign = k.campaigns[campaign_id]
    if campaign.type == "generator":
        planning.make_serials(k, campaign_id, now)
    else:
        sweep(k, campaign_id, now)
    if campaign.type == "merge":
        _recall_groups(k, campaign_id, now)
    for state in EVENTS:  # before the launches: an operator's hold outlives the project that the file is still in
        _recall_problems(k, campaign_id, state, now)
    for key in _open_launches(k, campaign.name, queue):
        _recall_launch(k, campaign_id, key, [job for job in queue if _launch_of(job) == key], now)
    with k.database.write("recalled") as db:
        db.execute(update(campaigns).where(campaigns.c.id == campaign_id).values(recalled=now))
    say("recalled", campaign=campaign.name)


def _recall_groups(k: Keeper, campaign_id: int, now: datetime) -> None:
    """Groups that were closed, by their definitions, then merged files that had none: before anything is planned,
    their members are theirs again, also those that have left the input since."""
    prefix = project_name(k.campaigns[campaign_id].name, "")
    for name in k.sam.definitions(prefix):
        was = name.removeprefix(prefix)
        if GROUP.fullmatch(was) and (query := OWN_QUERY.fullmatch(k.sam.definition(name))):
            ids = [int(one) for one in query[1].split(",")]
            rule = k.sam.description(name).partition(CLOSED_BY)[2] or "it was closed before the database was lost"
            _close_again(k, campaign_id, ids, Group((), rule, was), now)
    _recall_merged(k, campaign_id, now)
    with k.database.write("members that left") as db:
        away = select(files.c.unit_id).where(files.c.campaign_id == campaign_id, files.c.gone.is_not(None))
        db.execute(update(units).where(units.c.id.in_(away), units.c.state == "pending").values(due=None))


def _recall_merged(k: Keeper, campaign_id: int, now: datetime) -> None:
    """Merged files that nobody's definition explains: made before keepupd, or with another name template."""
    campaign = k.campaigns[campaign_id]
    dims = outputs_of(campaign, k.settings.sam.campaign_parameter)
    with k.database.read() as db:
        waiting = grouping.waiting_keys(db, campaign_id)
    for some in chunked(k.sam.files(dims) if waiting else (), CHUNK):
        for name, record in k.sam.records([file.name for file in some]).items():
            ids = [int(parent["file_id"]) for parent in record.metadata.get("parents") or ()]
            _close_again(k, campaign_id, ids, Group((), "its output was there before"), now, made=name)


def _close_again(k: Keeper, campaign_id: int, ids: list[int], group: Group, now: datetime, made: str = "") -> None:
    """`group`, of those of these files that are in no other."""
    left = _unknown(k, campaign_id, ids)
    records, campaign = k.sam.records([file.name for file in left]) if left else {}, k.campaigns[campaign_id]
    keys = {name: planning.keys_of(campaign, record.metadata) for name, record in records.items()}
    with k.database.write("members recalled") as db:
        _take_in_gone(db, campaign_id, left, now, keys)
        members = grouping.waiting_among(db, campaign_id, ids)
    if members:
        group = replace(group, members=tuple(members))
        planning.close(k, campaign_id, [group], now, {group.name: made} if made else None)


def _launch_of(job: JobSeen) -> str:
    return job.key.rpartition(".")[0]


def _open_launches(k: Keeper, campaign: str, queue: Sequence[JobSeen]) -> list[str]:
    """Launches with a project that goes on, or with jobs in the queue."""
    prefix = project_name(campaign, "")
    projects = k.sam.projects(prefix, open_only=True)
    queued = {_launch_of(job) for job in queue if job.tag.split("/")[1:2] == [campaign]}
    keys = {name.removeprefix(prefix) for name in projects} | queued
    return sorted(key for key in keys if LAUNCH_KEY.fullmatch(key))


def _recall_launch(k: Keeper, campaign_id: int, key: str, queued: Sequence[JobSeen], now: datetime) -> None:
    campaign = k.campaigns[campaign_id]
    numbers = [int(job.key.rpartition(".")[2]) for job in queued]
    project = project_name(campaign.name, key)
    members = list(k.sam.project_files(project)) if k.sam.find_project(project) else []
    with k.database.write("launch recalled") as db:
        if db.execute(select(launches.c.id).where(launches.c.key == key)).first():
            return
        row = {"key": key, "campaign_id": campaign_id, "created": now, "settings": campaign.as_json(), "submitted": now}
        launch_id = db.execute(insert(launches).values(row).returning(launches.c.id)).scalar_one()
        _write_jobs(db, launch_id, queued)
        if campaign.type == "generator":
            tried = _serials_of(db, campaign_id, numbers)
        else:
            if campaign.type != "merge":  # a merge group has its files from its own definition
                _take_in_gone(db, campaign_id, members, now)
            tried = _units_of(db, campaign_id, [file.file_id for file in members])
        bound = {"generator": lambda unit: serial_of(unit.name), "merge": lambda unit: 1}.get(
            campaign.type, lambda unit: None
        )
        if tried:
            db.execute(insert(attempts), [
                {"unit_id": unit.id, "launch_id": launch_id, "campaign_id": campaign_id, "job_number": bound(unit)}
                for unit in tried
            ])  # fmt: skip
        moves = [Move(unit, "recall_launch", f"launch {key} was found in SAM", values={"launch_id": launch_id})
                 for unit in tried if unit.state == "pending"]  # fmt: skip
        dests = store.apply(db, k.file_chart, moves, now)
    say("launch recalled", campaign=campaign.name, launch=key, files=len(members), jobs=len(queued))
    k.log_moves(campaign.name, moves, dests)


def _take_in_gone(
    db: Connection, campaign_id: int, members: Sequence[CatalogFile], now: datetime,
    keys: Mapping[str, dict[str, Any]] | None = None,
) -> None:
    """Files of ours that have left the input definition since: unknown, they would be processed a second time when they
    come back, while their launch may still deliver them, or their group has them. `keys`: a merge's, by file name."""
    known = _known(db, campaign_id, [file.file_id for file in members])
    if gone := [file for file in members if file.file_id not in known]:
        if keys is not None:
            grouping.take_in_waiting(db, campaign_id, [(file, keys.get(file.name, {})) for file in gone], now)
        else:
            intake.take_in(db, campaign_id, gone, now, timedelta(0))
        ours = (files.c.campaign_id == campaign_id) & files.c.file_id.in_([file.file_id for file in gone])
        db.execute(update(files).where(ours).values(gone=now))
        total = campaigns.c.gone + len(gone)
        db.execute(update(campaigns).where(campaigns.c.id == campaign_id).values(gone=total))


def _unknown(k: Keeper, campaign_id: int, file_ids: Sequence[int]) -> list[CatalogFile]:
    """Those of these files that are not in the input definition now, whatever has become of them."""
    with k.database.read() as db:
        unknown = sorted(set(file_ids) - _known(db, campaign_id, file_ids))
    return [
        file
        for some in chunked(unknown, CHUNK)
        for file in k.sam.files(f"file_id {', '.join(map(str, some))} with availability any")
    ]


def _known(db: Connection, campaign_id: int, file_ids: Sequence[int]) -> set[int]:
    ours = files.c.campaign_id == campaign_id
    return {
        file_id
        for chunk in chunked(file_ids, CHUNK)
        for file_id in db.execute(select(files.c.file_id).where(ours, files.c.file_id.in_(chunk))).scalars()
    }


def _write_jobs(db: Connection, launch_id: int, queued: Sequence[JobSeen]) -> None:
    rows = [{"launch_id": launch_id, "number": int(job.key.rpartition(".")[2]), "state": "wanted"} for job in queued]
    if rows:
        db.execute(insert(jobs), rows)  # the next look says where each stands


def _units_of(db: Connection, campaign_id: int, file_ids: Collection[int]) -> list[Unit]:
    found: list[Unit] = []
    for chunk in chunked(file_ids, CHUNK):
        mine = (files.c.campaign_id == campaign_id) & files.c.file_id.in_(chunk)
        chosen = select(files.c.unit_id).where(mine)
        found += [unit_of(row) for row in db.execute(select(*UNIT_COLUMNS).where(units.c.id.in_(chosen)))]
    return found


def _serials_of(db: Connection, campaign_id: int, numbers: Sequence[int]) -> list[Unit]:
    names = [unit_name(number) for number in numbers]
    rows = db.execute(select(*UNIT_COLUMNS).where(units.c.campaign_id == campaign_id, units.c.name.in_(names)))
    return [unit_of(row) for row in rows]


def _recall_problems(k: Keeper, campaign_id: int, state: str, now: datetime) -> None:
    """Files that SAM's problem definition remembers, unless something has become of them since."""
    campaign = k.campaigns[campaign_id]
    name, numbers = remembered(k.sam, campaign.name, state)
    if not numbers:
        return
    by_file = campaign.type not in ("generator", "merge")  # which have no files; and groups with all their members
    left = _unknown(k, campaign_id, numbers) if by_file else []
    why = f"the database was lost; SAM's definition {name} remembers it. `keepupctl release` or `retry` tries it again"
    with k.database.write("problems recalled") as db:
        _take_in_gone(db, campaign_id, left, now)
        units_of = _serials_of if campaign.type == "generator" else _units_of
        known = units_of(db, campaign_id, numbers)
        pending = {unit.id: unit for unit in known if unit.state == "pending"}.values()  # a group may be in two chunks
        moves = [Move(unit, EVENTS[state], why, cause="remembered_by_sam") for unit in pending]
        dests = store.apply(db, k.file_chart, moves, now)
    k.log_moves(campaign.name, moves, dests)
