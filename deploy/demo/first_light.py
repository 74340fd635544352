"""`make demo-first-light`: one campaign keeps up with 40 files, five of them with trouble, in about a minute.

Declares 20 files, and the other 20 while the daemon runs. Then it shows what an operator would look at, and checks
that every file is where it belongs.
"""

import os
import sys
import time
from collections import Counter
from contextlib import nullcontext
from pathlib import Path

from desk import HERE, STATES, asked, bar, console, fill_in, show, start_sam_and_batch, write_settings
from inputs import FILES, NONE, SIMULATION, Input, make_inputs
from rich.live import Live
from services import BIN, Services

from keepupd.clients.sam import Sam

CAMPAIGN = "dune_dc15_pd_sp_reco"
AT_FIRST = 20  # files that are there when the daemon starts
DECLARE_EVERY_S, LOOK_EVERY_S, MOST_S = 0.5, 2.0, 90.0


def run(home: Path, seed: int, names: str) -> int:
    began = time.monotonic()
    inputs = make_inputs(home / "inputs", seed, names)
    console.print(f"{FILES} ROOT files are in {home}/inputs, logs in {home}/log")
    with Services(home) as services:
        sam = start(services, home)
        for one in inputs[:AT_FIRST]:
            declare(sam, one)
        services.start("keepupd", "run", "-c", str(home / "keepupd.yaml"))
        settled = watch(services, sam, inputs)
        faults = [] if settled else [f"not settled after {MOST_S:.0f} s"]
        faults += show_all(home, inputs)
        faults += misplaced(home, sam, inputs)
    for fault in faults:
        console.print(f"demo: {fault}", markup=False)
    console.print(f"demo: {'FAILED' if faults else 'every file is where it belongs'}, {time.monotonic() - began:.0f} s")
    try_next(home, inputs)
    return 1 if faults else 0


def start(services: Services, home: Path) -> Sam:
    """The embedded SAM with what it must know, the local batch system, and the two YAML files."""
    sam, url = start_sam_and_batch(services)
    sam.register_application("keepup", "reco", "v1")
    for name in ("inputs", "outputs"):
        (home / name).mkdir(exist_ok=True)
        sam.register_data_disk(f"demo:{home / name}")
    (home / "marks").mkdir()
    (home / "campaigns").mkdir()
    write_settings(home, url, "campaigns")
    fill_in("campaign.yaml.in", home / f"campaigns/{CAMPAIGN}.yaml", home=home, here=HERE, python=sys.executable,
            files=FILES, simulation=SIMULATION)  # fmt: skip
    return sam


def declare(sam: Sam, one: Input) -> None:
    sam.declare(one.metadata())
    sam.add_location(one.name, f"demo:{one.path.parent}")


# --- watch --------------------------------------------------------------------------------------------------------


def watch(services: Services, sam: Sam, inputs: list[Input]) -> bool:
    """Declare the rest bit by bit and show progress, until all is settled; False when the time is up."""
    began, rest, shown = time.monotonic(), list(inputs[AT_FIRST:]), ""
    wanted = Counter(one.trouble.ends_in for one in inputs)
    with Live("", console=console) if console.is_terminal else nullcontext() as screen:
        while (now := time.monotonic() - began) < MOST_S:
            services.check()
            while rest and now > DECLARE_EVERY_S * (FILES - len(rest) - AT_FIRST + 1):
                declare(sam, rest.pop(0))
            files = counts(services.home)
            words = f"{FILES - len(rest)} files in SAM: " + ", ".join(f"{files[s]} {s}" for s in STATES if files[s])
            if screen:
                screen.update(f"{now:3.0f} s  {words}\n       {bar(files)}")
            elif words != shown:
                console.print(f"{now:3.0f} s  {words}")
            shown = words
            if not rest and files == wanted:
                return True
            time.sleep(LOOK_EVERY_S)
    return False


def counts(home: Path) -> Counter[str]:
    """Files of the campaign by state, as the operator's command says; empty while the daemon starts."""
    campaigns = asked(home, "status")["campaigns"]
    return +Counter(campaigns[0]["files"] if campaigns else {})


# --- the end ------------------------------------------------------------------------------------------------------


def show_all(home: Path, inputs: list[Input]) -> list[str]:
    """What an operator would look at: the status, and why each file in trouble is where it is. Says what is missing."""
    unexplained = show(home, "status")
    for one in inputs:
        if one.trouble is not NONE:
            unexplained += show(home, "why", one.name, remark=f"this file {one.trouble.words}")
    return unexplained


def misplaced(home: Path, sam: Sam, inputs: list[Input]) -> list[str]:
    """What is not as it should be: states and causes as keepupctl tells them, and outputs as SAM has them."""
    listed = asked(home, "files", CAMPAIGN, "--limit", str(2 * FILES))["files"]
    states = {one["name"]: one["state"] for one in listed}
    faults = [f"{one.name} {one.trouble.words}; it is {states.get(one.name)}, not {one.trouble.ends_in}"
              for one in inputs if states.pop(one.name, None) != one.trouble.ends_in]  # fmt: skip
    faults += [f"{name} was never declared as an input" for name in states]
    for one in inputs:
        if one.trouble.causes:
            met = {step["cause"] for step in asked(home, "history", one.name)["steps"]}
            faults += [f"{one.name} {one.trouble.words}; no attempt failed by {c}" for c in one.trouble.causes - met]
    outputs = f"defname: {CAMPAIGN}_output"
    parents = [file.name for file in sam.files(f"isparentof: ({outputs} with availability physical)")]
    wanted = sorted(one.name for one in inputs if one.trouble.ends_in == "declared")
    if sorted(parents) != wanted or sam.count(outputs) != len(wanted):
        faults.append(f"SAM shows {sam.count(outputs)} outputs of {len(parents)} inputs, not {len(wanted)}")
    return faults


def try_next(home: Path, inputs: list[Input]) -> None:
    file = next(one.name for one in inputs if one.trouble.ends_in == "debug")
    where = os.path.relpath(home)
    words = f"""
What to try next; keepupctl answers without the daemon too:
  export PATH={os.path.relpath(BIN)}:$PATH KEEPUPD_CONFIG={where}/keepupd.yaml
  keepupctl files {CAMPAIGN} --state debug
  keepupctl history {file}
  keepupctl log {file}
  keepupctl chart file
  less {where}/log/keepupd.log {where}/campaigns/{CAMPAIGN}.yaml
Then README.md, "Into production"."""
    console.print(words, markup=False)
