"""Outputs that SAM marks bad: their names are taken, so their inputs wait for a person and are not launched in vain."""

from types import SimpleNamespace

import pytest
from farm import CAMPAIGN, Farm
from test_taking_over import checked

from keepupd.clients.storage import LocalStorage
from keepupd.daemon import declaring

OUT = "a_farm_reco.raw"
BAD = {"content_status": "bad"}


@pytest.fixture
def farm(tmp_path):
    farm = Farm(tmp_path)
    yield farm
    farm.database.close()


def works(farm):
    """A night in which all goes well."""
    farm.passes(2)
    for job in farm.starts_jobs():
        job.succeeds()
    farm.passes(3)


def is_held_for_its_bad_output(farm, name=OUT, edition=2):
    unit = farm.unit("a.raw")
    assert (unit.state, unit.cause, unit.due, unit.edition) == ("held", "output_marked_bad", None, edition)
    assert "its output is marked bad in SAM" in unit.why and name in unit.why and "keepupctl release" in unit.why
    return True


def test_after_a_lost_database_an_input_whose_output_is_marked_bad_waits_for_a_person(farm):
    farm.finds("a.raw", "b.raw")
    works(farm)
    farm.sam.modify(OUT, BAD)
    farm.loses_database()
    told = checked(farm)
    assert told["would_launch"] == 0 and any("marked bad" in note for note in told["notes"])
    farm.passes(3)
    assert is_held_for_its_bad_output(farm) and farm.state_of("b.raw") == "declared"
    assert farm.batch.live_jobs() == [] and farm.broken_sums() == {}
    farm.operator("release", "a.raw")
    works(farm)
    assert farm.state_of("a.raw") == "declared" and farm.outputs_of("a.raw") == [OUT, "a_farm_reco_e2.raw"]
    farm.loses_database()
    farm.passes(3)
    assert farm.state_of("a.raw") == "declared" and farm.unit("a.raw").edition == 2, "the good one counts"
    farm.sam.modify("a_farm_reco_e2.raw", BAD)
    farm.loses_database()
    farm.passes(3)
    assert is_held_for_its_bad_output(farm, "a_farm_reco_e2.raw", 3)


def test_an_output_that_is_marked_bad_before_it_is_seen_is_held_and_made_again_when_released(farm):
    farm.finds("a.raw")
    farm.passes(2)
    [job] = farm.starts_jobs()
    job.succeeds(declares=False)
    farm.sam.put(OUT, location=None, parents=[{"file_name": "a.raw"}], **BAD)
    farm.later(hours=2)
    farm.passes(4)
    assert is_held_for_its_bad_output(farm) and farm.broken_sums() == {}
    farm.operator("release", "a.raw")
    works(farm)
    assert farm.state_of("a.raw") == "declared" and farm.unit("a.raw").edition == 2


def test_a_good_output_beside_a_bad_one_is_named_so_that_it_is_not_made_twice(tmp_path):
    outputs = [CAMPAIGN["outputs"][0] | {"label": label, "name": "{stem}_{label}_{campaign}{edition}.root"}
               for label in ("one", "two")]  # fmt: skip
    argv = {"executable": CAMPAIGN["executable"] | {"argv": ["x", "{output:one}", "{output:two}"]}}
    farm = Farm(tmp_path, outputs=outputs, **argv)
    farm.finds("a.raw")
    for name, more in (("a.raw_one_farm_reco.root", BAD), ("a.raw_two_farm_reco.root", {})):
        farm.sam.put(name, location="demo:/out", parents=[{"file_name": "a.raw"}], **more)
    farm.passes(3)
    assert is_held_for_its_bad_output(farm, "a.raw_one_farm_reco.root")
    assert "samweb retire-file a.raw_two_farm_reco.root" in farm.unit("a.raw").why
    farm.database.close()


# --- names that a URL can't hold as they are ------------------------------------------------------------------------

NAME = "a%20b#1.raw"


def on_disk(tmp_path, job, text):
    folder = tmp_path / "out" / "key" / job
    folder.mkdir(parents=True)
    (folder / NAME).write_text(text)
    return f"demo:/out/key/{job}"


@pytest.fixture
def disk(tmp_path):
    out = CAMPAIGN["outputs"][0] | {"location": "demo:/out", "url": f"file://{tmp_path}/out"}
    farm = Farm(tmp_path, outputs=[out])
    farm.keeper.storage = LocalStorage()
    yield farm
    farm.database.close()


def test_copies_that_differ_are_told_apart_whatever_is_in_their_names(disk, tmp_path):
    for job, text in (("1-a", "one"), ("2-b", "the other")):
        disk.sam.put(NAME, location=None) if NAME not in disk.sam.by_name else None
        disk.sam.by_name[NAME].locations.append(on_disk(tmp_path, job, text))
    said = declaring.differing_copies(disk.keeper, disk.flow[0], disk.sam.records([NAME])[NAME])
    assert "3 bytes adler32:" in said and "9 bytes adler32:" in said


def test_the_copy_that_a_record_describes_is_found_whatever_is_in_its_name(disk, tmp_path):
    first = on_disk(tmp_path, "1-a", "one")
    size, checksum = LocalStorage().identify(f"file://{tmp_path}/out/key/1-a/a%2520b%231.raw")
    disk.sam.put(NAME, location=None, file_size=size, checksum=[checksum])
    mine = SimpleNamespace(size=9, checksums=["adler32:00000001"], location="demo:/out/key/2-b")
    disk.finds("a.raw")
    disk.passes(1)
    tried = [SimpleNamespace(key="key", job_number=1)]
    declaring._locate(disk.keeper, disk.unit("a.raw"), tried, disk.sam.records([NAME])[NAME], mine)
    assert disk.sam.by_name[NAME].locations == [first]
