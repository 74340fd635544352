"""The database's server restarts within a pass: the pass fails in words, nothing is lost, the next one goes on."""

from contextlib import suppress

import pytest
from farm import Farm

from keepupd.core.errors import StoreUnavailable

pytestmark = pytest.mark.postgresql
QUICK = ("launch planned",)
WRITES = ("take in", "launch planned", "submitted", "submit done", "jobs seen", "jobs judged", "outputs seen",
          "launch over", "launch closed", "polls noted", "campaign moved")  # fmt: skip


@pytest.fixture
def farm(tmp_path):
    farm = Farm(tmp_path)
    yield farm
    farm.database.close()


@pytest.mark.parametrize("moment", ["before_commit", "after_commit"])
@pytest.mark.parametrize(
    "where", [pytest.param(name, marks=() if name in QUICK else pytest.mark.long) for name in WRITES]
)
def test_a_restart_at_any_write_loses_and_doubles_nothing(farm, postgres, caplog, where, moment):
    struck, failed = [], []

    def strike(name):
        if name == where and not struck:
            struck.append(name)
            postgres.stop("fast" if moment == "before_commit" else "immediate")

    setattr(farm.database, moment, strike)
    farm.finds("a.raw", "b.raw")
    for _ in range(10):
        try:
            farm.passes(1)
            for job in farm.starts_jobs():
                job.succeeds(declares=job.input == "a.raw")
        except StoreUnavailable as trouble:
            failed.append(str(trouble))
        if len(struck) == 1:
            struck.append("started again")
            postgres.start()
    assert struck, f"{where} is not on this way"
    if moment == "before_commit":  # after it, a restart at the pass's end is not even noticed
        assert "the database is gone at" in caplog.text + "".join(failed)
    assert len(failed) <= 1 and "a fault in keepupd itself" not in caplog.text
    assert farm.states() == {"a.raw": "declared", "b.raw": "declared"} and farm.broken_sums() == {}
    assert len(farm.outputs_of("a.raw")) == len(farm.outputs_of("b.raw")) == 1
    assert farm.batch.live_jobs() == [] and len(farm.batch.known) == 2


@pytest.mark.long
def test_an_hour_without_the_server_costs_nothing_but_time(farm, postgres):
    farm.finds("a.raw")
    farm.passes(2)
    postgres.stop()
    farm.job_of("a.raw").succeeds()
    for _ in range(5):
        with suppress(StoreUnavailable):
            farm.passes(1)
        farm.later(minutes=12)
    postgres.start()
    farm.passes(3)
    assert farm.story("a.raw")[-1] == "output_seen" and farm.unit("a.raw").tries == 0
