"""`keepupd check` for one campaign: its definitions, what SAM says of its outputs, and what it would launch now."""

import secrets
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from sqlalchemy import Connection, select

from keepupd.changes import diff, needs_canary
from keepupd.clients.storage import local_path
from keepupd.clients.total_file import Total, need
from keepupd.config import Campaign
from keepupd.core.chunks import grouped
from keepupd.core.errors import DefinitionDiffers, SamAbsent, SamRefused
from keepupd.core.model import Output, Unit
from keepupd.core.serials import unit_name
from keepupd.daemon import launching, life
from keepupd.daemon.effects import cluster_of
from keepupd.daemon.keeper import Keeper
from keepupd.daemon.outputs import look_for_outputs
from keepupd.daemon.versions import metadata_of, version_name
from keepupd.queries import definitions_in
from keepupd.store.tables import AnyRow, campaigns, units

if TYPE_CHECKING:
    from keepupd.daemon.check import Findings

REGISTER = (
    "correct the campaign, or register what is unknown: `samweb add-value data_tiers TIER` and the like, "
    "`samweb add-parameter CATEGORY.NAME string`, `samweb add-application FAMILY NAME VERSION`"
)
MOST = 500  # input files looked at: a check is quick, also where there are millions


def check_campaign(found: "Findings", k: Keeper, campaign: Campaign, remembered: bool, now: datetime) -> None:
    """Add what was found of one campaign. `remembered`: the database may be asked."""
    told: dict[str, Any] = {"name": campaign.name, "type": campaign.type, "in_sam": None, "looked_at": 0, "adopted": 0,
                            "definitions_to_make": [], "changes": [], "would_launch": 0, "notes": [],
                            "job": None}  # fmt: skip
    _definitions(found, k, campaign, told)
    _outputs(found, k, campaign, now)
    with found.faults_of(campaign.name):
        new = _new_units(k, campaign, told, now)
        many = f"target {told['in_sam']} units" if campaign.generator else f"{told['in_sam']} input files in SAM now"
        found.ok(campaign.name, many)
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


def _outputs(found: "Findings", k: Keeper, campaign: Campaign, now: datetime) -> None:
    """Ask SAM itself whether it would take such outputs, there."""
    with found.faults_of(campaign.name):
        disks = [str(disk["mount_point"]) for disk in k.sam.values("data_disks")]
        known = {str(parameter["name"]) for parameter in k.sam.values("parameters")}
        order = launching.order_of(k, campaign, launching.new_key(now), [])
        if campaign.analysis is not None:
            _total(found, k, campaign)
        for output in order["outputs"]:
            _would_declare(found, k, campaign, output["metadata"] | {"application": order["application"]})
            _would_locate(found, campaign, output, disks)
            for key in sorted(key for key in output["inherit"] if "." in key and key not in known):
                found.fault(campaign.name, f"SAM knows no parameter {key} to inherit", REGISTER)


def _total(found: "Findings", k: Keeper, campaign: Campaign) -> None:
    """Whether its running total could be made and declared."""
    metadata = metadata_of(k, campaign, Total())
    _would_declare(found, k, campaign, metadata)
    with found.faults_of(campaign.name):
        need("uproot", "root")
        local_path(campaign.outputs[0].url)
        parameter = k.settings.sam.campaign_parameter
        first = version_name(campaign, 1)
        found.ok(campaign.name, f"its total would be {first} and so on, with {parameter} {metadata[parameter]!r}")


def _would_declare(found: "Findings", k: Keeper, campaign: Campaign, metadata: dict[str, Any]) -> None:
    name = f"check-{secrets.token_hex(8)}-{campaign.name}"
    try:
        k.sam.validate({**metadata, "file_name": name, "file_size": 1, "checksum": ["adler32:00000001"]})
    except SamRefused as refusal:
        found.fault(campaign.name, f"SAM would refuse its outputs: {refusal.problem}", REGISTER)


def _would_locate(found: "Findings", campaign: Campaign, output: dict[str, Any], disks: Sequence[str]) -> None:
    place = output["location"]
    if not any(f"{place}/".startswith(disk.rstrip("/") + "/") for disk in disks):
        words = f"SAM has no data disk for {place}: it would refuse this location"
        found.fault(
            campaign.name, words, f"correct the campaign, or `samweb add-data-disk {place}` or a directory above"
        )
    url = urlsplit(output["url"])
    if url.scheme == "file" and not Path(unquote(url.path)).is_dir():
        found.fault(campaign.name, f"there is no directory {unquote(url.path)} for its outputs on this machine",
                    "make it, or mount it: jobs make only directories of their own below it")  # fmt: skip


# --- what it would launch -----------------------------------------------------------------------------------------


def _new_units(k: Keeper, campaign: Campaign, told: dict[str, Any], now: datetime) -> list[Unit]:
    """The first units whose output SAM does not show."""
    told["in_sam"], members = _members(k, campaign)
    if campaign.merge is not None:
        told["notes"].append(f"{told['in_sam']} input files: those in no group yet wait for one")
        return []
    first = [Unit(number, 0, name, "pending", 0, now) for number, name in islice(members, MOST)]
    outputs = look_for_outputs(k.sam, campaign, first)
    there = {number for number, output in outputs.items() if output.state is Output.LOCATED}
    told["looked_at"], told["adopted"] = len(first), len(there)
    what = "units" if campaign.generator else "input files"
    part = f", of which the first {MOST} were looked at" if len(first) == MOST else ""
    adopted = f"{len(there)} have their output in SAM already and are not launched (a new campaign adopts them)"
    told["notes"].append(f"of {told['in_sam']} {what}{part}: {adopted}")
    retired = sum(output.retired for output in outputs.values())
    if retired:
        told["notes"].append(f"{retired} have a retired output: theirs would be a later edition")
    return [unit for unit in first if unit.id not in there]


def _members(k: Keeper, campaign: Campaign) -> tuple[int, Iterable[tuple[int, str]]]:
    """How many units or input files, and each one's number (a file's is its file id) and name."""
    if campaign.generator is not None:
        target = campaign.generator.units
        return target, ((serial, unit_name(serial)) for serial in range(1, target + 1))
    name, sam, dims = campaign.input.definition, k.sam, _to_come(k, campaign.input.definition)
    if dims is None:
        return sam.definition_count(name), ((file.file_id, file.name) for file in sam.definition_files(name))
    if any(_to_come(k, other) for other in definitions_in(dims)):
        return 0, ()  # its makers have not begun
    return sam.count(dims), ((file.file_id, file.name) for file in sam.files(dims))


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
            row = db.execute(select(campaigns).where(campaigns.c.name == campaign.name)).first()
            if row is not None:
                room = launching.room_for(db, row, campaign)
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
