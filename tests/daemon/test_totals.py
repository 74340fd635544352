"""The running total: the sum of the files in it, each once; a bad file is named and changes nothing."""

import subprocess
import sys

import numpy as np
import pytest
import uproot
from hist import Hist
from hypothesis import given, settings
from hypothesis import strategies as st

from keepupd.clients import total_file
from keepupd.clients.total_file import Total, TotalDamaged, draw_png, load, save
from keepupd.core.errors import KeepupError
from keepupd.daemon.totals import BadHistogramFile, HistogramFileUnavailable, add_to_total, rebuild

NAMES = ("plane", "slope")


def histograms(seed, weights=False):
    chance = np.random.default_rng(seed)
    slope = Hist.new.Reg(20, -1, 1, label="slope")
    slope = slope.Weight() if weights else slope.Double()
    plane = Hist.new.Var([0, 1, 3, 7], label="x").Reg(4, 0, 1, label="y").Double()
    slope.fill(chance.normal(0, 0.7, 500), weight=chance.uniform(0.1, 2, 500) if weights else None)
    plane.fill(chance.uniform(-1, 8, 300), chance.uniform(0, 1, 300))
    return {"plane": plane, "slope": slope}


def write(path, content):
    with uproot.recreate(path) as file:
        for name, one in content.items():
            file[name] = one
    return path


@pytest.fixture
def files(tmp_path):
    """Five good files, (name, path)."""
    return [(f"h{n}.root", write(tmp_path / f"h{n}.root", histograms(n))) for n in range(5)]


def same(one, other, exactly=True):
    assert one.names == other.names and one.files == other.files
    for name in one.names:
        a, b = (total.histograms[name].view(flow=True) for total in (one, other))
        for field in ("value", "variance"):
            assert np.array_equal(a[field], b[field]) if exactly else np.allclose(a[field], b[field], rtol=1e-12)


def test_the_total_is_the_sum_bin_by_bin_also_outside_the_axes(files):
    total, refused = rebuild(files)
    assert refused == [] and list(total.files) == [name for name, _ in files] and total.names == NAMES
    for name in NAMES:
        parts = [histograms(n)[name] for n in range(5)]
        view = total.histograms[name].view(flow=True)
        assert np.array_equal(view.value, sum(part.values(flow=True) for part in parts))
        assert np.array_equal(view.variance, sum(part.variances(flow=True) for part in parts))
    assert total.entries() == {"plane": 1500, "slope": 2500}


def test_variances_of_weighted_fills_add_up(tmp_path):
    paths = [write(tmp_path / f"w{n}.root", histograms(n, weights=True)) for n in range(3)]
    total, _ = rebuild((path.name, path) for path in paths)
    parts = [histograms(n, weights=True)["slope"] for n in range(3)]
    found = total.histograms["slope"]
    assert np.allclose(found.values(flow=True), sum(part.values(flow=True) for part in parts))
    assert np.allclose(found.variances(flow=True), sum(part.variances(flow=True) for part in parts))
    assert not np.allclose(found.variances(), found.values())


def test_a_file_is_added_once_and_adding_changes_no_earlier_total(files):
    one = add_to_total(Total(), files[0][1], files[0][0])
    before = one.entries()
    both = add_to_total(one, files[1][1], files[1][0])
    assert add_to_total(both, files[0][1], files[0][0]) is both
    assert one.entries() == before and list(one.files) == ["h0.root"] and both.entries()["slope"] == 1000


def test_kept_and_read_again_it_goes_on_as_if_it_had_never_left_memory(files, tmp_path):
    kept = tmp_path / "total.root"
    for name, path in files:
        save(add_to_total(load(kept) if kept.exists() else Total(), path, name), kept)
    same(load(kept), rebuild(files)[0])
    same(load(kept), load(kept))
    assert sorted(path.name for path in tmp_path.iterdir()) == [*(name for name, _ in files), "total.root"]


@settings(max_examples=15, deadline=None)
@given(order=st.lists(st.integers(0, 3), min_size=1, max_size=8), kept=st.sets(st.integers(0, 7)))
def test_whatever_the_order_repeats_and_restarts_it_equals_a_rebuild(tmp_path_factory, order, kept):
    directory = tmp_path_factory.mktemp("order")
    paths = {n: write(directory / f"{n}.root", histograms(n, weights=True)) for n in set(order)}
    total = Total()
    for step, n in enumerate(order):
        total = add_to_total(total, paths[n], f"{n}.root")
        if step in kept:
            save(total, directory / "total.root")
            total = load(directory / "total.root")
    same(total, rebuild((name, directory / name) for name in total.files)[0])
    backwards, _ = rebuild((name, directory / name) for name in reversed(total.files))
    same(total, Total(total.names, backwards.histograms, total.files), exactly=False)


def missing(content):
    del content["slope"]


def other_bins(content):
    content["slope"] = Hist.new.Reg(20, -1, 1.5).Double().fill([0.1])


def other_dimension(content):
    content["plane"] = Hist.new.Var([0, 1, 3, 7]).Double().fill([0.1])


def not_a_number(content):
    content["slope"][3] = np.nan


def infinite_outside(content):
    content["slope"].view(flow=True)[-1] = np.inf


def a_text(content):
    content["slope"] = "a text and no histogram"


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (missing, "has no slope"), (other_bins, "histogram slope has other bins"),
        (other_dimension, "histogram plane has other bins"), (not_a_number, "slope has a bin that is not a finite"),
        (infinite_outside, "slope has a bin that is not a finite"), (a_text, "has no slope, as a histogram"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("first", [True, False])
def test_a_bad_file_is_refused_by_name_and_changes_nothing(tmp_path, files, harm, words, first):
    content = histograms(9)
    harm(content)
    bad = ("bad.root", write(tmp_path / "bad.root", content))
    if first and "bins" not in words:
        with pytest.raises(BadHistogramFile, match=words):
            add_to_total(Total(NAMES), bad[1], bad[0])
    total, refused = rebuild([*files[:2], bad, *files[2:]], NAMES)
    assert [error.name for error in refused] == ["bad.root"] and words in refused[0].problem
    assert "bad.root" in refused[0].problem and refused[0].remedy
    same(total, rebuild(files, NAMES)[0])


def test_a_file_with_more_histograms_than_named_gives_the_named_ones(tmp_path):
    path = write(tmp_path / "h.root", histograms(1))
    assert add_to_total(Total(("slope",)), path, "h.root").names == ("slope",)


@pytest.mark.parametrize("size", [0, 3, 60, 400, -700, -1])
def test_a_file_cut_anywhere_is_refused_by_name(tmp_path, files, size):
    whole = files[0][1].read_bytes()
    path = tmp_path / "cut.root"
    path.write_bytes(whole[:size])
    with pytest.raises(BadHistogramFile, match=r"^histogram file cut.root is not added .* can't be read as ROOT: \S"):
        add_to_total(Total(), path, "cut.root")


@settings(max_examples=60, deadline=None)
@given(at=st.floats(0, 0.999), byte=st.integers(0, 255))
def test_a_byte_gone_wrong_is_refused_or_does_no_harm(tmp_path_factory, at, byte):
    path = write(tmp_path_factory.mktemp("byte") / "h.root", histograms(1))
    content = bytearray(path.read_bytes())
    content[int(at * len(content))] = byte
    path.write_bytes(content)
    try:
        total = add_to_total(Total(NAMES), path, "h.root")
    except BadHistogramFile as error:
        assert error.name == "h.root"
    else:
        assert all(np.isfinite(one.values(flow=True)).all() for one in total.histograms.values())


def test_another_content_under_a_name_that_is_in_the_total_is_refused(files):
    total = add_to_total(Total(), files[0][1], "h0.root")
    with pytest.raises(BadHistogramFile, match="the total has it with adler32:"):
        add_to_total(total, files[1][1], "h0.root")


def test_a_copy_that_is_away_is_no_bad_file(files, tmp_path):
    with pytest.raises(HistogramFileUnavailable, match=r"gone.root.*No such file"):
        rebuild([*files, ("gone.root", tmp_path / "gone.root")])


def test_sums_past_the_largest_number_are_refused(tmp_path):
    huge = histograms(1)
    huge["slope"][0] = 1.7e308
    path = write(tmp_path / "huge.root", huge)
    total = add_to_total(Total(), path, "one.root")
    with pytest.raises(BadHistogramFile, match="past what a number can hold"):
        add_to_total(total, path, "two.root")


def test_a_save_that_fails_leaves_the_old_total(files, tmp_path, monkeypatch):
    kept = tmp_path / "total.root"
    old = add_to_total(Total(), files[0][1], "h0.root")
    save(old, kept)
    monkeypatch.setattr(total_file.json, "dumps", lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        save(add_to_total(old, files[1][1], "h1.root"), kept)
    monkeypatch.undo()
    same(load(kept), old)
    save(rebuild(files)[0], kept)
    same(load(kept), rebuild(files)[0])


def test_a_damaged_total_says_what_to_do(files, tmp_path):
    kept = tmp_path / "total.root"
    save(add_to_total(Total(), files[0][1], "h0.root"), kept)
    whole = kept.read_bytes()
    for content in (b"", whole[:200], whole[: len(whole) // 2], files[0][1].read_bytes()):
        kept.write_bytes(content)
        with pytest.raises(TotalDamaged, match="remove it: it is made again"):
            load(kept)
    with pytest.raises(FileNotFoundError):
        load(tmp_path / "none.root")


def test_a_total_without_files_and_one_with_very_many_are_kept_too(files, tmp_path):
    kept = tmp_path / "total.root"
    save(Total(NAMES), kept)
    assert load(kept) == Total(NAMES)
    filled = add_to_total(load(kept), files[0][1], "h0.root")
    names = (f"dune_mcc_10_{n}'\"\u00e9.root" for n in range(20_000))
    many = Total(NAMES, filled.histograms, dict.fromkeys(names, "adler32:00000001"))
    save(many, kept)
    assert load(kept).files == many.files


def test_totals_are_drawn_without_a_display(files, tmp_path):
    one, two = rebuild(files[:2])[0], rebuild(files[2:])[0]
    picture = tmp_path / "totals.png"
    draw_png({"sample 1": one, "sample 2": two}, picture)
    all_panels = picture.read_bytes()
    assert all_panels.startswith(b"\x89PNG") and len(all_panels) > 10_000
    draw_png({"sample 1": one}, picture, ["slope"])
    assert picture.read_bytes() != all_panels
    with pytest.raises(KeepupError, match=r"no total has a histogram chi2(.|\n)*plane, slope"):
        draw_png({"sample 1": one}, picture, ["chi2"])
    with pytest.raises(KeepupError, match="nothing to draw"):
        draw_png({"sample 1": Total()}, picture)


def test_heavy_packages_are_imported_only_when_needed_and_named_when_missing(tmp_path):
    blocked = "import sys; sys.modules.update(dict.fromkeys(('uproot', 'hist', 'numpy', 'matplotlib')))\n"
    imports = "import keepupd.daemon.totals\nfrom keepupd.clients import total_file as t\n"
    command = [sys.executable, "-c", blocked + imports + "t.save(t.Total(), t.Path('t.root'))"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "ExtraMissing: this needs uproot" in done.stderr and "pip install 'keepupd[root]'" in done.stderr
