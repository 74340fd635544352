"""A campaign's running total in the daemon: every declared histogram file in it once, and versions of it in SAM."""

import re
import zlib
from pathlib import Path

import numpy as np
import pytest
import uproot
from farm import Farm
from hist import Hist
from sqlalchemy import select

from keepupd.clients.storage import LocalStorage
from keepupd.clients.total_file import kept_at, load
from keepupd.core.errors import SamUnavailable
from keepupd.daemon import totalling
from keepupd.daemon.check import Findings
from keepupd.daemon.check_registered import Registered, check_outputs
from keepupd.store.tables import polls

ANALYSIS = {
    "name": "ana", "type": "analysis", "input": {"query": "data_tier raw"},
    "analysis": {"histograms": ["slope"], "total": {"min_new_files": 3}},
    "executable": {"argv": ["a", "{input}", "{output}"], "application": {"family": "t", "name": "a", "version": "v1"}},
}  # fmt: skip


def histogram(seed):
    return Hist.new.Reg(20, -1, 1, label="slope").Double().fill(np.random.default_rng(seed).normal(0, 0.7, 100))


def make(folder, **more):
    (folder / "out").mkdir()
    out = {"tier": "histogram", "file_type": "mc", "location": "demo:/out", "url": f"file://{folder}/out"}
    return Farm(folder, flow=[ANALYSIS | {"outputs": [out]} | more])


@pytest.fixture
def farm(tmp_path):
    farm = make(tmp_path)
    yield farm
    farm.database.close()


def analyse(farm, *names, content=None, checksum=None):
    """Input files come in, and their jobs make real histogram files."""
    farm.finds(*names, event_count=100)
    ready(farm, content, checksum)


def ready(farm, content=None, checksum=None):
    farm.later(minutes=6)
    farm.passes(3)
    for job in farm.starts_jobs():
        made = job.copies()
        folder = Path(made["url"].removeprefix("file://"))
        folder.mkdir(parents=True)
        with uproot.recreate(folder / made["name"]) as file:
            file["slope"] = content or histogram(seed_of(job.input))
        whole = (folder / made["name"]).read_bytes()
        made["metadata"] |= {"file_size": len(whole), "checksum": [checksum or f"adler32:{zlib.adler32(whole):08x}"]}
        job.declares(made)
        job.leaves(0, outputs=[made])
    farm.passes(3)
    farm.later(minutes=6)
    farm.passes(2)


def seed_of(name):  # f3.raw -> 3; of a generated file, its serial
    return int(re.findall(r"\d+", name)[0])


def total(farm):
    return load(kept_at(farm.settings.state_dir, "ana"))


def is_the_sum_of(found, *seeds):
    expected = sum(histogram(seed).values(flow=True) for seed in seeds)
    return np.array_equal(found.histograms["slope"].values(flow=True), expected)


def versions(farm):
    """{name: its parents} of the totals in SAM that have a location."""
    made = [file for name, file in farm.sam.by_name.items() if name.startswith("ana_total_v") and file.locations]
    return {file.name: sorted(parent["file_name"] for parent in file.metadata["parents"]) for file in made}


def trouble(farm):
    with farm.database.read() as db:
        row = db.execute(select(polls).where(polls.c.name == "total:ana")).one()
    return row.error


def test_every_declared_histogram_file_is_in_the_total_once(farm):
    analyse(farm, "f1.raw", "f2.raw")
    assert is_the_sum_of(total(farm), 1, 2)
    analyse(farm, "f3.raw")
    farm.restarts()
    farm.passes(3)
    assert is_the_sum_of(total(farm), 1, 2, 3) and len(total(farm).files) == 3


def test_nothing_new_costs_no_question_and_no_writing(farm):
    analyse(farm, "f1.raw")
    before = kept_at(farm.settings.state_dir, "ana").stat().st_mtime_ns
    farm.sam.calls.clear()
    for _ in range(5):
        farm.later(minutes=6)
        farm.daemon.outputs(farm.now)
    assert farm.sam.calls["records"] == 0 and kept_at(farm.settings.state_dir, "ana").stat().st_mtime_ns == before


def test_it_is_declared_when_enough_is_new(farm):
    analyse(farm, "f1.raw", "f2.raw")
    assert versions(farm) == {}
    analyse(farm, "f3.raw")
    [(name, parents)] = versions(farm).items()
    assert name == "ana_total_v1.root" and parents == sorted(total(farm).files)
    assert total(farm).version == 1
    copy = farm.folder / "out" / "totals" / name
    assert farm.sam.by_name[name].locations == ["demo:/out/totals"]
    assert LocalStorage().identify(f"file://{copy}") == (
        farm.sam.by_name[name].metadata["file_size"], farm.sam.by_name[name].metadata["checksum"][0]
    )  # fmt: skip
    assert is_the_sum_of(load(copy), 1, 2, 3) and load(copy).version == 1
    analyse(farm, "f4.raw")
    analyse(farm, "f5.raw", "f6.raw")
    assert list(versions(farm)) == ["ana_total_v1.root", "ana_total_v2.root"]
    assert load(farm.folder / "out" / "totals" / "ana_total_v1.root").version == 1, "a version stays as it is"


def test_it_is_declared_when_the_campaign_has_nothing_left_to_do(farm):
    analyse(farm, "f1.raw")
    assert farm.campaign_row().state == "declared" and versions(farm) == {}
    farm.later(hours=2)
    farm.passes(2)
    assert list(versions(farm)) == ["ana_total_v1.root"]
    farm.later(hours=20)
    farm.passes(3)
    assert list(versions(farm)) == ["ana_total_v1.root"], "nothing has changed"


def test_a_flow_that_is_complete_declares_at_once_and_every_event_is_in_it_once(tmp_path):
    generator = {
        "name": "gen", "type": "generator", "input": {},
        "generator": {"target_units": 4, "events_per_unit": 10, "first_run": 100},
        "outputs": [{"tier": "raw", "file_type": "mc", "location": "demo:/gen", "definitions": ["ana_input"]}],
        "executable": {"argv": ["g"], "application": {"family": "t", "name": "g", "version": "v1"}},
    }  # fmt: skip
    (tmp_path / "out").mkdir()
    out = {"tier": "histogram", "file_type": "mc", "location": "demo:/out", "url": f"file://{tmp_path}/out"}
    farm = Farm(tmp_path, flow=[generator, ANALYSIS | {"input": {}, "outputs": [out]}])
    farm.passes(3)
    for job in farm.starts_jobs():
        job.succeeds()
    farm.passes(2)
    ready(farm)
    [(name, parents)] = versions(farm).items()
    assert name == "ana_total_v1.root" and len(parents) == 4
    assert total(farm).entries() == {"slope": 400}, "4 files, 100 entries each"


def test_a_total_is_in_no_definition_of_its_campaign(farm):
    analyse(farm, "f1.raw", "f2.raw", "f3.raw")
    assert versions(farm)
    made = {file.name for file in farm.sam.definition_files("ana_output")}
    assert made == set(total(farm).files)
    whose = {file.name for file in farm.sam.files("DUNE.campaign ana.total")}
    assert whose == {"ana_total_v1.root"}


def test_a_bad_file_is_refused_by_name_and_the_others_are_summed(farm):
    analyse(farm, "f1.raw")
    analyse(farm, "f2.raw", content=Hist.new.Reg(7, 0, 1).Double().fill([0.5]))
    analyse(farm, "f3.raw", checksum="adler32:00000bad")
    assert is_the_sum_of(total(farm), 1)
    assert sorted(total(farm).refused) == ["f2_ana.raw", "f3_ana.raw"]
    assert "other bins" in total(farm).refused["f2_ana.raw"] and "adler32:00000bad" in total(farm).refused["f3_ana.raw"]
    assert trouble(farm) == "", "a refused file is said, and stops nothing"
    farm.operator("redo", "f2.raw")
    ready(farm)
    assert is_the_sum_of(total(farm), 1, 2) and list(total(farm).refused) == ["f3_ana.raw"]


def test_what_is_made_again_is_in_the_total_in_place_of_the_old(farm):
    analyse(farm, "f1.raw", "f2.raw")
    farm.operator("redo", "f1.raw")
    ready(farm, content=histogram(9))
    assert is_the_sum_of(total(farm), 2, 9) and sorted(total(farm).files) == ["f1_ana_e2.raw", "f2_ana.raw"]


@pytest.mark.parametrize("database_too", [False, True])
def test_a_lost_state_directory_is_made_up_for(farm, database_too):
    analyse(farm, "f1.raw", "f2.raw", "f3.raw")
    before = total(farm)
    kept_at(farm.settings.state_dir, "ana").unlink()
    farm.loses_database() if database_too else farm.restarts()
    farm.passes(4)
    assert is_the_sum_of(total(farm), 1, 2, 3) and total(farm).files == before.files
    assert total(farm).version == 1, "SAM says so"
    farm.later(hours=3)
    farm.passes(4)
    assert list(versions(farm)) == ["ana_total_v1.root"]


def test_a_damaged_total_is_made_again(farm):
    analyse(farm, "f1.raw")
    kept_at(farm.settings.state_dir, "ana").write_bytes(b"root, but cut off")
    analyse(farm, "f2.raw")
    assert is_the_sum_of(total(farm), 1, 2)


def test_a_copy_that_is_away_is_added_when_it_is_back(farm):
    analyse(farm, "f1.raw")
    (farm.folder / "out").rename(farm.folder / "unmounted")
    farm.finds("f2.raw")
    (farm.folder / "unmounted").rename(farm.folder / "out")
    ready(farm)
    [copy] = (farm.folder / "out").rglob("f2_ana.raw")
    assert is_the_sum_of(total(farm), 1, 2)
    kept_at(farm.settings.state_dir, "ana").unlink()
    farm.restarts()
    copy.rename(copy.with_suffix(".away"))
    farm.passes(2)
    assert is_the_sum_of(total(farm), 1) and "1 declared histogram files can't be added" in trouble(farm)
    farm.later(hours=2)
    farm.passes(2)
    assert versions(farm) == {}, "nothing is declared that lacks a file"
    copy.with_suffix(".away").rename(copy)
    farm.later(minutes=6)
    farm.passes(2)
    assert is_the_sum_of(total(farm), 1, 2) and trouble(farm) == ""


def test_many_files_are_added_over_several_passes(farm, monkeypatch):
    monkeypatch.setattr(totalling, "AT_ONCE", 2)
    analyse(farm, *(f"f{n}.raw" for n in range(1, 6)))
    assert is_the_sum_of(total(farm), 1, 2, 3, 4) and versions(farm) == {}, "it lacks one still"
    farm.passes(1)
    assert is_the_sum_of(total(farm), 1, 2, 3, 4, 5)
    assert list(versions(farm).values()) == [sorted(total(farm).files)], "declared when it lacks nothing more"


@pytest.mark.parametrize("question", ["declare", "add_location"])
@pytest.mark.parametrize("done", [False, True])
def test_a_silence_of_sam_anywhere_in_a_declaration_makes_no_second_one(farm, monkeypatch, question, done):
    """Each question may go unasked, or be done and its reply lost; then the daemon starts anew."""
    analyse(farm, "f1.raw", "f2.raw")
    ask, silent = getattr(farm.sam, question), [True]

    def fails(name, *more):
        if "_total_v" in str(name) and silent:
            silent.clear()
            if done:
                ask(name, *more)
            raise SamUnavailable("no answer", "ordered by the test")
        return ask(name, *more)

    monkeypatch.setattr(farm.sam, question, fails)
    analyse(farm, "f3.raw")
    farm.restarts()
    farm.later(minutes=10)
    farm.passes(3)
    assert list(versions(farm)) == ["ana_total_v1.root"] and total(farm).version == 1
    copy = farm.folder / "out" / "totals" / "ana_total_v1.root"
    assert is_the_sum_of(load(copy), 1, 2, 3)
    assert LocalStorage().identify(f"file://{copy}")[1] in farm.sam.by_name[copy.name].metadata["checksum"]


def test_a_version_declared_without_a_copy_is_passed_over(farm):
    analyse(farm, "f1.raw", "f2.raw")
    farm.sam.put("ana_total_v1.root", location=None, file_size=7, checksum=["adler32:00000001"])
    analyse(farm, "f3.raw")
    assert list(versions(farm)) == ["ana_total_v2.root"]


def test_check_says_how_the_total_would_be_declared_and_what_stands_in_the_way(tmp_path):
    farm = make(tmp_path, outputs=[{"tier": "h", "file_type": "mc", "location": "demo:/out", "url": "https://host/out"}])
    found = Findings()
    check_outputs(found, farm.keeper, Registered(farm.sam), farm.flow[0], farm.now)
    assert any("cannot reach https://host/out" in check["words"] for check in found.checks if not check["ok"])
    (tmp_path / "two").mkdir()
    farm, found = make(tmp_path / "two"), Findings()
    farm.sam.register_value("data_tiers", "histogram")
    farm.sam.register_value("file_types", "mc")
    check_outputs(found, farm.keeper, Registered(farm.sam), farm.flow[0], farm.now)
    assert found.well and any("ana_total_v1.root" in check["words"] for check in found.checks)
