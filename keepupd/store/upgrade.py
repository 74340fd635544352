"""Bring a database to the schema of this keepupd, by Alembic's migrations."""

from pathlib import Path

from alembic import command
from alembic.config import Config

from keepupd.store.database import Database


def upgrade(database: Database) -> None:
    """Run the migrations that are missing, in one transaction. Safe to repeat."""
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    with database.write("upgrade schema") as db:
        config.attributes["connection"] = db
        command.upgrade(config, "head")
