"""Problem definitions in SAM: who is in trouble, for all to list and to read; and definitions that are another's."""

import re
from datetime import timedelta

import pytest
from farm import Farm
from samserver.sam_process import register, start_server, stop_server
from test_four_types import GENERATOR

from keepupd.clients.sam import Sam


@pytest.fixture
def farm(tmp_path):
    return Farm(tmp_path)


def listed(farm, definition):
    """As `samweb list-definition-files` has it."""
    return sorted(file.name for file in farm.sam.definition_files(definition))


def fails(farm, name):
    """Its output is invalid: straight to debug."""
    farm.job_of(name).makes_no_events()
    farm.passes(1)


def test_they_are_there_from_the_first_pass_and_empty(farm):
    farm.passes(1)
    assert [listed(farm, f"farm_reco_{state}") for state in ("held", "crash", "debug")] == [[], [], []]


def test_they_list_the_files_in_trouble(farm):
    farm.finds("a.raw", "b.raw", "c.raw", "d.raw")
    farm.passes(2)
    fails(farm, "a.raw")
    farm.job_of("b.raw").dies(signal=11)
    farm.operator("hold", "c.raw")
    farm.passes(2)
    assert listed(farm, "farm_reco_debug") == ["a.raw"] and listed(farm, "farm_reco_crash") == ["b.raw"]
    assert listed(farm, "farm_reco_held") == ["c.raw"]
    farm.operator("release", "c.raw")
    farm.passes(2)
    assert listed(farm, "farm_reco_held") == []


def test_they_change_at_most_hourly_and_the_old_one_keeps_its_content_under_a_dated_name(tmp_path, monkeypatch):
    farm = Farm(tmp_path)
    polls = farm.settings.polls.model_copy(update={"problem_definitions_min_s": 3600.0})
    farm.keeper.settings = farm.settings.model_copy(update={"polls": polls})
    farm.finds("a.raw", "b.raw", "c.raw")
    farm.passes(2)
    fails(farm, "a.raw")
    assert listed(farm, "farm_reco_debug") == ["a.raw"], "the first trouble is told at once"
    fails(farm, "b.raw")
    farm.later(minutes=50)
    farm.passes(1)
    assert listed(farm, "farm_reco_debug") == ["a.raw"]
    farm.later(minutes=10)
    farm.passes(2)
    assert listed(farm, "farm_reco_debug") == ["a.raw", "b.raw"]
    old = farm.sam.definitions("farm_reco_debug_until_")
    assert [listed(farm, name) for name in old] == [[], ["a.raw"]]
    assert all(re.fullmatch(r"farm_reco_debug_until_\d{8}_\d{6}_\d{6}", name) for name in old)
    definitions = farm.sam.definitions("farm_reco_")
    farm.later(hours=5)
    farm.passes(2)
    assert farm.sam.definitions("farm_reco_") == definitions, "no change, no new one"


def test_another_campaign_works_on_them_and_files_leave_it_when_they_are_done(tmp_path):
    farm = Farm(tmp_path, flow=[{}, {"name": "rescue", "input": {"definition": "farm_reco_debug"}}])
    farm.finds("a.raw", "b.raw", "c.raw")
    farm.passes(2)
    fails(farm, "a.raw")
    farm.passes(2)
    [rescuer] = [job for job in farm.starts_jobs() if job.order["campaign"] == "rescue"]
    assert rescuer.input == "a.raw"
    rescuer.succeeds()
    farm.passes(3)
    assert farm.outputs_of("a.raw") == ["a_rescue.raw"]
    farm.operator("retry", "a.raw", reason="it works now")
    farm.passes(3)
    assert listed(farm, "farm_reco_debug") == []
    with farm.database.read() as db:
        rescue = db.exec_driver_sql("SELECT ever_seen, gone, difference FROM campaigns WHERE name = 'rescue'").one()
    assert tuple(rescue) == (1, 1, 0)


@pytest.mark.parametrize("state", ["held", "debug"])
def test_a_kill_between_renaming_and_making_is_no_loss(farm, state):
    farm.finds("a.raw", "b.raw")
    farm.passes(2)
    if state == "held":
        farm.operator("hold", "a.raw")
    else:
        fails(farm, "a.raw")
    farm.passes(2)
    for plain in (f"farm_reco_{state}", "farm_reco_stopped"):
        if plain in farm.sam.defined:
            farm.sam.rename_definition(plain, f"{plain}_until_20990101_000000_000000")
    farm.loses_database()
    farm.passes(2)
    assert farm.state_of("a.raw") == state and farm.state_of("b.raw") == "running"
    assert f"recall_{state}" in farm.story("a.raw")
    assert listed(farm, f"farm_reco_{state}") == ["a.raw"], "made anew"


def test_after_a_lost_database_a_definition_that_is_no_longer_true_is_emptied(farm):
    farm.finds("a.raw")
    farm.passes(2)
    fails(farm, "a.raw")
    farm.passes(1)
    farm.sam.put("a_farm_reco.raw", "demo:/out", data_tier="full-reconstructed", parents=[{"file_name": "a.raw"}])
    farm.loses_database()
    farm.passes(3)
    assert farm.state_of("a.raw") == "declared" and listed(farm, "farm_reco_debug") == []


def test_a_generators_units_are_no_files_and_are_remembered_all_the_same(tmp_path):
    farm = Farm(tmp_path, flow=[GENERATOR])
    farm.sam.register_parameter("DUNE.sample")
    farm.passes(2)
    for job in farm.starts_jobs():
        job.makes_no_events() if job.input in ("2", "4") else job.succeeds()
    farm.passes(2)
    wanted = {f"0000000{n}": "debug" if n in (2, 4) else "declared" for n in range(1, 6)}
    assert farm.states() == wanted and listed(farm, "gen_debug") == []
    farm.loses_database()
    farm.passes(4)
    assert farm.states() == wanted and farm.batch.live_jobs() == []


def test_a_definition_of_that_name_with_another_query_holds_the_campaign_and_shows_both(farm):
    farm.sam.create_definition("farm_reco_output", "data_tier theirs")
    farm.finds("a.raw")
    farm.passes(3)
    row = farm.campaign_row()
    assert row.state == "held" and row.cause == "definition_differs"
    assert "data_tier theirs" in row.why and "DUNE.campaign 'farm_reco'" in row.why and "rename" in row.why
    assert farm.sam.definition("farm_reco_output") == "data_tier theirs", "never changed"
    assert farm.batch.live_jobs() == []

    farm.operator("resume", reason="try anyway")
    farm.passes(2)
    assert farm.campaign_row().state == "held", "as long as it is so"
    farm.sam.rename_definition("farm_reco_output", "theirs")
    farm.operator("resume", reason="it was renamed")
    farm.passes(2)
    assert farm.state_of("a.raw") == "running"
    assert farm.sam.definition("farm_reco_output").startswith("DUNE.campaign 'farm_reco'")


def test_a_campaign_in_a_persons_hands_is_left_there(farm):
    farm.passes(1)
    farm.operator("inspect", reason="looking")
    farm.sam.rename_definition("farm_reco_output", "ours")
    farm.sam.create_definition("farm_reco_output", "data_tier theirs")
    farm.restarts()
    farm.passes(2)
    assert farm.campaign_row().state == "debug"


@pytest.mark.long
def test_in_a_real_sam_they_are_listed_and_delivered(tmp_path):
    """The daemon's own words, through keepup-sam: what `samweb list-files` asks, and a project on the definition."""
    server = start_server(tmp_path / "sam.db")
    (tmp_path / "farm").mkdir()
    try:
        register(server)
        sam = Sam(f"http://127.0.0.1:{server.port}{server.base}")
        sam.register_parameter("DUNE.campaign")
        farm = Farm(tmp_path / "farm")
        farm.keeper.sam = sam
        for name in ("a.raw", "b.raw", "c.raw"):
            server.declare(name, data_tier="raw")
        farm.daemon.inputs(farm.now)
        farm.operator("hold", "a.raw", "c.raw")
        farm.daemon.outputs(farm.now + timedelta(seconds=1))
        assert server.list("defname: farm_reco_held") == ["a.raw", "c.raw"]
        assert server.list("defname: farm_reco_input minus defname: farm_reco_held") == ["b.raw"]
        project = server.start("defname: farm_reco_held")
        process = server.establish(project)
        assert server.post(f"{process}/getNextFile").text.rstrip().endswith("a.raw")
        farm.operator("release", "a.raw")
        farm.daemon.outputs(farm.now + timedelta(seconds=2))
        assert server.list("defname: farm_reco_held") == ["c.raw"]
        [old, *_] = sorted(sam.definitions("farm_reco_held_until_"), reverse=True)
        assert server.list(f"defname: {old}") == ["a.raw", "c.raw"]
        sam.close()
    finally:
        stop_server(server)
