"""Every failure gets a cause in words; every rule of the table can be reached; a bad table is refused by line."""

from dataclasses import replace
from datetime import timedelta

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from keepupd.core.causes import Causes, load_causes, parse_rules, policy_for, raised_needs
from keepupd.core.causes_table import CLASSES, MATCH_KEYS
from keepupd.core.chart import charts_dir
from keepupd.core.errors import CausesError
from keepupd.core.model import Failure

TABLE = charts_dir() / "causes.yaml"
EVENTS = frozenset(row["trigger"] for row in yaml.safe_load((charts_dir() / "file.yaml").read_text())["transitions"])
CAUSES = load_causes(TABLE, EVENTS)


def judged(**facts):
    return CAUSES.judge(Failure(**facts))


# --- which cause --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("facts", "name", "klass", "event"),
    [
        ({"step": "job", "hold_code": 1, "message": "via condor_hold"}, "held_by_hand", "operator", "job_stopped"),
        ({"step": "job", "hold_code": 34, "peak_mib": 900}, "memory_over_request", "resource", "job_stopped"),
        (
            {"step": "job", "hold_code": 34, "message": "Disk usage exceeded"},
            "disk_over_request",
            "resource",
            "job_stopped",
        ),
        ({"step": "job", "hold_code": 47}, "wall_time_over_request", "resource", "job_stopped"),
        (
            {"step": "job", "hold_code": 26, "message": "memory usage exceeded"},
            "memory_over_site_limit",
            "resource",
            None,
        ),
        (
            {"step": "job", "hold_code": 26, "message": "expected lifetime over"},
            "time_over_site_limit",
            "resource",
            None,
        ),
        ({"step": "job", "hold_code": 26}, "held_by_site_policy", "node", "job_stopped"),
        ({"step": "job", "hold_code": 13}, "sandbox_not_moved", "node", "job_stopped"),
        ({"step": "job", "hold_code": 35}, "container_failed", "node", "job_stopped"),
        ({"step": "job", "hold_code": 4711}, "held_by_batch", "node", "job_stopped"),
        ({"step": "job", "fault": "lost"}, "job_lost", "node", "job_stopped"),
        ({"step": "job", "fault": "no_location"}, "no_location", "input", "no_location"),
        ({"step": "job", "signal": 9}, "job_killed", "node", "job_stopped"),
        ({"step": "job", "exit_code": 0}, "report_missing", "node", "job_stopped"),
        ({"step": "job", "exit_code": 14}, "report_missing", "node", "job_stopped"),
        ({"step": "job", "exit_code": 18}, "job_told_to_end", "node", "job_stopped"),
        ({"step": "job"}, "job_without_report", "node", "job_stopped"),
        ({"step": "execute", "fault": "ended_by_signal"}, "told_to_end", "node", "job_stopped"),
        ({"step": "order", "fault": "bad_order", "exit_code": 2}, "bad_order_refused", "crash", "executable_died"),
        ({"step": "fetch", "fault": "sam_unavailable", "exit_code": 12}, "sam_unavailable", "outage", "job_stopped"),
        ({"step": "fetch", "fault": "absent", "exit_code": 12}, "input_copy_absent", "input", "job_stopped"),
        ({"step": "fetch", "fault": "incomplete", "exit_code": 12}, "group_incomplete", "input", "job_stopped"),
        ({"step": "fetch", "fault": "no_space"}, "node_disk_full", "node", "job_stopped"),
        ({"step": "execute", "fault": "signal", "signal": 11}, "segmentation_fault", "crash", "executable_died"),
        ({"step": "execute", "fault": "signal", "signal": 9}, "killed", "resource", "job_stopped"),
        ({"step": "execute", "fault": "signal", "signal": 8}, "executable_signal", "crash", "executable_died"),
        ({"step": "execute", "fault": "exited", "exit_code": 127}, "software_missing", "node", "job_stopped"),
        ({"step": "execute", "fault": "exited", "exit_code": 12}, "executable_failed", "crash", "executable_died"),
        ({"step": "execute", "fault": "hangs", "signal": 9}, "executable_hangs", "crash", "executable_died"),
        ({"step": "execute", "exit_code": 1, "tail": ("a", "MemoryError", "b")}, "memory_exhausted", "resource", None),
        (
            {"step": "execute", "exit_code": 1, "tail": ("write: No space left on device",)},
            "disk_full_in_log",
            "node",
            None,
        ),
        ({"step": "validate", "fault": "truncated_root"}, "output_truncated", "invalid", "output_invalid"),
        ({"step": "validate", "fault": "events_differ"}, "events_differ", "invalid", "output_invalid"),
        ({"step": "validate", "fault": "conflict"}, "inputs_conflict", "invalid", "output_invalid"),
        ({"step": "validate", "fault": "check_missing"}, "check_missing", "node", "job_stopped"),
        ({"step": "validate", "fault": "a new one"}, "output_invalid", "invalid", "output_invalid"),
        ({"step": "copy", "fault": "no_space"}, "output_storage_full", "outage", "job_stopped"),
        ({"step": "declare", "fault": "record_differs"}, "record_differs", "operator", "job_stopped"),
        (
            {"step": "declare", "fault": "sam_refused", "message": "400: no such tier"},
            "metadata_refused",
            "invalid",
            None,
        ),
        (
            {"step": "declare", "fault": "sam_refused", "message": "403 Forbidden"},
            "sam_denied",
            "outage",
            "job_stopped",
        ),
        ({}, "not_in_table", "crash", "executable_died"),
    ],
)
def test_what_a_failure_means(facts, name, klass, event):
    cause = judged(**facts)
    assert (cause.name, cause.klass) == (name, klass)
    assert event is None or cause.event == event


WORKERS_FAULTS = {
    "order": ["bad_order"],
    "establish": ["sam_unavailable", "sam_refused", "not_staged"],
    "fetch": [
        *("absent", "incomplete", "differs", "unreachable", "not_staged", "no_space", "sam_unavailable", "sam_refused"),
    ],
    "execute": ["exited", "signal", "missing", "hangs", "cannot_start", "no_space"],
    "validate": [
        *("no_output", "empty", "not_root", "truncated_root", "too_few_events", "check_failed", "bad_metadata"),
        *("events_differ", "conflict", "check_missing"),
    ],
    "copy": ["unreachable", "no_space", "differs", "refused"],
    "declare": ["sam_unavailable", "sam_refused", "record_differs", "parents_missing"],
}


@pytest.mark.parametrize(("step", "fault"), [(step, fault) for step, all_ in WORKERS_FAULTS.items() for fault in all_])
def test_no_fault_that_the_worker_reports_is_left_to_the_last_rule(step, fault):
    facts = {"exited": {"exit_code": 3}, "signal": {"signal": 7}}.get(fault, {})
    assert judged(step=step, fault=fault, **facts).name != "not_in_table"


def example(data, rule) -> Failure:
    """A failure made of nothing but what `rule` asks for."""
    facts = {}
    for key, wanted in rule.conditions.items():
        if key in ("step", "fault"):
            facts[key] = wanted[-1]
        elif key == "message":
            facts[key] = data.draw(st.from_regex(wanted, fullmatch=True))
        elif key == "log":
            facts["tail"] = ("before", data.draw(st.from_regex(wanted, fullmatch=True)), "after")
        else:
            low, high = wanted[-1]
            facts[key] = data.draw(st.integers(low, high)) if len(wanted) > 1 else high
    return Failure(**facts)


@pytest.mark.parametrize("rule", CAUSES.rules, ids=lambda rule: rule.name)
@settings(max_examples=5)
@given(data=st.data())
def test_no_rule_is_shadowed_by_those_before_it(rule, data):
    assert CAUSES.judge(example(data, rule)).name == rule.name


WORDS = st.text(max_size=40) | st.sampled_from(["{message}", "{0.__class__}", "a\nb\x1b[31m", "disk", "\ud800", "   "])
FAILURES = st.builds(
    Failure,
    step=st.sampled_from(["", "job", *WORKERS_FAULTS]) | WORDS,
    fault=st.sampled_from(sorted({f for faults in WORKERS_FAULTS.values() for f in faults} | {"lost", "worker_error"}))
    | WORDS,
    exit_code=st.none() | st.integers(-300, 70000),
    signal=st.none() | st.integers(-3, 200),
    hold_code=st.none() | st.integers(-5, 2_000_000),
    message=WORDS,
    tail=st.lists(WORDS, max_size=3),
    host=WORDS,
    peak_mib=st.none() | st.integers(0, 10**9),
)


@given(
    failure=FAILURES,
    tries=st.integers(0, 10**6),
    losses=st.integers(0, 10**6),
    repeats=st.none() | st.integers(0, 10**6),
)
def test_whatever_happened_there_are_words_for_it_and_a_policy(failure, tries, losses, repeats):
    cause = CAUSES.judge(failure)
    assert cause.words.strip() and cause.words.isprintable() and len(cause.words) <= 1000
    assert "unknown error" not in cause.words and cause.event in EVENTS and cause.klass in CLASSES
    after = policy_for(cause, tries, losses, 3, repeats=repeats)
    assert (after.tries - tries) + (after.losses - losses) <= 1 and after.tries >= tries and after.losses >= losses
    assert after.wait is None or timedelta(0) <= after.wait <= timedelta(seconds=86400)
    assert after.wait is not None or cause.klass in ("operator", "invalid")


def test_the_words_say_what_is_known_with_values():
    words = judged(step="execute", fault="signal", signal=11, message="died after 3 s", host="node7").words
    assert words == "segmentation fault: died after 3 s"
    assert "11 (SIGSEGV)" in judged(step="job", signal=11, host="node7").words
    assert "900 MiB" in judged(step="job", hold_code=34, peak_mib=900).words
    rest = judged(step="dance", exit_code=42, host="node7").words
    assert "step dance" in rest and "exit code 42" in rest and "host node7" in rest


def test_a_report_without_a_message_still_gives_a_reason():
    assert judged(step="copy", fault="differs", exit_code=15, host="node7").words.endswith(
        "node7: step copy, fault differs, exit code 15, host node7"
    )


def test_an_outage_that_nobody_confirms_waits_like_an_input():
    outage = judged(step="fetch", fault="unreachable")
    alone = CAUSES.counted_as(outage, "input")
    assert (alone.name, alone.words, alone.klass) == (outage.name, outage.words, "input")
    assert policy_for(outage, 0, 0, 3).wait == timedelta(minutes=1) and policy_for(alone, 0, 0, 3).wait == timedelta(
        hours=1
    )


# --- what follows -------------------------------------------------------------------------------------------------

CRASH = judged(step="execute", signal=11)
LOST = judged(step="job", fault="lost")
OUTAGE = judged(step="establish", fault="sam_unavailable")
HELD = judged(step="job", hold_code=1)


def test_a_crash_waits_ten_minutes_and_uses_up_a_try():
    after = policy_for(CRASH, 0, 0, attempts_limit=3)
    assert (after.wait, after.tries, after.losses, after.used_up) == (timedelta(minutes=10), 1, 0, False)


def test_the_last_try_leaves_nothing_to_wait_for():
    after = policy_for(CRASH, 2, 0, attempts_limit=3)
    assert (after.wait, after.tries, after.used_up) == (timedelta(0), 3, True)


def test_lost_jobs_have_a_limit_of_their_own():
    assert not policy_for(LOST, 2, 8, attempts_limit=3).used_up
    after = policy_for(LOST, 2, 9, attempts_limit=3)
    assert (after.tries, after.losses, after.used_up) == (2, 10, True)


def test_an_outage_uses_up_nothing_and_waits_longer_each_time_up_to_an_hour():
    waits = [policy_for(OUTAGE, 1, 1, attempts_limit=2, repeats=n) for n in (0, 1, 2, 6, 60, 10_000)]
    assert [w.wait.total_seconds() for w in waits] == [60, 120, 240, 3600, 3600, 3600]
    assert {(w.tries, w.losses, w.used_up) for w in waits} == {(1, 1, False)}


def test_a_job_held_by_hand_has_no_due_time():
    assert (
        policy_for(HELD, 0, 0, 3) == policy_for(HELD, 0, 0, 3, retry_wait_s=5)
        and policy_for(HELD, 0, 0, 3).wait is None
    )


def test_the_campaign_s_wait_is_for_causes_that_use_up_tries():
    assert policy_for(CRASH, 0, 0, 3, retry_wait_s=5).wait == timedelta(seconds=5)
    assert policy_for(CRASH, 0, 0, 3, retry_wait_s=0).wait == timedelta(0)
    assert policy_for(OUTAGE, 0, 0, 3, retry_wait_s=5).wait == timedelta(seconds=60)
    assert policy_for(CRASH, 0, 0, 3, retry_wait_s=999_999).wait == timedelta(seconds=999_999)


def test_a_rule_s_own_limit_goes_before_the_campaign_s():
    missing = judged(step="execute", fault="missing")
    assert (
        not policy_for(missing, 0, 1, attempts_limit=9).used_up and policy_for(missing, 0, 2, attempts_limit=9).used_up
    )
    assert CAUSES.used_up(missing.name, 0, 3, 9, 10) and not CAUSES.used_up(LOST.name, 0, 3, 9, 10)
    assert CAUSES.used_up(CRASH.name, 3, 0, 3, 10) and not CAUSES.used_up("a_cause_of_an_older_table", 2, 9, 3, 10)


def test_used_up_says_at_time_up_what_was_said_at_the_failure():
    for cause in (CRASH, LOST, judged(step="execute", fault="missing")):
        for tries, losses in ((0, 0), (2, 0), (0, 2), (0, 9)):
            after = policy_for(cause, tries, losses, 3)
            assert CAUSES.used_up(cause.name, after.tries, after.losses, 3, 10) == after.used_up


# --- more of what was short ---------------------------------------------------------------------------------------

MEMORY = Failure(step="job", hold_code=34, peak_mib=700)


def test_a_job_short_of_memory_gets_half_as_much_again_or_a_quarter_above_its_peak():
    assert raised_needs({}, MEMORY, 1000, 1.5, 4000) == {"memory_mib": 1500}
    assert raised_needs({}, replace(MEMORY, peak_mib=2001), 1000, 1.5, 4000) == {"memory_mib": 2502}
    assert raised_needs({}, replace(MEMORY, peak_mib=None), 1000, 1.5, 4000) == {"memory_mib": 1500}


def test_needs_grow_from_what_was_asked_last_and_keep_the_others():
    needs = {"memory_mib": 1500, "wall_s": 60}
    assert raised_needs(needs, MEMORY, 1000, 1.5, 4000) == {"memory_mib": 2250, "wall_s": 60}
    assert needs == {"memory_mib": 1500, "wall_s": 60}
    assert raised_needs(needs, MEMORY, 3000, 1.5, 4000) == {
        "memory_mib": 4000,
        "wall_s": 60,
    }  # the campaign asks more now


def test_wall_time_grows_likewise_and_knows_nothing_of_memory():
    assert raised_needs({"memory_mib": 9}, MEMORY, 600, 1.5, 2400, "wall_s") == {"memory_mib": 9, "wall_s": 900}


@given(
    requested=st.integers(1, 10**6),
    peak=st.none() | st.integers(0, 10**8),
    factor=st.floats(1.01, 10),
    cap=st.floats(1, 8),
)
def test_more_is_always_more_and_ends_at_the_cap(requested, peak, factor, cap):
    needs, most = {}, requested * cap
    for _ in range(3000):
        more = raised_needs(needs, replace(MEMORY, peak_mib=peak), requested, factor, most)
        if more is None:
            break
        assert max(needs.get("memory_mib", 0), requested) < more["memory_mib"] <= most
        needs = more
    assert raised_needs(needs, MEMORY, requested, factor, most) is None


def test_at_the_cap_a_try_is_used_up():
    hold = judged(step="job", hold_code=34)
    assert raised_needs({"memory_mib": 4000}, MEMORY, 1000, 1.5, 4000) is None
    assert policy_for(hold, 0, 0, 2).tries == 0
    assert policy_for(hold, 0, 0, 2, capped=True).tries == 1 and policy_for(hold, 1, 0, 2, capped=True).used_up


# --- the campaign's own rules -------------------------------------------------------------------------------------

OWN = {
    "name": "geometry_missing",
    "class": "node",
    "step": "execute",
    "log": "no geometry",
    "words": "{host}: {message}",
}


def test_the_campaign_s_own_rules_come_first():
    own = parse_rules([{**OWN, "wait_s": 30, "uses": "tries", "limit": 2}], "reco.yaml:40", EVENTS)
    failure = Failure(step="execute", exit_code=1, tail=["fatal: no geometry"], host="node7", message="exit code 1")
    cause = CAUSES.judge(failure, own)
    assert (cause.name, cause.klass, cause.words) == ("geometry_missing", "node", "node7: exit code 1")
    assert policy_for(cause, 0, 0, 9, retry_wait_s=5).wait == timedelta(seconds=30)
    assert CAUSES.used_up("geometry_missing", 2, 0, 9, 10, own) and CAUSES.judge(failure).name == "executable_failed"


def test_a_passive_rule_counts_and_decides_nothing():
    facts = Failure(step="execute", fault="died", signal=11, tail=("GEANT4 warning: stuck track",))
    seen = {"name": "stuck_track", "class": "crash", "words": "a stuck track", "log": "stuck track", "passive": True}
    own = parse_rules([seen, {**seen, "name": "no_such", "log": "never said"}], "reco.yaml:40", EVENTS)
    assert CAUSES.judge(facts, own) == CAUSES.judge(facts)
    assert CAUSES.passive(facts, own) == ["stuck_track"] and CAUSES.passive(facts) == []


def test_faults_of_own_rules_name_the_place_and_come_all_at_once():
    rows = [
        {**OWN, "class": "nod"},
        {**OWN, "lgo": "x"},
        {"name": "all", "class": "node", "words": "x"},
        {**OWN, "event": "die"},
    ]
    with pytest.raises(CausesError) as caught:
        parse_rules(rows, "reco.yaml:40", EVENTS)
    faults = caught.value.faults
    assert [fault[:21] for fault in faults] == [f"reco.yaml:40: rule {n}:" for n in (1, 2, 3, 4)]
    assert "unknown key 'lgo'; perhaps 'log'" in faults[1] and "matches every failure" in faults[2]


@pytest.mark.parametrize("row", [None, 5, "words", [], {}, {5: 6}, {**OWN, "words": None}, {**OWN, "log": "("}])
def test_nonsense_is_no_rule(row):
    with pytest.raises(CausesError):
        parse_rules([row], "reco.yaml:40")


# --- a bad table --------------------------------------------------------------------------------------------------

SMALL = """\
classes:
  outage:   {means: "no answer", do: "wait", event: job_stopped, wait_s: 60, backoff: 2}
  input:    {means: "not there", do: "look", event: job_stopped, wait_s: 60}
  resource: {means: "too small", do: "wait", event: job_stopped, wait_s: 0, cap_factor: 4}
  node:     {means: "bad node",  do: "wait", event: job_stopped, uses: losses, wait_s: 60}
  crash:    {means: "it died",   do: "look", event: executable_died, uses: tries, wait_s: 60}
  invalid:  {means: "bad output", do: "look", event: output_invalid, uses: tries}
  operator: {means: "by hand",   do: "look", event: job_stopped}
rules:
  - {name: killed,  class: crash, step: execute, signal: [9, "11-13"], words: "killed by {signal}"}
  - {name: no_room, class: node,  log: "No space", words: "no room on {host}"}
  - {name: the_rest, class: crash, words: "{known}"}
"""


@pytest.fixture
def load(tmp_path):
    def write_and_load(text: str) -> Causes:
        path = tmp_path / "small.yaml"
        path.write_text(text)
        return load_causes(path, EVENTS)

    return write_and_load


def faults_of(load, text: str) -> list[str]:
    with pytest.raises(CausesError) as caught:
        load(text)
    return [fault.partition("small.yaml:")[2] for fault in caught.value.faults]


def test_a_small_table_is_loaded_and_its_ranges_include_both_ends(load):
    causes = load(SMALL)
    names = [causes.judge(Failure(step="execute", signal=n)).name for n in (9, 10, 11, 13, 14)]
    assert names == ["killed", "the_rest", "killed", "killed", "the_rest"]


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ("event: output_invalid", "event: output_invald", "7: no event 'output_invald'; perhaps 'output_invalid'"),
        ("  operator:", "  operater:", "1: class 'operator' is missing"),
        ("  operator:", "  operater:", "8: unknown class 'operater'; perhaps 'operator'"),
        ('means: "no answer", ', "", "2: key 'means' is missing"),
        ("backoff: 2", "backoff: 0.5", "2: backoff: Input should be greater than or equal to 1, not 0.5"),
        ("cap_factor: 4", "cap_faktor: 4", "4: unknown key 'cap_faktor'; perhaps 'cap_factor'"),
        ("wait_s: 0,", "wait_s: soon,", "4: wait_s: "),
        ("wait_s: 0,", "wait_s: -1,", "4: wait_s: "),
        ("wait_s: 0,", "wait_s: .nan,", "4: wait_s: "),
        ("uses: losses", "uses: luck", "5: uses: Input should be 'tries', 'losses' or 'nothing', not 'luck'"),
        ("step: execute", "stp: execute", "10: unknown key 'stp'; perhaps 'step'"),
        ('"11-13"', '"13-11"', "10: must be a number, a range 'low-high'"),
        ('"11-13"', "yes", "10: must be a number, a range 'low-high'"),
        ('[9, "11-13"]', "[]", "10: signal: "),
        ("{signal}", "{signl}", "10: no placeholder {signl}; perhaps 'signal'"),
        ("{signal}", "{signal.__class__}", "10: no placeholder {signal.__class__}"),
        ("{signal}", "{signal:d}", "10: no placeholder {signal}"),
        ("{signal}", "{", "10: "),
        ('"killed by {signal}"', '" "', "10: words: "),
        ("class: node,", "class: nodes,", "11: class: Input should be 'outage'"),
        ("class: node,", "class: resource,", "11: short_of goes with class resource"),
        ("class: node,", "class: node, short_of: wall_s,", "11: short_of goes with class resource"),
        ("class: node,", "class: node, event: job_stoped,", "11: no event 'job_stoped'; perhaps 'job_stopped'"),
        ('"No space"', '"No (space"', "11: log: Input should be a valid regular expression"),
        ('log: "No space", ', "", "11: rule 'no_room': the last rule, and no other, must match all"),
        ("name: no_room", "name: killed", "11: rule 'killed' is here twice, first in line 10"),
        ("name: no_room", "name: no room", "11: name: "),
        ('log: "No space"', 'step: execute, signal: [9, "11-13"]', "11: a rule that matches"),
        (
            "the_rest, class: crash",
            "the_rest, class: crash, step: copy",
            "12: rule 'the_rest': the last rule, and no other",
        ),
        (
            "the_rest, class: crash",
            "the_rest, passive: true, class: crash",
            "12: rule 'the_rest': the last rule decides",
        ),
        ("rules:", "ruls:", "1: rules must be a list, whose last rule matches all"),
        ("rules:", "ruls:", "9: unknown key 'ruls'; perhaps 'rules'"),
    ],
)
def test_each_fault_of_the_table_is_named_with_its_line(load, old, new, fault):
    assert old in SMALL
    assert any(found.startswith(fault) for found in faults_of(load, SMALL.replace(old, new, 1)))


@pytest.mark.parametrize(
    "text", ["", "5", "[]", "classes: 5\nrules: 5", "classes: {}\nrules: []", "a: [", "rules: [5, x]"]
)
def test_what_is_no_table_is_refused(load, text):
    assert faults_of(load, text)


def test_all_faults_of_the_table_come_at_once_in_the_order_of_the_lines(load):
    text = SMALL.replace('"no answer"', '""').replace("{signal}", "{sgnal}").replace("class: node", "class: n")
    assert [fault.partition(":")[0] for fault in faults_of(load, text)] == ["2", "10", "11"]


def test_the_table_s_own_words_on_match_keys_are_the_code_s():
    comment = TABLE.read_text().partition("classes:\n  outage")[0]
    assert all(key in comment for key in MATCH_KEYS)
