"""What `keepupctl status` reads: one plain SQL statement a table, on the database's own driver.

Importing SQLAlchemy alone takes longer than the whole command may, so this one command does without. Every number comes
from a counter or an index range: it costs the same with a thousand files or a million.
"""

import json
import re
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

from keepupd.core.errors import SchemaError, StoreUnavailable
from keepupd.core.model import STATES
from keepupd.ctl.desk import Desk, check_there
from keepupd.ctl.words import from_ms

SILENT_S = 180  # nothing was polled for so long: the daemon is down, or hangs
TROUBLE = ("held", "crash", "debug")
MIGRATIONS = Path(__file__).parents[1] / "store" / "migrations" / "versions"

# What left its input definition with nothing under way is not waited for: store/reads.py says it as LEFT_SAM.
CAMPAIGNS = """
SELECT c.id, c.name, c.type, c.state, c.since, c.cause, c.why, c.active, c.settings, c.ever_seen, c.gone, c.sam_count,
  c.difference, c.usual_mib, c.refused, c.outlook, c.total_refused,
  CASE WHEN c.type = 'merge' AND c.gone > 0 THEN (SELECT count(*) FROM units u WHERE u.campaign_id = c.id
     AND u.state = 'pending' AND u.due IS NULL AND u.files > 1
     AND EXISTS (SELECT 1 FROM files f WHERE f.unit_id = u.id AND f.gone IS NULL)) ELSE 0 END AS incomplete,
  (SELECT u.seen FROM units u WHERE u.campaign_id = c.id AND u.state NOT IN ('declared', 'debug')
     AND NOT (u.state IN ('pending', 'held', 'crash') AND c.type <> 'generator'
       AND NOT EXISTS (SELECT 1 FROM files f WHERE f.unit_id = u.id AND f.gone IS NULL)
       AND ((u.state = 'pending' AND u.due IS NULL)
         OR EXISTS (SELECT 1 FROM files f WHERE f.unit_id = u.id AND f.gone IS NOT NULL)))
     ORDER BY u.seen LIMIT 1) AS oldest,
  (SELECT count(*) FROM units u WHERE u.campaign_id = c.id AND u.seen > {hour_ago}) AS seen_1h,
  (SELECT count(*) FROM units u WHERE u.campaign_id = c.id AND u.state = 'declared' AND u.since > {hour_ago}) AS out_1h,
  CASE WHEN c.canary THEN (SELECT count(*) FROM units u LEFT JOIN launches l ON l.id = u.launch_id
     WHERE u.campaign_id = c.id AND u.state = 'declared' AND u.since >= c.epoch
     AND (l.id IS NULL OR l.created >= c.epoch)) END AS canary_home,
  (SELECT CASE WHEN a.outcome = 'outage' THEN a.cause END FROM attempts a WHERE a.campaign_id = c.id
     AND a.ended IS NOT NULL ORDER BY a.ended DESC, a.id DESC LIMIT 1) AS outage
FROM campaigns c ORDER BY c.name
"""
# An attempt that met the cause knows its class. The most frequent cause is looked for: one is found soon.
CLASS = """
SELECT a.outcome FROM units u JOIN attempts a ON a.unit_id = u.id AND a.cause = u.cause
WHERE u.campaign_id = {id} AND u.state IN ('held', 'crash', 'debug') AND u.cause = '{cause}' LIMIT 1
"""
# Whether there may be a sick host: what one cost is marked in the same pass. Table causes excludes none for over a day.
SICK = """
SELECT 1 FROM attempts WHERE ended > {day_ago} AND cause = 'sick_host'
UNION ALL SELECT 1 FROM launches WHERE early_deaths > 0 AND (closed IS NULL OR closed > {day_ago}) LIMIT 1
"""


def status(desk: Desk) -> dict[str, Any]:
    """Every campaign, the daemon and its outbox. Raises StoreUnavailable or SchemaError."""
    now = desk.now
    with _connected(desk) as db:
        hour_ago, day_ago = (int((now - timedelta(hours=h)).timestamp() * 1000) for h in (1, 24))
        rows = _rows(db, CAMPAIGNS.format(hour_ago=hour_ago))
        counters = _rows(db, "SELECT campaign_id, state, cause, n FROM counters WHERE n <> 0")
        passive = _rows(db, "SELECT campaign_id, cause, n FROM passive_matches ORDER BY cause")
        polls = _rows(db, "SELECT name, good, failed, error FROM polls ORDER BY name")
        [outbox] = _rows(db, "SELECT count(*) AS depth, count(parked) AS parked, min(created) AS oldest FROM outbox")
        [waiting] = _rows(db, "SELECT count(*) AS n FROM requests WHERE done IS NULL")
        perhaps_sick = _rows(db, SICK.format(day_ago=day_ago))
        listed = [_campaign(row, _of(row, counters), now) for row in rows]
        for row, campaign in zip(rows, listed, strict=True):
            campaign["passive"] = {one["cause"]: one["n"] for one in _of(row, passive)}
            campaign["top_cause_class"] = _class_of(db, row["id"], campaign["top_cause"])
    active = {row["name"] for row in rows if row["active"]}
    return {
        "keepupctl": desk.command(),  # how to call it again
        "campaigns": listed,
        "daemon": _daemon(polls, active, now) | {"requests_waiting": waiting["n"]},
        "sick_hosts": _sick_hosts(desk) if perhaps_sick else [],
        "outbox": {"depth": outbox["depth"], "parked": outbox["parked"], "oldest_s": _age(outbox["oldest"], now)},
    }


def _sick_hosts(desk: Desk) -> list[dict[str, Any]]:
    from keepupd.ctl.hosts import sick_hosts  # slow to import, and seldom needed

    with desk.read() as db:
        return sick_hosts(desk, db)


def _of(campaign: dict[str, Any], rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [row for row in rows if row["campaign_id"] == campaign["id"]]


def _class_of(db: Any, campaign_id: int, cause: str | None) -> str | None:
    quoted = (cause or "").replace("'", "''")
    rows = _rows(db, CLASS.format(id=campaign_id, cause=quoted)) if cause else []
    return rows[0]["outcome"] if rows else None


def _campaign(row: dict[str, Any], counters: list[dict[str, Any]], now: datetime) -> dict[str, Any]:
    files = {state: sum(c["n"] for c in counters if c["state"] == state) for state in STATES}
    causes: dict[str, int] = {}
    for c in counters:
        if c["state"] in TROUBLE and c["cause"]:
            causes[c["cause"]] = causes.get(c["cause"], 0) + c["n"]
    top = max(causes, key=lambda cause: causes[cause], default=None)
    settings = json.loads(row["settings"] or "{}")
    return {
        "name": row["name"], "type": row["type"], "state": row["state"], "since": from_ms(row["since"]),
        "cause": row["cause"], "why": row["why"], "active": bool(row["active"]), "files": files,
        "sum_rule_difference": row["difference"], "oldest_undeclared_s": _age(row["oldest"], now),
        "rate_in_1h": row["seen_1h"], "rate_out_1h": row["out_1h"],
        "top_cause": top, "top_cause_files": causes[top] if top else 0,
        "expected_files": settings.get("expected_files"), "wanted_by": settings.get("wanted_by"),
        "canary": _canary(row, settings), "outage": row["outage"], "usual_memory_mib": row["usual_mib"],
        "refused_change": row["refused"], "outlook": row["outlook"], "total_refused_files": row["total_refused"],
        "incomplete_groups": row["incomplete"],
        "ever_seen": row["ever_seen"], "gone": row["gone"], "sam_count": row["sam_count"],
    }  # fmt: skip


def _canary(row: dict[str, Any], settings: dict[str, Any]) -> dict[str, int] | None:
    """Units that run first and are declared, of how many; None when the canary is home, or none is wanted."""
    wanted = settings.get("canary", {}).get("groups" if row["type"] == "merge" else "units", 0)
    home = row["canary_home"]
    return None if home is None or home >= wanted else {"declared": home, "of": wanted}


def _daemon(polls: list[dict[str, Any]], active: set[str], now: datetime) -> dict[str, Any]:
    times = [at for poll in polls for at in (poll["good"], poll["failed"]) if at is not None]
    age = _age(max(times, default=None), now)
    return {
        "last_pass_s": age,
        "silent": is_silent(age),
        "failing_polls": [
            poll | {"good": from_ms(poll["good"]), "failed": from_ms(poll["failed"])}
            for poll in polls
            if is_failing(poll["good"], poll["failed"]) and poll["name"].partition(":")[2] in {"", *active}
        ],
    }


def is_silent(age_s: float | None) -> bool:
    """Whether the daemon is down or hangs, by the seconds since it last polled anything."""
    return age_s is None or age_s > SILENT_S


def is_failing(good: Any, failed: Any) -> bool:
    """A poll, by when it was last good and when it last failed."""
    return failed is not None and (good is None or failed > good)


def _age(at_ms: int | None, now: datetime) -> float | None:
    return None if at_ms is None else max(0.0, round(now.timestamp() - at_ms / 1000, 1))


# --- the driver ---------------------------------------------------------------------------------------------------


@contextmanager
def _connected(desk: Desk) -> Iterator[Any]:
    """A connection to read one moment with. Both drivers call their errors the same."""
    url = desk.settings["database"]
    driver, connect, named, remedy = (_sqlite if url.startswith("sqlite:///") else _postgres)(url)
    try:
        with closing(connect()) as db:
            _check_schema(db, desk.config, driver)
            yield db
    except driver.DatabaseError as error:
        words = " ".join(str(error).split())
        raise StoreUnavailable(f"the database {named} cannot be read: {words}", remedy) from error


Driver = tuple[Any, Callable[[], Any], str, str]  # the module, how to connect, what to call it, what to do about errors


def _sqlite(url: str) -> Driver:
    check_there(url)
    path = Path(url.removeprefix("sqlite:///")).absolute()

    def connect() -> sqlite3.Connection:
        # mode=ro could not make the files that reading in WAL mode needs
        db = sqlite3.connect(f"file:{quote(str(path))}?mode=rw", uri=True, timeout=10)
        db.execute("PRAGMA query_only=ON")
        db.execute("BEGIN")
        return db

    return sqlite3, connect, str(path), f"see who holds it: `fuser {path}`"


def _postgres(url: str) -> Driver:
    try:
        import psycopg
    except ModuleNotFoundError:
        raise StoreUnavailable("PostgreSQL needs psycopg", "pip install 'keepupd[postgres]'") from None

    def connect() -> Any:
        db = psycopg.connect(url.replace("+psycopg", "", 1), connect_timeout=10)
        db.isolation_level, db.read_only = psycopg.IsolationLevel.REPEATABLE_READ, True
        return db

    named = re.sub(r"//[^@/]*@", "//", url)  # it may hold a password
    return psycopg, connect, named, "see that its server runs: `keepupd db check`"


def _rows(db: Any, sql: str) -> list[dict[str, Any]]:
    cursor = db.cursor()
    cursor.execute(sql)
    names = [column[0] for column in cursor.description]
    return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]


def newest_schema() -> str:
    """The schema this keepupd needs, without importing its tables: the newest migration's number."""
    return max(path.stem.partition("_")[0] for path in MIGRATIONS.glob("[0-9]*.py"))


def _check_schema(db: Any, config: Path, driver: Any) -> None:
    needed = newest_schema()
    try:
        found = _rows(db, "SELECT version_num FROM alembic_version")[0]["version_num"]
    except (driver.DatabaseError, IndexError) as error:
        if isinstance(error, driver.DatabaseError) and "alembic_version" not in str(error):  # there is such a table
            raise
        found = "none"
    if found != needed:
        raise SchemaError(
            f"the database has schema {found}, this keepupctl needs {needed}",
            f"stop the daemon and run `keepupd db upgrade -c {config}`, or use the keepupctl of the running daemon",
        )
