"""The fake world: SAM, batch farm and storage in memory, around the real daemon's passes, store, charts and rules.

A story reads: farm.finds("a.raw"); farm.passes(2); farm.job_of("a.raw").dies(signal=11); farm.passes(1). Jobs do only
what the story has them do, as the real worker would: take a file from SAM, copy, declare, report.
"""

import json
import tempfile
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import databases
from fake_sam import FakeSam
from sqlalchemy import event, select

from keepupd.clients.storage import LocalStorage
from keepupd.config import Campaign, load_settings
from keepupd.core.causes import load_causes
from keepupd.core.chart import charts_dir
from keepupd.core.errors import BatchUnavailable, JobRejected, SamRefused
from keepupd.core.model import JobSeen, JobState, Launch, Look
from keepupd.daemon import courier, life
from keepupd.daemon.app import load_charts
from keepupd.daemon.effects import EFFECTS
from keepupd.daemon.keeper import Keeper
from keepupd.daemon.passes import Passes
from keepupd.store.database import Database
from keepupd.store.tables import OPEN, campaigns, counters, files, history, requests, units

SETTINGS = """
name: farm
state_dir: state
campaigns: [campaigns]
sam: {read_url: "http://sam.example.org/sam/dune/api", experiment: dune, station: dune, user: tester, bulk: 7}
batch: {kind: local, directory: batch}
polls: {problem_definitions_min_s: 0, outputs_s: 60, lost_after_s: 600}
"""
CAMPAIGN: dict[str, Any] = {
    "name": "farm_reco", "type": "reco", "owner": "tests", "contact": "tests@example.org",
    "input": {"query": "data_tier raw"},
    "outputs": [{"tier": "full-reconstructed", "file_type": "mc", "location": "demo:/out"}],
    "executable": {
        "argv": ["reco", "{input}", "{output}"], "application": {"family": "t", "name": "reco", "version": "v1"}},
    "retry": {"attempts": 2}, "canary": {"units": 0},
}  # fmt: skip
CHECKSUM = "adler32:0badcafe"


@dataclass
class FakeStorage(LocalStorage):
    """Directories by URL, each with the names, sizes and checksums of its files. Real files are what they are."""

    made: dict[str, dict[str, tuple[int, str]]] = field(default_factory=dict)

    def list(self, url: str) -> list[str]:
        below = [path.removeprefix(url + "/") for path in self.made if path.startswith(url + "/")]
        return sorted({name.split("/")[0] for name in below} | self.made.get(url, {}).keys())

    def identify(self, url: str) -> tuple[int, str] | None:
        folder, _, name = url.rpartition("/")
        return self.made.get(folder, {}).get(name) or super().identify(url)

    def remove(self, url: str, name: str) -> None:
        """As a worker does: one file, and its directory when that was all."""
        self.made.get(url, {}).pop(name, None)
        if not self.made.get(url):
            self.made.pop(url, None)

    def remove_tree(self, url: str) -> None:
        self.made.pop(url, None)


@dataclass
class FakeJob:
    """One job; its methods are what can become of it."""

    farm: "Farm"
    key: str
    tag: str
    files: dict[str, str]
    memory_mib: int
    state: JobState = JobState.IDLE
    report: dict[str, Any] | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    input: str = ""  # the first of them; of a generator's job, its serial
    inputs: list[str] = field(default_factory=list)
    process: int | None = None
    change: int = 0
    host: str = "node1"
    shuns: frozenset[str] = frozenset()  # hosts that it must not start on

    def __post_init__(self) -> None:
        self.order: dict[str, Any] = json.loads(self.files["order.json"])

    @property
    def live(self) -> bool:
        return self.state in (JobState.IDLE, JobState.RUNNING)

    def becomes(self, state: JobState, **facts: Any) -> None:
        self.state, self.facts = state, {"host": self.host, **facts}
        self.farm.batch.touch(self)

    def starts(self) -> bool:
        """Begin, and take a file from SAM. Without one, or without SAM, the job is over; gives whether it has one."""
        self.becomes(JobState.RUNNING)
        if self.order["type"] == "generator":
            self.input = self.key.rpartition(".")[2]
            return True
        try:
            self.process = self.farm.sam.establish(self.order["project"], self.key, self.order["type"] != "merge")
            while (file := self.farm.sam.next_file(self.process)) and file.name not in self.inputs:
                self.inputs.append(file.name)
                if self.order["type"] == "merge":
                    self.farm.sam.set_file_status(self.process, file.name, "consumed")
        except SamRefused:
            pass
        if not self.inputs:
            self.leaves(10, step="establish")
            return False
        if self.order["type"] == "merge" and set(self.inputs) != set(self.unit["inputs"]):
            self.leaves(12, "fetch", "incomplete")
            return False
        self.input = self.inputs[0]
        return True

    @property
    def unit(self) -> dict[str, Any]:
        """What the order says of the unit it works on."""
        units: dict[str, Any] = self.order["units"]
        return units[next(iter(units)) if self.order["type"] == "merge" else self.input]

    def leaves(self, exit_code: int, step: str = "finish", fault: str = "", **more: Any) -> None:
        self.report = {
            "version": 1, "key": self.key, "exit_code": exit_code, "step": step, "fault": fault, "message": fault,
            "host": self.host, "inputs": [{"name": name} for name in self.inputs], "outputs": [], **more,
        }  # fmt: skip
        self.becomes(JobState.LEFT, exit_code=exit_code)

    def dies(self, signal: int = 11) -> None:
        """The executable is killed by a signal; the worker says so."""
        self.leaves(13, "execute", "signal", executable={"signal": signal, "tail": ["Segmentation fault"]})

    def meets_an_outage(self, step: str = "copy", fault: str = "unreachable") -> None:
        """A system that the worker needs does not answer it: the storage of the outputs, if not told otherwise."""
        self.leaves({"establish": 10, "fetch": 12, "copy": 15}[step], step, fault)

    def makes_no_events(self) -> None:
        self.leaves(14, "validate", "too_few_events")

    def finds_no_copy(self) -> None:
        self.leaves(12, "fetch", "absent")

    def is_killed(self) -> None:
        """The worker itself dies: no report."""
        self.becomes(JobState.LEFT, signal=9)

    def is_held(self, code: int = 34) -> None:
        self.becomes(JobState.HELD, hold_code=code, hold_reason="memory 900 MiB over the request", peak_mib=900)

    def vanishes(self) -> None:
        """The batch system forgets it."""
        del self.farm.batch.jobs[self.key]

    def copies(self, which: int = 0, start: str = "") -> dict[str, Any]:
        """An output (of several, the one of this number) is valid and copied; what the report says of it."""
        out = self.order["outputs"][which]
        name = self.unit["outputs"][out["label"]]
        launch, _, number = self.key.rpartition(".")
        below = f"{launch}/{number}-{start or self.farm.next_letters()}"
        made = {"label": out["label"], "name": name, "size": 2000, "checksum": [CHECKSUM], "state": "copied",
                "location": f"{out['location']}/{below}", "url": f"{out['url']}/{below}"}  # fmt: skip
        events = sum(self.farm.sam.by_name[name].metadata.get("event_count", 0) for name in self.inputs)
        first = self.farm.sam.by_name[self.inputs[0]].metadata if self.inputs else {}
        made["metadata"] = {**out["metadata"], "file_name": name, "file_size": 2000, "checksum": [CHECKSUM],
                            **{key: first[key] for key in out["inherit"] if key in first},
                            "event_count": events or self.unit["params"].get("events", 0),
                            "parents": [{"file_name": name} for name in self.inputs]}  # fmt: skip
        self.farm.storage.made.setdefault(made["url"], {})[name] = (2000, CHECKSUM)
        return made

    def succeeds(self, declares: bool = True, without: Collection[str] = ()) -> None:
        """All steps; `declares=False`: SAM does not take the declarations, which are left to the daemon; nor does it
        take that of the outputs `without` (labels)."""
        start = self.farm.next_letters()
        made = [self.copies(which, start) for which in range(len(self.order["outputs"]))]
        refused = [one for one in made if not declares or one["label"] in without or not self.declares(one)]
        done = not refused
        self.leaves(
            0 if done else 16, "finish" if done else "declare", "" if done else "sam_unavailable", outputs=made
        )

    def declares(self, made: dict[str, Any]) -> bool:
        try:
            self.farm.sam.declare(made["metadata"])
            self.farm.sam.add_location(made["name"], made["location"])
        except SamRefused:
            record = self.farm.sam.records([made["name"]])[made["name"]]
            if not record.locations:
                return False
            self.farm.storage.remove(made["url"], made["name"])
            made["state"] = "lost_race"
        else:
            made["state"] = "located"
        return True


class FakeBatch:
    """A queue in memory. `silent`: no call is answered."""

    def __init__(self, farm: "Farm"):
        self.farm, self.silent, self.changes = farm, False, 0
        self.refusal = ""  # why it takes no jobs
        self.known: set[str] = set()
        self.jobs: dict[str, FakeJob] = {}

    def touch(self, job: FakeJob) -> None:
        self.changes += 1
        job.change = self.changes

    def _answer(self) -> None:
        if self.silent:
            raise BatchUnavailable("the batch system does not answer", "ordered by the test")

    def submit(self, launch: Launch) -> None:
        self._answer()
        if self.refusal:
            raise JobRejected(self.refusal, "ask for less")
        for key in [f"{launch.key}.{number}" for number in launch.numbers]:
            if key not in self.known:
                self.known.add(key)
                job = FakeJob(self.farm, key, launch.tag, launch.files, launch.memory_mib)
                job.shuns, self.jobs[key] = frozenset(launch.excluded_hosts), job
                self.touch(self.jobs[key])

    def look(self, daemon: str, cursor: str | None) -> Look:
        self._answer()
        since = int(cursor) if cursor else 0
        seen = [JobSeen(job.key, job.tag, job.state, **job.facts) for job in self.jobs.values() if job.change > since]
        return Look(seen, str(self.changes), complete=cursor is None)

    def fetch(self, job: JobSeen, into: Path) -> None:
        self._answer()
        found = self.jobs.get(job.key)
        if found and found.report:
            (into / "report.json").write_text(json.dumps(found.report))

    def remove(self, keys: Collection[str]) -> None:
        self._answer()
        for key in keys:
            self.jobs.pop(key, None)

    def exclude(self, daemon: str, hosts: Collection[str]) -> None:
        self._answer()
        for job in self.live_jobs():
            if job.state == JobState.IDLE:
                job.shuns = frozenset(hosts)

    def forget(self, launch_key: str) -> None:
        self._answer()
        for key in [key for key in self.jobs if key.startswith(f"{launch_key}.")]:
            del self.jobs[key]

    def live_jobs(self) -> list[FakeJob]:
        return [job for job in self.jobs.values() if job.live]


class Farm:
    """The fake world with one daemon in it."""

    def __init__(
        self,
        folder: Path | None = None,
        now: datetime | None = None,
        flow: Sequence[dict[str, Any]] = (),
        **campaign: Any,
    ):
        self._folder = None if folder else tempfile.TemporaryDirectory()
        self.folder = folder or Path(self._folder.name)
        (self.folder / "campaigns").mkdir()
        (self.folder / "keepupd.yaml").write_text(SETTINGS)
        self.settings = load_settings(self.folder / "keepupd.yaml")
        self.flow = [Campaign.model_validate(CAMPAIGN | one) for one in flow or [campaign]]
        self.now = now or datetime(2026, 1, 5, 2, 0, tzinfo=UTC)
        self.sam, self.storage = FakeSam(), FakeStorage()
        self.sam.clock = lambda: self.now
        self.sam.register_parameter("DUNE.campaign")
        self.sam.register_data_disk("demo:/")
        self.batch, self._letters = FakeBatch(self), 0
        self.databases = 0
        self.loses_database()

    # --- the daemon ------------------------------------------------------------------------------------------------

    def loses_database(self) -> None:
        """Start the daemon on an empty database."""
        self.databases += 1
        self.url = databases.empty(self.folder, f"keepupd{self.databases}")
        self.restarts()

    def restarts(self) -> None:
        """A new process: all that was in memory is gone."""
        if hasattr(self, "database"):
            self.database.close()
        self.database = Database(self.url)
        if not self.database.is_postgres:
            hasty = "PRAGMA synchronous=OFF"
            event.listen(self.database.engine, "connect", lambda connection, _: connection.execute(hasty))
        file_chart, campaign_chart = load_charts()
        causes = load_causes(charts_dir() / "causes.yaml", frozenset(event for _, event, _ in file_chart.edges()))
        self.keeper = Keeper(
            self.settings, self.database, file_chart, campaign_chart, causes, self.sam, self.batch, self.storage
        )
        self.daemon = Passes(self.keeper)
        life.take_up(self.keeper, self.flow, self.now)

    def passes(self, n: int = 1, seconds: float = 1) -> None:
        """Each pass looks and decides, then the courier runs; a second goes by."""
        for _ in range(n):
            self.daemon.one_pass(self.now)
            courier.deliver(self.keeper, EFFECTS, self.now)
            self.now += timedelta(seconds=seconds)

    def later(self, **time: float) -> None:
        self.now += timedelta(**time)

    def next_letters(self) -> str:
        self._letters += 1
        return f"{self._letters:06x}"

    # --- what happens ------------------------------------------------------------------------------------------------

    def finds(self, *names: str, **metadata: Any) -> None:
        for name in names:
            self.sam.put(name, data_tier="raw", **metadata)

    def starts_jobs(self) -> list[FakeJob]:
        """Every idle job starts; gives those that got a file."""
        return [job for job in self.batch.live_jobs() if job.state == JobState.IDLE and job.starts()]

    def job_of(self, name: str) -> FakeJob:
        """The job that has the file; idle jobs are started until one has."""
        self.starts_jobs()
        return next(job for job in self.batch.live_jobs() if job.input == name)

    def operator(self, event: str, *names: str, reason: str = "because") -> str:
        """Ask as keepupctl does, let the daemon act, and give its answer."""
        with self.database.write("test") as db:
            ids = [row.id for row in db.execute(select(units).where(units.c.name.in_(names)))]
            row = {"at": self.now, "who": "ann", "event": event, "campaign_id": 1, "reason": reason,
                   "unit_ids": json.dumps(ids) if names else ""}  # fmt: skip
            asked = db.execute(requests.insert().values(row).returning(requests.c.id)).scalar_one()
        self.daemon.operator(self.now)
        with self.database.read() as db:
            return db.execute(select(requests.c.answer).where(requests.c.id == asked)).scalar_one()

    # --- what can be seen --------------------------------------------------------------------------------------

    def unit(self, name: str) -> Any:
        with self.database.read() as db:
            return db.execute(select(units).where(units.c.name == name)).one()

    def state_of(self, name: str) -> str:
        return str(self.unit(name).state)

    def states(self) -> dict[str, str]:
        with self.database.read() as db:
            return {row.name: row.state for row in db.execute(select(units))}

    def moves_by_itself(self) -> list[str]:
        """Files that have a time to be looked at again: not those declared, set aside, or held until released."""
        with self.database.read() as db:
            return list(db.execute(select(units.c.name).where(OPEN, units.c.due.is_not(None))).scalars())

    def campaign_row(self) -> Any:
        with self.database.read() as db:
            return db.execute(select(campaigns)).one()

    def story(self, name: str) -> list[str]:
        """The events of a file, oldest first."""
        with self.database.read() as db:
            mine = select(history.c.event).join(units, units.c.id == history.c.unit_id).where(units.c.name == name)
            return list(db.execute(mine.order_by(history.c.id)).scalars())

    def steps(self) -> set[tuple[str, str, str]]:
        with self.database.read() as db:
            mine = select(history.c.source, history.c.event, history.c.dest).where(history.c.unit_id.is_not(None))
            return {tuple(row) for row in db.execute(mine)}

    def broken_sums(self) -> dict[str, Any]:
        """What breaks the sum rule, by a count of its own: nothing, when all is well."""
        with self.database.read() as db:
            true: dict[str, int] = {}
            for row in db.execute(select(units)):
                true[row.state] = true.get(row.state, 0) + row.files
            kept: dict[str, int] = {}
            for row in db.execute(select(counters)):
                kept[row.state] = kept.get(row.state, 0) + row.n
            for _ in db.execute(select(files).where(files.c.unit_id.is_(None))):
                true["pending"] = true.get("pending", 0) + 1
            ever = len(db.execute(select(files)).all())
            row = db.execute(select(campaigns)).first()
        kept = {state: n for state, n in kept.items() if n}
        broken = {"counters": (kept, true)} if kept != true else {}
        return broken | ({"ever seen": (row.ever_seen, ever)} if row.ever_seen != ever else {})

    def outputs_of(self, name: str) -> list[str]:
        """Names of the good, located outputs that SAM shows of an input."""
        children = self.sam.children.get(self.sam.by_name[name].id, set())
        good = [self.sam.by_id[child] for child in children]
        return sorted(file.name for file in good if file.locations and not file.retired)
