"""Show a statechart to people: as a plain table, or as a Mermaid diagram for the documentation."""

from collections.abc import Sequence

from keepupd.core.chart import Arrow, Chart


def as_table(chart: Chart) -> str:
    """Two tables of plain text: the states with what they mean and what to do, then the transitions."""
    states = [("state", "means", "do", "late after")]
    for state in chart.states:
        late = chart.late_after(state)
        states.append(
            (state, chart.means(state), chart.do(state), f"{late.total_seconds() / 3600:g} h" if late else "")
        )
    transitions = [("event", "from", "to", "if", "effect", "by")]
    for arrow, sources in _joined(chart).items():
        guards = ", ".join(sorted(arrow.guards))
        transitions.append(
            (arrow.event, ", ".join(sources), arrow.dest, guards, arrow.effect or "", arrow.by or "keepupd")
        )
    return _columns(states) + "\n" + _columns(transitions)


def as_mermaid(chart: Chart) -> str:
    """A stateDiagram-v2: guards in brackets, an operator's transitions marked."""
    lines = ["stateDiagram-v2", f"    [*] --> {chart.initial}"]
    for arrow in chart.arrows:
        by = f" ({arrow.by})" if arrow.by else ""
        lines.append(f"    {arrow.source} --> {arrow.dest} : {arrow}{by}")
    lines += [f"    {state} --> [*]" for state in chart.states if chart.is_final(state)]
    return "\n".join(lines) + "\n"


def _joined(chart: Chart) -> dict[Arrow, list[str]]:
    """Arrows that differ in their source alone, as one row of the chart has them."""
    rows: dict[Arrow, list[str]] = {}
    for a in chart.arrows:
        rows.setdefault(Arrow(a.event, "", a.dest, a.guards, a.effect, a.by), []).append(a.source)
    return rows


def _columns(rows: Sequence[tuple[str, ...]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join(lines) + "\n"
