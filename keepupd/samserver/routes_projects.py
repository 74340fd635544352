"""Paths of definitions, snapshots, projects and processes, in samweb's spelling and in ifdh's."""

import re
from urllib.parse import quote

from starlette.responses import Response

from . import definitions, projects, routes_files
from .errors import BadRequest
from .match import parse_time
from .web import Call, json_reply, labelled, lines, text


async def list_definitions(call: Call) -> Response:
    filters = {"defname": call.get("defname"), "username": call.get("user"), "group_name": call.get("group")}
    return lines(call, await call.db.read(definitions.names, filters, _time(call, "after"), _time(call, "before")))


def _time(call: Call, name: str) -> int | None:
    """A time from the request, in seconds since 1970. Raises BadRequest."""
    value = call.get(name)
    try:
        return int(parse_time(value).timestamp()) if value else None
    except (ValueError, OverflowError):
        raise BadRequest(f"'{name}' must be a time such as 2024-05-06T07:08:09, not '{value[:100]}'") from None


async def describe_definition(call: Call) -> Response:
    made = call.zoned(await call.db.read(definitions.describe, call.path("name")))
    if call.wants_json:
        return json_reply(made)
    labels = (("Definition Name", "defname"), ("Definition Id", "defid"), ("Creation Date", "create_time"),
              ("Username", "username"), ("Group", "group"), ("Description", "description"),
              ("Dimensions", "dimensions"))
    return text(labelled((label, made[key]) for label, key in labels))


async def create_definition(call: Call) -> Response:
    name, dims = call.need("defname", "name"), call.need("dims", "dimensions")
    group = call.get("group") or call.catalog.experiment
    number = await call.db.write(definitions.create, name, dims, call.user, group, call.get("description"))
    return json_reply({"defname": name, "defid": number})


async def rename_definition(call: Call) -> Response:
    await call.db.write(definitions.rename, call.path("name"), call.get("defname"), call.get("description"))
    return text("ok")


async def delete_definition(call: Call) -> Response:
    await call.db.write(definitions.delete, call.path("name"))
    return text("ok")


async def snapshot(call: Call) -> Response:
    return text(await definitions.take_snapshot(call.db, call.path("name")))


async def _dims_of_definition(call: Call) -> str:
    await call.db.read(definitions.find, call.path("name"))
    quote_mark = '"' if "'" in call.path("name") else "'"
    return f"defname: {quote_mark}{call.path('name')}{quote_mark}"


async def definition_files(call: Call) -> Response:
    return await routes_files.reply_list(call, await _dims_of_definition(call))


async def definition_count(call: Call) -> Response:
    return text(await call.db.query(routes_files.count, await _dims_of_definition(call)))


async def definition_summary(call: Call) -> Response:
    return json_reply(await call.db.query(routes_files.summary, await _dims_of_definition(call)))


def project_url(call: Call, station: str, name: str) -> str:
    return f"{call.base_url}/projects/{quote(station, safe='')}/{quote(name, safe='')}"


async def start_project(call: Call) -> Response:
    """Start a project on a definition (NAME, NAME:force: as it is now; NAME:latest: its newest snapshot) or a snapshot.

    Starting it again on the same input answers with the same URL.
    """
    name, station = call.need("name"), call.get("station") or call.catalog.experiment
    defname, latest = _without_suffix(call.get("defname"))
    snapshot_id = call.number("snapshot_id")
    if bool(defname) == (snapshot_id is not None):
        raise BadRequest("exactly one of 'defname' and 'snapshot_id' is needed")
    projects.check_names(name, station)
    if not await call.db.read(projects.same_project, name, station, defname, snapshot_id):
        if snapshot_id is None and latest:
            snapshot_id = await call.db.read(definitions.newest_snapshot, defname)
        elif snapshot_id is None:
            snapshot_id = await definitions.take_snapshot(call.db, defname)
        group = call.get("group") or call.catalog.experiment
        await call.db.write(projects.start, name, station, group, call.user, defname, snapshot_id)
    return text(project_url(call, station, name))


def _without_suffix(defname: str) -> tuple[str, bool]:
    name, _, suffix = defname.rpartition(":")
    return (name, suffix == "latest") if name and suffix in ("force", "latest") else (defname, False)


async def find_project(call: Call) -> Response:
    row = await call.db.read(projects.find, call.need("name"), call.get("station"))
    return text(project_url(call, row["station"], row["project_name"]))


async def list_projects(call: Call) -> Response:
    """Names of projects; `%` stands for any string in name, user, group, defname and station."""
    filters = {"p.project_name": call.get("name"), "p.username": call.get("user"), "p.group_name": call.get("group"),
               "p.station": call.get("station"), "d.defname": call.get("defname"),
               "p.snapshot_id": call.get("snapshot_id")}
    bounds = {f"p.{column} {op}": _time(call, name) for name, column, op in (
        ("started_after", "start_time", ">="), ("started_before", "start_time", "<="),
        ("ended_after", "end_time", ">="), ("ended_before", "end_time", "<="))}
    times = {condition: bound for condition, bound in bounds.items() if bound is not None}
    return lines(call, await call.db.read(projects.names, filters, times))


def _project(call: Call) -> tuple[str, str]:
    return call.path("project"), call.path("station")


def _process(call: Call) -> tuple[str, str, str]:
    return *_project(call), call.path("process")


async def establish(call: Call) -> Response:
    given = {"appfamily": call.get("appfamily"), "appname": call.get("appname"), "appversion": call.get("appversion"),
             "node": call.get("node"), "username": call.user, "delivery_location": call.get("deliverylocation"),
             "description": call.get("description"), "schemas": call.get("schemas")}
    return text(await call.db.write(projects.establish, *_project(call), given, call.number("filelimit", 0) or 0))


async def next_file(call: Call) -> Response:
    """The URL in one line, as ifdh needs it; who accepts JSON (samweb) gets the name in a second one. 204: no more."""
    given = await call.db.write(projects.next_file, *_process(call))
    if given is None:
        return Response(status_code=204, media_type="text/plain")
    return text("\n".join(given) if "application/json" in call.request.headers.get("accept", "") else given[0])


async def update_file(call: Call) -> Response:
    await call.db.write(projects.update_file, *_process(call), call.need("filename"), call.need("status"))
    return text("ok")


async def release_file(call: Call) -> Response:
    """The old way to say consumed (status ok) or skipped (any other)."""
    status = "consumed" if call.get("status") in ("ok", "consumed") else "skipped"
    await call.db.write(projects.update_file, *_process(call), call.need("filename"), status)
    return text("ok")


async def set_status(call: Call) -> Response:
    await call.db.write(projects.set_status, *_process(call), call.need("status"))
    return text("ok")


async def set_status_by_description(call: Call) -> Response:
    project, station = _project(call)
    process = await call.db.read(projects.by_description, project, call.path("description"))
    await call.db.write(projects.set_status, project, station, process, call.need("status"))
    return text("ok")


async def end_process(call: Call) -> Response:
    await call.db.write(projects.end_process, *_process(call))
    return text("ok")


async def end_project(call: Call) -> Response:
    await call.db.write(projects.end, *_project(call))
    return text("ok")


async def project_summary(call: Call) -> Response:
    made = call.zoned(await call.db.read(projects.summary, *_project(call), call.number("process_limit")))
    if call.wants_json:
        return json_reply(made)
    pairs = [(key.replace("_", " ").capitalize(), value) for key, value in made.items() if not isinstance(
        value, dict | list)]
    pairs += [(f"Files {key}", n) for key, n in made["file_counts"].items()]
    pairs += [(f"Processes {key}", n) for key, n in made["process_counts"].items()]
    pairs += [(f"Process {c['process_id']}", f"{c['status']} {c['counts']}") for c in made.get("processes", [])]
    return text(labelled(pairs))


async def project_status(call: Call) -> Response:
    return text(projects.status(await call.db.read(projects.find, *_project(call))))


async def recovery_dims(call: Call) -> Response:
    return text(await call.db.read(projects.recovery_dims, *_project(call), call.flag("useProcess")))


async def describe_project(call: Call) -> Response:
    await call.db.write(projects.describe, *_project(call), call.get("description"))
    return text("ok")


async def dump_station(call: Call) -> Response:
    made = await call.db.read(projects.station_dump, call.get("station"))
    if "dump" not in call.items:        # without it a reader takes any long line's first word for a project
        made = re.sub(r"^project .*\n", "", made, flags=re.MULTILINE)
    return text(made)


NAME = "/definitions/name/{name}"
P = "/projects/{station}/{project}"
SAMWEB, IFDH = f"{P}/process/{{process}}", f"{P}/processes/{{process}}"
ROUTES = [
    *((verbs, f"{x}/{path}", endpoint) for x in (SAMWEB, IFDH) for verbs, path, endpoint in (
        ("POST", "getNextFile", next_file), ("POST", "updateFileStatus", update_file),
        ("POST", "releaseFile", release_file), ("POST", "endProcess", end_process),
        ("PUT POST", "status", set_status), ("POST PUT", "setStatus", set_status))),
    ("PUT POST", f"{P}/process_description/{{description:path}}/status", set_status_by_description),
    ("POST", f"{P}/establishProcess", establish), ("POST", f"{P}/endProject", end_project),
    ("GET", f"{P}/summary", project_summary), ("GET", f"{P}/status", project_status),
    ("GET", f"{P}/recovery_dimensions", recovery_dims), ("POST", f"{P}/description", describe_project),
    ("POST", "/startProject", start_project), ("GET", "/findProject", find_project),
    ("GET", "/projects", list_projects), ("GET", "/dumpStation", dump_station),
    ("GET", "/definitions/list", list_definitions), ("POST", "/definitions/create", create_definition),
    ("POST", "/createDefinition", create_definition), ("GET", f"{NAME}/describe", describe_definition),
    ("GET POST", f"{NAME}/snapshot", snapshot),
    *(("GET POST", f"{NAME}/files/{path}", endpoint) for path, endpoint in (
        ("list", definition_files), ("count", definition_count), ("summary", definition_summary))),
    ("POST", f"{NAME}/delete", delete_definition), ("GET", NAME, describe_definition),
    ("PUT", NAME, rename_definition), ("DELETE", NAME, delete_definition),
]
