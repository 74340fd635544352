"""A SAM in memory: the methods and errors of `keepupd.clients.sam.Sam`, deterministic, with faults on order.

The contract suite (tests/clients/test_sam_contract.py) holds this fake and the real client to the same stories.
"""

import functools
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from threading import RLock
from typing import Any

from fake_sam_dims import Row, evaluate, refuse

from keepupd.clients.catalog import FileRecord, Metadata, quote, record_of
from keepupd.clients.sam import ALSO_UNLOCATED, segment
from keepupd.core.errors import DefinitionDiffers, SamAbsent, SamRefused, SamUnavailable
from keepupd.core.model import CatalogFile

OWN_FIELDS = {
    "file_name", "file_id", "file_size", "checksum", "crc", "file_type", "file_format", "content_status", "group",
    "data_tier", "data_stream", "application", "event_count", "first_event", "last_event", "start_time", "end_time",
    "runs", "process_id", "run_number", "family", "version", "file_partition", "create_date",
    "user", "update_date", "update_user",
}  # fmt: skip


@dataclass
class _File:
    id: int
    metadata: dict[str, Any]
    locations: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        return str(self.metadata["file_name"])

    @property
    def retired(self) -> bool:
        return bool(self.metadata.get("retired_date"))


@dataclass
class _Definition:
    name: str
    dims: str
    description: str = ""
    used: bool = False


@dataclass
class _Process:
    id: int
    project: str
    description: str
    limit: int
    status: str = "active"


@dataclass
class _Project:
    name: str
    definition: _Definition
    snapshot: list[int]
    ended: bool = False
    given: dict[int, tuple[int, str]] = field(default_factory=dict)  # file id -> process id, status
    failed: set[int] = field(default_factory=set)


def asked(method: Callable[..., Any]) -> Callable[..., Any]:
    """A question to SAM: one at a time, counted, and with the fault that was ordered before or after it is done."""

    @functools.wraps(method)
    def ask(self: "FakeSam", *args: Any, **kwargs: Any) -> Any:
        with self.lock:
            self.calls[method.__name__] += 1
            self.fail_if_ordered(method.__name__)
            answer = method(self, *args, **kwargs)
            if self.replies_to_lose:
                self.replies_to_lose -= 1
                raise SamUnavailable(f"{method.__name__}: the reply was lost", "ordered by the test")
            return answer

    return ask


def streamed(method: Callable[..., Any]) -> Callable[..., Any]:
    """As the real client does, ask when the iterator is first advanced."""

    @functools.wraps(method)
    def stream(self: "FakeSam", *args: Any) -> Iterator[CatalogFile]:
        yield from asked(method)(self, *args)

    return stream


def absent(what: str, name: str) -> SamAbsent:
    return SamAbsent(f"{what} {name!r} not found", "check the name", kind=f"{what}NotFound", status=404)


class FakeSam:
    """`silent`: no call is answered; `fail_next(n)`: the next n are not; `lose_reply_next()`: done, not answered."""

    def __init__(self, base: str = "http://sam.example.org/sam/dune/api") -> None:
        self.base, self.lock = base, RLock()
        self.silent, self.failures, self.replies_to_lose = False, 0, 0
        self.clock: Callable[[], datetime] = lambda: datetime.now(UTC)
        self.calls: Counter[str] = Counter()
        self.by_id: dict[int, _File] = {}
        self.by_name: dict[str, _File] = {}
        self.children: dict[int, set[int]] = {}
        self.defined: dict[str, _Definition] = {}
        self.started: dict[str, _Project] = {}
        self.processes: dict[int, _Process] = {}
        self.registered: dict[str, list[Any]] = {"parameters": [], "data_disks": [], "applications": []}

    # --- for tests ---------------------------------------------------------------------------------------------

    def fail_next(self, calls: int = 1) -> None:
        self.failures = calls

    def lose_reply_next(self, calls: int = 1) -> None:
        self.replies_to_lose = calls

    def fail_if_ordered(self, what: str) -> None:
        if self.silent or self.failures:
            self.failures = max(0, self.failures - 1)
            raise SamUnavailable(f"{what}: SAM does not answer", "ordered by the test")

    def put(self, name: str, location: str | None = "demo:/in", **metadata: Any) -> int:
        """Make a file appear without asking SAM: faults on order don't touch it. Returns its id."""
        file_id = len(self.by_id) + 1
        record: dict[str, Any] = {"file_name": name, "file_size": 1000, "file_type": "mc", **metadata}
        record |= {"file_id": file_id, "create_date": self.clock().isoformat(timespec="seconds")}
        for parameter in (key for key in record if "." in key):
            self._register("parameters", {"name": parameter, "data_type": "string"})
        file = _File(file_id, record, [location] if location else [])
        self.by_id[file_id] = self.by_name[name] = file
        for parent in record.get("parents", ()):
            self.children.setdefault(self._parent(parent).id, set()).add(file_id)
        return file_id

    # --- files -------------------------------------------------------------------------------------------------

    @asked
    def server_info(self) -> str:
        return "SAMWeb API for tests"

    @asked
    def count(self, dims: str) -> int:
        return len(evaluate(dims, self))

    @asked
    def definition_count(self, name: str) -> int:
        return len(self._members(name))

    @streamed
    def files(self, dims: str) -> Iterator[CatalogFile]:
        return self._listed(evaluate(dims, self))

    @streamed
    def definition_files(self, name: str) -> Iterator[CatalogFile]:
        return self._listed(self._members(name))

    @asked
    def records(self, names: Collection[str]) -> dict[str, FileRecord]:
        return {name: self._record(self.by_name[name]) for name in names if name in self.by_name}

    @asked
    def declare(self, metadata: Metadata) -> None:
        name = str(metadata.get("file_name", ""))
        if name in self.by_name:
            raise SamRefused(f"file {name!r} already exists", "compare them", kind="FileAlreadyExists", status=409)
        self._check(metadata)
        self.put(name, location=None, **{key: value for key, value in metadata.items() if key != "file_name"})

    @asked
    def validate(self, metadata: Metadata) -> None:
        self._check(metadata)

    @asked
    def modify(self, name: str, changes: Metadata) -> None:
        file = self._file(name)
        self._check({**file.metadata, **changes})
        file.metadata |= changes | {"update_date": self.clock().isoformat(timespec="seconds")}

    @asked
    def retire(self, name: str) -> None:
        self._file(name).metadata.setdefault("retired_date", datetime.now(UTC).isoformat(timespec="seconds"))

    @asked
    def add_location(self, name: str, location: str) -> None:
        file = self._file(name)
        if not any(location.startswith(disk["mount_point"]) for disk in self.registered["data_disks"]):
            raise SamRefused(f"Location {location!r} not found", "register its data disk", kind="LocationNotFound")
        if location not in file.locations:
            file.locations.append(location)

    @asked
    def remove_location(self, name: str, location: str) -> None:
        file = self._file(name)
        file.locations = [one for one in file.locations if one != location]

    # --- definitions -------------------------------------------------------------------------------------------

    @asked
    def definition(self, name: str) -> str:
        return self._definition(name).dims

    @asked
    def description(self, definition: str) -> str:
        return self._definition(definition).description

    @asked
    def definitions(self, prefix: str) -> list[str]:
        return sorted(name for name in self.defined if name.startswith(prefix))

    @asked
    def create_definition(self, name: str, dims: str, description: str = "") -> None:
        segment(name)
        found = self.defined.get(name)
        if found and found.dims.split() != dims.split():
            raise DefinitionDiffers(name, dims, found.dims)
        evaluate(dims, self)
        if not found:
            self.defined[name] = _Definition(name, dims, description)

    @asked
    def rename_definition(self, old: str, new: str) -> None:
        if old not in self.defined and new in self.defined:
            return  # done before, the reply was lost
        definition, _ = self._definition(old), segment(new)
        if new in self.defined:
            raise SamRefused(f"definition {new!r} already exists", "choose another", "DefinitionExists", 409)
        definition.name = new
        self.defined[new] = self.defined.pop(old)

    @asked
    def delete_definition(self, name: str) -> None:
        if name in self.defined and self.defined[name].used:
            raise SamRefused(f"definition {name!r} was used", "rename it", kind="DefinitionInUse", status=409)
        self.defined.pop(name, None)

    # --- projects ----------------------------------------------------------------------------------------------

    @asked
    def start_project(self, name: str, definition: str) -> str:
        if name not in self.started:
            members = self._members(definition)
            self._definition(definition).used = True
            self.started[name] = _Project(name, self._definition(definition), members)
        return self._url(name)

    @asked
    def find_project(self, name: str) -> str | None:
        return self._url(name) if name in self.started else None

    @asked
    def end_project(self, name: str) -> None:
        self._project(name).ended = True
        for process in self.processes.values():
            if process.project == name and process.status == "active":
                process.status = "finished"

    @asked
    def summary(self, name: str) -> dict[str, Any]:
        project = self._project(name)
        delivered_all = len(project.given) == len(project.snapshot)
        ended = "ended complete" if delivered_all else "ended incomplete"
        return {
            "project_name": name,
            "project_status": ended if project.ended else "running",
            "dataset_def_name": project.definition.name,
            "files_in_snapshot": len(project.snapshot),
            "file_counts": dict(Counter(status for _, status in project.given.values())),
            "process_counts": dict(Counter(p.status for p in self.processes.values() if p.project == name)),
        }

    @asked
    def projects(self, prefix: str, open_only: bool = False) -> list[str]:
        mine = (p for p in self.started.values() if p.name.startswith(prefix))
        return sorted(p.name for p in mine if not (open_only and p.ended))

    @streamed
    def project_files(self, project: str) -> Iterator[CatalogFile]:
        return self._listed(evaluate(f"snapshot_for_project_name {quote(project)} {ALSO_UNLOCATED}", self))

    @asked
    def delivered(self, project: str, description: str = "") -> list[CatalogFile]:
        process = f" and consumer_process_description {quote(description)}" if description else ""
        dims = f"project_name {quote(project)}{process}"
        return list(self._listed(evaluate(f"{dims} {ALSO_UNLOCATED}", self)))

    # --- values ------------------------------------------------------------------------------------------------

    @asked
    def values(self, kind: str, **which: str) -> list[Any]:
        known = self.registered.get(kind, ())
        return [one for one in known if all(one[key] == value for key, value in which.items())]

    @asked
    def users(self) -> list[str]:
        return []

    @asked
    def register_value(self, kind: str, value: str) -> None:
        self._register(kind, value)

    @asked
    def register_parameter(self, name: str, data_type: str = "string") -> None:
        self._register("parameters", {"name": name, "data_type": data_type})

    @asked
    def register_data_disk(self, mount_point: str, url_prefixes: Sequence[str] = ()) -> None:
        node, _, directory = mount_point.partition(":")
        disk = {"mount_point": mount_point, "node": node, "dir": directory, "disk_type": "disk"}
        self._register("data_disks", disk)

    @asked
    def register_application(self, family: str, name: str, version: str) -> None:
        self._register("applications", {"family": family, "name": name, "version": version})

    def close(self) -> None:
        """Nothing is open."""

    # --- what workers do ---------------------------------------------------------------------------------------

    @asked
    def establish(self, project: str, description: str, limit: int = 0) -> int:
        """A new consumer process; its id. `limit` is a number of files, 0 for all."""
        if self._project(project).ended:
            raise SamRefused(f"project {project!r} has ended", "start another", kind="ProjectEnded")
        process = _Process(9001 + len(self.processes), project, description, limit)
        self.processes[process.id] = process
        return process.id

    @asked
    def next_file(self, process_id: int) -> CatalogFile | None:
        """The file it holds, else the next that nobody was given; None when there is none left for it."""
        process = self.processes[process_id]
        project = self._project(process.project)
        mine = {file_id: status for file_id, (owner, status) in project.given.items() if owner == process_id}
        if project.ended or process.status != "active":
            raise SamRefused(f"project {project.name!r} or process {process_id} has ended", "stop", "ProjectEnded")
        held = [file_id for file_id, status in mine.items() if status in ("delivered", "transferred")]
        free = (
            []
            if held or (process.limit and len(mine) >= process.limit)
            else [i for i in project.snapshot if i not in project.given and i not in project.failed]
        )
        for file_id in list(free):
            if self.by_id[file_id].locations:
                break
            project.failed.add(file_id)  # its location went meanwhile: passed over, for good
            free.remove(file_id)
        for file_id in [*held, *free][:1]:
            project.given.setdefault(file_id, (process_id, "delivered"))
            return next(self._listed([file_id]))
        return None

    @asked
    def set_file_status(self, process_id: int, name: str, status: str) -> None:
        """`transferred`, `consumed` or `skipped`."""
        given = self._project(self.processes[process_id].project).given
        given[self._file(name).id] = (process_id, status)

    @asked
    def end_process(self, process_id: int, status: str = "finished") -> None:
        self.processes[process_id].status = status

    # --- what dimensions ask (fake_sam_dims.World) ---------------------------------------------------------------

    def everything(self) -> set[int]:
        return set(self.by_id)

    def definition_dims(self, name: str) -> str:
        if name not in self.defined:
            raise refuse(f"definition {name!r} not found")
        return self.defined[name].dims

    def is_dimension(self, name: str) -> bool:
        return name in OWN_FIELDS or any(name == one["name"].lower() for one in self.registered["parameters"])

    def snapshot_files(self, matches: Callable[[Any], bool]) -> set[int]:
        return {file_id for p in self.started.values() if matches(p.name) for file_id in p.snapshot}

    def field_values(self, file_id: int, name: str) -> list[Any]:
        metadata = {key.lower(): value for key, value in self.by_id[file_id].metadata.items()}
        application = metadata.get("application") or {}
        metadata |= {"family": application.get("family"), "version": application.get("version")}
        metadata["application"] = application.get("name")
        if name == "run_number":
            return [run[0] for run in metadata.get("runs", ())]
        if name == "checksum":
            return list(self._record(self.by_id[file_id]).checksums)
        return [] if metadata.get(name) is None else [metadata[name]]

    def rows(self, name: str, matches: Callable[[Any], bool]) -> set[Row]:
        found: set[Row] = set()
        for project in self.started.values():
            for file_id, (process_id, status) in project.given.items():
                process = self.processes[process_id]
                value = {"project_name": project.name, "consumed_status": status, "consumer_process_id": process_id}
                if matches(value.get(name, process.description)):
                    found.add((process_id, file_id))
        return found

    def relatives(self, file_ids: Iterable[int], parents: bool) -> set[int]:
        if parents:
            return {self._parent(p).id for i in file_ids for p in self.by_id[i].metadata.get("parents", ())}
        return {child for file_id in file_ids for child in self.children.get(file_id, ())}

    def is_available(self, file_id: int, availability: set[str]) -> bool:
        file = self.by_id[file_id]
        if "any" in availability:
            return True
        if file.retired or file.metadata.get("content_status", "good") != "good":
            return False
        if "anylocation" in availability:
            return True
        return not file.locations if availability == {"virtual"} else bool(file.locations)

    # --- within ------------------------------------------------------------------------------------------------

    def _listed(self, file_ids: Iterable[int]) -> Iterator[CatalogFile]:
        for file in (self.by_id[file_id] for file_id in file_ids):
            size, events = (int(file.metadata.get(key) or 0) for key in ("file_size", "event_count"))
            yield CatalogFile(file.name, file.id, size, events)

    def _members(self, definition: str) -> list[int]:
        return evaluate(self._definition(definition).dims, self)

    def _definition(self, name: str) -> _Definition:
        segment(name)
        if name not in self.defined:
            raise absent("Definition", name)
        return self.defined[name]

    def _project(self, name: str) -> _Project:
        if name not in self.started:
            raise absent("Project", name)
        return self.started[name]

    def _file(self, name: str) -> _File:
        segment(name)
        if name not in self.by_name:
            raise absent("File", name)
        return self.by_name[name]

    def _parent(self, given: Mapping[str, Any]) -> _File:
        return self.by_id[given["file_id"]] if "file_id" in given else self._file(given["file_name"])

    def _record(self, file: _File) -> FileRecord:
        locations = [{"full_path": one, "location": one, "location_type": "disk"} for one in file.locations]
        parents = [self._parent(one) for one in file.metadata.get("parents", ())]
        named = [{"file_name": parent.name, "file_id": parent.id} for parent in parents]
        return record_of({**file.metadata, "locations": locations, "parents": named})

    def _url(self, project: str) -> str:
        return f"{self.base}/projects/dune/{project}"

    def _register(self, kind: str, value: Any) -> None:
        known = self.registered.setdefault(kind, [])
        if value not in known:
            known.append(value)

    def _check(self, metadata: Metadata) -> None:
        """SAM's own checks, as far as keepupd meets them. Raises SamRefused (InvalidMetadata) with every fault."""
        faults = [
            f"{key}: missing" for key in ("file_name", "file_type", "file_size") if metadata.get(key) in (None, "")
        ]
        name = str(metadata.get("file_name", ""))
        if len(name) >= 200 or "/" in name or any(ord(c) < 32 for c in name):
            faults.append(f"file_name {name[:40]!r} is too long or has characters that are not allowed")
        known = {one["name"].lower() for one in self.registered["parameters"]}
        faults += [f"Unknown parameter '{key}'" for key in metadata if "." in key and key.lower() not in known]
        for parent in metadata.get("parents", ()):
            if parent.get("file_name") not in self.by_name and parent.get("file_id") not in self.by_id:
                faults.append(f"parent '{parent.get('file_name', parent.get('file_id'))}' does not exist")
        if faults:
            raise SamRefused("\n".join(faults), "correct the metadata", kind="InvalidMetadata", status=400)
