"""`keepupctl audit` compares outputs: as the database has them, as SAM shows them, as the storage holds them. With
`--repair --yes` the daemon mends what can be mended, and loses nothing."""

import json
from datetime import timedelta

import pytest
from farm import CHECKSUM
from sqlalchemy import select, update

from keepupd.ctl import audit
from keepupd.store.tables import launches, outbox, units

OUT, SPARE = "a_farm_reco.raw", "demo:/out/20260101-000000-spar/1-abcdef"


@pytest.fixture
def done(farm, shift, monkeypatch):
    """a.raw and b.raw are declared, with a copy each, and all is well."""
    monkeypatch.setattr(audit, "_connect", lambda sam: farm.sam)
    monkeypatch.setattr(audit, "_storage", lambda: farm.storage)
    farm.finds("a.raw", "b.raw")
    farm.passes(2)
    for job in farm.starts_jobs():
        job.succeeds()
    farm.passes(4)
    assert farm.states() == {"a.raw": "declared", "b.raw": "declared"} and broken(shift, 0) == {}
    return farm


def broken(shift, code=1):
    [campaign] = shift.json("audit", code=code)["campaigns"]
    return campaign["broken"]


def repairs(shift):
    """Ask as an operator does; the daemon mends."""
    with shift.daemon_answers():
        said = shift.reads("audit", "--repair", "--yes", code=1)
    assert "to mend" in said
    shift.farm.passes(2)


def log_of_outbox(farm):
    with farm.database.read() as db:
        return [(row.effect, row.error) for row in db.execute(select(outbox))]


def record(farm):
    return farm.sam.by_name[OUT]


def spare_copy(farm, checksum=CHECKSUM):
    """A copy of a's output in the directory of a job that nobody knows any more."""
    farm.storage.made[SPARE.replace("demo:", "file://")] = {OUT: (2000, checksum)}


def test_without_yes_it_only_shows(done, shift):
    spare_copy(done)
    said = shift.reads("audit", "--repair", code=1)
    assert f"! 1 copies that nobody declared:\n    {OUT}\n  --repair: removed" in said and "nothing was changed" in said
    done.passes(2)
    assert done.storage.identify(f"file:///out/20260101-000000-spar/1-abcdef/{OUT}")


def test_a_copy_that_lost_is_removed_and_the_one_that_sam_points_to_stays(done, shift):
    spare_copy(done)
    assert broken(shift) == {"copies that nobody declared": [OUT]}
    repairs(shift)
    assert broken(shift, 0) == {} and len(done.storage.made) == 2 and record(done).locations


def test_a_copy_that_a_job_may_own_is_let_be(done, shift):
    spare_copy(done)
    with done.database.write("test") as db:
        row = {"key": "20260101-000000-spar", "campaign_id": 1, "created": done.now, "settings": "{}"}
        db.execute(launches.insert().values(row))
    assert broken(shift, 0) == {}
    mend(done, SPARE)
    assert done.storage.identify(f"{SPARE.replace('demo:', 'file://')}/{OUT}"), "the daemon looks anew, too"


def mend(farm, *places):
    """What a request for repair leads to, wherever it has its places from."""
    with farm.database.write("test") as db:
        unit = db.execute(select(units.c.id).where(units.c.name == "a.raw")).scalar_one()
        row = {"effect": "mend", "key": unit, "detail": json.dumps(places), "created": farm.now, "due": farm.now}
        db.execute(outbox.insert().values(row))
    farm.passes(1)


@pytest.mark.parametrize(
    "place",
    [
        "demo:/out", "demo:/out/old", "demo:/in/20260101-000000-spar/1-abcdef",
        "demo:/out/20260101-000000-spar/1-a/../..", "demo:/out/x/20260101-000000-spar/1-a",
    ],
)  # fmt: skip
def test_nothing_is_removed_but_what_a_job_made(done, place):
    done.storage.made[place.replace("demo:", "file://")] = {OUT: (2000, CHECKSUM)}
    before = dict(done.storage.made)
    mend(done, place, *record(done).locations)
    assert done.storage.made == before and log_of_outbox(done) == []


def test_a_location_is_added_when_a_good_copy_is_found(done, shift):
    kept, record(done).locations = record(done).locations, []
    assert broken(shift) == {"outputs without location, a copy is there": [OUT]}
    repairs(shift)
    assert broken(shift, 0) == {} and record(done).locations == kept


def test_no_location_is_added_for_a_copy_of_other_bytes(done, shift, caplog):
    [place] = record(done).locations
    done.storage.made[place.replace("demo:", "file://")] = {OUT: (2000, "adler32:00000bad")}
    record(done).locations = []
    assert "else make it again: keepupctl redo FILE" in shift.reads("audit", "--repair", code=1)
    repairs(shift)
    assert record(done).locations == [] and done.storage.identify(f"{place.replace('demo:', 'file://')}/{OUT}")
    [line] = [line for line in caplog.messages if "no copy has the recorded bytes" in line]
    assert OUT in line and "redo" in line
    assert f"2000 bytes {CHECKSUM}" in line and f"2000 bytes adler32:00000bad at {place}" in line


def test_what_another_job_is_at_is_let_be_and_the_log_says_so(done, caplog):
    with done.database.write("test") as db:
        db.execute(update(units).where(units.c.name == "a.raw").values(state="running", due=None))
    with caplog.at_level("INFO"):
        mend(done, SPARE)
    assert any("left to its job" in line and "a.raw" in line for line in caplog.messages)


def test_a_lost_copy_is_replaced_by_another_one(done, shift):
    spare_copy(done)
    [place] = record(done).locations
    done.storage.remove_tree(place.replace("demo:", "file://"))
    assert broken(shift) == {"locations without file, another copy is there": [OUT]}
    repairs(shift)
    assert broken(shift, 0) == {} and record(done).locations == [SPARE]


def test_where_no_copy_is_left_a_person_decides(done, shift):
    [place] = record(done).locations
    done.storage.remove_tree(place.replace("demo:", "file://"))
    assert broken(shift) == {"locations without file": [OUT]}
    assert "make it again: keepupctl redo FILE" in shift.reads("audit", "--repair", code=1)
    repairs(shift)
    assert record(done).locations == [place], "nothing is lost by asking"
    done.operator("redo", "a.raw")
    done.passes(2)
    done.job_of("a.raw").succeeds()
    done.passes(3)
    assert broken(shift, 0) == {}


def test_a_storage_that_is_not_mounted_is_no_missing_file(done, shift):
    done.storage.made.clear()
    said = shift.reads("audit", code=6)
    assert "the storage was not looked at" in said and "file:///out shows nothing" in said and OUT not in said
    mend(done)
    [(effect, error)] = log_of_outbox(done)
    assert effect == "mend" and "is it mounted" in error and record(done).locations


def test_an_output_that_sam_shows_no_more(done, shift):
    done.sam.retire(OUT)
    assert broken(shift) == {"declared in the store, not in SAM": ["a.raw"]}


@pytest.mark.parametrize("state", ["pending", "held", "crash"])
def test_an_output_that_the_database_does_not_know_of_is_taken_as_declared(done, shift, state):
    with done.database.write("test") as db:
        due = None if state == "held" else done.now + timedelta(hours=1)
        db.execute(update(units).where(units.c.name == "a.raw").values(state=state, due=due))
    assert broken(shift)["shown by SAM, not declared in the store"] == ["a.raw"]
    repairs(shift)
    assert done.state_of("a.raw") == "declared" and done.broken_sums() == {} and broken(shift, 0) == {}


def test_an_output_that_was_marked_bad_and_is_good_after_all_is_taken_as_declared(done, shift):
    done.sam.modify(OUT, {"content_status": "bad"})
    with done.database.write("test") as db:
        db.execute(units.delete().where(units.c.name == "a.raw"))
    done.later(hours=2)
    done.passes(3)
    assert done.state_of("a.raw") == "held" and "audit --repair" in done.unit("a.raw").why
    done.sam.modify(OUT, {"content_status": "good"})
    done.passes(1)
    assert broken(shift) == {"shown by SAM, not declared in the store": ["a.raw"]}
    repairs(shift)
    assert (done.state_of("a.raw"), done.unit("a.raw").edition) == ("declared", 1) and broken(shift, 0) == {}


def test_copies_that_were_moved_elsewhere_are_not_ours_to_judge(done, shift):
    [place] = record(done).locations
    done.storage.remove_tree(place.replace("demo:", "file://"))
    record(done).locations = ["demo:/out/kept/by/year", "tape:/out(vp1234)"]
    assert broken(shift, 0) == {}


@pytest.mark.parametrize("location", ["demo:/elsewhere", None])  # a drop box may locate it later
def test_two_outputs_of_one_input_are_shown_and_the_later_one_is_named(done, shift, location):
    first = record(done).metadata
    done.sam.put("again.raw", location=location, **{k: v for k, v in first.items() if k != "file_name"})
    assert broken(shift) == {"second outputs of one input": ["again.raw"]}
    repairs(shift)
    assert not done.sam.by_name["again.raw"].retired, "to choose is for a person"


def test_a_lost_row_is_found_by_a_sweep_at_once(done, shift):
    with done.database.write("test") as db:
        db.execute(units.delete().where(units.c.name == "a.raw"))
    assert broken(shift)["files in no state"] == ["a.raw"]
    repairs(shift)
    assert done.broken_sums() == {} and done.batch.live_jobs() == []
    assert broken(shift, 0) == {} and done.states() == {"a.raw": "declared", "b.raw": "declared"}
