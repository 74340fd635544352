"""The server of keepup-batch: one thread, one loop over the socket's clients, the jobs' shims and the clock.

A request is one line of JSON, answered by one line, then the connection closes. Nobody is waited for: a client that
sends nonsense, too much, half a request, or reads no answer, is dropped after PATIENCE_S and harms no other.
"""

import contextlib
import fcntl
import json
import os
import selectors
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from pydantic import ValidationError

from keepupd.localbatch import requests
from keepupd.localbatch.queue import Queue
from keepupd.localbatch.slots import HOLD_BY_HAND, Running, Settings, Slots

PATIENCE_S = 5.0
LARGEST_REQUEST = 64 * 1024 * 1024
MOST_CLIENTS = 100
PAGE = 2000  # jobs in one answer to `look`
AFTER_TROUBLE_S = 1.0
SHOWN = ("started", "ended", "exit_code", "signal", "hold_code", "hold_reason", "peak_mib", "wall_s", "slot")


class Refused(Exception):
    """An answer of no: what is wrong, and what to do about it."""

    def __init__(self, problem: str, remedy: str, error: str = "rejected"):
        super().__init__(problem)
        self.reply = {"v": 1, "error": error, "problem": problem, "remedy": remedy}


class DirectoryTaken(Exception):
    """Another keepup-batch serves this directory."""


def take_directory(directory: Path) -> IO[str]:
    """Create the directory where it is missing and lock it for as long as the returned file is open.

    A POSIX lock, since it stays with this process: a shim, forked a moment before we are killed, does not inherit it.
    """
    for name in ("jobs", "trash"):
        (directory / name).mkdir(parents=True, exist_ok=True)
    lock = (directory / "lock").open("a+")
    try:
        fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        lock.seek(0)
        raise DirectoryTaken(f"{directory} is served by pid {lock.read().strip() or 'unknown'}") from None
    lock.truncate(0)
    lock.write(f"{os.getpid()}\n")
    lock.flush()
    return lock


def listen(directory: Path) -> socket.socket:
    """Listen on batch.sock. By way of /proc, since a socket's path may have 107 bytes and a directory's more."""
    server = socket.socket(socket.AF_UNIX)
    fd = os.open(directory, os.O_PATH | os.O_DIRECTORY)
    before = os.umask(0o117)
    try:
        (directory / "batch.sock").unlink(missing_ok=True)  # of one that was killed; we hold the lock
        server.bind(f"/proc/self/fd/{fd}/batch.sock")
    finally:
        os.umask(before)
        os.close(fd)
    server.listen(128)
    server.setblocking(False)
    return server


@dataclass(slots=True, eq=False)
class Client:
    socket: socket.socket
    until: float  # monotonic
    got: bytearray = field(default_factory=bytearray)
    reply: memoryview | None = None


class Server:
    def __init__(self, settings: Settings):
        self._set = settings
        self._lock = take_directory(settings.directory)
        self._queue = Queue(settings.directory / "queue.db")
        self._selector = selectors.DefaultSelector()
        self._slots = Slots(settings, self._queue, self._selector)
        self._clients: set[Client] = set()
        self._host = socket.gethostname()
        self._sweepers: list[subprocess.Popen[bytes]] = []
        self._measure_at = 0.0
        self._fill_wanted = True  # something may be able to start
        self._recover_at: float | None = 0.0  # when to take all jobs from the disk: at the start, and after trouble
        self._trouble = ""
        self._stopping = False

    def serve(self) -> None:
        """Serve until SIGTERM or SIGINT. Running jobs run on, and are adopted at the next start."""
        wake, there = socket.socketpair()
        there.setblocking(False)
        signal.set_wakeup_fd(there.fileno(), warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: setattr(self, "_stopping", True))
        self._sweep()
        listener = listen(self._set.directory)
        self._selector.register(wake, selectors.EVENT_READ, None)
        self._selector.register(listener, selectors.EVENT_READ, listener)
        print(f"keepup-batch: serving {self._set.directory} ({self._set.slots} slots)", flush=True)
        while not self._stopping:
            try:
                self._turn()
            except (sqlite3.Error, OSError) as error:
                self._in_trouble(error)
        self._slots.close()
        self._queue.close()

    def _in_trouble(self, error: Exception) -> None:
        """Disk, database or processes fail us: say it, go on answering, and soon take all jobs anew from the disk."""
        self._trouble = f"{error!r}; trying again every {AFTER_TROUBLE_S:g} s"
        print(f"keepup-batch: {self._trouble}", file=sys.stderr, flush=True)
        self._slots.let_go()
        self._recover_at = time.monotonic() + AFTER_TROUBLE_S

    def _turn(self) -> None:
        """Wait until something happens and deal with it."""
        if self._recover_at is not None and time.monotonic() >= self._recover_at:
            self._slots.recover()
            self._recover_at, self._trouble, self._fill_wanted = None, "", True
        happened = [key.data for key, _ in self._selector.select(self._timeout())]
        for client in (data for data in happened if isinstance(data, Client)):
            self._talk(client)
        for listener in (data for data in happened if isinstance(data, socket.socket)):  # now that some have left
            self._accept(listener)
        self._drop_the_slow()
        if self._recover_at is None:
            self._run_jobs([data for data in happened if isinstance(data, Running)])

    def _run_jobs(self, ended: list[Running]) -> None:
        """Note who ended and start who comes next, in one commit; measure when it is time."""
        if ended or self._fill_wanted:
            with self._queue.transaction():
                for job in ended:
                    self._slots.ended(job)
                self._slots.fill()
            self._slots.start()
            self._fill_wanted = False
        if self._slots.running and time.monotonic() >= self._measure_at:
            self._slots.measure()
            self._measure_at = time.monotonic() + self._set.measure_s

    def _timeout(self) -> float | None:
        deadlines = [client.until for client in self._clients]
        if self._recover_at is not None:
            deadlines.append(self._recover_at)
        elif self._fill_wanted:
            return 0.0
        elif self._slots.running:
            deadlines.append(self._measure_at)
        return max(0.0, min(deadlines) - time.monotonic()) if deadlines else None

    # --- clients --------------------------------------------------------------------------------------------------

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(BlockingIOError, ConnectionError):
            its, _ = listener.accept()
            if len(self._clients) >= MOST_CLIENTS:
                its.close()  # the caller sees no answer, and tries again later
                return
            its.setblocking(False)
            client = Client(its, time.monotonic() + PATIENCE_S)
            self._clients.add(client)
            self._selector.register(its, selectors.EVENT_READ, client)

    def _drop(self, client: Client) -> None:
        self._clients.discard(client)
        self._selector.unregister(client.socket)
        client.socket.close()

    def _drop_the_slow(self) -> None:
        for client in [client for client in self._clients if time.monotonic() > client.until]:
            if client.reply is None:
                refused = Refused("no whole request came in time", "end the request with a newline", "bad_request")
                with contextlib.suppress(OSError):
                    client.socket.send(_line(refused.reply))
            self._drop(client)

    def _talk(self, client: Client) -> None:
        """Take more of a request, or give more of the answer."""
        try:
            if client.reply is None:
                chunk = client.socket.recv(1024 * 1024)
                client.got += chunk
                if b"\n" not in chunk and len(client.got) <= LARGEST_REQUEST and chunk:
                    return
                client.reply = memoryview(_line(self._answer(bytes(client.got))))
                client.until = time.monotonic() + PATIENCE_S
                self._selector.modify(client.socket, selectors.EVENT_WRITE, client)
            client.reply = client.reply[client.socket.send(client.reply) :]
            if client.reply:
                return
        except BlockingIOError:
            return
        except OSError:
            pass  # the client has gone
        self._drop(client)

    def _answer(self, got: bytes) -> dict[str, Any]:
        try:
            return {"v": 1, **self._perform(_request(got))}
        except Refused as refused:
            return refused.reply
        except (sqlite3.Error, OSError) as error:
            trouble = f"keepup-batch has trouble in {self._set.directory}: {error}"
            return Refused(trouble, "look at the disk and the log of keepup-batch", "unavailable").reply

    # --- operations -----------------------------------------------------------------------------------------------

    def _perform(self, ask: requests.Request) -> dict[str, Any]:  # noqa: PLR0911 - one an operation
        match ask:
            case requests.Submit():
                return self._submit(ask)
            case requests.Look():
                return self._look(ask)
            case requests.Remove():
                return self._change(ask.keys, self._slots.remove)
            case requests.Hold():
                return self._change(ask.keys, lambda row: self._slots.hold(row, HOLD_BY_HAND, ask.reason))
            case requests.Release():
                return self._change(ask.keys, self._slots.release)
            case requests.Forget():
                return self._forget(ask.launch)
        return self._status()

    def _submit(self, ask: requests.Submit) -> dict[str, Any]:
        limits = ask.limits
        if misfit := self._slots.misfit(limits.cpus, limits.memory_mib, limits.disk_mib):
            raise Refused(f"launch {ask.launch}: {misfit}", "ask for less, or serve with more --slots or --memory-mib")
        with self._queue.transaction():
            submission, accepted = self._queue.submit(ask, time.time())
            if submission is not None:
                inputs = self._set.directory / "jobs" / ask.launch / f"input-{submission}"
                inputs.mkdir(parents=True, exist_ok=True)  # there, when we were killed before the commit
                for name, text in ask.files.items():
                    (inputs / name).unlink(missing_ok=True)
                    (inputs / name).write_text(text)
                    (inputs / name).chmod(0o444)  # every job gets a hard link to it
        self._fill_wanted = True
        return {"accepted": accepted, "known": len(set(ask.numbers)) - accepted}

    def _look(self, ask: requests.Look) -> dict[str, Any]:
        complete = ask.cursor is None or not self._queue.knows(ask.cursor)
        rows = self._queue.changed_since(0 if complete else ask.cursor or 0, not complete, PAGE)
        more = len(rows) == PAGE
        cursor = rows[-1]["changed"] if more else self._queue.changes()
        return {"jobs": [self._shown(row) for row in rows], "cursor": cursor, "complete": complete, "more": more}

    def _shown(self, row: sqlite3.Row) -> dict[str, Any]:
        shown = {name: row[name] for name in SHOWN}
        if job := self._slots.running.get(row["seq"]):
            shown |= {"peak_mib": round(job.peak_mib), "wall_s": round(job.wall_s, 3)}
        return shown | {
            "key": f"{row['launch']}.{row['number']}", "launch": row["launch"], "number": row["number"],
            "tag": row["tag"], "state": row["state"], "host": self._host if row["started"] else "",
            "submitted": row["submitted"], "directory": str(self._slots.directory(row)),
        }  # fmt: skip

    def _change(self, keys: list[str], change: Callable[[sqlite3.Row], None]) -> dict[str, Any]:
        with self._queue.transaction():
            rows = self._queue.jobs(keys)
            for row in rows:
                change(row)
        self._slots.stop(keys)
        self._fill_wanted = True
        return {"jobs": len(rows)}

    def _forget(self, launch: str) -> dict[str, Any]:
        with self._queue.transaction():
            in_the_way = self._queue.forget(launch)
        if in_the_way:
            raise Refused(f"launch {launch}: {in_the_way} of its jobs are idle, running or held", "remove them first")
        directory = self._set.directory / "jobs" / launch
        if directory.is_dir():
            directory.rename(self._set.directory / "trash" / uuid.uuid4().hex)
            self._sweep()
        return {}

    def _sweep(self) -> None:
        """Remove what was forgotten, by a process of its own: a launch may have 20,000 directories."""
        trash = self._set.directory / "trash"
        self._sweepers = [process for process in self._sweepers if process.poll() is None]
        if paths := list(trash.iterdir()):
            self._sweepers.append(subprocess.Popen(["rm", "-rf", "--", *paths], stderr=subprocess.DEVNULL))

    def _status(self) -> dict[str, Any]:
        slots, memory_mib = self._slots.free()
        running = sorted(self._slots.running.values(), key=lambda job: job.slot)
        return {
            "directory": str(self._set.directory), "pid": os.getpid(), "host": self._host,
            "slots": self._set.slots, "slots_free": slots,
            "memory_mib": self._set.memory_mib, "memory_free_mib": memory_mib,
            "trouble": self._trouble, "jobs": self._queue.counts(),
            "running": [{
                "key": f"{job.row['launch']}.{job.row['number']}", "slot": job.slot, "shim_pid": job.pid,
                "stopping": job.stopping,
                "memory_mib": round(job.memory_mib), "memory_asked_mib": job.row["memory_mib"],
                "wall_s": round(job.wall_s, 1), "wall_asked_s": job.row["limit_s"],
            } for job in running],
            "held": [self._shown(row) for row in self._queue.in_state("held", 20)],
        }  # fmt: skip


def _line(reply: dict[str, Any]) -> bytes:
    return json.dumps(reply).encode() + b"\n"


def _request(got: bytes) -> requests.Request:
    """Read one request. Raises Refused with every fault in it."""
    line, newline, _ = got.partition(b"\n")
    if not newline:
        remedy = f"a request is one line of at most {LARGEST_REQUEST} bytes"
        raise Refused(f"no newline in {len(got)} bytes", remedy, "bad_request")
    try:
        ask = json.loads(line)
        model = requests.OPERATIONS[ask["op"]]
    except (ValueError, TypeError, KeyError, RecursionError):
        remedy = f'send {{"v": 1, "op": OP, ...}} with OP one of {", ".join(requests.OPERATIONS)}'
        raise Refused(f"not a request: {line[:100]!r}", remedy, "bad_request") from None
    try:
        return model.model_validate(ask)
    except ValidationError as error:
        faults = [f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors()[:20]]
        raise Refused(f"{ask['op']}: {'; '.join(faults)}", "correct the request; docs/batch.md shows it") from None
