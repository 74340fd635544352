"""A real keepup-batch on a directory of the test's own, and words to order jobs and to see what became of them."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from keepupd.localbatch.main import ask

PYTHON = [sys.executable, "-S", "-E", "-c"]


class Batch:
    def __init__(self, directory: Path, slots: int = 2, memory_mib: int = 4000):
        self.directory, self.cursor = directory, None
        self.command = [
            sys.executable, "-m", "keepupd.localbatch.main", "serve", f"--dir={directory}", f"--slots={slots}",
            f"--memory-mib={memory_mib}", "--measure-s=0.1", "--grace-s=1",
        ]  # fmt: skip
        self.process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        self.process = subprocess.Popen(self.command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout and "serving" in self.process.stdout.readline()

    def end(self, number: int = signal.SIGTERM) -> None:
        if self.process:
            self.process.send_signal(number)
            self.process.wait(10)
            self.process.stdout.close()
        self.process = None

    def ask(self, op: str, **fields: Any) -> dict[str, Any]:
        return ask(self.directory, {"v": 1, "op": op, **fields})

    def submit(self, argv: list[str], count: int = 1, launch: str = "L", **fields: Any) -> dict[str, Any]:
        order = {"launch": launch, "tag": "d/c/L", "files": {}, "argv": argv, "numbers": list(range(1, count + 1))}
        return self.ask("submit", **(order | fields))

    def sh(self, script: str, count: int = 1, **fields: Any) -> dict[str, Any]:
        return self.submit(["/bin/sh", "-c", script, "sh", "{key}", "{number}"], count, **fields)

    def python(self, script: str, count: int = 1, **fields: Any) -> dict[str, Any]:
        return self.submit([*PYTHON, script, "{key}", "{number}"], count, **fields)

    def jobs(self) -> dict[str, dict[str, Any]]:
        answer = self.ask("look", cursor=None)
        assert answer["complete"]
        return {job["key"]: job for job in answer["jobs"]}

    def job(self, key: str = "L.1") -> dict[str, Any]:
        return self.jobs()[key]

    def until(self, state: str, key: str = "L.1", patience_s: float = 20) -> dict[str, Any]:
        return wait_for(lambda: (job := self.job(key))["state"] == state and job, f"{key} {state}", patience_s)

    def all_ended(self, patience_s: float = 60) -> dict[str, dict[str, Any]]:
        def ended():
            jobs = self.jobs()
            return all(job["state"] in ("left", "held") for job in jobs.values()) and jobs

        return wait_for(ended, "all jobs ended", patience_s)

    def file(self, name: str, key: str = "L.1") -> Path:
        launch, _, number = key.rpartition(".")
        return self.directory / "jobs" / launch / number / name

    def shim_pid(self, key: str = "L.1") -> int:
        return int(str(self.file("shim", key).readlink()).split(":")[0])

    def clean_up(self) -> None:
        """End the server, and every process that was started as one of our jobs, by its id."""
        self.end(signal.SIGKILL)
        mark = f"={self.directory}/jobs/".encode()
        for link in self.directory.glob("jobs/*/*/shim"):
            kill(int(str(link.readlink()).split(":")[0]), "keepup-shim")
        for entry in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if mark in (entry / "environ").read_bytes():
                    kill(int(entry.name))


def kill(pid: int, name: str | None = None) -> None:
    with contextlib.suppress(OSError):
        if name is None or Path(f"/proc/{pid}/comm").read_text().strip() == name:
            os.kill(pid, signal.SIGKILL)


def wait_for(truth: Any, what: str, patience_s: float = 20) -> Any:
    until = time.monotonic() + patience_s
    while time.monotonic() < until:
        if found := truth():
            return found
        time.sleep(0.02)
    raise AssertionError(f"waited {patience_s} s in vain for: {what}")


def alive(pid: int) -> bool:
    with contextlib.suppress(FileNotFoundError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


@pytest.fixture
def make_batch(tmp_path):
    made = []

    def make(**options: Any) -> Batch:
        made.append(Batch(options.pop("directory", tmp_path / "batch"), **options))
        made[-1].start()
        return made[-1]

    yield make
    for batch in made:
        batch.clean_up()


@pytest.fixture
def batch(make_batch):
    return make_batch()


@pytest.fixture(scope="module")
def standing(tmp_path_factory):
    """One for all tests of a module that leave nothing behind in it."""
    batch = Batch(tmp_path_factory.mktemp("standing") / "batch")
    batch.start()
    yield batch
    batch.clean_up()


@pytest.fixture
def helpers():
    class Helpers:
        wait_for = staticmethod(wait_for)
        alive = staticmethod(alive)
        read = staticmethod(lambda path: json.loads(Path(path).read_text()))

    return Helpers
