"""The numbers of a generator's units: run, subrun and seed as pure functions of a unit's serial, which counts from 1.

A retry, a restart and a lost database give a unit the same numbers, and no other unit of any campaign ever has them:
serials are used up in order, and the run ranges of two campaigns may not overlap (a check of the campaign files).
"""

MOST_SUBRUNS = 2**20 - 1  # of a run: the room that a seed has for the subrun
LAST_RUN = 2**31 - 1  # the catalog's run numbers are 32-bit integers


def unit_name(serial: int) -> str:
    """1 -> "00000001"; the unit's name, and the stem of its outputs' names."""
    return f"{serial:08d}"


def serial_of(name: str) -> int:
    """The serial of a unit's name. Raises ValueError when it is none."""
    if not (name.isascii() and name.isdecimal() and unit_name(int(name)) == name and int(name) > 0):
        raise ValueError(f"{name!r} is no generator's unit; its units are named like {unit_name(1)}")
    return int(name)


def run_subrun(first_run: int, subruns_per_run: int, serial: int) -> tuple[int, int]:
    """Run and subrun of a serial: serial 1 is subrun 1 of the first run. Raises ValueError for a serial below 1."""
    if serial < 1:
        raise ValueError(f"serials count from 1, not {serial}")
    runs, subruns = divmod(serial - 1, subruns_per_run)
    return first_run + runs, subruns + 1


def seed_of(run: int, subrun: int) -> int:
    """A seed of at most 51 bits, unique as (run, subrun) is."""
    return run * 2**20 + subrun


def units_wanted(target_units: int | None, target_events: int | None, events_per_unit: int) -> int:
    """How many units reach the target. Every unit makes the same number of events, so events are rounded up."""
    if target_units is not None:
        return target_units
    return -(-(target_events or 0) // events_per_unit)


def last_run(first_run: int, subruns_per_run: int, units: int) -> int:
    """The last run that `units` (1 or more) use; theirs are [first_run, last_run]."""
    return run_subrun(first_run, subruns_per_run, units)[0]
