"""Files that left SAM: an incomplete group is told and can be dissolved; nobody waits for what will not come."""

import pytest
from farm import Farm
from prometheus_client import generate_latest
from sqlalchemy import select
from test_ctl_groups import MERGE, arrive, groups, inputs_of_outputs

from keepupd.daemon.metrics import Metrics
from keepupd.store.tables import campaigns, units


@pytest.fixture
def farm(tmp_path):
    farm = Farm(tmp_path, flow=[MERGE])
    farm.sam.register_parameter("DUNE.sample")
    farm.sam.create_definition("merge_input", "data_tier simulated")
    yield farm
    farm.database.close()


def row_of(farm, name="merge"):
    with farm.database.read() as db:
        return db.execute(select(campaigns).where(campaigns.c.name == name)).one()


@pytest.fixture
def incomplete(farm):
    """a, b and c are a closed group that was never launched; b has left SAM."""
    farm.passes(2)
    arrive(farm, "a.root", "b.root", "c.root")
    farm.batch.silent = True
    farm.passes(2)
    farm.sam.retire("b.root")
    farm.passes(1)
    farm.batch.silent = False
    farm.passes(2)
    group = groups(farm)["a.root b.root c.root"]
    assert (group.state, group.due) == ("pending", None)
    return farm


def test_an_incomplete_group_is_told_everywhere_with_the_file_and_the_command(incomplete, shift):
    name = groups(incomplete)["a.root b.root c.root"].name
    told = shift.reads("stuck", code=1)
    assert f"group {name} of merge is incomplete" in told and "b.root left SAM" in told
    assert f"dissolve {name} --without b.root --reason WHY" in told
    assert "1 groups wait for files that left SAM" in shift.reads("status")
    [c] = shift.json("status")["campaigns"]
    assert c["oldest_undeclared_s"] > 0, "two of its files are there, and late one day"
    for asked in (name, "a.root", "b.root"):
        told = shift.reads("why", asked)
        assert "b.root of its group left SAM" in told and "--without b.root" in told, told
        assert "hold" not in told.split("overrule")[0] and "no file stands behind it" not in told


def test_an_incomplete_group_is_dissolved_and_the_other_files_are_merged(incomplete, shift):
    with shift.daemon_answers():
        told = shift.reads("dissolve", "a.root", "--without", "b.root", "--reason", "gone")
    assert "dissolved without b.root" in told
    arrive(incomplete, "d.root")
    incomplete.passes(3)
    found = groups(incomplete)
    assert set(found) == {"b.root", "a.root c.root d.root"} and incomplete.broken_sums() == {}
    assert (found["b.root"].state, found["b.root"].cause) == ("debug", "set_aside")
    for job in incomplete.starts_jobs():
        job.succeeds()
    incomplete.passes(4)
    assert inputs_of_outputs(incomplete) == ["a.root", "c.root", "d.root"]
    assert row_of(incomplete).state == "declared" and shift.reads("stuck") == "nothing is stuck\n"
    incomplete.loses_database()
    incomplete.passes(4)
    found = groups(incomplete)
    assert set(found) == {"b.root", "a.root c.root d.root"}, "the old group is not brought back"
    assert found["b.root"].state == "debug", "what was set aside stays so"


def test_a_held_group_is_dissolved_but_not_while_its_job_may_still_deliver(farm, shift):
    arrive(farm, "a.root", "b.root", "c.root")
    farm.passes(3)
    [job] = farm.starts_jobs()
    name = groups(farm)["a.root b.root c.root"].name
    farm.operator("hold", name)
    with shift.daemon_answers():
        told = shift.reads("dissolve", "a.root", "--without", "b.root", "--reason", "x")
    assert "may still make its output" in told and groups(farm)["a.root b.root c.root"].state == "held"
    farm.passes(3)
    farm.later(minutes=30)
    farm.passes(3)
    with shift.daemon_answers():
        assert "dissolved without" in shift.reads("dissolve", "a.root", "--without", "b.root", "--reason", "x")
    assert set(groups(farm)) == {"b.root", "a.root c.root"} and farm.broken_sums() == {}
    assert job.key not in farm.batch.jobs or not job.live


def test_a_group_goes_on_only_when_all_its_files_are_back(farm):
    farm.passes(2)
    arrive(farm, "a.root", "b.root", "c.root")
    farm.batch.silent = True
    farm.passes(2)
    places = {name: farm.sam.by_name[name].locations[0] for name in ("a.root", "b.root")}
    for name, place in places.items():
        farm.sam.remove_location(name, place)
    farm.passes(2)
    farm.sam.add_location("a.root", places["a.root"])
    farm.passes(2)
    assert groups(farm)["a.root b.root c.root"].due is None, "b.root is still away"
    farm.sam.add_location("b.root", places["b.root"])
    farm.batch.silent = False
    farm.passes(3)
    [job] = farm.starts_jobs()
    assert len(job.inputs) == 3


# --- nobody waits for what will not come ------------------------------------------------------------------------------

GENERATOR = {
    "name": "gen", "type": "generator", "input": {},
    "generator": {"target_units": 3, "events_per_unit": 10, "first_run": 1},
    "outputs": [{"tier": "simulated", "file_type": "mc", "location": "demo:/gen", "definitions": ["reco_input"]}],
    "executable": {"argv": ["g", "{output}"], "application": {"family": "t", "name": "g", "version": "v1"}},
}  # fmt: skip
RECO = {
    "name": "reco", "retry": {"attempts": 9}, "input": {"definition": "reco_input"}, "metadata": {"DUNE.sample": "1"},
    "outputs": [{"tier": "reco", "file_type": "mc", "location": "demo:/r", "definitions": ["merge_input"]}],
}  # fmt: skip


def of_reco(farm, name):
    with farm.database.read() as db:
        mine = select(units.c.state).join(campaigns, campaigns.c.id == units.c.campaign_id)
        return db.execute(mine.where(campaigns.c.name == "reco", units.c.name == name)).scalar_one()


def flow(tmp_path):
    farm = Farm(tmp_path, flow=[GENERATOR, RECO, MERGE | {"merge": {"by": ["DUNE.sample"], "max_files": 5}}])
    farm.sam.register_parameter("DUNE.sample")
    return farm


class TestFlow:
    @pytest.fixture
    def farm(self, tmp_path):
        farm = flow(tmp_path)
        yield farm
        farm.database.close()

    def work(self, farm, upset=lambda job: False, rounds=9):
        for _ in range(rounds):
            farm.passes(2, seconds=30)
            for job in farm.starts_jobs():
                if not upset(job):
                    job.succeeds()

    @pytest.mark.parametrize("trouble", ["held", "crash"])
    def test_a_file_that_left_undeclared_ends_the_flow_all_the_same(self, farm, shift, trouble):
        left = []

        def upset(job):
            if job.order["campaign"] != "reco" or (left and job.input != left[0]):
                return False
            left[:] = [job.input]
            {"held": job.finds_no_copy, "crash": job.dies}[trouble]()
            return True

        self.work(farm, upset)
        assert not row_of(farm, "merge").complete
        farm.sam.retire(left[0])
        self.work(farm)
        self.has_ended(farm)
        farm.later(hours=30)
        self.work(farm, rounds=2)
        assert of_reco(farm, left[0]) == "pending", "its wait is over, but it is not launched"
        self.has_ended(farm)
        told = shift.reads("why", "reco")
        assert "of these 1 left the input definition" in told and "completion  it is complete" in told
        assert {c["oldest_undeclared_s"] for c in shift.json("status")["campaigns"]} == {None}
        metrics = generate_latest(Metrics(farm.database, lambda: farm.now).registry).decode()
        assert 'keepupd_oldest_undeclared_age_seconds{campaign="reco"} 0.0' in metrics

    def has_ended(self, farm):
        found = {name: row_of(farm, name) for name in ("gen", "reco", "merge")}
        assert all(row.complete and row.state == "declared" for row in found.values()), {
            name: (row.state, row.outlook) for name, row in found.items()
        }
        assert len(inputs_of_outputs(farm)) == 2

    def test_why_says_what_a_flow_waits_for_and_what_will_never_come(self, farm, shift):
        farm.passes(3)
        assert "completion  upstream is not complete: reco" in shift.reads("why", "merge")
        assert "upstream is not complete: gen" in shift.reads("why", "reco")

        def upset(job):
            job.makes_no_events() if job.order["campaign"] == "reco" and not bad else None
            bad.add(job.input) if job.order["campaign"] == "reco" and not bad else None
            return job.input in bad

        bad = set()
        self.work(farm, upset)
        assert "upstream in debug, so perhaps missing here: 1 of reco" in shift.reads("why", "merge")
        assert "upstream in debug, so perhaps missing here: 1 of reco" in shift.reads("status")
        merge = next(c for c in shift.json("status")["campaigns"] if c["name"] == "merge")
        assert merge["outlook"] == "it is complete; upstream in debug, so perhaps missing here: 1 of reco"

    def test_a_campaign_gone_from_the_configuration_stops_no_other(self, farm):
        farm.flow = farm.flow[:2]
        farm.restarts()
        self.work(farm)
        assert row_of(farm, "reco").complete


def test_why_says_that_waiting_files_lack_a_key_they_are_grouped_by(farm, shift):
    farm.sam.put("a.root", data_tier="simulated")
    farm.passes(2)
    assert "1 waiting files have no DUNE.sample" in shift.reads("why", "merge")
