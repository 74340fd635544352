"""Whether an output will match an input query: yes, no, or not known before there is a file."""

import pytest

from keepupd.queries import definitions_in, matches

KNOWN = {"data_tier": "simulated", "dune.sample": "1A", "dune.campaign": "x_gen", "file_format": "root"}
MINE, OTHERS = {"x_gen_output"}, {"y_gen_output"}


@pytest.mark.parametrize(
    ("query", "value", "likely"),
    [
        ("data_tier simulated", True, True),
        ("DATA_TIER 'simulated' AND dune.SAMPLE 1A", True, True),
        ("DUNE.sample 1A, 1B", True, True),
        ("DUNE.sample in ('1B', '1A')", True, True),
        ("DUNE.sample not in (1B,1A)", False, False),
        ("DUNE.sample != 2", True, True),
        ("DUNE.campaign like x_% and data_tier simulated", True, True),
        ("DUNE.campaign 'y%'", False, False),
        ("data_tier raw", False, False),
        ("data_tier raw and run_number 5", False, False),
        ("run_number 5", None, False),
        ("run_number 5 and data_tier simulated", None, True),
        ("run_number 5 or data_tier simulated", True, True),
        ("not data_tier raw and data_tier simulated", True, True),
        ("data_tier simulated minus DUNE.sample 1A", False, False),
        ("data_tier simulated minus isparentof:(DUNE.campaign z and data_tier simulated)", None, True),
        ("data_tier raw union data_tier simulated", True, True),
        ("data_tier simulated with limit 5", True, True),
        ("(data_tier raw or DUNE.sample 1A) and availability: anylocation", None, True),
        ("defname: x_gen_output", True, True),
        ("defname:'x_gen_output' or defname:y_gen_output", True, True),
        ("defname: y_gen_output", False, False),
        ("defname: of_others", None, False),
        ("defname: of_others and data_tier raw", False, False),
        ("create_date > 2026-01-01", None, False),
        ("data_tier simulated and (", None, False),  # SAM refuses it, with reasons
        ("", None, False),
    ],
)
def test_what_is_known_of_a_match(query, value, likely):
    found = matches(query, KNOWN, MINE, OTHERS)
    assert (found.value, found.likely) == (value if value is True or value is False else None, likely)


def test_definitions_in_a_query():
    assert definitions_in("defname: a_b or (DEFNAME:'c.d' minus defname: \"e\")") == ["a_b", "c.d", "e"]
