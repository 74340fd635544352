"""PostgreSQL beyond the store's common tests: one daemon, one writer at a time, and a server that goes away."""

import os
import socket
import sys
import threading
from datetime import UTC, datetime

import databases
import pytest
from sqlalchemy import func, insert, select

from keepupd.core.errors import AlreadyRunning, StoreUnavailable
from keepupd.store import grouping, postgres
from keepupd.store.database import Database
from keepupd.store.tables import campaigns, history, polls, units

pytestmark = pytest.mark.postgresql
NOW = datetime(2026, 1, 5, 2, 0, tzinfo=UTC)
CAMPAIGN = {"name": "c", "type": "generator", "settings": "{}", "state": "pending", "since": NOW, "created": NOW,
            "epoch": NOW}  # fmt: skip


@pytest.fixture
def url(tmp_path):
    return databases.empty(tmp_path)


@pytest.fixture
def ours(url):
    database = Database(url)
    yield database
    database.close()


@pytest.fixture
def theirs(url):
    """Another process's, as far as the server knows."""
    database = Database(url)
    yield database
    database.close()


def number_of(database, table):
    with database.read() as db:
        return db.execute(select(func.count()).select_from(table)).scalar_one()


# --- one daemon ---------------------------------------------------------------------------------------------------


def test_a_second_daemon_is_refused_and_told_who_holds_the_database(ours, theirs):
    ours.hold()
    ours.hold()  # safe to repeat
    with pytest.raises(AlreadyRunning, match=rf"pid {os.getpid()} on {socket.gethostname()} since 20\d\d"):
        theirs.hold()
    with theirs.read() as db:
        assert f"pid {os.getpid()}" in postgres.holder(db)
    ours.close()
    theirs.hold()


def test_daemons_of_two_databases_do_not_meet(ours, tmp_path):
    other = Database(databases.empty(tmp_path))
    ours.hold()
    other.hold()
    other.close()


def test_the_lock_is_taken_again_when_the_server_has_restarted(ours, theirs, postgres):
    ours.hold()
    postgres.stop()
    with pytest.raises(StoreUnavailable, match="lock"):
        ours.hold()
    postgres.start()
    ours.hold()
    with pytest.raises(AlreadyRunning):
        theirs.hold()


def test_a_daemon_whose_lock_another_has_taken_meanwhile_writes_nothing_more(ours, theirs, postgres):
    ours.hold()
    postgres.stop("immediate")  # as a crash
    postgres.start()
    theirs.hold()
    with pytest.raises(AlreadyRunning), ours.write("too late") as db:
        db.execute(insert(polls).values(name="x"))
    assert number_of(theirs, polls) == 0
    with theirs.write("in force") as db:
        db.execute(insert(polls).values(name="x"))


# --- a server that goes away --------------------------------------------------------------------------------------


def test_a_server_that_stops_in_a_transaction_is_an_error_in_words_and_leaves_nothing(ours, postgres):
    with pytest.raises(StoreUnavailable, match="the database is gone at 'half'"), ours.write("half") as db:
        db.execute(insert(polls).values(name="first"))
        postgres.stop()
        db.execute(insert(polls).values(name="second"))
    with pytest.raises(StoreUnavailable, match="the database is gone at 'reading'"), ours.read():
        pass
    postgres.start()
    assert number_of(ours, polls) == 0
    with ours.write("whole") as db:
        db.execute(insert(polls).values(name="first"))
    assert number_of(ours, polls) == 1


def test_nothing_is_said_to_be_written_when_the_commit_finds_no_server(ours, postgres):
    ours.before_commit = lambda name: postgres.stop()
    with pytest.raises(StoreUnavailable), ours.write("lost") as db:
        db.execute(insert(polls).values(name="x"))
    postgres.start()
    assert number_of(ours, polls) == 0


def test_without_the_driver_it_is_said_what_to_install(url, monkeypatch):
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(StoreUnavailable, match=r"pip install 'keepupd\[postgres\]'"):
        Database(url)


# --- one writer at a time -----------------------------------------------------------------------------------------


def test_writers_take_turns_and_no_id_is_given_twice(ours, theirs):
    with ours.write("test") as db:
        db.execute(insert(campaigns).values(CAMPAIGN))
    failed = []

    def write(database, letter):
        try:
            for n in range(15):
                with database.write("serials") as db:
                    grouping.add_serials(db, 1, [f"{letter}{n}.{i}" for i in range(4)], NOW)
        except Exception as error:
            failed.append(error)

    sides = ((ours, "a"), (theirs, "b"), (ours, "c"), (theirs, "d"))
    threads = [threading.Thread(target=write, args=side) for side in sides]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == [] and number_of(ours, units) == 4 * 15 * 4


def test_all_that_one_read_sees_is_of_one_moment(ours, theirs):
    count = select(func.count()).select_from(polls)
    with ours.read() as db:
        before = db.execute(count).scalar_one()
        with theirs.write("meanwhile") as other:
            other.execute(insert(polls).values(name="x"))
        assert db.execute(count).scalar_one() == before
    assert number_of(ours, polls) == before + 1


# --- words --------------------------------------------------------------------------------------------------------


def test_words_that_sqlite_takes_are_taken_here_too(ours):
    long = "recall:" + "c" * 300
    moved = {"campaign_id": 1, "at": NOW, "source": "running", "event": "executable_died", "dest": "crash",
             "cause": long, "why": "log ends with \0\0", "who": "keepupd"}  # fmt: skip
    with ours.write("test") as db:
        db.execute(insert(polls).values(name=long))
        db.execute(insert(history).values(moved))
    with ours.read() as db:
        assert db.execute(select(polls.c.name)).scalar_one() == long
        assert db.execute(select(history.c.why)).scalar_one() == "log ends with \u2400\u2400"
