"""The demos: the whole flow ends with every event, and says so when it does not; first light has the same result with
other names and another order; no process is left, and nothing else harmed."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

DEMO = Path(__file__).parents[1] / "deploy/demo/demo.py"


def command(home: Path, *arguments: str, flow: str = "first-light") -> list[str]:
    return [sys.executable, str(DEMO), "--flow", flow, "--dir", str(home), *arguments]


def run(home: Path, *arguments: str, flow: str = "first-light") -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(home, *arguments, flow=flow), capture_output=True, text=True, check=False)


def processes_of(home: Path) -> Iterator[psutil.Process]:
    for process in psutil.process_iter():
        try:
            marks = process.environ()
        except (psutil.Error, OSError):
            continue
        if marks.get("KEEPUP_DEMO") == str(home) or marks.get("_CONDOR_SCRATCH_DIR", "").startswith(str(home)):
            yield process


@pytest.mark.long
@pytest.mark.timeout(900)
def test_the_whole_flow_ends_with_every_event_in_a_total(tmp_path: Path) -> None:
    home = tmp_path / "demo"
    done = run(home, "--seed", "4", flow="mcc10")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "every event is in a total once" in done.stdout and "Traceback" not in done.stdout
    assert (home / "totals.png").read_bytes().startswith(b"\x89PNG")
    assert list(processes_of(home)) == []


@pytest.mark.long
@pytest.mark.timeout(400)
def test_names_and_order_make_no_difference(tmp_path: Path) -> None:
    done = run(tmp_path / "demo", "--seed", "4", "--names", "other")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "every file is where it belongs" in done.stdout and "Traceback" not in done.stdout
    assert list(processes_of(tmp_path / "demo")) == []


@pytest.mark.long
@pytest.mark.timeout(400)
def test_a_second_demo_ends_what_a_killed_one_left_and_works(tmp_path: Path) -> None:
    home = tmp_path / "demo"
    first = subprocess.Popen(command(home), stdout=subprocess.PIPE, text=True)
    assert first.stdout
    next(line for line in first.stdout if "running" in line)
    first.kill()
    first.wait()
    left = list(processes_of(home))
    assert len(left) >= 3, "SAM, batch and daemon outlive a demo that was killed"
    second = run(home)
    assert second.returncode == 0, second.stdout + second.stderr
    assert not [process for process in left if process.is_running()] and list(processes_of(home)) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_demo_leaves_no_process(tmp_path: Path, number: signal.Signals) -> None:
    home = tmp_path / "demo"
    demo = subprocess.Popen(command(home), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert demo.stdout
    next(line for line in demo.stdout if "files in SAM" in line)
    assert len(list(processes_of(home))) >= 3
    os.kill(demo.pid, number)
    demo.communicate()
    assert demo.returncode == 2 and list(processes_of(home)) == []


def test_a_directory_with_other_things_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    done = run(tmp_path)
    assert done.returncode == 2 and "something else than a demo" in done.stderr
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


def test_two_demos_at_once_do_not_meet_in_one_directory(tmp_path: Path) -> None:
    home = tmp_path / "demo"
    first = subprocess.Popen(command(home), stdout=subprocess.PIPE, text=True)
    assert first.stdout
    next(line for line in first.stdout if "ROOT files" in line)
    second = run(home)
    first.send_signal(signal.SIGINT)
    first.communicate()
    assert second.returncode == 2 and "another demo runs" in second.stderr
