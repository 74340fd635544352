"""Show the flow of campaigns to people, with counts where they are known: a tree, a Mermaid diagram, or an SVG picture.

`counts` is campaign -> state -> number of its files; a campaign or state that is left out has none.
"""

from collections.abc import Iterator, Mapping
from html import escape

from keepupd.flow import Flow

Counts = Mapping[str, Mapping[str, int]]
TROUBLE = ("held", "crash", "debug")
STATES = ("pending", "running", "validated", "declared", *TROUBLE)
WIDTH, HEIGHT, ACROSS, DOWN, MARGIN = 250, 54, 330, 76, 20  # of a box, and from one box to the next, in pixels
COLOURS = {"trouble": "#f8d7da", "done": "#d4edda", "busy": "#fff3cd", "empty": "#f1f3f5"}


def as_tree(flow: Flow, counts: Counts) -> str:
    """Plain text: each campaign below one that feeds it; below further ones it is only mentioned."""
    lines: list[str] = []
    shown: set[str] = set()
    for name in flow.campaigns:
        if not flow.makers_of(name):
            lines.append(_title(flow, counts, name))
            shown.add(name)
            lines += _below(flow, counts, name, "", shown)
    return "\n".join(lines) + "\n"


def _below(flow: Flow, counts: Counts, name: str, indent: str, shown: set[str]) -> Iterator[str]:
    readers = flow.readers_of(name)
    for reader in readers:
        last = reader == readers[-1]
        branch, onward = ("└─ ", "   ") if last else ("├─ ", "│  ")
        if reader in shown:
            yield f"{indent}{branch}{reader} (above)"
            continue
        shown.add(reader)
        yield indent + branch + _title(flow, counts, reader)
        yield from _below(flow, counts, reader, indent + onward, shown)


def _title(flow: Flow, counts: Counts, name: str) -> str:
    outside = ", also fed from outside" if name in flow.outside and flow.makers_of(name) else ""
    return f"{name} ({flow.campaigns[name].type}{outside}): {in_words(flow, counts, name)}"


def in_words(flow: Flow, counts: Counts, name: str) -> str:
    """`24 files: 20 declared, 4 running`; of a generator with its target: `24 of 30 units: ...`."""
    found = {state: counts.get(name, {}).get(state, 0) for state in STATES}
    seen, generator = sum(found.values()), flow.campaigns[name].generator
    several = f"{seen} of {generator.units} units" if generator else f"{seen} files" if seen != 1 else "1 file"
    listed = ", ".join(f"{n} {state}" for state, n in found.items() if n)
    return f"{several}: {listed}" if listed else several


def as_mermaid(flow: Flow, counts: Counts) -> str:
    """A Mermaid flowchart, left to right. Arrows that a query of metadata only may take are dotted."""
    number = {name: f"c{i}" for i, name in enumerate(flow.campaigns)}
    lines = ["flowchart LR"]
    for name, key in number.items():
        words = in_words(flow, counts, name).replace(": ", "<br>", 1)
        lines.append(f'    {key}["{name}<br>{flow.campaigns[name].type}, {words}"]:::{_looks(flow, counts, name)}')
    sure = {(feed.maker, feed.reader) for feed in flow.feeds if feed.sure}
    for maker, reader in _arrows(flow):
        lines.append(f"    {number[maker]} {'-->' if (maker, reader) in sure else '-.->'} {number[reader]}")
    lines += [f"    classDef {name} fill:{colour},stroke:#495057" for name, colour in COLOURS.items()]
    return "\n".join(lines) + "\n"


def as_svg(flow: Flow, counts: Counts) -> str:
    """An SVG picture: a column for each step from the sources, an arrow for each pair that feeds."""
    places = _places(flow)
    width = MARGIN * 2 + max((x for x, _ in places.values()), default=0) + WIDTH
    height = MARGIN * 2 + max((y for _, y in places.values()), default=0) + HEIGHT
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{-MARGIN} {-MARGIN} {width} {height}" width="{width}" '
        f'height="{height}" font-family="sans-serif" font-size="12">',
        '<defs><marker id="tip" markerWidth="8" markerHeight="8" refX="8" refY="4" orient="auto">'
        '<path d="M0,0 L8,4 L0,8 z" fill="#495057"/></marker></defs>',
    ]
    parts += [_arrow(places[maker], places[reader]) for maker, reader in _arrows(flow)]
    parts += [_box(flow, counts, name, place) for name, place in places.items()]
    return "\n".join([*parts, "</svg>"]) + "\n"


def _places(flow: Flow) -> dict[str, tuple[int, int]]:
    """The upper left corner of each box; in a column in the order of those that feed them, so that few arrows cross."""
    column: dict[str, int] = {}
    for name in flow.campaigns:
        column[name] = max((column.get(maker, -1) + 1 for maker in flow.makers_of(name)), default=0)
    row: dict[str, float] = {}
    for step in sorted(set(column.values())):
        members = [name for name in flow.campaigns if column[name] == step]
        members.sort(key=lambda name: (_middle([row[m] for m in flow.makers_of(name) if m in row]), name))
        tallest = max(list(column.values()).count(other) for other in column.values())
        first = (tallest - len(members)) / 2
        row |= {name: first + place for place, name in enumerate(members)}
    return {name: (column[name] * ACROSS, int(row[name] * DOWN)) for name in flow.campaigns}


def _middle(rows: list[float]) -> float:
    return sum(rows) / len(rows) if rows else 0.0


def _arrow(start: tuple[int, int], end: tuple[int, int]) -> str:
    x1, y1, x2, y2 = start[0] + WIDTH, start[1] + HEIGHT // 2, end[0], end[1] + HEIGHT // 2
    half = (x2 - x1) // 2
    path = f"M{x1},{y1} C{x1 + half},{y1} {x2 - half},{y2} {x2},{y2}"
    return f'<path d="{path}" fill="none" stroke="#495057" marker-end="url(#tip)"/>'


def _box(flow: Flow, counts: Counts, name: str, place: tuple[int, int]) -> str:
    x, y = place
    shown = name if len(name) <= 36 else name[:16] + "…" + name[-19:]
    rows = (shown, flow.campaigns[name].type, in_words(flow, counts, name))
    texts = "".join(_text(words, x + 8, y + 16 + 16 * i, bold=i == 0) for i, words in enumerate(rows))
    colour = COLOURS[_looks(flow, counts, name)]
    box = f'<rect x="{x}" y="{y}" width="{WIDTH}" height="{HEIGHT}" rx="6" fill="{colour}" stroke="#495057"/>'
    return f"<g><title>{escape(name)}: {escape(rows[2])}</title>{box}{texts}</g>"


def _text(words: str, x: int, y: int, bold: bool) -> str:
    """One line in a box, squeezed where it would be too wide."""
    weight = ' font-weight="bold"' if bold else ""
    fit = f' textLength="{WIDTH - 16}" lengthAdjust="spacingAndGlyphs"' if len(words) > 38 else ""
    return f'<text x="{x}" y="{y}"{weight}{fit}>{escape(words)}</text>'


def _looks(flow: Flow, counts: Counts, name: str) -> str:
    """Whether a campaign is in trouble, done for now, busy, or empty."""
    found = {state: n for state, n in counts.get(name, {}).items() if n}
    if any(state in found for state in TROUBLE):
        return "trouble"
    if not found:
        return "empty"
    generator = flow.campaigns[name].generator
    done = set(found) == {"declared"} and (generator is None or found["declared"] >= generator.units)
    return "done" if done else "busy"


def _arrows(flow: Flow) -> list[tuple[str, str]]:
    return list(dict.fromkeys((feed.maker, feed.reader) for feed in flow.feeds))
