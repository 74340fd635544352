"""Fixtures of the worker's tests: a node with a scratch directory, a scripted SAM, and real ROOT files."""
import json
import os
import subprocess
import sys
import zlib
from pathlib import Path

import pytest
from scripted_sam import ScriptedSam

from keepupd.worker import keepup_worker

WORKER = Path(keepup_worker.__file__)


class Outcome:
    """What is left of a worker that has ended."""
    def __init__(self, code, log, scratch):
        self.code, self.log, self.scratch = code, log, scratch
        self.report = json.loads((scratch / "report.json").read_text())

    @property
    def fault(self):
        return self.report["step"], self.report["fault"]

    @property
    def output(self):
        return self.report["outputs"][0]


class Node:
    """A node with a scratch directory, an output area, and a SAM to talk to."""
    def __init__(self, place, sam, root_bytes):
        self.place, self.sam, self.root_bytes, self.scratches = place, sam, root_bytes, 0
        self.storage, self.results = place / "storage", place / "results"
        self.storage.mkdir()
        self.results.mkdir()

    def has_input(self, name="run1.root", data=None, stored_as=None, **record):
        """Put a file into storage and into SAM's queue."""
        data = self.root_bytes if data is None else data
        path = self.storage / (stored_as or name)
        path.write_bytes(data)
        self.sam.deliver(name, path, {"file_size": len(data), "checksum": [f"adler32:{zlib.adler32(data):08x}"],
                                      "runs": [[1, 2, "physics"]], **record})
        return path

    def order(self, *argv, outputs=None, limits=None, checks=None, **changes):
        units = {name: {"unit": name, "outputs": {"reco": name.rpartition("/")[2].replace("\n", "_")[:150] + ".out"}}
                 for name in self.sam.queue}
        spec = {"label": "reco", "location": f"demo:{self.results}", "url": f"file://{self.results}",
                "checks": {"root": True, "min_bytes": 1, **(checks or {})}, "inherit": ["data_stream"],
                "metadata": {"file_type": "detector", "data_tier": "full-reconstructed", "DUNE.campaign": "dune_x"}}
        order = {
            "version": 1, "daemon": "test", "campaign": "dune_x", "type": "reco", "launch": "L",
            "sam": {"read_url": self.sam.base, "write_url": self.sam.base, "station": "dune", "group": "dune",
                    "user": "dunepro", "patience_s": 3, "timeout_s": 1},
            "project": "keepup_L", "schemas": "file", "shell": False, "environment": {},
            "application": {"family": "keepup", "name": "reco", "version": "v1"},
            "argv": list(argv) or ["/bin/cp", "{input}", "{output}"], "units": units, "outputs": outputs or [spec],
            "limits": {"fetch_patience_s": 0, "stage_patience_s": 2, "copy_patience_s": 0, **(limits or {})}}
        return {**order, **changes}

    def merge_order(self, command="cp $1 {output}", **changes):
        """All files in SAM's queue are one group."""
        units = {"g1": {"unit": "g1", "outputs": {"reco": "merged.root"}, "inputs": list(self.sam.queue)}}
        return self.order("/bin/sh", "-c", command, "sh", "{inputs}", type="merge", units=units, **changes)

    def make_scratch(self):
        self.scratches += 1
        scratch = self.place / f"scratch{self.scratches}"
        scratch.mkdir()
        return scratch

    def start(self, order, job="L.1", python=sys.executable, env=None, scratch=None):
        """Start a worker. Its stdout goes to a file, as in a batch job."""
        scratch = scratch or self.make_scratch()
        (scratch / "order.json").write_text(order if isinstance(order, str) else json.dumps(order))
        with (scratch / "stdout").open("wb") as out:
            process = subprocess.Popen([python, WORKER, "order.json", "--job", job], cwd=scratch, stdout=out,
                                       stderr=subprocess.STDOUT, env={**os.environ, **(env or {})})
        process.scratch = scratch
        return process

    def wait(self, process):
        code = process.wait(timeout=60)
        return Outcome(code, (process.scratch / "stdout").read_text(), process.scratch)

    def work(self, order=None, **how):
        return self.wait(self.start(order or self.order(), **how))

    def copies(self):
        return sorted(path for path in self.results.rglob("*") if path.is_file())


@pytest.fixture(scope="session")
def root_bytes(tmp_path_factory):
    """A real ROOT file with a tree of 100 entries."""
    import numpy
    import uproot
    path = tmp_path_factory.mktemp("root") / "hits.root"
    with uproot.recreate(path) as file:
        file["hits"] = {"event": numpy.arange(100), "charge": numpy.random.default_rng(1).random(100)}
    return path.read_bytes()


@pytest.fixture
def sam():
    server = ScriptedSam()
    yield server
    server.stop()


@pytest.fixture
def node(tmp_path, sam, root_bytes):
    return Node(tmp_path, sam, root_bytes)
