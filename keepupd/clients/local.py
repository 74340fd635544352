"""The Batch of this machine: a client of keepup-batch, by its socket. docs/batch.md shows the requests and answers."""

import json
import os
import shutil
import socket
from collections.abc import Collection
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from keepupd.core.errors import BatchUnavailable, JobRejected
from keepupd.core.model import JobSeen, JobState, Launch, Look

TIMEOUT_S = 30.0


class LocalBatch:
    """Jobs on the slots of keepup-batch in `directory`. Any method may raise BatchUnavailable: no answer."""

    def __init__(self, directory: Path):
        self._directory = directory

    def about(self) -> str:
        its = self._ask({"op": "status"})
        jobs = ", ".join(f"{n} {state}" for state, n in sorted(its["jobs"].items())) or "none"
        return (
            f"keepup-batch in {its['directory']}, {its['slots_free']} of {its['slots']} slots and "
            f"{its['memory_free_mib']} of {its['memory_mib']} MiB free; jobs: {jobs}"
        ) + (f"; TROUBLE: {its['trouble']}" if its["trouble"] else "")

    def submit(self, launch: Launch) -> None:
        """Queue the jobs whose key is unknown. Raises JobRejected: asking again is no use.

        `excluded_hosts` is not looked at: there is one host, and a job that shuns it would wait for ever.
        """
        self._ask({
            "op": "submit", "launch": launch.key, "tag": launch.tag, "files": dict(launch.files),
            "argv": list(launch.argv), "numbers": list(launch.numbers), "environment": dict(launch.environment),
            "limits": {"cpus": launch.cpus, "memory_mib": launch.memory_mib,
                       "disk_mib": launch.disk_mib, "wall_s": launch.wall_s},
            "bring_home": list(launch.bring_home),
        })  # fmt: skip

    def look(self, daemon: str, cursor: str | None) -> Look:
        """Jobs tagged by `daemon` that changed since `cursor`; all of them for None or a cursor it does not know."""
        answer = first = self._ask({"op": "look", "cursor": int(cursor) if cursor else None})
        jobs = first["jobs"]
        while answer["more"]:
            answer = self._ask({"op": "look", "cursor": answer["cursor"]})
            jobs += answer["jobs"]
        latest = {job["key"]: job for job in jobs}  # one that changed between two pages is in both
        ours = (job for job in latest.values() if job["tag"].startswith(f"{daemon}/"))
        return Look([_seen(job) for job in ours], str(answer["cursor"]), first["complete"])

    def fetch(self, job: JobSeen, into: Path) -> None:
        """Copy stdout, stderr, report and logs of a job into the directory `into`; what does not exist is left out."""
        into.mkdir(parents=True, exist_ok=True)
        if job.directory is None or not job.directory.is_dir():
            return
        for file in job.directory.iterdir():
            if file.name != "exit.json" and file.is_file() and not file.is_symlink():
                shutil.copyfile(file, into / file.name)

    def remove(self, keys: Collection[str]) -> None:
        """Take jobs away, running or not; quiet where there is none."""
        self._ask({"op": "remove", "keys": list(keys)})

    def exclude(self, daemon: str, hosts: Collection[str]) -> None:
        """Nothing: there is one host."""

    def forget(self, launch_key: str) -> None:
        """Delete the files of a launch. Raises JobRejected when some of its jobs have neither left nor been removed."""
        self._ask({"op": "forget", "launch": launch_key})

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        try:
            answer = _exchange(self._directory, json.dumps({"v": 1, **request}).encode() + b"\n")
        except (OSError, ValueError) as error:
            raise BatchUnavailable(
                f"keepup-batch in {self._directory} gave no answer: {error}",
                f"`keepup-batch status --dir {self._directory}`; start it with `keepup-batch serve`",
            ) from error
        if "error" in answer:
            kind = BatchUnavailable if answer["error"] == "unavailable" else JobRejected
            raise kind(answer["problem"], answer["remedy"])
        return answer


def _exchange(directory: Path, line: bytes) -> dict[str, Any]:
    """By way of /proc, since a socket's path may have 107 bytes, and a directory's more."""
    fd = os.open(directory, os.O_PATH | os.O_DIRECTORY)
    try:
        with socket.socket(socket.AF_UNIX) as server:
            server.settimeout(TIMEOUT_S)
            server.connect(f"/proc/self/fd/{fd}/batch.sock")
            server.sendall(line)
            with server.makefile("rb") as reply:
                return dict(json.loads(reply.readline()))
    finally:
        os.close(fd)


def _seen(job: dict[str, Any]) -> JobSeen:
    return JobSeen(
        key=job["key"], tag=job["tag"], state=_state(job["state"]), host=job["host"],
        started=_time(job["started"]), ended=_time(job["ended"]), exit_code=job["exit_code"], signal=job["signal"],
        hold_code=job["hold_code"], hold_reason=job["hold_reason"], peak_mib=job["peak_mib"], wall_s=job["wall_s"],
        directory=Path(job["directory"]),
    )  # fmt: skip


def _state(word: str) -> JobState:
    return JobState.LEFT if word == "removed" else JobState(word)  # gone for good, and no absence to wait out


def _time(epoch_s: float | None) -> datetime | None:
    return None if epoch_s is None else datetime.fromtimestamp(epoch_s, UTC)
