"""The HTTP application and the process around it: read this first. Routes are in routes_*.py, one function a path."""

import asyncio
import contextlib
import logging
import resource
import socket
import sqlite3
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from . import projects, routes_files, routes_projects, routes_values
from .db import Database
from .web import Call, CanonicalHeaders, Catalog, on_error, text

VERSION = "3.0.0 (keepup-sam)"
BUSIEST = ("/files", "/files/metadata", "/files/{by}/{file:path}/locations")
log = logging.getLogger("keepup-sam")
Endpoint = Callable[[Call], Awaitable[Response]]


async def server_info(call: Call) -> Response:
    return text(f"SAMWeb API for {call.catalog.experiment}\nSAMWeb version: {VERSION}\n"
                f"Database: SQLite\nUser information:\n  Username: {call.user}\n  Roles: default, *\n")


ROUTES = [("GET", "", server_info), ("GET", "/", server_info), *routes_projects.ROUTES, *routes_files.ROUTES,
          *routes_values.ROUTES]


def _route(base: str, verbs: str, path: str, endpoint: Endpoint) -> Route:
    async def handle(request: Request) -> Response:
        try:
            return await endpoint(await Call.read(request))
        except Exception as error:
            return on_error(request, error)
    return Route(base + path, handle, methods=verbs.split())


def application(db: Database, experiment: str) -> Starlette:
    """The ASGI application for one experiment's catalog, under /sam/<experiment>/api."""
    base = f"/sam/{experiment}/api"
    table = sorted(ROUTES, key=lambda row: row[1] not in BUSIEST)      # routes are tried in order, at some 2 us each
    app = Starlette(routes=[_route(base, *row) for row in table], exception_handlers={404: on_error, 405: on_error})
    app.router.redirect_slashes = False     # ifdh mishandles redirects
    app.state.catalog = Catalog(db, experiment, base)
    return app


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, db: Database, announcement: str, idle_s: float):
        super().__init__(config)
        self.db, self.announcement, self.idle_s = db, announcement, idle_s

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.watch = asyncio.create_task(self._end_idle())
        print(self.announcement, flush=True)

    async def _end_idle(self) -> None:
        """Waits before its first look: after a long stop of this server, jobs get their chance to speak first."""
        while self.idle_s:
            await asyncio.sleep(min(600, self.idle_s / 50))
            try:
                for name in await self.db.write(projects.end_idle, self.idle_s):
                    log.warning("project %s ended: idle for %g hours", name, self.idle_s / 3600)
            except sqlite3.Error as error:      # locked, or the disk is full: the next look may do better
                log.warning("idle projects not ended: %s", error)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self.watch.cancel()
        self.db.interrupt()
        await super().shutdown(sockets)
        self.db.close()


def serve(path: Path, host: str, port: int, experiment: str, idle_hours: float) -> None:
    """Serve the catalog until SIGINT or SIGTERM. port 0 takes a free one. Raises OSError when the port is taken.

    idle_hours: a project without a sign of life for so long is ended; 0 for never.
    """
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))    # thousands of jobs may hold a connection
    sys.setswitchinterval(0.001)        # the event loop should not wait 5 ms for a thread that makes a long list
    family, shown = (socket.AF_INET6, f"[{host}]") if ":" in host else (socket.AF_INET, host)
    listener = socket.create_server((host, port), backlog=1024, family=family)
    # asyncio would set it, but not on a socket made elsewhere: without it most replies wait 40 ms for the client's ACK
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)     # nodes that vanished give their connection back
    db = Database(path, experiment)
    config = uvicorn.Config(
        application(db, experiment), http=CanonicalHeaders, ws="none", lifespan="off", loop="asyncio",
        log_level="warning", access_log=False, server_header=False, date_header=False, timeout_keep_alive=60,
        timeout_graceful_shutdown=3, backlog=1024)
    url = f"http://{shown}:{listener.getsockname()[1]}/sam/{experiment}/api"
    with contextlib.suppress(KeyboardInterrupt):
        _Server(config, db, f"keepup-sam: serving {url} (db {path})", idle_hours * 3600).run(sockets=[listener])
