"""`make demo`: a real daemon keeps up with 40 files, five of them with trouble, in about a minute.

Starts the embedded SAM, the local batch system and the daemon as processes of their own, declares 20 files, and the
other 20 while it runs. Then it shows what an operator would look at, and checks that every file is where it belongs.
All of it lies in build/demo. Exit codes: 0 every file is where it belongs; 1 not so; 2 the demo could not run.
"""

import argparse
import fcntl
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from string import Template
from typing import Any

from inputs import FILES, NONE, SIMULATION, Input, make_inputs
from rich.console import Console
from rich.live import Live
from services import BIN, ServiceFailed, Services, end_leftovers

from keepupd.clients.sam import Sam
from keepupd.core.errors import KeepupError

HERE = Path(__file__).resolve().parent
CAMPAIGN = "dune_dc15_pd_sp_reco"
AT_FIRST = 20  # files that are there when the daemon starts
DECLARE_EVERY_S, LOOK_EVERY_S, MOST_S = 0.5, 2.0, 90.0
STATES = ("pending", "running", "validated", "declared", "held", "crash", "debug")
OURS = ".keepupd-demo"  # marks a directory that the demo may empty
console = Console(highlight=False, soft_wrap=True)


class DemoError(Exception):
    """The demo can't run; says why and what to do."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dir", type=Path, default=Path("build/demo"), help="where all of it goes; emptied first")
    parser.add_argument("--seed", type=int, default=15, help="decides which files have trouble, and the order")
    parser.add_argument("--names", choices=("plain", "other"), default="plain", help="other: names without sense")
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(2))
    try:
        with own_directory(args.dir.resolve()) as home:
            return run(home, args.seed, args.names)
    except (DemoError, ServiceFailed, KeepupError) as error:
        print(f"demo: {error}", file=sys.stderr)
    except KeyboardInterrupt:
        print("demo: interrupted, all its processes are ended", file=sys.stderr)
    return 2


@contextmanager
def own_directory(home: Path) -> Iterator[Path]:
    """An empty directory, ours alone. What an earlier demo left there, processes too, is ended and removed."""
    home.mkdir(parents=True, exist_ok=True)
    directory = os.open(home, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise DemoError(f"another demo runs in {home}: wait for it, or end it with Ctrl-C") from None
    if any(home.iterdir()) and not (home / OURS).exists():
        raise DemoError(f"{home} holds something else than a demo: give another --dir")
    end_leftovers(home)
    for old in home.iterdir():
        shutil.rmtree(old) if old.is_dir() and not old.is_symlink() else old.unlink()
    (home / OURS).touch()
    try:
        yield home
    finally:
        os.close(directory)


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
        faults += show(home, inputs)
        faults += misplaced(home, sam, inputs)
    for fault in faults:
        console.print(f"demo: {fault}", markup=False)
    console.print(f"demo: {'FAILED' if faults else 'every file is where it belongs'}, {time.monotonic() - began:.0f} s")
    try_next(home, inputs)
    return 1 if faults else 0


# --- set up -------------------------------------------------------------------------------------------------------


def start(services: Services, home: Path) -> Sam:
    """The embedded SAM with what it must know, the local batch system, and the two YAML files."""
    services.start("keepup-sam", "serve", "--db", "sam.db", "--port", "0")
    services.start("keepup-batch", "serve", "--dir", "batch", "--slots", "2")
    url = services.says("keepup-sam", r"serving (http://\S+)")
    services.says("keepup-batch", r"(serving)")
    sam = Sam(url, user="dunepro", patience_s=20)
    sam.register_parameter("DUNE.campaign")
    sam.register_application("keepup", "reco", "v1")
    for name in ("inputs", "outputs"):
        (home / name).mkdir(exist_ok=True)
        sam.register_data_disk(f"demo:{home / name}")
    (home / "marks").mkdir()
    configure(home, url)
    return sam


def configure(home: Path, sam_url: str) -> None:
    (home / "campaigns").mkdir()
    values = {
        "home": home, "here": HERE, "python": sys.executable, "sam_url": sam_url, "http_port": free_port(),
        "files": FILES, "simulation": SIMULATION,
    }  # fmt: skip
    for template, file in (("keepupd.yaml.in", "keepupd.yaml"), ("campaign.yaml.in", f"campaigns/{CAMPAIGN}.yaml")):
        (home / file).write_text(Template((HERE / template).read_text()).substitute(values))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


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
                screen.update(f"{now:3.0f} s  {words}\n{bar(files)}")
            elif words != shown:
                console.print(f"{now:3.0f} s  {words}")
            shown = words
            if not rest and files == wanted:
                return True
            time.sleep(LOOK_EVERY_S)
    return False


def bar(files: Counter[str]) -> str:
    """One sign a file, by state."""
    signs = dict(zip(STATES, ("[dim].[/]", "[blue]r[/]", "[cyan]v[/]", "[green]#[/]", "[yellow]h[/]",
                              "[magenta]c[/]", "[red]d[/]"), strict=True))  # fmt: skip
    return "       " + "".join(signs[state] * files[state] for state in ("declared", *STATES[:3], *STATES[4:]))


def counts(home: Path) -> Counter[str]:
    """Files of the campaign by state, as the operator's command says; empty while the daemon starts."""
    campaigns = asked(home, "status")["campaigns"]
    return +Counter(campaigns[0]["files"] if campaigns else {})


def asked(home: Path, *arguments: str) -> defaultdict[str, Any]:
    """What keepupctl answers in JSON; nothing where it has no answer."""
    answer = keepupctl(home, *arguments, "--json").stdout
    return defaultdict(list, json.loads(answer) if answer else {})


def keepupctl(home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command: list[str | Path] = [BIN / "keepupctl", "-c", str(home / "keepupd.yaml"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


# --- the end ------------------------------------------------------------------------------------------------------


def show(home: Path, inputs: list[Input]) -> list[str]:
    """What an operator would look at: the status, and why each file in trouble is where it is. Says what is missing."""
    console.print("\n$ keepupctl status")
    console.print(keepupctl(home, "status").stdout, markup=False)
    unexplained = []
    for one in inputs:
        if one.trouble is not NONE:
            console.print(f"$ keepupctl why {one.name}        # this file {one.trouble.words}")
            answer = keepupctl(home, "why", one.name)
            console.print(answer.stdout + answer.stderr, markup=False)
            unexplained += [] if answer.stdout else [f"keepupctl does not explain {one.name}"]
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


if __name__ == "__main__":
    sys.exit(main())
