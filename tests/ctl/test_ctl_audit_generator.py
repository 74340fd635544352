"""`keepupctl audit` of a generator, which has no input that SAM could be asked for: its units are what was seen."""

import pytest
from farm import Farm
from sqlalchemy import update

from keepupd.ctl import audit
from keepupd.store.tables import campaigns

GENERATOR = {
    "name": "gen", "type": "generator", "input": {},
    "generator": {"target_units": 5, "events_per_unit": 10, "first_run": 100},
    "outputs": [{"tier": "simulated", "file_type": "mc", "location": "demo:/gen"}],
    "executable": {"argv": ["gen", "{run}", "{output}"], "application": {"family": "t", "name": "g", "version": "v1"}},
}  # fmt: skip


@pytest.fixture
def farm(tmp_path, monkeypatch):
    farm = Farm(tmp_path, flow=[GENERATOR])
    monkeypatch.setattr(audit, "_connect", lambda desk: farm.sam)
    farm.passes(2)
    yield farm
    farm.database.close()


def test_its_units_are_what_was_seen(farm, shift):
    [found] = shift.json("audit")["campaigns"]
    assert (found["ever_seen"], found["broken"], found["sam_error"]) == (5, {}, "")
    assert "no input, it makes its own units; ever seen 5" in shift.reads("audit")


def test_a_wrong_count_is_named(farm, shift):
    with farm.database.write("test") as db:
        db.execute(update(campaigns).values(ever_seen=6))
    [found] = shift.json("audit", code=1)["campaigns"]
    assert found["broken"] == {"counters that differ": ["ever seen: counted 6, there are 5"]}
