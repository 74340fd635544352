"""The command `keepupctl`: arguments, exit codes, and what is printed. Every command has one function here.

It reads the database, whether the daemon runs or not, and records what an operator asks for; the daemon acts. What is
slow to import is imported by the command that needs it. (click, not typer: typer 0.29 imports pydantic at every call.)
"""

import functools
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from keepupd.core import errors
from keepupd.core.model import STATES
from keepupd.ctl import views
from keepupd.ctl.desk import Desk
from keepupd.ctl.words import for_json, plain

if TYPE_CHECKING:
    from keepupd.ctl.ask import Selection

OK, LATE_OR_WRONG, USAGE, NOT_FOUND, NO_DATABASE, BAD_CONFIG, NO_ANSWER = range(7)  # explained in docs/keepupctl.md
EXIT_CODES: tuple[tuple[type[errors.KeepupError], int], ...] = (
    (errors.NotFound, NOT_FOUND), (errors.Ambiguous, USAGE), (errors.StoreUnavailable, NO_DATABASE),
    (errors.SchemaError, NO_DATABASE), (errors.FaultsError, BAD_CONFIG), (errors.Transient, NO_ANSWER),
)  # fmt: skip


def _keep(context: click.Context, _: click.Parameter, value: str | None) -> None:
    """-c may stand before or after the command."""
    if value is not None:
        context.meta["config"] = value


Answer = tuple[Any, Iterable[str], int]  # for --json, for people, exit code
CONFIG = click.option("-c", "--config", metavar="FILE", expose_value=False, callback=_keep,
                      help="The daemon's file; else $KEEPUPD_CONFIG.")  # fmt: skip
JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
NAME = click.argument("name")
OF = click.option("--campaign", metavar="NAME", help="Files of this campaign.")
STATE = click.option("--state", type=click.Choice(STATES), help="Only files in this state.")
CAUSE = click.option("--cause", metavar="NAME", help="Only files with this cause.")
YES = click.option("--yes", is_flag=True, help="Do not ask again.")
ANYWAY = click.option("--anyway", is_flag=True, help="Also outputs that another campaign has used: counted twice.")
REASON = click.option("--reason", required=True, metavar="WORDS", help="Why; it is kept in the history.")


def utc_now() -> datetime:
    return datetime.now(UTC)


@contextmanager
def desk(needs_config: bool = True) -> Iterator[Desk]:
    """What a command works with; errors raised on purpose become their message and their exit code."""
    given = click.get_current_context().meta.get("config", "")
    config = given or os.environ.get("KEEPUPD_CONFIG", "")
    if needs_config and not config:
        raise click.UsageError("which daemon? Give its file with -c FILE, or in KEEPUPD_CONFIG")
    try:
        yield Desk(Path(config), given, utc_now())
    except errors.KeepupError as error:
        for line in str(error).splitlines():
            click.echo(plain(line), err=True)
        sys.exit(next((code for kind, code in EXIT_CODES if isinstance(error, kind)), LATE_OR_WRONG))


def show(lines: Iterable[str]) -> None:
    """Trouble is red on a terminal, and begins with ! everywhere."""
    for line in lines:
        click.secho(plain(line), fg="red" if line.startswith("!") else None)


@click.group(help="See what keepupd does and why, and ask it to hold, retry or pause. Exit codes: docs/keepupctl.md.")
@CONFIG
def app() -> None:
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # a terminal without UTF-8 still shows every name


def reading(*arguments: Callable[..., Any], needs_config: bool = True) -> Callable[[Callable[..., Answer]], Any]:
    """Make a command of a function that gives an Answer."""

    def wrap(function: Callable[..., Answer]) -> Any:
        @functools.wraps(function)
        def command(as_json: bool, **given: Any) -> None:
            with desk(needs_config) as d:
                found, lines, code = function(d, **given)
                if as_json:
                    click.echo(json.dumps(found, default=for_json, indent=1))
                else:
                    show(lines)
            sys.exit(code)

        for argument in reversed((*arguments, JSON, CONFIG)):
            command = argument(command)
        return app.command(function.__name__)(command)

    return wrap


# --- reading ------------------------------------------------------------------------------------------------------


@reading()
def status(d: Desk) -> Answer:
    """A line a campaign, and all that needs attention."""
    from keepupd.ctl.status import status as found_by

    found = found_by(d)
    return found, views.status(found), OK


@reading(click.argument("campaign"), STATE, CAUSE, click.option("--limit", type=click.IntRange(1), default=100))
def files(d: Desk, campaign: str, state: str | None, cause: str | None, limit: int) -> Answer:
    """The files of a campaign, those in trouble first."""
    from keepupd.ctl import commands

    found = commands.files(d, campaign, [state] if state else STATES, cause, limit)
    return found, views.files(found), OK


@reading(NAME, OF)
def why(d: Desk, name: str, campaign: str | None) -> Answer:
    """Where a file or campaign stands, why, on what evidence, and what comes next. Exit code 1 when it is late."""
    from keepupd.ctl.why import why as found_by

    found = found_by(d, name, campaign)
    return found, views.why(found), LATE_OR_WRONG if found["late"] else OK


@reading(NAME, OF)
def history(d: Desk, name: str, campaign: str | None) -> Answer:
    """Every move of a file or campaign: when, from where to where, why, and who."""
    from keepupd.ctl import commands

    found = commands.history(d, name, campaign)
    return found, views.history(found), OK


@reading(NAME, click.option("--attempt", type=int, help="Which attempt, from 1; by default the last."), OF)
def log(d: Desk, name: str, attempt: int | None, campaign: str | None) -> Answer:
    """The logs of an attempt at a file. Exit code 1 when none is there."""
    from keepupd.ctl import commands

    found = commands.log(d, name, campaign, attempt)
    return found, views.log(found), LATE_OR_WRONG if found["missing"] else OK


@reading()
def stuck(d: Desk) -> Answer:
    """What waits for a person, or for too long. Exit code 1 when anything does."""
    from keepupd.ctl import commands

    found = commands.stuck(d)
    return found, views.stuck(found), LATE_OR_WRONG if found["stuck"] else OK


@reading(click.argument("campaign", required=False), click.option("--repair", is_flag=True,
         help="Ask the daemon to mend what it can; without --yes only shown."), YES,
         click.option("--reason", default="found by an audit", metavar="WORDS"))  # fmt: skip
def audit(d: Desk, campaign: str | None, repair: bool, yes: bool, reason: str) -> Answer:
    """Compare SAM, the database and the storage. Exit code 1 when something is wrong, 6 when one of them is silent."""
    from keepupd.ctl import ask
    from keepupd.ctl import audit as audits

    found = audits.audit(d, campaign)
    asked = audits.ask_for_repair(d, found, _said(reason)) if repair and yes else []
    found["answers"] = ask.answers(d, asked)["answers"] if asked else []
    silent, broken = (any(c[key] for c in found["campaigns"]) for key in ("silent", "broken"))
    lines = views.audit(found, show_remedies=repair, asked=bool(asked))
    return found, lines, NO_ANSWER if silent else LATE_OR_WRONG if broken else OK


@reading(click.argument("name", type=click.Choice(["file", "campaign"])), click.option("--mermaid", is_flag=True,
         help="Print a diagram for Mermaid."), needs_config=False)  # fmt: skip
def chart(d: Desk, name: str, mermaid: bool) -> Answer:
    """The states of a file or campaign, what they mean, and every transition."""
    from keepupd.ctl import chart_view, commands

    text = chart_view.as_mermaid if mermaid else chart_view.as_table
    return commands.chart(d, name), text(d.chart(name)).splitlines(), OK


@reading(click.option("--mermaid", is_flag=True, help="Print a diagram for Mermaid."), click.option("--svg",
         metavar="FILE", type=click.Path(dir_okay=False, path_type=Path), help="Write a picture."))  # fmt: skip
def flow(d: Desk, mermaid: bool, svg: Path | None) -> Answer:
    """Which campaign feeds which, with the counts as they are now."""
    from keepupd.ctl import flow_view
    from keepupd.ctl.flow import as_data, flow_now

    found, counts = flow_now(d)
    if svg is not None:
        try:
            svg.write_text(flow_view.as_svg(found, counts), encoding="utf-8")
        except OSError as error:
            raise click.UsageError(f"{svg} cannot be written: {error.strerror}") from None
        return as_data(found, counts), [f"written to {svg}"], OK
    text = flow_view.as_mermaid if mermaid else flow_view.as_tree
    return as_data(found, counts), text(found, counts).splitlines(), OK


@reading(click.argument("campaigns", nargs=-1, required=True), click.option("--png", metavar="FILE",
         type=click.Path(dir_okay=False, path_type=Path), help="Draw the histograms."),
         click.option("--files", "named", is_flag=True, help="Name every file that is in it."))  # fmt: skip
def total(d: Desk, campaigns: tuple[str, ...], png: Path | None, named: bool) -> Answer:
    """What is in the running total of an analysis. Several are drawn in one picture."""
    from keepupd.ctl.totals import totals

    try:
        found = totals(d, campaigns, png)
    except OSError as error:
        raise click.UsageError(f"{png} cannot be written: {error.strerror}") from None
    return found, views.totals(found, named), OK


# --- asking -------------------------------------------------------------------------------------------------------


def anyway_of(event: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    return ANYWAY if event == "redo" else lambda function: function


def _asks_for_files(event: str, words: str) -> None:
    @app.command(event, help=f"{words} Some by name, or all of a campaign, state or cause.")
    @click.argument("names", metavar="[FILE]...", nargs=-1)
    @OF
    @STATE
    @CAUSE
    @REASON
    @YES
    @anyway_of(event)
    @CONFIG
    def command(names: tuple[str, ...], campaign: str | None, state: str | None, cause: str | None, reason: str,
                yes: bool, anyway: bool = False) -> None:  # fmt: skip
        from keepupd.ctl import ask

        if not names and not campaign:
            raise click.UsageError("name files, or choose them by --campaign, --state and --cause")
        if names and (state or cause):
            raise click.UsageError("name files, or choose them by --state and --cause, not both")
        with desk() as d:
            if names:
                chosen = ask.select_files(d, event, names, campaign)
            else:
                chosen = ask.select_by(d, event, str(campaign), state, cause)
            _confirm(chosen, yes or len(names) == 1)
            _ask(d, chosen, reason, "anyway" if anyway else "")


def _asks_for_a_campaign(event: str, words: str) -> None:
    @app.command(event, help=words)
    @click.argument("campaign")
    @REASON
    @CONFIG
    def command(campaign: str, reason: str) -> None:
        from keepupd.ctl import ask

        with desk() as d:
            _ask(d, ask.select_campaign(d, event, campaign), reason)


def _confirm(chosen: "Selection", sure: bool) -> None:
    show(views.asked(chosen.chosen, chosen.let_be, chosen.event))
    if not chosen.chosen:
        sys.exit(NOT_FOUND)
    _be_sure(sure, f"{chosen.event} these {len(chosen.chosen)} file(s)?")


def _be_sure(sure: bool, question: str) -> None:
    if not sure and not sys.stdin.isatty():
        raise click.UsageError("nobody is there to confirm; add --yes")
    if not sure:
        click.confirm(question, abort=True)


def _ask(d: Desk, chosen: "Selection", reason: str, detail: str = "") -> None:
    from keepupd.ctl import ask

    _wait(d, ask.record(d, chosen, _said(reason), detail))


def _said(reason: str) -> str:
    if not reason.strip():
        raise click.UsageError("--reason must say why")
    return reason.strip()


def _wait(d: Desk, asked: list[int]) -> None:
    from keepupd.ctl import ask

    answer = ask.answers(d, asked)
    show(answer["answers"])
    if answer["taken"] < answer["requests"]:
        click.echo("recorded; the daemon has not taken it yet and will when it runs: see `keepupctl status`")


_asks_for_files("hold", "Stop files until they are released.")
_asks_for_files("release", "Let held files go on now.")
_asks_for_files("retry", "Try files again now, with all their attempts anew.")
_asks_for_files("redo", "Make declared outputs again, as a new edition.")
_asks_for_a_campaign("pause", "Launch nothing more of a campaign; files on their way move on.")
_asks_for_a_campaign("inspect", "Launch nothing more of a campaign while a person looks.")
_asks_for_a_campaign("resume", "Launch again.")


@app.command(help="Try parked effects again: those with these numbers of `keepupctl stuck`, or all.")
@click.argument("numbers", nargs=-1, type=int)
@REASON
@CONFIG
def again(numbers: tuple[int, ...], reason: str) -> None:
    from keepupd.ctl import ask

    with desk() as d:
        _wait(d, ask.record_again(d, ask.again(d, numbers), reason))


@app.command(help="Close the groups of all files that wait in a merge, full or not; they are shown first.")
@click.argument("campaign")
@REASON
@YES
@CONFIG
def flush(campaign: str, reason: str, yes: bool) -> None:
    from keepupd.ctl import groups

    with desk() as d:
        found = groups.preview(d, campaign)
        show(views.groups(found))
        if not found["groups"]:
            sys.exit(NOT_FOUND)
        _be_sure(yes, f"close these {len(found['groups'])} group(s)?")
        _wait(d, groups.ask_to_flush(d, found["id"], _said(reason)))


@app.command(help="Take a merge group in debug apart, by its name or a file's: its good files wait again.")
@click.argument("group")
@click.option("--without", "bad", metavar="FILE", multiple=True, required=True, help="A bad file; may be given again.")
@OF
@REASON
@CONFIG
def dissolve(group: str, bad: tuple[str, ...], campaign: str | None, reason: str) -> None:
    from keepupd.ctl import groups

    with desk() as d:
        _wait(d, groups.ask_to_dissolve(d, group, campaign, list(dict.fromkeys(bad)), _said(reason)))
