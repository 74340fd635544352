"""What all tests share: real processes of ours on free ports, and `--no-skips`, for which a skip is a failure."""

import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import databases
import psutil
import pytest
from pools.condor import Pool, missing, pool
from pools.postgres import Cluster, programs
from pools.xrootd import Server as XrootdServer
from pools.xrootd import missing as no_xrootd
from pools.xrootd import server as xrootd_server

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
    r"no PostgreSQL server here",
    r"an HTCondor pool needs",
    r"no XRootD here",
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


# --- databases ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def postgres() -> Iterator[Cluster]:
    """A PostgreSQL server of this run's own. Its data is not synced to disk."""
    if programs() is None:
        pytest.skip("no PostgreSQL server here (Debian: postgresql)")
    cluster = Cluster(Path(tempfile.mkdtemp(prefix="keepup-postgres-")))
    cluster.up()
    yield cluster
    cluster.remove()


@pytest.fixture(scope="session")
def condor() -> Iterator[Pool]:
    """A real HTCondor pool, shared by all tests of this run; its jobs see /var/tmp/keepup-data as a shared disk."""
    if why := missing():
        pytest.skip(why)
    with suppress(FileExistsError):
        Path("/var/tmp/keepup-data").mkdir(mode=0o777)
    Path("/var/tmp/keepup-data").chmod(0o777)
    with pool(Path(tempfile.mkdtemp(prefix="keepup-pool-")), mounts=["/var/tmp/keepup-data"]) as one:
        yield one


@pytest.fixture(scope="session")
def xrootd() -> Iterator[XrootdServer]:
    """A real XRootD server, shared by all tests of this run."""
    if why := no_xrootd():
        pytest.skip(why)
    home = Path(tempfile.mkdtemp(prefix="keepup-xrootd-"))
    with xrootd_server(home) as one:
        yield one
    shutil.rmtree(home)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """The store's tests run on both databases, and so do those with the farm; on PostgreSQL these are long."""
    folder, fixtures = metafunc.definition.path.parent.name, metafunc.fixturenames
    if metafunc.definition.get_closest_marker("postgresql"):
        metafunc.parametrize("which_database", ["postgresql"], indirect=True)
    elif metafunc.definition.get_closest_marker("sqlite"):
        return
    elif folder == "store" and "database" in fixtures:
        metafunc.parametrize("which_database", ["sqlite", "postgresql"], indirect=True)
    elif folder in ("daemon", "ctl") and ("farm" in fixtures or hasattr(metafunc.module, "Farm")):
        both = ["sqlite", pytest.param("postgresql", marks=pytest.mark.long)]
        metafunc.parametrize("which_database", both, indirect=True)


@pytest.fixture(autouse=True)
def which_database(request: pytest.FixtureRequest) -> Iterator[str]:
    """Which database the module `databases` makes."""
    name = getattr(request, "param", "sqlite")
    databases.server = request.getfixturevalue("postgres") if name == "postgresql" else None
    yield name
    if databases.server is not None:
        databases.drop_all(databases.server)
    databases.server = None


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
