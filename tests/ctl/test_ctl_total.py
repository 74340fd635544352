"""keepupctl total: what is in a running total, which files were refused, and a picture."""

import pytest
from farm import Farm
from hist import Hist

from keepupd.clients.total_file import Total, kept_at, save

ANALYSIS = {
    "type": "analysis", "analysis": {"histograms": ["slope", "plane"]},
    "outputs": [{"tier": "histogram", "file_type": "mc", "location": "demo:/out"}],
    "executable": {"argv": ["a", "{input}", "{output}"], "application": {"family": "t", "name": "a", "version": "v1"}},
}  # fmt: skip


@pytest.fixture
def farm(tmp_path):
    one = ANALYSIS | {"name": "ana_one", "input": {"query": "data_tier raw"}}
    two = ANALYSIS | {"name": "ana_two", "input": {"definition": "other"}}
    farm = Farm(tmp_path, flow=[one, two, {"name": "some_reco", "input": {"definition": "other"}}])
    farm.sam.create_definition("other", "data_tier nothing")
    farm.finds("f1.raw", "f2.raw", "f3.raw", event_count=100)
    farm.passes(3)
    for job in farm.starts_jobs():
        job.succeeds()
    farm.passes(2)
    yield farm
    farm.database.close()


def keep(farm, campaign, files, **more):
    slope = Hist.new.Reg(4, 0, 4).Weight().fill([0.5, 0.5, 2.5, 9.0])
    plane = Hist.new.Reg(2, 0, 2).StrCat(["a", "b"]).Weight().fill([0.5, 1.5], ["a", "b"])
    path = kept_at(farm.settings.state_dir, campaign)
    path.parent.mkdir(parents=True, exist_ok=True)
    save(Total(("slope", "plane"), {"slope": slope, "plane": plane}, files, **more), path)


def test_what_is_in_a_total(farm, shift):
    keep(farm, "ana_one", {"f1_ana_one.raw": "adler32:1"}, refused={"f2_ana_one.raw": "it has no slope"}, version=2)
    [found] = shift.json("total", "ana_one")["totals"]
    assert (found["files"], found["events"], found["lacking"]) == (1, 100, 1)
    assert found["file"] == "ana_one_total_v2.root" and found["names"] == ["f1_ana_one.raw"]
    slope, plane = found["histograms"]
    assert slope["entries"] == 4 and slope["mean"] == [pytest.approx(3.5 / 3)], "the mean is of what the axis shows"
    assert plane["mean"] == [1.0, None], "labels have no mean"
    told = shift.reads("total", "ana_one")
    assert "1 histogram files of 100 events; declared as ana_one_total_v2.root" in told
    assert "! refused f2_ana_one.raw: it has no slope" in told
    assert "1 declared histogram files are not in it yet" in told


def test_a_picture_of_several(farm, shift, tmp_path):
    keep(farm, "ana_one", {"f1_ana_one.raw": "adler32:1"})
    keep(farm, "ana_two", {"f1_ana_two.raw": "adler32:2"})
    picture = tmp_path / "totals.png"
    assert f"drawn to {picture}" in shift.reads("total", "ana_one", "ana_two", "--png", str(picture))
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert "cannot be written" in shift.reads("total", "ana_one", "--png", str(tmp_path / "no" / "a.png"), code=2)


def test_an_empty_total_has_no_mean(farm, shift):
    path = kept_at(farm.settings.state_dir, "ana_two")
    path.parent.mkdir(parents=True, exist_ok=True)
    save(Total(("slope",)), path)
    assert "0 histogram files of 0 events; no version declared yet" in shift.reads("total", "ana_two")


def test_no_total_says_so(farm, shift, tmp_path):
    assert "only an analysis has a total" in shift.reads("total", "some_reco", code=1)
    path = kept_at(farm.settings.state_dir, "ana_two")
    path.unlink(missing_ok=True)
    assert "no total yet of campaign 'ana_two'" in shift.reads("total", "ana_two", code=3)
    assert "perhaps ana_two" in shift.reads("total", "ana_tow", code=3)
    path.write_bytes(b"no ROOT file")
    assert "remove it: it is made again" in shift.reads("total", "ana_two", code=1)
