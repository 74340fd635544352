"""Real services: outputs of an earlier way of working are adopted, and what breaks later is found and mended."""

import json
import shutil
from pathlib import Path

import pytest
from test_fault_points import MENDED
from world import CAMPAIGN, FINE, MISSING, Input, World


def record(world: World, one: Input):
    return world.sam.records([f"{Path(one.name).stem}_{CAMPAIGN}.txt"]).popitem()[1]


def copy_of(location: str) -> Path:
    return Path(location.split(":", 1)[1])


def audited(world: World, *words: str) -> dict:
    [campaign] = json.loads(world.keepupctl("audit", "--json", *words, check=False).stdout)["campaigns"]
    return campaign["broken"]


def declare_by_hand(world: World, name: str, parent: Input) -> None:
    made = {"file_name": name, "file_size": 7, "file_type": "detector", "file_format": "txt",
            "data_tier": "full-reconstructed", "checksum": ["adler32:00000001"], "DUNE.campaign": CAMPAIGN,
            "application": {"family": "keepup", "name": "null", "version": "v1"},
            "parents": [{"file_name": parent.name}]}  # fmt: skip
    world.sam.declare(made)
    world.sam.add_location(name, f"demo:{world.home}/in")


@pytest.mark.long
@pytest.mark.timeout(300)
def test_damage_is_found_and_mended(world: World) -> None:
    before, unlocated, twice, moved, last = world.declares(5, (FINE,))
    by_hand = world.declare(MISSING)
    declare_by_hand(world, "earlier.txt", before)
    world.keepupd.starts()
    world.settles()
    assert [world.ran(one.name) for one in (before, unlocated, last)] == [0, 1, 1], "what is there is not made again"
    assert audited(world) == {}

    [place] = record(world, unlocated).locations
    world.sam.remove_location(record(world, unlocated).name, place)
    [place] = record(world, twice).locations
    spare = copy_of(place).parents[1] / "20200101-000000-abcd" / "1-spare"
    shutil.copytree(copy_of(place), spare)
    [place] = record(world, moved).locations
    elsewhere = copy_of(place).with_name("7-elsewhere")
    copy_of(place).rename(elsewhere)
    [gone] = record(world, last).locations
    shutil.rmtree(copy_of(gone))
    name = f"{Path(by_hand.name).stem}_{CAMPAIGN}.txt"
    declare_by_hand(world, name, by_hand)
    lost = {"locations without file": [record(world, last).name]}
    assert audited(world) == lost | {
        "outputs without location, a copy is there": [record(world, unlocated).name],
        "copies that nobody declared": [record(world, twice).name],
        "locations without file, another copy is there": [record(world, moved).name],
        "shown by SAM, not declared in the store": [by_hand.name],
    }
    world.keepupd.stops()
    world.dies_at(MENDED)
    world.keepupd.starts()
    world.keepupctl("audit", "--repair", "--yes", "--reason", "a disk died", check=False)
    world.waits(lambda: world.reached() >= MENDED and audited(world) == lost, "it is mended", 60, deadly=True)
    assert record(world, moved).locations == (f"demo:{elsewhere}",) and not spare.exists()
    world.keepupctl("redo", last.name, "--reason", "its only copy is gone")
    world.waits(lambda: audited(world) == {}, "it is made again", deadly=True)
    assert [world.ran(one.name) for one in (before, unlocated, twice, moved, last)] == [0, 1, 1, 1, 2]
