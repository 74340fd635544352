"""Look at the batch system, and note where each of our jobs stands.

One look a pass: what changed since the last one, and now and then everything. A job that is missing where it should be
is not gone: it is lost only when it is absent in two full looks that are ten minutes apart.
"""

import logging
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, and_, bindparam, update

from keepupd.core.chunks import grouped
from keepupd.core.errors import JobRejected
from keepupd.core.model import JobSeen, JobState, Look
from keepupd.daemon.keeper import Keeper, say
from keepupd.store import reads
from keepupd.store.tables import AnyRow, jobs, launches

FULL_LOOK = timedelta(minutes=5)


class JobWatch:
    """Remembers between passes only how far it has read; forgetting that costs one full look."""

    def __init__(self) -> None:
        self.cursor: str | None = None
        self.full_look_at: datetime | None = None

    def poll(self, k: Keeper, now: datetime) -> None:
        """Ask the batch system once. Raises BatchUnavailable, and then nothing moves."""
        if self.full_look_at is None or not timedelta(0) <= now - self.full_look_at < FULL_LOOK:
            self.cursor = None
        look = k.batch.look(k.settings.name, self.cursor)
        note_jobs(k, look, now)
        self.cursor = look.cursor
        if look.complete:
            self.full_look_at = now


def note_jobs(k: Keeper, look: Look, now: datetime) -> None:
    """Write down what changed; remove jobs of ours that nobody knows."""
    seen_in = None if look.complete else {_launch_of(seen.key) for seen in look.jobs}
    with k.database.read() as db:
        ours = {f"{row.key}.{row.number}": row for row in reads.unjudged_jobs(db, seen_in)}
        known = {row.key: row for row in reads.open_launches(db)} if look.jobs else {}
        unasked = set(reads.not_recalled(db).values())  # whose jobs we may yet learn of
    changed = [(ours[seen.key], seen) for seen in look.jobs if seen.key in ours and _differs(ours[seen.key], seen)]
    absent = _absent(ours, look) if look.complete else []
    if changed or absent:
        with k.database.write("jobs seen") as db:
            _write_changes(db, changed)
            _write_absences(db, absent, now, timedelta(seconds=k.settings.polls.lost_after_s))
    ours_alone = [seen.key for seen in look.jobs if seen.tag.split("/")[1] not in unasked]
    _remove_orphans(k, [key for key in ours_alone if _launch_of(key) not in known])


def _differs(row: AnyRow, seen: JobSeen) -> bool:
    return (row.state, row.host) != (seen.state, seen.host) or row.absent_since is not None


def _write_changes(db: Connection, changed: Iterable[tuple[AnyRow, JobSeen]]) -> None:
    names = (
        "state",
        "host",
        "started",
        "ended",
        "exit_code",
        "signal",
        "hold_code",
        "hold_reason",
        "peak_mib",
        "wall_s",
    )
    rows = [
        {"b_launch": row.launch_id, "b_number": row.number, "b_directory": str(seen.directory or "")}
        | {f"b_{name}": getattr(seen, name) for name in names}
        for row, seen in changed
    ]
    if rows:
        values: dict[str, Any] = {name: bindparam(f"b_{name}") for name in (*names, "directory")}
        db.execute(_this_job().values(values | {"absent_since": None}), rows)


def _this_job() -> Any:
    return update(jobs).where(
        and_(
            jobs.c.launch_id == bindparam("b_launch"), jobs.c.number == bindparam("b_number"), jobs.c.judged.is_(False)
        )
    )


def _absent(ours: Mapping[str, AnyRow], look: Look) -> list[AnyRow]:
    """Jobs that were given to the batch system and that a full look does not show."""
    seen = {job.key for job in look.jobs}
    gone = (JobState.LEFT, JobState.HELD, JobState.LOST)
    return [row for key, row in ours.items() if key not in seen and row.submitted and row.state not in gone]


def _write_absences(db: Connection, absent: Iterable[AnyRow], now: datetime, lost_after: timedelta) -> None:
    for row in absent:
        since = row.absent_since or now
        lost = now - since >= lost_after
        say("job absent", logging.WARNING, job=f"{row.key}.{row.number}", since=f"{since:%H:%M:%S}", lost=lost)
        this = {"b_launch": row.launch_id, "b_number": row.number, "b_since": since}
        state = JobState.LOST if lost else row.state
        db.execute(_this_job().values(absent_since=bindparam("b_since"), state=state), this)


def _launch_of(job_key: str) -> str:
    return job_key.rpartition(".")[0]


def _remove_orphans(k: Keeper, unknown: Sequence[str]) -> None:
    """Jobs with our tag, of a launch that is closed or that even SAM knows nothing of: no one would judge them."""
    for launch, keys in grouped(unknown, _launch_of).items():
        say("removing jobs that no launch of ours knows", logging.WARNING, launch=launch, jobs=len(keys))
        k.batch.remove(keys)
        with suppress(JobRejected):  # they take a moment to end, and then show up in a look once more
            k.batch.forget(launch)


def forget_absences(db: Connection) -> None:
    """The clock has jumped: the time since a job was first missed says nothing now."""
    db.execute(update(jobs).where(jobs.c.absent_since.is_not(None)).values(absent_since=None))


def note_submitted(db: Connection, launch_id: int, now: datetime) -> None:
    db.execute(update(launches).where(launches.c.id == launch_id).values(submitted=now))
