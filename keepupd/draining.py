"""Recognise an input query that drains itself: files leave it when they are done, as `A minus isparentof: (B)` has it.

Such queries come from workflows without a memory. keepupd remembers what it has done, so the base query, `A`, serves it
better: it is cheaper for SAM, and what has left is out of the sum rule's sight.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from keepupd.campaign import Campaign
from keepupd.flow import known_of
from keepupd.queries import asks_known, evaluate, parsed

DEEPEST = 5  # definitions within definitions that are followed
BY_CHILDREN = ("isparentof", "isancestorof")
BY_PROJECTS = ("project_name", "snapshot_for_project_name")
SLICES = ("limit", "offset", "stride")
Span = tuple[int, int, str]  # begin, end and what is put there


@dataclass(frozen=True)
class Drain:
    """`parts` of a query take files out when they are done; `base` is the query without them."""

    parts: tuple[str, ...]
    base: str

    def words(self, definition: str) -> str:
        parts = " and ".join(f"`{part}`" for part in self.parts)
        return (
            f"definition {definition} drains itself: {parts} takes a file out when it is done, and then it counts as"
            f" left. keepupd does that by itself; give the campaign the base query instead: {self.base}"
        )


def drain_of(
    query: str, campaign: Campaign, parameter: str, dims_of: Callable[[str], str], depth: int = 0
) -> Drain | None:
    """None for a query that does not drain, or is none.

    parameter: the metadata key that holds the campaign's name. dims_of: a definition's query, "" where there is none.
    """
    tree = parsed(query)
    if tree is None or depth > DEEPEST:
        return None
    found = _Search(query, campaign, parameter, dims_of, depth)
    cuts = list(found.cuts(tree))
    if not cuts:
        return None
    cuts += found.slices(tree)
    for begin, end, instead in sorted(cuts, reverse=True):
        query = query[:begin] + instead + query[end:]
    return Drain(tuple(found.parts), " ".join(query.split()))


@dataclass
class _Search:
    query: str
    campaign: Campaign
    parameter: str
    dims_of: Callable[[str], str]
    depth: int

    def __post_init__(self) -> None:
        self.parts: list[str] = []

    def cuts(self, tree: Any) -> Iterator[Span]:
        """The spans of text to leave out, or to put something simpler in for."""
        trees = _trees(tree)
        match str(tree.data):
            case "sets":
                yield from self.cuts(trees[0])
                for operator, part in zip(_tokens(tree), trees[1:], strict=True):
                    if operator.lower() == "minus" and self.drains(part):
                        yield self.cut(operator.start_pos, part.meta.end_pos)
                    elif operator.lower() != "minus":
                        yield from self.cuts(part)
            case "and_":
                yield from self._cuts_of_and(trees)
            case "start" | "inner" | "or_":
                for part in trees:
                    yield from self.cuts(part)
            case "defname":
                name = tree.children[0].strip("'\"")
                inner = drain_of(self.dims_of(name), self.campaign, self.parameter, self.dims_of, self.depth + 1)
                if inner is not None:
                    self.parts += inner.parts
                    yield tree.meta.start_pos, tree.meta.end_pos, f"({inner.base})"

    def _cuts_of_and(self, parts: Sequence[Any]) -> Iterator[Span]:
        """`and not isparentof: (...)`: cut with the `and` before it, or behind it for the first."""
        for number, part in enumerate(parts):
            if part.data != "negation" or not self.drains(part):
                yield from self.cuts(part)
            elif number:
                yield self.cut(parts[number - 1].meta.end_pos, part.meta.end_pos)
            else:
                yield self.cut(part.meta.start_pos, parts[1].meta.start_pos)

    def cut(self, begin: int, end: int) -> Span:
        self.parts.append(" ".join(self.query[begin:end].split()))
        return begin, end, ""

    def drains(self, part: Any, depth: int = 0) -> bool:
        """Whether work done puts files into this part of the query."""
        match str(part.data):
            case "relative":
                # what is subtracted are parents of our outputs, unless these are surely not the children it means
                return part.children[0].split(":")[0].strip().lower() in BY_CHILDREN and self._means_our_outputs(part)
            case "condition":
                name, values = part.children[0].lower(), str(part.children[-1].children)
                return name == "consumed_status" or (name in BY_PROJECTS and "%" in values)
            case "defname":
                tree = parsed(self.dims_of(part.children[0].strip("'\""))) if depth < DEEPEST else None
                return tree is not None and self.drains(tree, depth + 1)
        return any(self.drains(inner, depth) for inner in _trees(part))

    def _means_our_outputs(self, relative: Any) -> bool:
        inner = _trees(relative)[0]
        for output in self.campaign.outputs:
            known = known_of(self.campaign, output, self.parameter)
            mine = {route.name for route in output.definitions}
            if evaluate(inner, asks_known(known), mine, ()).value is not False:
                return True
        return False

    def slices(self, tree: Any) -> Iterator[Span]:
        """`with limit 100` takes a few at a time out of a query that drains: without it, it is the base."""
        previous = tree.children[0]
        for name, values in zip(tree.children[1::2], tree.children[2::2], strict=True):
            if str(name).lower() in SLICES:
                yield previous.meta.end_pos, values.meta.end_pos, ""
            previous = values


def _trees(tree: Any) -> list[Any]:
    return [part for part in tree.children if hasattr(part, "children")]


def _tokens(tree: Any) -> list[Any]:
    return [part for part in tree.children if not hasattr(part, "children")]
