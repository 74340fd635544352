"""The demo's count of events sees each one that is lost, or counted twice, though all that is declared looks well."""

import sys
from pathlib import Path

import numpy as np
import pytest
import uproot
from fake_sam import FakeSam
from hist import Hist

from keepupd.clients import total_file

sys.path.insert(0, str(Path(__file__).parents[1] / "deploy/demo"))
import events

GENERATED = {"g1.root": 1, "g2.root": 2}  # file -> subrun of run 7, three events each


class Flow:
    """Two generated files, merged into one file each, a histogram file of each, and a total of both."""

    def __init__(self, folder):
        self.folder, self.sam = folder, FakeSam()
        self.sam.register_parameter("DUNE.campaign")
        self.sam.register_data_disk("demo:/")
        for campaign in ("gen", "ana"):
            self.sam.create_definition(f"{campaign}_output", f"DUNE.campaign {campaign}")
        for name, subrun in GENERATED.items():
            self.put(name, "gen", event_count=3, runs=[[7, subrun, "mc"]])

    def put(self, name, campaign, parents=(), **metadata):
        said = {"data_tier": "raw", "DUNE.campaign": campaign, "parents": [{"file_name": one} for one in parents]}
        self.sam.put(name, location=f"demo:{self.folder}", **said, **metadata)

    def merges(self, name, subruns):
        rows = np.array([(7, subrun, number) for subrun in subruns for number in (1, 2, 3)], np.int32)
        with uproot.recreate(self.folder / name) as file:
            file["tracks"] = dict(zip(("run", "subrun", "event"), rows.T, strict=True))
        self.put(name, "merge")
        self.put(f"h_{name}", "ana", [name])

    def totals(self, files, counted):
        histogram = Hist.new.Reg(3, 0, 3).Weight().fill(np.ones(counted))
        total = total_file.Total((events.COUNTING,), {events.COUNTING: histogram}, dict.fromkeys(files, "adler32:1"))
        total_file.save(total, self.folder / "ana_total_v2.root")
        self.put("ana_total_v2.root", "ana.total", files)

    def lacks(self, lost=()):
        return events.lacking(self.sam, ["ana"], ["gen"], lost)


@pytest.fixture
def flow(tmp_path):
    return Flow(tmp_path)


def test_all_is_there(flow):
    flow.merges("m1.root", [1])
    flow.merges("m2.root", [2])
    flow.totals(["h_m1.root", "h_m2.root"], 6)
    assert flow.lacks() == []


def test_no_total_at_all(flow):
    assert "no total of ana" in flow.lacks()[0]


def test_an_event_in_two_merged_files(flow):
    flow.merges("m1.root", [1])
    flow.merges("m2.root", [1, 2])
    flow.totals(["h_m1.root", "h_m2.root"], 9)
    assert flow.lacks() == ["3 events are too often in the totals, of (run, subrun) (7, 1)"]


def test_a_file_that_is_lost_unless_it_is_set_aside(flow):
    flow.merges("m1.root", [1])
    flow.totals(["h_m1.root"], 3)
    assert flow.lacks() == ["3 events are in no total, of (run, subrun) (7, 2)"]
    assert flow.lacks(lost=["g2.root"]) == []


def test_a_histogram_file_that_the_total_forgot(flow):
    flow.merges("m1.root", [1])
    flow.merges("m2.root", [2])
    flow.totals(["h_m1.root"], 3)
    said = flow.lacks()
    assert len(said) == 2 and "2 histogram files are declared" in said[0] and "in no total" in said[1]


def test_a_total_that_counts_otherwise_than_its_files(flow):
    flow.merges("m1.root", [1, 2])
    flow.totals(["h_m1.root"], 5)
    assert flow.lacks() == ["ana_total_v2.root counts 5 events, the files it is made of hold 6"]
