"""The soak test's world: a whole flow (two generators, reco, merge, analysis) on real processes that come and go.

A story reads: world.starts(); world.until_done(at={0.5: world.loses_state}); world.has_every_event_once(). Events are
counted in the files that SAM shows, and in the total; never in keepupd's database.
"""

import re
import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from kill.world import BIN, Process, free_port, until

from keepupd.clients import total_file
from keepupd.clients.catalog import FileRecord
from keepupd.clients.sam import Sam
from keepupd.core.chart import charts_dir

PAYLOAD = Path(__file__).with_name("soak_payload.py")
EVENTS, GROUP = 10, 6  # events of a generated file, files of a merge group
FIRST_RUNS, SUBRUNS = {"a": 1, "b": 1001}, 7
AWAY_S = 10.0
SETTINGS: dict[str, Any] = {
    "name": "soak", "state_dir": "state", "campaigns": ["flow.yaml"], "causes": "causes.yaml",
    "batch": {"kind": "local", "directory": "batch"}, "http": {"port": 0},
    "polls": {"pass_s": 0.5, "inputs_s": 0.7, "outputs_s": 0.7, "operator_s": 0.5, "totals_s": 1,
              "problem_definitions_min_s": 0, "lost_after_s": 5},
}  # fmt: skip
DEFAULTS: dict[str, Any] = {
    "owner": "tests", "contact": "tests@example.org", "validation": {"root": False}, "retry": {"wait_s": 1},
    "limits": {"jobs": 8, "launch_size": 8}, "resources": {"memory_mib": 500, "disk_mib": 10, "wall_s": 300},
}  # fmt: skip
TYPES = {"gen": "generator", "reco": "reco", "merge": "merge", "analyse": "analysis"}  # program -> type of campaign


class FlowWorld:
    """SAM, batch, storage and one daemon with a flow of five campaigns, all below one directory."""

    def __init__(self, home: Path, units: int):
        self.home, self.units, self.kills = home, units, 0
        port = free_port()
        url = f"http://127.0.0.1:{port}/sam/dune/api"
        self.sam_server = Process(
            home / "sam.log", "serving", BIN / "keepup-sam", "serve", "--db", home / "sam.db", "--port", str(port)
        )
        self.batch = Process(home / "batch.log", "serving", BIN / "keepup-batch", "serve", "--dir", home / "batch",
                             "--slots", "3", "--measure-s", "1")  # fmt: skip
        config = home / "keepupd.yaml"
        self.keepupd = Process(home / "keepupd.log", "started daemon=", BIN / "keepupd", "run", "-c", config)
        (home / "data").mkdir()
        causes = (charts_dir() / "causes.yaml").read_text()
        (home / "causes.yaml").write_text(re.sub(r"\bwait_s: \d+\b", "wait_s: 1", causes))
        sam = {"read_url": url, "experiment": "dune", "station": "dune", "user": "tester", "timeout_s": 3}
        worker = {"python": sys.executable, "patience_s": 60, "fetch_patience_s": 1, "timeout_s": 5}
        config.write_text(yaml.safe_dump(SETTINGS | {"sam": sam | {"patience_s": 3}, "worker": worker}))
        (home / "flow.yaml").write_text(yaml.safe_dump(self.flow()))
        self.sam = Sam(url, station="dune", user="tester", patience_s=30)

    def flow(self) -> dict[str, Any]:
        """Generators a and b make half of the units each; their samples are never merged with each other."""
        reads = {"query": "data_tier simulated and DUNE.campaign 'soak_%_gen'"}
        groups = {"by": ["DUNE.sample"], "max_files": GROUP}
        sums = {"histograms": ["events"], "total": {"min_new_files": 5}}
        steps = [
            *(self.generator(sample) for sample in FIRST_RUNS),
            self.step("reco", "reco", "{input}", tier="full-reconstructed", inherit=["DUNE.sample"], input=reads),
            self.step("merge", "merge", "{inputs}", tier="raw", merge=groups, input={"definition": "soak_reco_output"}),
            self.step("analysis", "analyse", "{input}", tier="root-tuple", analysis=sums,
                      input={"definition": "soak_merge_output"}, validation={"root": True}),
        ]  # fmt: skip
        return {"defaults": DEFAULTS, "campaigns": steps}

    def generator(self, sample: str) -> dict[str, Any]:
        target = {"target_units": self.units // 2, "events_per_unit": EVENTS, "first_run": FIRST_RUNS[sample],
                  "subruns_per_run": SUBRUNS}  # fmt: skip
        arguments = ("{run}", "{subrun}", "{events}")
        name, more = f"{sample}_gen", {"generator": target, "metadata": {"DUNE.sample": sample}}
        return self.step(name, "gen", *arguments, tier="simulated", **more)

    def step(self, name: str, program: str, *arguments: str, tier: str, **more: Any) -> dict[str, Any]:
        kind, suffix = ("histogram", "root") if program == "analyse" else ("mc", "txt")
        out = {"tier": tier, "file_type": kind, "file_format": suffix, "location": f"soak:{self.home}/data"}
        argv = [sys.executable, "{scratch}/soak_payload.py", program, "{metadata}", "{output}", *arguments]
        application = {"family": "soak", "name": program, "version": "v1"}
        run = {"argv": argv, "files": [str(PAYLOAD)], "application": application}
        return {"name": f"soak_{name}", "type": TYPES[program], "outputs": [out], "executable": run} | more

    # --- what happens ------------------------------------------------------------------------------------------------

    def starts(self) -> None:
        self.sam_server.starts()
        self.batch.starts()
        for parameter in ("DUNE.campaign", "DUNE.sample"):
            self.sam.register_parameter(parameter)
        self.sam.register_data_disk(f"soak:{self.home}")
        for program in ("gen", "reco", "merge", "analyse"):
            self.sam.register_application("soak", program, "v1")
        self.keepupd.starts(wait=False)

    def kill(self) -> None:
        """kill -9, and a new start."""
        self.keepupd.killed()
        self.kills += 1
        self.keepupd.starts(wait=False)

    def loses_state(self) -> None:
        """Its state directory is emptied, database and all, at a moment when a closed group is not merged yet."""
        until(self.merges_are_open, "a closed group that is not merged yet", 60, lambda: self.keepupd.said()[-4000:])
        self.keepupd.killed()
        shutil.rmtree(self.home / "state")
        self.keepupd.starts(wait=False)

    def merges_are_open(self) -> bool:
        groups = self.sam.definitions("keepup_soak_merge_")
        return len(groups) > self.sam.count("defname: soak_merge_output")

    def sam_is_away(self) -> None:
        self.sam_server.stops()
        time.sleep(AWAY_S)
        self.sam_server.starts()

    def until_done(self, at: dict[float, Callable[[], None]], patience_s: float) -> None:
        """Until the last total is declared. `at`: what happens when that share of all files is in SAM."""
        give_up, due = time.monotonic() + patience_s, sorted(at.items(), key=lambda one: one[0])
        while due or not self.is_done():
            if due and self.sam.count("file_type mc") >= due[0][0] * self.expected:
                due.pop(0)[1]()
            if self.keepupd.dead:
                pytest.fail(f"the daemon has ended by itself:\n{self.keepupd.said()[-4000:]}")
            if time.monotonic() > give_up:
                how_far = f"{self.sam.count('file_type mc')} of {self.expected} files"
                pytest.fail(f"not done after {patience_s} s, {how_far} in SAM\n{self.keepupd.said()[-6000:]}")
            time.sleep(0.2)

    @property
    def expected(self) -> int:
        """Files of events that the flow makes at least: a group may be smaller than it could be."""
        return 2 * self.units + self.units // GROUP

    def is_done(self) -> bool:
        merged, total = self.members("soak_merge"), self.total()
        counted = sum(record.events for record in merged.values())
        return counted >= self.units * EVENTS and total is not None and len(total.parents) == len(merged)

    def ends(self) -> None:
        for process in (self.keepupd, self.batch, self.sam_server):
            process.ends()
        self.sam.close()
        for process in psutil.process_iter():
            try:
                if process.environ().get("_CONDOR_SCRATCH_DIR", "").startswith(f"{self.home}/"):
                    process.kill()
            except (psutil.Error, OSError):
                continue

    # --- what can be seen --------------------------------------------------------------------------------------------

    def members(self, campaign: str) -> dict[str, FileRecord]:
        return self.sam.records([file.name for file in self.sam.files(f"defname: {campaign}_output")])

    def total(self) -> FileRecord | None:
        found = self.sam.records([file.name for file in self.sam.files("file_name soak_analysis_total_v%")])
        return max(
            found.values(), key=lambda one: int(one.name.rpartition("_v")[2].removesuffix(".root")), default=None
        )

    def has_every_event_once(self) -> None:
        merged = self.members("soak_merge")
        found = Counter(line for one in merged.values() for line in path_of(one).read_text().splitlines())
        wanted = self.generated()
        assert found == wanted, f"lost: {wanted - found}, twice: {found - wanted}"
        parents = Counter(parent for one in merged.values() for parent in one.parents)
        assert parents == Counter(list(self.members("soak_reco"))), "each reconstructed file is in one merged file"
        self._total_is_right(wanted.total())

    def generated(self) -> Counter[str]:
        """The events as the generators must have numbered them: SUBRUNS units of a run, from each one's first run."""
        units = [
            (first + n // SUBRUNS, n % SUBRUNS + 1) for first in FIRST_RUNS.values() for n in range(self.units // 2)
        ]
        return Counter(f"{run} {subrun} {n}" for run, subrun in units for n in range(1, EVENTS + 1))

    def _total_is_right(self, events: int) -> None:
        record = self.total()
        assert record is not None
        total = total_file.load(path_of(record))
        assert total.entries() == {"events": events}
        histograms = self.members("soak_analysis")
        assert set(total.files) == set(record.parents) == set(histograms)
        parents = Counter(parent for one in histograms.values() for parent in one.parents)
        assert parents == Counter(list(self.members("soak_merge"))), "each merged file is in one histogram file"

    def left_nothing_behind(self) -> None:
        assert "a fault in keepupd itself" not in self.keepupd.said()
        assert self.sam.projects("keepup_soak_", open_only=True) == []
        names = sorted(path.name for path in (self.home / "data").rglob("*") if path.is_file())
        assert names == sorted(file.name for file in self.sam.files("file_name % with availability any"))


def path_of(record: FileRecord) -> Path:
    [location] = record.locations
    return Path(location.split(":", 1)[1], record.name)
