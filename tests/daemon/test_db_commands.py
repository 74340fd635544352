"""`keepupd db check | upgrade | copy`: what is said, what is refused, and that only the copy is written."""

from contextlib import closing

import databases
import pytest
from farm import SETTINGS
from sqlalchemy import insert, select
from typer.testing import CliRunner

from keepupd.config import load_settings
from keepupd.daemon import main
from keepupd.daemon.database import held_database, make_ready
from keepupd.store.database import Database
from keepupd.store.tables import polls


@pytest.fixture
def config(tmp_path):
    (tmp_path / "campaigns").mkdir()
    (tmp_path / "keepupd.yaml").write_text(SETTINGS)
    return tmp_path / "keepupd.yaml"


def db(command, config, *words, code=0):
    done = CliRunner().invoke(main.app, ["db", command, "-c", str(config), *words])
    assert done.exit_code == code, (done.output, done.exception)
    return done.output


def make_database(config):
    with held_database(load_settings(config)) as database:
        make_ready(database, config)
        with database.write("test") as connection:
            connection.execute(insert(polls).values(name="batch"))


def on_server(config, tmp_path):
    config.write_text(f"{SETTINGS}\ndatabase: {databases.bare(tmp_path)}\n")


def test_check_of_a_database_that_is_not_there_makes_none(config, tmp_path):
    assert "no database yet" in db("check", config)
    assert not (tmp_path / "state").exists()


def test_upgrade_makes_the_tables_and_check_is_content(config):
    db("upgrade", config)
    assert "has the schema of this keepupd" in db("upgrade", config)
    said = db("check", config)
    assert "SQLite 3." in said and "schema 0001" in said and "all is well" in said


def test_check_of_a_damaged_file_says_so_and_what_to_do(config, tmp_path):
    make_database(config)
    path = tmp_path / "state" / "keepupd.db"
    pages = bytearray(path.read_bytes())
    pages[5 * 4096 : 6 * 4096] = b"\xff" * 4096
    path.write_bytes(pages)
    said = db("check", config, code=1)
    assert "malformed" in said and "keepupd rebuilds them from SAM and batch" in said


def test_commands_that_write_are_refused_while_a_daemon_holds_the_directory(config):
    with held_database(load_settings(config)):
        assert "is held by pid" in db("upgrade", config, code=1)
        assert "is held by pid" in db("copy", config, "--to", "postgresql+psycopg://x@127.0.0.1:1/x", code=1)


@pytest.mark.parametrize("to", ["sqlite:///other.db", "postgresql://x/y", "nonsense"])
def test_a_copy_goes_to_postgresql_alone(config, to):
    assert "must be postgresql+psycopg" in db("copy", config, "--to", to, code=2)


@pytest.mark.postgresql
def test_a_database_is_copied_and_then_worked_on(config, tmp_path):
    make_database(config)
    to = databases.bare(tmp_path)
    said = db("copy", config, "--to", to)
    assert "polls: 1 rows" in said and f"set `database: {to}`" in said
    assert "is not empty: polls has rows" in db("copy", config, "--to", to, code=1)
    config.write_text(f"{SETTINGS}\ndatabase: {to}\n")
    assert "PostgreSQL" in db("upgrade", config) + db("check", config, code=1)
    with closing(Database(to)) as database, database.read() as new:
        assert new.execute(select(polls.c.name)).scalar_one() == "batch"


@pytest.mark.postgresql
def test_another_daemon_on_the_same_database_is_refused_wherever_its_directory_is(config, tmp_path):
    on_server(config, tmp_path)
    elsewhere = tmp_path / "elsewhere.yaml"
    elsewhere.write_text(config.read_text().replace("state_dir: state", "state_dir: other"))
    with held_database(load_settings(config)) as database:
        make_ready(database, config)
        assert "the database is held by keepupd pid" in db("upgrade", elsewhere, code=1)
        assert "held by keepupd pid" in db("check", elsewhere, code=1)
    assert "held by no daemon" in db("check", elsewhere, code=1)


@pytest.mark.postgresql
def test_check_says_what_would_cost_commits(config, tmp_path):
    on_server(config, tmp_path)
    db("upgrade", config)
    assert "FAULT fsync is off, must be on" in db("check", config, code=1), "as is right for a test's server alone"


@pytest.mark.postgresql
def test_a_server_that_is_not_there_is_said_in_words(config, tmp_path):
    config.write_text(f"{SETTINGS}\ndatabase: postgresql+psycopg://ann:secret@127.0.0.1:1/none\n")
    for command in ("check", "upgrade"):
        said = db(command, config, code=1)
        assert "the database is gone" in said and "remedy: " in said and "secret" not in said
