"""`keepupd check` of SAM's registers: what is not in them and must be, before SAM takes a campaign's outputs, and the
command that puts it there.

SAM's own word on a declaration is asked for as well: it knows rules that no list shows.
"""

import secrets
import shlex
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from keepupd.clients.catalog import Catalog
from keepupd.clients.credentials import bearer_token, certificate
from keepupd.clients.storage import storage_of
from keepupd.clients.total_file import Total, need
from keepupd.config import Campaign
from keepupd.core.errors import SamRefused
from keepupd.daemon import launching
from keepupd.daemon.keeper import Keeper
from keepupd.daemon.versions import metadata_of, version_name

if TYPE_CHECKING:
    from keepupd.daemon.check import Findings

LISTS = {"data_tier": "data_tiers", "data_stream": "data_streams", "file_type": "file_types",
         "file_format": "file_formats", "group": "groups"}  # fmt: skip
NAMED = {"parameters": "name", "data_disks": "mount_point", "users": "username"}
LOOPBACK = ("localhost", "127.0.0.1", "::1")


class Registered:
    """What SAM has registered. Each list is asked for once, however many campaigns there are."""

    def __init__(self, sam: Catalog):
        self._sam = sam
        self._found: dict[str, list[str] | None] = {}

    def names(self, kind: str) -> list[str] | None:
        """None where SAM shows us no such list: nothing is then known of it."""
        if kind not in self._found:
            try:
                listed = self._sam.users() if kind == "users" else self._sam.values(kind)
                self._found[kind] = [_name(kind, one) for one in listed]
            except SamRefused:
                self._found[kind] = None
        return self._found[kind]

    def lacks(self, kind: str, name: str) -> bool:
        """Names of parameters are the same in any case."""
        known = self.names(kind)
        if known is not None and kind == "parameters":
            return name.casefold() not in {one.casefold() for one in known}
        return known is not None and name not in known

    def lacks_application(self, wanted: Mapping[str, str]) -> bool:
        try:
            return dict(wanted) not in [
                {key: one.get(key) for key in wanted} for one in self._sam.values("applications", **wanted)
            ]
        except SamRefused:
            return False

    def missing(self, metadata: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
        """(field, what SAM does not know, the command that registers it)."""
        for field, value in metadata.items():
            if field == "application" and self.lacks_application(value):
                words = [value["family"], value["name"], value["version"]]
                yield field, f"application {' '.join(words)}", command("add-application", *words)
            elif "." in field and self.lacks("parameters", field):
                yield field, f"parameter {field}", command("add-parameter", field, _data_type(value))
            elif field in LISTS and self.lacks(LISTS[field], value):
                yield field, f"{field} {value!r}", command("add-value", LISTS[field], value)


def _name(kind: str, value: Any) -> str:
    """SAM lists plain strings, or objects with the name under a key of the kind's own: {"data_tier": "raw", ...}."""
    if not isinstance(value, Mapping):
        return str(value)
    return str(next(value[key] for key in value if key == NAMED.get(kind) or kind.startswith(key)))


def _data_type(value: Any) -> str:
    return type(value).__name__ if isinstance(value, int | float) else "string"


def command(*words: str) -> str:
    return f"`samweb {shlex.join(words)}`"


# --- who we are ---------------------------------------------------------------------------------------------------


def check_account(found: "Findings", k: Keeper, registered: Registered) -> None:
    """The account that asks SAM: its credentials, its user and group there."""
    sam = k.settings.sam
    with found.faults_of("SAM account"):
        url = urlsplit(sam.write_url)
        who = [f"certificate {one.file}" for one in (certificate(),) if one] + ["a bearer token"] * bool(bearer_token())
        if url.scheme == "https":
            found.ok("SAM account", f"{sam.user} of group {sam.group}, by {' and '.join(who)}") if who else found.warn(
                "SAM account", "neither token nor grid certificate found: SAM will likely refuse changes; "
                "set BEARER_TOKEN_FILE or X509_USER_PROXY")  # fmt: skip
        elif url.hostname not in LOOPBACK:
            found.warn("SAM account", f"{sam.write_url} is plain http, where no token or certificate is shown")
        # a SAM that lists no users at all, as keepup-sam at first, does not ask who writes
        if registered.names("users") and registered.lacks("users", sam.user):
            found.fault("SAM account", f"SAM knows no user {sam.user}", register("sam.user", "add-user", sam.user))
        if registered.lacks("groups", sam.group):
            found.fault("SAM account", f"SAM knows no group {sam.group}",
                        register("sam.group", "add-value", "groups", sam.group))  # fmt: skip


def register(what: str, *words: str) -> str:
    return f"correct {what}, or register it: {command(*words)}"


# --- what a campaign makes ----------------------------------------------------------------------------------------


def check_outputs(found: "Findings", k: Keeper, registered: Registered, campaign: Campaign, now: datetime) -> None:
    """Would SAM take such outputs, there? All that is not registered is named, each once."""
    with found.faults_of(campaign.name):
        order = launching.order_of(k, campaign, launching.new_key(now), [])
        outputs = order["outputs"]
        fixed: dict[str, Any] = {"application": order["application"]}
        if made := campaign.generator:
            fixed["runs"] = [[made.first_run, 1, made.run_type]]
        declared = [output["metadata"] | fixed for output in outputs]
        if campaign.analysis is not None:
            declared.append(metadata_of(k, campaign, Total()))
        inherited = [{key: "" for key in output["inherit"] if "." in key} for output in outputs]
        lacking = {what: how for record in [*inherited, *declared] for _, what, how in registered.missing(record)}
        for what, how in lacking.items():
            found.fault(campaign.name, f"SAM knows no {what}", f"correct the campaign, or register it: {how}")
        for record in declared:
            _would_declare(found, k, campaign, record, {field for field, _, _ in registered.missing(record)})
        for output in outputs:
            _would_locate(found, registered, campaign, output)
        if campaign.analysis is not None:
            _total(found, k, campaign)


def _total(found: "Findings", k: Keeper, campaign: Campaign) -> None:
    """Whether its running total could be made."""
    with found.faults_of(campaign.name):
        need("uproot", "root")
        storage_of(campaign.outputs[0].url)
        parameter = k.settings.sam.campaign_parameter
        value = metadata_of(k, campaign, Total())[parameter]
        found.ok(campaign.name, f"its total would be {version_name(campaign, 1)} and so on, with {parameter} {value!r}")


def _would_declare(
    found: "Findings", k: Keeper, campaign: Campaign, metadata: dict[str, Any], missing: set[str]
) -> None:
    """Ask SAM itself, of all but what is `missing` and named already. Without a file type there is nothing to ask."""
    name = f"check-{secrets.token_hex(8)}-{campaign.name}"
    rest = {field: value for field, value in metadata.items() if field not in missing}
    if "file_type" not in missing:
        try:
            k.sam.validate({**rest, "file_name": name, "file_size": 1, "checksum": ["adler32:00000001"]})
        except SamRefused as refusal:
            found.fault(campaign.name, f"SAM would refuse its outputs: {refusal.problem}",
                        "correct the campaign, or register with SAM what it does not know")  # fmt: skip


def _would_locate(found: "Findings", registered: Registered, campaign: Campaign, output: dict[str, Any]) -> None:
    place, disks = output["location"], registered.names("data_disks")
    if disks is not None and not is_below(place, disks):
        found.fault(campaign.name, f"SAM has no data disk for {place}: it would refuse this location",
                    f"correct the campaign, or {command('add-data-disk', place)} or a directory above")  # fmt: skip
    url = urlsplit(output["url"])
    if url.scheme == "file" and not Path(unquote(url.path)).is_dir():
        found.fault(campaign.name, f"there is no directory {unquote(url.path)} for its outputs on this machine",
                    "make it, or mount it: jobs make only directories of their own below it")  # fmt: skip


def is_below(place: str, disks: Sequence[str]) -> bool:
    return any(f"{place}/".startswith(disk.rstrip("/") + "/") for disk in disks)
