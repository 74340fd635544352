"""All keepupd asks of the SAM catalog: the protocol, its record of a file, and how values are written into queries.

`sam.py` speaks to a real SAM over HTTP. A query over the catalog is called its dimensions, `dims` for short.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from keepupd.core.errors import SamRefused
from keepupd.core.model import CatalogFile

Metadata = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class FileRecord:
    """What SAM holds on one file. `size` is in bytes; `metadata` is the whole record as received."""

    name: str
    file_id: int
    size: int
    checksums: tuple[str, ...]  # normalised by `normal_checksum`, so that equal ones are equal strings
    locations: tuple[str, ...]  # `node:/dir`, verbatim and with the tape suffix, where there is one
    parents: tuple[str, ...]  # names
    events: int
    good: bool  # content_status
    retired: bool
    metadata: Mapping[str, Any]


class Catalog(Protocol):
    """Every method may raise SamUnavailable (no answer: nothing is known) or SamRefused (SAM answered no).

    Every method is safe to repeat. Those that return an iterator ask when it is first advanced, stream the reply, and
    raise SamUnavailable in its midst when it is cut: what was seen so far is then not the whole list.
    """

    def server_info(self) -> str:
        """What SAM says of itself; the cheapest question, used as a probe."""

    def count(self, dims: str) -> int:
        """How many files match. An unknown definition within dims is SamRefused."""

    def files(self, dims: str) -> Iterator[CatalogFile]: ...

    def definition_count(self, name: str) -> int: ...

    def definition_files(self, name: str) -> Iterator[CatalogFile]: ...

    def records(self, names: Collection[str]) -> dict[str, FileRecord]:
        """Metadata with locations, in bulk. Names SAM does not know are left out; retired files may be in it."""

    def declare(self, metadata: Metadata) -> None:
        """Declare a file. Raises SamRefused, of kind FileAlreadyExists where the name is taken."""

    def validate(self, metadata: Metadata) -> None:
        """Ask if SAM would accept this declaration. Raises SamRefused, its words a line per fault."""

    def modify(self, name: str, changes: Metadata) -> None: ...

    def retire(self, name: str) -> None: ...

    def add_location(self, name: str, location: str) -> None: ...

    def remove_location(self, name: str, location: str) -> None:
        """Quiet when the file has no such location."""

    def definition(self, name: str) -> str:
        """Its dimensions. Raises SamAbsent."""

    def description(self, definition: str) -> str:
        """What its maker said of it; empty where SAM does not tell. Raises SamAbsent."""

    def definitions(self, prefix: str) -> list[str]: ...

    def create_definition(self, name: str, dims: str, description: str = "") -> None:
        """Quiet when it exists with the same query; DefinitionDiffers when it exists with another."""

    def rename_definition(self, old: str, new: str) -> None: ...

    def delete_definition(self, name: str) -> None:
        """Quiet when there is none. SAM refuses to delete one that a project has used."""

    def start_project(self, name: str, definition: str) -> str:
        """Start delivery of the definition's files, unless a project of that name exists; returns its URL."""

    def find_project(self, name: str) -> str | None:
        """Its URL, running or ended; None when SAM says there is none."""

    def end_project(self, name: str) -> None:
        """Quiet when it has ended. Raises SamAbsent."""

    def summary(self, name: str) -> dict[str, Any]:
        """project_status, dataset_def_name, files_in_snapshot, file_counts by status. Raises SamAbsent."""

    def projects(self, prefix: str, open_only: bool = False) -> list[str]: ...

    def project_files(self, project: str) -> Iterator[CatalogFile]:
        """The files of its snapshot, handed out or not."""

    def delivered(self, project: str, description: str = "") -> list[CatalogFile]:
        """The files that the project gave out: all, or to the consumer process with this description (the job key)."""

    def values(self, kind: str, **which: str) -> list[Any]:
        """Registered values, for example of kind data_tiers, parameters or data_disks; applications by family and
        so on. Raises SamAbsent where SAM knows no such kind."""

    def users(self) -> list[str]:
        """Names of the registered users; none where SAM keeps no such list."""

    def register_value(self, kind: str, value: str) -> None: ...

    def register_parameter(self, name: str, data_type: str = "string") -> None: ...

    def register_data_disk(self, mount_point: str, url_prefixes: Sequence[str] = ()) -> None: ...

    def register_application(self, family: str, name: str, version: str) -> None: ...

    def close(self) -> None: ...


def quote(value: str) -> str:
    """Write a value into dimensions so that it is one value, whatever is in it. `%` and `?` still match as wildcards.

    Dimensions know no escape within quotes. So a value with both kinds of quotes, a backslash (an escape to some
    parsers) or a control character can't be written: SamRefused, rather than a query that means something else.
    """
    mark = '"' if "'" in value else "'"
    if mark in value or "\\" in value or not value.isprintable():
        raise SamRefused(
            f"SAM's dimensions have no way to write {value!r}",
            "ask for the file by `file_id`; give new files a name without quotes, backslash and control characters",
            kind="Unquotable",
        )
    return f"{mark}{value}{mark}"


def normal_checksum(text: str) -> str:
    """One spelling for each checksum: `adler32:0a0b0c0d`, lower case and padded; `enstore:` as a plain decimal."""
    kind, _, value = text.strip().partition(":")
    kind, value = kind.lower(), value.strip().lower()
    if kind == "adler32":
        value = value.removeprefix("0x").rjust(8, "0")
    if kind in ("enstore", "crc") and value.isdecimal():
        kind, value = "enstore", str(int(value))
    return f"{kind}:{value}"


def same_content(mine: Collection[str], theirs: Collection[str]) -> bool:
    """Do these checksums speak of the same bytes? Some algorithm must be in both, and none may disagree."""
    one, two = (dict(normal_checksum(text).split(":", 1) for text in texts) for texts in (mine, theirs))
    shared = one.keys() & two.keys()
    return bool(shared) and all(one[kind] == two[kind] for kind in shared)


def record_of(metadata: Metadata) -> FileRecord:
    """SAM's metadata as a record. Raises KeyError, TypeError or ValueError when it is not one."""
    locations = (one.get("location") or one["full_path"] for one in metadata.get("locations") or ())
    return FileRecord(
        name=str(metadata["file_name"]),
        file_id=int(metadata["file_id"]),
        size=int(metadata.get("file_size") or 0),
        checksums=checksums_of(metadata),
        locations=tuple(locations),
        parents=tuple(one["file_name"] for one in metadata.get("parents") or ()),
        events=int(metadata.get("event_count") or 0),
        good=metadata.get("content_status", "good") == "good",
        retired=bool(metadata.get("retired_date")),
        metadata=metadata,
    )


def checksums_of(metadata: Metadata) -> tuple[str, ...]:
    """Normalised. SAM's list, the bare string that old producers sent, or the `crc` of older ones still."""
    given = metadata.get("checksum") or ()
    texts = [given] if isinstance(given, str) else list(given)
    if not texts and isinstance(crc := metadata.get("crc"), Mapping):
        texts = [f"enstore:{crc['crc_value']}"]
    return tuple(normal_checksum(text) for text in texts)
