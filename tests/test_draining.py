"""Input queries that take out what is done: recognised, and what is left without that."""

import pytest
from farm import CAMPAIGN

from keepupd.config import Campaign
from keepupd.draining import drain_of

DEFINED = {
    "d1": "data_tier raw",
    "d2": "defname: d1 minus isparentof: (data_tier full-reconstructed)",
    "d1_active": "snapshot_for_project_name u1_%",
    "self": "defname: self minus defname: self",
}


def base_of(query):
    drain = drain_of(query, Campaign.model_validate(CAMPAIGN), "DUNE.campaign", lambda name: DEFINED.get(name, ""))
    return drain and drain.base


@pytest.mark.parametrize(
    ("query", "base"),
    [
        ("data_tier raw minus isparentof:( data_tier full-reconstructed with availability physical )", "data_tier raw"),
        ("data_tier raw minus isparentof: (isparentof: (version v1))", "data_tier raw"),
        ("data_tier raw and not isparentof: (defname: farm_reco_output) and run_number 5",
         "data_tier raw and run_number 5"),
        ("not isparentof: (version v1) and data_tier raw", "data_tier raw"),
        ("defname: d1 minus (project_name u1_% and consumed_status consumed) with limit 100", "defname: d1"),
        ("defname: d1 minus snapshot_for_project_name u1_d1_%", "defname: d1"),
        ("(defname: d1 minus isparentof: (version v1)) minus defname: d1_active minus defname: d1_wait",
         "(defname: d1 ) minus defname: d1_wait"),
        ("defname: d2 and file_type mc", "(defname: d1) and file_type mc"),
        ("data_tier raw or (data_stream x minus isparentof: (create_date > '2024-01-01'))",
         "data_tier raw or (data_stream x )"),
    ],
)  # fmt: skip
def test_a_query_that_drains_itself_has_a_base(query, base):
    assert base_of(query) == base


@pytest.mark.parametrize(
    "query",
    [
        "data_tier raw",
        "data_tier raw minus file_name 'a', 'b'",
        "data_tier raw minus isparentof: (data_tier digits)",  # children that this campaign does not make
        "isparentof: (version v1)",  # only what is done
        "data_tier raw minus ischildof: (version v1)",
        "defname: d1 with limit 10 offset 20",
        "defname: d1 minus snapshot_id 4711",
        "defname: unknown minus defname: unknown",
        "defname: self",
        "data_teir minus minus",
        "",
    ],
)
def test_others_do_not_drain(query):
    assert base_of(query) is None
