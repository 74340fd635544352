"""`keepupd check` for one campaign: its definitions, and what it would launch now."""

from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict
from datetime import datetime
from itertools import islice
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, select

from keepupd.campaign import outputs_of
from keepupd.changes import diff, needs_canary
from keepupd.clients.catalog import quote
from keepupd.config import Campaign
from keepupd.core.chunks import grouped
from keepupd.core.errors import DefinitionDiffers, SamAbsent
from keepupd.core.model import Output, Unit
from keepupd.core.serials import unit_name
from keepupd.daemon import inputs, launching, life, planning, problems, protect
from keepupd.daemon.effects import cluster_of
from keepupd.daemon.keeper import Keeper
from keepupd.daemon.outputs import look_for_outputs
from keepupd.queries import definitions_in
from keepupd.store.tables import AnyRow, campaigns, units

if TYPE_CHECKING:
    from keepupd.daemon.check import Findings

MOST = 500  # input files looked at: a check is quick, also where there are millions


def check_campaign(found: "Findings", k: Keeper, campaign: Campaign, remembered: bool, now: datetime) -> None:
    """Add what was found of one campaign. `remembered`: the database may be asked."""
    told: dict[str, Any] = {"name": campaign.name, "type": campaign.type, "in_sam": None, "looked_at": 0, "adopted": 0,
                            "definitions_to_make": [], "changes": [], "would_launch": 0, "notes": [],
                            "job": None}  # fmt: skip
    _definitions(found, k, campaign, told)
    _leaving(found, k, campaign)
    with found.faults_of(campaign.name):
        new = _new_units(found, k, campaign, told, now)
        many = f"target {told['in_sam']} units" if campaign.generator else f"{told['in_sam']} input files in SAM now"
        found.ok(campaign.name, many)
        if told["in_sam"] == 0 and campaign.name in k.flow.campaigns and not k.flow.makers_of(campaign.name):
            asks = campaign.input.query or f"definition {campaign.input.definition}"
            found.warn(campaign.name, f"SAM has no file now of its input, and no campaign here makes any: {asks}")
        _launch(found, k, campaign, told, new, remembered, now)
    found.campaigns.append(told)


# --- what SAM must have -------------------------------------------------------------------------------------------


def _definitions(found: "Findings", k: Keeper, campaign: Campaign, told: dict[str, Any]) -> None:
    for name, dims in life.definitions_wanted(campaign, k.settings.sam.campaign_parameter):
        with found.faults_of(campaign.name):
            try:
                in_sam = k.sam.definition(name)
            except SamAbsent:
                told["definitions_to_make"].append({"name": name, "dimensions": dims})
                told["notes"].append(f"would make definition {name}: {dims}")
                continue
            if in_sam.split() != dims.split():
                raise DefinitionDiffers(name, dims, in_sam)


def _leaving(found: "Findings", k: Keeper, campaign: Campaign) -> None:
    """Warn of an input definition that files leave by themselves: what left and was not launched is not launched."""
    name = campaign.input.definition
    if campaign.type == "generator":
        return
    with found.faults_of(campaign.name), suppress(SamAbsent):  # told where its files are asked for
        dims = _to_come(k, name) or k.sam.definition(name)
        if drain := inputs.drain_words(k, campaign, dims):
            found.warn(campaign.name, drain)
        for read in [name, *definitions_in(dims)]:
            for other in k.flow.campaigns:
                if problems.is_kept_for(read, other):
                    found.warn(campaign.name, f"files leave definition {read}, which lists those of campaign {other} in"
                               " trouble, as soon as that moves on: then they are not launched here, if they were not")


# --- what it would launch -----------------------------------------------------------------------------------------


def _new_units(found: "Findings", k: Keeper, campaign: Campaign, told: dict[str, Any], now: datetime) -> list[Unit]:
    """The first units whose output SAM does not show."""
    told["in_sam"], told["adopted"], members = _members(found, k, campaign)
    if campaign.merge is not None:
        told["notes"].append(f"{told['in_sam']} input files: those in no group yet wait for one")
        _grouping(found, k, campaign, [name for _, name in islice(members, MOST)])
        members = ()
    first = [Unit(number, 0, name, "pending", 0, now) for number, name in islice(members, MOST)]
    outputs = look_for_outputs(k, campaign, first)
    there = {number for number, output in outputs.items() if output.state is Output.LOCATED}
    told["looked_at"], told["adopted"] = len(first), told["adopted"] + len(there)
    what = "units" if campaign.generator else "input files"
    part = f" (of the others, the first {MOST} were looked at)" if len(first) == MOST else ""
    adopted = f"{told['adopted']} have their output in SAM already and are not launched: a new campaign adopts them"
    told["notes"].append(f"of {told['in_sam']} {what}, {adopted}{part}")
    retired = sum(output.retired for output in outputs.values())
    if retired:
        told["notes"].append(f"{retired} have a retired output: theirs would be a later edition")
    if bad := {number for number, output in outputs.items() if output.state is Output.BAD}:
        told["notes"].append(f"{len(bad)} have an output that is marked bad in SAM: held, until a person releases them")
    return [unit for unit in first if unit.id not in there | bad]


def _grouping(found: "Findings", k: Keeper, campaign: Campaign, names: Sequence[str]) -> None:
    records = k.sam.records(names)
    keys = [(name, planning.keys_of(campaign, record.metadata)) for name, record in records.items()]
    for key, lacking in planning.lacking_keys(keys).items():
        many = f"{len(lacking)} of the {len(keys)} input files looked at have no {key}, such as {lacking[0]}"
        found.warn(campaign.name, f"merge.by: {many}: these would go together")


def _unlocated(found: "Findings", k: Keeper, campaign: Campaign, dims: str) -> None:
    """Warn of children that are declared and not located, as by a drop box that is late: they are not adopted."""
    outputs = outputs_of(campaign, k.settings.sam.campaign_parameter)
    if n := k.sam.count(f"({dims}) and isparentof: (({outputs}) with availability virtual)"):
        found.warn(campaign.name, f"{n} input files have outputs that are declared, but have no location yet: made"
                   " again, unless their names are those that keepupd gives; wait until they are located")  # fmt: skip


def _members(found: "Findings", k: Keeper, campaign: Campaign) -> tuple[int, int, Iterable[tuple[int, str]]]:
    """How many units or input files; how many of these files have children in the output definitions; and number (a
    file's is its file id) and name of each of the others."""
    if campaign.generator is not None:
        target = campaign.generator.units
        return target, 0, ((serial, unit_name(serial)) for serial in range(1, target + 1))
    name, sam, dims = campaign.input.definition, k.sam, _to_come(k, campaign.input.definition)
    if dims is not None and any(_to_come(k, other) for other in definitions_in(dims)):
        return 0, 0, ()  # its makers have not begun
    dims = dims or f"defname: {quote(name)}"
    parents = f"isparentof: ({outputs_of(campaign, k.settings.sam.campaign_parameter)})"
    others = sam.files(f"({dims}) minus {parents}")
    _unlocated(found, k, campaign, dims)
    return sam.count(dims), sam.count(f"({dims}) and {parents}"), ((file.file_id, file.name) for file in others)


def _to_come(k: Keeper, definition: str) -> str | None:
    """The dimensions of a definition that SAM does not have yet, but a campaign makes."""
    parameter = k.settings.sam.campaign_parameter
    planned = dict(one for c in k.flow.campaigns.values() for one in life.definitions_wanted(c, parameter))
    try:
        k.sam.definition(definition)
    except SamAbsent:
        return planned.get(definition)
    return None


def _launch(
    found: "Findings", k: Keeper, campaign: Campaign, told: dict[str, Any], new: list[Unit], remembered: bool,
    now: datetime,
) -> None:  # fmt: skip
    room = min(campaign.limits.jobs, campaign.limits.idle_jobs)
    due: list[Unit] = []
    if remembered:
        with k.database.read() as db:
            known = {one.name: one for one in db.execute(select(campaigns))}
            life.check_runs(known, campaign, k.flow.campaigns)
            row = known.get(campaign.name)
            if row is not None:
                room = launching.room_for(db, row, campaign, protect.canary_of(db, row, campaign))
                due = launching.launchable(db, row, campaign, now)
                mine = select(units.c.name).where(units.c.campaign_id == row.id)
                seen = set(db.execute(mine.where(units.c.name.in_([unit.name for unit in new]))).scalars())
                new = [unit for unit in new if unit.name not in seen]
                told["notes"].append(f"the daemon knows it: {row.state}, {row.why}")
                _changes(found, db, row, campaign, told)
    if campaign.settle_s and new:
        told["notes"].append(f"{len(new)} new units would be left alone for {campaign.settle_s:g} s first")
        new = []
    together = [*due, *new][: max(0, min(room, campaign.limits.launch_size))]
    told["would_launch"] = len(together)
    if together:
        told["job"] = _job(k, campaign, together, now)


def _changes(found: "Findings", db: Connection, row: AnyRow, campaign: Campaign, told: dict[str, Any]) -> None:
    """What taking up this file would change, and what of it would be refused."""
    told["changes"] = diff(row.settings, campaign.as_json())
    told["notes"] += [f"changed: {line}" for line in told["changes"]]
    for line in (refused := life.refused_changes(db, row, campaign)):
        found.fault(campaign.name, f"would be refused: {line}", "put the old value back; `keepupd` runs on with it")
    if not refused and needs_canary(row.settings, campaign.as_json()):
        told["notes"].append(f"{campaign.canaries} unit(s) would run first, as a canary of the changed settings")


def _job(k: Keeper, campaign: Campaign, together: Sequence[Unit], now: datetime) -> dict[str, Any]:
    """The first launch of them: units with the same needs go together."""
    needs, members = next(iter(grouped(together, lambda unit: unit.needs).items()))
    launch = cluster_of(k, launching.new_key(now), needs, campaign, members, range(1, len(members) + 1))
    order = launching.order_of(k, campaign, launch.key, members)
    sizes = {name: f"{len(text)} characters" for name, text in launch.files.items()}
    return {**asdict(launch), "tag": launch.tag, "numbers": f"1 to {len(members)}", "files": sizes, "order": order}
