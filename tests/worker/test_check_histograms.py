"""The check of histograms that keepupd sends with the jobs of an analysis: alone, and run by the worker."""
import os
import subprocess
import sys
import venv
from pathlib import Path

import numpy as np
import pytest
import uproot
from conftest import WORKER
from hist import Hist

CHECK = WORKER.with_name("check_histograms.py")


def check(path, names, python=sys.executable):
    return subprocess.run([python, CHECK, "--names", names, path], capture_output=True, text=True, check=False)


@pytest.fixture
def histograms(tmp_path):
    path, nan = tmp_path / "h.root", Hist.new.Reg(3, 0, 1).Double()
    nan[1] = np.nan
    with uproot.recreate(path) as file:
        file["good"] = Hist.new.Reg(3, 0, 1).Double().fill([0.1])
        file["none"], file["nan"], file["text"] = Hist.new.Reg(3, 0, 1).Double(), nan, "no histogram"
    return path


def test_it_finds_every_fault(histograms):
    assert check(histograms, "good,none").returncode == 0
    done = check(histograms, "good,nan,absent,text")
    assert done.returncode == 1 and "Traceback" not in done.stderr
    for words in ("'nan' has a bin that is not", "'absent' is not there", "'text' is not there"):
        assert words in done.stdout
    assert "all histograms are empty" in check(histograms, "none").stdout
    histograms.write_bytes(histograms.read_bytes()[:300])
    done = check(histograms, "good")
    assert done.returncode == 1 and "can't be read" in done.stdout and "Traceback" not in done.stderr


@pytest.fixture
def bare(tmp_path):
    """A Python without uproot."""
    venv.create(tmp_path / "bare", symlinks=True, with_pip=False)
    return tmp_path / "bare/bin/python3"


def analysis(node, histograms, names, python3=sys.executable, workers=sys.executable, **checks):
    """A job of an analysis: `python3` comes first on its PATH, `workers` is the Python of the worker."""
    node.has_input()
    scratch = node.make_scratch()
    (scratch / CHECK.name).write_text(CHECK.read_text())
    checks["histograms"] = names
    order = node.order("/bin/cp", str(histograms), "{output}", type="analysis", checks=checks)
    path = f"{Path(python3).parent}:{os.environ['PATH']}"
    return node.work(order, scratch=scratch, python=workers, env={"PATH": path})


def test_the_worker_runs_it_and_names_what_is_wrong(node, histograms):
    assert analysis(node, histograms, ["good", "none"]).code == 0
    node.sam.status.clear()
    node.sam.records.clear()
    done = analysis(node, histograms, ["good", "nan"])
    assert (done.code, done.fault) == (14, ("validate", "check_failed")), done.log
    assert "histogram 'nan' has a bin that is not a finite number" in done.report["message"]


def test_one_python_with_uproot_is_enough(node, histograms, bare):
    assert analysis(node, histograms, ["good"], python3=bare).code == 0
    node.sam.status.clear()
    node.sam.records.clear()
    assert analysis(node, histograms, ["good"], workers=bare).code == 0


def test_a_node_without_uproot_is_to_blame_and_not_the_output(node, histograms, bare):
    done = analysis(node, histograms, ["good"], bare, bare)
    assert done.fault == ("validate", "check_missing") and "has no uproot" in done.report["message"], done.log


def test_the_campaigns_own_check_runs_too(node, histograms):
    done = analysis(node, histograms, ["good"], command=["/bin/sh", "-c", "echo too wide; exit 3"])
    assert done.fault == ("validate", "check_failed") and "too wide" in done.report["message"], done.log
