"""All keepupd asks of a batch system. `local.py` speaks to keepup-batch; later ones to a pool."""

from collections.abc import Collection
from pathlib import Path
from typing import Protocol

from keepupd.core.model import JobSeen, Launch, Look


class Batch(Protocol):
    """Any method may raise BatchUnavailable, which means: no answer. Everything is safe to repeat."""

    def about(self) -> str:
        """What it says of itself, in a line; the cheapest question."""

    def submit(self, launch: Launch) -> None:
        """Queue the jobs of `launch.numbers` whose key is unknown. Raises JobRejected: asking again is no use."""

    def look(self, daemon: str, cursor: str | None) -> Look:
        """Jobs tagged by `daemon` that changed since `cursor`; all of them for None or a cursor it does not know."""

    def fetch(self, job: JobSeen, into: Path) -> None:
        """Bring the report and logs of a job that left or is held home into the directory `into`."""

    def remove(self, keys: Collection[str]) -> None:
        """Take jobs away, running or not; quiet where there is none."""

    def exclude(self, daemon: str, hosts: Collection[str]) -> None:
        """From now on the idle jobs tagged by `daemon` shun these hosts, and no others."""

    def forget(self, launch_key: str) -> None:
        """Nothing of this launch is needed any more: leave nothing of it behind."""
