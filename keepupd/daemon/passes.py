"""One pass: look at the world, decide, record. Level-triggered: missed, doubled or broken off, the next pass mends it.

When keepupd does something you do not understand, read one_pass() from top to bottom: it is all that it ever does.
"""

from datetime import datetime, timedelta

from keepupd.core.consequences import guards_at_time_up
from keepupd.core.decide import Observation, decide
from keepupd.core.model import Move, Unit
from keepupd.daemon import (
    completion,
    hosts,
    inputs,
    jobs,
    judge,
    launching,
    life,
    operator,
    outputs,
    problems,
    protect,
    recall,
    totalling,
)
from keepupd.daemon.keeper import Keeper, limits_of
from keepupd.daemon.outputs import look_for_outputs, rival_guard
from keepupd.store import reads, store

DUE = 500  # units looked at again in one transaction
STALE = timedelta(minutes=5)  # a source that last answered longer ago than this, or failed last, is not relied on


class Passes:
    """The parts of a pass, each with a rhythm of its own. `k` holds all they need."""

    def __init__(self, k: Keeper):
        self.k = k
        self.watch = jobs.JobWatch()
        self.hosts = hosts.HostWatch()
        self.totals = totalling.Totals()
        self.recalled = False

    def one_pass(self, now: datetime) -> None:
        """Everything once, in the order that lets news travel furthest."""
        self.operator(now)
        self.inputs(now)
        self.batch(now)
        self.outputs(now)

    def operator(self, now: datetime) -> None:
        with self.k.contained("operator", now):
            operator.poll_requests(self.k, now)
        self.k.write_notes()

    def inputs(self, now: datetime) -> None:
        """Ask SAM what there is to do. For a campaign new to us, ask SAM and batch first what is under way already."""
        life.make_definitions(self.k, now)
        with self.k.contained("recall", now):
            recall.recall(self.k, now)
            self.recalled = True
        if self.recalled:
            inputs.poll_inputs(self.k, now)
        self.k.write_notes()

    def batch(self, now: datetime) -> None:
        """Ask the batch system where the jobs stand; judge those that ended; launch what is due."""
        if not self.recalled:
            return
        with self.k.contained("batch", now):
            self.watch.poll(self.k, now)
            judge.judge_jobs(self.k, now)
            launching.end_launches(self.k, now)
        with self.k.contained("hosts", now):  # before "due": what is given back is not used up
            self.hosts.look(self.k, now)
        with self.k.contained("due", now):
            look_again(self.k, now)
        with self.k.contained("guards", now):
            protect.watch(self.k, now)
        self.k.write_notes()
        if self._world_answers(now):
            launching.plan_launches(self.k, now)
            self.k.write_notes()

    def _world_answers(self, now: datetime) -> bool:
        """Launches pause by themselves while the batch system is silent; a silent SAM stops its campaign's own."""
        with self.k.database.read() as db:
            return reads.poll_is_good(db, "batch", now - STALE)

    def outputs(self, now: datetime) -> None:
        """Look for outputs in SAM; then say how the campaigns stand, and keep their running totals."""
        if not self.recalled:
            return
        outputs.poll_outputs(self.k, now)
        with self.k.contained("campaigns", now):
            life.live_on(self.k, now)
            completion.note_completion(self.k, now)
        self.totals.poll(self.k, now)
        problems.keep_problem_definitions(self.k, now)
        self.k.write_notes()


def look_again(k: Keeper, now: datetime) -> None:
    """Units in held or crash whose time has come: try again, or give up; unless SAM shows their output by now."""
    for campaign_id, campaign in k.campaigns.items():
        with k.database.read() as db:
            due = reads.due_units(db, campaign_id, ["held", "crash"], now, DUE)
            left = reads.left(db, [unit.id for unit in due])
        if not due:
            continue
        found = look_for_outputs(k, campaign, due)
        seen = {unit.id: Observation(now, found[unit.id].state) for unit in due}
        again = {unit.id: None if unit.id in left else now for unit in due}  # what left is not launched
        moves = [
            _again(k, campaign_id, unit, event, again[unit.id])
            for unit in due
            if (event := decide(seen[unit.id], unit))
        ]
        with k.database.write("time up") as db:
            dests = store.apply(db, k.file_chart, moves, now)
        k.log_moves(campaign.name, moves, dests)


def _again(k: Keeper, campaign_id: int, unit: Unit, event: str, due: datetime | None) -> Move:
    if event == "output_seen":
        return Move(unit, event, "SAM shows the output", guards=rival_guard(True))
    limits = limits_of(k.campaigns[campaign_id])
    guards = guards_at_time_up(k.causes, unit, limits, k.own_rules[campaign_id])
    used_up = "used_up" in guards
    why = f"no attempt is left after {unit.tries} tries and {unit.losses} losses" if used_up else "its wait is over"
    return Move(
        unit, event, f"{why}; it was: {unit.why}", cause=unit.cause, due=None if used_up else due, guards=guards
    )
