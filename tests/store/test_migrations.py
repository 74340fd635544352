"""The schema: what the migrations make is what the tables say, and another schema is refused with its remedy."""

import databases
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from keepupd.core.errors import SchemaError
from keepupd.store import upgrade as upgrade_module
from keepupd.store.database import Database, check_schema, schema_version
from keepupd.store.tables import SCHEMA, metadata
from keepupd.store.upgrade import upgrade


@pytest.fixture
def database(tmp_path):
    database = Database(databases.bare(tmp_path))
    yield database
    database.close()


def test_the_migrations_make_the_tables(database):
    upgrade(database)
    upgrade(database)  # safe to repeat
    with database.engine.connect() as db:
        context = MigrationContext.configure(db, opts={"compare_type": False})
        assert compare_metadata(context, metadata) == []


def test_the_newest_migration_is_the_one_the_code_asks_for():
    folder = upgrade_module.Path(upgrade_module.__file__).parent / "migrations"
    assert ScriptDirectory(str(folder)).get_current_head() == SCHEMA


@pytest.mark.parametrize(("found", "remedy"), [("0000", "keepupd db upgrade"), ("9999", "newer keepupd")])
def test_another_schema_is_refused_with_what_to_do(database, found, remedy):
    upgrade(database)
    with database.write("test") as db:
        db.exec_driver_sql(f"UPDATE alembic_version SET version_num = '{found}'")
    with database.read() as db, pytest.raises(SchemaError, match=remedy):
        check_schema(db, "keepupd.yaml")


def test_an_empty_database_has_no_schema(database):
    with database.read() as db:
        assert schema_version(db) is None
