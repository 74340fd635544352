"""The requests keepup-batch takes, as models that refuse what could never work. docs/batch.md shows them."""

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints

from keepupd.localbatch.shim import OWN_FILES


def _file_name(name: str) -> str:
    if name in ("", ".", "..") or "/" in name or "\0" in name or len(name.encode()) > 200:
        raise ValueError("must be the name of a file, without directory, of at most 200 bytes")
    if name in OWN_FILES:
        raise ValueError(f"{name!r} is keepup-batch's own file")
    return name


Launch = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.:@+-]{0,127}$")]
FileName = Annotated[str, AfterValidator(_file_name)]
Word = Annotated[str, StringConstraints(pattern=r"^[^\x00]*$")]
Variable = Annotated[str, StringConstraints(pattern=r"^[^\x00=]+$")]
Number = Annotated[int, Field(ge=0, lt=10**12)]


class Model(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Request(Model):
    v: Literal[1]


class Limits(Model):
    cpus: Annotated[int, Field(ge=1)] = 1
    memory_mib: Annotated[int, Field(ge=1)] = 1000
    disk_mib: Annotated[int, Field(ge=0)] = 0
    wall_s: Annotated[int, Field(ge=1)] = 3600


class Submit(Request):
    op: Literal["submit"]
    launch: Launch
    tag: Word
    files: dict[FileName, str]
    argv: Annotated[list[Word], Field(min_length=1)]
    numbers: list[Number]
    limits: Limits = Limits()
    environment: dict[Variable, Word] = {}
    bring_home: list[FileName] = ["report.json"]


class Look(Request):
    op: Literal["look"]
    cursor: int | None = None


class Remove(Request):
    op: Literal["remove"]
    keys: list[str]


class Hold(Request):
    op: Literal["hold"]
    keys: list[str]
    reason: str


class Release(Request):
    op: Literal["release"]
    keys: list[str]


class Forget(Request):
    op: Literal["forget"]
    launch: Launch


class Status(Request):
    op: Literal["status"]


OPERATIONS: dict[str, type[Request]] = {
    model.__name__.lower(): model for model in (Submit, Look, Remove, Hold, Release, Forget, Status)
}
