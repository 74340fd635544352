"""Where copies of files are, on which registered disks, and the URLs by which a job can read them.

A location is `node:/dir` or a URL of a directory, stored word for word; two that differ by a slash are the same one. It
must lie under a registered data disk. A tape copy has the suffix `(sequence@LABEL)`.
"""

import json
import re
import sqlite3
from collections.abc import Iterable, Sequence
from urllib.parse import quote

from .errors import BadRequest, LocationNotFound, ValueExists
from .files import file_id, location_json

Db = sqlite3.Connection
SAME_SCHEME = {"xroot": "root", "xrootd": "root"}


def canonical(location: str) -> str:
    """The form by which locations are compared: single slashes after the node, none at the end."""
    node, colon, path = location.partition(":")
    return f"{node}{colon}{re.sub(r'/+', '/', path).rstrip('/') or '/'}"


def disk_of(db: Db, location: str) -> sqlite3.Row | None:
    """The data disk with the longest mount point above this location."""
    place = canonical(location)
    node = place.partition(":")[0]
    disks = db.execute("SELECT * FROM data_disks WHERE substr(mount_point, 1, ?) = ?", (len(node) + 1, f"{node}:"))
    above = [d for d in disks if f"{place}/".startswith(canonical(d["mount_point"]).rstrip("/") + "/")]
    return max(above, key=lambda d: len(canonical(d["mount_point"])), default=None)


def add(db: Db, column: str, key: str, location: str) -> None:
    """Record a copy; one that is there already stays as it is. Raises FileNotFound, LocationNotFound, BadRequest."""
    owner = file_id(db, column, key)
    path = re.sub(r"\(\d+@[^()]*\)$", "", location)
    if not re.match(r"[A-Za-z0-9_.-]+:/", location) or re.search(r"[\x00-\x1f\x7f]|/\.\.?(/|$)", path):
        raise BadRequest(f"a location is node:/absolute/dir or the URL of a directory, not '{location[:300]}'")
    disk = disk_of(db, path)
    if disk is None:
        raise LocationNotFound(f"Location '{location[:300]}' not found: no data disk is registered for it "
                               "(POST values/data_disks, mountpoint=node:/dir)")
    label = location[len(path):].strip("()").partition("@")[2] or None
    kind = "tape" if label or disk["disk_type"] == "tape" else "disk"
    directory = path if "://" in path else path.partition(":")[2]
    db.execute("INSERT INTO locations (file_id, location, full_path, path, tape_label, location_type, canonical) "
               "VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
               (owner, location, path, directory, label, kind, canonical(location)))


def remove(db: Db, column: str, key: str, location: str) -> None:
    """Forget a copy. Raises FileNotFound, LocationNotFound when the file has no such location."""
    owner = file_id(db, column, key)
    gone = db.execute("DELETE FROM locations WHERE file_id = ? AND canonical = ?", (owner, canonical(location)))
    if gone.rowcount == 0:
        gone = db.execute("DELETE FROM locations WHERE file_id = ? AND full_path = ?", (owner, location))
    if gone.rowcount == 0:
        raise LocationNotFound(f"Location '{location[:300]}' not found for file '{key}'")


def listed(db: Db, column: str, key: str) -> list[dict[str, str]]:
    """The locations of one file. Raises FileNotFound."""
    owner = file_id(db, column, key)
    return [location_json(r) for r in db.execute(
        "SELECT * FROM locations WHERE file_id = ? ORDER BY location_id", (owner,))]


def add_disk(db: Db, mount_point: str, prefixes: Sequence[str], disk_type: str = "disk") -> None:
    """Register a data disk. url_prefix: what stands before the directory in a URL, one for each way to read it,
    such as root://host:1094/ or file://. Registering it again with other prefixes replaces them; with the same ones
    raises ValueExists. Raises BadRequest for what is no mount point or no URL prefix."""
    node, colon, directory = mount_point.partition(":")
    if not (colon and directory.startswith("/")) or re.search(r"[\x00-\x20\x7f]", mount_point) or not node:
        raise BadRequest(f"a mountpoint is node:/dir or a URL, not '{mount_point[:300]}'")
    if wrong := [p for p in prefixes if not re.match(r"[a-z][a-z0-9+.-]*://", p)]:
        raise BadRequest(f"a url_prefix is the beginning of a URL, not '{wrong[0][:300]}'")
    if disk_type not in ("disk", "tape"):
        raise BadRequest(f"disk_type is disk or tape, not '{disk_type[:100]}'")
    old = db.execute("SELECT url_prefixes FROM data_disks WHERE mount_point = ?", (mount_point,)).fetchone()
    if old and (not prefixes or json.loads(old[0]) == list(prefixes)):
        raise ValueExists(f"Disk for node '{node}', directory '{directory}' already exists")
    db.execute("INSERT OR REPLACE INTO data_disks VALUES (?, ?, ?, ?, ?)",
               (mount_point, node, directory, disk_type, json.dumps(list(prefixes))))


def disks(db: Db) -> list[dict[str, object]]:
    return [{"mount_point": r["mount_point"], "node": r["node"], "dir": r["dir"], "disk_type": r["disk_type"],
             "url_prefixes": json.loads(r["url_prefixes"])}
            for r in db.execute("SELECT * FROM data_disks ORDER BY mount_point")]


def urls(db: Db, owner: int, name: str, schemas: Sequence[str] = (), under: str = "") -> list[str]:
    """URLs of a file's copies: of the schemas wanted, in their order; when none is served, all there are. Disk first.

    under: only copies whose location begins so, with or without its node.
    """
    found = []
    for row in db.execute("SELECT full_path, path FROM locations WHERE file_id = ? "
                          "ORDER BY location_type, location_id", (owner,)):
        if not (row["full_path"].startswith(under) or row["path"].startswith(under)):
            continue
        found += [f"{base if base.endswith('/') else f'{base}/'}{quote(name, safe='')}"
                  for base in _directory_urls(db, row["full_path"])]
    wanted = [u for schema in schemas for u in found if _scheme(u) == SAME_SCHEME.get(schema, schema)]
    return list(dict.fromkeys(wanted or found))


def _scheme(url: str) -> str:
    scheme = url.partition("://")[0]
    return SAME_SCHEME.get(scheme, scheme)


def _directory_urls(db: Db, place: str) -> Iterable[str]:
    if "://" in place:
        return [place]
    disk = disk_of(db, place)
    directory = quote(place.partition(":")[2], safe="/")
    prefixes = json.loads(disk["url_prefixes"]) if disk else []
    return [prefix + directory for prefix in prefixes or ["file://"]]

