"""kill -9 at the points of a flow: groups closed and dissolved, completion, a campaign that stops itself.

The points themselves are listed with all others in test_fault_points.py.
"""

import shutil
from pathlib import Path
from typing import Any

import pytest
from test_fault_points import BREAKER, DISSOLVED, FLOW, LOST_GROUPS, TOTAL, campaign_state, executing
from world import CRASHES, FINE, SCRIPT, World

GENERATE = 'echo "fine run $2 subrun $3" > "$1"'
MERGE = 'out=$1; shift; grep -q crashes "$@" && kill -SEGV $$; cat "$@" > "$out"'
GROUPS_OF_3 = {"tier": "full-reconstructed", "merge": {"max_files": 3}}
MERGE_ARGUMENTS = "{output} {inputs}"


@pytest.mark.long
@pytest.mark.timeout(300)
def test_a_generator_and_its_merge_to_completion(world: World) -> None:
    """Five generated files become a full group of three, and one of two when no more can come: each file once."""
    generator: dict[str, Any] = {
        "tier": "simulated", "routed": ["kill_merge_input"], "canary": {"units": 2},
        "generator": {"target_units": 5, "events_per_unit": 1, "first_run": 100, "subruns_per_run": 2},
    }  # fmt: skip
    world.writes_flow(generator=(GENERATE, "{output} {run} {subrun}", generator),
                      merge=(MERGE, MERGE_ARGUMENTS, GROUPS_OF_3 | {"input": {}}))  # fmt: skip
    world.dies_at(FLOW)
    world.keepupd.starts(wait=False)
    world.waits(lambda: completed(world) == {"kill_generator", "kill_merge"}, "the flow is complete", 120, deadly=True)
    world.settles(deadly=True)
    assert world.reached() == FLOW
    generated = [file.name for file in world.sam.files("DUNE.campaign kill_generator with availability anylocation")]
    assert sorted(read(world, name) for name in generated) == [
        [f"fine run {run} subrun {subrun}"] for run, subrun in ((100, 1), (100, 2), (101, 1), (101, 2), (102, 1))
    ]
    assert sorted(map(len, merges_hold(world, generated))) == [2, 3]
    assert set(world.states().values()) == {"declared"}
    assert len(world.rows("SELECT id FROM attempts")) == 7, "nothing ran twice"
    world.is_in_order()


def completed(world: World) -> set[str]:
    return {row["name"] for row in world.rows("SELECT name FROM campaigns WHERE complete IS NOT NULL")}


def merges_hold(world: World, expected: list[str]) -> list[list[str]]:
    """The members of each merged file: all the expected, each once, and their lines are in it."""
    names = [file.name for file in world.sam.files("DUNE.campaign kill_merge with availability anylocation")]
    groups = []
    for record in world.sam.records(names).values():
        groups.append([parent["file_name"] for parent in record.metadata["parents"]])
        members = [line for name in groups[-1] for line in read(world, name)]
        assert sorted(read(world, record.name)) == sorted(members)
    assert sorted(name for group in groups for name in group) == sorted(expected)
    return groups


def read(world: World, name: str) -> list[str]:
    """The lines of the one copy that SAM knows of."""
    [location] = world.sam.records([name])[name].locations
    return Path(location.split(":", 1)[1].split("(")[0], name).read_text().splitlines()


@pytest.mark.long
@pytest.mark.timeout(300)
def test_a_broken_executable_costs_its_canary_alone(world: World) -> None:
    """The campaign stops itself. The executable is mended, a person resumes it, and all goes well."""
    world.writes_campaign(canary={"units": 2})
    script = world.home / "reco.sh"
    script.write_text('ulimit -c 0\necho "${1##*/}" >> "$MARKS/ran"\nkill -SEGV $$\n')
    world.dies_at(BREAKER)
    inputs = world.declares(6, (FINE,))
    world.keepupd.starts()
    world.waits(lambda: campaign_state(world) == "crash", "it stops itself", 60, deadly=True)
    world.waits(lambda: world.reached() == BREAKER, "both points", deadly=True)
    canary = [one.name for one in inputs if world.ran(one.name)]
    assert [world.ran(name) for name in canary] == [2, 2]
    assert sorted(world.states().values()) == ["debug"] * 2 + ["pending"] * 4
    script.write_text(SCRIPT)
    for name in canary:
        world.keepupctl("retry", name, "--reason", "the executable is mended")
    world.keepupctl("resume", "kill_reco", "--reason", "the executable is mended")
    world.settles(90, deadly=True)
    world.keeps_its_promises()


@pytest.mark.long
@pytest.mark.timeout(300)
def test_a_group_in_debug_is_dissolved(world: World) -> None:
    """Its bad file stays aside, the others make a new group with the next that comes."""
    merge = GROUPS_OF_3 | {"input": {"query": "data_tier raw"}, "canary": {"groups": 0}}
    world.writes_flow(merge=(MERGE, MERGE_ARGUMENTS, merge))
    world.dies_at(DISSOLVED)
    first, bad, third = world.declares(3, (FINE, CRASHES, FINE))
    world.keepupd.starts()
    world.waits(lambda: list(world.states().values()) == ["debug"], "the group is in debug", 60, deadly=True)
    world.keepupctl("dissolve", bad.name, "--without", bad.name, "--reason", "it is broken")
    world.waits(lambda: world.reached() == DISSOLVED, "all points", 60, deadly=True)
    fourth = world.declare(FINE)
    world.waits(lambda: "declared" in world.states().values(), "a new group is declared", 60, deadly=True)
    world.inputs.clear()  # no unit bears their names: what is to be waited for is the rest
    world.settles(deadly=True)
    [_] = merges_hold(world, [first.name, third.name, fourth.name])
    assert sorted(world.states().values()) == ["debug", "declared"]
    world.is_in_order()


@pytest.mark.long
@pytest.mark.timeout(300)
def test_the_database_is_lost_while_a_group_runs_of_which_a_file_has_left(world: World) -> None:
    """SAM's definition of the group remembers it whole: nobody merges the file a second time when it comes back."""
    merge = GROUPS_OF_3 | {"input": {"query": "data_tier raw"}, "canary": {"groups": 0}}
    waits = f'until [ -e "{world.home}/marks/open" ]; do sleep 0.1; done; {MERGE}'
    world.writes_flow(merge=(waits, MERGE_ARGUMENTS, merge))
    leaver, *others = world.declares(3, (FINE,))
    world.keepupd.starts()
    world.waits(lambda: executing(world), "the merge has its files and runs", 60)
    world.keepupd.killed()
    shutil.rmtree(world.home / "state")
    world.sam.remove_location(leaver.name, f"demo:{world.home}/in")
    world.dies_at(LOST_GROUPS)
    world.keepupd.starts(wait=False)
    world.waits(lambda: world.reached() == LOST_GROUPS, "all points", 60, deadly=True)
    world.sam.add_location(leaver.name, f"demo:{world.home}/in")
    world.opens_the_gate()
    world.waits(lambda: "declared" in world.states().values(), "the group is declared", 60, deadly=True)
    world.inputs.clear()  # no unit bears their names: what is to be waited for is the rest
    world.settles(deadly=True)
    [_] = merges_hold(world, [one.name for one in (leaver, *others)])
    world.is_in_order()


@pytest.mark.long
@pytest.mark.timeout(300)
def test_a_total_refuses_what_is_no_histogram_file(world: World) -> None:
    analysis: dict[str, Any] = {
        "tier": "histogram", "file_format": "root", "input": {"query": "data_tier raw"}, "canary": {"units": 0},
        "analysis": {"histograms": ["slope"]},
    }  # fmt: skip
    world.writes_flow(analysis=('cp "$1" "$2"', "{input} {output}", analysis))
    world.dies_at(TOTAL)
    world.declares(2, (FINE,))
    world.keepupd.starts(wait=False)
    world.waits(lambda: world.reached() == TOTAL, "both points", 60, deadly=True)
    world.settles(60, deadly=True)
    told = "refuses 2 histogram files"
    world.waits(lambda: told in world.keepupctl("status").stdout, "both are refused", 30, deadly=True)
    world.is_in_order()
