"""Every metric of the daemon, declared once, its unit in its name; labels from short lists, never a file.

Numbers of the present are read from the database when Prometheus asks; numbers of the past are counted as they happen.
"""

import time
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from sqlalchemy import Connection, case, func, select

import keepupd
from keepupd.core.model import STATES
from keepupd.store.database import Database
from keepupd.store.reads import ENDED_JOB, LEFT_SAM
from keepupd.store.tables import (
    OPEN,
    attempts,
    campaigns,
    counters,
    jobs,
    launches,
    outbox,
    passive_matches,
    polls,
    units,
)

DURATIONS_S = (0.01, 0.05, 0.1, 0.5, 1, 5, 10, 30, 60, 300)


class Metrics:
    """The daemon's counters; `registry` also holds the collector of present numbers."""

    def __init__(self, database: Database, clock: Callable[[], datetime]):
        self.registry = registry = CollectorRegistry()
        self.transitions = Counter("keepupd_transitions", "Moves of files", ["campaign", "event"], registry=registry)
        self.attempts = Counter(
            "keepupd_attempts", "Attempts that ended", ["campaign", "outcome", "cause"], registry=registry
        )
        self.polls = Histogram(
            "keepupd_poll_duration_seconds", "Polls", ["poll", "outcome"], buckets=DURATIONS_S, registry=registry
        )
        self.effects = Histogram(
            "keepupd_effect_duration_seconds", "Effects done", ["effect"], buckets=DURATIONS_S, registry=registry
        )
        self.sick_hosts = Gauge("keepupd_sick_hosts", "Hosts that new jobs shun", registry=registry)
        Info("keepupd_build", "Version of keepupd", registry=registry).info({"version": keepupd.__version__})
        registry.register(Present(database, clock))

    def count_moves(self, campaign: str, events: list[str]) -> None:
        for event in events:
            self.transitions.labels(campaign, event).inc()

    def count_attempts(self, campaign: str, outcomes: list[tuple[str, str]]) -> None:
        for outcome, cause in outcomes:
            self.attempts.labels(campaign, outcome, cause).inc()

    def observe_poll(self, poll: str, seconds: float, good: bool) -> None:
        self.polls.labels(poll.split(":", maxsplit=1)[0], "good" if good else "failed").observe(seconds)

    def observe_effect(self, effect: str, seconds: float) -> None:
        self.effects.labels(effect).observe(seconds)


class Present(Collector):
    """What is now, asked of the database at each scrape: a few indexed questions, whatever the number of files."""

    def __init__(self, database: Database, clock: Callable[[], datetime]):
        self.database, self.clock = database, clock

    def collect(self) -> Iterator[Metric]:
        begun, now = time.perf_counter(), self.clock()
        with self.database.read() as db:
            names: dict[int, str] = {row.id: row.name for row in db.execute(select(campaigns.c.id, campaigns.c.name))}
            yield _files(db, names)
            yield _causes(db, names)
            yield _passive(db, names)
            yield from _campaigns(db)
            yield _oldest(db, names, now)
            yield _crash_share(db, names, now)
            yield _jobs(db, names)
            yield from _polls(db)
            yield from _outbox(db, now)
        yield GaugeMetricFamily(
            "keepupd_scrape_database_seconds", "Time the database took", time.perf_counter() - begun
        )


def _files(db: Connection, names: dict[int, str]) -> Metric:
    found = {(row.campaign_id, row.state): row.n for row in db.execute(
        select(counters.c.campaign_id, counters.c.state, func.sum(counters.c.n).label("n"))
        .group_by(counters.c.campaign_id, counters.c.state))}  # fmt: skip
    family = GaugeMetricFamily("keepupd_files", "Files by state", labels=["campaign", "state"])
    for campaign_id, name in names.items():
        for state in STATES:
            family.add_metric([name, state], found.get((campaign_id, state), 0))
    return family


def _causes(db: Connection, names: dict[int, str]) -> Metric:
    family = GaugeMetricFamily("keepupd_files_in_trouble", "Files in held, crash and debug by cause",
                               labels=["campaign", "state", "cause"])  # fmt: skip
    for row in db.execute(select(counters).where(counters.c.cause != "", counters.c.n > 0)):
        family.add_metric([names[row.campaign_id], row.state, row.cause], row.n)
    return family


def _passive(db: Connection, names: dict[int, str]) -> Metric:
    family = CounterMetricFamily("keepupd_passive_matches", "Failures that a passive rule matched, since ever",
                                 labels=["campaign", "cause"])  # fmt: skip
    for row in db.execute(select(passive_matches)):
        family.add_metric([names[row.campaign_id], row.cause], row.n)
    return family


def _campaigns(db: Connection) -> Iterator[Metric]:
    rows = db.execute(select(campaigns)).all()
    state = GaugeMetricFamily("keepupd_campaign_state", "1 for the state it is in", labels=["campaign", "state"])
    broken = GaugeMetricFamily(
        "keepupd_sum_rule_difference_files", "What breaks the sum rule; must be 0", labels=["campaign"]
    )
    members = GaugeMetricFamily(
        "keepupd_input_files", "Members of the input definition, by SAM's count", labels=["campaign"]
    )
    words = "1 when nothing can come any more and every file is declared or in debug"
    complete = GaugeMetricFamily("keepupd_campaign_complete", words, labels=["campaign"])
    refused = GaugeMetricFamily(
        "keepupd_total_refused_files", "Histogram files that the running total refuses", labels=["campaign"]
    )
    for row in rows:
        if row.type == "analysis":
            refused.add_metric([row.name], row.total_refused)
        complete.add_metric([row.name], row.complete is not None)
        for name in STATES:
            state.add_metric([row.name, name], row.state == name)
        broken.add_metric([row.name], row.difference)
        members.add_metric([row.name], row.sam_count or 0)
    yield from (state, broken, members, complete, refused)


def _oldest(db: Connection, names: dict[int, str], now: datetime) -> Metric:
    help_text = "Since when the oldest file waits that is neither declared nor in debug, nor has left its input"
    family = GaugeMetricFamily("keepupd_oldest_undeclared_age_seconds", help_text, labels=["campaign"])
    for campaign_id, name in names.items():
        waits = (units.c.campaign_id == campaign_id) & OPEN & ~LEFT_SAM
        seen = db.execute(select(units.c.seen).where(waits).order_by(units.c.seen).limit(1)).scalar()
        family.add_metric([name], (now - seen).total_seconds() if seen else 0)
    return family


def _crash_share(db: Connection, names: dict[int, str], now: datetime) -> Metric:
    help_text = "Share of class crash in the attempts that ended in the last hour"
    family = GaugeMetricFamily("keepupd_crash_ratio", help_text, labels=["campaign"])
    crashed = func.sum(case((attempts.c.outcome == "crash", 1), else_=0))
    query = select(launches.c.campaign_id, crashed, func.count()).join(launches, launches.c.id == attempts.c.launch_id)
    rows = db.execute(query.where(attempts.c.ended >= now - timedelta(hours=1)).group_by(launches.c.campaign_id))
    shares = {campaign_id: n / total for campaign_id, n, total in rows}
    for campaign_id, name in names.items():
        family.add_metric([name], shares.get(campaign_id, 0))
    return family


def _jobs(db: Connection, names: dict[int, str]) -> Metric:
    family = GaugeMetricFamily("keepupd_jobs", "Jobs that are not judged yet", labels=["campaign", "state"])
    query = select(launches.c.campaign_id, jobs.c.state, func.count().label("n")).join(
        launches, launches.c.id == jobs.c.launch_id
    )
    for row in db.execute(query.where(jobs.c.judged.is_(False)).group_by(launches.c.campaign_id, jobs.c.state)):
        state = "ended" if row.state in ENDED_JOB else row.state
        family.add_metric([names[row.campaign_id], state], row.n)
    return family


def _polls(db: Connection) -> Iterator[Metric]:
    good = GaugeMetricFamily(
        "keepupd_last_good_poll_timestamp_seconds", "When this poll last had an answer", labels=["poll"]
    )
    failing = GaugeMetricFamily("keepupd_poll_failing", "1 while the last try had no answer", labels=["poll"])
    for row in db.execute(select(polls)):
        good.add_metric([row.name], row.good.timestamp() if row.good else 0)
        failing.add_metric([row.name], row.error != "")
    yield from (good, failing)


def _outbox(db: Connection, now: datetime) -> Iterator[Metric]:
    depth = GaugeMetricFamily("keepupd_outbox_effects", "Effects not done yet", labels=["effect", "parked"])
    rows = db.execute(select(outbox.c.effect, outbox.c.parked.is_not(None), func.count())
                      .group_by(outbox.c.effect, outbox.c.parked.is_not(None)))  # fmt: skip
    for effect, parked, n in rows:
        depth.add_metric([effect, str(bool(parked)).lower()], n)
    oldest = db.execute(select(func.min(outbox.c.created))).scalar()
    yield depth
    yield GaugeMetricFamily("keepupd_outbox_oldest_age_seconds", "Age of the oldest effect not done",
                            (now - oldest).total_seconds() if oldest else 0)  # fmt: skip
