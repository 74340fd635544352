"""What a campaign file may say, as one frozen model; its parts are in campaign_parts.py and campaign_types.py.

After a check all defaults that depend on other fields (definitions, URLs, memory cap) are filled in, so the rest of
keepupd never has to know them.
"""

import hashlib
import json
import re
from collections.abc import Sequence
from datetime import date
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo, field_validator

from keepupd.campaign_parts import Executable, Input, Limits, Output, Resources, Retry, Validation
from keepupd.campaign_types import LIMITS, Analysis, Breaker, Canary, Generator, Merge
from keepupd.checking import Model, perhaps, text, wrong
from keepupd.core import naming
from keepupd.fields import (
    FROM_INPUT,
    FROM_SERIAL,
    HISTOGRAM_CHECK,
    Count,
    Metadata,
    MetadataKey,
    Name,
    Pause,
    Text,
    placeholders_in,
)
from keepupd.routing import clause, either

NEEDS = {
    "generator": "events_per_unit, first_run, and target_units or target_events",
    "merge": f"at least one of {', '.join(LIMITS)}, and `by` to group by metadata",
    "analysis": "histograms, a list of names",
}


class Campaign(Model):
    """A standing order: what to process, how, and where the outputs go."""

    name: Name = Field(description="Unique name; also the start of the names of its definitions and projects in SAM")
    type: Literal["generator", "reco", "merge", "analysis"] = Field(description="generator, reco, merge or analysis")
    description: str = Field(default="", description="What it is for, in a sentence")
    owner: Text = Field(description="Person or group that answers for it")
    contact: Annotated[str, text(r"^[^@\s]+@[^@\s]+\.[^@\s]+$", "must be an e-mail address")] = Field(
        description="E-mail address of the owner"
    )
    requested_by: str = Field(default="", description="Who asked for it")
    expected_files: Count | None = Field(default=None, description="Files expected in all (null: not known)")
    wanted_by: date | None = Field(default=None, description="Date it is wanted by, YYYY-MM-DD")
    generator: Generator | None = Field(
        default=None, validate_default=True, description="What a generator makes; no other type has it"
    )
    merge: Merge | None = Field(
        default=None, validate_default=True, description="How a merge groups its input; no other type has it"
    )
    analysis: Analysis | None = Field(
        default=None, validate_default=True, description="What an analysis sums up; no other type has it"
    )
    inherit: list[MetadataKey] = Field(
        default=[], description="Metadata keys to copy from the input files into all outputs"
    )
    input: Input = Field(default=Input(), validate_default=True, description="Where files come from")
    outputs: list[Output] = Field(min_length=1, description="What a job makes of its input")
    executable: Executable = Field(description="What runs in the job")
    validation: Validation = Field(
        default=Validation(), validate_default=True, description="When an output counts as valid"
    )
    metadata: Metadata = Field(default={}, description="Metadata to add to all outputs, Category.name: value")
    resources: Resources = Field(default=Resources(), description="What a job asks of the batch system")
    retry: Retry = Field(default=Retry(), description="How often to try again")
    limits: Limits = Field(default=Limits(), description="How much of the farm it may use")
    canary: Canary = Field(default=Canary(), description="How a new or changed campaign begins")
    breaker: Breaker = Field(default=Breaker(), description="When a campaign stops launching by itself")
    causes: list[dict[str, Any]] = Field(
        default=[], description="Its own rules, in front of the table of causes; `passive: true` ones only count"
    )
    settle_s: Pause = Field(default=0.0, description="How long a new input file is left alone first, in seconds")
    settle_by: Literal["file", "run"] = Field(
        default="file", description="run: all files of a run wait until the youngest of them is that old"
    )

    @field_validator("name")
    @classmethod
    def _no_edition_mark(cls, name: str) -> str:
        if re.search(r"_e[0-9]+$", name):
            raise wrong(f"{name!r} must not end like _e2, which marks an edition in file names")
        return name

    @field_validator("generator", "merge", "analysis")
    @classmethod
    def _of_its_type_only(cls, given: Model | None, info: ValidationInfo) -> Model | None:
        kind, mine = info.data.get("type"), str(info.field_name)
        if given is not None and kind not in (mine, None):
            raise wrong(f"only a campaign of type {mine} has it, and this one is of type {kind}")
        if given is None and kind == mine:
            raise wrong(f"is missing: a campaign of type {mine} needs {NEEDS[mine]}")
        if isinstance(given, Analysis) and not given.total.name:
            total = given.total.model_copy(update={"name": f"{info.data.get('name', '')}_total"})
            return given.model_copy(update={"total": total})
        return given

    @field_validator("inherit")
    @classmethod
    def _from_input_only(cls, keys: list[str], info: ValidationInfo) -> list[str]:
        if keys and info.data.get("type") == "generator":
            raise wrong("a generator has no input to inherit from; give the values under `metadata`")
        return keys

    @field_validator("input")
    @classmethod
    def _default_definition(cls, given: Input, info: ValidationInfo) -> Input:
        made = f"{info.data['name']}_input" if "name" in info.data else given.definition
        if info.data.get("type") == "generator":
            if given.definition or given.query is not None:
                raise wrong("a generator has no input")
            return given
        if given.query is not None and given.definition not in ("", made):
            raise wrong("`definition` and `query` are both given; give one of the two")
        return given.model_copy(update={"definition": given.definition or made})

    @field_validator("outputs")
    @classmethod
    def _fill_in_outputs(cls, outputs: list[Output], info: ValidationInfo) -> list[Output]:
        name, kind, merge = info.data.get("name", ""), info.data.get("type", ""), info.data.get("merge")
        inherit = [*info.data.get("inherit", ()), *(merge.inherited if merge else ())]
        filled: list[Output] = []
        for number, given in enumerate(outputs):
            output = given.filled_in(name, _template_for(kind, given, number), inherit)
            if kind == "generator" and output.inherit:
                raise wrong("a generator has no input to inherit from; give the values", number, "inherit")
            if kind == "analysis" and "root" not in output.file_format.lower():
                raise wrong(f"histograms are kept in ROOT files, not {output.file_format}", number, "file_format")
            _apart(name, output, filled, number)
            filled.append(output)
            if kind != "generator" and "input" in info.data:
                _feeds_no_input_of_its_own(output, info.data["input"].definition, number)
        return filled

    @field_validator("executable")
    @classmethod
    def _placeholders_fit(cls, executable: Executable, info: ValidationInfo) -> Executable:
        if (executable.argv is None) == (executable.shell is None):
            raise wrong("needs `argv` (a list) or `shell` (one line), one of the two")
        labels = [output.label for output in info.data.get("outputs", ())]
        generator = info.data.get("type") == "generator"
        for place, words in executable.words():
            for name, label in placeholders_in(words):
                if problem := _misfit(name, label, labels, generator):
                    raise wrong(f"{{{name}{':' if label else ''}{label}}}: {problem}", *place)
        return executable

    @field_validator("settle_s")
    @classmethod
    def _of_single_files_only(cls, settle_s: float, info: ValidationInfo) -> float:
        if settle_s and info.data.get("type") in ("generator", "merge"):
            raise wrong(f"a {info.data['type']} has no settle time; a merge lets files wait by merge.max_age_s")
        return settle_s

    @field_validator("validation")
    @classmethod
    def _fits_the_outputs(cls, validation: Validation, info: ValidationInfo) -> Validation:
        other = [o for o in info.data.get("outputs", ()) if "root" not in o.file_format.lower()]
        if validation.root and other:
            raise wrong(f"output {other[0].label!r} has file_format {other[0].file_format}; set root: false", "root")
        if validation.histograms and info.data.get("type") != "analysis":
            raise wrong("only a campaign of type analysis has it", "histograms")
        if validation.histograms and HISTOGRAM_CHECK in getattr(info.data.get("executable"), "files", ()):
            raise wrong(f"keepupd brings {HISTOGRAM_CHECK}: take yours out of executable.files", "histograms")
        return validation

    def output_names(self, input_name: str, edition: int = 1) -> dict[str, str]:
        """Label -> file name of what this campaign makes of `input_name`; less than 200 plain characters each."""
        return {o.label: naming.output_name(o.name, self.name, o.label, input_name, edition) for o in self.outputs}

    @property
    def canaries(self) -> int:
        """How many of its units run first, when it is new, changed or resumed."""
        return self.canary.groups if self.type == "merge" else self.canary.units

    def shape(self) -> dict[str, Any]:
        """All that shapes outputs, as JSON has it: what may not change once an output is declared."""
        own = {"generator": {"first_run", "subruns_per_run", "events_per_unit", "run_type"}, "merge": {"by"}}
        parts: dict[str, Any] = dict.fromkeys(
            ("name", "type", "input", "executable", "validation", "metadata", "outputs"), True
        )
        shape = self.model_dump(mode="json", include=parts | own)
        for output in shape["outputs"]:
            del output["url"]  # how jobs reach the location does not change what is there
        return shape

    def fingerprint(self) -> str:
        """Hash of all that shapes outputs; campaigns with another one need another name once an output is declared."""
        return hashlib.sha256(json.dumps(self.shape(), sort_keys=True).encode()).hexdigest()[:16]

    def as_json(self) -> str:
        """All of it, defaults filled in, the same text for the same campaign; Campaign.model_validate_json reads it."""
        return json.dumps(self.model_dump(mode="json"), sort_keys=True)


def _misfit(name: str, label: str, labels: Sequence[str], generator: bool) -> str:
    """Why a placeholder does not fit this campaign; empty when it does."""
    if generator and name in FROM_INPUT:
        return "a generator has no input"
    if not generator and name in FROM_SERIAL:
        return "only a generator has it"
    if label and name not in ("output", "metadata"):
        return "only output and metadata take a label"
    if label and labels and label not in labels:
        return f"there is no output {label!r}" + perhaps(label, list(labels))
    if not label and name in ("output", "metadata") and len(labels) > 1:
        return f"there are several outputs; say which, such as {{{name}:{labels[0]}}}"
    return ""


def _apart(campaign: str, output: Output, before: Sequence[Output], number: int) -> None:
    for other in before:
        if other.label == output.label:
            raise wrong(f"two outputs have the label {output.label!r}", number, "label")
        if naming.could_meet((other.name, campaign, other.label), (output.name, campaign, output.label)):
            raise wrong(
                f"could equal the name of output {other.label!r}; put {{label}} into the template", number, "name"
            )


def _template_for(kind: str, output: Output, number: int) -> str:
    """Units of generators and merges are no files, so that {suffix} would be empty: their outputs need an ending."""
    if kind not in ("generator", "merge") or "{suffix}" not in output.name:
        return output.name
    ending = ".root" if "root" in output.file_format.lower() else f".{output.file_format}"
    if output.name != naming.DEFAULT_TEMPLATE or len(ending) > 20:
        raise wrong(f"a {kind} has no input file that {{suffix}} could come from; write the ending", number, "name")
    return output.name.replace("{suffix}", ending)


def _feeds_no_input_of_its_own(output: Output, definition: str, number: int) -> None:
    for place, route in enumerate(output.definitions):
        if route.name == definition:
            raise wrong("is the campaign's own input definition: it would feed itself", number, "definitions", place)


def definitions_made(campaign: Campaign, campaign_parameter: str) -> dict[str, str]:
    """Name -> dimensions of the definitions that a campaign's outputs go to.

    campaign_parameter: the metadata key that holds the campaign's name. What keepupd has made is never changed in SAM,
    so the words here must stay what they are.
    """
    clauses: dict[str, list[str]] = {}
    for output in campaign.outputs:
        tier = [clause("data_tier", [output.tier])]
        if any(other.tier == output.tier and _kind(other) != _kind(output) for other in campaign.outputs):
            tier += [clause("file_type", [output.file_type]), clause("file_format", [output.file_format])]
        for route in output.definitions:
            found = [*tier, *(clause(key, values) for key, values in route.where.items())]
            clauses.setdefault(route.name, []).append(" and ".join(found))
    whose = clause(campaign_parameter, [campaign.name])
    return {name: f"{whose} and {either(parts)}" for name, parts in clauses.items()}


def outputs_of(campaign: Campaign, campaign_parameter: str) -> str:
    """Dimensions of all outputs of a campaign, whichever of its definitions they go to."""
    return either(definitions_made(campaign, campaign_parameter).values())


def _kind(output: Output) -> tuple[str, str, str]:
    return output.tier, output.file_type, output.file_format
