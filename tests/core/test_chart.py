"""A chart is refused with every fault and its line, or it leads exactly where its file says."""

from datetime import timedelta
from itertools import chain, combinations

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from keepupd.core.chart import Chart, charts_dir, load_chart
from keepupd.core.errors import ChartError, EventRefused
from keepupd.core.model import STATES

EFFECTS, GUARDS = frozenset({"ring_bell", "remove_job"}), frozenset({"tries_left", "used_up"})
GOOD = """\
initial: waiting
states:
  - {name: waiting, means: "not yet begun", do: "nothing", late_after_min: 90}
  - {name: working, means: "at it", do: "wait"}
  - {name: done,    means: "all is well", do: "nothing", final: true}
transitions:
  - {trigger: begin,  source: waiting, dest: working, effect: ring_bell}
  - {trigger: stop,   source: [waiting, working], dest: done, by: operator}
  - {trigger: again,  source: working, dest: waiting, guard: tries_left}
  - {trigger: again,  source: working, dest: done,    guard: used_up, effect: remove_job}
"""


@pytest.fixture
def load(tmp_path):
    def write_and_load(text: str) -> Chart:
        path = tmp_path / "small.yaml"
        path.write_text(text)
        return load_chart(path, EFFECTS, GUARDS)

    return write_and_load


def faults_of(load, text: str) -> list[str]:
    """Each fault as `line: words`."""
    with pytest.raises(ChartError) as caught:
        load(text)
    return [fault.partition("small.yaml:")[2] for fault in caught.value.faults]


def named(name: str, key: str) -> frozenset[str]:
    """All values of `key` in the transitions of a chart that comes with keepupd."""
    rows = yaml.safe_load((charts_dir() / f"{name}.yaml").read_text())["transitions"]
    values = (row.get(key, []) for row in rows)
    return frozenset(chain.from_iterable([v] if isinstance(v, str) else v for v in values))


def shipped(name: str) -> Chart:
    return load_chart(charts_dir() / f"{name}.yaml", named(name, "effect"), named(name, "guard"))


# --- following ----------------------------------------------------------------------------------------------------


def test_a_good_chart_says_all_that_its_file_says(load):
    chart = load(GOOD)
    assert chart.initial == "waiting" and chart.states == ("waiting", "working", "done")
    assert (chart.means("working"), chart.do("working")) == ("at it", "wait")
    assert chart.late_after("waiting") == timedelta(minutes=90) and chart.late_after("done") is None
    assert chart.is_final("done") and not chart.is_final("working")
    assert chart.events("working") == ["stop", "again"] and chart.events("working", by="operator") == ["stop"]
    assert chart.events("done") == []


def test_an_event_leads_to_its_state_and_names_its_effect(load):
    edge = load(GOOD).follow("waiting", "begin")
    assert (edge.dest, edge.effect) == ("working", "ring_bell")


def test_guards_choose_between_two_ways(load):
    chart = load(GOOD)
    assert chart.follow("working", "again", frozenset({"tries_left"})).dest == "waiting"
    last = chart.follow("working", "again", frozenset({"used_up", "of_no_interest"}))
    assert (last.dest, last.effect) == ("done", "remove_job")


@pytest.mark.parametrize("guards", [frozenset(), GUARDS], ids=["no guard holds", "guards that exclude each other hold"])
def test_an_event_whose_guards_do_not_choose_is_refused(load, guards):
    with pytest.raises(EventRefused, match=r"'again' in state 'working'; allowed there: stop, again \[tries_left\]"):
        load(GOOD).follow("working", "again", guards)


def test_a_refused_event_stays_refused_and_does_no_harm(load):
    chart = load(GOOD)
    for _ in range(2):
        with pytest.raises(EventRefused, match="allowed there: none"):
            chart.follow("done", "begin")
    with pytest.raises(EventRefused):
        chart.follow("nowhere", "begin")
    with pytest.raises(EventRefused):
        chart.follow("waiting", "to_done")  # the library's automatic triggers are switched off
    assert chart.follow("waiting", "begin").dest == "working"


@pytest.mark.parametrize("name", ["file", "campaign"])
def test_the_charts_of_keepupd_know_every_state_and_refuse_what_is_not_drawn(name):
    chart = shipped(name)
    assert set(chart.states) == set(STATES) and chart.initial == "pending"
    edges, events = chart.edges(), {event for _, event, _ in chart.edges()}
    guard_sets = [frozenset(c) for n in range(len(chart.guards) + 1) for c in combinations(chart.guards, n)]
    for state in chart.states:
        assert chart.means(state) and chart.do(state)
        for event in events:
            drawn = {dest for source, this, dest in edges if (source, this) == (state, event)}
            found = set()
            for guards in guard_sets:
                try:
                    found.add(chart.follow(state, event, guards).dest)
                except EventRefused:
                    assert not any(a.event == event and not a.guards for a in chart.arrows if a.source == state)
            assert found == drawn


@pytest.mark.parametrize(
    ("state", "event", "guards", "dest"),
    [
        ("pending", "launch", set(), "running"),
        ("running", "not_delivered", set(), "pending"),
        ("running", "job_stopped", set(), "held"),
        ("running", "executable_died", set(), "crash"),
        ("running", "output_invalid", set(), "debug"),
        ("running", "no_location", set(), "held"),
        ("running", "output_valid", set(), "validated"),
        ("validated", "declare_refused", set(), "held"),
        ("crash", "time_up", {"tries_left"}, "pending"),
        ("held", "time_up", {"used_up"}, "debug"),
        ("held", "release", set(), "pending"),
        ("debug", "retry", set(), "pending"),
        ("declared", "redo", set(), "pending"),
        ("pending", "recall_debug", set(), "debug"),
    ],
)
def test_the_life_of_a_file(state, event, guards, dest):
    assert shipped("file").follow(state, event, frozenset(guards)).dest == dest


def test_an_output_seen_in_sam_is_adopted_from_every_state_but_declared_and_debug():
    adopted = {(source, dest) for source, event, dest in shipped("file").edges() if event == "output_seen"}
    assert adopted == {(state, "declared") for state in STATES if state not in ("declared", "debug")}


def test_only_an_operator_leaves_debug_or_redoes_what_is_declared():
    chart = shipped("file")
    assert chart.events("debug") == chart.events("debug", by="operator") == ["retry", "dissolve"]
    assert chart.events("declared") == chart.events("declared", by="operator") == ["redo"]


def test_a_stopped_campaign_goes_on_by_an_operator_alone():
    chart = shipped("campaign")
    for state in ("held", "crash", "debug"):
        assert chart.events(state) == chart.events(state, by="operator")
        assert chart.follow(state, "resume").dest == "running"


# --- refusing -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ("initial: waiting", "initial: wating", "1: no state 'wating'; perhaps 'waiting'"),
        ("initial: waiting\n", "", "1: key 'initial' is missing"),
        ("initial: waiting", "initial: waiting\nversion: 2", "2: unknown key 'version'; there are: initial, states"),
        ("dest: working,", "dest: worknig,", "7: begin: no state 'worknig'; perhaps 'working'"),
        (
            "[waiting, working]",
            "[waiting, sleeping]",
            "8: stop: no state 'sleeping'; there are: done, waiting, working",
        ),
        ("ring_bell", "ring_bel", "7: begin: no effect 'ring_bel'; perhaps 'ring_bell'"),
        ("guard: used_up", "guard: usedup", "10: again: no guard 'usedup'; perhaps 'used_up'"),
        ("by: operator", "by: me", "8: by must be 'operator', or left out, not 'me'"),
        ("by: operator", "buy: operator", "8: unknown key 'buy'; perhaps 'by'"),
        (', do: "wait"', "", "4: key 'do' is missing: a few words"),
        ('means: "at it", ', "", "4: key 'means' is missing"),
        ('means: "at it"', 'means: " "', "4: means must be a few words, not ' '"),
        ("late_after_min: 90", "late_after_min: soon", "3: late_after_min must be minutes"),
        ("late_after_min: 90", "late_after_min: 0", "3: late_after_min must be minutes"),
        ("late_after_min: 90", "late_after_min: true", "3: late_after_min must be minutes"),
        ("final: true", "final: perhaps", "5: final must be true or false, not 'perhaps'"),
        ("name: working", "name: waiting", "4: state 'waiting' is defined twice, first in line 3"),
        ("name: working", "name: on", "4: name must be a name of small letters, digits and _, not True"),
        (", final: true", "", "5: state 'done' has no way out; add a transition, or final: true"),
        ("source: waiting, dest: working", "source: working, dest: waiting", "4: state 'working' is never reached"),
        (", guard: used_up", "", "10: again from 'working' could also go as line 9 says: guard both"),
        ("guard: used_up", "guard: tries_left", "10: again from 'working' could also go as line 9 says"),
        ("guard: used_up", "guard: [used_up, tries_left]", "10: again from 'working' could also go as line 9 says"),
        ("[waiting, working]", "[waiting, waiting]", "8: stop from 'waiting' could also go as line 8 says"),
        ("[waiting, working]", "[]", "8: source must be a state or a list of states, not []"),
        (
            "source: working, dest: done, ",
            "source: 7, dest: done, ",
            "10: source must be a state or a list of states, not 7",
        ),
        ("initial: waiting", "initial: waiting\ninitial: done", "2: key 'initial' is here twice"),
    ],
)
def test_each_fault_is_named_with_its_line(load, old, new, fault):
    text = GOOD.replace("dest: done,    guard", "dest: done, guard")
    assert old in text
    assert any(found.startswith(fault) for found in faults_of(load, text.replace(old, new, 1)))


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("initial: [waiting\nstates: ]", "not YAML"),
        ("initial: waiting\n\tstates: []", "2: not YAML"),
        ("", "1: here must be a mapping with the keys initial, states, transitions, not None"),
        ("just words", "1: here must be a mapping"),
        ("- a\n- list", "1: here must be a mapping"),
        ("initial: a\nstates: 5\ntransitions: []", "2: states must be a list of states, not 5"),
        ("initial: a\nstates:\n  - waiting\ntransitions: [5]", "3: here must be a mapping with the keys name, means"),
        ("a: &a\n  - *a", "an alias (*name) leads back into itself"),
        ("initial: 2026-99-99\nstates: [{}]", "1: cannot be read"),
        ("initial: !!python/object:os.system x", "1: not YAML: could not determine a constructor"),
    ],
)
def test_what_is_no_chart_at_all_is_refused(load, text, fault):
    assert any(fault in found for found in faults_of(load, text))


def test_every_fault_is_told_at_once_in_the_order_of_the_lines(load):
    text = GOOD.replace("at it", "").replace("ring_bell", "ring").replace("by:", "buy:").replace("guard: used_up, ", "")
    assert [fault.partition(":")[0] for fault in faults_of(load, text)] == ["4", "7", "8", "10"]


def test_a_chart_that_is_not_there_says_so(tmp_path):
    with pytest.raises(ChartError, match="No such file"):
        load_chart(tmp_path / "none.yaml", EFFECTS, GUARDS)


YAML_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.sampled_from(["waiting", "working", "begin", "tries_left", ""]),
    lambda below: st.lists(below, max_size=3) | st.dictionaries(st.sampled_from(["name", "dest", "guard"]), below),
    max_leaves=6,
)


@given(data=st.data())
def test_whatever_is_written_a_chart_is_loaded_or_refused(tmp_path_factory, data):
    spec, value = yaml.safe_load(GOOD), data.draw(YAML_VALUES)
    top = data.draw(st.sampled_from(["initial", "states", "transitions"]))
    if top == "initial" or data.draw(st.booleans()):
        spec[top] = value
    else:
        row = data.draw(st.sampled_from(spec[top]))
        row[data.draw(st.sampled_from(sorted(row)) | st.text(max_size=9))] = value
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_text(yaml.safe_dump(spec))
    try:
        load_chart(path, EFFECTS, GUARDS)
    except ChartError as refused:
        assert refused.faults
