"""What the benchmarks share: real processes (SAM, batch, daemon), a catalog of small files, big databases, medians.

Every figure is a ratio of two things measured in the same run, taken in turns and repeated, so that a slow or a busy
machine slows both. Figures in seconds say so in their name.
"""

import os
import re
import resource
import statistics
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
from sqlalchemy import insert, update

from keepupd.clients.sam import Sam
from keepupd.config import load_campaigns, load_settings
from keepupd.daemon import life
from keepupd.daemon.app import make_keeper
from keepupd.daemon.keeper import Keeper
from keepupd.store import intake
from keepupd.store.database import Database
from keepupd.store.store import count
from keepupd.store.tables import campaigns, files, units
from keepupd.store.upgrade import upgrade

BIN = Path(sys.executable).parent
ROOT = Path(__file__).parents[1]
WORK = ROOT / "build" / "bench"
START_S, LEAVE_S = 30, 30  # most time for a process to start up, and to leave before SIGKILL
CAMPAIGN = "bench_reco"
CHUNK = 10_000  # rows in one statement
QUIET = 0.1  # a run of minutes counts as undisturbed when other processes took less than this share of the processors

SETTINGS = """
name: bench
state_dir: state
campaigns: [campaigns]
sam: {{read_url: "{sam}", experiment: dune, station: dune, user: bench}}
batch: {{kind: local, directory: batch}}
polls: {{pass_s: 1, inputs_s: 1, outputs_s: 1, operator_s: 1}}
http: {{port: 0}}
worker: {{python: "{python}"}}
"""
RECO = """
name: {name}
type: reco
owner: bench
contact: bench@example.org
input: {{query: "data_tier raw"}}
outputs: [{{tier: full-reconstructed, file_type: detector, file_format: txt, location: "demo:{out}"}}]
executable:
  argv: [cp, "{{input}}", "{{output}}"]
  application: {{family: bench, name: "null", version: v1}}
validation: {{root: false}}
resources: {{memory_mib: 200, disk_mib: 10, wall_s: 600}}
"""


@dataclass
class Figure:
    """One line of the table. `value` is compared with `limit`; `wanted` is what it should be on a quiet machine."""

    name: str
    value: float
    unit: str
    wanted: float | None = None
    limit: float | None = None
    least: bool = False  # the limit is the least allowed, not the most
    detail: str = ""

    @property
    def verdict(self) -> str:
        if self.limit is None:
            return ""
        sign = -1 if self.least else 1
        if sign * self.value > sign * self.limit:
            return "OVER"
        return "ok" if self.wanted is None or sign * self.value <= sign * self.wanted else "ok, not as wanted"

    def row(self) -> dict[str, Any]:
        return {**asdict(self), "verdict": self.verdict}


def median(values: Sequence[float]) -> float:
    return statistics.median(values)


def spread(values: Sequence[float], form: str = ".2f") -> str:
    """All values, for the detail of a figure."""
    return " ".join(format(value, form) for value in values)


def in_turns(times: int, *sides: Callable[[], float]) -> list[list[float]]:
    """Measure each side in turn, so many times, every other time in the opposite order; a list of results a side."""
    results: list[list[float]] = [[] for _ in sides]
    for turn in range(times):
        order = list(zip(sides, results, strict=True))
        for side, found in order if turn % 2 == 0 else reversed(order):
            found.append(side())
    return results


@dataclass(frozen=True)
class Run:
    """What a side measured over minutes, what it cost, and the share of the processors that others took meanwhile."""

    value: float
    cpu_s: float  # of all our processes, their start and end included
    others: float


def watched(side: Callable[[], float]) -> Run:
    busy, own, begun = _busy_s(), _own_s(), time.monotonic()
    value = side()
    capacity = (time.monotonic() - begun) * (os.cpu_count() or 1)
    cpu_s = _own_s() - own
    return Run(value, cpu_s, max(0.0, (_busy_s() - busy - cpu_s) / capacity))


def quiet_pairs(times: int, one: Callable[[], float], other: Callable[[], float]) -> list[tuple[Run, Run]]:
    """For runs of minutes: repeat until so many pairs had the machine to themselves, at most twice as often.

    Gives the quiet pairs, or all of them where none was.
    """
    pairs: list[tuple[Run, Run]] = []
    while sum(map(is_quiet, pairs)) < times and len(pairs) < 2 * times:
        first = len(pairs) % 2 == 0
        runs = [watched(side) for side in ((one, other) if first else (other, one))]
        pairs.append((runs[0], runs[1]) if first else (runs[1], runs[0]))
        a, b = pairs[-1]
        print(f"{a.value / b.value:.2f} (others took {max(a.others, b.others):.0%})", end=" ", flush=True)
    return [pair for pair in pairs if is_quiet(pair)] or pairs


def is_quiet(pair: tuple[Run, Run]) -> bool:
    return all(run.others < QUIET for run in pair)


def _busy_s() -> float:
    """Processor seconds that anything took on this machine, the host's own share of a virtual one included."""
    times = psutil.cpu_times()
    return float(sum(times) - times.idle - times.iowait - times.guest - times.guest_nice)


def _own_s() -> float:
    """Processor seconds of ours, and of all our processes that have ended."""
    return sum(
        u.ru_utime + u.ru_stime for u in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    )


def ratio(one: Sequence[float], other: Sequence[float]) -> float:
    """The median ratio of pairs that were measured next to each other."""
    return median([a / b for a, b in zip(one, other, strict=True)])


# --- processes ----------------------------------------------------------------------------------------------------


@contextmanager
def process(home: Path, ready: str, *command: str) -> Iterator[str]:
    """Run one of the installed commands until the block ends; gives the first group of `ready` in its log."""
    path = home / f"{command[0]}.log"
    with path.open("wb") as log:
        running = subprocess.Popen([BIN / command[0], *command[1:]], cwd=home, stdout=log, stderr=log)
    try:
        yield _said(path, ready, running)
    finally:
        running.terminate()
        try:
            running.wait(LEAVE_S)
        except subprocess.TimeoutExpired:
            running.kill()
            running.wait()


def _said(path: Path, ready: str, running: "subprocess.Popen[bytes]") -> str:
    give_up = time.monotonic() + START_S
    while time.monotonic() < give_up and running.poll() is None:
        if found := re.search(ready, path.read_text(errors="replace")):
            return found[1]
        time.sleep(0.02)
    raise SystemExit(f"{path.name} did not say {ready!r}; it says: {path.read_text(errors='replace')[-2000:]}")


@contextmanager
def serve_sam(home: Path) -> Iterator[str]:
    """keepup-sam on home/sam.db; gives its URL."""
    with process(home, r"serving (http\S+)", "keepup-sam", "serve", "--db", "sam.db", "--port", "0") as url:
        yield url


@contextmanager
def serve_batch(home: Path, slots: int = 2) -> Iterator[str]:
    ready = r"(serving) "
    with process(home, ready, "keepup-batch", "serve", "--dir", "batch", "--slots", str(slots)) as said:
        yield said


@contextmanager
def run_daemon(home: Path) -> Iterator[str]:
    with process(home, r"(swept) campaign", "keepupd", "run", "-c", "keepupd.yaml") as said:
        yield said


# --- a campaign and its catalog -----------------------------------------------------------------------------------


def write_config(home: Path, sam: str) -> Path:
    """keepupd.yaml, one campaign, the directory of its outputs; gives the path of the first."""
    for name in ("in", "out", "campaigns"):
        (home / name).mkdir(parents=True, exist_ok=True)
    (home / "keepupd.yaml").write_text(SETTINGS.format(sam=sam, python=sys.executable))
    (home / "campaigns" / f"{CAMPAIGN}.yaml").write_text(RECO.format(name=CAMPAIGN, out=home / "out"))
    return home / "keepupd.yaml"


def sam_client(url: str) -> Sam:
    return Sam(url, station="dune", user="bench")


def prepare_catalog(url: str, home: Path) -> None:
    """Register what declarations need."""
    sam = sam_client(url)
    sam.register_parameter("DUNE.campaign")
    sam.register_data_disk(f"demo:{home}")
    sam.register_application("bench", "null", "v1")
    sam.close()


def declare_input(sam: Sam, home: Path, number: int) -> str:
    """One small raw file, declared with its location; gives its name."""
    name, content = f"in{number:06d}.txt", f"hello {number}\n".encode() * 10
    (home / "in" / name).write_bytes(content)
    checksum = [f"adler32:{zlib.adler32(content):08x}"]
    sam.declare({"file_name": name, "file_size": len(content), "file_type": "detector", "file_format": "txt",
                 "data_tier": "raw", "checksum": checksum})  # fmt: skip
    sam.add_location(name, f"demo:{home / 'in'}")
    return name


# --- a store with many files --------------------------------------------------------------------------------------


def make_keeper_at(home: Path, sam: str = "http://127.0.0.1:9/sam/dune/api", database_url: str = "") -> Keeper:
    """The daemon's means on a new database (in home by default), the campaign taken up; nothing outside is asked."""
    settings = load_settings(write_config(home, sam))
    if database_url:
        settings = settings.model_copy(update={"database": database_url})
    settings.state_dir.mkdir(exist_ok=True)
    database = Database(settings.database)
    upgrade(database)
    keeper = make_keeper(settings, database)
    life.take_up(keeper, load_campaigns(settings), datetime.now(UTC))
    return keeper


def fill(k: Keeper, parts: dict[str, int], now: datetime) -> None:
    """Known files and their units: so many in each state, as they would be hours after they were seen."""
    (campaign_id,) = k.campaigns
    total, number = sum(parts.values()), 0
    for state, n in parts.items():
        cause = "executable_exited" if state in ("held", "crash", "debug") else ""
        for first in range(number, number + n, CHUNK):
            numbers = range(first + 1, min(first + CHUNK, number + n) + 1)
            names = {i: f"np04_raw_run{i // 100:06d}_{i:08d}.root" for i in numbers}
            with k.database.write("fill") as db:
                db.execute(insert(units), [
                    {"id": i, "campaign_id": campaign_id, "name": names[i], "state": state, "since": now, "seen": now,
                     "due": None, "cause": cause, "why": "measured", "version": 3} for i in numbers])  # fmt: skip
                db.execute(insert(files), [
                    {"campaign_id": campaign_id, "file_id": i, "name": names[i], "size": 10**9, "seen": now,
                     "unit_id": i} for i in numbers])  # fmt: skip
        number += n
        with k.database.write("fill") as db:
            count(db, {(campaign_id, state, cause): n})
    with k.database.write("fill") as db:
        values = {"ever_seen": total, "sam_count": total, "swept": now, "recalled": now, "counted": now}
        db.execute(update(campaigns).values(values))
        assert intake.settle_accounts(db, campaign_id) == {}


def load() -> float:
    """Runnable processes over the last minute; above 1 something else is at work too."""
    return os.getloadavg()[0]


def remove(path: Path) -> None:
    with suppress(FileNotFoundError):
        subprocess.run(["rm", "-rf", "--", str(path)], check=True)
