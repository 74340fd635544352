"""Projects and consumer processes: a snapshot's files handed out, each to one process, in the snapshot's order.

Nothing handed out is ever handed out again in its project. `projects.next_number` is the place of the next file; moving
it and noting the delivery is one transaction, which is what makes getNextFile atomic. A process that holds a file it
has not released (delivered or transferred) gets that file again. A file that lost its last location since the snapshot
is noted as a failed delivery and passed over.
"""

import sqlite3
import time
from typing import Any
from urllib.parse import unquote

from .definitions import check_name, like_filters
from .errors import (
    BadRequest,
    FileNotFound,
    ProcessEnded,
    ProcessNotFound,
    ProjectEnded,
    ProjectExists,
    ProjectNotFound,
    SnapshotNotFound,
)
from .locations import urls
from .metadata import iso

Db = sqlite3.Connection
STATUSES = ("delivered", "transferred", "consumed", "completed", "skipped", "failed", "cancelled", "unknown")
HELD = "('delivered', 'transferred')"       # SQL: the process has the file and has not said how it went


def check_names(name: str, station: str) -> None:
    """Raises BadRequest for names ifdh would misread: one with a leading digit goes to another service there."""
    check_name("a project's name", name)
    check_name("a station's name", station)
    if station == "name":
        raise BadRequest("a station can't be called 'name': paths of projects would be ambiguous")
    if name[0].isdigit():
        raise BadRequest(f"a project's name can't begin with a digit: '{name}'")
    if "%" in name or "?" in name:
        raise BadRequest(f"a project's name can't hold % or ?, which queries take for wildcards: '{name}'")


def find(db: Db, name: str, station: str = "") -> sqlite3.Row:
    """The project, with its definition's name. Raises ProjectNotFound, also when it runs on another station."""
    row: sqlite3.Row | None = db.execute(
        "SELECT p.*, s.file_count, s.definition_id, d.defname FROM projects p JOIN snapshots s USING (snapshot_id) "
        "JOIN definitions d USING (definition_id) WHERE project_name = ?", (name,)).fetchone()
    if row is None or station not in ("", "name", row["station"]):
        raise ProjectNotFound(f"Project '{name}' not found" + (f" on station '{station}'" if station else ""))
    return row


def same_project(db: Db, name: str, station: str, defname: str, snapshot_id: int | None) -> bool:
    """Is this project running or ended already, over the same input? Raises ProjectExists when it has other input."""
    try:
        row = find(db, name)
    except ProjectNotFound:
        return False
    if row["station"] == station and (row["defname"] == defname or row["snapshot_id"] == snapshot_id):
        return True
    raise ProjectExists(f"Project '{name}' already exists, on definition '{row['defname']}', snapshot "
                        f"{row['snapshot_id']}, station '{row['station']}'")


def start(db: Db, name: str, station: str, group: str, user: str, defname: str, snapshot_id: int) -> None:
    """Begin to deliver a snapshot (of defname, when told). One started meanwhile by another call is left as it is.

    Raises SnapshotNotFound, ProjectExists.
    """
    if same_project(db, name, station, defname, snapshot_id):
        return
    if not db.execute("SELECT 1 FROM snapshots WHERE snapshot_id = ? AND ready", (snapshot_id,)).fetchone():
        raise SnapshotNotFound(f"Snapshot {snapshot_id} not found")
    db.execute("INSERT INTO projects (project_name, station, group_name, username, snapshot_id, next_number, "
               "start_time) VALUES (?, ?, ?, ?, ?, 1, ?)",
               (name, station, group, user, snapshot_id, int(time.time())))


def establish(db: Db, project: str, station: str, given: dict[str, str], file_limit: int) -> int:
    """Join a project; returns the process id. file_limit 0 is no limit. Raises ProjectNotFound, ProjectEnded."""
    row = find(db, project, station)
    if row["end_time"] is not None:
        raise ProjectEnded(f"Project '{project}' ended at {iso(row['end_time'])}")
    columns = {"project_id": row["project_id"], "status": "active", "start_time": int(time.time()),
               "file_limit": file_limit or None, **given}
    cursor = db.execute(f"INSERT INTO processes ({', '.join(columns)}) VALUES ({', '.join('?' * len(columns))})",
                        tuple(columns.values()))
    return int(cursor.lastrowid or 0)


def process(db: Db, project: str, station: str, process_id: str) -> sqlite3.Row:
    """A process, with its project's state. Raises ProjectNotFound, ProcessNotFound."""
    row = None
    if process_id.isascii() and process_id.isdigit() and len(process_id) < 19:
        row = db.execute("SELECT c.*, p.project_name, p.station, p.snapshot_id, p.next_number, p.end_time AS "
                         "project_end FROM processes c JOIN projects p USING (project_id) WHERE c.process_id = ?",
                         (int(process_id),)).fetchone()
    if row is None or row["project_name"] != project or station not in ("name", row["station"]):
        find(db, project, station)
        raise ProcessNotFound(f"Process '{process_id}' not found in project '{project}'")
    found: sqlite3.Row = row
    return found


def next_file(db: Db, project: str, station: str, process_id: str) -> tuple[str, str] | None:
    """URL and name of the file to work on, or None when there is none left for this process.

    Raises ProjectEnded, ProcessEnded, and what `process` raises.
    """
    who = process(db, project, station, process_id)
    if who["project_end"] is not None:
        raise ProjectEnded(f"Project '{project}' ended at {iso(who['project_end'])}")
    if who["end_time"] is not None:
        raise ProcessEnded(f"Process {process_id} ended at {iso(who['end_time'])}, with status {who['status']}")
    held = db.execute("SELECT d.url, f.file_name FROM deliveries d JOIN files f USING (file_id) "
                      f"WHERE d.process_id = ? AND d.status IN {HELD}", (who["process_id"],)).fetchone()
    if held:
        return held["url"], held["file_name"]
    taken = db.execute("SELECT count(*) FROM deliveries WHERE process_id = ?", (who["process_id"],)).fetchone()[0] \
        if who["file_limit"] else 0
    return None if who["file_limit"] and taken >= who["file_limit"] else _hand_out(db, who)


def _hand_out(db: Db, who: sqlite3.Row) -> tuple[str, str] | None:
    schemas = [s.strip() for s in (who["schemas"] or "").split(",") if s.strip()]
    now, number = int(time.time()), who["next_number"]
    waiting = db.execute("SELECT sf.number, f.file_id, f.file_name FROM snapshot_files sf JOIN files f USING (file_id) "
                         "WHERE sf.snapshot_id = ? AND sf.number >= ? ORDER BY sf.number", (who["snapshot_id"], number))
    given = None
    for number, file_id, name in waiting:
        url = next(iter(urls(db, file_id, name, schemas)), None)
        db.execute("INSERT INTO deliveries (project_id, file_id, process_id, status, url, delivered, updated) "
                   "VALUES (?, ?, ?, ?, ?, ?, ?)", (who["project_id"], file_id, who["process_id"] if url else None,
                                                    "delivered" if url else "failed", url, now, now))
        db.execute("UPDATE projects SET next_number = ? WHERE project_id = ?", (number + 1, who["project_id"]))
        if url:
            given = url, name
            break
    return given


def update_file(db: Db, project: str, station: str, process_id: str, filename: str, status: str) -> None:
    """Note how a delivered file went; filename may be a path or URL. A late `transferred` never undoes a verdict.

    Raises BadRequest, FileNotFound when this process never got the file. Works on ended projects and processes: a
    job may report late.
    """
    if status not in ("transferred", "consumed", "skipped"):
        raise BadRequest(f"status is transferred, consumed or skipped, not '{status[:100]}'")
    who = process(db, project, station, process_id)
    last = filename.rpartition("/")[2]
    for name in (unquote(last), last) if "://" in filename else (last,):
        row = db.execute("SELECT d.delivery_id, d.status FROM files f JOIN deliveries d USING (file_id) "
                         "WHERE f.file_name = ? AND d.project_id = ? AND d.process_id = ?",
                         (name, who["project_id"], who["process_id"])).fetchone()
        if row and (status != "transferred" or row["status"] in ("delivered", "transferred")):
            db.execute("UPDATE deliveries SET status = ?, updated = ? WHERE delivery_id = ?",
                       (status, int(time.time()), row["delivery_id"]))
        if row:
            return
    raise FileNotFound(f"File '{filename[:300]}' was not delivered to process {process_id}")


def set_status(db: Db, project: str, station: str, process_id: str, status: str) -> None:
    """The job's own verdict: completed (or ok) or bad. It ends the process. Raises BadRequest."""
    verdict = {"ok": "completed"}.get(status, status)
    if verdict not in ("completed", "bad", "finished"):
        raise BadRequest(f"a process status is completed, ok, bad or finished, not '{status[:100]}'")
    who = process(db, project, station, process_id)
    db.execute("UPDATE processes SET status = ?, end_time = coalesce(end_time, ?) WHERE process_id = ?",
               (verdict, int(time.time()), who["process_id"]))


def end_process(db: Db, project: str, station: str, process_id: str) -> None:
    """End a process; a verdict given before stays. Repeating it changes nothing."""
    who = process(db, project, station, process_id)
    if who["status"] == "active":
        db.execute("UPDATE processes SET status = 'finished', end_time = ? WHERE process_id = ?",
                   (int(time.time()), who["process_id"]))


def by_description(db: Db, project: str, description: str) -> str:
    """The process of that description. Raises ProcessNotFound, BadRequest when there are several."""
    found = db.execute("SELECT process_id FROM processes WHERE project_id = ? AND description = ?",
                       (find(db, project)["project_id"], description)).fetchall()
    if len(found) > 1:
        raise BadRequest(f"{len(found)} processes of project '{project}' have the description '{description[:200]}'")
    if not found:
        raise ProcessNotFound(f"No process of project '{project}' has the description '{description[:200]}'")
    return str(found[0][0])


def end(db: Db, project: str, station: str) -> None:
    """End a project; repeating it changes nothing. Delivered files stay with their processes."""
    row = find(db, project, station)
    db.execute("UPDATE projects SET end_time = coalesce(end_time, ?) WHERE project_id = ?",
               (int(time.time()), row["project_id"]))


def end_idle(db: Db, limit_s: float) -> list[str]:
    """End the projects, and call bad the processes of running ones, of which nothing was heard for limit_s seconds.

    A sign of life is a process that joins or ends, a file handed out or reported on. Returns the projects ended.
    """
    now = int(time.time())
    times = {"now": now, "since": now - limit_s}
    quiet = "NOT EXISTS (SELECT 1 FROM deliveries d WHERE d.{0} = {1}.{0} AND d.updated >= :since)"
    joined = ("SELECT 1 FROM processes c WHERE c.project_id = projects.project_id AND "
              "max(c.start_time, coalesce(c.end_time, 0)) >= :since")
    ended = db.execute("UPDATE projects SET end_time = :now WHERE end_time IS NULL AND start_time < :since AND "
                       f"{quiet.format('project_id', 'projects')} AND NOT EXISTS ({joined}) RETURNING project_name",
                       times).fetchall()
    db.execute("UPDATE processes SET status = 'bad', end_time = :now WHERE status = 'active' AND start_time < :since "
               f"AND {quiet.format('process_id', 'processes')} AND project_id IN "
               "(SELECT project_id FROM projects WHERE end_time IS NULL OR end_time = :now)", times)
    return [row[0] for row in ended]


def status(row: sqlite3.Row) -> str:
    """`ended complete` means that all files were delivered, whatever became of them."""
    if row["end_time"] is None:
        return "running"
    return "ended complete" if row["next_number"] > row["file_count"] else "ended incomplete"


def summary(db: Db, project: str, station: str, process_limit: int | None) -> dict[str, Any]:
    """All about a project, with its first process_limit processes (None: all; 0: no `processes` key)."""
    row = find(db, project, station)
    key = (row["project_id"],)
    files = dict(db.execute("SELECT status, count(*) FROM deliveries WHERE project_id = ? GROUP BY 1", key).fetchall())
    made: dict[str, Any] = {
        "project_name": project, "project_id": row["project_id"], "project_status": status(row),
        "station": row["station"], "group": row["group_name"], "username": row["username"],
        "description": row["description"], "dataset_def_name": row["defname"], "snapshot_id": row["snapshot_id"],
        "project_start_time": iso(row["start_time"]), "project_end_time": iso(row["end_time"]),
        "files_in_snapshot": row["file_count"],
        "file_counts": {**dict.fromkeys(STATUSES, 0), **files,
                        "unconsumed": row["file_count"] - row["next_number"] + 1},
        "process_counts": {"active": 0, "completed": 0, "bad": 0, "finished": 0, **dict(db.execute(
            "SELECT status, count(*) FROM processes WHERE project_id = ? GROUP BY 1", key).fetchall())}}
    if process_limit != 0:
        made["processes"] = _processes(db, key, -1 if process_limit is None else process_limit)
    return {k: v for k, v in made.items() if v is not None}


def _processes(db: Db, key: tuple[int], limit: int) -> list[dict[str, Any]]:
    counts: dict[int, dict[str, int]] = {}
    for process_id, status, count in db.execute("SELECT process_id, status, count(*) FROM deliveries "
                                                "WHERE project_id = ? GROUP BY 1, 2", key):
        counts.setdefault(process_id, dict.fromkeys(STATUSES, 0))[status] = count
    return [_process_json(row, counts.get(row["process_id"], dict.fromkeys(STATUSES, 0))) for row in db.execute(
        "SELECT * FROM processes WHERE project_id = ? ORDER BY process_id LIMIT ?", (*key, limit))]


def _process_json(row: sqlite3.Row, counts: dict[str, int]) -> dict[str, Any]:
    made = {"process_id": row["process_id"], "status": row["status"], "description": row["description"],
            "node": row["node"], "username": row["username"], "application": {
                "family": row["appfamily"], "name": row["appname"], "version": row["appversion"]},
            "start_time": iso(row["start_time"]), "end_time": iso(row["end_time"]), "file_limit": row["file_limit"],
            "counts": counts}
    return {k: v for k, v in made.items() if v is not None}


def recovery_dims(db: Db, project: str, station: str, only_completed: bool) -> str:
    """Dimensions of the files still to do, or an empty text. only_completed: distrust processes not `completed`."""
    row = find(db, project, station)
    done = db.execute("SELECT count(*) FROM deliveries d LEFT JOIN processes c USING (process_id) "
                      "WHERE d.project_id = ? AND d.status = 'consumed' AND (c.status = 'completed' OR ?)",
                      (row["project_id"], not only_completed)).fetchone()[0]
    if done >= row["file_count"]:
        return ""
    consumed = f"(project_name '{project}' and consumed_status consumed)"
    if not only_completed:
        return f"snapshot_id {row['snapshot_id']} minus {consumed}"
    good = [str(r[0]) for r in db.execute(
        "SELECT process_id FROM processes WHERE project_id = ? AND status = 'completed'", (row["project_id"],))]
    return (f"snapshot_id {row['snapshot_id']} minus (project_name '{project}' and consumer_process_id "
            f"{','.join(good) or '0'} and consumed_status consumed)")


def names(db: Db, filters: dict[str, str], times: dict[str, int]) -> list[str]:
    """Project names. filters: columns that must match a text with `%`; times: SQL comparisons with a bound in s."""
    where, args = like_filters(filters)
    conditions = "".join(f" AND {condition} ?" for condition in times)
    return [r[0] for r in db.execute(
        "SELECT p.project_name FROM projects p JOIN snapshots s USING (snapshot_id) JOIN definitions d "
        f"USING (definition_id) WHERE {where}{conditions} ORDER BY p.project_id", (*args, *times.values()))]


def describe(db: Db, project: str, station: str, description: str) -> None:
    db.execute("UPDATE projects SET description = ? WHERE project_id = ?",
               (description, find(db, project, station)["project_id"]))


def station_dump(db: Db, station: str) -> str:
    """Running projects in words the readers of the old station's dump look for; every file counts as in cache."""
    out = [f"station {station}"]
    for row in db.execute("SELECT p.*, s.file_count FROM projects p JOIN snapshots s USING (snapshot_id) "
                          "WHERE p.end_time IS NULL AND ? IN ('', p.station) ORDER BY p.project_id", (station,)):
        total, gone = row["file_count"], row["next_number"] - 1
        when = time.strftime("%d %b %H:%M:%S", time.gmtime(row["start_time"]))
        owner = f"{row['username'] or 'user'}.{row['group_name'] or 'group'}".replace(" ", "_")
        out.append(f"project {row['project_name']}(1) owner {owner} started {when} contains {total} total files: so "
                   f"far delivered count {gone} and count wanted {total} of these {total} in cache")
        out.append(f"{row['project_name']} in station {station or row['station']} is running with {total} files")
    return "\n".join([*out, "Per-project prefetched files: 10", ""])
