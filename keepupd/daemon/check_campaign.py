"""`keepupd check` for one campaign: its definitions, what SAM says of its outputs, and what it would launch now."""

import secrets
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from sqlalchemy import select

from keepupd.config import Campaign
from keepupd.core.chunks import grouped
from keepupd.core.errors import DefinitionDiffers, SamAbsent, SamRefused
from keepupd.core.model import CatalogFile, Output, Unit
from keepupd.daemon import launching
from keepupd.daemon.effects import cluster_of
from keepupd.daemon.keeper import Keeper
from keepupd.daemon.life import definitions_wanted
from keepupd.daemon.outputs import look_for_outputs
from keepupd.store import reads
from keepupd.store.tables import campaigns, files

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
                            "definitions_to_make": [], "would_launch": 0, "notes": [], "job": None}  # fmt: skip
    _definitions(found, k, campaign, told)
    _outputs(found, k, campaign, now)
    with found.faults_of(campaign.name):
        new = _inputs(k, campaign, told, now)
        found.ok(campaign.name, f"{told['in_sam']} input files in SAM now")
        _launch(k, campaign, told, new, remembered, now)
    found.campaigns.append(told)


# --- what SAM must have -------------------------------------------------------------------------------------------


def _definitions(found: "Findings", k: Keeper, campaign: Campaign, told: dict[str, Any]) -> None:
    for name, dims in definitions_wanted(campaign, k.settings.sam.campaign_parameter):
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
        for output in order["outputs"]:
            _would_declare(found, k, campaign, output["metadata"] | {"application": order["application"]})
            _would_locate(found, campaign, output, disks)
            for key in sorted(key for key in output["inherit"] if "." in key and key not in known):
                found.fault(campaign.name, f"SAM knows no parameter {key} to inherit", REGISTER)


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


def _inputs(k: Keeper, campaign: Campaign, told: dict[str, Any], now: datetime) -> list[CatalogFile]:
    """The first input files whose output SAM does not show."""
    made = {one["name"]: one["dimensions"] for one in told["definitions_to_make"]}
    name = campaign.input.definition
    listed = k.sam.files(made[name]) if name in made else k.sam.definition_files(name)
    told["in_sam"] = k.sam.count(made[name]) if name in made else k.sam.definition_count(name)
    first = list(islice(listed, MOST))
    outputs = look_for_outputs(k.sam, campaign, [_as_unit(file, now) for file in first])
    there = {file_id for file_id, output in outputs.items() if output.state is Output.LOCATED}
    told["looked_at"], told["adopted"] = len(first), len(there)
    which = f"of {told['in_sam']} input files" + (
        f", of which the first {MOST} were looked at" if len(first) == MOST else ""
    )
    told["notes"].append(
        f"{which}: {len(there)} have their output in SAM already and are not launched (a new campaign adopts them)"
    )
    retired = sum(output.retired for output in outputs.values())
    if retired:
        told["notes"].append(f"{retired} have a retired output: theirs would be a later edition")
    return [file for file in first if file.file_id not in there]


def _as_unit(file: CatalogFile, now: datetime) -> Unit:
    return Unit(file.file_id, 0, file.name, "pending", 0, now)


def _launch(
    k: Keeper, campaign: Campaign, told: dict[str, Any], new: list[CatalogFile], remembered: bool, now: datetime
) -> None:
    room = min(campaign.limits.jobs, campaign.limits.idle_jobs)
    due: list[Unit] = []
    if remembered:
        with k.database.read() as db:
            row = db.execute(select(campaigns).where(campaigns.c.name == campaign.name)).first()
            if row is not None:
                room = launching.room_for(db, row.id, campaign)
                due = reads.launchable(db, row.id, now, campaign.limits.launch_size)
                mine = select(files.c.file_id).where(files.c.campaign_id == row.id)
                ids = mine.where(files.c.file_id.in_([file.file_id for file in new]))
                seen = set(db.execute(ids).scalars())
                new = [file for file in new if file.file_id not in seen]
                told["notes"].append(f"the daemon knows it: {row.state}, {row.why}")
    if campaign.settle_s and new:
        told["notes"].append(f"{len(new)} new files would be left alone for {campaign.settle_s:g} s first")
        new = []
    together = [*due, *(_as_unit(file, now) for file in new)][: max(0, min(room, campaign.limits.launch_size))]
    told["would_launch"] = len(together)
    if together:
        told["job"] = _job(k, campaign, together, now)


def _job(k: Keeper, campaign: Campaign, together: Sequence[Unit], now: datetime) -> dict[str, Any]:
    """The first launch of them: units with the same needs go together."""
    needs, members = next(iter(grouped(together, lambda unit: unit.needs).items()))
    launch = cluster_of(k, launching.new_key(now), needs, campaign, members, range(1, len(members) + 1))
    order = launching.order_of(k, campaign, launch.key, members)
    sizes = {name: f"{len(text)} characters" for name, text in launch.files.items()}
    return {**asdict(launch), "tag": launch.tag, "numbers": f"1 to {len(members)}", "files": sizes, "order": order}
