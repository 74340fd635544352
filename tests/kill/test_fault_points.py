"""kill -9 just before and after every commit, and before and after every effect of the daemon, each once.

The points are found in the source. Each belongs to a scenario below; a point that its scenario never reaches fails it.
"""

import ast
import re
import shutil
import signal
import sqlite3
import stat
import sys
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest
from world import CAMPAIGN, EMPTY, FINE, MISSING, MIXED, ONCE, SLOW, WAITS, World, until

import keepupd
from keepupd.core.errors import SamAbsent
from keepupd.daemon.effects import EFFECTS

PACKAGE = Path(keepupd.__file__).parent


def commits(*names: str) -> frozenset[str]:
    return frozenset(f"{when} commit: {name}" for name in names for when in ("before", "after"))


def effects(*names: str) -> frozenset[str]:
    """An effect, and the commit that notes it as done."""
    calls = frozenset(f"{when} effect: {name}" for name in names for when in ("before", "after"))
    return calls | commits(*(f"{name} done" for name in names))


ORDINARY = {
    "a file comes in": commits("upgrade schema", "campaigns taken up", "input counted", "accounts", "take in", "sweep",
                               "recalled", "polls noted"),
    "a launch is made": commits("launch planned", "submitted", "jobs seen") | effects("submit"),
    "jobs end": commits("jobs judged", "jobs removed", "time up", "problems written")
    | effects("remove_losers", "remove_job"),
    "a launch ends": commits("launch over", "launch closed", "campaign candidate", "campaign moved") | effects("close"),
}  # fmt: skip
SAM_SILENT = commits("effect postponed", "declared by us", "outputs seen") | effects("declare")
OPERATOR = commits("operator") | effects("retire_output")
LOST_DATABASE = commits("launch recalled", "problems recalled", "recalled", "take in")
MENDED = commits("repaired") | effects("mend")  # test_audit_repair.py
LOST_GROUPS = commits("members recalled", "members that left")  # test_flow_points.py
LOOK, DIFFERS = commits("look"), commits("definition differs")
NO_LOCATION, REFUSED, TOPPED_UP = commits("no location"), commits("launch refused"), commits("launch topped up")
DECLARATION_REFUSED, PARKED, CLOCK = commits("declaration refused"), commits("effect parked"), commits("clock jumped")
SICK_HOST = commits("losses given back")
FLOW = commits("campaign looked after", "completion") | effects("define")  # these three: test_flow_points.py
BREAKER, DISSOLVED = commits("breaker"), effects("retire_group")
SCENARIOS = [*ORDINARY.values(), FLOW, BREAKER, DISSOLVED, SAM_SILENT, OPERATOR, LOST_DATABASE, NO_LOCATION, REFUSED,
             TOPPED_UP, DECLARATION_REFUSED, PARKED, CLOCK, LOOK, DIFFERS, MENDED, LOST_GROUPS, SICK_HOST]  # fmt: skip


# --- where the points are -----------------------------------------------------------------------------------------


def transactions() -> Iterator[str]:
    """The names of all write transactions of the daemon, as the source has them."""
    for folder in ("daemon", "store"):
        for path in sorted((PACKAGE / folder).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Call) and re.search(r"\bdatabase\.write$", ast.unparse(node.func)):
                    yield from names_of(node.args[0])


def names_of(argument: ast.expr) -> Iterator[str]:
    if isinstance(argument, ast.Constant):
        yield str(argument.value)
    else:
        assert ast.unparse(argument) == "f'{item.effect} done'", f"a name the tests can't tell: {ast.unparse(argument)}"
        yield from (f"{effect} done" for effect in EFFECTS)


def test_every_commit_and_effect_is_in_a_scenario() -> None:
    there = commits(*transactions()) | effects(*EFFECTS)
    covered = frozenset[str]().union(*SCENARIOS)
    assert there - covered == set(), "no scenario dies here"
    assert covered - there == set(), "no such points in the source"


# --- the scenarios ------------------------------------------------------------------------------------------------


def dies_at_all(world: World, points: frozenset[str], patience_s: float = 120) -> None:
    """Every point is reached, everything settles, and the promises hold."""
    world.waits(lambda: world.reached() >= points or not world.unsettled(), "the points or the end", patience_s, True)
    world.waits(lambda: world.reached() >= points, f"{sorted(points - world.reached())}", 30, deadly=True)
    world.settles(patience_s, deadly=True)


@pytest.mark.long
@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", ORDINARY)
def test_an_ordinary_day(world: World, name: str) -> None:
    world.dies_at(ORDINARY[name])
    world.declares(12, MIXED)
    world.keepupd.starts(wait=False)
    dies_at_all(world, ORDINARY[name], 200)
    world.keeps_its_promises()


def test_launch_and_judgement(world: World) -> None:
    """The most important points, quickly."""
    points = commits("launch planned", "submitted", "jobs judged") | frozenset(
        {"before effect: submit", "after effect: submit", "after effect: close"})  # fmt: skip
    world.dies_at(points)
    world.declares(4, (FINE, SLOW, ONCE, EMPTY))
    world.keepupd.starts(wait=False)
    dies_at_all(world, points)
    world.keeps_its_promises()


@pytest.mark.long
def test_outputs_that_the_daemon_declares(world: World) -> None:
    sam_falls_silent(world, frozenset({"before effect: declare", "after effect: declare"}))


@pytest.mark.long
@pytest.mark.timeout(300)
def test_sam_is_silent_while_jobs_declare(world: World) -> None:
    sam_falls_silent(world, SAM_SILENT)


def sam_falls_silent(world: World, points: frozenset[str]) -> None:
    """What a job copied and could not declare, the daemon declares when SAM is back: no try, no loss, no second job."""
    world.writes_settings(patience_s=1)
    world.dies_at(points)
    both = world.declares(2, (SLOW,), seconds=4)
    world.keepupd.starts()
    world.waits(lambda: len(executing(world)) == 2, "both jobs execute", deadly=True)
    world.sam_server.killed()
    world.waits(lambda: {world.state(one.name) for one in both} == {"validated"}, "both validated", 60, deadly=True)
    world.waits(lambda: world.rows("SELECT id FROM outbox WHERE tries > 0"), "an effect is postponed", deadly=True)
    world.sam_server.starts()
    dies_at_all(world, points)
    world.keeps_its_promises()
    assert len(world.rows("SELECT id FROM attempts")) == 2


def executing(world: World) -> list[int]:
    return [worker.pid for worker in world.workers() if worker.children()]


@pytest.mark.long
@pytest.mark.timeout(300)
def test_new_input_while_it_runs(world: World) -> None:
    world.dies_at(LOOK)
    world.declares(2, (FINE,))
    world.keepupd.starts()
    world.settles(60, deadly=True)
    world.declares(2, (FINE,))
    dies_at_all(world, LOOK)
    world.keeps_its_promises()


@pytest.mark.long
@pytest.mark.timeout(300)
def test_a_definition_of_that_name_is_anothers(world: World) -> None:
    """The campaign is held until it is renamed; its files were never in trouble."""
    world.dies_at(DIFFERS)
    world.sam.create_definition(f"{CAMPAIGN}_output", "data_tier theirs")
    world.declares(2, (FINE,))
    world.keepupd.starts(wait=False)
    world.waits(lambda: world.reached() >= DIFFERS, "both points", 60, deadly=True)
    world.waits(lambda: campaign_state(world) == "held", "the campaign is held", 60, deadly=True)
    world.sam.rename_definition(f"{CAMPAIGN}_output", "theirs")
    world.keepupctl("resume", CAMPAIGN, "--reason", "it was renamed")
    dies_at_all(world, DIFFERS)
    world.keeps_its_promises()


@pytest.mark.long
@pytest.mark.timeout(300)
def test_an_operator_redoes_a_file(world: World) -> None:
    world.dies_at(OPERATOR)
    first, _ = world.declares(2, (FINE,))
    world.keepupd.starts()
    world.settles(60, deadly=True)
    world.keepupctl("redo", first.name, "--reason", "wrong constants")
    dies_at_all(world, OPERATOR)
    world.waits(lambda: world.units()[first.name]["edition"] == 2, "the second edition", deadly=True)
    world.settles(60, deadly=True)
    world.keeps_its_promises()


@pytest.mark.long
@pytest.mark.timeout(300)
def test_the_database_is_lost_again_and_again(world: World) -> None:
    inputs = world.declares(8, (FINE, MISSING, EMPTY, FINE))
    world.keepupd.starts()
    world.waits(lambda: in_problem_definitions(world) == 4, "held and debug are in SAM")
    inputs += world.declares(4, (WAITS,))
    world.waits(world.workers, "jobs run")
    world.keepupd.killed()
    shutil.rmtree(world.home / "state")
    world.dies_at(LOST_DATABASE)
    world.keepupd.starts(wait=False)
    world.waits(lambda: world.reached() == LOST_DATABASE, "all points", 60, deadly=True)
    world.opens_the_gate()
    world.settles(60, deadly=True)
    world.keeps_its_promises(forgotten=True)
    assert [world.ran(one.name) for one in inputs if one.kind in (FINE, WAITS)] == [1] * 8


def in_problem_definitions(world: World) -> int:
    found = 0
    for state in ("held", "debug"):
        with suppress(SamAbsent):  # a changed one is renamed before it is made anew
            found += world.sam.definition_count(f"{CAMPAIGN}_{state}")
    return found


@pytest.mark.long
@pytest.mark.timeout(300)
def test_files_whose_location_is_gone(world: World) -> None:
    """SAM's snapshot lacks them: held, until their location is back and someone releases them."""
    world.dies_at(NO_LOCATION)
    world.writes_campaign(input={"query": "data_tier raw with availability anylocation"})
    world.declare(FINE)
    lacking = world.declare(FINE, located=False)
    world.keepupd.starts()
    world.waits(lambda: world.state(lacking.name) == "held", "held", 60, deadly=True)
    world.sam.add_location(lacking.name, f"demo:{world.home}/in")
    world.keepupctl("release", lacking.name, "--reason", "its location is back")
    dies_at_all(world, NO_LOCATION)
    world.keeps_its_promises()


@pytest.mark.long
@pytest.mark.timeout(300)
def test_a_launch_that_the_batch_system_refuses(world: World) -> None:
    """The campaign is held until its file is mended; its files were never in trouble."""
    world.dies_at(REFUSED)
    world.writes_campaign(resources={"memory_mib": 5000, "disk_mib": 10, "wall_s": 300})
    world.declares(3, (FINE,))
    world.keepupd.starts()
    world.waits(lambda: campaign_state(world) == "held", "the campaign is held", 60, deadly=True)
    world.waits(lambda: world.reached() >= REFUSED, "both points", deadly=True)
    world.waits(lambda: set(world.states().values()) == {"pending"}, "its files are pending", deadly=True)
    world.writes_campaign()
    world.keepupd.signal(signal.SIGHUP)
    world.keepupctl("resume", CAMPAIGN, "--reason", "asks for less now")
    dies_at_all(world, REFUSED)
    world.keeps_its_promises()


def campaign_state(world: World) -> str:
    return "".join(row["state"] for row in world.rows("SELECT state FROM campaigns"))


@pytest.mark.long
@pytest.mark.timeout(300)
def test_jobs_that_die_before_they_take_a_file(world: World) -> None:
    python = world.home / "python"
    python.write_text(f'#!/bin/sh\nmkdir {world.home}/died 2>/dev/null && exit 1\nexec {sys.executable} "$@"\n')
    python.chmod(python.stat().st_mode | stat.S_IXUSR)
    world.writes_settings(python=str(python))
    world.dies_at(TOPPED_UP)
    world.declares(3, (WAITS,))
    world.keepupd.starts()
    world.waits(lambda: world.reached() == TOPPED_UP, "both points", deadly=True)
    world.opens_the_gate()
    dies_at_all(world, TOPPED_UP)
    world.keeps_its_promises()
    assert len(world.rows("SELECT id FROM launches")) == 1


@pytest.mark.long
@pytest.mark.timeout(300)
def test_a_declaration_that_sam_refuses(world: World) -> None:
    """Its job left it to the daemon; held with SAM's words, and all is well once SAM knows what it must."""
    world.writes_settings(patience_s=1)
    world.writes_campaign(metadata={"DUNE.detector_hv": "180"})
    world.dies_at(DECLARATION_REFUSED)
    one = world.declare(SLOW, 3)
    world.keepupd.starts()
    world.waits(lambda: executing(world), "the job executes", deadly=True)
    world.sam_server.killed()
    world.waits(lambda: world.state(one.name) == "validated", "validated", 60, deadly=True)
    world.sam_server.starts()
    world.waits(lambda: world.state(one.name) == "held", "held", 60, deadly=True)
    assert "DUNE.detector_hv" in world.units()[one.name]["why"]
    world.sam.register_parameter("DUNE.detector_hv")
    world.keepupctl("release", one.name, "--reason", "SAM knows the parameter now")
    dies_at_all(world, DECLARATION_REFUSED)
    world.keeps_its_promises()


@pytest.mark.long
@pytest.mark.timeout(300)
def test_an_effect_that_can_never_be_done(world: World) -> None:
    """A damaged row is parked for a person, and stops nothing else."""
    world.dies_at(PARKED)
    world.keepupd.starts()
    asks(world, "INSERT INTO outbox (effect, key, detail, created, due, tries, error)"
                " VALUES ('declare', 999, '', 0, 0, 0, '')")  # fmt: skip
    world.waits(lambda: world.rows("SELECT id FROM outbox WHERE parked IS NOT NULL"), "parked", deadly=True)
    world.declares(2, (FINE,))
    world.waits(lambda: set(world.states().values()) == {"declared"}, "all else goes on", deadly=True)
    asks(world, "DELETE FROM outbox WHERE key = 999")
    world.settles(60, deadly=True)
    assert world.reached() == PARKED
    world.keeps_its_promises(faults=2)


def asks(world: World, statement: str) -> None:
    with closing(sqlite3.connect(world.home / "state" / "keepupd.db", timeout=10)) as db, db:
        db.execute(statement)


@pytest.mark.long
@pytest.mark.timeout(300)
def test_a_host_without_software(world: World) -> None:
    """It fails six files at once while another is known to do well: what that cost is given back, once."""
    first = world.declare(FINE)
    world.keepupd.starts()
    world.waits(lambda: world.state(first.name) == "declared", "the first is declared", 60)
    asks(world, "UPDATE attempts SET host = 'another.example.org'")
    script = world.home / "reco.sh"
    works = script.read_text()
    script.write_text("exit 127\n")
    world.keepupd.stops()
    world.dies_at(SICK_HOST)
    world.keepupd.starts(wait=False)
    world.declares(6, (FINE,))
    world.waits(lambda: world.reached() == SICK_HOST, "both points", 60, deadly=True)
    assert "sick" in world.keepupctl("status").stdout
    script.write_text(works)
    dies_at_all(world, SICK_HOST)
    world.keeps_its_promises(losses=0)


@pytest.mark.long
@pytest.mark.timeout(300)
def test_the_clock_jumps(world: World) -> None:
    world.dies_at(CLOCK)
    world.declares(4, (WAITS, ONCE))
    world.keepupd.starts()
    for jumps in (1, 2):
        world.waits(world.workers, "jobs run")
        time.sleep(1)  # the watch looks once a pass, and its first look has nothing to compare with
        world.shifts_clock(3600 * jumps)
        until(lambda: world.keepupd.dead, "killed by its clock")
        world.keepupd.starts()
    world.opens_the_gate()
    dies_at_all(world, CLOCK)
    world.keeps_its_promises()
