"""A small world of real processes to kill: keepup-sam, keepup-batch and keepupd, and what must be true at the end.

A story reads: world.declares(12); world.keepupd.starts(); world.keepupd.killed(); world.keepupd.starts();
world.settles(); world.keeps_its_promises(). An input's first word says what the executable makes of it; nothing in
keepupd knows of that.
"""

import json
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pytest
import yaml
from psycopg.rows import dict_row

from keepupd.clients.sam import Sam
from keepupd.core.chart import charts_dir

BIN = Path(sys.executable).parent
RUNNER = Path(__file__).with_name("faulty_keepupd.py")
CAMPAIGN, ALL_CAMPAIGNS = "kill_reco", "kill_%"
START_S, LEAVE_S = 30, 20
SCRIPT = """
ulimit -c 0
echo "${1##*/}" >> "$MARKS/ran"
read word number < "$1"
case $word in
  slow) sleep "$number" ;;
  waits) until [ -e "$MARKS/open" ]; do sleep 0.1; done ;;
  crashes) kill -SEGV $$ ;;
  once) mkdir "$MARKS/$number" 2>/dev/null && kill -SEGV $$ ;;
  empty) : > "$2"; exit 0 ;;
esac
cp "$1" "$2"
"""
SETTINGS: dict[str, Any] = {
    "name": "killed", "state_dir": "state", "campaigns": ["campaigns"], "causes": "causes.yaml",
    "batch": {"kind": "local", "directory": "batch"}, "http": {"port": 0},
    "polls": {"pass_s": 0.4, "inputs_s": 0.5, "outputs_s": 0.5, "operator_s": 0.3, "problem_definitions_min_s": 0,
              "lost_after_s": 5},
}  # fmt: skip


@dataclass(frozen=True)
class Kind:
    """What becomes of an input, by its first word: the state it ends in, and the tries it uses up on the way."""

    word: str
    ends_in: str = "declared"
    tries: int = 0


FINE, SLOW = Kind("fine"), Kind("slow")
WAITS = Kind("waits")  # until the story opens the gate
ONCE = Kind("once", tries=1)
CRASHES, EMPTY = Kind("crashes", "debug", 2), Kind("empty", "debug", 1)
MISSING = Kind("missing", "held")  # its copy is not at its location
MIXED = (FINE, ONCE, SLOW, EMPTY, FINE, CRASHES, FINE, MISSING)


@dataclass
class Input:
    name: str
    kind: Kind
    data: bytes

    @property
    def adler32(self) -> str:
        return f"adler32:{zlib.adler32(self.data):08x}"


class Process:
    """One of our commands: started, stopped by SIGTERM, killed with -9, by its own pid alone. Its log goes on."""

    def __init__(self, log: Path, ready: str, *command: str | Path):
        self.log, self.ready, self.command = log, ready, [str(word) for word in command]
        self.process: subprocess.Popen[bytes] | None = None

    def starts(self, wait: bool = True) -> None:
        """With `wait`, until it says that it is there."""
        with self.log.open("ab") as log:
            begin = log.tell()
            self.process = subprocess.Popen(self.command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        if wait:
            until(lambda: re.search(self.ready, self.said(begin)) or self.dead, f"{self.command[0]} starts", START_S)
            assert not self.dead, f"{self.command} did not start:\n{self.said(begin)}"

    def said(self, begin: int = 0) -> str:
        return self.log.read_bytes()[begin:].decode(errors="replace") if self.log.exists() else ""

    @property
    def dead(self) -> bool:
        return self.process is None or self.process.poll() is not None

    def signal(self, number: int) -> None:
        assert self.process is not None and not self.dead, f"{self.command} has ended:\n{self.said()[-2000:]}"
        self.process.send_signal(number)

    def killed(self) -> None:
        self.signal(signal.SIGKILL)
        assert self.process
        self.process.wait()

    def stops(self) -> int:
        """End it in order; gives its exit code."""
        self.signal(signal.SIGTERM)
        assert self.process
        return self.process.wait(LEAVE_S)

    def ends(self) -> None:
        """At the end of a test, whatever state it is in."""
        if self.process and not self.dead:
            self.process.send_signal(signal.SIGCONT)
            self.process.terminate()
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(LEAVE_S)
            self.process.kill()
            self.process.wait()


class World:
    """SAM, batch, storage and one daemon with one campaign, all below one directory."""

    def __init__(self, home: Path):
        self.home, self.inputs = home, list[Input]()
        self.database = ""  # URL of another than the daemon makes by itself
        port = free_port()
        self.url = f"http://127.0.0.1:{port}/sam/dune/api"
        self.sam_server = Process(
            home / "sam.log", "serving", BIN / "keepup-sam", "serve", "--db", home / "sam.db", "--port", str(port)
        )
        self.batch = Process(
            home / "batch.log", "serving", BIN / "keepup-batch", "serve", "--dir", home / "batch", "--slots", "2",
            "--memory-mib", "2000", "--measure-s", "0.2",
        )  # fmt: skip
        self.keepupd = Process(home / "keepupd.log", "started daemon=", BIN / "keepupd", "run", "-c", self.config)
        self.normal_command = self.keepupd.command
        for name in ("in", "out", "campaigns", "marks", "reached"):
            (home / name).mkdir()
        (home / "reco.sh").write_text(SCRIPT)
        causes = (charts_dir() / "causes.yaml").read_text()
        (home / "causes.yaml").write_text(re.sub(r"\bwait_s: 600?\b", "wait_s: 1", causes))
        self.writes_settings()
        self.writes_campaign()
        self.sam_server.starts()
        self.batch.starts()
        self.sam = Sam(self.url, station="dune", user="tester", patience_s=20)
        self.sam.register_parameter("DUNE.campaign")
        self.sam.register_data_disk(f"demo:{home}")
        self.sam.register_application("keepup", "null", "v1")

    @property
    def config(self) -> Path:
        return self.home / "keepupd.yaml"

    def writes_settings(self, **changes: Any) -> None:
        sam = {"read_url": self.url, "experiment": "dune", "station": "dune", "user": "tester", "timeout_s": 3,
               "patience_s": 3}  # fmt: skip
        worker = {"python": sys.executable, "patience_s": 60, "fetch_patience_s": 1, "timeout_s": 5} | changes
        database = {"database": self.database} if self.database else {}
        self.config.write_text(yaml.safe_dump(SETTINGS | {"sam": sam, "worker": worker} | database))

    def writes_campaign(self, **changes: Any) -> None:
        """The campaign's file, with some keys as given."""
        out = {"tier": "full-reconstructed", "file_type": "detector", "file_format": "txt",
               "location": f"demo:{self.home}/out"}  # fmt: skip
        text = {
            "name": CAMPAIGN, "type": "reco", "owner": "tests", "contact": "tests@example.org",
            "input": {"query": "data_tier raw"}, "outputs": [out],
            "executable": {"argv": ["sh", str(self.home / "reco.sh"), "{input}", "{output}"],
                           "application": {"family": "keepup", "name": "null", "version": "v1"},
                           "environment": {"MARKS": str(self.home / "marks")}},
            "validation": {"root": False}, "retry": {"attempts": 2, "wait_s": 1}, "limits": {"launch_size": 8},
            "canary": {"units": 0},
            "resources": {"memory_mib": 200, "disk_mib": 10, "wall_s": 300},
        }  # fmt: skip
        (self.home / "campaigns" / "kill.yaml").write_text(yaml.safe_dump(text | changes))

    def writes_flow(self, **scripts: tuple[str, str, dict[str, Any]]) -> None:
        """In place of the one campaign, kill_<type> for each type given: its shell script, arguments and settings."""
        flow = []
        for type_, (script, arguments, settings) in scripts.items():
            (self.home / f"{type_}.sh").write_text(script)
            out = {"tier": settings["tier"], "file_type": "mc", "file_format": "txt",
                   "location": f"demo:{self.home}/out"}  # fmt: skip
            argv = ["sh", str(self.home / f"{type_}.sh"), *arguments.split()]
            own = {name: value for name, value in settings.items() if name not in ("tier", "routed")}
            flow.append({"name": f"kill_{type_}", "type": type_, "executable": {"argv": argv},
                         "outputs": [out | {"definitions": settings.get("routed", [])}], **own})  # fmt: skip
        shared = {
            "owner": "tests", "contact": "tests@example.org", "validation": {"root": False},
            "executable": {"application": {"family": "keepup", "name": "null", "version": "v1"}},
            "retry": {"attempts": 1, "wait_s": 1}, "resources": {"memory_mib": 200, "disk_mib": 10, "wall_s": 300},
        }  # fmt: skip
        (self.home / "campaigns" / "kill.yaml").write_text(yaml.safe_dump({"defaults": shared, "campaigns": flow}))

    def dies_at(self, points: Collection[str]) -> None:
        """From the next start on, the daemon dies once at each of these points, and follows the file `clock`."""
        (self.home / "points.json").write_text(json.dumps(sorted(points)))
        self.keepupd.command = [sys.executable, str(RUNNER), str(self.home), "-c", str(self.config)]

    def shifts_clock(self, seconds: float) -> None:
        (self.home / "clock.new").write_text(str(seconds))
        (self.home / "clock.new").replace(self.home / "clock")

    def reached(self) -> set[str]:
        return {path.read_text() for path in (self.home / "reached").iterdir() if path.suffix != ".new"}

    def ends(self) -> None:
        for process in (self.keepupd, self.batch, self.sam_server):
            process.ends()
        self.sam.close()
        for process in self.job_processes():
            with suppress(psutil.Error):
                process.kill()

    def opens_the_gate(self) -> None:
        (self.home / "marks" / "open").touch()

    # --- what happens ------------------------------------------------------------------------------------------------

    def declares(self, n: int, kinds: Sequence[Kind] = MIXED, seconds: float = 0.3) -> list[Input]:
        """n more inputs, kind after kind; slow ones take so many seconds."""
        return [self.declare(kinds[i % len(kinds)], seconds) for i in range(n)]

    def declare(self, kind: Kind, seconds: float = 0.3, located: bool = True) -> Input:
        number = len(self.inputs) + 1
        data = f"{kind.word} {seconds if kind.word == 'slow' else number}\ninput {number}\n".encode()
        one = Input(f"raw_{number:03d}.txt", kind, data)
        if kind is not MISSING:
            (self.home / "in" / one.name).write_bytes(data)
        self.sam.declare({"file_name": one.name, "file_size": len(data), "file_type": "detector", "file_format": "txt",
                          "data_tier": "raw", "checksum": [one.adler32]})  # fmt: skip
        if located:
            self.sam.add_location(one.name, f"demo:{self.home}/in")
        self.inputs.append(one)
        return one

    def keepupctl(self, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        command = [str(BIN / "keepupctl"), *words, "-c", str(self.config)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
        assert not check or done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done

    def job_processes(self) -> Iterator[psutil.Process]:
        """Whatever runs for a job of this world."""
        for process in psutil.process_iter():
            with suppress(psutil.Error, OSError):
                if process.environ().get("_CONDOR_SCRATCH_DIR", "").startswith(f"{self.home}/"):
                    yield process

    def workers(self) -> list[psutil.Process]:
        found = []
        for process in self.job_processes():
            with suppress(psutil.Error):
                found += [process] if "keepup_worker.py" in process.cmdline() else []
        return found

    def ran(self, name: str) -> int:
        """How often the executable was started on this input."""
        marks = self.home / "marks" / "ran"
        return marks.read_text().split().count(name) if marks.exists() else 0

    # --- what can be seen --------------------------------------------------------------------------------------------

    def rows(self, query: str, *values: Any) -> list[Any]:
        """Ask the daemon's database; nothing while there is none."""
        if self.database:
            with psycopg.connect(self.database.replace("+psycopg", ""), row_factory=dict_row) as server:
                return server.execute(query).fetchall()
        path = self.home / "state" / "keepupd.db"
        try:
            with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=5)) as db:
                db.row_factory = sqlite3.Row
                return db.execute(query, values).fetchall()
        except sqlite3.OperationalError as trouble:
            if not str(trouble).startswith(("unable to open", "no such table", "database is locked", "disk I/O")):
                raise
            return []

    def units(self) -> dict[str, Any]:
        return {row["name"]: row for row in self.rows("SELECT * FROM units")}

    def state(self, name: str) -> str:
        return str(self.units()[name]["state"]) if name in self.units() else ""

    def states(self) -> dict[str, str]:
        return {name: row["state"] for name, row in self.units().items()}

    def unsettled(self) -> dict[str, Any]:
        """What is still to be waited for."""
        states = self.states()
        rest: dict[str, Any] = {one.name: states.get(one.name, "not seen") for one in self.inputs
                                if states.get(one.name) != one.kind.ends_in}  # fmt: skip
        for what, query in {
            "effects": "SELECT effect, key, error, parked FROM outbox",
            "launches": "SELECT key, submitted, over FROM launches WHERE closed IS NULL",
            "requests": "SELECT event FROM requests WHERE done IS NULL",
        }.items():
            if rows := self.rows(query):
                rest[what] = [tuple(row) for row in rows]
        return rest

    def settles(self, patience_s: float = 60, deadly: bool = False) -> None:
        """Wait until every file is where it belongs. `deadly`: a daemon that dies by SIGKILL is started again."""
        give_up = time.monotonic() + patience_s
        while rest := self.unsettled():
            self.revives_if(deadly)
            if time.monotonic() > give_up:
                pytest.fail(f"not settled after {patience_s} s: {rest}\n{self.keepupd.said()[-6000:]}")
            time.sleep(0.1)

    def waits(self, truth: Callable[[], Any], what: str, patience_s: float = 30, deadly: bool = False) -> None:
        def true_by_now() -> Any:
            self.revives_if(deadly)
            return truth()

        until(true_by_now, what, patience_s, lambda: self.keepupd.said()[-6000:])

    def revives_if(self, deadly: bool) -> None:
        if self.keepupd.process and self.keepupd.dead:
            code = self.keepupd.process.returncode
            if not deadly or code != -signal.SIGKILL:
                pytest.fail(f"the daemon ended with exit code {code}:\n{self.keepupd.said()[-6000:]}")
            self.keepupd.starts(wait=False)

    def keeps_its_promises(self, forgotten: bool = False, losses: int | None = 0, faults: int = 0) -> None:
        """What must be true after all that happened. `forgotten`: the database was lost, and tries with it; `losses`:
        how many jobs were lost, None where that is left to chance."""
        self._outputs_are_there_once()
        assert self.states() == {one.name: one.kind.ends_in for one in self.inputs}
        self.is_in_order(faults)
        units = self.units()
        wrong = {one.name: units[one.name]["tries"] for one in self.inputs
                 if not (0 if forgotten else one.kind.tries) <= units[one.name]["tries"] <= one.kind.tries}  # fmt: skip
        assert not wrong, f"tries used up that were no tries: {wrong}"
        assert losses is None or sum(row["losses"] for row in units.values()) == losses

    def is_in_order(self, faults: int = 0) -> None:
        """What must be true at the end of whatever campaigns."""
        for promise in (self._storage_has_nothing_else, self._nothing_is_left_behind, self._sums_agree):
            promise()
        assert self.keepupd.said().count("a fault in keepupd itself") == faults

    def _outputs_are_there_once(self) -> None:
        outputs = list(self.sam.files(f"DUNE.campaign {CAMPAIGN} with availability anylocation"))
        for one in self.inputs:
            made = [f.name for f in self.sam.files(f"ischildof: (file_name {one.name} with availability anylocation)")]
            assert len(made) == (one.kind.ends_in == "declared"), f"{one.name} ({one.kind.word}) has outputs {made}"
            for record in self.sam.records(made).values():
                assert len(record.locations) == 1 and one.adler32 in record.checksums, record
                copy = Path(record.locations[0].split(":", 1)[1].split("(")[0], record.name)
                assert copy.read_bytes() == one.data
        assert len(outputs) == sum(one.kind.ends_in == "declared" for one in self.inputs)

    def _storage_has_nothing_else(self) -> None:
        names = sorted(path.name for path in (self.home / "out").rglob("*") if path.is_file())
        # of retired ones too: they keep their copies
        in_sam = self.sam.files(f"DUNE.campaign '{ALL_CAMPAIGNS}' with availability any")
        assert names == sorted(file.name for file in in_sam), "copies of losers are left"

    def _nothing_is_left_behind(self) -> None:
        status = subprocess.run([BIN / "keepup-batch", "status", "--dir", self.home / "batch", "--json"],
                                capture_output=True, text=True, check=True)  # fmt: skip
        assert not json.loads(status.stdout)["jobs"], f"orphaned jobs: {status.stdout}"
        assert not list(self.job_processes())
        assert self.sam.projects("keepup_kill_", open_only=True) == []
        assert not self.rows("SELECT * FROM attempts WHERE outcome = ''"), "attempts that nobody will judge"

    def _sums_agree(self) -> None:
        assert {row["difference"] for row in self.rows("SELECT difference FROM campaigns")} == {0}
        audit = self.keepupctl("audit", check=False)
        assert audit.returncode == 0, audit.stdout + audit.stderr


def until(
    truth: Callable[[], Any], what: str, patience_s: float = 30, evidence: Callable[[], str] = lambda: ""
) -> None:
    give_up = time.monotonic() + patience_s
    while not truth():
        if time.monotonic() > give_up:
            pytest.fail(f"waited {patience_s} s in vain for: {what}\n{evidence()}")
        time.sleep(0.05)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
