"""Any order of answers, silences, lies, crashes and hours: the promises of design §5 and §9 hold all the same."""

import logging

import pytest
from farm import Farm
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from hypothesis.strategies import booleans, data, integers, sampled_from

from keepupd.core.errors import SamUnavailable

NAMES = ["a.raw", "b.raw", "c.raw", "d.raw"]
ENDS = ["succeeds", "leaves undeclared", "dies", "makes_no_events", "finds_no_copy", "is_killed", "is_held", "vanishes"]


class DaemonKilled(BaseException):
    """kill -9, at a commit or at an effect."""


class WhateverHappens(RuleBasedStateMachine):
    @initialize()
    def start(self) -> None:
        logging.disable(logging.CRITICAL)
        self.farm = Farm()
        self.farm.finds(*NAMES[:3])
        self.farm.passes(2)

    # --- what the world does ---------------------------------------------------------------------------------------

    @rule(name=sampled_from(NAMES))
    def a_file_appears(self, name: str) -> None:
        if name not in self.farm.sam.by_name:
            self.farm.finds(name)

    @rule(name=sampled_from(NAMES))
    def a_file_leaves_or_comes_back(self, name: str) -> None:
        if file := self.farm.sam.by_name.get(name):
            file.locations = [] if file.locations else ["demo:/in"]

    @rule(passes=integers(0, 2))
    def jobs_start(self, passes: int) -> None:
        self.farm.passes(passes)
        self._as_a_job(self.farm.starts_jobs)

    @precondition(lambda self: any(job.input for job in self.farm.batch.live_jobs()))
    @rule(data=data(), end=sampled_from(ENDS))
    def a_job_ends(self, data, end: str) -> None:
        job = data.draw(sampled_from([job for job in self.farm.batch.live_jobs() if job.input]))
        self._as_a_job(lambda: job.succeeds(declares=False) if end == "leaves undeclared" else getattr(job, end)())

    @rule(data=data())
    def a_job_dies_between_declaring_and_locating(self, data) -> None:
        running = [job for job in self.farm.batch.live_jobs() if job.input]
        if running:
            job = data.draw(sampled_from(running))
            made = job.copies()
            self._as_a_job(lambda: self.farm.sam.declare(made["metadata"]))
            job.is_killed()

    def _as_a_job(self, act) -> None:
        """Jobs meet the silence of SAM too; they leave without a report then."""
        try:
            act()
        except SamUnavailable:
            for job in self.farm.batch.live_jobs():
                if job.state == "running":
                    job.is_killed()
        except Exception as refused:
            if type(refused).__name__ != "SamRefused":
                raise

    @rule(sam=booleans(), batch=booleans())
    def systems_fall_silent_or_answer(self, sam: bool, batch: bool) -> None:
        self.farm.sam.silent, self.farm.batch.silent = sam, batch

    @rule(calls=integers(1, 4))
    def sam_does_not_answer_the_next_calls(self, calls: int) -> None:
        self.farm.sam.fail_next(calls)

    @rule()
    def sam_loses_its_next_reply(self) -> None:
        self.farm.sam.lose_reply_next()

    # --- what time and people do -------------------------------------------------------------------------------------

    @rule(n=integers(1, 3))
    def passes(self, n: int) -> None:
        self.farm.passes(n)

    @rule(minutes=sampled_from([1, 11, 70, 2000]))
    def time_passes(self, minutes: int) -> None:
        self.farm.later(minutes=minutes)
        self.farm.passes(2)

    @rule(events=sampled_from([["hold"], ["release"], ["retry"], ["hold", "release"]]), name=sampled_from(NAMES))
    def an_operator_acts(self, events: list[str], name: str) -> None:
        for event in events:
            if name in self.farm.states():
                self.farm.operator(event, name)

    @rule(where=sampled_from(["before_commit", "after_commit", "effect"]), after=integers(0, 12))
    def the_daemon_is_killed(self, where: str, after: int) -> None:
        left = [after]

        def count_down(*_args) -> None:
            left[0] -= 1
            if left[0] < 0:
                raise DaemonKilled

        if where == "effect":
            self.farm.keeper.observe_effect = count_down  # done outside, not noted
        else:
            setattr(self.farm.database, where, count_down)
        try:
            self.farm.passes(2)
        except DaemonKilled:
            pass
        self.farm.restarts()

    @rule()
    def the_database_is_lost(self) -> None:
        self.farm.loses_database()

    # --- what must hold ----------------------------------------------------------------------------------------------

    @invariant()
    def one_output_at_most_for_each_file(self) -> None:
        for name in self.farm.sam.by_name.keys() & set(NAMES):
            assert len(self.farm.outputs_of(name)) <= 1

    @invariant()
    def no_step_off_the_chart(self) -> None:
        assert self.farm.steps() <= self.farm.keeper.file_chart.edges()

    @invariant()
    def the_sum_rule_holds(self) -> None:
        assert self.farm.broken_sums() == {}

    @invariant()
    def declared_means_that_sam_shows_it(self) -> None:
        for name, state in self.farm.states().items():
            assert state != "declared" or self.farm.outputs_of(name), name

    @invariant()
    def one_job_at_most_has_a_file_unless_it_was_lost(self) -> None:
        having = [job.input for job in self.farm.batch.live_jobs() if job.input]
        assert len(having) == len(set(having)), having

    def teardown(self) -> None:
        """The world behaves again: everything ends in declared, held or debug, and nothing is left behind."""
        if not hasattr(self, "farm"):
            return
        farm = self.farm
        farm.sam.silent = farm.batch.silent = False
        farm.sam.failures = farm.sam.replies_to_lose = 0
        farm.restarts()
        for file in farm.sam.by_name.values():
            if file.name in NAMES and not file.locations:
                file.locations = ["demo:/in"]
        for _ in range(40):
            farm.passes(3)
            for job in farm.starts_jobs():
                job.succeeds()
            farm.later(hours=5)
            for job in [job for job in farm.batch.live_jobs() if job.input]:
                job.succeeds()
            if not farm.batch.jobs and not farm.moves_by_itself():
                break
        farm.passes(3)
        assert set(farm.states()) == farm.sam.by_name.keys() & set(NAMES)
        assert set(farm.states().values()) <= {"declared", "held", "debug"}, farm.states()
        assert not farm.batch.jobs, "jobs are left behind"
        assert farm.sam.projects("keepup_", open_only=True) == []
        self.one_output_at_most_for_each_file()
        self.the_sum_rule_holds()
        assert farm.campaign_row().difference == 0
        logging.disable(logging.NOTSET)


QUICK = settings(
    max_examples=15, stateful_step_count=30, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck),
    phases=[Phase.explicit, Phase.reuse, Phase.generate],  # shrinking takes minutes: the long test does it
)  # fmt: skip
MANY = settings(
    max_examples=60, stateful_step_count=50, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
)  # the same cases in every run; look for new ones with more examples and derandomize off


@pytest.mark.timeout(600)
class TestWhateverHappens(WhateverHappens.TestCase):
    settings = QUICK


@pytest.mark.long
@pytest.mark.timeout(2400)
class TestWhateverHappensOften(WhateverHappens.TestCase):
    settings = MANY
