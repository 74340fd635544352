"""Executables that misbehave, end to end: what each costs its file, and that `keepupctl` says so in words.

An input's first word says what the executable does with it; the programs that do not even start have campaigns of
their own. docs/bad-input.md says the same in a table.
"""

import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner
from kill.world import World

from keepupd.ctl.main import app

SCRIPT = """
ulimit -c 0
read word rest < "$1"
case $word in
  '') : > "$2"; exit 0 ;;
  noisy) head -c 100000000 /dev/zero | tr '\\0' x; echo; echo the end ;;
  parent) setsid sleep 1000 & (trap '' TERM HUP; exec sleep 1000) & ;;
  silent) exit 0 ;;
  folder) mkdir "$2"; exit 0 ;;
  hangs) sleep 1000 ;;
  stubborn) trap '' TERM; while :; do sleep 1; done ;;
  rude) printf '\\033[2J\\033]0;owned\\007 \\377\\376 \\rover it\\n'; exit 3 ;;
esac
cp "$1" "$2"
"""
DOCS = Path(__file__).parents[2] / "docs" / "bad-input.md"
MOST_LOG = 6 * 2**20  # bytes; docs/worker.md: 1 MiB of the beginning and 4 MiB of the end


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path)
    (tmp_path / "reco.sh").write_text(SCRIPT)
    (tmp_path / "in" / "no_program").write_text("text\n")
    yield world
    world.ends()


def order(world: World, name: str, **changes: Any) -> None:
    """One more campaign, over the files whose names begin like its own."""
    world.writes_campaign(name=name, input={"query": f"data_tier raw and file_name '{name}%'"}, **changes)
    (world.home / "campaigns" / "kill.yaml").rename(world.home / "campaigns" / f"{name}.yaml")


def argv(world: World, *words: str) -> dict[str, Any]:
    text = yaml.safe_load((world.home / "campaigns" / "reco.yaml").read_text())
    return text["executable"] | {"argv": list(words)}


def find(world: World, name: str, content: str) -> None:
    data = content.encode()
    world.sam.declare({"file_name": name, "file_size": len(data), "file_type": "detector", "file_format": "txt",
                       "data_tier": "raw", "checksum": [f"adler32:{zlib.adler32(data):08x}"]})  # fmt: skip
    (world.home / "in" / name).write_bytes(data)
    world.sam.add_location(name, f"demo:{world.home}/in")


def why(world: World, name: str) -> str:
    said = CliRunner().invoke(app, ["why", name], env={"KEEPUPD_CONFIG": str(world.config)}).output
    assert all(line.isprintable() for line in said.split("\n")), said
    return said


def ends_as(world: World, wanted: dict[str, tuple[str, str, str]]) -> None:
    """Each file comes to this state by this cause, and `why` has these words."""

    def stand() -> dict[str, tuple[str, str]]:
        return {name: (row["state"], row["cause"]) for name, row in world.units().items() if name in wanted}

    world.waits(lambda: stand() == {name: ends[:2] for name, ends in wanted.items()}, f"ends of {list(wanted)}", 90)
    docs = DOCS.read_text()
    for name, (state, cause, words) in wanted.items():
        assert words in why(world, name)
        assert f"| {state} | `{cause}` |" in docs or not cause
    assert "fault in keepupd" not in world.keepupd.said()


def test_no_output_a_hang_and_children_left_behind(world):
    order(world, "reco", retry={"attempts": 1}, limits={"executable_wall_s": 2})
    contents = {"reco_empty": "", "reco_silent": "silent", "reco_hangs": "hangs", "reco_parent": "parent"}
    for name, content in contents.items():
        find(world, name, f"{content}\n" if content else "")
    world.keepupd.starts()
    ends_as(world, {
        "reco_empty": ("debug", "output_empty", "the output is empty"),
        "reco_silent": ("debug", "output_missing", "left no output"),
        "reco_hangs": ("debug", "executable_hangs", "ran past the campaign's limit"),
        "reco_parent": ("declared", "", "SAM shows the output"),
    })  # fmt: skip
    world.waits(lambda: not list(world.job_processes()), "nothing of the jobs runs on")


@pytest.mark.long
def test_noise_rudeness_and_stubbornness(world):
    order(world, "reco", retry={"attempts": 1}, limits={"executable_wall_s": 4})
    for word in ("noisy", "rude", "stubborn", "folder"):
        find(world, f"reco_{word}", f"{word}\n")
    world.keepupd.starts()
    ends_as(world, {
        "reco_noisy": ("declared", "", "SAM shows the output"),
        "reco_rude": ("debug", "executable_failed", "ended with exit code 3"),
        "reco_stubborn": ("debug", "executable_hangs", "ran past the campaign's limit"),
        "reco_folder": ("debug", "output_missing", "left no output"),
    })  # fmt: skip
    world.waits(lambda: not list(world.job_processes()), "nothing of the jobs runs on")
    assert "over it" in why(world, "reco_rude")
    logs = list((world.home / "state" / "evidence").rglob("executable.log"))
    assert 2**20 < max(log.stat().st_size for log in logs) < MOST_LOG
    assert "the end" in CliRunner().invoke(app, ["log", "reco_noisy", "-c", str(world.config)]).output


@pytest.mark.long
def test_programs_that_do_not_start_are_tried_on_three_nodes_then_set_aside(world):
    order(world, "reco")
    order(world, "missing", executable=argv(world, "/no/such/program", "{input}", "{output}"))
    order(world, "useless", executable=argv(world, f"{world.home}/in/no_program", "{input}", "{output}"))
    for name in ("missing_1", "useless_1"):
        find(world, name, "fine\n")
    world.keepupd.starts()
    ends_as(world, {
        "missing_1": ("debug", "executable_missing", "/no/such/program"),
        "useless_1": ("debug", "executable_missing", "did not start on"),
    })  # fmt: skip
    assert {row["losses"] for row in world.units().values()} == {3}


@pytest.mark.long
def test_a_hang_without_a_limit_of_its_own_is_held_by_batch_and_gets_more_time_up_to_a_cap(world):
    order(world, "reco", retry={"attempts": 1, "wait_s": 0}, resources={"memory_mib": 200, "disk_mib": 10, "wall_s": 1})
    find(world, "reco_hangs", "hangs\n")
    world.keepupd.starts()
    ends_as(world, {"reco_hangs": ("debug", "wall_time_over_request", "held for running longer than asked")})
    asked = [row["needs"] for row in world.rows("SELECT needs FROM launches ORDER BY id")]
    assert asked[0] == "" and asked[-1] == '{"wall_s": 4}' and len(asked) > 2
    world.waits(lambda: not list(world.job_processes()), "nothing of the jobs runs on")
