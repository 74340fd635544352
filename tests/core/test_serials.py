"""A generator's numbers: the same for ever, and no other unit's."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keepupd.core.serials import (
    LAST_RUN,
    MOST_SUBRUNS,
    last_run,
    run_subrun,
    seed_of,
    serial_of,
    unit_name,
    units_wanted,
)

numbers = st.integers(1, 10**9)
subruns = st.integers(1, MOST_SUBRUNS)


def test_serials_fill_one_run_after_the_other():
    assert [run_subrun(1001, 3, serial) for serial in (1, 3, 4, 7)] == [(1001, 1), (1001, 3), (1002, 1), (1003, 1)]
    assert last_run(1001, 3, 6) == 1002 and last_run(1001, 3, 7) == 1003


@given(st.integers(1, LAST_RUN), subruns, numbers, numbers)
def test_two_units_never_share_run_and_subrun_nor_a_seed(first_run, per_run, one, other):
    ours, theirs = run_subrun(first_run, per_run, one), run_subrun(first_run, per_run, other)
    assert (ours == theirs) == (one == other) == (seed_of(*ours) == seed_of(*theirs))
    assert 1 <= ours[1] <= per_run and first_run <= ours[0] <= last_run(first_run, per_run, max(one, other))


@given(st.integers(1, LAST_RUN), st.integers(1, MOST_SUBRUNS))
def test_a_seed_fits_and_tells_run_and_subrun(run, subrun):
    assert 0 < seed_of(run, subrun) < 2**63 and divmod(seed_of(run, subrun), 2**20) == (run, subrun)


@given(numbers)
def test_a_name_tells_its_serial(serial):
    assert serial_of(unit_name(serial)) == serial


@pytest.mark.parametrize("name", ["", "1", "00000000", "0000001x", "٠٠٠٠٠٠٠١", "-0000001", "000000001", "a.root"])
def test_a_name_that_is_no_units(name):
    with pytest.raises(ValueError, match="is no generator's unit"):
        serial_of(name)


def test_there_is_no_serial_0():
    with pytest.raises(ValueError, match="count from 1"):
        run_subrun(1, 10, 0)


def test_a_target_of_events_is_rounded_up_to_whole_units():
    assert [units_wanted(None, events, 100) for events in (1, 100, 101)] == [1, 1, 2]
    assert units_wanted(7, None, 100) == 7
