"""Merge groups by hand: flush closes what waits, dissolve takes one in debug apart; no file is lost or twice."""

import pytest
from farm import Farm
from sqlalchemy import select, update

from keepupd.core.errors import UnitMoved
from keepupd.core.plan import Group
from keepupd.daemon import planning
from keepupd.store import grouping
from keepupd.store.tables import campaigns, files, history, outbox, units

MERGE = {
    "name": "merge", "type": "merge", "merge": {"by": ["DUNE.sample"], "max_files": 3}, "input": {},
    "canary": {"groups": 0},
    "outputs": [{"tier": "full-reconstructed", "file_type": "mc", "location": "demo:/merge"}],
    "executable": {"argv": ["m", "{output}", "{inputs}"], "application": {"family": "t", "name": "m", "version": "v1"}},
}  # fmt: skip


@pytest.fixture
def farm(tmp_path):
    farm = Farm(tmp_path, flow=[MERGE])
    farm.sam.register_parameter("DUNE.sample")
    farm.sam.create_definition("merge_input", "data_tier simulated")
    yield farm
    farm.database.close()


def arrive(farm, *names, sample="1"):
    for name in names:
        farm.sam.put(name, data_tier="simulated", event_count=10, **{"DUNE.sample": sample})


def groups(farm):
    """{names of the members: the unit}; "" for the files that wait."""
    with farm.database.read() as db:
        known = {row.id: row for row in db.execute(select(units))}
        found = {}
        for row in db.execute(select(files).order_by(files.c.name)):
            found.setdefault(row.unit_id, []).append(row.name)
    return {" ".join(names): known.get(unit_id) for unit_id, names in found.items()}


def inputs_of_outputs(farm):
    made = [file for file in farm.sam.by_name.values() if "_merge" in file.name and file.locations]
    return sorted(parent["file_name"] for file in made for parent in file.metadata["parents"])


@pytest.fixture
def spoilt(farm):
    """a, b and c are a group in debug; d waits."""
    arrive(farm, "a.root", "b.root", "c.root", "d.root")
    farm.passes(3)
    [job] = farm.starts_jobs()
    job.makes_no_events()
    farm.passes(3)
    assert groups(farm)["a.root b.root c.root"].state == "debug"
    return farm


# --- flush --------------------------------------------------------------------------------------------------------


def test_a_flush_shows_what_would_go_where_and_closes_just_that(farm, shift):
    arrive(farm, "a.root", "b.root")
    arrive(farm, "x.root", sample="2")
    farm.passes(2)
    told = shift.reads("flush", "merge", "--reason", "end of run", code=2)
    assert "3 waiting file(s), 30 events, would go into 2 group(s)" in told and "add --yes" in told
    assert "2 file(s), 20 events, DUNE.sample 1" in told and "a.root, b.root" in told
    assert set(groups(farm)) == {"a.root b.root x.root"}, "nothing is closed by looking"
    with shift.daemon_answers():
        assert "flush: 2 group(s) closed" in shift.reads("flush", "merge", "--reason", "end of run", "--yes")
    farm.passes(2)
    assert set(groups(farm)) == {"a.root b.root", "x.root"}
    assert groups(farm)["a.root b.root"].name in told, "the preview names the groups as they come to be"
    assert "end of run" in groups(farm)["x.root"].origin
    assert "closed by flushed by" in shift.reads("why", "x.root") and farm.broken_sums() == {}
    for job in farm.starts_jobs():
        job.succeeds()
    farm.passes(2)
    assert inputs_of_outputs(farm) == ["a.root", "b.root", "x.root"]


def test_nothing_waits_or_no_merge(farm, shift):
    farm.passes(2)
    assert "would go into 0 group(s)" in shift.reads("flush", "merge", "--reason", "x", "--yes", code=3)
    assert "no campaign 'marge'" in shift.reads("flush", "marge", "--reason", "x", "--yes", code=3)
    with farm.database.write("test") as db:
        db.execute(update(campaigns).values(type="reco"))
    assert "only a merge has groups" in shift.reads("flush", "merge", "--reason", "x", "--yes", code=1)


def test_a_waiting_file_says_what_it_waits_for_and_how_not_to(farm, shift):
    arrive(farm, "a.root")
    farm.passes(2)
    told = shift.reads("why", "a.root")
    assert "waits for a group to close" in told and "DUNE.sample 1" in told and "flush --reason" in told
    assert not told.startswith("!")


def test_a_flush_waits_for_sam_and_holds_up_no_other_request(farm, shift):
    arrive(farm, "a.root")
    farm.passes(2)
    farm.sam.silent = True
    with shift.daemon_answers():
        assert "the daemon has not taken it yet" in shift.reads("flush", "merge", "--reason", "x", "--yes")
        assert "the campaign is now held" in shift.reads("pause", "merge", "--reason", "x")
    farm.sam.silent = False
    farm.passes(1)
    assert groups(farm)["a.root"].origin.startswith("flushed by")


def test_groups_that_another_pass_closed_meanwhile_are_not_closed_again(farm):
    arrive(farm, "a.root", "b.root")
    farm.passes(2)
    with farm.database.read() as db:
        [(key, *_)] = grouping.waiting_keys(db, 1)
        plan = [Group(tuple(grouping.waiting(db, 1, key)), "flushed by ann")]
    planning.close(farm.keeper, 1, plan, farm.now)
    with pytest.raises(UnitMoved):
        planning.close(farm.keeper, 1, plan, farm.now)
    assert len(groups(farm)) == 1 and farm.broken_sums() == {}


def test_audit_finds_nothing_while_files_wait(farm, shift):
    from keepupd.ctl import audit

    arrive(farm, "a.root", "b.root")
    farm.passes(2)
    with shift_desk(shift).read() as db:
        [row] = db.execute(select(campaigns)).all()
        assert all(ask(db, row) == [] for ask in audit.IN_STORE.values())


def shift_desk(shift):
    from keepupd.ctl.desk import Desk

    return Desk(shift.config, "", shift.farm.now)


# --- dissolve -------------------------------------------------------------------------------------------------------


def test_a_group_is_dissolved_without_its_bad_file_and_the_good_ones_are_merged(spoilt, shift):
    old = groups(spoilt)["a.root b.root c.root"]
    assert "dissolve --without BAD_FILE --reason" in shift.reads("why", "b.root")
    with shift.daemon_answers():
        told = shift.reads("dissolve", old.name, "--without", "b.root", "--reason", "unreadable")
    assert "dissolved without b.root; 2 files wait for a group again" in told
    spoilt.passes(3)
    found = groups(spoilt)
    assert set(found) == {"b.root", "a.root c.root d.root"} and spoilt.broken_sums() == {}
    bad = found["b.root"]
    assert (bad.state, bad.cause, bad.files, bad.id) == ("debug", "set_aside", 1, old.id)
    for job in spoilt.starts_jobs():
        job.succeeds()
    spoilt.passes(3)
    assert inputs_of_outputs(spoilt) == ["a.root", "c.root", "d.root"] and spoilt.broken_sums() == {}
    assert "dissolve" not in shift.reads("why", "b.root").split("overrule")[1], "one file can't be taken apart"


def test_the_bad_file_keeps_the_history_and_the_evidence_of_its_group(spoilt, shift):
    with shift.daemon_answers():
        shift.reads("dissolve", "a.root", "--without", "b.root", "--reason", "unreadable")
    told = shift.reads("why", "b.root")
    assert "unreadable" in told and "too_few_events" in told
    steps = [step["event"] for step in shift.json("history", "b.root")["steps"]]
    assert steps == ["launch", "output_invalid", "dissolve"]
    with spoilt.database.read() as db:
        dangling = select(history).where(history.c.unit_id.is_not(None), history.c.unit_id.not_in(select(units.c.id)))
        assert db.execute(dangling).all() == []


def test_the_bad_file_mended_is_a_group_of_its_own(spoilt, shift):
    with shift.daemon_answers():
        shift.reads("dissolve", "a.root", "--without", "b.root", "--reason", "x")
        spoilt.passes(1)
        shift.reads("retry", "b.root", "--reason", "mended")
    for _ in range(3):
        spoilt.passes(2)
        for job in spoilt.starts_jobs():
            job.succeeds()
    spoilt.passes(2)
    assert inputs_of_outputs(spoilt) == ["a.root", "b.root", "c.root", "d.root"] and spoilt.broken_sums() == {}


def test_a_lost_database_brings_back_neither_the_dissolved_group_nor_the_bad_file(spoilt, shift):
    with shift.daemon_answers():
        shift.reads("dissolve", "a.root", "--without", "b.root", "--reason", "x")
    spoilt.passes(2)
    spoilt.loses_database()
    spoilt.passes(3)
    found = groups(spoilt)
    assert set(found) == {"b.root", "a.root c.root d.root"}
    assert found["b.root"].state == "debug"
    assert any("_dissolved_" in name for name in spoilt.sam.defined)


def test_a_group_recalled_from_sam_keeps_its_name_when_a_member_has_left(farm):
    arrive(farm, "a.root", "b.root", "c.root")
    farm.passes(3)
    [job] = farm.starts_jobs()
    job.succeeds()
    farm.passes(2)
    farm.sam.retire("b.root")
    farm.loses_database()
    farm.passes(3)
    assert groups(farm)["a.root b.root c.root"].state == "declared" and farm.campaign_row().gone == 1
    del farm.sam.by_name["b.root"].metadata["retired_date"]
    farm.later(hours=2)
    farm.passes(3)
    assert list(groups(farm)) == ["a.root b.root c.root"] and farm.campaign_row().gone == 0, "it is in no second group"
    assert farm.broken_sums() == {} and not stuck(farm)


def stuck(farm):
    with farm.database.read() as db:
        return [row.error for row in db.execute(select(outbox)) if row.error]


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["a.root", "--without", "x.root"], 1, "x.root is not in group"),
        (["a.root", "--without", "a.root", "--without", "b.root", "--without", "c.root"], 1, "nothing would be left"),
        (["d.root", "--without", "d.root"], 1, "is in no group yet"),
        (["a.rooot", "--without", "a.root"], 3, "perhaps a.root"),
        (["a.root"], 2, "--without"),
    ],
)
def test_what_can_not_be_dissolved_is_refused_at_once(spoilt, shift, words, code, said):
    assert said in shift.reads("dissolve", *words, "--reason", "x", code=code)


def test_only_a_group_in_debug_is_dissolved(farm, shift):
    arrive(farm, "a.root", "b.root", "c.root")
    farm.passes(3)
    told = shift.reads("dissolve", "a.root", "--without", "b.root", "--reason", "x", code=1)
    assert "'dissolve' in state 'running'" in told


def test_a_group_whose_output_sam_has_is_not_dissolved(spoilt, shift):
    """A copy came in late: its record holds all three files, and none of them may go into another output."""
    name = spoilt.keeper.campaigns[1].output_names(groups(spoilt)["a.root b.root c.root"].name)["output"]
    spoilt.sam.put(name, location="demo:/merge/late", parents=[{"file_name": f"{n}.root"} for n in "abc"])
    with shift.daemon_answers():
        told = shift.reads("dissolve", "a.root", "--without", "b.root", "--reason", "x")
    assert f"SAM has its output {name}" in told and groups(spoilt)["a.root b.root c.root"].files == 3


def test_asked_twice_it_is_done_once(spoilt, shift):
    unit = groups(spoilt)["a.root b.root c.root"]
    from keepupd.ctl import groups as asking

    for _ in range(2):
        asking.ask_to_dissolve(shift_desk(shift), unit.name, None, ["b.root"], "x")
    spoilt.passes(3)
    assert set(groups(spoilt)) == {"b.root", "a.root c.root d.root"} and spoilt.broken_sums() == {}
