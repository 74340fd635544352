"""A week in which nothing happens, or SAM is away: the daemon's real schedule, on a clock that the test moves.

Nothing decays meanwhile: no state, no row more, and the last day's polls cost what the second day's did.
"""

from collections import Counter
from datetime import UTC, datetime, timedelta

import pytest
from farm import Farm
from freezegun import freeze_time
from sqlalchemy import event, func, select

from keepupd.daemon.app import Daemon
from keepupd.store.tables import metadata

START = datetime(2026, 1, 5, 2, 0, tzinfo=UTC)
DAY = timedelta(days=1)
GRAINS = [pytest.param(6 * 3600, id="each-6-hours"), pytest.param(1200, id="each-20-minutes", marks=pytest.mark.long)]


class Week:
    """A farm under the daemon's own schedule, all of whose polls come every `grain_s` seconds."""

    def __init__(self, place, clock, grain_s):
        self.clock, self.grain, self.farm = clock, timedelta(seconds=grain_s), Farm(place)
        polls = dict.fromkeys(("pass_s", "inputs_s", "outputs_s", "operator_s"), grain_s)
        settings = self.farm.settings
        settings = settings.model_copy(update={"polls": settings.polls.model_copy(update=polls)})
        self.daemon = Daemon(place / "keepupd.yaml", settings, self.farm.database)
        keeper = self.daemon.keeper
        keeper.campaigns, keeper.own_rules = self.farm.keeper.campaigns, self.farm.keeper.own_rules
        keeper.sam, keeper.batch, keeper.storage = self.farm.sam, self.farm.batch, self.farm.storage
        self.farm.sam.clock = lambda: datetime.now(UTC)
        self.daemon.clock_watch.monotonic = lambda: datetime.now(UTC).timestamp()
        self.daemon._schedule()
        self.statements = 0
        event.listen(self.farm.database.engine, "before_cursor_execute", self._count)

    def _count(self, *_):
        self.statements += 1

    def goes_by(self, time):
        """Run what the schedule has for this time, in its order."""
        jobs, end = self.daemon.scheduler.get_jobs(), datetime.now(UTC) + time
        while (job := min(jobs, key=lambda job: job.next_run_time)).next_run_time <= end:
            self.clock.move_to(max(job.next_run_time, datetime.now(UTC)))
            job.modify(next_run_time=datetime.now(UTC) + job.trigger.interval)
            job.func()
        self.clock.move_to(end)

    def rounds(self, n):
        self.goes_by(n * self.grain)

    def works(self):
        """Time for all that can be done, and all jobs succeed."""
        for _ in range(6):
            self.rounds(1)
            self.farm.starts_jobs()
            for job in self.farm.batch.live_jobs():
                job.succeeds()

    def cost_of(self, time):
        """What is asked of SAM, and how many statements are sent to the database, while this time goes by."""
        calls, statements = Counter(self.farm.sam.calls), self.statements
        self.goes_by(time)
        return self.farm.sam.calls - calls, self.statements - statements

    def rows(self):
        with self.farm.database.read() as db:
            tables = metadata.sorted_tables
            rows = {table.name: db.execute(select(func.count()).select_from(table)).scalar_one() for table in tables}
        return rows | {"definitions": len(self.farm.sam.defined), "projects": len(self.farm.sam.started)}

    def is_quiet(self):
        """Six days without change: rows, what is in SAM, states and the price of a day stay as they are."""
        self.goes_by(DAY)
        rows, states, price = self.rows(), self.farm.states(), self.cost_of(DAY)
        self.goes_by(3 * DAY)
        assert self.cost_of(DAY) == price
        assert (self.rows(), self.farm.states()) == (rows, states) and self.farm.broken_sums() == {}
        return states


@pytest.fixture
def week(tmp_path, request):
    with freeze_time(START, ignore=["_pytest"]) as clock:  # pytest times its tests
        week = Week(tmp_path, clock, request.param)
        yield week
        week.daemon.keeper.database.close()


@pytest.mark.parametrize("week", GRAINS, indirect=True)
def test_after_a_week_without_input_a_file_arrives_and_it_runs(week):
    farm = week.farm
    farm.finds("a.raw", "bad.raw")
    week.rounds(2)
    farm.job_of("bad.raw").makes_no_events()
    week.works()
    assert week.is_quiet() == {"a.raw": "declared", "bad.raw": "debug"}
    assert farm.campaign_row().state == "declared" and farm.batch.jobs == {}
    farm.finds("b.raw")
    week.works()
    assert farm.state_of("b.raw") == "declared" and farm.campaign_row().state == "declared"
    assert farm.outputs_of("b.raw") == ["b_farm_reco.raw"] and farm.batch.jobs == {}


@pytest.mark.parametrize("week", GRAINS, indirect=True)
def test_after_a_week_without_sam_all_goes_on_where_it_stood(week):
    farm = week.farm
    farm.finds("done.raw", "runs.raw", "copied.raw", "crashed.raw", "held.raw")
    week.rounds(2)
    farm.job_of("done.raw").succeeds()
    farm.job_of("crashed.raw").dies()
    week.rounds(1)
    farm.operator("hold", "held.raw")
    farm.sam.silent = True
    farm.job_of("copied.raw").succeeds(declares=False)
    stood = {"done.raw": "declared", "runs.raw": "running", "copied.raw": "validated", "crashed.raw": "crash"}
    assert week.is_quiet() == stood | {"held.raw": "held"}
    farm.sam.silent = False
    farm.finds("new.raw")
    week.works()
    assert farm.states() == dict.fromkeys([*stood, "new.raw"], "declared") | {"held.raw": "held"}
    assert all(len(farm.outputs_of(name)) == 1 for name in [*stood, "new.raw"])
