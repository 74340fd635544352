"""The real daemon for crash tests: it kills itself with -9 at named points, once at each, and a file shifts its clock.

    faulty_keepupd.py HOME -c keepupd.yaml

HOME/points.json lists points, such as "before commit: jobs judged" and "after effect: submit"; HOME/reached gets a file
for each one reached; HOME/clock holds the seconds that the daemon's clock is ahead.
"""

import functools
import hashlib
import json
import os
import signal
import sys
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from keepupd.daemon import app, main
from keepupd.daemon.effects import EFFECTS
from keepupd.store.database import Database

HOME = Path(sys.argv[1])
POINTS = set(json.loads((HOME / "points.json").read_text()))


def pass_point(name: str) -> None:
    mark = HOME / "reached" / hashlib.sha256(name.encode()).hexdigest()[:16]
    if name in POINTS and not mark.exists():
        mark.with_suffix(".new").write_text(name)
        mark.with_suffix(".new").rename(mark)
        os.kill(os.getpid(), signal.SIGKILL)


def deadly(name: str, effect: Any) -> Any:
    @functools.wraps(effect)
    def perform(*arguments: Any) -> None:
        pass_point(f"before effect: {name}")
        effect(*arguments)
        pass_point(f"after effect: {name}")

    return perform


def shifted_now() -> datetime:
    try:
        return app.utc_now() + timedelta(seconds=float((HOME / "clock").read_text()))
    except FileNotFoundError:
        return app.utc_now()


Database.before_commit = lambda self, name: pass_point(f"before commit: {name}")  # type: ignore[method-assign]
Database.after_commit = lambda self, name: pass_point(f"after commit: {name}")  # type: ignore[method-assign]
EFFECTS.update({name: deadly(name, effect) for name, effect in EFFECTS.items()})
app.Daemon = functools.partial(app.Daemon, clock=shifted_now)  # type: ignore[misc,assignment]
main.app(["run", *sys.argv[2:]])
