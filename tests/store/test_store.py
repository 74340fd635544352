"""apply(): all of a batch of moves happens, or none of it; and what must change together does."""

from datetime import UTC, datetime, timedelta

import databases
import pytest
from sqlalchemy import func, select, update

from keepupd.core.errors import EventRefused, StoreUnavailable, UnitMoved
from keepupd.core.model import CatalogFile, Move
from keepupd.daemon.app import load_charts
from keepupd.store import intake, reads, store
from keepupd.store.database import Database
from keepupd.store.tables import OPEN, campaigns, counters, history, outbox, units

NOW = datetime(2026, 1, 5, 2, 0, tzinfo=UTC)
CHART, _ = load_charts()


@pytest.fixture
def database(tmp_path):
    database = Database(databases.empty(tmp_path))
    with database.write("test") as db:
        db.execute(
            campaigns.insert().values(
                name="c", type="reco", settings="{}", state="pending", since=NOW, created=NOW, epoch=NOW
            )
        )
    yield database
    database.close()


def take_in(database, n, at=NOW):
    listed = [CatalogFile(f"f{i}.raw", i + 1, 100, 10) for i in range(n)]
    with database.write("test") as db:
        return intake.take_in(db, 1, listed, at, timedelta(0))


def launch(units_):
    return [Move(unit, "launch", "launch L") for unit in units_]


def count_of(db, table):
    return db.execute(select(func.count()).select_from(table)).scalar_one()


def test_state_history_and_counters_change_together(database):
    taken = take_in(database, 3)
    with database.write("test") as db:
        assert store.apply(db, CHART, launch(taken), NOW) == ["running"] * 3
    with database.read() as db:
        assert reads.counts(db, 1) == {"running": 3}
        rows = db.execute(select(history.c.source, history.c.event, history.c.dest, history.c.why, history.c.who)).all()
        assert [tuple(row) for row in rows] == [("pending", "launch", "running", "launch L", "keepupd")] * 3
        assert [unit.version for unit in reads.units_by_id(db, [u.id for u in taken])] == [2, 2, 2]


def test_an_effect_is_queued_in_the_transaction_of_the_move_that_wants_it(database):
    taken = take_in(database, 1)
    with database.write("test") as db:
        store.apply(db, CHART, launch(taken), NOW)
        [running] = reads.units_by_id(db, [taken[0].id])
        store.apply(db, CHART, [Move(running, "output_valid", "copied")], NOW)
        [row] = db.execute(select(outbox)).all()
    assert (row.effect, row.key) == ("declare", taken[0].id)


def test_a_move_that_was_outrun_takes_the_whole_batch_with_it(database):
    taken = take_in(database, 3)
    with database.write("test") as db:
        store.apply(db, CHART, launch(taken[:1]), NOW)
    with pytest.raises(UnitMoved), database.write("test") as db:
        store.apply(db, CHART, launch(taken), NOW)
    with database.read() as db:
        assert reads.counts(db, 1) == {"running": 1, "pending": 2}
        assert count_of(db, history) == 1


def test_a_step_off_the_chart_is_refused_before_anything_is_written(database):
    [unit] = take_in(database, 1)
    with pytest.raises(EventRefused, match="output_valid"), database.write("test") as db:
        store.apply(db, CHART, [Move(unit, "output_valid", "no")], NOW)
    with database.read() as db:
        assert count_of(db, history) == 0


def test_a_transaction_that_breaks_leaves_nothing(database):
    taken = take_in(database, 2)
    with pytest.raises(ZeroDivisionError), database.write("test") as db:
        store.apply(db, CHART, launch(taken), NOW)
        raise ZeroDivisionError
    with database.read() as db:
        assert reads.counts(db, 1) == {"pending": 2}


def test_trouble_keeps_its_cause_and_counts_it(database):
    taken = take_in(database, 2)
    with database.write("test") as db:
        store.apply(db, CHART, launch(taken), NOW)
        running = reads.units_by_id(db, [unit.id for unit in taken])
        store.apply(db, CHART, [Move(unit, "executable_died", "signal 11", cause="segfault") for unit in running], NOW)
    with database.read() as db:
        row = db.execute(select(counters).where(counters.c.cause == "segfault")).one()
        assert (row.state, row.n) == ("crash", 2)
        assert {unit.cause for unit in reads.units_by_id(db, [u.id for u in taken])} == {"segfault"}


def plan_of(db, sql):
    """How the database would go about it. PostgreSQL reads small tables whole, unless told not to."""
    if db.dialect.name == "postgresql":
        db.exec_driver_sql("SET LOCAL enable_seqscan = off")
    explain = {"sqlite": "EXPLAIN QUERY PLAN", "postgresql": "EXPLAIN"}[db.dialect.name]
    return " ".join(str(row) for row in db.exec_driver_sql(f"{explain} {sql}"))


def test_pending_units_are_picked_by_index_and_limit(database):
    take_in(database, 50)
    with database.read() as db:
        assert len(reads.launchable(db, 1, NOW, 7)) == 7
        assert reads.launchable(db, 1, NOW - timedelta(seconds=1), 7) == [], "not before they are due"
        plan = plan_of(
            db, "SELECT id FROM units WHERE campaign_id=1 AND state='pending' AND due <= 5 ORDER BY due LIMIT 7"
        )
    assert "units_by_state" in plan and "SCAN" not in plan


def test_the_oldest_open_unit_is_found_by_its_index(database):
    query = select(func.min(units.c.seen)).where(units.c.campaign_id == 1, OPEN)
    with database.read() as db:
        plan = plan_of(db, str(query.compile(db, compile_kwargs={"literal_binds": True})))
    assert "units_open" in plan


def test_a_deleted_unit_an_added_one_and_a_wrong_counter_each_break_the_sum_rule_by_name(database):
    def faults():
        with database.write("test") as db:
            return intake.settle_accounts(db, 1)

    take_in(database, 4)
    assert faults() == {}
    with database.write("test") as db:
        databases.unguarded(db)
        db.execute(units.delete().where(units.c.name == "f0.raw"))
    assert faults().keys() == {"counter of pending", "files in no state"}
    with database.write("test") as db:
        assert intake.without_state(db, 1, merge=False) == ["f0.raw"]
        assert [unit.name for unit in intake.restore_units(db, 1, ["f0.raw"], NOW)] == ["f0.raw"]
    faults()
    with database.write("test") as db:
        extra = {"campaign_id": 1, "name": "ghost.raw", "seen": NOW, "state": "pending", "since": NOW, "due": NOW}
        db.execute(units.insert().values(extra))
    assert faults().keys() == {"counter of pending", "states of no file"}
    with database.write("test") as db:
        db.execute(update(counters).values(n=counters.c.n + 2))
    assert "counter of pending" in faults()


def test_another_process_holding_the_database_is_an_error_in_words(database, monkeypatch):
    monkeypatch.setattr("keepupd.store.database.LOCK_PATIENCE_S", 0.1)
    other, impatient = Database(database.url), Database(database.url)
    with (
        other.write("hold"),
        pytest.raises(StoreUnavailable, match=r"lock(.|\n)*another process"),
        impatient.write("try"),
    ):
        pass
    other.close()
    impatient.close()
