"""What a campaign file may say: frozen models, every field with its meaning and unit. Read and checked by config.py.

After a check all defaults that depend on other fields (definitions, URLs, memory cap) are filled in, so the rest of
keepupd never has to know them.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from datetime import date
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo, field_validator

from keepupd.checking import Model, perhaps, text, wrong
from keepupd.core import naming
from keepupd.fields import (
    FROM_INPUT,
    FROM_SERIAL,
    Argument,
    CheckArgument,
    Count,
    Definition,
    Flag,
    JobFiles,
    Label,
    Location,
    Mebibytes,
    Metadata,
    MetadataKey,
    Name,
    Pause,
    Seconds,
    Template,
    Text,
    WallTime,
    Word,
    WriteUrl,
    placeholders_in,
)


class Input(Model):
    definition: Definition = Field(
        default="", description="Dataset definition in SAM to take files from (default: <campaign>_input)"
    )
    query: str | None = Field(
        default=None,
        description="Dimensions of which keepupd makes the definition <campaign>_input; instead of `definition`",
    )

    @field_validator("query")
    @classmethod
    def _some_query(cls, query: str | None) -> str | None:
        if query is not None and not query.strip():
            raise wrong("must not be empty")
        return query


class Output(Model):
    label: Label = Field(default="output", description="Short name of this output in placeholders, {output:LABEL}")
    tier: Word = Field(description="SAM data tier of the output, such as full-reconstructed")
    file_type: Word = Field(description="SAM file type of the output, such as detector or mc")
    file_format: Word = Field(default="root", description="SAM file format of the output")
    name: Template = Field(
        default=naming.DEFAULT_TEMPLATE,
        description="Template of the file's name; {stem}, {suffix}, {campaign}, {edition}, {label}",
    )
    location: Location = Field(description="Where outputs live, in SAM's form node:/directory")
    url: WriteUrl = Field(default="", description="How jobs write to the location (default: file:// and its directory)")
    definitions: list[Definition] = Field(
        default=[], description="Dataset definitions the output belongs to (default: <campaign>_output)"
    )
    metadata: Metadata = Field(default={}, description="Metadata to add to this output, Category.name: value")
    inherit: list[MetadataKey] = Field(default=[], description="Metadata keys to copy from the input file")

    @field_validator("location")
    @classmethod
    def _no_way_up(cls, location: str) -> str:
        if ".." in location.split("/"):
            raise wrong("must not hold ..")
        return location

    def filled_in(self, campaign: str) -> "Output":
        url = self.url or "file://" + self.location.split(":", 1)[1]
        return self.model_copy(update={"url": url, "definitions": self.definitions or [f"{campaign}_output"]})


class Application(Model):
    family: Word = Field(description="SAM application family, such as art")
    name: Word = Field(description="SAM application name, such as reco")
    version: Word = Field(description="SAM application version, such as v09_91_02d01")


class Executable(Model):
    argv: list[Argument] | None = Field(
        default=None,
        min_length=1,
        description="Program and arguments; placeholders such as {input}, {output}, {metadata}",
    )
    shell: Argument | None = Field(
        default=None, description="One line for /bin/sh, instead of argv; placeholders come quoted"
    )
    application: Application = Field(description="What SAM records as having made the outputs")
    environment: dict[Annotated[str, text(r"^[A-Za-z_][A-Za-z0-9_]*$", "is no name of a variable")], str] = Field(
        default={}, description="Environment variables of the executable"
    )
    files: JobFiles = Field(
        default={},
        description="Small text files sent with each job, paths relative to this file; they lie in {scratch}",
    )

    @field_validator("argv")
    @classmethod
    def _program(cls, argv: list[str] | None) -> list[str] | None:
        if argv and not argv[0].strip():
            raise wrong("the program's name must not be empty", 0)
        return argv

    @field_validator("shell")
    @classmethod
    def _not_empty(cls, shell: str | None) -> str | None:
        if shell is not None and not shell.strip():
            raise wrong("must not be empty")
        return shell

    def words(self) -> Iterable[tuple[tuple[str | int, ...], str]]:
        """Each place in it that may hold placeholders, with what stands there."""
        if self.shell is not None:
            yield ("shell",), self.shell
        yield from ((("argv", number), word) for number, word in enumerate(self.argv or []))


class Validation(Model):
    root: Flag = Field(default=True, description="The output must be a whole ROOT file")
    min_bytes: Count = Field(default=1, description="Least size of an output, in bytes")
    min_events: Count | None = Field(default=None, description="Least number of events in an output (null: any)")
    command: list[CheckArgument] | None = Field(
        default=None,
        min_length=1,
        description="Your own check, arguments with {input}, {output}, {metadata}; exit code 0 is good",
    )


class Resources(Model):
    cpus: Annotated[int, Field(strict=True, gt=0, le=1024)] = Field(default=1, description="Processor cores of a job")
    memory_mib: Annotated[int, Field(strict=True, gt=0, le=2_500_000)] = Field(
        default=2000, description="Memory of a job, in MiB"
    )
    disk_mib: Mebibytes = Field(default=10000, description="Scratch disk of a job, in MiB")
    wall_s: WallTime = Field(default=28800, description="Wall time of a job, in seconds")
    memory_cap_mib: Mebibytes = Field(
        default=None,
        validate_default=True,
        description="Most memory keepupd may ask for after a job ran out of it, in MiB (default: 4 times memory_mib)",
    )

    @field_validator("memory_cap_mib", mode="before")
    @classmethod
    def _four_times(cls, cap: object, info: ValidationInfo) -> object:
        asked = info.data.get("memory_mib", 1)
        if isinstance(cap, int) and cap < asked:
            raise wrong(f"must be at least memory_mib, {asked}, not {cap}")
        return 4 * asked if cap is None else cap


class Retry(Model):
    attempts: Count = Field(default=3, description="Attempts that a file may use up before it goes to debug")
    losses: Count = Field(default=10, description="Lost or evicted jobs that a file may cost before it goes to debug")
    wait_s: Pause | None = Field(
        default=None, description="Wait before the next attempt, in seconds (null: as the table of causes says)"
    )


class Limits(Model):
    jobs: Count = Field(default=1000, description="Most jobs of this campaign in the batch system at once")
    idle_jobs: Count = Field(default=500, description="Most idle jobs of this campaign at once")
    launch_size: Annotated[int, Field(strict=True, gt=0, le=10_000)] = Field(
        default=200, description="Most jobs of one launch"
    )
    executable_wall_s: Seconds | None = Field(
        default=None, description="Longest time the executable may run, in seconds (null: as long as the job)"
    )


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
    causes: list[dict[str, Any]] = Field(default=[], description="Its own rules, in front of the table of causes")
    settle_s: Pause = Field(default=0.0, description="How long a new input file is left alone first, in seconds")

    @field_validator("name")
    @classmethod
    def _no_edition_mark(cls, name: str) -> str:
        if re.search(r"_e[0-9]+$", name):
            raise wrong(f"{name!r} must not end like _e2, which marks an edition in file names")
        return name

    @field_validator("input")
    @classmethod
    def _default_definition(cls, given: Input, info: ValidationInfo) -> Input:
        made = f"{info.data['name']}_input" if "name" in info.data else given.definition
        if given.query is not None and given.definition not in ("", made):
            raise wrong("`definition` and `query` are both given; give one of the two")
        return given.model_copy(update={"definition": given.definition or made})

    @field_validator("outputs")
    @classmethod
    def _fill_in_outputs(cls, outputs: list[Output], info: ValidationInfo) -> list[Output]:
        name = info.data.get("name", "")
        filled = [output.filled_in(name) for output in outputs]
        for number, output in enumerate(filled):
            _apart(name, output, filled[:number], number)
            if "input" in info.data and info.data["input"].definition in output.definitions:
                raise wrong("is the campaign's own input definition: it would feed itself", number, "definitions")
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

    @field_validator("validation")
    @classmethod
    def _root_only_for_root(cls, validation: Validation, info: ValidationInfo) -> Validation:
        other = [o for o in info.data.get("outputs", ()) if "root" not in o.file_format.lower()]
        if validation.root and other:
            raise wrong(f"output {other[0].label!r} has file_format {other[0].file_format}; set root: false", "root")
        return validation

    def output_names(self, input_name: str, edition: int = 1) -> dict[str, str]:
        """Label -> file name of what this campaign makes of `input_name`; less than 200 plain characters each."""
        return {o.label: naming.output_name(o.name, self.name, o.label, input_name, edition) for o in self.outputs}

    def fingerprint(self) -> str:
        """Hash of all that shapes outputs; campaigns with another one need another name once an output is declared."""
        shape = self.model_dump(mode="json", include={"name", "type", "executable", "metadata", "outputs"})
        for output in shape["outputs"]:
            for key in ("location", "url", "definitions"):  # where an output goes does not change what it is
                del output[key]
        return hashlib.sha256(json.dumps(shape, sort_keys=True).encode()).hexdigest()[:16]

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
