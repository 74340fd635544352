"""Requests and replies as SAM's clients speak them: forms, JSON or plain text by `format` and Accept, typed errors.

samweb asks for JSON even where it wants text, ifdh sends HTTP/1.0 and no Accept, and matches header names by case. So:
scalars and URLs are bare text without a newline; every reply has a Content-Length; `CanonicalHeaders` writes
`Content-Type` where uvicorn writes `content-type`.
"""

import asyncio
import json
import logging
import math
import socket
import sqlite3
import tempfile
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from datetime import datetime, tzinfo
from typing import IO, Any, cast
from urllib.parse import parse_qsl
from zoneinfo import ZoneInfo

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from .db import Database
from .errors import BadRequest, DimensionError, NotFound, RequestTooLarge, SamError

MAX_BODY = 64 * 1024 * 1024     # bytes
IN_MEMORY = 1024 * 1024         # bytes of a reply; longer lists go through a temporary file
PASSING = (sqlite3.Error, OSError, RuntimeError, MemoryError)       # a full disk, a locked file, a shut-down
TIMES = {"create_date", "update_date", "retired_date", "start_time", "end_time", "create_time", "project_start_time",
         "project_end_time"}
log = logging.getLogger("keepup-sam")


@dataclass(frozen=True)
class Catalog:
    """What every route needs: the database, and whose catalog it is."""

    db: Database
    experiment: str
    base_path: str


@dataclass(frozen=True)
class Call:
    """One request, read in full. Items of query string and form are one namespace; the form comes first."""

    request: Request
    catalog: Catalog
    items: dict[str, list[str]]
    body: bytes

    @classmethod
    async def read(cls, request: Request) -> "Call":
        body = bytearray()
        async for chunk in request.stream():
            body += chunk
            if len(body) > MAX_BODY:
                raise RequestTooLarge(f"the request has more than {MAX_BODY} bytes; send it in parts")
        pairs = []
        if body and not request.headers.get("content-type", "").startswith("application/json"):
            pairs += parse_qsl(body.decode("utf-8", "replace"), keep_blank_values=True)
        pairs += parse_qsl(request.scope["query_string"].decode("latin-1"), keep_blank_values=True)
        items: dict[str, list[str]] = {}
        for name, value in pairs:
            items.setdefault(name, []).append(value)
        return cls(request, request.app.state.catalog, items, bytes(body))

    @property
    def db(self) -> Database:
        return self.catalog.db

    def get(self, *names: str) -> str:
        """The first non-empty value of any of these names, else an empty string: clients send bare names."""
        return next((v for n in names for v in self.items.get(n, []) if v), "")

    def all(self, name: str) -> list[str]:
        return [v for v in self.items.get(name, []) if v]

    def need(self, *names: str) -> str:
        value = self.get(*names)
        if not value:
            raise BadRequest(f"'{names[0]}' is missing or empty")
        return value

    def number(self, name: str, default: int | None = None) -> int | None:
        """A whole number of at least 0. Raises BadRequest."""
        text = self.get(name)
        if text and not (text.isascii() and text.isdigit() and len(text) < 19):
            raise BadRequest(f"'{name}' must be a whole number, not '{text[:100]}'")
        return int(text) if text else default

    def flag(self, name: str) -> bool:
        return self.get(name).lower() not in ("", "0", "false", "no")

    def json(self) -> Any:
        """The body as JSON. Raises BadRequest, also for NaN, 1e400 and half surrogate pairs: they can't be stored."""
        try:
            value = json.loads(self.body, parse_constant=_no_constant, parse_float=_finite)
            if b"\\u" in self.body:
                json.dumps(value, ensure_ascii=False).encode()
        except (ValueError, RecursionError) as error:
            raise BadRequest(f"the body is not valid JSON: {error}") from None
        return value

    @property
    def user(self) -> str:
        """Who calls, as far as told: a form field, or the local part of From."""
        return self.get("user", "username") or self.request.headers.get("from", "").partition("@")[0] or "anonymous"

    @property
    def wants_json(self) -> bool:
        asked = self.get("format")
        return asked == "json" or (asked != "plain" and "application/json" in self.request.headers.get("accept", ""))

    def zoned(self, made: Any) -> Any:
        """A record or a list of them, its times in the zone of the header Timezone; in UTC when we don't know it."""
        name = self.request.headers.get("timezone")
        try:
            return _shifted(made, ZoneInfo(name)) if name else made
        except (KeyError, ValueError, OSError):
            return made

    @property
    def base_url(self) -> str:
        """This catalog's URL by the name the client used for us."""
        host = self.request.headers.get("host") or "{}:{}".format(*self.request.scope["server"])
        return f"{self.request.url.scheme}://{host}{self.catalog.base_path}"

    def path(self, name: str) -> str:
        return cast(str, self.request.path_params[name])


def _shifted(made: Any, zone: tzinfo) -> Any:
    if isinstance(made, list):
        return [_shifted(one, zone) for one in made]
    if isinstance(made, dict):
        return {key: datetime.fromisoformat(value).astimezone(zone).isoformat()
                if key in TIMES and isinstance(value, str) else _shifted(value, zone) for key, value in made.items()}
    return made


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _finite(digits: str) -> float:
    number = float(digits)
    if math.isinf(number):
        raise ValueError(f"{digits[:100]} is too large")
    return number


def text(body: object, status: int = 200) -> Response:
    return Response(str(body), status, media_type="text/plain")


def json_reply(body: object, status: int = 200) -> Response:
    return Response(json.dumps(body, ensure_ascii=False, allow_nan=False), status, media_type="application/json")


def lines(call: Call, items: Iterable[Any], plain: Iterable[str] | None = None) -> Response:
    """A short list: JSON, or one item a line."""
    if call.wants_json:
        return json_reply(list(items))
    return text("".join(f"{line}\n" for line in (items if plain is None else plain)))


def labelled(pairs: Iterable[tuple[str, object]]) -> str:
    """`Label: value` lines, the labels right-aligned, as samweb prints them."""
    shown = [(label, value) for label, value in pairs if value not in (None, "")]
    width = max((len(label) for label, _ in shown), default=0)
    return "".join(f"{label:>{width}}: {value}\n" for label, value in shown)


Spool = tuple[IO[bytes], int]


def spool(pieces: Iterable[str]) -> Spool:
    """Put a reply of any length aside, so that its query ends before a slow client begins to read."""
    file = tempfile.SpooledTemporaryFile(IN_MEMORY)     # noqa: SIM115  closed by `send_spool`
    for piece in pieces:
        file.write(piece.encode())
    size = file.tell()
    file.seek(0)
    return cast(IO[bytes], file), size


def send_spool(made: Spool, media_type: str) -> Response:
    """Send what `spool` made; its length is known, so that a cut connection shows."""
    file, size = made
    if size <= IN_MEMORY:
        with file:
            return Response(file.read(), media_type=media_type)
    return StreamingResponse(_chunks(file), media_type=media_type, headers={"content-length": str(size)})


async def _chunks(file: IO[bytes]) -> AsyncIterator[bytes]:
    with file:
        while chunk := await asyncio.to_thread(file.read, 256 * 1024):
            yield chunk


def error_reply(kind: str, message: str, status: int) -> Response:
    reply = json_reply({"error": kind, "message": message}, status)
    if status == 503:
        reply.headers["retry-after"] = "5"
    return reply


def on_error(request: Request, error: Exception) -> Response:  # noqa: PLR0911  one case a kind of error
    """Turn what went wrong into what clients understand. Only a fault that passes by itself is a 5xx."""
    match error:
        case SamError():
            return error_reply(type(error).__name__, str(error), error.status)
        case HTTPException():
            kind = {404: "HTTPNotFound", 405: "HTTPMethodNotAllowed"}.get(error.status_code, "HTTPBadRequest")
            return error_reply(kind, f"{request.method} {request.url.path}: {error.detail}", error.status_code)
        case RecursionError():
            return error_reply(DimensionError.__name__, "the query is nested too deeply", 400)
        case OverflowError():
            return error_reply(BadRequest.__name__, f"a number is too large: {error}", 400)
        case ClientDisconnect():
            return text("", 400)        # no one reads it
        case sqlite3.OperationalError() if any(
                words in str(error) for words in ("stack overflow", "too large", "too many", "too big", "too complex")):
            return error_reply(DimensionError.__name__, f"the query is too large for the database: {error}", 400)
    log.error("%s %s", request.method, request.url.path, exc_info=error)
    if isinstance(error, PASSING) and not isinstance(error, sqlite3.IntegrityError):
        return error_reply("ServiceUnavailable", f"the catalog can't answer now: {error}", 503)
    return error_reply("ServerFault", "a fault of this server, not of the request; its standard error has the "
                       "traceback, and repeating the call is no use", 400)


def file_key(call: Call) -> tuple[str, str]:
    """Column and value of the {file} in a path: name/<name> or id/<number>. Raises NotFound."""
    by, key = call.path("by"), call.path("file")
    if by not in ("name", "id"):
        raise NotFound(f"no path files/{by}: use files/name/NAME or files/id/NUMBER")
    return ("file_name" if by == "name" else "file_id"), key


class CanonicalHeaders(HttpToolsProtocol):
    """uvicorn's protocol, but with header names as Content-Type: ifdh knows no other spelling."""

    def connection_made(self, transport: Any) -> None:
        connection = transport.get_extra_info("socket")     # asyncio does this only for sockets of explicit protocol;
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)    # without it each reply waits for 40 ms
        super().connection_made(_CanonicalTransport(transport))  # type: ignore[arg-type]


class _CanonicalTransport:
    """Passes everything on; rewrites what is a reply's head, and sends it in one piece with the body that follows.

    uvicorn writes a head in one piece, apart from bodies. A body can't look like one: it never has CR LF CR LF in it,
    as names with control characters are refused, but for texts of definitions; those don't begin with HTTP/1.1.
    """

    def __init__(self, transport: asyncio.Transport):
        self._transport = transport
        self._head = b""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        if data.startswith(b"HTTP/1.1 ") and not data.startswith(b"HTTP/1.1 100") and b"\r\n\r\n" in data:
            head, _, body = data.partition(b"\r\n\r\n")
            status, *headers = head.split(b"\r\n")
            pairs = [h.partition(b":") for h in headers]
            named = [name.title() + b":" + value for name, _, value in pairs if value.strip()]
            self._head = b"\r\n".join([status, *named, b"\r\n"]) + body
            asyncio.get_running_loop().call_soon(self._flush)       # for replies to HEAD, which have no body
        else:
            self._transport.write(self._head + data)
            self._head = b""

    def _flush(self) -> None:
        if self._head and not self._transport.is_closing():
            self._transport.write(self._head)
        self._head = b""

    def close(self) -> None:
        self._flush()
        self._transport.close()
