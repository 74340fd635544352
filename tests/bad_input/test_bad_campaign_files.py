"""Campaign files with a mistake: the daemon does not start on them, and one that runs goes on as it was."""

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from kill.world import BIN, FINE, World
from test_config import MISTAKES, RECO

SOME = MISTAKES[::12]


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path)
    yield world
    world.ends()


def mistake(world: World, old: str, new: str) -> None:
    """A second campaign file, with one mistake."""
    (world.home / "campaigns" / "reco.yaml").write_text(RECO.replace(old, new))


def refusal(world: World, command: str) -> str:
    """What a command says that must end with exit code 1."""
    done = subprocess.run([BIN / "keepupd", command, "-c", world.config], capture_output=True, text=True, timeout=30,
                          check=False)  # fmt: skip
    assert done.returncode == 1 and "Traceback" not in done.stderr, done
    return done.stdout + done.stderr


def reloads(world: World, says: str, times: int) -> None:
    """SIGHUP, until the daemon has said this so often."""
    world.keepupd.signal(signal.SIGHUP)
    world.waits(lambda: world.keepupd.said().count(says) == times, f"{says} for the {times}th time")


def test_run_and_check_refuse_to_start_and_tell_every_fault_of_every_file(world):
    campaigns = world.home / "campaigns"
    for number, (old, new, _) in enumerate(MISTAKES):
        (campaigns / f"reco_{number}.yaml").write_text(RECO.replace(old, new))
    (campaigns / "tab.yaml").write_text("name:\tx\n\tb: 1\n")
    (campaigns / "list.yaml").write_text("- a\n- b\n")
    (campaigns / "empty.yaml").write_text("")
    (campaigns / "binary.yaml").write_bytes(os.urandom(100) + b"\xff\x00")
    (campaigns / "folder.yaml").mkdir()
    (campaigns / "gone.yaml").symlink_to("/no/such/file")
    for command in ("run", "check"):
        said = refusal(world, command)
        for number, (*_, told) in enumerate(MISTAKES):
            assert told.removeprefix("reco.yaml:") in said, told
            assert f"reco_{number}.yaml:" in said
        for name in ("tab", "list", "empty", "binary", "folder", "gone"):
            assert f"{name}.yaml:" in said, said[-1500:]
        assert all(line.isprintable() for line in said.splitlines())
    assert not (world.home / "state" / "keepupd.db").exists()


@pytest.mark.parametrize("mistakes", [SOME, pytest.param(MISTAKES, marks=pytest.mark.long)], ids=["some", "all"])
def test_a_daemon_that_is_told_to_reload_a_faulty_file_keeps_what_it_has(world, mistakes):
    world.keepupd.starts()
    for times, (old, new, told) in enumerate(mistakes, 1):
        mistake(world, old, new)
        reloads(world, "reload refused; the campaigns stay as they are", times)
        assert told.removeprefix("reco.yaml:") in world.keepupd.said().replace('\\"', '"').replace("\\\\", "\\"), told
    world.declare(FINE)
    world.settles()  # the campaign that runs goes on
    (world.home / "campaigns" / "reco.yaml").write_text(RECO)
    reloads(world, "campaigns reloaded campaigns=2", 1)
    assert {row["name"] for row in world.rows("SELECT name FROM campaigns WHERE active")} == {
        "kill_reco",
        "dune_dc15_reco",
    }


def test_own_rules_with_a_mistake_are_refused_by_check_run_and_reload(world):
    bad = [{"name": "mine", "class": "crush", "exit_code": 3, "words": "x {nothing}"}]
    world.keepupd.starts()
    world.writes_campaign(causes=bad)
    reloads(world, "reload refused", 1)
    assert "crush" in world.keepupd.said()
    assert world.keepupd.stops() == 0
    for command in ("run", "check"):
        assert "campaign kill_reco: rule 1: class: " in refusal(world, command)


def test_a_daemons_file_that_breaks_while_it_runs_changes_nothing(world):
    world.keepupd.starts()
    good = world.config.read_text()
    mistakes = {"{": "is not YAML", "name: x\n": "sam: is missing", good + "x: 1": "unknown key"}
    for times, (bad, told) in enumerate(mistakes.items(), 1):
        world.config.write_text(bad)
        reloads(world, "reload refused", times)
        assert told in world.keepupd.said()
    assert "unknown key" in refusal(world, "check")
    world.config.write_text(good)
    world.declare(FINE)
    world.settles()


def test_what_only_sam_can_know_of_is_said_when_it_comes_to_that_and_stops_no_other_campaign(world):
    kill = world.home / "campaigns" / "kill.yaml"
    world.writes_campaign(name="bad_query", input={"query": "data_teir raw"})
    kill.rename(kill.with_name("bad_query.yaml"))
    world.writes_campaign(name="bad_input", input={"definition": "not_there"})
    kill.rename(kill.with_name("bad_input.yaml"))
    world.writes_campaign()
    one = world.declare(FINE)
    world.keepupd.starts()
    world.waits(lambda: world.state(one.name) == "declared", "the third campaign goes on")
    assert "Unknown dimension 'data_teir'" in world.keepupd.said() and "'not_there' not found" in world.keepupd.said()
    assert "Definition 'not_there' not found" in world.keepupctl("why", "bad_input", check=False).stdout

    world.sam.create_definition("not_there", "file_name other%", "made at last")
    world.waits(lambda: "recalled campaign=bad_input" in world.keepupd.said(), "it is taken up by itself")


def test_an_output_that_sam_refuses_is_held_with_sams_words(world):
    out = {"tier": "no-such-tier", "file_type": "detector", "file_format": "txt", "location": f"demo:{world.home}/out"}
    world.writes_campaign(outputs=[out])
    world.keepupd.starts()
    one = world.declare(FINE)
    world.waits(lambda: world.state(one.name) == "held", "it is held")
    assert world.units()[one.name]["cause"] == "metadata_refused"
    assert "Unknown data_tier (register it under values/data_tiers): 'no-such-tier'" in world.units()[one.name]["why"]
    assert list((world.home / "out").rglob("raw_*"))  # the work is not lost

    world.sam.register_value("data_tiers", "no-such-tier")
    world.keepupctl("release", one.name, "--reason", "registered", check=False)
    world.waits(lambda: world.state(one.name) == "declared", "it goes on")
