"""Paths of files: lists by dimensions, metadata, locations, lineage, declaring and changing."""

import re
import sqlite3
from collections.abc import Iterator
from typing import Any

from starlette.responses import Response

from . import files, locations
from .compile import Compiled, compile_dims
from .dims import parse
from .errors import BadRequest
from .fields import FIELDS
from .metadata import as_text, check
from .web import Call, Spool, file_key, json_reply, labelled, lines, send_spool, spool, text

Db = sqlite3.Connection
TOTALS = "count(*) AS file_count, sum(f.file_size) AS total_file_size, sum(f.event_count) AS total_event_count"


async def dimensions(call: Call) -> Response:
    """The dimensions there are, with what they mean, and the registered parameters."""
    known = [[name, field.meaning] for name, field in sorted(FIELDS.items())]
    rows = await call.db.read(lambda db: db.execute("SELECT name, data_type FROM parameters ORDER BY 1").fetchall())
    known += [[r["name"], f"parameter ({r['data_type']})"] for r in rows]
    return lines(call, known, (f"{name}\t{meaning}" for name, meaning in known))


def dims_of(call: Call) -> str:
    if "dims" not in call.items:
        raise BadRequest("'dims' is missing")
    return call.items["dims"][0]


async def list_files(call: Call) -> Response:
    dims = dims_of(call)
    if call.flag("parse_only"):
        return text(f"{parse(dims)}\n")
    if call.flag("diagnostics"):
        return text(await call.db.query(_diagnose, dims))
    return await reply_list(call, dims)


def _diagnose(db: Db, dims: str) -> str:
    return explain(compile_dims(db, dims), "f.file_name")


def explain(query: Compiled, columns: str) -> str:
    """The SQL of a query with its values put in, for people."""
    return re.sub(r":(v\d+)", lambda m: repr(query.args[m[1]])[:2000], query.select(columns)) + "\n"


async def reply_list(call: Call, dims: str) -> Response:
    """Names, or with fileinfo name, id, size and events: one a line, or a JSON list."""
    made = await call.db.query(_list, dims, call.flag("fileinfo"), call.get("format") == "json")
    return send_spool(made, "application/json" if call.get("format") == "json" else "text/plain")


def _list(db: Db, dims: str, info: bool, as_json: bool) -> Spool:
    query = compile_dims(db, dims)
    if info and as_json:
        columns = ("json_object('file_name', f.file_name, 'file_id', f.file_id, 'file_size', f.file_size, "
                   "'event_count', coalesce(f.event_count, 0))")
    elif info:
        columns = ("f.file_name || char(9) || f.file_id || char(9) || f.file_size || char(9) || "
                   "coalesce(f.event_count, 0)")
    else:
        columns = "json_quote(f.file_name)" if as_json else "f.file_name"
    return spool(_joined(db.execute(query.select(columns), query.args), as_json))


def _joined(cursor: sqlite3.Cursor, as_json: bool) -> Iterator[str]:
    separator, first = (",\n" if as_json else "\n"), True
    yield "[" if as_json else ""
    while rows := cursor.fetchmany(5000):
        yield ("" if first else separator) + separator.join([r[0] for r in rows])
        first = False
    yield "]" if as_json else "" if first else "\n"


async def count_files(call: Call) -> Response:
    return text(await call.db.query(count, dims_of(call)))


def count(db: Db, dims: str) -> int:
    query = compile_dims(db, dims)
    return int(db.execute(query.select("count(*)", order=""), query.args).fetchone()[0])


async def summarise(call: Call) -> Response:
    return json_reply(await call.db.query(summary, dims_of(call)))


def summary(db: Db, dims: str) -> dict[str, int | None]:
    query = compile_dims(db, dims)
    return dict(db.execute(query.select(TOTALS, order=""), query.args).fetchone())


async def expand_query(call: Call) -> Response:
    return json_reply({"query": str(parse(dims_of(call)))})


async def list_locations(call: Call) -> Response:
    """One row for each file and location, TAB-separated: directory (or URL, with schema), name, size, checksums."""
    dims = dims_of(call) if call.get("dims") else f'defname: "{call.need("defname")}"'
    return send_spool(await call.db.query(_list_locations, dims, call.all("filter_path"), call.flag("checksums"),
                                          call.all("schema")), "text/plain")


def _list_locations(db: Db, dims: str, wanted: list[str], checksums: bool, schemas: list[str]) -> Spool:
    query = compile_dims(db, dims)
    rows = db.execute(f"SELECT f.file_id, f.file_name, f.file_size, l.full_path, l.path FROM ({query.select('f.*')}) f "
                      "JOIN locations l USING (file_id) ORDER BY f.file_id, l.location_id", query.args)
    return spool(_location_lines(db, rows, wanted, checksums, schemas))


def _location_lines(db: Db, rows: sqlite3.Cursor, wanted: list[str], checksums: bool, schemas: list[str]
                    ) -> Iterator[str]:
    told: set[str] = set()
    for row in rows:
        if wanted and not any(row["full_path"].startswith(w) or row["path"].startswith(w) for w in wanted):
            continue
        if schemas and row["file_name"] in told:
            continue
        told = {row["file_name"]}
        places = locations.urls(db, row["file_id"], row["file_name"], schemas) if schemas else [row["full_path"]]
        tail = [row["file_name"], str(row["file_size"])]
        if checksums:
            tail.append(";".join(r[0] for r in db.execute("SELECT checksum FROM checksums WHERE file_id = ?",
                                                          (row["file_id"],))))
        yield "".join("\t".join([place, *tail]) + "\n" for place in places)


async def get_metadata(call: Call) -> Response:
    made = call.zoned(await call.db.read(_one_record, *file_key(call), call.flag("locations"), call.flag("basic")))
    return json_reply(made) if call.wants_json else text(labelled(as_text(made)))


def _one_record(db: Db, column: str, key: str, with_locations: bool, basic: bool) -> dict[str, Any]:
    return files.records(db, [files.file_id(db, column, key)], with_locations, basic)[0]


async def get_many(call: Call) -> Response:
    """Records in the order asked; files that do not exist are left out, retired ones are not."""
    return json_reply(call.zoned(await call.db.read(_records, call.all("file_name"), call.all("file_id"),
                                                    call.flag("locations"), call.flag("basic"))))


def _records(db: Db, names: list[str], ids: list[str], with_locations: bool, basic: bool) -> list[dict[str, Any]]:
    return files.records(db, [i for _, i in files.find_ids(db, names, ids)], with_locations, basic)


async def get_many_locations(call: Call) -> Response:
    """Locations by the name or number each file was asked by. ifdh's reader needs `"location":` without a blank."""
    made = await call.db.read(_many_locations, call.all("file_name"), call.all("file_id"))
    reply = json_reply(made)
    reply.body = bytes(reply.body).replace(b'"location": ', b'"location":')
    reply.headers["content-length"] = str(len(reply.body))
    return reply


def _many_locations(db: Db, names: list[str], ids: list[str]) -> dict[str, list[dict[str, str]]]:
    return {asked: locations.listed(db, "file_id", str(i)) for asked, i in files.find_ids(db, names, ids)}


async def get_locations(call: Call) -> Response:
    made = await call.db.read(locations.listed, *file_key(call))
    return lines(call, made, (where["location"] for where in made))


async def change_location(call: Call) -> Response:
    if not (call.all("add") or call.all("remove")):
        raise BadRequest("'add' or 'remove' is missing")
    await call.db.write(_change_locations, *file_key(call), call.all("add"), call.all("remove"))
    return text("ok")


def _change_locations(db: Db, column: str, key: str, added: list[str], removed: list[str]) -> None:
    for location in added:
        locations.add(db, column, key, location)
    for location in removed:
        locations.remove(db, column, key, location)


async def get_urls(call: Call) -> Response:
    """Access URLs; `schema` chooses among them, `location` only copies under that path."""
    schemas = [s for item in call.all("schema") for s in item.split(",")]
    return lines(call, await call.db.read(_urls, *file_key(call), schemas, call.get("location")))


def _urls(db: Db, column: str, key: str, schemas: list[str], prefix: str) -> list[str]:
    owner = files.file_id(db, column, key)
    name = db.execute("SELECT file_name FROM files WHERE file_id = ?", (owner,)).fetchone()[0]
    return locations.urls(db, owner, name, schemas, prefix)


async def get_lineage(call: Call) -> Response:
    kind = call.path("kind")
    if kind not in ("parents", "children", "ancestors", "descendants", "rawancestors"):
        raise BadRequest("lineage is parents, children, ancestors, descendants or rawancestors")
    made = await call.db.read(_lineage, *file_key(call), kind)
    return json_reply(made) if call.wants_json else text(files.lineage_text(made))


def _lineage(db: Db, column: str, key: str, kind: str) -> list[dict[str, Any]]:
    return files.lineage(db, files.file_id(db, column, key), kind)


async def declare(call: Call) -> Response:
    raw = call.json()
    if isinstance(raw, list):
        ids = await call.db.write(files.declare_many, raw, call.user)
        return text("\n".join(map(str, ids)), 201)
    return text(await call.db.write(files.declare, raw, call.user), 201)


async def validate(call: Call) -> Response:
    await call.db.read(check, call.json(), True)
    return text("ok")


async def modify(call: Call) -> Response:
    await call.db.write(files.modify, *file_key(call), call.json(), call.user)
    return text("ok")


async def modify_many(call: Call) -> Response:
    """Change several files, all or none; with continue_on_error each that can be. The reply says how each went."""
    raw = call.json()
    if not isinstance(raw, list):
        raise BadRequest("the body must be a list of objects with a file_name")
    if not call.flag("continue_on_error"):
        await call.db.write(files.modify_many, raw, call.user)
        return json_reply([{"file_name": one["file_name"], "status": "ok"} for one in raw])
    return json_reply([await _modify_one(call, one) for one in raw])


async def _modify_one(call: Call, one: object) -> dict[str, str]:
    name = str(one.get("file_name", "")) if isinstance(one, dict) else ""
    try:
        await call.db.write(files.modify_many, [one], call.user)
    except Exception as error:      # whatever it is, the next file gets its turn and the client is told
        return {"file_name": name, "status": "error", "error": type(error).__name__, "message": str(error)}
    return {"file_name": name, "status": "ok"}


async def retire(call: Call) -> Response:
    await call.db.write(files.retire, *file_key(call))
    return text("ok")


async def set_content_status(call: Call) -> Response:
    status = call.get("content_status", "status", "value")
    await call.db.write(files.modify, *file_key(call), {"content_status": status}, call.user)
    return text("ok")


FILE = "/files/{by}/{file:path}"
ROUTES = [
    ("POST", "/files", declare), ("PUT", "/files", modify_many), ("POST", "/files/metadata", get_many),
    ("GET POST", "/files/locations", get_many_locations), ("POST", "/files/validate_metadata", validate),
    ("GET POST", "/files/list", list_files), ("GET POST", "/files/count", count_files),
    ("GET POST", "/files/summary", summarise), ("GET POST", "/files/expand_query", expand_query),
    ("GET", "/files/list/dimensions", dimensions), ("GET POST", "/files/list/locations", list_locations),
    ("GET", f"{FILE}/metadata", get_metadata), ("PUT POST", f"{FILE}/metadata", modify),
    ("GET", f"{FILE}/locations/url", get_urls), ("GET", f"{FILE}/locations", get_locations),
    ("POST", f"{FILE}/locations", change_location), ("GET", f"{FILE}/lineage/{{kind}}", get_lineage),
    ("POST PUT", f"{FILE}/retired_date", retire), ("PUT POST", f"{FILE}/content_status", set_content_status),
]
