"""`keepupctl audit` names every file that breaks the sum rule, whichever side it is missing on."""

import databases
import pytest
from farm import SETTINGS
from sqlalchemy import insert, update

from keepupd.clients.sam import Sam
from keepupd.ctl import audit
from keepupd.store.tables import counters, files, units


@pytest.fixture
def ten(farm, shift, monkeypatch):
    """Ten files, known and well; the audit asks the fake world's SAM."""
    monkeypatch.setattr(audit, "_connect", lambda desk: farm.sam)
    farm.finds(*(f"f{n}.raw" for n in range(10)))
    farm.passes(1)
    return farm


def broken(shift, code: int = 1) -> dict[str, list[str]]:
    [campaign] = shift.json("audit", "farm_reco", code=code)["campaigns"]
    return campaign["broken"]


def test_a_whole_store_breaks_nothing(ten, shift):
    assert broken(shift, code=0) == {}
    assert "the sum rule is kept" in shift.reads("audit")


def test_files_missing_on_either_side_are_named(ten, shift):
    ten.finds("new.raw")
    ten.sam.retire("f3.raw")
    assert broken(shift) == {"in SAM, not in the store": ["new.raw"], "in the store, not in SAM": ["f3.raw"]}
    ten.later(hours=2)
    ten.passes(1)
    assert broken(shift, code=0) == {}  # the sweep has seen to it
    with ten.database.write("test") as db:
        db.execute(update(files).where(files.c.name == "f4.raw").values(gone=ten.now))
    assert broken(shift)["in SAM, in the store as left"] == ["f4.raw"]


def test_rows_changed_behind_the_daemons_back_are_named(ten, shift):
    with ten.database.write("test") as db:
        databases.unguarded(db)
        db.execute(units.delete().where(units.c.name == "f1.raw"))
        db.execute(files.delete().where(files.c.name == "f2.raw"))
        db.execute(update(counters).where(counters.c.state == "running").values(n=12))
        row = {"id": 99, "campaign_id": 1, "name": "ghost", "state": "running", "since": ten.now, "seen": ten.now}
        db.execute(insert(units).values(row))
    found = broken(shift)
    assert found["files in no state"] == ["f1.raw"] and found["in SAM, not in the store"] == ["f2.raw"]
    assert found["states of no file"] == ["f2.raw", "ghost"]
    assert found["counters that differ"] == ["running: counted 12, there are 10", "ever seen: counted 10, there are 9"]
    said = shift.reads("audit", code=1)
    assert "! 1 files in no state:\n    f1.raw" in said


def test_the_real_sam_is_asked_and_its_silence_is_not_absence(farm, shift, sam_server):
    farm.finds("a.raw")
    farm.daemon.inputs(farm.now)
    config = shift.config.read_text()
    shift.config.write_text(config.replace("http://sam.example.org/sam/dune/api", sam_server.answer))
    sam = Sam(sam_server.answer, experiment="dune", user="tester", patience_s=5)
    sam.create_definition("farm_reco_input", "data_tier raw")
    sam.register_parameter("DUNE.campaign")
    assert broken(shift) == {"in the store, not in SAM": ["a.raw"]}
    sam.close()
    sam_server.kill()
    shift.config.write_text(shift.config.read_text().replace("bulk: 7", "patience_s: 0.2"))
    said = shift.reads("audit", code=6)
    assert "SAM gave no answer" in said and "a.raw" not in said
    assert "read_url" in SETTINGS and "only the store was looked at" in said
