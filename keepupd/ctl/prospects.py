"""Say what the daemon will do next with a file or a campaign, and when, from the rows that the daemon decides from.

The daemon's side of each sentence: daemon/launching.py (pending), judge.py (running), outputs.py (validated),
passes.look_again (held, crash).
"""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from functools import cached_property
from typing import Any

from sqlalchemy import Connection

from keepupd.core.causes import parse_rules
from keepupd.core.chart import Chart
from keepupd.core.errors import KeepupError
from keepupd.core.model import JobState
from keepupd.ctl import guards, reads
from keepupd.ctl.desk import Desk
from keepupd.ctl.hosts import causes_of
from keepupd.ctl.status import is_failing
from keepupd.ctl.words import clock, for_shell, when
from keepupd.store.reads import gone_members, live_jobs
from keepupd.store.tables import AnyRow

STOPPED = ("held", "crash", "debug")  # states of a campaign in which nothing is launched
SHOWN = 5  # names in a sentence
QUEUE = 10_000  # pending files before this one are counted no further


def without(bad: Sequence[str]) -> str:
    """The argument of `keepupctl dissolve` that names the files to leave out."""
    return " ".join(f"--without {for_shell(name)}" for name in bad)


class Prospects:
    """What lies before one file of a campaign."""

    def __init__(self, desk: Desk, db: Connection, chart: Chart, found: reads.Found):
        self.desk, self.db, self.chart, self.campaign, self.file = desk, db, chart, found.campaign, found.file
        assert found.unit is not None
        self.unit: AnyRow = found.unit
        self.settings: dict[str, Any] = json.loads(found.campaign.settings)

    def next(self) -> list[str]:
        """What happens next, a sentence each."""
        return list(getattr(self, f"_{self.unit.state}")())

    @cached_property
    def limits(self) -> dict[str, Any]:
        """tries and losses that a file may use up, and what the table of causes says of its cause."""
        retry = self.settings.get("retry", {})
        found = {"attempts": retry.get("attempts", 3), "losses": retry.get("losses", 10), "used_up": False, "do": ""}
        if not self.unit.cause:
            return found
        try:
            return found | self._of_cause(found["attempts"], found["losses"])
        except KeepupError as faulty:  # the daemon would not start with it; the rest is worth saying all the same
            return found | {"do": f"(the table of causes is faulty: {faulty.problem.splitlines()[0]})"}

    def _of_cause(self, attempts: int, losses: int) -> dict[str, Any]:
        name, own = self.unit.cause, parse_rules(self.settings.get("causes", ()), f"campaign {self.campaign.name}")
        causes = causes_of(self.desk)
        rule = next((rule for rule in (*own, *causes.rules) if rule.name == name), None)
        if rule and rule.limit and rule.uses != "losses":
            attempts = rule.limit
        used_up = causes.used_up(name, self.unit.tries, self.unit.losses, attempts, losses, own)
        return {"attempts": attempts, "used_up": used_up, "do": causes.classes[rule.klass].do if rule else ""}

    # --- a method a state -----------------------------------------------------------------------------------------

    def _pending(self) -> Iterator[str]:
        stops = [*self._own_stops(), *self.campaign_stops()]
        if stops:
            yield from stops
            return
        before = reads.due_before(self.db, self.campaign.id, self.unit.due, QUEUE)
        more = f"; {before}{' or more' if before == QUEUE else ''} pending files are due before it" if before else ""
        yield f"is launched in the next pass{more}"

    def _own_stops(self) -> Iterator[str]:
        if self.lacking:
            yield f"nothing: {', '.join(self.lacking[:SHOWN])} of its group left SAM; it goes on when all are back"
            yield f"or {self.dissolve()} lets the other files wait for a group again"
        elif self.file is None and self.campaign.type not in ("generator", "merge"):
            yield f"nothing: no file stands behind it; {self._type('audit', for_shell(self.campaign.name))}"
        elif self.file is not None and self.file.gone is not None:
            yield f"nothing: it left the input definition at {clock(self.file.gone)}; it goes on when it comes back"
        elif self.unit.due is None:
            yield f"nothing by itself: it has no due time; {self._type('hold')}, then release it"
        elif self.unit.due > self.desk.now:
            yield f"waits until {when(self.unit.due, self.desk.now)}"
        for attempt in reads.attempts_of(self.db, self.unit.id):
            if not attempt.outcome:
                yield f"waits for launch {attempt.key} to end, which might still deliver it"

    @cached_property
    def lacking(self) -> list[str]:
        """Files of its merge group that left SAM, where others are there."""
        gone = gone_members(self.db, [self.unit.id]) if self.campaign.type == "merge" else []
        return gone if len(gone) < self.unit.files else []

    def dissolve(self) -> str:
        return self._type("dissolve", f"{for_shell(self.unit.name)} {without(self.lacking)}")

    def campaign_stops(self) -> Iterator[str]:
        """All that keeps the campaign from launching anything now."""
        c, resume = self.campaign, self._type("resume", for_shell(self.campaign.name))
        if not c.active:
            yield f"nothing is launched: the file of campaign {c.name} is gone from the configuration"
        if c.state in STOPPED:
            yield f"nothing is launched: campaign {c.name} is in {c.state}: {c.why}; {resume}"
        if c.recalled is None:
            trouble = self._trouble("recall") or self._trouble(f"recall:{c.name}")
            yield f"nothing is launched before SAM and batch have said what is under way{trouble}"
        if trouble := self._trouble("batch"):
            yield f"launches wait for the batch system{trouble}"
        if trouble := self._trouble(f"launch:{c.name}"):
            yield f"the last try to launch failed{trouble}"
        yield from self._full()
        yield from guards.stops(self.db, c, self.settings)

    def _full(self) -> Iterator[str]:
        live, limits = live_jobs(self.db, self.campaign.id), self.settings.get("limits", {})
        numbers = {"jobs": sum(live.values()), "idle_jobs": live.get(JobState.IDLE, 0) + live.get(JobState.WANTED, 0)}
        for what, n in numbers.items():
            if what in limits and n >= limits[what]:
                yield f"waits for room: limits.{what} of the campaign is {limits[what]}, and {n} are there"

    def _trouble(self, poll: str) -> str:
        row = reads.poll(self.db, poll)
        return f": {row.error} (at {clock(row.failed)})" if row and is_failing(row.good, row.failed) else ""

    def _running(self) -> Iterator[str]:
        launch = reads.launch(self.db, self.unit.launch_id)
        if launch is None:
            yield f"its launch is not in the database; {self._type('hold')}, then release it"
            return
        if launch.submitted is None:
            yield f"launch {launch.key} is being given to SAM and batch"
            yield from self.effects(launch.id, of_launch=True)
        there = reads.jobs_of(self.db, launch.id)
        mine = [a.job_number for a in reads.attempts_of(self.db, self.unit.id) if a.launch_id == launch.id]
        ours = [job for job in there if job.number in mine or len(there) == 1]
        for job in ours:
            host = f" on {job.host}" if job.host else ""
            absent = f", absent from the batch system since {clock(job.absent_since)}" if job.absent_since else ""
            state = "not yet with the batch system" if job.state == JobState.WANTED else job.state
            yield f"job {launch.key}.{job.number} is {state}{host}{absent}; it is judged when it ends"
        if there and not ours:
            states = ", ".join(f"{n} {state}" for state, n in Counter(job.state for job in there).items())
            yield f"SAM gives it to one of the jobs of launch {launch.key} ({states}); which one, its report will say"
        if not there:
            yield f"every job of launch {launch.key} is judged: the next pass says what that means for it"

    def _validated(self) -> Iterator[str]:
        yield f"SAM is asked for its output {self._due()}"
        yield from self.effects(self.unit.id)

    def _held(self) -> Iterator[str]:
        yield from self.effects(self.unit.id)
        if self.unit.due is None:
            yield "nothing by itself: it stays held until a person acts"
            return
        where = "to debug: its attempts are used up" if self.limits["used_up"] else "back to pending, to be tried again"
        yield f"goes {where}, {self._due()}"
        if self.lacking and not self.limits["used_up"]:
            yield f"and waits there: {', '.join(self.lacking[:SHOWN])} of its group left SAM; or {self.dissolve()}"
        yield from () if self.limits["used_up"] else self.campaign_stops()

    _crash = _held

    def _debug(self) -> Iterator[str]:
        yield "nothing by itself: automation has given up, a person must look"

    def _declared(self) -> Iterator[str]:
        yield "nothing: it is done"
        yield from self.effects(self.unit.id)

    # --- words ----------------------------------------------------------------------------------------------------

    def _due(self) -> str:
        due: datetime | None = self.unit.due
        return f"at {when(due, self.desk.now)}" if due and due > self.desk.now else "in the next pass"

    def _type(self, command: str, what: str | None = None) -> str:
        reason = [] if command == "audit" else ["--reason 'say why'"]
        return f"`{self.desk.command(command, *reason, what or for_shell(self.unit.name))}`"

    def effects(self, key: int, of_launch: bool = False) -> Iterator[str]:
        for row in reads.effects(self.db, key, of_launch):
            yield effect_in_words(row, self.desk.now)


def effect_in_words(row: AnyRow, now: datetime) -> str:
    """An outbox row: what is wanted, how it went so far, and when it is tried next."""
    what = f"effect {row.effect} ({EFFECTS.get(row.effect, 'see daemon/effects.py')})"
    error = f"; the last error: {' '.join(row.error.split())}" if row.error else ""
    if row.parked:
        return f"{what} waits for a person since {clock(row.parked)}, after {row.tries} tries{error}"
    tried = f"has failed {row.tries} times, " if row.tries else "is "
    return f"{what} {tried}due {'at ' + when(row.due, now) if row.due > now else 'now'}{error}"


def next_of_campaign(desk: Desk, db: Connection, row: AnyRow, files: Mapping[str, int]) -> list[str]:
    """What comes next for a campaign with `files` by state."""
    pending = next(iter(reads.listed(db, row.id, ["pending"], None, 1)), None)
    if pending is not None:
        stops = list(Prospects(desk, db, desk.chart("file"), reads.Found("", row, pending, None)).campaign_stops())
        return stops or [f"{files['pending']} pending files are launched as they fall due"]
    if moving := files["running"] + files["validated"]:
        return [f"{moving} files are on their way"]
    if waiting := files["held"] + files["crash"]:
        return [f"{waiting} files in held or crash are tried again as they fall due"]
    return ["waits for new input"] if any(files.values()) else ["waits for the first file of its input definition"]


EFFECTS = {
    "submit": "make the definition, start the project, give the jobs to the batch system",
    "close": "end the project, forget the jobs",
    "remove_job": "take its job out of the batch system",
    "declare": "declare the output that its job copied",
    "remove_losers": "remove copies of the output that SAM does not point to",
    "retire_output": "retire the output of the edition before",
    "define": "make the definition of a merge group's files",
    "retire_group": "rename the definition of the group that was dissolved",
}
