"""The SAM catalog over HTTP: files, definitions, projects and registered values, as the protocol `Catalog` has them.

What may be lost on the way is made safe to repeat here: each method says how. How long we try is in http.py.
"""

from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from itertools import islice
from typing import Any
from urllib.parse import quote as percent_encode

import httpx

from keepupd.clients.catalog import Catalog, FileRecord, Metadata, checksums_of, quote, record_of, same_content
from keepupd.clients.http import Conflict, Form, Http, NoAnswer, Reply
from keepupd.core.errors import DefinitionDiffers, SamAbsent, SamRefused
from keepupd.core.model import CatalogFile

__all__ = ["Catalog", "FileRecord", "Sam", "quote"]

LONGEST_GET = 1024  # characters of dims; longer ones go by POST, as samweb does
WRITER = "*"  # the SAM-Role samweb sends when it changes files, definitions and values
EVER = "1970-01-01T00:00:00"
ALSO_UNLOCATED = "with availability anylocation"  # a delivered file stays delivered when it loses its location


class Sam:
    """A `Catalog`; thread-safe. Give `write_url` where SAM takes changes at another address than questions.

    timeout_s: longest silence of SAM within a try. patience_s: how long to go on trying; a call that is not answered
    takes at most about patience_s + timeout_s. bulk: most names in one question.
    Source of the protocol: samweb client (sam-web-client), http_client.py, files.py, projects.py and definitions.py.
    """

    def __init__(
        self,
        read_url: str,
        write_url: str | None = None,
        experiment: str = "dune",
        station: str | None = None,
        group: str | None = None,
        user: str = "keepupd",
        timeout_s: float = 60,
        patience_s: float = 120,
        bulk: int = 500,
        transport: httpx.BaseTransport | None = None,
    ):
        self._read, self._write = read_url.rstrip("/"), (write_url or read_url).rstrip("/")
        self._station, self._group = station or experiment, group or experiment
        self._user, self._bulk = user, bulk
        self._http = Http(user, timeout_s, patience_s, transport)

    def close(self) -> None:
        self._http.close()

    # --- files ------------------------------------------------------------------------------------------------

    def server_info(self) -> str:
        return self._http.ask("GET", self._read, read=_text)

    def count(self, dims: str) -> int:
        method, params, form = _carry(dims)
        return self._http.ask(method, f"{self._read}/files/count", params=params, form=form, read=_number)

    def definition_count(self, name: str) -> int:
        return self._http.ask("GET", f"{self._read}/definitions/name/{segment(name)}/files/count", read=_number)

    def files(self, dims: str) -> Iterator[CatalogFile]:
        method, params, form = _carry(dims)
        return self._listed(method, "/files/list", params, form)

    def definition_files(self, name: str) -> Iterator[CatalogFile]:
        return self._listed("GET", f"/definitions/name/{segment(name)}/files/list", {}, None)

    def records(self, names: Collection[str]) -> dict[str, FileRecord]:
        found: dict[str, FileRecord] = {}
        rest = iter(dict.fromkeys(names))
        while chunk := list(islice(rest, self._bulk)):
            form = {"file_name": chunk, "locations": "1"}
            for record in self._http.ask("POST", f"{self._read}/files/metadata", form=form, read=_records):
                found[record.name] = record
        return found

    def declare(self, metadata: Metadata) -> None:
        """After a lost reply SAM says 409 to the second try: the record is then ours if the checksum is."""
        try:
            self._http.ask("POST", f"{self._write}/files", json=dict(metadata), read=_ignore)
        except Conflict as error:
            if error.tries == 1 or not self._holds(metadata):
                raise

    def validate(self, metadata: Metadata) -> None:
        self._http.ask("POST", f"{self._read}/files/validate_metadata", json=dict(metadata), read=_ignore)

    def modify(self, name: str, changes: Metadata) -> None:
        self._http.ask("PUT", self._file(name, "metadata"), json=dict(changes), role=WRITER, read=_ignore)

    def retire(self, name: str) -> None:
        self._http.ask("POST", self._file(name, "retired_date"), role=WRITER, read=_ignore)

    def add_location(self, name: str, location: str) -> None:
        with suppress(Conflict):
            self._http.ask("POST", self._file(name, "locations"), form={"add": location}, role=WRITER, read=_ignore)

    def remove_location(self, name: str, location: str) -> None:
        try:
            self._http.ask("POST", self._file(name, "locations"), form={"remove": location}, role=WRITER, read=_ignore)
        except SamRefused:
            record = self.records([name]).get(name)
            if record is None or location in record.locations:
                raise

    # --- definitions ------------------------------------------------------------------------------------------

    def definition(self, name: str) -> str:
        url = f"{self._read}/definitions/name/{segment(name)}/describe"
        return self._http.ask("GET", url, params={"format": "json"}, read=lambda reply: str(reply.json["dimensions"]))

    def description(self, definition: str) -> str:
        url = f"{self._read}/definitions/name/{segment(definition)}/describe"
        told = self._http.ask("GET", url, params={"format": "json"}, read=_object)
        return str(told.get("description") or "")

    def definitions(self, prefix: str) -> list[str]:
        return self._names("definitions/list", prefix, "defname")

    def create_definition(self, name: str, dims: str, description: str = "") -> None:
        segment(name)  # else SAM could hold a definition that has no address
        form = {"defname": name, "dims": dims, "group": self._group, "user": self._user, "description": description}
        try:
            self._http.ask("POST", f"{self._write}/definitions/create", form=form, read=_ignore)
        except Conflict:
            found = self.definition(name)
            if found.split() != dims.split():
                raise DefinitionDiffers(name, dims, found) from None

    def rename_definition(self, old: str, new: str) -> None:
        """When the old one is gone and the new one is there, it is done, by us or another."""
        segment(new)
        url = f"{self._write}/definitions/name/{segment(old)}"
        try:
            self._http.ask("PUT", url, form={"defname": new}, role=WRITER, read=_ignore)
        except SamRefused:
            if self._is_defined(old) or not self._is_defined(new):
                raise

    def delete_definition(self, name: str) -> None:
        with suppress(SamAbsent):
            self._http.ask("DELETE", f"{self._write}/definitions/name/{segment(name)}", read=_ignore)

    # --- projects ---------------------------------------------------------------------------------------------

    def start_project(self, name: str, definition: str) -> str:
        """Asks for a project of that name first, and once more when SAM says it exists."""
        if url := self.find_project(name):
            return url
        segment(name)
        form = {"name": name, "station": self._station, "group": self._group, "defname": definition}
        try:
            return self._http.ask(
                "POST", f"{self._write}/startProject", form=form | {"username": self._user}, read=_url
            )
        except Conflict as error:
            if url := self.find_project(name):
                return url
            raise NoAnswer(f"project {name!r} is started, and SAM can't find it yet") from error

    def find_project(self, name: str) -> str | None:
        params = {"name": name, "station": self._station}
        try:
            return self._http.ask("GET", f"{self._read}/findProject", params=params, read=_url)
        except SamAbsent:
            return None

    def end_project(self, name: str) -> None:
        if not (url := self.find_project(name)):
            raise SamAbsent(f"SAM has no project {name!r}", "check the name", kind="ProjectNotFound", status=404)
        try:
            self._http.ask("POST", f"{url}/endProject", form={"force": "1"}, read=_ignore)
        except SamRefused:
            if not self.summary(name)["project_status"].startswith(("ended", "completed")):
                raise

    def summary(self, name: str) -> dict[str, Any]:
        url = f"{self._read}/projects/name/{segment(name)}/summary"
        return self._http.ask("GET", url, params={"format": "json", "process_limit": "0"}, read=_object)

    def projects(self, prefix: str, open_only: bool = False) -> list[str]:
        """The open ones are all but those that have ended. In this order: one that ends meanwhile counts as ended."""
        found = self._names("projects", prefix, "name")
        if not open_only:
            return found
        ended = set(self._names("projects", prefix, "name", ended_after=EVER))
        return [name for name in found if name not in ended]

    def project_files(self, project: str) -> Iterator[CatalogFile]:
        return self.files(f"snapshot_for_project_name {quote(project)} {ALSO_UNLOCATED}")

    def delivered(self, project: str, description: str = "") -> list[CatalogFile]:
        process = f" and consumer_process_description {quote(description)}" if description else ""
        return list(self.files(f"project_name {quote(project)}{process} {ALSO_UNLOCATED}"))

    # --- values -----------------------------------------------------------------------------------------------

    def values(self, kind: str, **which: str) -> list[Any]:
        return self._http.ask("GET", f"{self._read}/values/{segment(kind)}", params=which, read=_list)

    def users(self) -> list[str]:
        return self._http.ask("GET", f"{self._read}/users", read=_list)

    def register_value(self, kind: str, value: str) -> None:
        self._register(kind, {"value": value})

    def register_parameter(self, name: str, data_type: str = "string") -> None:
        self._register("parameters", {"name": name, "data_type": data_type})

    def register_data_disk(self, mount_point: str, url_prefixes: Sequence[str] = ()) -> None:
        """`url_prefixes`, such as root://localhost:1094/, are an extension of keepup-sam; another SAM ignores them."""
        self._register("data_disks", {"mountpoint": mount_point, "url_prefix": list(url_prefixes)})

    def register_application(self, family: str, name: str, version: str) -> None:
        self._register("applications", {"family": family, "name": name, "version": version})

    # --- within -----------------------------------------------------------------------------------------------

    def _file(self, name: str, what: str) -> str:
        return f"{self._write}/files/name/{segment(name)}/{what}"

    def _listed(self, method: str, path: str, params: Form, form: Form | None) -> Iterator[CatalogFile]:
        params = {**params, "format": "plain", "fileinfo": "1"}
        with self._http.stream(method, self._read + path, params, form) as lines:
            for line in lines:
                if line.strip():
                    yield _catalog_file(line)

    def _names(self, path: str, prefix: str, key: str, **more: str) -> list[str]:
        """SAM may take more in the prefix for wildcards than `%`, so its answer is sifted."""
        params = {"format": "plain", key: f"{prefix}%", **more}
        text = self._http.ask("GET", f"{self._read}/{path}", params=params, read=_text)
        return [name for name in text.split("\n") if name.startswith(prefix)]

    def _holds(self, metadata: Metadata) -> bool:
        """Is the record of this name in SAM of the same bytes as ours?"""
        for record in self.records([str(metadata["file_name"])]).values():
            same_size = record.size == int(metadata.get("file_size") or 0)
            return same_size and same_content(checksums_of(metadata), record.checksums)
        return False

    def _is_defined(self, name: str) -> bool:
        try:
            return bool(self.definition(name))
        except SamAbsent:
            return False

    def _register(self, kind: str, form: Form) -> None:
        with suppress(Conflict):  # registered before: fine
            self._http.ask("POST", f"{self._write}/values/{segment(kind)}", form=form, role=WRITER, read=_ignore)


def segment(name: str) -> str:
    """A name as one segment of a path. Raises SamRefused where it can't be one.

    Proxies and servers decode `%2F` and fold `..` before they look, so encoding would not keep such a name in place.
    """
    if name in ("", ".", "..") or "/" in name or not name.isprintable():
        raise SamRefused(
            f"SAM can't hold the name {name!r}",
            "use a name that is not empty, `.` or `..`, and has no `/` and no control character",
            kind="BadName",
        )
    return percent_encode(name, safe="")


def _carry(dims: str) -> tuple[str, Form, Form | None]:
    """Method, query and form that bring dimensions to SAM: a long query would break limits on the length of URLs."""
    return ("GET", {"dims": dims}, None) if len(dims) <= LONGEST_GET else ("POST", {}, {"dims": dims})


def _catalog_file(line: str) -> CatalogFile:
    """name, id, size and events; the name may hold blanks. TABs in our server's lines, any blanks in others'."""
    name, file_id, size, events = line.rsplit("\t", 3) if "\t" in line else line.rsplit(None, 3)
    return CatalogFile(name, int(file_id), int(size), int(events))


def _ignore(_: Reply) -> None:
    return None


def _text(reply: Reply) -> str:
    return reply.text


def _number(reply: Reply) -> int:
    return int(reply.text)


def _url(reply: Reply) -> str:
    url = reply.text.strip()
    if not url.startswith(("http://", "https://")):
        raise ValueError(f"no URL: {url[:80]!r}")
    return url


def _list(reply: Reply) -> list[Any]:
    if not isinstance(reply.json, list):
        raise ValueError(f"no list: {reply.text[:80]!r}")
    return reply.json


def _object(reply: Reply) -> dict[str, Any]:
    if not isinstance(reply.json, dict):
        raise ValueError(f"no object: {reply.text[:80]!r}")
    return reply.json


def _records(reply: Reply) -> list[FileRecord]:
    return [record_of(one) for one in _list(reply)]
