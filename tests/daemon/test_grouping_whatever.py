"""Any order of arrivals, leavings, restarts, lost databases, flushes, ends of jobs: each file in one merged file."""

import json
import logging
from collections import Counter

import pytest
from farm import Farm
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from hypothesis.strategies import booleans, data, integers, permutations, sampled_from
from sqlalchemy import select
from test_four_types import MERGE

from keepupd.daemon.recall import GROUP
from keepupd.store.tables import files, units

NAMES = {f"{letter}{sample}.root": sample for sample in "12" for letter in "abcdefg"}
MOST = 3  # files of a group


class Grouping(RuleBasedStateMachine):
    @initialize(order=permutations(sorted(NAMES)))
    def start(self, order: list[str]) -> None:
        logging.disable(logging.CRITICAL)
        rules = {"by": ["DUNE.sample"], "max_files": MOST, "max_age_s": 86400}
        self.farm = Farm(flow=[MERGE | {"merge": rules, "canary": {"groups": 0}, "retry": {"attempts": 99}}])
        self.farm.sam.register_parameter("DUNE.sample")
        self.farm.sam.create_definition("merge_input", "data_tier simulated")
        self.order = order
        self.farm.passes(2)

    @rule(n=integers(1, 4))
    def files_arrive(self, n: int) -> None:
        for name in self.order[:n]:
            self.farm.sam.put(name, data_tier="simulated", event_count=10, **{"DUNE.sample": NAMES[name]})
        self.order = self.order[n:]

    @rule(name=sampled_from(sorted(NAMES)))
    def a_file_leaves_or_comes_back(self, name: str) -> None:
        if file := self.farm.sam.by_name.get(name):
            file.locations = [] if file.locations else ["demo:/in"]

    @rule(n=integers(1, 3))
    def the_daemon_works(self, n: int) -> None:
        self.farm.passes(n)

    @rule(answers=booleans())
    def sam_falls_silent_or_answers(self, answers: bool) -> None:
        self.farm.sam.silent = not answers

    @rule(lost=booleans())
    def the_daemon_restarts(self, lost: bool) -> None:
        self.farm.loses_database() if lost else self.farm.restarts()

    @rule(lost=booleans())
    def an_operator_flushes(self, lost: bool) -> None:
        """Groups that no later plan would make again."""
        self.farm.operator("flush")
        self.farm.passes(1)
        if lost:
            self.files_arrive(2)
            self.farm.loses_database()

    @rule(hours=integers(1, 30))
    def time_passes(self, hours: int) -> None:
        self.farm.later(hours=hours)

    @precondition(lambda self: self.farm.batch.live_jobs() and not self.farm.sam.silent)
    @rule(data=data(), well=booleans())
    def a_job_ends(self, data, well: bool) -> None:
        self.farm.starts_jobs()
        if running := [job for job in self.farm.batch.live_jobs() if job.inputs]:
            job = data.draw(sampled_from(running))
            job.succeeds() if well else job.dies()

    # --- what must hold -----------------------------------------------------------------------------------------------

    @invariant()
    def no_file_is_in_two_merged_files(self) -> None:
        parents = Counter(self.parents())
        assert not parents or max(parents.values()) == 1, parents

    @invariant()
    def no_file_is_in_two_groups(self) -> None:
        """As SAM has them, which outlives every database."""
        sam, prefix = self.farm.sam, "keepup_merge_"
        groups = [sam.defined[name].dims for name in sam.defined if GROUP.fullmatch(name.removeprefix(prefix))]
        ids = Counter(number for dims in groups for number in dims.removeprefix("file_id ").split(", "))
        assert not ids or max(ids.values()) == 1, groups

    @invariant()
    def the_rules_are_kept(self) -> None:
        with self.farm.database.read() as db:
            rows = db.execute(select(files, units.c.origin).join(units, units.c.id == files.c.unit_id)).all()
        sizes, keys = Counter(row.unit_id for row in rows), {(row.unit_id, row.group_key) for row in rows}
        assert not sizes or max(sizes.values()) <= MOST
        assert len(keys) == len(sizes), "files of different samples never meet"
        assert all(row.origin and json.loads(row.group_key)["DUNE.sample"] == NAMES[row.name] for row in rows)
        assert self.farm.broken_sums() == {}

    def how_it_stands(self):
        with self.farm.database.read() as db:
            rows = db.execute(select(files.c.name, files.c.gone, units.c.name, units.c.state, units.c.due, units.c.why)
                              .join(units, units.c.id == files.c.unit_id, isouter=True)).all()  # fmt: skip
        return [tuple(map(str, row)) for row in rows if row.state != "declared"]

    def parents(self) -> list[str]:
        merged = [file for name, file in self.farm.sam.by_name.items() if "_merge" in name and file.locations]
        return [one["file_name"] for file in merged for one in file.metadata["parents"]]

    def teardown(self) -> None:
        """When all is well again and all files are back, every file that ever came is in one merged file."""
        farm = self.farm
        farm.sam.silent = False
        self.files_arrive(len(self.order))
        for name in NAMES:
            farm.sam.by_name[name].locations = ["demo:/in"]
        for _ in range(12):
            farm.passes(2)
            farm.operator("flush")
            farm.later(hours=13)
            farm.passes(2)
            farm.starts_jobs()
            for job in [job for job in farm.batch.live_jobs() if job.inputs]:
                job.succeeds()
            farm.passes(1)
            if set(farm.states().values()) == {"declared"} and len(self.parents()) == len(NAMES):
                break
        farm.passes(1)
        assert sorted(self.parents()) == sorted(NAMES), self.how_it_stands()
        assert set(farm.states().values()) == {"declared"}
        self.the_rules_are_kept()
        logging.disable(logging.NOTSET)


@pytest.mark.timeout(600)
class TestGroupingWhatever(Grouping.TestCase):
    settings = settings(
        max_examples=4, stateful_step_count=20, deadline=None, derandomize=True,
        suppress_health_check=list(HealthCheck), phases=[Phase.explicit, Phase.reuse, Phase.generate],
    )  # fmt: skip


@pytest.mark.long
@pytest.mark.timeout(900)
class TestGroupingWhateverOften(Grouping.TestCase):
    settings = settings(
        max_examples=40, stateful_step_count=40, deadline=None, derandomize=True,
        suppress_health_check=list(HealthCheck), phases=[Phase.explicit, Phase.reuse, Phase.generate],
    )  # fmt: skip
