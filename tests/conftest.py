"""What all tests share: real processes of ours on free ports, and `--no-skips`, for which a skip is a failure."""

import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

# A shell has what it runs in the background ignore SIGINT, and with us all that we start.
signal.signal(signal.SIGINT, signal.default_int_handler)

BIN = Path(sys.executable).parent
START_S = 20

# A skip for one of these reasons passes --no-skips: it depends on the machine, and its closing lines name it.
ALLOWED_SKIPS = (
    r"no other Python here",  # the worker under old Pythons, where there are some
    r"python\S* does not run here",
    r"only root may mount a tmpfs",  # the tests of a full disk
    r"needs /dev/full",
)


# --- no skips -----------------------------------------------------------------------------------------------------


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--no-skips", action="store_true", help="fail when a test was skipped that need not be")


def skips(config: pytest.Config) -> list[tuple[str, str, bool]]:
    """(test, reason, whether that is allowed) of each test left out so far."""
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    found = []
    for report in reporter.stats.get("skipped", []) + reporter.stats.get("xfailed", []) if reporter else []:
        words = report.longrepr[2] if isinstance(report.longrepr, tuple) else getattr(report, "wasxfail", "")
        reason = words.removeprefix("Skipped: ")
        found.append((report.nodeid, reason, any(re.match(allowed, reason) for allowed in ALLOWED_SKIPS)))
    return found


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    if session.config.getoption("--no-skips") and not all(allowed for *_, allowed in skips(session.config)):
        session.exitstatus = exitstatus or pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if config.getoption("--no-skips"):
        for test, reason, allowed in skips(config):
            terminalreporter.write_line(f"left out{'' if allowed else ', which FAILS this run'}: {test}: {reason}")


# --- processes of ours --------------------------------------------------------------------------------------------


class Service:
    """One of our commands, running: `answer` is what its first line says, `log` all of its output."""

    def __init__(self, log: Path, pattern: str, *command: str):
        self.log, self._command, self._pattern = log, command, pattern
        self.start()

    def start(self) -> None:
        with self.log.open("wb") as log:
            command = [BIN / self._command[0], *self._command[1:]]
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT)
        give_up = time.monotonic() + START_S
        while not (found := re.search(self._pattern, self.log.read_text(errors="replace"))):
            if self.process.poll() is not None or time.monotonic() > give_up:
                self.stop()
                pytest.fail(f"{self._command[0]} did not start:\n{self.log.read_text(errors='replace')}")
            time.sleep(0.02)
        self.answer = found[1]

    def stop(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        """kill -9, as a machine would."""
        self.process.kill()
        self.process.wait()


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., Service]]:
    """serve(pattern, command...) starts one of our commands and waits for a line; the test's end ends it."""
    services: list[Service] = []

    def start(pattern: str, *command: str) -> Service:
        services.append(Service(tmp_path / f"{command[0]}-{len(services)}.log", pattern, *command))
        return services[-1]

    yield start
    for service in reversed(services):
        service.stop()


@pytest.fixture
def sam_server(serve: Callable[..., Service], tmp_path: Path) -> Service:
    """An empty keepup-sam of its own; its base URL is `answer`."""
    return serve(r"serving (http://\S+)", "keepup-sam", "serve", "--db", str(tmp_path / "sam.db"), "--port", "0")


@pytest.fixture
def batch_server(serve: Callable[..., Service], tmp_path: Path) -> Iterator[Service]:
    """A keepup-batch of its own with two slots; its directory is `answer`. The test's end ends its jobs too."""
    service = serve(r"serving (\S+) \(", "keepup-batch", "serve", "--dir", str(tmp_path / "batch"), "--slots", "2")
    yield service
    service.stop()
    end_jobs(tmp_path / "batch")


def end_jobs(directory: Path) -> None:
    """Kill the jobs that run below a keepup-batch's directory; what watched over them notes it and leaves."""
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if process.environ().get("_CONDOR_SCRATCH_DIR", "").startswith(f"{directory}/"):
                process.kill()
