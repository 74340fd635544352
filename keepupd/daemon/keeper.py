"""What every pass of the daemon needs, in one place; and the logging and book-keeping around each poll."""

import json
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from sqlalchemy import bindparam, insert, select, update

from keepupd.clients.batch import Batch
from keepupd.clients.catalog import Catalog
from keepupd.clients.storage import Storage
from keepupd.config import Campaign, Settings
from keepupd.core.causes import Causes, Rule
from keepupd.core.chart import Chart
from keepupd.core.consequences import Limits
from keepupd.core.errors import KeepupError, SamUnavailable, StoreUnavailable, Transient
from keepupd.core.model import Move
from keepupd.flow import Flow, build_flow
from keepupd.store.database import Database
from keepupd.store.hosts import SickHost
from keepupd.store.tables import polls

CLOSED_BY = "; closed by: "  # in the description of a group's definition in SAM, before the rule

log = logging.getLogger("keepupd")


def say(words: str, level: int = logging.INFO, **facts: Any) -> None:
    """One log line: words, then key=value; values with blanks are quoted as JSON."""
    pairs = " ".join(f"{key}={_value(value)}" for key, value in facts.items() if value not in (None, ""))
    log.log(level, "%s %s", words, pairs, extra={"facts": facts})


def _value(value: Any) -> str:
    text = str(value)
    plain = text.isprintable() and not set(text) & set(' "=')
    return text if plain else json.dumps(text, ensure_ascii=not text.isprintable())


@dataclass
class Keeper:
    """The daemon's means: its memory, its rules, and the systems it talks to."""

    settings: Settings
    database: Database
    file_chart: Chart
    campaign_chart: Chart
    causes: Causes
    sam: Catalog
    batch: Batch
    storage: Storage
    campaigns: dict[int, Campaign] = field(default_factory=dict)  # by the id of their row; those now in force
    flow: Flow = field(default_factory=lambda: build_flow([], ""))  # who feeds whom, of the campaigns in force
    notes: dict[str, dict[str, Any]] = field(default_factory=dict)  # how polls went, not written down yet
    defined: set[str] = field(default_factory=set)  # campaigns whose definitions in SAM are as they should be
    looked: dict[int, datetime] = field(default_factory=dict)  # campaigns asked for new input since their last sweep
    own_rules: dict[int, tuple[Rule, ...]] = field(default_factory=dict)  # of each campaign, in front of the table
    touched: set[int] = field(default_factory=set)  # campaigns whose files moved since protect.watch last looked
    sick_hosts: dict[str, SickHost] = field(default_factory=dict)  # of the last look; new launches shun them
    sam_silent: datetime | None = None  # when a question of ours to SAM last had no answer
    count_attempts: Callable[[str, list[tuple[str, str]]], None] = lambda campaign, outcomes: None  # for the metrics
    count_moves: Callable[[str, list[str]], None] = lambda campaign, events: None
    observe_effect: Callable[[str, float], None] = lambda effect, seconds: None
    observe_poll: Callable[[str, float, bool], None] = lambda name, seconds, good: None  # for the metrics

    @property
    def evidence(self) -> Path:
        return self.settings.state_dir / "evidence"

    @contextmanager
    def contained(self, poll: str, now: datetime) -> Iterator[None]:
        """Run one poll: what it raises is logged and kept in table polls, and never stops the other polls."""
        begun, error = time.perf_counter(), ""
        try:
            yield
        except KeepupError as trouble:
            error = trouble.problem
            self.note_silence(trouble, now)
            level = logging.WARNING if isinstance(trouble, Transient) else logging.ERROR
            say("poll failed", level, poll=poll, why=trouble.problem, remedy=trouble.remedy)
        except Exception as trouble:
            error = f"{type(trouble).__name__}: {trouble}"
            log.exception("poll failed poll=%s: a fault in keepupd itself, please report it", poll)
        self.observe_poll(poll, time.perf_counter() - begun, not error)
        self.notes[poll] = {"failed": now, "error": error[:1000]} if error else {"good": now, "error": ""}

    def note_silence(self, trouble: KeepupError, now: datetime) -> None:
        """Our own questions are the second witness of an outage of SAM."""
        if isinstance(trouble, SamUnavailable):
            self.sam_silent = now

    def write_notes(self) -> None:
        """Keep what the polls since the last call found, in one transaction: `keepupctl why` and metrics show it."""
        notes, self.notes = self.notes, {}
        try:
            with self.database.write("polls noted") as db:
                known = set(db.execute(select(polls.c.name)).scalars())
                new = [{"name": name} for name in notes.keys() - known]
                if new:
                    db.execute(insert(polls), new)
                for kind in ("good", "failed"):
                    rows = [{"b_name": name} | note for name, note in notes.items() if kind in note]
                    if rows:
                        db.execute(update(polls).where(polls.c.name == bindparam("b_name")), rows)
        except StoreUnavailable as trouble:
            say("polls not noted", logging.WARNING, why=trouble.problem, remedy=trouble.remedy)

    def log_moves(self, campaign: str, moves: list[Move], dests: list[str]) -> None:
        """One line a move, with its reason; called when the moves are committed."""
        for move, dest in zip(moves, dests, strict=True):
            due = move.due and f"{move.due:%Y-%m-%dT%H:%M:%SZ}"
            say("moved", campaign=campaign, file=move.unit.name, source=move.unit.state, event=move.event, dest=dest,
                cause=move.cause, why=move.why, who=move.who, due=due)  # fmt: skip
        self.touched.update(move.unit.campaign_id for move in moves)
        self.count_moves(campaign, [move.event for move in moves])


def project_name(campaign: str, launch_key: str) -> str:
    """The name in SAM of a launch's project, and of the definition it delivers."""
    return f"keepup_{campaign}_{launch_key}"


def limits_of(campaign: Campaign) -> Limits:
    asked = campaign.resources
    return Limits(
        campaign.retry.attempts, campaign.retry.losses, campaign.retry.wait_s,
        requested={"memory_mib": asked.memory_mib, "disk_mib": asked.disk_mib, "wall_s": asked.wall_s},
        cap={"memory_mib": asked.memory_cap_mib},
    )  # fmt: skip
