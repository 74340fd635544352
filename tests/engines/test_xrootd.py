"""keepupd with its storage on a real XRootD server, and nowhere else: SAM, keepup-batch and workers are real too."""

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import uproot
import yaml
from hist import Hist
from pools.xrootd import CLIENT, Server
from world import CAMPAIGN, FINE, MISSING, MIXED, SLOW, World

pytestmark = [pytest.mark.long, pytest.mark.engine, pytest.mark.timeout(300)]
FILL = 'cp "$HISTOGRAM" "$2"'


class XrootdWorld(World):
    """A world below what the server serves; jobs and daemon are told of root: URLs alone."""

    def __init__(self, home: Path, server: Server):
        self.server = server
        super().__init__(home)
        server.owns()
        self.sam.register_data_disk(f"demo:{home}", [f"{server.url}/"])

    def writes_settings(self, **changes: Any) -> None:
        super().writes_settings(schemas="root", copy_patience_s=2, **changes)
        settings = yaml.safe_load(self.config.read_text())
        settings["polls"]["totals_s"] = 1
        self.config.write_text(yaml.safe_dump(settings))

    def writes_campaign(self, **changes: Any) -> None:
        super().writes_campaign(**changes)
        self.outputs_go_to_the_server()

    def writes_flow(self, **scripts: tuple[str, str, dict[str, Any]]) -> None:
        super().writes_flow(**scripts)
        self.outputs_go_to_the_server()

    def outputs_go_to_the_server(self) -> None:
        path = self.home / "campaigns" / "kill.yaml"
        text = yaml.safe_load(path.read_text())
        for campaign in text.get("campaigns", [text]):
            for output in campaign["outputs"]:
                output["file_format"] = "root" if campaign["type"] == "analysis" else "txt"
                output["url"] = f"{self.server.url}/{self.home}/out"
        path.write_text(yaml.safe_dump(text))


@pytest.fixture
def world(xrootd: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[XrootdWorld]:
    for name, value in CLIENT.items():
        monkeypatch.setenv(name, value)
    home = xrootd.data / tmp_path.name
    home.mkdir()
    world = XrootdWorld(home, xrootd)
    yield world
    world.ends()
    if not xrootd.runs():
        xrootd.starts()


def test_a_campaign_keeps_up(world: XrootdWorld) -> None:
    world.declares(8, MIXED)
    world.keepupd.starts()
    world.settles(120)
    world.keeps_its_promises()


def test_a_server_away_for_a_while_costs_no_attempt(world: XrootdWorld) -> None:
    world.declares(6, (SLOW,), seconds=1)
    world.keepupd.starts()
    world.waits(lambda: len(world.workers()) == 2, "two jobs")
    world.server.stops()
    world.waits(lambda: "held" in world.states().values(), "a job that has given up", 90)
    why = world.keepupctl("why", next(name for name, state in world.states().items() if state == "held"), check=False)
    assert "does not answer" in why.stdout, why.stdout
    world.server.starts()
    world.waits(lambda: "running" not in world.states().values(), "the others go on", 60)
    held = [name for name, state in world.states().items() if state == "held"]
    world.keepupctl("release", *held, "--reason", "it is back", "--yes")  # only one host saw it: else in an hour
    world.settles(120)
    world.keeps_its_promises()


def test_a_loser_of_two_is_removed_by_the_daemon(world: XrootdWorld) -> None:
    """The worker is killed when its copy is there, and not declared; another job makes the output."""
    [one] = world.declares(1, (SLOW,), seconds=2)
    world.keepupd.starts()
    world.waits(lambda: world.ran(one.name), "the executable runs")
    world.sam_server.signal(signal.SIGSTOP)  # the copy is made, and can't be declared
    world.waits(lambda: [path for path in (world.home / "out").rglob("raw*") if path.is_file()], "a copy")
    for worker in world.workers():
        with_children = [worker, *worker.children(recursive=True)]
        for process in with_children:
            process.kill()
        psutil.wait_procs(with_children, 5)
    world.sam_server.signal(signal.SIGCONT)
    world.settles(120)
    assert len(world.rows("SELECT * FROM attempts")) == 2, "or no copy lost"
    world.keeps_its_promises(losses=world.units()[one.name]["losses"])


def test_histogram_files_are_summed_and_the_total_goes_to_the_server(world: XrootdWorld) -> None:
    histogram = Hist.new.Reg(20, -1, 1, label="slope").Double().fill(np.linspace(-0.9, 0.9, 50))
    with uproot.recreate(world.home / "histogram.root") as file:
        file["slope"] = histogram
    world.writes_flow(analysis=(FILL, "{input} {output}", {
        "tier": "histogram", "input": {"query": "data_tier raw"},
        "analysis": {"histograms": ["slope"], "total": {"min_new_files": 3}},
        "executable": {"argv": ["sh", str(world.home / "analysis.sh"), "{input}", "{output}"],
                       "application": {"family": "keepup", "name": "null", "version": "v1"},
                       "environment": {"HISTOGRAM": str(world.home / "histogram.root")}},
    }))  # fmt: skip
    world.declares(3, (FINE,))
    world.keepupd.starts()
    world.waits(lambda: world.sam.records(["kill_analysis_total_v1.root"]), "a declared total", 60)
    world.settles()
    record = world.sam.records(["kill_analysis_total_v1.root"])["kill_analysis_total_v1.root"]
    assert list(record.locations) == [f"demo:{world.home}/out/totals"]
    with uproot.open(world.home / "out" / "totals" / record.name) as file:
        assert file["slope"].to_hist().sum().value == 3 * 50


def test_a_missing_copy_is_held_and_goes_on_when_it_is_there(world: XrootdWorld) -> None:
    [one] = world.declares(1, (MISSING,))
    world.keepupd.starts()
    world.waits(lambda: world.state(one.name) == "held", "it is held")
    said = world.keepupctl("why", one.name, check=False).stdout
    assert "the input's copy is not at its location" in said and "no such file" in said
    (world.home / "in" / one.name).write_bytes(one.data)
    world.keepupctl("release", one.name, "--reason", "it is there now", "--yes")
    world.waits(lambda: world.state(one.name) == "declared", "it is declared")
    assert len(list(world.sam.files(f"DUNE.campaign {CAMPAIGN} with availability anylocation"))) == 1
