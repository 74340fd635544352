"""hold, release, retry, redo, pause, inspect, resume: recorded with who and why; the daemon alone moves anything."""

import shlex

import pytest
from sqlalchemy import select

from keepupd.ctl import ask
from keepupd.store.tables import history, requests


def asked(farm) -> list:
    with farm.database.read() as db:
        return db.execute(select(requests).order_by(requests.c.id)).all()


@pytest.fixture
def five(farm):
    farm.finds(*(f"f{n}.raw" for n in range(5)))
    farm.daemon.inputs(farm.now)
    return farm


def test_a_file_is_held_and_released_and_history_keeps_who_and_why(five, shift, monkeypatch):
    monkeypatch.setenv("SUDO_USER", "ann")
    with shift.daemon_answers():
        assert "hold: 1 file(s)" in shift.reads("hold", "f1.raw", "--reason", "bad calibration")
        assert five.state_of("f1.raw") == "held"
        assert "stays held until a person acts" in shift.reads("why", "f1.raw")
        shift.reads("release", "f1.raw", "--reason", "calibrated anew")
    assert five.state_of("f1.raw") == "pending"
    with five.database.read() as db:
        steps = db.execute(select(history).where(history.c.unit_id == five.unit("f1.raw").id)).all()
    told = [(step.event, step.who, step.why) for step in steps]
    assert told == [("hold", "ann", "bad calibration"), ("release", "ann", "calibrated anew")]


def test_many_files_are_shown_first_and_asked_for_once(five, shift, monkeypatch):
    assert "add --yes" in shift.reads("hold", "--campaign", "farm_reco", "--reason", "x", code=2)
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    assert asked(five) == []
    with shift.daemon_answers():
        said = shift.reads("hold", "--campaign", "farm_reco", "--state", "pending", "--reason", "x", "--yes")
    assert "f0.raw" in said and "hold: 5 file(s)" in said
    assert set(five.states().values()) == {"held"}
    assert shift.json("files", "farm_reco", "--cause", "held_by_operator")["total"] == 5


def test_a_big_choice_goes_in_several_requests(five, shift, monkeypatch):
    monkeypatch.setattr(ask, "TOGETHER", 2)
    with shift.daemon_answers():
        shift.reads("hold", "--campaign", "farm_reco", "--reason", "x", "--yes")
    assert len(asked(five)) == 3 and set(five.states().values()) == {"held"}
    monkeypatch.setattr(ask, "MOST", 4)
    assert "pause the campaign" in shift.reads("release", "--campaign", "farm_reco", "--reason", "x", "--yes", code=1)


def test_what_the_chart_does_not_allow_is_refused_before_it_is_recorded(five, shift):
    assert "allowed there: hold" in shift.reads("retry", "f1.raw", "--reason", "x", code=1)
    assert "event 'release' in state 'pending'" in shift.reads(
        "release", "--campaign", "farm_reco", "--state", "pending", "--reason", "x", "--yes", code=1)  # fmt: skip
    assert "event 'resume'" in shift.reads("resume", "farm_reco", "--reason", "x", code=1)
    shift.reads("redo", "--campaign", "farm_reco", "--reason", "x", "--yes", code=3)  # none is declared
    shift.reads("hold", "nothing.raw", "--reason", "x", code=3)
    assert asked(five) == []


def test_of_several_files_those_that_can_are_moved_and_the_others_named(five, shift):
    five.operator("hold", "f1.raw")
    with shift.daemon_answers():
        said = shift.reads("hold", "f1.raw", "f2.raw", "--reason", "x", "--yes")
    assert "f1.raw is in held: hold is not for it" in said and five.state_of("f2.raw") == "held"


@pytest.mark.parametrize("typed", [
    "hold f1.raw", "hold f1.raw --reason ' '", "hold --reason x", "pause farm_reco",
    "hold f1.raw --state held --reason x",
])  # fmt: skip
def test_a_reason_and_a_clear_choice_are_required(five, shift, typed):
    shift.reads(*shlex.split(typed), code=2)
    assert asked(five) == []


def test_with_the_daemon_down_a_request_is_kept_for_it(five, shift, monkeypatch):
    monkeypatch.setattr(ask, "PATIENCE_S", 0.0)
    assert "has not taken it yet" in shift.reads("hold", "f1.raw", "--reason", "x")
    [row] = asked(five)
    assert (row.event, row.reason, row.done) == ("hold", "x", None)
    assert shift.json("status")["daemon"]["requests_waiting"] == 1
    five.daemon.operator(five.now)
    assert five.state_of("f1.raw") == "held"


def test_a_campaign_is_paused_inspected_and_resumed(five, shift):
    with shift.daemon_answers():
        assert "the campaign is now held" in shift.reads("pause", "farm_reco", "--reason", "power cut")
        assert shift.json("status")["campaigns"][0]["why"] == "power cut"
        assert "now debug" in shift.reads("inspect", "farm_reco", "--reason", "looking")
        assert "now running" in shift.reads("resume", "farm_reco", "--reason", "all is well")
    assert "inspect" in shift.reads("history", "farm_reco")


def test_the_person_behind_sudo_is_kept(monkeypatch):
    monkeypatch.delenv("SUDO_USER", raising=False)
    account = ask.real_user()
    assert account
    monkeypatch.setenv("SUDO_USER", "b" * 200)
    assert ask.real_user() == "b" * 80 != account


def test_a_parked_effect_is_tried_again_by_its_number(farm, shift):
    from sqlalchemy import insert, select

    from keepupd.store.tables import outbox

    row = {"effect": "remove_losers", "key": 1, "created": farm.now, "due": farm.now, "parked": farm.now, "error": "no"}
    with farm.database.write("test") as db:
        number = db.execute(insert(outbox).values(row).returning(outbox.c.id)).scalar_one()
    assert f"again {number}" in shift.reads("stuck", code=1)
    with shift.daemon_answers():
        assert "1 effect(s) are tried again" in shift.reads("again", str(number), "--reason", "disk is back")
    with farm.database.read() as db:
        assert db.execute(select(outbox.c.parked)).scalar_one() is None
    assert "no parked effect" in shift.reads("again", "99", "--reason", "typo", code=3)
