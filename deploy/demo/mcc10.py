"""`make demo`: the production flow of deploy/examples/mcc10 from its first event to its last histogram, by itself.

Five generators, two reconstructions, four merges, four analyses: about 150 files, five of them with trouble. The
flow file is the example's own, with other paths, limits for two slots, and the trouble. Nobody helps but with one
file, whose copy the demo takes away before it is read: it is put back as an operator would. At the end every event
must be in a total exactly once, but for those in files that are set aside.
"""

import os
import random
import re
import shutil
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import NamedTuple

import events
import httpx
from desk import HERE, STATES, DemoError, asked, bar, console, show, start_sam_and_batch, write_settings
from prometheus_client.parser import text_string_to_metric_families
from rich.live import Live
from services import BIN, Services

from keepupd.clients import total_file
from keepupd.clients.sam import Sam
from keepupd.config import load_flow, load_settings
from keepupd.core.serials import run_subrun, unit_name
from keepupd.flow import Flow

EXAMPLE = HERE.parent / "examples/mcc10"
LOOK_EVERY_S, SAY_EVERY_S, MOST_S = 0.3, 5.0, 400.0
AFTER_CANARY = 5  # files with trouble come later than those that a campaign tries first
KINDS = ("generator", "reco", "merge", "analysis")
TOTALS = "totals.png"


class Numbers(NamedTuple):
    """How things stand."""

    files: Mapping[str, Mapping[str, int]]  # of each campaign, by state
    complete: set[str]  # campaigns to which nothing can come any more
    caught_up: set[str]  # campaigns in declared
    causes: set[str]  # of the files that are in trouble now


@dataclass(frozen=True)
class Trouble:
    """What is wrong with a generated file, the state it must end in, and the cause that keepupd must name."""

    generator: str
    kind: str  # for gen.py; empty where the file is well
    words: str
    ends_in: str
    cause: str


TROUBLES = (
    Trouble("dune_mcc10_1a_gen", "corrupt", "has zeros in place of data", "debug", "executable_failed"),
    Trouble("dune_mcc10_1b_gen", "crash", "kills the executable by a signal, once", "declared", "segmentation_fault"),
    Trouble("dune_mcc10_2_gen", "", "was not at its location for a while", "declared", "input_copy_absent"),
    Trouble("dune_mcc10_3_gen", "hungry", "needs more memory than a job asks for", "declared", "memory_over_request"),
    Trouble("dune_mcc10_4_gen", "no_events", "gives an output without events", "debug", "too_few_events"),
)
# What is other here than in the example's flow.yaml: pattern, and what takes its place; each must be found.
CHANGES = {
    r"mcc10:/data/mcc10/": "mcc10:$home/data/",
    r"\[python3, ": "[$python, ",
    r"( +)application: \{family: keepup, version: v1\}\n":
        r"\g<0>\1environment: {KEEPUP_DEMO_TROUBLE: '$trouble', KEEPUP_DEMO_MARKS: $home/marks, "
        "OPENBLAS_NUM_THREADS: '1'}"
        "\n",
    r"resources: .*": "resources: {memory_mib: 220, wall_s: 120}      # one file needs more, and will get it",
    r"retry: .*": "retry: {attempts: 2, wait_s: 2}\n"
                  "  limits: {jobs: 4, launch_size: 4}               # two slots: so each campaign gets its turn",
}  # fmt: skip


def run(home: Path, seed: int) -> int:
    began = time.monotonic()
    with Services(home) as services:
        sam, port = start(services, home, seed)
        flow = load_flow(load_settings(home / "keepupd.yaml")).flow
        files = choose(flow, seed)
        console.print(f"{len(flow.campaigns)} campaigns are in {home}/flow.yaml, logs in {home}/log")
        check(home)
        services.start("keepupd", "run", "-c", str(home / "keepupd.yaml"))
        missing = next(name for name, trouble in files.items() if not trouble.kind)
        faults = Watch(services, sam, port, flow, missing).until_the_end()
        faults += show_all(home, files)
        faults += misplaced(home, files)
        lost = [name for name, trouble in files.items() if trouble.ends_in == "debug"]
        analyses, generators = of_type(flow, "analysis"), of_type(flow, "generator")
        faults += events.lacking(sam, analyses, generators, lost)
        draw(home, sam, analyses)
    for fault in faults:
        console.print(f"demo: {fault}", markup=False)
    said = "FAILED" if faults else "every event is in a total once, but for those in the 2 files in debug"
    console.print(f"demo: {said}; {time.monotonic() - began:.0f} s")
    try_next(home, lost[0])
    return 1 if faults else 0


# --- set up -------------------------------------------------------------------------------------------------------


def start(services: Services, home: Path, seed: int) -> tuple[Sam, int]:
    """SAM with all that the flow needs, the batch system, and the files that keepupd is given."""
    sam, url = start_sam_and_batch(services)
    for parameter in ("DUNE.sample", "DUNE.config"):
        sam.register_parameter(parameter)
    for program in ("gen", "reco", "merge", "analysis"):
        sam.register_application("keepup", program, "v1")
    sam.register_value("data_tiers", "merged")
    for part in ("simulated", "reconstructed", "merged", "histograms"):
        (home / "data" / part).mkdir(parents=True)
    sam.register_data_disk(f"mcc10:{home}/data")
    (home / "marks").mkdir()
    port = write_settings(home, url, "flow.yaml")
    for program in EXAMPLE.glob("*.py"):
        shutil.copy(program, home)
    write_flow(home, "")
    trouble = trouble_words(load_flow(load_settings(home / "keepupd.yaml")).flow, seed)
    write_flow(home, trouble)
    return sam, port


def write_flow(home: Path, trouble: str) -> None:
    words = (EXAMPLE / "flow.yaml").read_text()
    values = {"home": home, "python": sys.executable, "trouble": trouble}
    for pattern, other in CHANGES.items():
        words, n = re.subn(pattern, Template(other).substitute(values), words)
        if n == 0:
            raise DemoError(f"{EXAMPLE}/flow.yaml has nothing like {pattern!r}: mend CHANGES in {__file__}")
    (home / "flow.yaml").write_text(words)


def check(home: Path) -> None:
    """What a coordinator does first. Raises DemoError when keepupd would not start."""
    console.print("\n$ keepupd check -c keepupd.yaml        # its first part; then it shows what it would launch")
    command: list[str | Path] = [BIN / "keepupd", "check", "-c", home / "keepupd.yaml"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    console.print(done.stderr + done.stdout.partition("\n\n")[0] + "\n", markup=False)
    if done.returncode:
        raise DemoError("keepupd check refuses the flow")


def of_type(flow: Flow, kind: str) -> list[str]:
    return [name for name, campaign in flow.campaigns.items() if campaign.type == kind]


def serials(flow: Flow, seed: int) -> Iterator[tuple[Trouble, int]]:
    """Which unit of its generator each trouble meets."""
    chance = random.Random(seed)
    for trouble in TROUBLES:
        generator = flow.campaigns[trouble.generator].generator
        assert generator
        yield trouble, chance.randint(AFTER_CANARY, generator.units)


def trouble_words(flow: Flow, seed: int) -> str:
    """As gen.py takes it: RUN.SUBRUN:KIND."""
    words = []
    for trouble, serial in serials(flow, seed):
        generator = flow.campaigns[trouble.generator].generator
        assert generator
        run_number, subrun = run_subrun(generator.first_run, generator.subruns_per_run, serial)
        words += [f"{run_number}.{subrun}:{trouble.kind}"] if trouble.kind else []
    return " ".join(words)


def choose(flow: Flow, seed: int) -> dict[str, Trouble]:
    """The troubles by the name of the file they are in."""
    found = {}
    for trouble, serial in serials(flow, seed):
        [name] = flow.campaigns[trouble.generator].output_names(unit_name(serial), 1).values()
        found[name] = trouble
    return found


# --- watch --------------------------------------------------------------------------------------------------------


class Watch:
    """Shows how far the flow is, and looks after the one file that needs a person."""

    def __init__(self, services: Services, sam: Sam, port: int, flow: Flow, missing: str):
        self.services, self.sam, self.flow, self.missing = services, sam, flow, missing
        self.metrics_url = f"http://127.0.0.1:{port}/metrics"
        self.home, self.began, self.said = services.home, time.monotonic(), -SAY_EVERY_S
        self.taken_from: Path | None = None  # where the missing file's copy belongs, once it is gone
        self.restored = False
        self.first_analysis = self.merging_ended = 0.0  # seconds since the start; 0: not yet

    def until_the_end(self) -> list[str]:
        """Until each campaign is complete, in declared, and its total declared. Says what is not as it should be."""
        with Live("", console=console) if console.is_terminal else nullcontext() as screen:
            while self.now < MOST_S:
                self.services.check()
                numbers = self.numbers()
                self.look_after_the_missing_file(numbers)
                self.note_times(numbers)
                self.say(numbers, screen)
                if self.is_over(numbers) and self.totals_are_declared():
                    return self.in_the_end()
                time.sleep(LOOK_EVERY_S)
        return [f"not at the end after {MOST_S:.0f} s; see keepupctl stuck, and {self.home}/log"]

    @property
    def now(self) -> float:
        return time.monotonic() - self.began

    def numbers(self) -> Numbers:
        """What the daemon says of itself; nothing while it starts."""
        try:
            text = httpx.get(self.metrics_url, timeout=5).raise_for_status().text
        except httpx.HTTPError:
            return Numbers({}, set(), set(), set())
        families = {one.name: one.samples for one in text_string_to_metric_families(text)}
        files: dict[str, dict[str, int]] = defaultdict(dict)
        for one in families["keepupd_files"]:
            files[one.labels["campaign"]][one.labels["state"]] = int(one.value)
        complete = {one.labels["campaign"] for one in families["keepupd_campaign_complete"] if one.value}
        caught_up = {one.labels["campaign"] for one in families["keepupd_campaign_state"]
                     if one.value and one.labels["state"] == "declared"}  # fmt: skip
        causes = {one.labels["cause"] for one in families.get("keepupd_files_in_trouble", [])}
        return Numbers(files, complete, caught_up, causes)

    def look_after_the_missing_file(self, numbers: Numbers) -> None:
        if self.taken_from is None:
            record = self.sam.records([self.missing]).get(self.missing)
            if record and record.locations:
                self.taken_from = events.path_of(record)
                self.taken_from.rename(self.home / self.missing)
                console.print(f"{self.now:3.0f} s  the copy of {self.missing} is gone, though SAM has its location")
        elif not self.restored and "input_copy_absent" in numbers.causes:
            self.restored = True
            show(self.home, "why", self.missing)
            console.print(f"\n$ mv {self.missing} {self.taken_from.parent}/", markup=False)
            (self.home / self.missing).rename(self.taken_from)
            show(self.home, "release", self.missing, "--reason", "its copy is back")
            console.print()

    def note_times(self, numbers: Numbers) -> None:
        done = {name: numbers.files.get(name, {}).get("declared", 0) for name in of_type(self.flow, "analysis")}
        if not self.first_analysis and any(done.values()):
            self.first_analysis = self.now
        if not self.merging_ended and numbers.complete.issuperset(of_type(self.flow, "merge")):
            self.merging_ended = self.now

    def say(self, numbers: Numbers, screen: Live | None) -> None:
        words = f"{self.now:3.0f} s  " + "; ".join(self.step(kind, numbers) for kind in KINDS)
        if screen:
            bars = [f"       {name:24}{bar(numbers.files.get(name, {}))}" for name in self.flow.campaigns]
            screen.update("\n".join([words, *bars]))
        elif self.now - self.said >= SAY_EVERY_S:
            console.print(words)
            self.said = self.now

    def step(self, kind: str, numbers: Numbers) -> str:
        """`reco 12 of 31 (1 crash)`, of all campaigns of a type."""
        names = of_type(self.flow, kind)
        found = {state: sum(numbers.files.get(name, {}).get(state, 0) for name in names) for state in STATES}
        trouble = ", ".join(f"{found[state]} {state}" for state in ("held", "crash", "debug") if found[state])
        return f"{kind} {found['declared']} of {sum(found.values())}" + (f" ({trouble})" if trouble else "")

    def is_over(self, numbers: Numbers) -> bool:
        return all(names.issuperset(self.flow.campaigns) for names in (numbers.complete, numbers.caught_up))

    def totals_are_declared(self) -> bool:
        for name in of_type(self.flow, "analysis"):
            total = events.newest_total(self.sam, name)
            if total is None or len(total.parents) < len(events.members(self.sam, f"{name}_output")):
                return False
        return True

    def in_the_end(self) -> list[str]:
        console.print(f"{self.now:3.0f} s  all is done; analysis began at {self.first_analysis:.0f} s, "
                      f"merging ended at {self.merging_ended:.0f} s")  # fmt: skip
        faults = [] if self.restored else [f"{self.missing} was read before its copy could be taken away"]
        return faults if self.first_analysis < self.merging_ended else [*faults, "analysis waited for the last merge"]


# --- the end ------------------------------------------------------------------------------------------------------


def show_all(home: Path, files: dict[str, Trouble]) -> list[str]:
    """What an operator would look at: status, the flow, and why each file in trouble is where it is."""
    unexplained = [*show(home, "status"), *show(home, "flow")]
    for name, trouble in files.items():
        unexplained += show(home, "why", name, remark=f"this file {trouble.words}")
    return unexplained + show(home, "total", "dune_mcc10_1_analysis")


def misplaced(home: Path, files: dict[str, Trouble]) -> list[str]:
    """Files with trouble that are not where they should be, or whose cause was not found."""
    faults = []
    for name, trouble in files.items():
        told = asked(home, "history", name)
        states, causes = [step["dest"] for step in told["steps"]], {step["cause"] for step in told["steps"]}
        if states[-1:] != [trouble.ends_in] or trouble.cause not in causes:
            faults.append(f"{name} {trouble.words}; it went {states}, by {causes}, not to {trouble.ends_in} "
                          f"by {trouble.cause}")  # fmt: skip
    return faults


def draw(home: Path, sam: Sam, analyses: list[str]) -> None:
    """The four totals, as SAM has them, in one picture: configuration B measures less well than A."""
    totals = {name: total_file.load(events.path_of(record)) for name in analyses
              if (record := events.newest_total(sam, name))}  # fmt: skip
    total_file.draw_png(totals, home / TOTALS)
    console.print(f"\n{home / TOTALS} shows the totals of {len(totals)} analyses")


def try_next(home: Path, file: str) -> None:
    where = os.path.relpath(home)
    words = f"""
What to try next; keepupctl answers without the daemon too:
  export PATH={os.path.relpath(BIN)}:$PATH KEEPUPD_CONFIG={where}/keepupd.yaml
  keepupctl files dune_mcc10_a_reco
  keepupctl why {file};  keepupctl log {file}
  keepupctl total dune_mcc10_3_analysis --png {where}/sample_3.png
  keepupctl flow --svg {where}/flow.svg
  less {where}/flow.yaml {where}/log/keepupd.log
Then docs/flow.md, and README.md, "Into production"."""
    console.print(words, markup=False)
