"""Copying a database from SQLite to PostgreSQL: every row as it was, whole or not at all."""

from datetime import UTC, datetime, timedelta

import databases
import pytest
from sqlalchemy import func, insert, select, update

from keepupd.core.errors import KeepupError, SchemaError
from keepupd.core.model import CatalogFile, Move
from keepupd.daemon.app import load_charts
from keepupd.store import health, intake, store
from keepupd.store.copy import copy
from keepupd.store.database import Database
from keepupd.store.tables import attempts, campaigns, files, history, jobs, launches, metadata, polls, requests, units
from keepupd.store.upgrade import upgrade

pytestmark = pytest.mark.postgresql
NOW = datetime(2026, 1, 5, 2, 0, tzinfo=UTC)
CHART, _ = load_charts()
UNITS = 500


@pytest.fixture
def old(tmp_path):
    """A database with rows in most tables: one campaign, one launch, words with all that makes trouble in a COPY."""
    database = Database(f"sqlite:///{tmp_path}/old.db")
    upgrade(database)
    campaign = {"name": "c", "type": "reco", "settings": "{}", "state": "pending", "since": NOW, "created": NOW,
                "epoch": NOW, "active": False}  # fmt: skip
    with database.write("test") as db:
        db.execute(insert(campaigns).values(campaign))
        listed = [CatalogFile(f"f{i}.raw", i + 2**40, 100, 10) for i in range(UNITS)]
        taken = intake.take_in(db, 1, listed, NOW, timedelta(0))
        db.execute(insert(launches).values(id=7, key="L7", campaign_id=1, created=NOW, settings="{}"))
        db.execute(insert(jobs).values(launch_id=7, number=1, state="running", judged=True, wall_s=0.5, peak_mib=None))
        db.execute(insert(attempts).values(unit_id=taken[0].id, launch_id=7, campaign_id=1))
        why = "tab\t backslash \\ newline\n \\N \\. quote ' µ"
        store.apply(db, CHART, [Move(unit, "launch", why, values={"launch_id": 7}) for unit in taken], NOW)
        asked = {"at": NOW, "who": "ann", "event": "hold", "campaign_id": 1, "reason": ""}
        db.execute(insert(requests), [asked, asked | {"unit_ids": "[1]"}])
    yield database
    database.close()


@pytest.fixture
def new(tmp_path):
    database = Database(databases.bare(tmp_path))
    yield database
    database.close()


def rows_of(database):
    with database.read() as db:
        return {t.name: [tuple(row) for row in db.execute(select(t).order_by(*t.primary_key))]
                for t in metadata.sorted_tables}  # fmt: skip


def copied(old, new):
    told = []
    copy(old, new, "keepupd.yaml", told.append)
    return told


def test_every_row_arrives_as_it_was_and_new_ones_get_new_ids(old, new):
    assert f"units: {UNITS} rows" in copied(old, new)
    assert rows_of(new) == rows_of(old)
    with new.read() as db:
        assert [fault for fault in health.faults(db) if "next id" in fault] == []
    with new.write("test") as db:
        asked = insert(requests).values(at=NOW, who="ann", event="hold", campaign_id=1, reason="")
        assert db.execute(asked.returning(requests.c.id)).scalar_one() == 3
        (unit,) = intake.take_in(db, 1, [CatalogFile("g", 1, 1, 1)], NOW, timedelta(0))
        assert unit.id == UNITS + 1


def test_a_database_with_rows_is_refused_and_stays_as_it_is(old, new):
    copied(old, new)
    with new.write("test") as db:
        db.execute(update(campaigns).values(why="worked on"))
    with pytest.raises(KeepupError, match="is not empty: campaigns has rows"):
        copied(old, new)
    assert rows_of(new)["history"] == rows_of(old)["history"]
    with new.read() as db:
        assert db.execute(select(campaigns.c.why)).scalar_one() == "worked on"


def test_an_interrupted_copy_leaves_nothing_and_can_be_repeated(old, new):
    def interrupted(line):
        if line.startswith("units"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        copy(old, new, "keepupd.yaml", interrupted)
    assert not any(rows_of(new).values())
    copied(old, new)
    assert rows_of(new) == rows_of(old)


def test_a_row_that_belongs_to_none_is_named_and_nothing_is_copied(old, new):
    with old.write("test") as db:
        db.execute(units.delete().where(units.c.name == "f3.raw"))
    with old.read() as db:
        assert health.faults(db) == ["row 4 of files belongs to a missing row of units"]
    with pytest.raises(KeepupError, match=r"a row of files does not fit: (.|\n)*keepupd db check"):
        copied(old, new)
    assert not any(rows_of(new).values())


def test_a_nul_in_a_log_line_is_no_obstacle(old, new):
    with old.write("test") as db:
        db.execute(update(history).values(why="died\0"))
    copied(old, new)
    with new.read() as db:
        assert set(db.execute(select(history.c.why)).scalars()) == {"died\u2400"}


@pytest.mark.parametrize("which", ["old", "new"])
def test_another_schema_on_either_side_is_refused(old, new, which):
    upgrade(new)
    with {"old": old, "new": new}[which].write("test") as db:
        db.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises((SchemaError, Exception), match="9999"):
        copied(old, new)
    with new.read() as db:
        assert db.execute(select(func.count()).select_from(files)).scalar_one() == 0
        assert db.execute(select(func.count()).select_from(polls)).scalar_one() == 0
