"""The flow that campaigns form: who makes the dataset definitions that another one reads. Pure; built from the files.

An input that no campaign of the flow makes comes from outside and may grow for ever. `look_at` says what is wrong with
a flow before it runs, and what only looks odd.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import cached_property
from graphlib import CycleError, TopologicalSorter

from keepupd.campaign import Campaign
from keepupd.campaign_parts import Output
from keepupd.queries import INHERITED, definitions_in, matches
from keepupd.yamlfile import Place


@dataclass(frozen=True)
class Feed:
    """`maker`'s output `label` goes to `reader`, through a definition. Not sure: a query of metadata may pick it."""

    maker: str
    label: str
    definition: str
    reader: str
    sure: bool = True


@dataclass(frozen=True)
class Remark:
    """What `keepupd check` says of a campaign's place in the flow; a fault stops the start."""

    campaign: str
    place: Place
    words: str
    fault: bool = False


@dataclass(frozen=True)
class Flow:
    """The campaigns, makers before readers, and who feeds whom. `outside`: those also fed by others than these."""

    campaigns: dict[str, Campaign]
    feeds: tuple[Feed, ...]
    outside: frozenset[str]
    cycle: tuple[str, ...] = ()
    circular: tuple[Feed, ...] = ()  # that a query may pick, too, but would close a circle: not in `feeds`

    @cached_property
    def _makers(self) -> dict[str, list[str]]:
        """Reader -> its makers, in the order of the flow. Asked in every pass of the daemon."""
        found: dict[str, set[str]] = {name: set() for name in self.campaigns}
        for feed in self.feeds:
            found[feed.reader].add(feed.maker)
        return {reader: [name for name in self.campaigns if name in makers] for reader, makers in found.items()}

    def makers_of(self, name: str) -> list[str]:
        """The campaigns that feed `name` directly."""
        return self._makers[name]

    def readers_of(self, name: str) -> list[str]:
        """The campaigns that `name` feeds directly."""
        return [reader for reader, makers in self._makers.items() if name in makers]

    def upstream_of(self, name: str) -> list[str]:
        """All campaigns above `name`, makers first."""
        found: set[str] = set()
        ask = [name]
        while ask:
            new = set(self._makers[ask.pop()]) - found
            found |= new
            ask += new
        return [known for known in self.campaigns if known in found]

    def is_open_ended(self, name: str) -> bool:
        """Whether something outside feeds it, or a campaign above it: it may be caught up, but is never complete."""
        return not self.outside.isdisjoint([name, *self.upstream_of(name)])


def build_flow(campaigns: list[Campaign], campaign_parameter: str) -> Flow:
    """The flow of these campaigns. A cycle is noted, not raised: look_at tells it."""
    named = {campaign.name: campaign for campaign in sorted(campaigns, key=lambda campaign: campaign.name)}
    feeds = [
        feed
        for reader in named.values()
        if reader.type != "generator"
        for feed in _feeds(named, reader, campaign_parameter)
    ]
    order, cycle = _order(named, [feed for feed in feeds if feed.sure])
    kept = [feed for feed in feeds if feed.sure]
    for feed in feeds:  # a guess may not close a circle
        if not feed.sure and not cycle and not _order(named, [*kept, feed])[1]:
            kept.append(feed)
            order, _ = _order(named, kept)
    maybe = [feed for feed in _maybe(named, campaign_parameter) if feed not in kept]
    circular = [feed for feed in maybe if _order(named, [*kept, feed])[1]]
    outside = frozenset(
        name for name, one in named.items() if one.type != "generator" and _is_fed_from_outside(named, one, kept)
    )
    return Flow({name: named[name] for name in order}, tuple(kept), outside, cycle, () if cycle else tuple(circular))


def _maybe(named: dict[str, Campaign], parameter: str) -> Iterator[Feed]:
    """All that a query may pick, by keys that outputs inherit too. One that names a definition picks by that."""
    for reader in named.values():
        query = _query_of(named, reader)
        if reader.type != "generator" and query is not None and not definitions_in(query):
            yield from (replace(feed, sure=False) for feed in _feeds(named, reader, parameter, inherited=True))


def _feeds(
    named: dict[str, Campaign], reader: Campaign, parameter: str, inherited: bool = False
) -> Iterator[Feed]:
    definition, query = reader.input.definition, _query_of(named, reader)
    made = {route.name for maker in named.values() for output in maker.outputs for route in output.definitions}
    for maker in named.values():
        for output in maker.outputs:
            mine = {route.name for route in output.definitions}
            if query is None:
                if definition in mine:
                    yield Feed(maker.name, output.label, definition, reader.name)
                continue
            taken_over = {key.lower(): INHERITED for key in output.inherit} if inherited else {}
            known = taken_over | known_of(maker, output, parameter)
            if (found := matches(query, known, mine, made - mine)).likely:
                yield Feed(maker.name, output.label, definition, reader.name, sure=found.value is True)


def _query_of(named: dict[str, Campaign], reader: Campaign) -> str | None:
    """Its input's query, which another campaign that reads the same definition may have given."""
    same = [one.input.query for one in named.values() if one.input.definition == reader.input.definition]
    return next((query for query in same if query is not None), None)


def known_of(maker: Campaign, output: Output, campaign_parameter: str) -> dict[str, object]:
    """What is known of an output's metadata before it is made; keys in lower case, as SAM compares them."""
    run = maker.executable.application
    fixed = {"data_tier": output.tier, "file_type": output.file_type, "file_format": output.file_format,
             "application": run.name, "family": run.family, "version": run.version}  # fmt: skip
    known = {**fixed, **maker.metadata, **output.metadata, campaign_parameter: maker.name}
    return {key.lower(): value for key, value in known.items()}


def _is_fed_from_outside(named: dict[str, Campaign], reader: Campaign, feeds: list[Feed]) -> bool:
    made = {route.name for maker in named.values() for output in maker.outputs for route in output.definitions}
    query = _query_of(named, reader)
    fed = any(feed.reader == reader.name for feed in feeds)
    return not fed or (query is not None and not made.issuperset(definitions_in(query)))


def _order(named: dict[str, Campaign], feeds: list[Feed]) -> tuple[list[str], tuple[str, ...]]:
    """The names, makers before readers; and the circle, if there is one."""
    sorter = TopologicalSorter({name: [] for name in named})
    for feed in feeds:
        sorter.add(feed.reader, feed.maker)
    try:
        return list(sorter.static_order()), ()
    except CycleError as error:
        return list(named), tuple(error.args[1])


# --- what is wrong, and what looks odd ----------------------------------------------------------------------------


def look_at(flow: Flow) -> Iterator[Remark]:
    """A circle is a fault. Odd: an input that nobody feeds, an output that no one reads, a route that never matches,
    a query that may pick its campaign's own results."""
    if flow.cycle:
        circle = " → ".join(flow.cycle)
        yield Remark(
            flow.cycle[0], ("input",), f"the flow goes in a circle: {circle}; no file would ever be the last", True
        )
    unread: dict[str, str] = {}
    for campaign in flow.campaigns.values():
        yield from _never_matching(campaign)
        yield from _circular(flow, campaign)
        yield from _odd_analysis(flow, campaign)
        for remark, definition in _unread(flow, campaign):
            unread[definition] = campaign.name
            yield remark
    for campaign in flow.campaigns.values():
        yield from _unfed(flow, campaign, unread)


def _never_matching(campaign: Campaign) -> Iterator[Remark]:
    for number, output in enumerate(campaign.outputs):
        fixed = {key.lower(): value for key, value in {**campaign.metadata, **output.metadata}.items()}
        for position, route in enumerate(output.definitions):
            for key, values in route.where.items():
                if key.lower() in fixed and str(fixed[key.lower()]) not in [str(value) for value in values]:
                    words = f"never matches: {key} of this output is always {fixed[key.lower()]!r}"
                    yield Remark(campaign.name, ("outputs", number, "definitions", position, "where", key), words)


def _circular(flow: Flow, campaign: Campaign) -> Iterator[Remark]:
    """A query that may pick what is made of its own results would have them processed again and again."""
    for maker in dict.fromkeys(feed.maker for feed in flow.circular if feed.reader == campaign.name):
        whose = "its own outputs" if maker == campaign.name else f"outputs of {maker}, which are made of its own,"
        words = f"may match {whose} too: ask for what only the true input has, such as its data_tier"
        yield Remark(campaign.name, ("input", "query"), words)


def _odd_analysis(flow: Flow, campaign: Campaign) -> Iterator[Remark]:
    """Histograms that nothing checks, or that SAM can't tell from the files they are made of."""
    if campaign.type != "analysis":
        return
    if not campaign.validation.histograms:
        names = ", ".join(campaign.analysis.histograms if campaign.analysis else ())
        words = f"nothing checks the histograms; say histograms: [{names}]"
        yield Remark(campaign.name, ("validation",), words)
    fed = [(feed.maker, output) for feed in flow.feeds if feed.reader == campaign.name
           for output in flow.campaigns[feed.maker].outputs if output.label == feed.label]  # fmt: skip
    for number, mine in enumerate(campaign.outputs):
        for key in ("tier", "file_type"):
            same = [maker for maker, output in fed if getattr(output, key) == getattr(mine, key)]
            if same:
                words = f"is {getattr(mine, key)!r}, as of its input from {same[0]}; histogram files need their own"
                yield Remark(campaign.name, ("outputs", number, key), words)


def _unread(flow: Flow, campaign: Campaign) -> Iterator[tuple[Remark, str]]:
    """Definitions that no one reads, not even within a query. A lone campaign and an analysis are ends."""
    if campaign.type == "analysis" or len(flow.campaigns) == 1:
        return
    wanted = {name for one in flow.campaigns.values() for name in _read_by(one)}
    for number, output in enumerate(campaign.outputs):
        fed = any((feed.maker, feed.label) == (campaign.name, output.label) for feed in flow.feeds)
        for position, route in enumerate(output.definitions):
            by_default = route.name == f"{campaign.name}_output"
            if route.name not in wanted and not (fed and by_default):
                place = ("outputs", number, "definitions", position)
                yield Remark(campaign.name, place, f"no campaign reads {route.name!r}"), route.name


def _read_by(campaign: Campaign) -> list[str]:
    return [campaign.input.definition, *definitions_in(campaign.input.query or "")]


def _unfed(flow: Flow, campaign: Campaign, unread: dict[str, str]) -> Iterator[Remark]:
    if campaign.type == "generator" or campaign.input.query is not None or flow.makers_of(campaign.name):
        return
    definition = campaign.input.definition
    close = get_close_matches(definition, list(unread), 1, cutoff=0.8)
    hint = f"; perhaps {close[0]!r}, which {unread[close[0]]} makes and no one reads" if close else ""
    if hint or definition == f"{campaign.name}_input":
        words = f"no campaign here makes {definition!r}, which must come from elsewhere{hint}"
        yield Remark(campaign.name, ("input", "definition"), words)
