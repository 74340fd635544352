"""Read campaign files: one campaign each, or a flow of several (`campaigns:`) with what they share (`defaults:`).

Defaults are laid under each campaign: maps merge, and where both say something, or it is a list, the campaign's own
word counts. A fault keeps the line where the faulty value really stands, in the defaults or in the campaign.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from keepupd.campaign import Campaign
from keepupd.checking import check, perhaps
from keepupd.core.errors import ConfigError
from keepupd.core.naming import could_meet
from keepupd.flow import Flow, build_flow, look_at
from keepupd.yamlfile import Place, YamlFile, from_folder, read_yaml

FLOW_KEYS = ["defaults", "campaigns"]
Found = tuple[Campaign, YamlFile]


@dataclass(frozen=True)
class LoadedFlow:
    campaigns: list[Campaign]  # by name
    flow: Flow
    warnings: list[str]


def read_flow(main_file: Path, patterns: list[str], campaign_parameter: str) -> LoadedFlow:
    """Read all campaigns of the files that `patterns` name, relative to `main_file`.

    Raises ConfigError with every fault: of each file, between two campaigns, and of the flow as a whole.
    """
    files, faults = _campaign_files(main_file, patterns)
    found: list[Found] = []
    for path in files:
        try:
            campaigns, wrongs = _read(path)
        except ConfigError as error:
            campaigns, wrongs = [], list(error.faults)
        found += campaigns
        faults += wrongs
    faults += _clashes(found)
    flow = build_flow([campaign for campaign, _ in found], campaign_parameter)
    by_name = {campaign.name: file for campaign, file in found}
    remarks = [(one.fault, by_name[one.campaign].fault(one.place, one.words)) for one in look_at(flow)]
    faults += [words for fault, words in remarks if fault]
    if faults:
        raise ConfigError(main_file, faults)
    by_their_names = sorted((campaign for campaign, _ in found), key=lambda campaign: campaign.name)
    return LoadedFlow(by_their_names, flow, [words for fault, words in remarks if not fault])


def _campaign_files(main_file: Path, patterns: list[str]) -> tuple[list[Path], list[str]]:
    files: dict[Path, Path] = {}  # a file named twice is read once
    faults = []
    for number, given in enumerate(patterns):
        path = from_folder(main_file.parent, given)
        if path.is_dir():
            matches = [*path.glob("*.yaml"), *path.glob("*.yml")]
        else:
            matches = [*Path(path.anchor).glob(str(path.relative_to(path.anchor)))]
        if not matches and not path.is_dir():  # an empty directory is well: campaigns come later
            faults.append(read_yaml(main_file).fault(("campaigns", number), f"there is no file {path}"))
        files |= {match.resolve(): match for match in sorted(matches)}
    return list(files.values()), faults


# --- one file -----------------------------------------------------------------------------------------------------


def _read(path: Path) -> tuple[list[Found], list[str]]:
    """The campaigns of a file, and its faults; one that stands in the defaults is told once."""
    found: list[Found] = []
    faults: dict[str, None] = {}
    parts, wrongs = _parts(read_yaml(path))
    for file in parts:
        campaign, of_it = check(Campaign, file)
        wrongs += of_it
        found += [(campaign, file)] if campaign else []
    faults.update(dict.fromkeys(wrongs))
    return found, list(faults)


def _parts(file: YamlFile) -> tuple[list[YamlFile], list[str]]:
    """The campaigns of the file, each as if it were a file of its own, and what is wrong with the frame around them."""
    if not any(key in file.value for key in FLOW_KEYS):
        return [file], []
    unknown = [key for key in file.value if key not in FLOW_KEYS]
    faults = [file.fault((key,), "unknown key beside `campaigns`" + perhaps(key, FLOW_KEYS)) for key in unknown]
    defaults, listed = file.value.get("defaults", {}), file.value.get("campaigns")
    if not isinstance(defaults, dict):
        faults.append(file.fault(("defaults",), f"must be keys and values, not {defaults!r}"))
        defaults = {}
    if not isinstance(listed, list) or not listed:
        return [], [*faults, file.fault(("campaigns",), "must be a list of campaigns, `- name: ...` each")]
    parts = []
    for number, own in enumerate(listed):
        if isinstance(own, dict):
            parts.append(_laid_over(file, defaults, own, number))
        else:
            faults.append(file.fault(("campaigns", number), f"must be keys and values, not {own!r}"))
    return parts, faults


def _laid_over(file: YamlFile, defaults: dict[str, Any], own: dict[str, Any], number: int) -> YamlFile:
    here: Place = ("campaigns", number)
    merged = YamlFile(file.path, {}, {(): file.line(here)}, {(): here})
    merged.value.update(_merge(merged, file, (), (("defaults",), defaults), (here, own)))
    return merged


def _merge(
    merged: YamlFile, file: YamlFile, place: Place, under: tuple[Place, Any], over: tuple[Place, Any]
) -> dict[str, Any]:
    """The mapping at `place` out of two of the file, each with where it stands; lines are noted on the way."""
    (below, base), (above, own) = under, over
    value: dict[str, Any] = {}
    for key in [*own, *(key for key in base if key not in own)]:
        inner, source, given = (*place, key), (*above, key), own.get(key)
        if key not in own:
            source, given = (*below, key), base[key]
        merged.lines[inner], merged.written[inner] = file.line(source), source
        if isinstance(given, dict) and isinstance(base.get(key), dict) and key in own:
            value[key] = _merge(merged, file, inner, ((*below, key), base[key]), (source, given))
        else:
            value[key] = given
            _note_lines(merged, file, inner, source, given)
    return value


def _note_lines(merged: YamlFile, file: YamlFile, place: Place, source: Place, value: Any) -> None:
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in inside:
        merged.lines[*place, key] = file.line((*source, key))
        _note_lines(merged, file, (*place, key), (*source, key), inner)


# --- between campaigns --------------------------------------------------------------------------------------------


def _clashes(found: list[Found]) -> Iterable[str]:
    """What is wrong between campaigns: two that have, make, or could make, the same."""
    names: dict[str, str] = {}
    made: dict[str, str] = {}
    totals: dict[str, str] = {}
    for number, (campaign, file) in enumerate(found):
        here = _where(file, ("name",))
        if campaign.name in names:
            yield file.fault(("name",), f"{campaign.name!r} is taken by {names[campaign.name]}")
            continue
        names[campaign.name] = here
        for place, definition in _definitions_made(campaign):
            if definition in made:
                yield file.fault(place, f"definition {definition!r} is made by {made[definition]} too")
            made.setdefault(definition, _where(file, place))
        if campaign.analysis and totals.setdefault(total := campaign.analysis.total.name, here) != here:
            place = ("analysis", "total", "name")
            yield file.fault(place, f"{total!r} is the total of the campaign in {totals[total]} too")
        for other, other_file in found[:number]:
            if other.name != campaign.name and _names_meet(campaign, other):
                words = f"output names could equal those of {other.name!r} ({other_file.path}); give it another end"
                yield file.fault(("name",), words)
    yield from _runs_shared(found)


def _where(file: YamlFile, place: Place) -> str:
    return f"{file.path}:{file.line(place)}"


def _runs_shared(found: list[Found]) -> Iterator[str]:
    generators = [(c, c.generator, file) for c, file in found if c.generator is not None]
    place: Place = ("generator", "first_run")
    for (other, theirs, other_file), (campaign, ours, file) in combinations(generators, 2):
        if ours.first_run <= theirs.last_run and theirs.first_run <= ours.last_run and other.name != campaign.name:
            yield file.fault(
                place,
                f"its runs {ours.first_run} to {ours.last_run} overlap {theirs.first_run} to {theirs.last_run} of "
                f"{other.name} ({_where(other_file, place)}); take {max(ours.last_run, theirs.last_run) + 1} or more",
            )


def _definitions_made(campaign: Campaign) -> Iterable[tuple[Place, str]]:
    """With its place, each definition that is made for the campaign; several outputs may go to one."""
    if campaign.input.query is not None:
        yield ("input", "query"), campaign.input.definition
    once: dict[str, Place] = {}
    for number, output in enumerate(campaign.outputs):
        for position, route in enumerate(output.definitions):
            once.setdefault(route.name, ("outputs", number, "definitions", position))
    for name, place in once.items():
        yield place, name


def _names_meet(one: Campaign, other: Campaign) -> bool:
    return any(
        could_meet((a.name, one.name, a.label), (b.name, other.name, b.label))
        for a in one.outputs
        for b in other.outputs
    )
