"""`keepupd check`: look at all that the daemon needs, and show what it would launch now, changing nothing anywhere.

It only asks: no definition, project, directory, database or lock is made, and a daemon that runs is not disturbed.
What a campaign would do is in check_campaign.py, what SAM must have registered in check_registered.py.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from keepupd.config import Campaign, Settings, load_flow, load_settings
from keepupd.core.causes_table import parse_rules
from keepupd.core.errors import KeepupError
from keepupd.daemon.app import connect_sam, load_charts, load_rules, make_keeper, utc_now
from keepupd.daemon.check_campaign import check_campaign
from keepupd.daemon.check_registered import Registered, check_account, check_outputs
from keepupd.daemon.keeper import Keeper
from keepupd.flow import build_flow
from keepupd.store.database import Database, check_schema, look_only, schema_version

PATIENCE_S = 5.0  # a person waits: a system that is silent for so long is named as silent
SHOWN = 3  # units of a job description that plain text shows


@dataclass
class Findings:
    """What was found, in order: checks that are well or faulty, and for each campaign what it would do."""

    checks: list[dict[str, Any]] = field(default_factory=list)
    campaigns: list[dict[str, Any]] = field(default_factory=list)

    def ok(self, part: str, words: str) -> None:
        self.checks.append({"part": part, "ok": True, "words": words, "remedy": ""})

    def warn(self, part: str, words: str) -> None:
        """Odd, but no fault: the daemon would start."""
        self.checks.append({"part": part, "ok": True, "warning": True, "words": words, "remedy": ""})

    def fault(self, part: str, words: str, remedy: str) -> None:
        self.checks.append({"part": part, "ok": False, "words": words, "remedy": remedy})

    @contextmanager
    def faults_of(self, part: str) -> Iterator[None]:
        """What we raise on purpose within is a fault of this part; the other parts are looked at all the same."""
        try:
            yield
        except KeepupError as error:
            self.fault(part, error.problem, error.remedy)

    @property
    def well(self) -> bool:
        return all(check["ok"] for check in self.checks)


def check_all(config: Path, out: Callable[[str], None], as_json: bool = False) -> bool:
    """Check everything, tell it through `out` (plain text, or one JSON document), and say whether all is well."""
    found = Findings()
    with found.faults_of("configuration"):
        settings = load_settings(config)
        found.ok("configuration", f"{settings.file}: daemon {settings.name!r}")
        _check_parts(found, settings)
    if as_json:
        out(json.dumps({"ok": found.well, "checks": found.checks, "campaigns": found.campaigns}, indent=1))
    else:
        for line in _text(found):
            out(line)
    return found.well


def _check_parts(found: Findings, settings: Settings) -> None:
    rules_are_well = _check_rules(found, settings)
    campaigns = _check_campaign_files(found, settings)
    database = _check_database(found, settings)
    if not rules_are_well:
        return
    hurried = settings.sam.model_copy(update={"patience_s": min(PATIENCE_S, settings.sam.patience_s)})
    # a Keeper opens nothing by itself; where there is no database yet, this one is never asked
    unused = Database("sqlite://")
    k = make_keeper(settings.model_copy(update={"sam": hurried}), database or unused)
    sam_answers = _check_sam(found, k)
    _check_batch(found, k)
    k.flow = build_flow(campaigns, settings.sam.campaign_parameter)
    registered = Registered(k.sam)
    if sam_answers:
        check_account(found, k, registered)
    for campaign in campaigns if sam_answers else []:
        check_outputs(found, k, registered, campaign, utc_now())
        check_campaign(found, k, campaign, database is not None, utc_now())
    k.sam.close()
    k.database.close()


def _check_rules(found: Findings, settings: Settings) -> bool:
    with found.faults_of("statecharts"):
        file_chart, campaign_chart = load_charts()
        found.ok("statecharts", f"file: {len(file_chart.edges())} arrows, campaign: {len(campaign_chart.edges())}")
        with found.faults_of("causes"):
            load_rules(settings, file_chart)
            found.ok("causes", str(settings.causes or "keepupd's own table"))
    return found.well


def _check_campaign_files(found: Findings, settings: Settings) -> list[Campaign]:
    campaigns: list[Campaign] = []
    with found.faults_of("campaign files"):
        loaded = load_flow(settings)
        listed = loaded.campaigns
        for words in loaded.warnings:
            found.warn("flow", words)
        for campaign in listed:
            with found.faults_of(campaign.name):
                parse_rules(campaign.causes, f"campaign {campaign.name}")
                campaigns.append(campaign)
        found.ok("campaign files", f"{len(listed)}: {', '.join(c.name for c in listed)}" if listed else "none yet")
    return campaigns


def _check_database(found: Findings, settings: Settings) -> Database | None:
    """The database to read from; None where there is none yet, or none that can be read."""
    with found.faults_of("database"):
        database = look_only(settings.database)
        if database is not None:
            with database.read() as db:
                version = schema_version(db)
                if version is not None:
                    check_schema(db, settings.file)
                    found.ok("database", f"{database.shown}: schema {version}")
                    return database
        found.ok("database", "none yet: `keepupd run` makes it")
    return None


def _check_sam(found: Findings, k: Keeper) -> bool:
    """Where it is read and where it is written; only asked, at both."""
    settings = k.settings
    with found.faults_of("SAM"):
        for url in dict.fromkeys((settings.sam.read_url, settings.sam.write_url)):
            there = settings.sam.model_copy(update={"read_url": url})
            with closing(connect_sam(settings.model_copy(update={"sam": there}))) as sam:
                said = "; ".join(line.strip() for line in sam.server_info().splitlines() if line.strip())
            found.ok("SAM", f"{url} says: {said}")
        return True
    return False


def _check_batch(found: Findings, k: Keeper) -> None:
    with found.faults_of("batch"):
        about = k.batch.about()
        ours = Counter(str(job.state) for job in k.batch.look(k.settings.name, None).jobs)
        jobs = ", ".join(f"{n} {state}" for state, n in sorted(ours.items())) or "none"
        found.ok("batch", f"{about}; of this daemon: {jobs}")


# --- plain text ---------------------------------------------------------------------------------------------------


def _text(found: Findings) -> Iterator[str]:
    wide = max(len(check["part"]) for check in found.checks)
    for check in found.checks:
        mark = "FAULT" if not check["ok"] else "warn " if "warning" in check else "ok   "
        yield _one_line(f"{mark} {check['part']:{wide}}  {check['words']}", wide + 8)
        if check["remedy"]:
            yield _one_line(f"{'':{wide + 8}}remedy: {check['remedy']}", wide + 8)
    for campaign in found.campaigns:
        yield ""
        yield from _campaign_text(campaign)
    faults = sum(not check["ok"] for check in found.checks)
    yield ""
    yield f"{faults} fault(s)" if faults else "all is well; nothing was changed"


def _one_line(words: str, indent: int) -> str:
    """Lines of a fault below each other, and no control character that a terminal would obey."""
    plain = (line if line.isprintable() else line.encode("unicode_escape").decode() for line in words.split("\n"))
    return f"\n{'':{indent}}".join(plain)


def _campaign_text(campaign: dict[str, Any]) -> Iterator[str]:
    yield f"campaign {campaign['name']}: would launch {campaign['would_launch']} unit(s) now"
    for note in campaign["notes"]:
        yield f"  {note}"
    if job := campaign["job"]:
        order = dict(job["order"])
        hidden = len(order["units"]) - SHOWN
        order["units"] = dict(list(order["units"].items())[:SHOWN])
        yield "  the exact description of a job (its launch's name would be another):"
        for line in json.dumps({**job, "order": order}, indent=1).splitlines():
            yield f"    {line}"
        if hidden > 0:
            yield f"  {hidden} more of its units are left out here; --json shows them"
