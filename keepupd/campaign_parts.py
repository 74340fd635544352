"""The parts of a campaign file that every type of campaign has: input, outputs, executable, checks, resources, limits.

What a field means and its unit stands with it; campaign.py puts them together and checks what depends on each other.
"""

from collections.abc import Iterable
from typing import Annotated

from pydantic import Field, ValidationInfo, field_validator

from keepupd.checking import Model, text, wrong
from keepupd.core import naming
from keepupd.fields import (
    Argument,
    CheckArgument,
    Count,
    DefinitionOrNone,
    Flag,
    HistogramName,
    JobFiles,
    Label,
    Location,
    Mebibytes,
    Metadata,
    MetadataKey,
    Pause,
    Seconds,
    Template,
    WallTime,
    Word,
    WriteUrl,
)
from keepupd.routing import Route


class Input(Model):
    definition: DefinitionOrNone = Field(
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
    definitions: list[Route] = Field(
        default=[], description="Dataset definitions the output belongs to (default: <campaign>_output)"
    )
    metadata: Metadata = Field(default={}, description="Metadata to add to this output, Category.name: value")
    inherit: list[MetadataKey] = Field(default=[], description="More metadata keys to copy, into this output only")

    @field_validator("location")
    @classmethod
    def _no_way_up(cls, location: str) -> str:
        if ".." in location.split("/"):
            raise wrong("must not hold ..")
        return location

    def filled_in(self, campaign: str, name: str, inherit: Iterable[str]) -> "Output":
        url = self.url or "file://" + self.location.split(":", 1)[1]
        routes = self.definitions or [Route.model_construct(name=f"{campaign}_output", where={})]
        keys = {key.lower(): key for key in [*inherit, *self.inherit]}  # SAM's keys know no case
        return self.model_copy(update={"url": url, "name": name, "definitions": routes, "inherit": [*keys.values()]})

    def url_of(self, location: str) -> str | None:
        """The URL of what SAM has at `location`; None when that is not below this output's own location."""
        place, top = location.partition("(")[0], self.location.rstrip("/")  # SAM adds "(tape)" and the like
        return self.url.rstrip("/") + place.removeprefix(top) if f"{place}/".startswith(f"{top}/") else None


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
    histograms: list[HistogramName] | None = Field(
        default=None,
        min_length=1,
        description="Of an analysis: histograms that must be there and finite, not all empty; the node needs uproot",
    )
    command: list[CheckArgument] | None = Field(
        default=None,
        min_length=1,
        description="Your own check, arguments with {input}, {output}, {metadata}, {scratch}; exit code 0 is good",
    )


class Resources(Model):
    cpus: Annotated[int, Field(strict=True, gt=0, le=1024)] = Field(default=1, description="Processor cores of a job")
    memory_mib: Annotated[int, Field(strict=True, gt=0, le=2_500_000)] = Field(
        default=2000, description="Memory of a job, in MiB"
    )
    disk_mib: Mebibytes = Field(default=10000, description="Scratch disk of a job, in MiB")
    wall_s: WallTime = Field(default=28800, description="Wall time of a job, in seconds")
    lines: dict[str, str] = Field(
        default={}, description="More lines of HTCondor's submit description, over the site's of the same name"
    )
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
