"""Declare a running total to SAM, version by version: what a version is called, where it goes, and which is the newest.

SAM itself is asked which versions there are, by their names, so that a lost state directory makes none a second time.
A version carries the campaign's name with `.total` behind it, which no campaign can be called: it is in no definition
that a campaign's outputs go to.
"""

import logging
from dataclasses import dataclass, replace
from typing import Any

from keepupd.clients.catalog import FileRecord, same_content
from keepupd.clients.total_file import Total, kept_at, save
from keepupd.config import Campaign
from keepupd.daemon.keeper import Keeper, say

PROBE = 20  # names asked of SAM in one question
DIRECTORY = "totals"  # below the location of the campaign's first output


@dataclass(frozen=True)
class Newest:
    """The newest version that SAM knows, 0 for none; and the histogram files of the newest one that can be read."""

    version: int = 0
    files: frozenset[str] = frozenset()
    unlocated: FileRecord | None = None  # its record, when it was declared and then got no location


def version_name(campaign: Campaign, version: int) -> str:
    assert campaign.analysis is not None
    return f"{campaign.analysis.total.name}_v{version}.root"


def newest_version(k: Keeper, campaign: Campaign) -> Newest:
    newest = Newest()
    while True:
        names = [version_name(campaign, newest.version + 1 + n) for n in range(PROBE)]
        known = k.sam.records(names)
        if not known:
            return newest
        for number, name in enumerate(names, newest.version + 1):
            if name in known:
                newest = _with(newest, number, known[name])


def _with(newest: Newest, version: int, record: FileRecord) -> Newest:
    if record.locations and record.good and not record.retired:
        return Newest(version, frozenset(record.parents))
    return replace(newest, version=version, unlocated=None if record.retired or record.locations else record)


def declare_version(k: Keeper, campaign: Campaign, total: Total, newest: Newest) -> Newest:
    """Copy the total to the campaign's output location and declare it. Safe to repeat. Raises what SAM raises, and
    StorageUnavailable."""
    if newest.unlocated is not None and _locate(k, campaign, newest.unlocated):
        return Newest(newest.version, frozenset(newest.unlocated.parents))
    version = newest.version + 1
    name, (url, location) = version_name(campaign, version), _place(campaign)
    draft = kept_at(k.settings.state_dir, campaign.name).with_name(name)
    save(replace(total, version=version), draft)
    k.storage.put(draft, f"{url}/{name}")  # SAM does not know the name: nobody uses it
    draft.unlink()
    size, checksums = _content(k, f"{url}/{name}")
    k.sam.declare(metadata_of(k, campaign, total) | {"file_name": name, "file_size": size, "checksum": checksums})
    k.sam.add_location(name, location)
    say("total declared", campaign=campaign.name, file=name, files=len(total.files))
    return Newest(version, frozenset(total.files))


def metadata_of(k: Keeper, campaign: Campaign, total: Total) -> dict[str, Any]:
    """What SAM is told of every version; name, size and checksum come with each."""
    made = campaign.outputs[0]
    return {
        "file_type": made.file_type, "file_format": made.file_format, "data_tier": made.tier,
        "application": campaign.executable.application.model_dump(),
        k.settings.sam.campaign_parameter: f"{campaign.name}.total",
        "parents": [{"file_name": name} for name in sorted(total.files)],
    }  # fmt: skip


def _content(k: Keeper, url: str) -> tuple[int, list[str]]:
    """Size and checksums of the copy at `url`. Raises StorageUnavailable."""
    size, checksum = k.storage.identify(url) or (0, "")
    return size, [checksum] if checksum else []


def _locate(k: Keeper, campaign: Campaign, record: FileRecord) -> bool:
    """A version that was declared in vain until now: add the location of its copy, unless that is another one."""
    url, location = _place(campaign)
    size, checksums = _content(k, f"{url}/{record.name}")
    if size != record.size or not same_content(checksums, record.checksums):
        say("total without a copy", logging.WARNING, file=record.name, why="it is declared; the next version follows")
        return False
    k.sam.add_location(record.name, location)
    return True


def _place(campaign: Campaign) -> tuple[str, str]:
    """URL and location in SAM of the directory that versions lie in."""
    made = campaign.outputs[0]
    return f"{made.url.rstrip('/')}/{DIRECTORY}", f"{made.location.rstrip('/')}/{DIRECTORY}"
