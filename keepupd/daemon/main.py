"""The command `keepupd`: run, check, schema, db."""

import json
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from keepupd.core.errors import KeepupError

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False,
                  help="Keep-up processing: standing orders over SAM dataset definitions.")  # fmt: skip
db_app = typer.Typer(no_args_is_help=True, help="The daemon's database.")
app.add_typer(db_app, name="db")

Config = Annotated[
    Path, typer.Option("-c", "--config", envvar="KEEPUPD_CONFIG", help="The daemon's file, keepupd.yaml.")
]
EXIT_FAULT = 1


@contextmanager
def errors_in_words() -> Iterator[None]:
    """What we raise on purpose is a message, not a traceback."""
    try:
        yield
    except KeepupError as error:
        print(f"keepupd: {error}", file=sys.stderr)
        raise typer.Exit(EXIT_FAULT) from None


@app.command()
def run(config: Config) -> None:
    """Run the daemon in the foreground, until SIGTERM. SIGHUP reloads the campaign files.

    Example: keepupd run -c /etc/keepupd/keepupd.yaml
    """
    from keepupd.daemon.app import run as run_daemon

    form = "%(asctime)s.%(msecs)03dZ %(levelname)s %(message)s"
    logging.basicConfig(stream=sys.stderr, format=form, datefmt="%Y-%m-%dT%H:%M:%S")
    logging.Formatter.converter = __import__("time").gmtime
    logging.getLogger("apscheduler").setLevel(logging.ERROR)
    with errors_in_words():
        run_daemon(config)


@app.command()
def check(config: Config, as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Check everything and show what would be launched now, changing nothing.

    Example: keepupd check -c keepupd.yaml
    """
    from keepupd.daemon.check import check_all

    with errors_in_words():
        if not check_all(config, print, as_json):
            raise typer.Exit(EXIT_FAULT)


@app.command()
def schema(kind: Annotated[str, typer.Argument(help="campaign or daemon")] = "campaign") -> None:
    """Print the JSON schema of a campaign file, for editors that complete.

    Example: keepupd schema > campaign.schema.json
    """
    from keepupd.config import json_schema

    if kind not in ("campaign", "daemon"):
        raise typer.BadParameter("must be campaign or daemon")
    print(json.dumps(json_schema("campaign" if kind == "campaign" else "daemon"), indent=2))


@db_app.command("check")
def check_db(config: Config) -> None:
    """Say what the database is, who holds it, and what is wrong with it, changing nothing. Exit code 1 for a fault.

    Example: keepupd db check -c keepupd.yaml
    """
    from keepupd.config import load_settings
    from keepupd.daemon.database import check

    with errors_in_words():
        if not check(load_settings(config), print):
            raise typer.Exit(EXIT_FAULT)


@db_app.command()
def upgrade(config: Config) -> None:
    """Bring the database to the schema of this keepupd. The daemon must be stopped.

    Example: keepupd db upgrade -c keepupd.yaml
    """
    from keepupd.config import load_settings
    from keepupd.daemon.database import held_database
    from keepupd.store.upgrade import upgrade as upgrade_schema

    with errors_in_words(), held_database(load_settings(config)) as database:
        upgrade_schema(database)
        print(f"the database {database.shown} has the schema of this keepupd")


@db_app.command()
def copy(config: Config, to: Annotated[str, typer.Option(help="postgresql+psycopg://USER@HOST/NAME, empty")]) -> None:
    """Copy the SQLite database into an empty PostgreSQL database, whole or not at all. The daemon must be stopped.

    Example: keepupd db copy -c keepupd.yaml --to postgresql+psycopg://keepupd@db.example.org/keepupd
    """
    from keepupd.config import load_settings
    from keepupd.daemon.database import copy_to

    if not to.startswith("postgresql+psycopg://"):
        raise typer.BadParameter("must be postgresql+psycopg://USER@HOST/NAME", param_hint="--to")
    with errors_in_words():
        copy_to(load_settings(config), to, print)
