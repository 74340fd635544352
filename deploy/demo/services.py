"""The demo's processes: started with a mark in their environment, found by it again, and ended one by one.

The mark is KEEPUP_DEMO, the demo's directory. keepup-batch hands it on to what watches over a job, and each job has its
scratch directory in _CONDOR_SCRATCH_DIR; so also what a killed demo left behind is found, and nothing else.
"""

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil

MARK = "KEEPUP_DEMO"
START_S, LEAVE_S = 30, 20  # most time to start up, and to leave before SIGKILL
BIN = Path(sys.executable).parent


class ServiceFailed(Exception):
    """A process of the demo ended, or did not start; with the end of its log."""

    def __init__(self, name: str, what: str, log: Path):
        tail = "\n  ".join(log.read_text(errors="replace").splitlines()[-15:])
        super().__init__(f"{name} {what}; the end of {log}:\n  {tail}")


class Services:
    """Processes of one demo, each with its log; leaving the `with` block ends them all, with their jobs."""

    def __init__(self, home: Path):
        self.home, self.running = home, dict[str, subprocess.Popen[bytes]]()

    def __enter__(self) -> "Services":
        (self.home / "log").mkdir()
        return self

    def __exit__(self, *_: object) -> None:
        for process in reversed(self.running.values()):  # the daemon first: it talks to the others
            process.terminate()
            try:
                process.wait(LEAVE_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        end_leftovers(self.home)

    def start(self, *command: str) -> None:
        """Start one of the installed commands, in a session of its own: Ctrl-C is the demo's to handle."""
        with self.log(command[0]).open("wb") as log:
            self.running[command[0]] = subprocess.Popen(
                [BIN / command[0], *command[1:]], cwd=self.home, stdin=subprocess.DEVNULL, stdout=log,
                stderr=subprocess.STDOUT, env={**os.environ, MARK: str(self.home)}, start_new_session=True,
            )  # fmt: skip

    def log(self, name: str) -> Path:
        return self.home / "log" / f"{name}.log"

    def says(self, name: str, pattern: str) -> str:
        """Wait for a line in its log; the pattern's first group. Raises ServiceFailed when it does not come."""
        give_up = time.monotonic() + START_S
        while time.monotonic() < give_up:
            if found := re.search(pattern, self.log(name).read_text(errors="replace")):
                return found[1]
            self.check()
            time.sleep(0.05)
        raise ServiceFailed(name, f"did not say {pattern!r} in {START_S} s", self.log(name))

    def check(self) -> None:
        """Raises ServiceFailed when one has ended."""
        for name, process in self.running.items():
            if process.poll() is not None:
                raise ServiceFailed(name, f"ended with exit code {process.returncode}", self.log(name))


def end_leftovers(home: Path) -> None:
    """End, by their ids, the processes of a demo in `home` that still run; looked for again until there are none."""
    while leftovers := list(_of_demo(home)):
        for process in leftovers:
            with suppress(psutil.NoSuchProcess):
                process.terminate()
        _, stubborn = psutil.wait_procs(leftovers, timeout=5)
        for process in stubborn:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(stubborn, timeout=5)


def _of_demo(home: Path) -> Iterator[psutil.Process]:
    for process in psutil.process_iter():
        try:
            environment = process.environ()
        except (psutil.Error, OSError):
            continue  # gone meanwhile, or another user's
        scratch = environment.get("_CONDOR_SCRATCH_DIR", "")
        if environment.get(MARK) == str(home) or scratch.startswith(f"{home}/"):
            yield process
