"""Merge groups: every file in exactly one, the limits kept, whatever the order of arrival or the restarts."""

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis.strategies import integers, lists, none, permutations

from keepupd.core.plan import GroupRules, Waiting, close_groups, group_name

NOW = datetime(2026, 1, 5, 2, 0, tzinfo=UTC)


def files(sizes, seen=NOW):
    return [Waiting(n, f"f{n}", size, size * 2, seen + timedelta(seconds=n)) for n, size in enumerate(sizes)]


def test_a_group_is_closed_at_its_file_count_and_the_rest_waits():
    groups = close_groups(files([1] * 7), GroupRules(max_files=3), NOW)
    assert [[m.name for m in group.members] for group in groups] == [["f0", "f1", "f2"], ["f3", "f4", "f5"]]
    assert groups[0].rule == "file count, 3 files"


def test_a_file_that_would_be_too_much_starts_the_next_group():
    groups = close_groups(files([60, 50, 40, 10]), GroupRules(max_bytes=100), NOW)
    assert [[m.size for m in group.members] for group in groups] == [[60], [50, 40, 10]]


def test_a_file_larger_than_the_limit_is_a_group_of_its_own():
    assert [len(g.members) for g in close_groups(files([500, 10]), GroupRules(max_bytes=100), NOW)] == [1]


def test_the_oldest_has_waited_long_enough():
    old = files([1, 1], NOW - timedelta(hours=3))
    [group] = close_groups(old, GroupRules(max_files=10, max_age=timedelta(hours=2)), NOW)
    assert group.rule == "age of the oldest, 7200 s"
    assert close_groups(old, GroupRules(max_files=10, max_age=timedelta(hours=4)), NOW) == []


def test_upstream_complete_closes_what_is_left_and_says_so():
    groups = close_groups(files([1] * 4), GroupRules(max_files=3), NOW, closing="upstream complete")
    assert [group.rule for group in groups] == ["file count, 3 files", "upstream complete"]


def test_a_group_is_named_by_its_members_in_any_order():
    assert group_name(["b", "a"]) == group_name(["a", "b"]) != group_name(["a"])


@given(
    sizes=lists(integers(1, 100), max_size=40), max_files=none() | integers(1, 7), max_bytes=none() | integers(1, 300),
    max_events=none() | integers(1, 500),
)  # fmt: skip
def test_every_file_is_in_one_group_at_most_and_the_limits_are_kept(sizes, max_files, max_bytes, max_events):
    rules = GroupRules(max_files, max_bytes, max_events)
    groups = close_groups(files(sizes), rules, NOW)
    ids = [m.file_id for group in groups for m in group.members]
    assert len(ids) == len(set(ids))
    assert sorted(ids) == list(range(len(ids))), "in the order they were seen, without gaps"
    for group in groups:
        assert len(group.members) <= (max_files or 1000)
        size, events = sum(m.size for m in group.members), sum(m.events for m in group.members)
        for limit, total in ((max_bytes, size), (max_events, events)):
            assert limit is None or total <= limit or len(group.members) == 1
    assert len([f for g in close_groups(files(sizes), rules, NOW, "flush") for f in g.members]) == len(sizes)


@given(arrived=permutations(range(12)), stops=lists(integers(0, 12), max_size=4))
def test_restarts_in_the_midst_of_arrival_leave_no_file_out_and_none_twice(arrived, stops):
    """Between two plans files arrive in any order; what was closed stays closed."""
    all_files, taken, groups = files([10] * 12), set(), []
    for stop in [*sorted(stops), 12]:
        here = [all_files[n] for n in arrived[:stop] if n not in taken]
        for group in close_groups(here, GroupRules(max_files=3), NOW, "flush" if stop == 12 else ""):
            groups.append(group)
            taken |= {m.file_id for m in group.members}
    assert taken == set(range(12))
    assert sum(len(group.members) for group in groups) == 12
