"""Turn the end of each job into an event for its unit: fetch the evidence, find the file, find the cause, decide.

A job is judged once, in the transaction that moves its unit. Until SAM and the batch system have said all that is
needed, it stays unjudged and the next pass tries again.
"""

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, bindparam, func, update

from keepupd.config import Campaign
from keepupd.core.causes import Cause
from keepupd.core.chunks import grouped
from keepupd.core.consequences import Limits, consequences
from keepupd.core.decide import Observation, decide
from keepupd.core.errors import KeepupError, SamUnavailable
from keepupd.core.model import Failure, JobSeen, JobState, Move, Output, Unit
from keepupd.core.report import NO_FILE, Report, failure_of, read_report
from keepupd.daemon import protect
from keepupd.daemon.keeper import Keeper, limits_of, project_name, say
from keepupd.daemon.outputs import look_for_outputs, rival_guard
from keepupd.store import reads, store
from keepupd.store.tables import AnyRow, UtcTime, attempts, jobs, launches

JUDGE = 200  # jobs in one transaction


@dataclass(frozen=True, slots=True)
class Ended:
    """A job that is over, with all that is known of it."""

    row: AnyRow  # of table jobs, with its launch's key
    report: Report | None
    evidence: Path
    inputs: tuple[str, ...]  # names of the files it was given

    @property
    def key(self) -> str:
        return f"{self.row.key}.{self.row.number}"


@dataclass(slots=True)
class Verdict:
    """One attempt, on its way from evidence to a move."""

    end: Ended
    unit: Unit
    attempt_id: int
    failed: Failure | None = None
    cause: Cause | None = None
    passive: Sequence[str] = ()  # names of passive rules that matched: counted, and nothing more
    move: Move | None = None


def judge_jobs(k: Keeper, now: datetime) -> None:
    """Judge every job that has ended, some hundred at a time."""
    after = (0, 0)
    while True:
        with k.database.read() as db:
            rows = reads.ended_jobs(db, after, JUDGE)
        for campaign_id, ended in grouped(rows, lambda row: row.campaign_id).items():
            _judge(k, campaign_id, [end for row in ended for end in _gathered(k, campaign_id, row)], now)
        if len(rows) < JUDGE:
            return
        after = (rows[-1].launch_id, rows[-1].number)


def _gathered(k: Keeper, campaign_id: int, row: AnyRow) -> list[Ended]:
    """A job of which not all is known yet keeps no other waiting: the next pass asks again."""
    try:
        return [_gather(k, campaign_id, row)]
    except KeepupError as trouble:
        say("job not judged yet", logging.WARNING, job=f"{row.key}.{row.number}", why=trouble.problem)
        return []


def _gather(k: Keeper, campaign_id: int, row: AnyRow) -> Ended:
    """Bring the evidence home, and learn which file the job had. Raises what SAM and the batch system raise."""
    campaign = k.campaigns[campaign_id]
    evidence = k.evidence / campaign.name / row.key / str(row.number)
    if row.state != JobState.LOST:
        evidence.mkdir(parents=True, exist_ok=True)
        k.batch.fetch(_as_seen(row), evidence)
    report = _read(evidence / "report.json")
    inputs = report.inputs if report else ()
    if not inputs and campaign.type != "generator":
        project = project_name(campaign.name, row.key)
        inputs = tuple(f.name for f in k.sam.delivered(project, f"{row.key}.{row.number}"))
    return Ended(row, report, evidence, inputs)


def _as_seen(row: AnyRow) -> JobSeen:
    directory = Path(row.directory) if row.directory else None
    return JobSeen(f"{row.key}.{row.number}", "", JobState(row.state), host=row.host, directory=directory)


def _read(path: Path) -> Report | None:
    try:
        return read_report(path.read_text(errors="replace"))
    except OSError:
        return None


def _judge(k: Keeper, campaign_id: int, ended: Sequence[Ended], now: datetime) -> None:
    campaign = k.campaigns[campaign_id]
    with k.database.read() as db:
        verdicts, later = _one_for_each_unit(_bound(db, ended))
        repeats = reads.repeats(db, [verdict.unit.id for verdict in verdicts])
        rivals = reads.has_rivals(db, [verdict.unit.id for verdict in verdicts])
    ended = [end for end in ended if end.key not in later]
    outputs = _outputs(k, campaign, [verdict.unit for verdict in verdicts], now)
    _find_causes(k, campaign_id, verdicts, now)
    for verdict in verdicts:
        seen = Observation(now, outputs.get(verdict.unit.id), verdict.failed is None, verdict.cause)
        event, limits = decide(seen, verdict.unit), limits_of(campaign)
        verdict.move = _move(verdict, event, limits, repeats, verdict.unit.id in rivals, now)
    moves = [verdict.move for verdict in verdicts if verdict.move]
    with k.database.write("jobs judged") as db:
        dests = store.apply(db, k.file_chart, moves, now)
        _close_attempts(db, verdicts, now)
        _mark_judged(db, ended, now)
        _note_early_deaths(db, ended, verdicts)
        store.count_passive(db, campaign_id, Counter(name for verdict in verdicts for name in verdict.passive))
    k.log_moves(campaign.name, moves, dests)
    k.count_attempts(
        campaign.name,
        [(verdict.cause.klass, verdict.cause.name) if verdict.cause else ("ok", "") for verdict in verdicts],
    )


def _find_causes(k: Keeper, campaign_id: int, verdicts: Sequence[Verdict], now: datetime) -> None:
    """What each failure means. An outage that nobody else has seen counts as a trouble of this input alone."""
    own, suffered = k.own_rules[campaign_id], []
    for verdict in verdicts:
        if failed := failure(verdict.end):
            verdict.failed, verdict.cause = failed, k.causes.judge(failed, own)
            verdict.passive = k.causes.passive(failed, own)
            if verdict.cause.klass == "outage":
                suffered.append(protect.Suffered(verdict.cause.name, failed.fault, verdict.unit.id, failed.host))
    confirmed = protect.confirmed_outages(k, campaign_id, suffered, now)
    for verdict in verdicts:
        if verdict.cause and verdict.cause.klass == "outage" and verdict.cause.name not in confirmed:
            verdict.cause = k.causes.counted_as(verdict.cause, "input")


def _one_for_each_unit(verdicts: Sequence[Verdict]) -> tuple[list[Verdict], set[str]]:
    """The first verdict on each unit, and the keys of the jobs that must wait: a unit moves once in a transaction.

    Two jobs of one unit end in one look when the first was lost, or the database was and recalls both their launches.
    """
    first: dict[int, Verdict] = {}
    for verdict in verdicts:
        first.setdefault(verdict.unit.id, verdict)
    return list(first.values()), {verdict.end.key for verdict in verdicts if first[verdict.unit.id] is not verdict}


def _bound(db: Connection, ended: Sequence[Ended]) -> list[Verdict]:
    """Each job with the unit that it tried; a job that never took a file is left out."""
    verdicts = []
    for launch_id, ends in grouped(ended, lambda end: end.row.launch_id).items():
        inputs = [name for end in ends for name in end.inputs]
        tried = reads.tried_in(db, launch_id, [end.row.number for end in ends], inputs)
        for end in ends:
            found = [tried[key] for key in (end.row.number, *end.inputs) if key in tried]
            verdicts += [Verdict(end, *found[0])] if found else []
    return verdicts


def failure(end: Ended) -> Failure | None:
    """Why the job did not succeed; None when it did."""
    row = end.row
    if row.state == JobState.HELD:
        return Failure(
            step="job", hold_code=row.hold_code, message=row.hold_reason, host=row.host, peak_mib=row.peak_mib
        )
    if row.state == JobState.LOST:
        message = f"absent from the batch system since {row.absent_since:%Y-%m-%d %H:%M} UTC"
        return Failure(step="job", fault="lost", message=message, host=row.host)
    if end.report is None:
        how = f"signal {row.signal}" if row.signal else f"exit code {row.exit_code}"
        message = f"the job ended with {how} and left no report"
        return Failure(
            "job", "no_report", row.exit_code, row.signal, message=message, host=row.host, peak_mib=row.peak_mib
        )
    if end.report.succeeded:
        return None
    return replace(failure_of(end.report), host=row.host or end.report.host)


def _outputs(k: Keeper, campaign: Campaign, wanted: Sequence[Unit], now: datetime) -> dict[int, Output]:
    """What SAM shows of these outputs; nothing when it is silent (a report of success counts all the same)."""
    try:
        found = look_for_outputs(k, campaign, wanted) if wanted else {}
    except SamUnavailable as silence:
        k.note_silence(silence, now)
        say("SAM is silent about outputs", logging.WARNING, campaign=campaign.name, why=silence.problem)
        return {}
    return {unit_id: one.state for unit_id, one in found.items()}


def _move(
    verdict: Verdict, event: str | None, limits: Limits, repeats: Mapping[tuple[int, str], int], rivals: bool,
    now: datetime,
) -> Move | None:
    unit, cause = verdict.unit, verdict.cause
    if event is None:
        return None
    if event == "output_seen":
        return Move(unit, event, "SAM shows the output", guards=rival_guard(rivals))
    if cause is None or verdict.failed is None:
        return Move(unit, event, f"job {verdict.end.key} says: output valid and copied", due=now)
    due, values = consequences(cause, verdict.failed, unit, limits, repeats.get((unit.id, cause.name), 0), now)
    why = f"{cause.words} (job {verdict.end.key})"
    return Move(unit, event, why, cause=cause.name, due=due, values=values, detail=verdict.end.key)


def _close_attempts(db: Connection, verdicts: Sequence[Verdict], now: datetime) -> None:
    if verdicts:
        rows = [_attempt_row(verdict, now) for verdict in verdicts]
        db.execute(update(attempts).where(attempts.c.id == bindparam("b_id")), rows)


def _attempt_row(verdict: Verdict, now: datetime) -> dict[str, Any]:
    end, cause, failed = verdict.end, verdict.cause, verdict.failed
    ran = end.report.executable if end.report else {}
    return {
        "b_id": verdict.attempt_id, "job_number": end.row.number, "outcome": cause.klass if cause else "ok",
        "cause": cause.name if cause else "", "why": cause.words if cause else "",
        "step": failed.step if failed else "", "exit_code": failed.exit_code if failed else 0,
        "signal": failed.signal if failed else None, "host": end.row.host, "started": end.row.started,
        "ended": end.row.ended or now, "evidence": str(end.evidence),
        "passive": ",".join(verdict.passive),
        "peak_mib": max(end.row.peak_mib or 0, int(ran.get("peak_mib") or 0)) or None,
    }  # fmt: skip


def _mark_judged(db: Connection, ended: Sequence[Ended], now: datetime) -> None:
    if ended:
        this = (jobs.c.launch_id == bindparam("b_launch")) & (jobs.c.number == bindparam("b_number"))
        rows = [{"b_launch": end.row.launch_id, "b_number": end.row.number} for end in ended]
        over = func.coalesce(jobs.c.ended, bindparam("b_now", now, UtcTime))
        db.execute(update(jobs).where(this).values(judged=True, ended=over), rows)


def _note_early_deaths(db: Connection, ended: Sequence[Ended], verdicts: Sequence[Verdict]) -> None:
    """Jobs that died before they took a file: their launch is topped up, and tried again later if all do so."""
    took = {verdict.end.key for verdict in verdicts}
    for end in ended:
        failed = failure(end)
        if end.key in took or failed is None or failed.exit_code == NO_FILE:
            continue
        say("job ended before it took a file", logging.WARNING, job=end.key, host=end.row.host, why=failed.message)
        this = launches.c.id == end.row.launch_id
        db.execute(update(launches).where(this).values(early_deaths=launches.c.early_deaths + 1))
