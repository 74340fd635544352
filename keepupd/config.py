"""The daemon's settings and its campaigns, read from YAML files. A file with a mistake is refused with all its faults.

`load_settings` reads the daemon's file, `load_campaigns` the campaign files it names (campaignfiles.py). What
a campaign may say is in campaign.py, how faults are worded in checking.py, how lines are found in yamlfile.py.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, PrivateAttr, ValidationInfo, field_validator, model_validator

from keepupd.campaign import Campaign
from keepupd.campaignfiles import LoadedFlow, read_flow
from keepupd.changes import diff
from keepupd.checking import Model, check, text, wrong
from keepupd.core.errors import ConfigError
from keepupd.fields import HttpUrl, NearPath, Pause, Seconds, Text, Word
from keepupd.yamlfile import database_url, read_yaml

__all__ = ["Campaign", "Settings", "diff", "json_schema", "load_campaigns", "load_flow", "load_settings"]
Port = Annotated[int, Field(strict=True, ge=0, le=65535)]
MetadataKey = Annotated[str, text(r"^[A-Za-z][A-Za-z0-9_]*\.[A-Za-z0-9_.-]+$", "must be Category.name")]


class Sam(Model):
    """Where SAM is and who we are there. What the file leaves out is taken from samweb's own environment variables."""

    read_url: HttpUrl = Field(
        description="SAM's address for reading, such as https://sam.example.org/sam/dune/api (else SAM_WEB_BASE_URL)"
    )
    write_url: HttpUrl = Field(
        default=None, validate_default=True, description="SAM's address for writing (default: read_url)"
    )
    experiment: Word = Field(description="Experiment, as SAM knows it (else SAM_EXPERIMENT)")
    station: Word = Field(description="SAM station that runs the projects (else SAM_STATION)")
    group: Word = Field(
        default=None,
        validate_default=True,
        description="SAM group of projects and definitions (else SAM_GROUP; default: experiment)",
    )
    user: Word = Field(description="User name that definitions and projects are made under (else GRID_USER)")
    timeout_s: Seconds = Field(default=60.0, description="Longest wait for one answer, in seconds")
    patience_s: Seconds = Field(
        default=120.0, description="How long to ask again before SAM counts as unavailable, in seconds"
    )
    bulk: Annotated[int, Field(strict=True, gt=0, le=5000)] = Field(
        default=500, description="Most files in one question"
    )
    campaign_parameter: MetadataKey = Field(
        default="DUNE.campaign", description="Metadata key that holds the campaign's name in each output"
    )

    @model_validator(mode="before")
    @classmethod
    def _left_to_the_environment(cls, given: object) -> object:
        return {**_from_environment(given), **given} if isinstance(given, Mapping) else given

    @field_validator("read_url", "write_url", mode="after")
    @classmethod
    def _no_slash_at_the_end(cls, url: str) -> str:
        return url.rstrip("/")

    @field_validator("write_url", mode="before")
    @classmethod
    def _same_url(cls, url: object, info: ValidationInfo) -> object:
        return info.data.get("read_url", "http://unknown") if url is None else url

    @field_validator("group", mode="before")
    @classmethod
    def _same_name(cls, group: object, info: ValidationInfo) -> object:
        return info.data.get("experiment", "unknown") if group is None else group


def _from_environment(given: Mapping[str, object]) -> dict[str, str]:
    """What samweb's variables say, never a host of their own accord. Both addresses of SAM are of one place: where the
    file names one, the other is not taken from here, else a trial's changes could go to the experiment's catalog."""
    env = os.environ
    experiment, _, instance = env.get("SAM_EXPERIMENT", "").partition("/")  # `dune/dev` is samweb's for an instance
    found = {"experiment": experiment, "station": env.get("SAM_STATION"), "group": env.get("SAM_GROUP"),
             "user": env.get("GRID_USER")}  # fmt: skip
    if not {"read_url", "write_url"} & given.keys():
        path = "/".join(filter(None, ("sam", experiment or str(given.get("experiment", "")), instance, "api")))
        host, read = env.get("SAM_WEB_HOST"), env.get("SAM_WEB_BASE_URL")
        found["read_url"] = read or (host and f"http://{host}:{env.get('SAM_WEB_PORT', '8480')}/{path}")
        secure = read if read and read.startswith("https:") else None
        found["write_url"] = (
            env.get("SAM_WEB_BASE_SSL_URL") or secure
            or (host and f"https://{host}:{env.get('SAM_WEB_SSL_PORT', '8483')}/{path}")
        )  # fmt: skip
    return {name: value for name, value in found.items() if value}


class Batch(Model):
    kind: Literal["local", "htcondor"] = Field(
        description="local: keepup-batch on this machine; htcondor: a schedd, through HTCondor's Python bindings"
    )
    directory: NearPath = Field(
        default=Path(), validate_default=True, description="local: The directory keepup-batch was started with"
    )
    client_config: NearPath | None = Field(
        default=None,
        description="htcondor: its own configuration of this client (default: CONDOR_CONFIG, or HTCondor's)",
    )
    collector: str = Field(default="", description="htcondor: HOST:PORT (default: of the client configuration)")
    schedd: str = Field(default="", description="htcondor: name of the schedd (default: the one of this machine)")
    lines: dict[str, str] = Field(
        default={},
        description="htcondor: more lines of each submit description, such as +AccountingGroup; {campaign} and {launch}"
        " are replaced",
    )

    @field_validator("directory", mode="after")
    @classmethod
    def _needed_where_local(cls, directory: Path, info: ValidationInfo) -> Path:
        if directory == Path() and info.data.get("kind") == "local":
            raise wrong("is missing: The directory keepup-batch was started with")
        return directory


class Polls(Model):
    pass_s: Seconds = Field(
        default=30.0, description="Seconds between looks at the batch system, with decisions and effects"
    )
    inputs_s: Seconds = Field(default=60.0, description="Seconds between looks for new input files in SAM")
    outputs_s: Seconds = Field(default=60.0, description="Seconds between looks for declared outputs in SAM")
    sweep_s: Seconds = Field(default=3600.0, description="Seconds between full comparisons of SAM with the database")
    totals_s: Seconds = Field(
        default=300.0, description="Seconds between looks for histogram files that running totals lack"
    )
    operator_s: Seconds = Field(default=2.0, description="Seconds between looks for what keepupctl asked for")
    problem_definitions_min_s: Pause = Field(
        default=3600.0, description="Least seconds between two changes of a campaign's problem definitions"
    )
    lost_after_s: Pause = Field(
        default=600.0, description="Seconds a job must be absent from the batch system to count as lost"
    )


class Http(Model):
    host: Text = Field(default="127.0.0.1", description="Address that metrics and health are served on")
    port: Port = Field(default=9617, description="Port of metrics and health; 0 takes any free one")


class Worker(Model):
    python: Text = Field(default="python3", description="Python 3.6 or later on the nodes that runs the worker")
    schemas: Annotated[str, text(r"^[a-z]+(,[a-z]+)*$", "must be schemes with commas, such as file,root")] = Field(
        default="file,root,https", description="URL schemes the nodes can read, the best first"
    )
    timeout_s: Seconds = Field(default=60.0, description="Longest wait of a job for one answer of SAM, in seconds")
    patience_s: Seconds = Field(
        default=600.0, description="How long a job asks SAM again before it gives up, in seconds"
    )
    stage_patience_s: Seconds = Field(
        default=3600.0, description="How long a job waits for a file to be staged, in seconds"
    )
    fetch_patience_s: Seconds = Field(
        default=600.0, description="How long a job tries to copy its input in, in seconds"
    )
    copy_patience_s: Seconds = Field(
        default=600.0, description="How long a job tries to copy its output out, in seconds"
    )


class Settings(Model):
    """The daemon's own file, keepupd.yaml."""

    name: Annotated[str, text(r"^[a-z0-9-]{1,40}$", "must be 1 to 40 lower-case letters, digits and -")] = Field(
        description="The daemon's name; in the tag of every job, so never change it while jobs run"
    )
    state_dir: NearPath = Field(description="Directory of the daemon's own files; relative to this file")
    database: str = Field(
        default=None,
        validate_default=True,
        description="sqlite:///PATH or postgresql+psycopg://USER@HOST/NAME (default: keepupd.db in state_dir)",
    )
    campaigns: list[Text] = Field(
        min_length=1, description="Campaign files: paths, directories or patterns such as campaigns/*.yaml"
    )
    sam: Sam = Field(description="The data catalog")
    batch: Batch = Field(description="The batch system")
    polls: Polls = Field(default=Polls(), description="How often to look, in seconds")
    http: Http = Field(default=Http(), description="Where metrics and health are served")
    worker: Worker = Field(default=Worker(), description="How jobs behave on the nodes")
    causes: NearPath | None = Field(default=None, description="Another table of causes than keepupd's own")
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="Least level that is logged"
    )
    _file: Path = PrivateAttr(default=Path("keepupd.yaml"))

    @property
    def file(self) -> Path:
        """The file these settings were read from."""
        return self._file

    @field_validator("database", mode="before")
    @classmethod
    def _whole_url(cls, given: object, info: ValidationInfo) -> str:
        state_dir = info.data.get("state_dir", Path())
        try:
            return database_url(given, state_dir, (info.context or {}).get("folder", Path()))
        except ValueError as error:
            raise wrong(str(error)) from None


def load_settings(path: Path | str) -> Settings:
    """Read the daemon's file. Raises ConfigError with every fault of it."""
    file = read_yaml(Path(path).absolute())
    settings, faults = check(Settings, file)
    if settings is None:
        raise ConfigError(path, faults)
    settings._file = file.path
    return settings


def load_campaigns(settings: Settings) -> list[Campaign]:
    """Read all campaign files, by name. Raises ConfigError with every fault of all files, also between two of them."""
    return load_flow(settings).campaigns


def load_flow(settings: Settings) -> LoadedFlow:
    """The same, with the flow that the campaigns form and the warnings of it, each with file and line."""
    return read_flow(settings.file, settings.campaigns, settings.sam.campaign_parameter)


# --- schema --------------------------------------------------------------------------------------------------------


def json_schema(kind: Literal["campaign", "daemon"] = "campaign") -> dict[str, Any]:
    """JSON schema of a campaign file or of the daemon's file, for editors that complete and explain."""
    model: type[Model] = Campaign if kind == "campaign" else Settings
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **model.model_json_schema()}
