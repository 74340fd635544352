"""A chart as people see it: every state, every transition, and nothing invented."""

import re

import pytest
import yaml

from keepupd.core.chart import Chart, charts_dir, load_chart
from keepupd.ctl.chart_view import as_mermaid, as_table


@pytest.fixture(params=["file", "campaign"])
def chart(request) -> Chart:
    path = charts_dir() / f"{request.param}.yaml"
    rows = yaml.safe_load(path.read_text())["transitions"]
    names = [frozenset(row[key] for row in rows if key in row) for key in ("effect", "guard")]
    return load_chart(path, *names)


def test_the_table_shows_what_each_state_means_and_each_transition_once(chart):
    states, transitions = (part.splitlines()[1:] for part in as_table(chart).strip().split("\n\n"))
    assert [line.split()[0] for line in states] == list(chart.states)
    for line, state in zip(states, chart.states, strict=True):
        assert chart.means(state) in line and chart.do(state) in line
    shown = [re.split(r"\s{2,}", line)[:3] for line in transitions]
    edges = [(source, event, dest) for event, sources, dest in shown for source in sources.split(", ")]
    assert sorted(edges) == sorted((a.source, a.event, a.dest) for a in chart.arrows)


def test_the_diagram_has_every_arrow_with_its_guards_and_marks_the_operators(chart):
    lines = [line.strip() for line in as_mermaid(chart).splitlines()]
    assert lines[:2] == ["stateDiagram-v2", "[*] --> pending"]
    for arrow in chart.arrows:
        guards = f" [{', '.join(sorted(arrow.guards))}]" if arrow.guards else ""
        by = " (operator)" if arrow.by else ""
        assert f"{arrow.source} --> {arrow.dest} : {arrow.event}{guards}{by}" in lines
    finals = [state for state in chart.states if chart.is_final(state)]
    assert len(lines) == 2 + len(chart.arrows) + len(finals)
    assert all(f"{state} --> [*]" in lines for state in finals)
