"""Put the daemon together: configuration -> objects -> schedule, and signals. Read this first, then passes.py."""

import logging
import signal
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import stamina
from apscheduler.executors.pool import ThreadPoolExecutor
from apscheduler.jobstores.base import JobLookupError
from apscheduler.schedulers.background import BackgroundScheduler

from keepupd.clients.batch import Batch
from keepupd.clients.htcondor import HTCondorBatch
from keepupd.clients.local import LocalBatch
from keepupd.clients.sam import Sam
from keepupd.clients.storage import StorageByScheme
from keepupd.config import Campaign, Settings, load_campaigns, load_settings
from keepupd.core.causes import Causes, load_causes
from keepupd.core.chart import Chart, charts_dir, load_chart
from keepupd.core.errors import KeepupError
from keepupd.daemon import courier, life
from keepupd.daemon.clockwatch import ClockWatch
from keepupd.daemon.database import held_database, make_ready
from keepupd.daemon.effects import EFFECTS
from keepupd.daemon.keeper import Keeper, say
from keepupd.daemon.metrics import Metrics
from keepupd.daemon.passes import Passes
from keepupd.daemon.web import Pulse, WebServer, make_app
from keepupd.store.database import Database

GUARDS = frozenset({"alone", "has_rivals", "tries_left", "used_up"})
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
SILENT_PASSES = 10  # missed passes after which /healthz says no


def utc_now() -> datetime:
    return datetime.now(UTC)


def load_charts() -> tuple[Chart, Chart]:
    """The file's and the campaign's chart. Raises ChartError with every fault."""
    folder = charts_dir()
    return (
        load_chart(folder / "file.yaml", frozenset(EFFECTS), GUARDS),
        load_chart(folder / "campaign.yaml", frozenset(), frozenset()),
    )


def load_rules(settings: Settings, file_chart: Chart) -> Causes:
    events = frozenset(event for _, event, _ in file_chart.edges())
    return load_causes(settings.causes or charts_dir() / "causes.yaml", events)


def connect_sam(settings: Settings) -> Sam:
    sam = settings.sam
    return Sam(
        sam.read_url, sam.write_url, experiment=sam.experiment, station=sam.station, group=sam.group, user=sam.user,
        timeout_s=sam.timeout_s, patience_s=sam.patience_s, bulk=sam.bulk,
    )  # fmt: skip


def connect_batch(settings: Settings) -> Batch:
    its = settings.batch
    if its.kind == "local":
        return LocalBatch(its.directory)
    return HTCondorBatch(settings.state_dir / "htcondor", its.client_config, its.collector, its.schedd, its.lines)


def make_keeper(settings: Settings, database: Database) -> Keeper:
    """All that passes need; nothing outside is asked yet."""
    file_chart, campaign_chart = load_charts()
    return Keeper(
        settings, database, file_chart, campaign_chart, load_rules(settings, file_chart),
        connect_sam(settings), connect_batch(settings), StorageByScheme(),
    )  # fmt: skip


class Daemon:
    """The running daemon: a schedule of passes and the courier, a web server, and what signals do."""

    def __init__(self, config: Path, settings: Settings, database: Database, clock: Callable[[], datetime] = utc_now):
        self.config, self.settings, self.clock = config, settings, clock
        self.keeper = make_keeper(settings, database)
        self.metrics = Metrics(database, clock)
        self.keeper.observe_poll = self.metrics.observe_poll
        self.keeper.observe_effect = self.metrics.observe_effect
        self.keeper.count_attempts = self.metrics.count_attempts
        self.keeper.count_moves = self.metrics.count_moves
        self.metrics.sick_hosts.set_function(lambda: len(self.keeper.sick_hosts))
        self.passes = Passes(self.keeper)
        self.pulse = Pulse(clock, timedelta(seconds=max(60.0, SILENT_PASSES * settings.polls.pass_s)))
        self.web = WebServer(make_app(self.metrics.registry, self.pulse), settings.http.host, settings.http.port)
        self.clock_watch = ClockWatch(database, clock)
        self.reload = threading.Event()
        self.pool = ThreadPoolExecutor()
        self.scheduler = BackgroundScheduler(timezone=UTC, executors={"default": self.pool})

    def run(self, campaigns: Sequence[Campaign]) -> None:
        """Until SIGTERM or SIGINT. The pass at work ends first."""
        life.take_up(self.keeper, campaigns, self.clock())
        # blocked in all threads from here on, and taken up below: a handler could come just before a wait, or inside it
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        self._schedule()
        self.web.start()
        self.scheduler.start()
        say("started", daemon=self.settings.name, campaigns=len(self.keeper.campaigns), config=self.config)
        while signal.sigwait(SIGNALS) == signal.SIGHUP:
            self.reload.set()
        say("leaving; the pass at work ends first", daemon=self.settings.name)
        self.scheduler.shutdown(wait=False)  # waiting here, it would keep a lock that the pass may need to end
        self.pool.shutdown()
        self.web.stop()

    def _schedule(self) -> None:
        polls = self.settings.polls
        rhythm: Sequence[tuple[Callable[[datetime], object], float]] = (
            (self.passes.operator, polls.operator_s), (self._inputs, polls.inputs_s), (self._pass, polls.pass_s),
            (self.passes.outputs, polls.outputs_s), (self._courier, min(polls.pass_s, polls.operator_s)),
        )  # fmt: skip
        for work, seconds in rhythm:
            # Left alone, APScheduler skips a run that is over 1 s late, and runs a slow one twice at once.
            self.scheduler.add_job(
                self._safely(work), "interval", seconds=seconds, max_instances=1, coalesce=True,
                misfire_grace_time=None, next_run_time=datetime.now(UTC), id=work.__name__,
            )  # fmt: skip

    def _safely(self, work: Callable[[datetime], object]) -> Callable[[], None]:
        """APScheduler swallows what a job raises: say it here. /healthz and the age of the last pass show it too."""

        def run() -> None:
            try:
                self.keeper.database.hold()  # PostgreSQL's lock goes when its server restarts
                work(self.clock())
            except KeepupError as error:
                say("pass failed", logging.ERROR, part=work.__name__, why=error.problem, remedy=error.remedy)
            except Exception:
                logging.getLogger("keepupd").exception("pass failed part=%s: a fault in keepupd itself", work.__name__)

        return run

    def _inputs(self, now: datetime) -> None:
        self.passes.inputs(now)
        self._soon("_pass")  # what is new is launched at once

    def _soon(self, part: str) -> None:
        with suppress(JobLookupError):  # when leaving
            self.scheduler.modify_job(part, next_run_time=datetime.now(UTC))

    def _pass(self, now: datetime) -> None:
        if self.reload.is_set():
            self.reload.clear()
            self._take_up_again(now)
        self.clock_watch.look(now)
        self.passes.batch(now)
        self._soon("_courier")  # what was decided is done at once
        self.pulse.beat()
        self.pulse.ready = self.passes.recalled

    def _courier(self, now: datetime) -> None:
        courier.deliver(self.keeper, EFFECTS, now)

    def _take_up_again(self, now: datetime) -> None:
        """SIGHUP: a faulty file leaves the running campaigns as they are."""
        try:
            settings = load_settings(self.config)
            life.take_up(self.keeper, load_campaigns(settings), now)
            life.make_definitions(self.keeper, now)
            say("campaigns reloaded", campaigns=len(self.keeper.campaigns))
        except KeepupError as error:
            say("reload refused; the campaigns stay as they are", logging.ERROR, why=error.problem, remedy=error.remedy)


def run(config: Path) -> None:
    """`keepupd run`: raises KeepupError when it can't start."""
    stamina.instrumentation.set_on_retry_hooks([])  # clients/http.py says each retry in a sentence of ours
    settings = load_settings(config)
    logging.getLogger("keepupd").setLevel(settings.log_level.upper())
    campaigns = load_campaigns(settings)  # a faulty file stops the start before anything is made
    with held_database(settings) as database:
        make_ready(database, settings.file)
        Daemon(config, settings, database).run(campaigns)
