"""The example flow's programs, run as a worker runs them: each does its step, and says so when it can't."""

import json
import os
import runpy
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import uproot

from keepupd.worker.keepup_worker import root_trouble

HERE = Path(__file__).parents[2] / "deploy/examples/mcc10"
CHECK = HERE.parents[2] / "keepupd/worker/check_histograms.py"
PROGRAMS = ("gen", "reco", "merge", "analyse")


def run(program, *arguments, **environment):
    command = [sys.executable, str(HERE / f"{program}.py"), *map(str, arguments)]
    surroundings = {**os.environ, "OPENBLAS_NUM_THREADS": "1", **environment}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=surroundings)


def check(names, path):
    """keepupd's own check of histograms, as a worker runs it."""
    command = [sys.executable, str(CHECK), "--names", names, str(path)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def works(program, *arguments, **environment):
    done = run(program, *arguments, **environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def generated(directory, subrun, *, sample="2", events=60, seed=7, trouble=""):
    path = directory / f"hits_{subrun}.root"
    numbers = ("--run", 1001, "--subrun", subrun, "--seed", seed, "--events", events)
    files = ("--out", path, "--metadata", path.with_suffix(".json"))
    works("gen", *numbers, "--sample", sample, *files, KEEPUP_DEMO_TROUBLE=trouble)
    return path


def reco_arguments(hits, config="A"):
    tracks = hits.with_name(hits.name.replace("hits", f"tracks_{config}"))
    return tracks, ("--in", hits, "--out", tracks, "--metadata", tracks.with_suffix(".json"), "--config", config)


def reconstructed(hits, config="A", **environment):
    tracks, arguments = reco_arguments(hits, config)
    works("reco", *arguments, **environment)
    return tracks


def said(path):
    return json.loads(path.with_suffix(".json").read_text())


def columns(path, tree):
    with uproot.open(path) as file:
        return file[tree].arrays(library="np")


@pytest.fixture(scope="module")
def tracks(tmp_path_factory):
    """Two subruns, reconstructed for configuration A; not to be changed."""
    directory = tmp_path_factory.mktemp("tracks")
    return [reconstructed(generated(directory, subrun)) for subrun in (1, 2)]


@pytest.fixture(scope="module")
def spoilt(tmp_path_factory):
    """A file of hits for each kind of trouble."""
    directory = tmp_path_factory.mktemp("spoilt")
    kinds = enumerate(("corrupt", "crash", "hungry", "no_events"), 1)
    return {kind: generated(directory, n, trouble=f"1001.{n}:{kind} 77.1:corrupt") for n, kind in kinds}


@pytest.mark.parametrize("program", PROGRAMS)
def test_each_says_what_it_is_for(program):
    assert "usage:" in works(program, "--help")


def test_a_retry_generates_the_same_events_and_another_subrun_others(tmp_path):
    first = columns(generated(tmp_path, 1), "hits")
    again = columns(generated(tmp_path, 1), "hits")
    other = columns(generated(tmp_path, 2), "hits")
    assert all(np.array_equal(first[name], again[name]) for name in first)
    assert not np.array_equal(first["true_slope"], other["true_slope"])
    assert said(tmp_path / "hits_1.root") == {
        "event_count": 60, "first_event": 1, "last_event": 60, "runs": [[1001, 1, "mc"]],
    }  # fmt: skip


def test_the_fit_finds_the_true_line_in_spite_of_noise(tmp_path):
    hits = generated(tmp_path, 1, sample="3", events=300)
    truth, found = columns(hits, "hits"), columns(reconstructed(hits), "tracks")
    assert np.array_equal(found["event"], truth["event"])
    pull = np.abs(found["slope"] - truth["true_slope"]) / 2e-4  # 0.2 mm over twelve layers, 1.1 m long
    assert np.median(pull) < 1 and np.mean(pull < 5) > 0.98


def test_the_physics_depends_on_configuration_and_sample(tmp_path):
    widths, shapes = {}, {}
    for config, sample in (("A", "2"), ("B", "2"), ("A", "4")):
        found = columns(reconstructed(generated(tmp_path, 1, sample=sample, events=300), config), "tracks")
        widths[config, sample] = np.nanstd(found["residual"])
        shapes[config, sample] = np.nanmean(found["chi2"] / (found["points"] - 2))
        assert np.isnan(found["residual"][:, 3]).all() == (config == "B"), "layer 3 has no voltage in B"
    assert 0.15 < widths["A", "2"] < 0.25 and 0.45 < widths["B", "2"] < 0.65
    assert 0.8 < shapes["A", "2"] < 1.2 and 0.8 < shapes["B", "2"] < 1.2, "each knows its own resolution"
    assert shapes["A", "4"] > 1.5, "a straight line does not fit a curved track"


def test_an_event_without_a_line_is_kept_and_shown_as_such(tmp_path):
    hits = generated(tmp_path, 1, events=3)
    content = columns(hits, "hits")
    content["wire"][1, 3:] = -1
    with uproot.recreate(hits) as file:
        file["hits"] = content
    tracks = reconstructed(hits)
    found = columns(tracks, "tracks")
    assert said(tracks)["event_count"] == 3 and found["points"][1] == 0
    assert np.isnan(found["slope"][1]) and np.isfinite(found["slope"][[0, 2]]).all()


# --- trouble in the files' contents


def test_trouble_is_in_the_content_alone(tmp_path, spoilt):
    good = said(generated(tmp_path, 9))
    for subrun, path in enumerate(spoilt.values(), 1):
        assert root_trouble(path) is None, "the worker's check of the generator's output passes"
        assert said(path) == good | {"runs": [[1001, subrun, "mc"]]}
    numbers = ("--run", 1, "--subrun", 1, "--seed", 1, "--events", 1)
    done = run("gen", *numbers, "--sample", 2, "--out", "x", "--metadata", "y", KEEPUP_DEMO_TROUBLE="1.1:explode")
    assert done.returncode == 1 and "explode" in done.stderr and "corrupt, crash" in done.stderr


def test_a_corrupt_file_fails_each_time(spoilt):
    _, arguments = reco_arguments(spoilt["corrupt"])
    for _ in range(2):
        assert run("reco", *arguments).returncode == 1


def test_a_strange_wire_ends_reco_by_a_signal_once(tmp_path, spoilt):
    tracks, arguments = reco_arguments(spoilt["crash"])
    marks = tmp_path / "marks"
    marks.mkdir()
    done = run("reco", *arguments, KEEPUP_DEMO_MARKS=str(marks))
    assert done.returncode == -signal.SIGSEGV and "wire 4711" in done.stdout and not tracks.exists()
    works("reco", *arguments, KEEPUP_DEMO_MARKS=str(marks))
    assert said(tracks)["event_count"] == 60
    assert run("reco", *arguments).returncode == -signal.SIGSEGV, "without marks it is there each time"


def peak_mib(*command: str) -> float:
    """The peak of the process's own memory. (A child's ru_maxrss begins with what its parent had when it forked.)"""
    script = "\n".join([
        "import atexit, runpy, sys",
        "atexit.register(lambda: print(open('/proc/self/status').read()))",
        "sys.argv = sys.argv[1:]",
        "sys.path.insert(0, sys.argv[0].rpartition('/')[0])",
        "runpy.run_path(sys.argv[0], run_name='__main__')",
    ])  # fmt: skip
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", script, *command], check=True, capture_output=True, text=True,
                          env=environment)  # fmt: skip
    return int(done.stdout.split("VmHWM:")[1].split()[0]) / 1024


def test_a_long_readout_needs_memory_and_a_usual_one_does_not(tmp_path, spoilt):
    usual, long = (peak_mib(str(HERE / "reco.py"), *map(str, reco_arguments(hits)[1]))
                   for hits in (generated(tmp_path, 1), spoilt["hungry"]))  # fmt: skip
    assert usual < 200 < 250 < long


def test_lost_events_leave_an_output_without_events(tmp_path, spoilt):
    tracks = reconstructed(spoilt["no_events"])
    assert said(tracks) == {"event_count": 0} and root_trouble(tracks) is None
    empty = tmp_path / "merged.root"
    works("merge", "--inputs", tracks, "--out", empty, "--metadata", tmp_path / "m.json")
    works("analyse", "--in", empty, "--out", tmp_path / "h.root", "--metadata", tmp_path / "h.json")
    done = check("slope", tmp_path / "h.root")
    assert done.returncode == 1 and "all histograms are empty" in done.stdout


# --- merge


def test_merge_keeps_every_event_and_value(tmp_path, tracks):
    merged = tmp_path / "merged.root"
    works("merge", "--inputs", *tracks, "--out", merged, "--metadata", merged.with_suffix(".json"))
    parts, whole = [columns(path, "tracks") for path in tracks], columns(merged, "tracks")
    for name, column in whole.items():
        assert np.array_equal(column, np.concatenate([part[name] for part in parts]), equal_nan=True), name
    assert said(merged) == {
        "event_count": 120, "first_event": 1, "last_event": 60, "runs": [[1001, 1, "mc"], [1001, 2, "mc"]],
    }  # fmt: skip
    again = tmp_path / "again.root"
    works("merge", "--inputs", merged, "--out", again, "--metadata", again.with_suffix(".json"))
    assert said(again) == said(merged), "what was merged can be merged"


def test_merge_names_the_file_that_is_cut_off_twice_there_or_something_else(tmp_path, tracks):
    out = ("--out", tmp_path / "m.root", "--metadata", tmp_path / "m.json")
    cut, copy, other = (tmp_path / name for name in ("cut.root", "copy.root", "other.root"))
    cut.write_bytes(tracks[1].read_bytes()[:-5000])
    copy.write_bytes(tracks[0].read_bytes())
    with uproot.recreate(other) as file:
        file["tracks"] = {"run": np.ones(3, "i4")}
    for inputs, blamed in (
        ((*tracks, cut), [cut]), ((*tracks, copy), [copy, tracks[0]]), ((*tracks, tracks[0]), [tracks[0]]),
        ((*tracks, other), [other]), ((*tracks, tmp_path / "none.root"), [tmp_path / "none.root"]),
    ):  # fmt: skip
        done = run("merge", "--inputs", *inputs, *out)
        assert done.returncode == 1 and all(str(path) in done.stderr for path in blamed), done.stderr
        assert "Traceback" not in done.stderr and str(tracks[1]) not in done.stderr
        assert not (tmp_path / "m.json").exists()


@pytest.mark.parametrize("harm", ["lost", "changed"])
def test_merge_blames_the_file_whose_events_are_not_in_the_output(tmp_path, tracks, harm, monkeypatch):
    monkeypatch.syspath_prepend(HERE)
    merge = runpy.run_path(str(HERE / "merge.py"))
    events_of = merge["merge"](tracks, tmp_path / "m.root")
    content = columns(tmp_path / "m.root", "tracks")
    if harm == "lost":
        content = {name: column[:-1] for name, column in content.items()}
    else:
        content["event"][-1] = 999
    with uproot.recreate(tmp_path / "m.root") as file:
        file["tracks"] = content
    with pytest.raises(merge["NotMerged"], match="not in the output") as caught:
        merge["check"](events_of, tmp_path / "m.root")
    assert str(tracks[1]) in str(caught.value).partition(" in, ")[0]


# --- analysis


def test_analysis_counts_every_event_once(tmp_path, tracks):
    path = tmp_path / "h.root"
    works("analyse", "--in", tracks[0], "--out", path, "--metadata", path.with_suffix(".json"))
    assert check("residual,chi2,slope,hits_per_track", path).returncode == 0
    with uproot.open(path) as file:
        assert file["hits_per_track"].values(flow=True).sum() == 60
        assert file["residual"].values(flow=True).sum() == file["hits_by_layer"].values().sum()
    assert said(path) == {"runs": [[1001, 1, "mc"]]}, "a histogram file has no events"
