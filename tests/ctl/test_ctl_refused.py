"""A histogram file that a running total refuses is seen where people look: status, why, the metrics."""

import zlib
from pathlib import Path

import pytest
import uproot
from farm import Farm
from hist import Hist
from prometheus_client import generate_latest

from keepupd.daemon.metrics import Metrics

GOOD, BAD = (Hist.new.Reg(n, 0, 1).Double().fill([0.5]) for n in (20, 7))


@pytest.fixture
def farm(tmp_path):
    (tmp_path / "out").mkdir()
    out = {"tier": "histogram", "file_type": "mc", "location": "demo:/out", "url": f"file://{tmp_path}/out"}
    executable = {"argv": ["a", "{output}"], "application": {"family": "t", "name": "a", "version": "v1"}}
    ana = {"name": "ana", "type": "analysis", "analysis": {"histograms": ["slope"]}, "outputs": [out]}
    farm = Farm(tmp_path, flow=[ana | {"executable": executable}])
    yield farm
    farm.database.close()


def ready(farm, content):
    """Jobs make real histogram files, which the total then meets."""
    farm.later(minutes=6)
    farm.passes(3)
    for job in farm.starts_jobs():
        made = job.copies()
        folder = Path(made["url"].removeprefix("file://"))
        folder.mkdir(parents=True)
        with uproot.recreate(folder / made["name"]) as file:
            file["slope"] = content
        made["metadata"]["checksum"] = [f"adler32:{zlib.adler32((folder / made['name']).read_bytes()):08x}"]
        job.declares(made)
        job.leaves(0, outputs=[made])
    farm.later(minutes=6)
    farm.passes(3)


def test_a_refused_histogram_file_is_seen_and_no_longer_when_it_was_made_again(farm, shift):
    for name, content in (("f1.raw", GOOD), ("f2.raw", BAD)):
        farm.finds(name)
        ready(farm, content)
    assert "! ana: its total refuses 1 histogram files: keepupctl" in shift.reads("status")
    assert shift.json("status")["campaigns"][0]["total_refused_files"] == 1
    told = shift.reads("why", "ana")
    assert "total       refuses 1 histogram files" in told and "total ana`" in told
    metrics = Metrics(farm.database, lambda: farm.now).registry
    assert 'keepupd_total_refused_files{campaign="ana"} 1.0' in generate_latest(metrics).decode()
    assert "f1_ana.raw" not in shift.reads("total", "ana")
    assert "    f1_ana.raw" in shift.reads("total", "ana", "--files")
    farm.operator("redo", "f2.raw")
    ready(farm, GOOD)
    assert "refuses" not in shift.reads("status") + shift.reads("why", "ana")
    assert 'keepupd_total_refused_files{campaign="ana"} 0.0' in generate_latest(metrics).decode()
