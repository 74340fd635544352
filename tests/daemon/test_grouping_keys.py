"""What a merge groups by: SAM's names count in capitals or not, and a file without a key is told, not swallowed."""

import logging

from farm import Farm
from sqlalchemy import select
from test_four_types import MERGE

from keepupd.daemon.check import Findings
from keepupd.daemon.check_campaign import check_campaign
from keepupd.store.tables import files


def make(folder, *by):
    farm = Farm(folder, flow=[MERGE | {"merge": {"by": list(by), "max_files": 3}}])
    farm.sam.register_parameter("DUNE.sample")
    farm.sam.create_definition("merge_input", "data_tier simulated")
    for sample in "12":
        farm.sam.put(f"s{sample}.root", data_tier="simulated", **{"DUNE.sample": sample})
    return farm


def keys(farm):
    with farm.database.read() as db:
        return {row.name: row.group_key for row in db.execute(select(files))}


def checked(farm):
    found = Findings()
    check_campaign(found, farm.keeper, farm.flow[0], False, farm.now)
    return [check["words"] for check in found.checks if check.get("warning")]


def test_a_key_in_small_letters_is_the_same_key(tmp_path, caplog):
    farm = make(tmp_path, "dune.Sample")
    farm.passes(2)
    assert keys(farm) == {"s1.root": '{"dune.Sample": "1"}', "s2.root": '{"dune.Sample": "2"}'}
    assert checked(farm) == [] and "lack a grouping key" not in caplog.text


def test_a_key_that_files_lack_is_told_once_in_the_log_and_by_check(tmp_path, caplog):
    farm = make(tmp_path, "DUNE.sample", "DUNE.config")
    [told] = checked(farm)
    assert "2 of the 2 input files looked at have no DUNE.config, such as s1.root" in told
    farm.sam.register_parameter("DUNE.config")
    with caplog.at_level(logging.WARNING):
        farm.passes(4)
    [line] = [line for line in caplog.messages if "lack a grouping key" in line]
    assert "key=DUNE.config files=2 example=s1.root" in line
