"""Paths of registered values, parameters, applications, data disks and users."""

from starlette.responses import Response

from . import locations, values
from .errors import BadRequest
from .web import Call, json_reply, labelled, lines, text


async def list_kinds(call: Call) -> Response:
    made = values.kinds()
    return json_reply(made) if call.wants_json or call.get("list") == "generic" else text("\n".join(made) + "\n")


async def list_values(call: Call) -> Response:
    return lines(call, await call.db.read(values.values, call.path("kind")))


async def add_values(call: Call) -> Response:
    await call.db.write(values.add_values, call.path("kind"), call.all("value"))
    return text("ok")


async def list_parameters(call: Call) -> Response:
    made = await call.db.read(values.parameters)
    return lines(call, made, (f"{p['name']} ({p['data_type']})" for p in made))


async def add_parameter(call: Call) -> Response:
    """name is Category.name, or just the name beside a category."""
    name = call.need("name")
    full = f"{call.get('category')}.{name}" if call.get("category") and "." not in name else name
    await call.db.write(values.add_parameter, full, call.get("data_type") or "string")
    return text("ok")


async def parameter_values(call: Call) -> Response:
    return lines(call, await call.db.read(values.parameter_values, call.path("name")))


async def list_applications(call: Call) -> Response:
    made = await call.db.read(values.applications, call.get("family"), call.get("name"), call.get("version"))
    return lines(call, made, (f"{a['family']}\t{a['name']}\t{a['version']}" for a in made))


async def add_application(call: Call) -> Response:
    await call.db.write(values.add_application, call.need("family"), call.need("name"), call.need("version"))
    return text("ok")


async def list_disks(call: Call) -> Response:
    made = await call.db.read(locations.disks)
    return lines(call, made, (str(d["mount_point"]) for d in made))


async def add_disk(call: Call) -> Response:
    """mountpoint is node:/dir. Our own: url_prefix (repeat), what makes a URL of a directory there; disk_type."""
    await call.db.write(locations.add_disk, call.need("mountpoint", "mount_point"), call.all("url_prefix"),
                        call.get("disk_type") or "disk")
    return text("ok")


async def list_users(call: Call) -> Response:
    return lines(call, await call.db.read(values.users))


async def add_user(call: Call) -> Response:
    await call.db.write(values.add_user, call.json())
    return text("ok", 201)


async def get_user(call: Call) -> Response:
    made = await call.db.read(values.user, call.path("name"))
    return json_reply(made) if call.wants_json else text(labelled(made.items()))


async def modify_user(call: Call) -> Response:
    changes = call.json() if call.body.lstrip().startswith(b"{") else {k: v[0] for k, v in call.items.items()}
    if not isinstance(changes, dict):
        raise BadRequest("the changes must be an object")
    await call.db.write(values.modify_user, call.path("name"), changes)
    return text("ok")


ROUTES = [
    ("GET", "/values", list_kinds), ("GET", "/values/parameters", list_parameters),
    ("POST", "/values/parameters", add_parameter), ("GET", "/values/parameters/{name}", parameter_values),
    ("GET", "/values/applications", list_applications), ("POST", "/values/applications", add_application),
    ("GET", "/values/data_disks", list_disks), ("POST", "/values/data_disks", add_disk),
    ("GET", "/values/{kind}", list_values), ("POST", "/values/{kind}", add_values),
    ("GET", "/users", list_users), ("POST", "/users", add_user), ("GET", "/users/name/{name:path}", get_user),
    ("POST PUT", "/users/name/{name:path}", modify_user),
]
