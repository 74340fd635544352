"""What the daemon serves: /metrics for Prometheus, /healthz (the last pass is recent), /readyz (it has begun)."""

import threading
from collections.abc import Callable
from datetime import datetime, timedelta

import uvicorn
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from keepupd.core.errors import KeepupError


class Pulse:
    """When the daemon last finished a pass of each kind; beaten by the passes, read by /healthz."""

    def __init__(self, clock: Callable[[], datetime], patience: timedelta):
        self.clock, self.patience = clock, patience
        self.last: datetime | None = None
        self.begun = clock()
        self.ready = False

    def beat(self) -> None:
        self.last = self.clock()

    def age(self) -> timedelta:
        return self.clock() - (self.last or self.begun)

    @property
    def healthy(self) -> bool:
        return self.age() < self.patience


def make_app(registry: CollectorRegistry, pulse: Pulse) -> Starlette:
    def metrics(_request: Request) -> Response:
        try:
            return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)
        except KeepupError as error:
            return Response(str(error), 503, media_type="text/plain")

    def healthz(_request: Request) -> Response:
        facts = {"healthy": pulse.healthy, "last_pass_s_ago": round(pulse.age().total_seconds(), 1)}
        return JSONResponse(facts, 200 if pulse.healthy else 503)

    def readyz(_request: Request) -> Response:
        return JSONResponse({"ready": pulse.ready}, 200 if pulse.ready else 503)

    return Starlette(routes=[Route("/metrics", metrics), Route("/healthz", healthz), Route("/readyz", readyz)])


class WebServer:
    """The application on a thread of its own: it answers while a pass is at work."""

    def __init__(self, app: Starlette, host: str, port: int):
        self.server = uvicorn.Server(uvicorn.Config(app, host=host, port=port, log_level="warning", access_log=False))
        self.thread = threading.Thread(target=self.server.run, name="web", daemon=True)

    def start(self) -> None:
        self.thread.start()

    def stop(self) -> None:
        self.server.should_exit = True
        self.thread.join(timeout=5)
