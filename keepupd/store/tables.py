"""The tables, in SQLAlchemy Core, for SQLite and PostgreSQL alike.

Reading order: a campaign has files; files make units; a launch tries units as attempts with its jobs; every move of a
unit or campaign leaves a row in history and, where work is wanted outside, in the outbox. Times are whole milliseconds
since 1970 in UTC, so that SQL can compare and shift them on any database.
"""

from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Dialect,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    literal_column,
)
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.types import TypeDecorator

AnyRow = Any  # a row of some query; its columns are those that the query names
SCHEMA = "0002"  # the newest migration; a test compares it with the folder migrations/versions
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@compiles(String, "postgresql")
def _any_length(*_: Any, **__: Any) -> str:
    """Lengths are for the reader: SQLite takes longer words too, and PostgreSQL would refuse the whole move."""
    return "TEXT"


class UtcTime(TypeDecorator[datetime]):
    """An aware datetime in Python, whole milliseconds since 1970 in the database."""

    impl = BigInteger
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> int | None:
        return None if value is None else (value - EPOCH) // timedelta(milliseconds=1)

    def process_result_value(self, value: Any, dialect: Dialect) -> datetime | None:
        return None if value is None else EPOCH + timedelta(milliseconds=value)


metadata = MetaData()
BigId = BigInteger().with_variant(Integer, "sqlite")  # SQLite counts up by itself only in an INTEGER primary key

campaigns = Table(
    "campaigns", metadata,
    Column("id", Integer, primary_key=True),
    Column("name", String(100), nullable=False, unique=True),
    Column("type", String(20), nullable=False),
    Column("settings", Text, nullable=False),  # the campaign file as JSON, as last taken up
    Column("active", Boolean, nullable=False, default=True),  # False: its file is gone from the configuration
    Column("state", String(10), nullable=False),
    Column("since", UtcTime, nullable=False),
    Column("cause", String(80), nullable=False, default=""),
    Column("why", Text, nullable=False, default=""),
    Column("version", Integer, nullable=False, default=1),
    Column("candidate", String(10), nullable=False, default=""),  # event true in the last pass; fired when true twice
    Column("created", UtcTime, nullable=False),
    Column("recalled", UtcTime),  # when SAM and batch were asked what an earlier database knew; nothing starts before
    Column("ever_seen", BigInteger, nullable=False, default=0),
    Column("gone", BigInteger, nullable=False, default=0),  # seen once, not in the input definition now
    Column("sam_count", BigInteger),  # members by SAM's own count
    Column("counted", UtcTime),
    Column("swept", UtcTime),  # the last full comparison with SAM
    Column("difference", BigInteger, nullable=False, default=0),  # what breaks the sum rule; must be 0
    Column("problems", Text, nullable=False, default="{}"),  # hashes of the problem definitions as last written
    Column("problems_at", UtcTime),
    Column("epoch", UtcTime, nullable=False),  # defined, changed or resumed: failures before it do not count
    Column("canary", Boolean, nullable=False, default=True),  # a few units first, since the epoch
    Column("usual_mib", Integer),  # what jobs ask for by what recent ones used; NULL: the campaign's own request
    Column("refused", Text, nullable=False, default=""),  # why its changed file is not taken up
    Column("outlook", Text, nullable=False, default=""),  # why it is complete or not, and what will never come
    Column("total_refused", Integer, nullable=False, default=0),  # histogram files that its running total refuses
    Column("complete", UtcTime),  # since when all it will ever have is declared or in debug; NULL: more may come
    Column("drains", Text, nullable=False, default=""),  # how its input definition takes out what is done; "": not so
)  # fmt: skip

files = Table(
    "files", metadata,
    Column("campaign_id", Integer, ForeignKey("campaigns.id"), primary_key=True),
    Column("file_id", BigInteger, primary_key=True),  # SAM's
    Column("name", String(255), nullable=False, index=True),
    Column("size", BigInteger, nullable=False, default=0),
    Column("events", BigInteger, nullable=False, default=0),
    Column("seen", UtcTime, nullable=False),
    Column("gone", UtcTime),  # since when it is not in the input definition
    Column("unit_id", BigId, ForeignKey("units.id"), index=True),  # NULL: waits for a merge group
    Column("group_key", String(500), nullable=False, default=""),  # JSON of the values it is grouped, or settles, by
)  # fmt: skip

units = Table(
    "units", metadata,
    Column("id", BigId, primary_key=True),
    Column("campaign_id", Integer, ForeignKey("campaigns.id"), nullable=False),
    Column("name", String(255), nullable=False),  # of the input file, the merge group, or the serial
    Column("files", Integer, nullable=False, default=1),
    Column("seen", UtcTime, nullable=False),
    Column("state", String(10), nullable=False),
    Column("since", UtcTime, nullable=False),
    Column("due", UtcTime),  # when to look again, in its state; NULL: nothing happens by itself
    Column("version", Integer, nullable=False, default=1),
    Column("tries", Integer, nullable=False, default=0),
    Column("losses", Integer, nullable=False, default=0),
    Column("cause", String(80), nullable=False, default=""),
    Column("why", Text, nullable=False, default=""),
    Column("launch_id", BigId),
    Column("needs", Text, nullable=False, default=""),
    Column("edition", Integer, nullable=False, default=1),
    Column("origin", Text, nullable=False, default=""),  # of a merge group: the rule that closed it
    UniqueConstraint("campaign_id", "name"),
    Index("units_by_state", "campaign_id", "state", "due"),
    Index("units_by_seen", "campaign_id", "seen"),
    Index("units_by_launch", "launch_id"),
)  # fmt: skip
# Literal values, not bound ones: only then do queries with the same words use the partial indices.
OPEN = units.c.state.not_in([literal_column("'declared'"), literal_column("'debug'")])
Index("units_open", units.c.campaign_id, units.c.seen, sqlite_where=OPEN, postgresql_where=OPEN)
WAITING = files.c.unit_id.is_(None)
Index("files_waiting", files.c.campaign_id, files.c.group_key, sqlite_where=WAITING, postgresql_where=WAITING)
KEYED = files.c.group_key != literal_column("''")
Index("files_by_key", files.c.campaign_id, files.c.group_key, sqlite_where=KEYED, postgresql_where=KEYED)
DECLARED = units.c.state == literal_column("'declared'")
Index("units_declared", units.c.campaign_id, units.c.since, sqlite_where=DECLARED, postgresql_where=DECLARED)

counters = Table(
    "counters", metadata,  # files by state and cause, kept in the transaction that moves them
    Column("campaign_id", Integer, primary_key=True),
    Column("state", String(10), primary_key=True),
    Column("cause", String(80), primary_key=True, default=""),
    Column("n", BigInteger, nullable=False),
)  # fmt: skip

passive_matches = Table(
    "passive_matches", metadata,  # how often each passive rule has matched, kept in the transaction that judges
    Column("campaign_id", Integer, primary_key=True),
    Column("cause", String(80), primary_key=True),
    Column("n", BigInteger, nullable=False),
)  # fmt: skip

launches = Table(
    "launches", metadata,
    Column("id", BigId, primary_key=True),
    Column("key", String(40), nullable=False, unique=True),
    Column("campaign_id", Integer, ForeignKey("campaigns.id"), nullable=False),
    Column("created", UtcTime, nullable=False),
    Column("settings", Text, nullable=False),  # the campaign's settings as they were
    Column("needs", Text, nullable=False, default=""),
    Column("submitted", UtcTime),  # when the batch system had taken all its jobs
    Column("early_deaths", Integer, nullable=False, default=0),  # jobs that ended before they took a file
    Column("over", UtcTime),  # when its last job was judged
    Column("closed", UtcTime),  # when its project was ended and its jobs forgotten
    Index("launches_open", "closed", "campaign_id"),
    Index("launches_of_campaign", "campaign_id", "created"),
)  # fmt: skip

jobs = Table(
    "jobs", metadata,
    Column("launch_id", BigId, ForeignKey("launches.id"), primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("state", String(10), nullable=False),
    Column("judged", Boolean, nullable=False, default=False),  # its end has been turned into an event
    Column("host", String(255), nullable=False, default=""),
    Column("started", UtcTime),
    Column("ended", UtcTime),
    Column("exit_code", Integer),
    Column("signal", Integer),
    Column("hold_code", Integer),
    Column("hold_reason", Text, nullable=False, default=""),
    Column("peak_mib", Integer),
    Column("wall_s", Float),
    Column("directory", Text, nullable=False, default=""),
    Column("absent_since", UtcTime),
    Index("jobs_by_state", "judged", "state"),
)  # fmt: skip

attempts = Table(
    "attempts", metadata,  # made at launch, bound to a job when SAM has delivered
    Column("id", BigId, primary_key=True),
    Column("unit_id", BigId, ForeignKey("units.id"), nullable=False, index=True),
    Column("launch_id", BigId, ForeignKey("launches.id"), nullable=False, index=True),
    Column("campaign_id", Integer, nullable=False),
    Column("job_number", Integer),
    Column("outcome", String(20), nullable=False, default=""),  # "", ok, not_delivered, or the class of its cause
    Column("cause", String(80), nullable=False, default=""),
    Column("why", Text, nullable=False, default=""),
    Column("step", String(20), nullable=False, default=""),
    Column("exit_code", Integer),
    Column("signal", Integer),
    Column("host", String(255), nullable=False, default=""),
    Column("started", UtcTime),
    Column("ended", UtcTime, index=True),
    Column("peak_mib", Integer),
    Column("evidence", Text, nullable=False, default=""),  # directory with report and logs
    Column("passive", Text, nullable=False, default=""),  # names of the passive rules that matched, with commas
    Index("attempts_ended", "campaign_id", "ended"),
)  # fmt: skip

history = Table(
    "history", metadata,
    Column("id", BigId, primary_key=True),
    Column("campaign_id", Integer, nullable=False),
    Column("unit_id", BigId),  # NULL: the campaign itself moved
    Column("at", UtcTime, nullable=False),
    Column("source", String(10), nullable=False),
    Column("event", String(30), nullable=False),
    Column("dest", String(10), nullable=False),
    Column("cause", String(80), nullable=False, default=""),
    Column("why", Text, nullable=False),
    Column("who", String(80), nullable=False),
    Index("history_of_unit", "unit_id"),
)  # fmt: skip

outbox = Table(
    "outbox", metadata,  # effects wanted outside; a row goes when its effect is done
    Column("id", BigId, primary_key=True),
    Column("effect", String(30), nullable=False),
    Column("key", BigId, nullable=False),  # of the unit or launch; one key's effects are done in order
    Column("detail", Text, nullable=False, default=""),
    Column("created", UtcTime, nullable=False),
    Column("due", UtcTime, nullable=False, index=True),
    Column("tries", Integer, nullable=False, default=0),
    Column("error", Text, nullable=False, default=""),
    Column("parked", UtcTime),  # since when it waits for a person
)  # fmt: skip

requests = Table(
    "requests", metadata,  # what operators asked for; the daemon acts
    Column("id", BigId, primary_key=True),
    Column("at", UtcTime, nullable=False),
    Column("who", String(80), nullable=False),
    Column("event", String(30), nullable=False),
    Column("campaign_id", Integer, nullable=False),
    Column("unit_ids", Text, nullable=False, default=""),  # JSON list; empty: the campaign itself
    Column("detail", Text, nullable=False, default=""),  # of dissolve: JSON list of bad files; of redo: "anyway"
    Column("reason", Text, nullable=False),
    Column("done", UtcTime),
    Column("answer", Text, nullable=False, default=""),
    Index("requests_open", "done"),
)  # fmt: skip

polls = Table(
    "polls", metadata,  # when each source last answered
    Column("name", String(40), primary_key=True),
    Column("good", UtcTime),
    Column("failed", UtcTime),
    Column("error", Text, nullable=False, default=""),
)  # fmt: skip
