"""What both demos share: the console, `keepupctl` as an operator types it, and the files that keepupd is given."""

import json
import socket
import subprocess
import sys
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from string import Template
from typing import Any

from rich.console import Console
from services import BIN, Services

from keepupd.clients.sam import Sam

HERE = Path(__file__).resolve().parent
STATES = ("pending", "running", "validated", "declared", "held", "crash", "debug")
console = Console(highlight=False, soft_wrap=True)


class DemoError(Exception):
    """The demo can't run; says why and what to do."""


def start_sam_and_batch(services: Services) -> tuple[Sam, str]:
    """The embedded SAM and the local batch system, both up; a client, and SAM's address."""
    services.start("keepup-sam", "serve", "--db", "sam.db", "--port", "0")
    services.start("keepup-batch", "serve", "--dir", "batch", "--slots", "2")
    url = services.says("keepup-sam", r"serving (http://\S+)")
    services.says("keepup-batch", r"(serving)")
    sam = Sam(url, user="dunepro", patience_s=20)
    sam.register_parameter("DUNE.campaign")
    return sam, url


def write_settings(home: Path, sam_url: str, campaigns: str) -> int:
    """The daemon's file; gives the port of its metrics."""
    port = free_port()
    fill_in("keepupd.yaml.in", home / "keepupd.yaml", home=home, python=sys.executable, sam_url=sam_url,
            http_port=port, campaigns=campaigns)  # fmt: skip
    return port


def fill_in(template: str, file: Path, **values: object) -> None:
    file.write_text(Template((HERE / template).read_text()).substitute(values))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def keepupctl(home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command: list[str | Path] = [BIN / "keepupctl", "-c", str(home / "keepupd.yaml"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def asked(home: Path, *arguments: str) -> defaultdict[str, Any]:
    """What keepupctl answers in JSON; nothing where it has no answer."""
    answer = keepupctl(home, *arguments, "--json").stdout
    return defaultdict(list, json.loads(answer) if answer else {})


def show(home: Path, *arguments: str, remark: str = "") -> list[str]:
    """Type a command and show its answer; says so if there is none."""
    typed = " ".join(f"'{word}'" if " " in word else word for word in arguments)
    console.print(f"\n$ keepupctl {typed}{f'        # {remark}' if remark else ''}", markup=False)
    done = keepupctl(home, *arguments)
    console.print(done.stderr + done.stdout, markup=False, end="")
    return [] if done.stdout else [f"keepupctl {typed} has no answer"]


def bar(files: Mapping[str, int]) -> str:
    """One sign a file, by state; those that are done first."""
    signs = dict(zip(STATES, ("[dim].[/]", "[blue]r[/]", "[cyan]v[/]", "[green]#[/]", "[yellow]h[/]",
                              "[magenta]c[/]", "[red]d[/]"), strict=True))  # fmt: skip
    return "".join(signs[state] * int(files.get(state, 0)) for state in ("declared", *STATES[:3], *STATES[4:]))
