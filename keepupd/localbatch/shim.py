"""The shim: a small process between keepup-batch and one job. It starts the job, waits, cleans up, writes exit.json.

It lives on without keepup-batch, so no exit status is lost. It leaves in the job's directory:
  shim            a link that names the shim's process; only one process can make it, so a job is never started twice
  stdout, stderr  the first and the last MiB of what the job wrote; a job that writes without end fills no disk
  report.json ... the files to bring home, moved out of the scratch directory
  exit.json       {exit_code, signal, stopped, failed, ended, wall_s, peak_mib}; written last, whole or not at all
SIGTERM to the shim stops the job: SIGTERM to its main process, after `grace_s` SIGKILL to all that descends from it.

Run as a program it is the starter, a bare process from which the shims are forked: a fifth of the cost of forking
keepup-batch itself. It reads orders (fields of Start, a line of JSON each) and answers each with the shim's pid.
"""

# Plain paths: a shim's work is part of every job, and Path objects would cost it more than all its system calls.
# ruff: noqa: PTH101, PTH102, PTH103, PTH105, PTH115, PTH123, PTH208, PTH211

import contextlib
import ctypes
import fnmatch
import gc
import json
import os
import selectors
import shutil
import signal
import stat
import sys
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from keepupd.localbatch import procs
from keepupd.localbatch.output import Kept

OWN_FILES = ("shim", "exit.json", "stdout", "stderr", "scratch")
PR_SET_NAME, PR_SET_CHILD_SUBREAPER = 15, 36  # prctl(2)
_prctl = ctypes.CDLL(None, use_errno=True).prctl  # looked up before any fork


@dataclass(frozen=True, slots=True)
class Start:
    """All a shim needs to know of its job."""

    directory: str  # the job's own; the scratch directory is made in it
    inputs: str  # the files in here are linked into the scratch directory
    argv: list[str]
    environment: dict[str, str]
    bring_home: list[str]  # names or patterns of files in the scratch directory
    grace_s: float

    @property
    def scratch(self) -> str:
        return f"{self.directory}/scratch"


@dataclass(slots=True)
class Ending:
    exit_code: int | None = None
    signal: int | None = None
    stopped: bool = False  # keepup-batch stopped it, before it ended by itself
    failed: str = ""  # in words, when it could not even be started
    peak_mib: int = 0  # of the largest process; not below the shim's own (about 30), which the kernel hands on


def take_orders(orders: int) -> None:
    """The starter: fork a shim for each order that comes in on this socket; end with it."""
    gc.disable()  # the collector would only make the forked processes copy memory; no cycles are made here
    signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM, signal.SIGCHLD))  # a shim takes them when it is ready to
    with open(orders, "r+b", buffering=0) as server:
        for line in server:
            with contextlib.suppress(ChildProcessError):  # only now, when keepup-batch holds the pidfds of those before
                while os.waitpid(-1, os.WNOHANG)[0]:
                    pass
            answer: dict[str, Any] = {}
            try:
                answer["pid"] = os.fork()
            except OSError as error:
                answer["error"] = str(error)
            if answer.get("pid") == 0:
                _live(Start(**json.loads(line)))
            server.write(json.dumps(answer).encode() + b"\n")


def claim(directory: str, pid: int) -> bool:
    """Make `pid` the one process that may start this job (0: nobody may); False when it is another's already."""
    os.makedirs(directory, exist_ok=True)
    try:
        os.symlink(f"{pid}:{procs.identity(pid)}", f"{directory}/shim")
    except FileExistsError:
        return False
    return True


def claimed_by(directory: str) -> tuple[int, str] | None:
    """Pid and identity of the process that claimed the job in this directory; None when none has, or nobody may."""
    try:
        pid, _, identity = os.readlink(f"{directory}/shim").partition(":")
    except FileNotFoundError:
        return None
    return (int(pid), identity) if int(pid) else None


def _live(job: Start) -> NoReturn:
    """The whole life of a shim; nothing of the starter may run in it afterwards."""
    try:
        _detach()
        if claim(job.directory, os.getpid()):
            _run(job)
    except BaseException:
        with contextlib.suppress(OSError), Path(job.directory, "stderr").open("a") as words:
            words.write(f"keepup-batch: the shim of this job failed\n{traceback.format_exc()}")
    finally:
        os._exit(0)


def _detach() -> None:
    """Own session, name and (void) standard files; nothing that the starter had open; orphans below become ours."""
    os.setsid()
    _prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    _prctl(PR_SET_NAME, b"keepup-shim", 0, 0, 0)
    for fd in [int(name) for name in os.listdir("/proc/self/fd")]:
        with contextlib.suppress(OSError):
            os.close(fd)
    for _ in (0, 1, 2):
        os.open(os.devnull, os.O_RDWR)  # takes the lowest free number


def _run(job: Start) -> None:
    began, wake = time.monotonic(), _wake_fd()
    streams = [Kept(f"{job.directory}/{name}") for name in ("stdout", "stderr")]
    ending = Ending()
    try:
        _make_scratch(job)
        main = _spawn(job, streams, ending)
    except OSError as error:
        ending.failed = f"could not be prepared: {error}"
    else:
        if main:
            _watch(main, streams, wake, job.grace_s, ending)
    _end_descendants()
    for stream in streams:
        stream.close()
    _bring_home(job)
    _write_exit(job, {
        "exit_code": ending.exit_code, "signal": ending.signal, "stopped": ending.stopped, "failed": ending.failed,
        "ended": time.time(), "wall_s": round(time.monotonic() - began, 3), "peak_mib": ending.peak_mib,
    })  # fmt: skip
    remove_tree(job.scratch)


def _wake_fd() -> int:
    """A pipe to select on, from which the numbers of the signals that came can be read."""
    here, there = os.pipe()
    for end in (here, there):
        os.set_blocking(end, False)
    for number in (signal.SIGTERM, signal.SIGCHLD):
        signal.signal(number, lambda *_: None)  # SIG_IGN or SIG_DFL would write nothing
    signal.set_wakeup_fd(there, warn_on_full_buffer=False)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    return here


def _make_scratch(job: Start) -> None:
    if os.path.lexists(job.scratch):
        remove_tree(job.scratch)  # of a start before, when a held job was released
    os.mkdir(job.scratch)
    os.chdir(job.scratch)
    for name in os.listdir(job.inputs):
        os.link(f"{job.inputs}/{name}", name)  # they are read-only: one job can't spoil another's


def _spawn(job: Start, streams: "list[Kept]", ending: Ending) -> int | None:
    """Start the main process. As in a shell: 127 when the program is not found, 126 when it can't be executed."""
    os.environ.clear()
    os.environ.update(job.environment)  # also decides on which PATH the program is looked up
    out, err = (stream.write_end for stream in streams)
    try:
        return os.posix_spawnp(
            job.argv[0], job.argv, os.environ, setsid=True,  # a job's `kill 0` must not reach the shim
            file_actions=[(os.POSIX_SPAWN_DUP2, out, 1), (os.POSIX_SPAWN_DUP2, err, 2)],
            setsigmask=(), setsigdef=(signal.SIGPIPE, signal.SIGXFSZ),  # Python ignores these two
        )  # fmt: skip
    except OSError as error:
        os.write(err, f"keepup-batch: cannot start {job.argv[0]!r}: {error.strerror}\n".encode())
        ending.exit_code = 127 if isinstance(error, FileNotFoundError) else 126
        return None
    finally:
        for stream in streams:
            stream.close_write_end()


def _watch(main: int, streams: "list[Kept]", wake: int, grace_s: float, ending: Ending) -> None:
    """Keep what the job writes, until its main process has ended; stop it on SIGTERM."""
    kill_at: float | None = None
    with selectors.DefaultSelector() as selector:
        selector.register(wake, selectors.EVENT_READ)
        for stream in streams:
            selector.register(stream, selectors.EVENT_READ)
        while not _reap(main, ending):
            for key, _ in selector.select(None if kill_at is None else max(0.0, kill_at - time.monotonic())):
                if isinstance(key.fileobj, Kept):
                    if not key.fileobj.take():
                        selector.unregister(key.fileobj)
                elif signal.SIGTERM in os.read(wake, 4096) and not ending.stopped:
                    ending.stopped, kill_at = True, time.monotonic() + grace_s
                    _kill(main, signal.SIGTERM)
            if kill_at is not None and time.monotonic() >= kill_at:
                _kill_descendants()
                kill_at += 0.1


def _reap(main: int, ending: Ending) -> bool:
    """Ask after ended children, orphans that became ours among them; True when `main` is one."""
    with contextlib.suppress(ChildProcessError):
        while True:
            pid, status, usage = os.wait4(-1, os.WNOHANG)
            if pid == 0:
                return False
            if pid == main:
                code = os.waitstatus_to_exitcode(status)
                ending.exit_code, ending.signal = (code, None) if code >= 0 else (None, -code)
                ending.peak_mib = usage.ru_maxrss // 1024
                return True
    return False


def _kill_descendants() -> None:
    for pid in procs.descendants(procs.all_processes(), [os.getpid()])[os.getpid()]:
        _kill(pid, signal.SIGKILL)


def _end_descendants() -> None:
    """Kill what outlived the main process. Children of the killed become ours, so a few rounds end them all."""
    pause_s = 0.001
    with contextlib.suppress(ChildProcessError):  # there are none: the usual case, and it costs one call
        while True:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
            _kill_descendants()
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, 0.1)


def _kill(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def _bring_home(job: Start) -> None:
    """Move the listed files out of the scratch directory. A link is left: it could lead anywhere."""
    with contextlib.suppress(OSError):
        for name in os.listdir(job.scratch):
            wanted = name not in OWN_FILES and any(fnmatch.fnmatchcase(name, pattern) for pattern in job.bring_home)
            if wanted and stat.S_ISREG(os.lstat(f"{job.scratch}/{name}").st_mode):
                os.replace(f"{job.scratch}/{name}", f"{job.directory}/{name}")


def _write_exit(job: Start, content: dict[str, Any]) -> None:
    """Write exit.json, whole or not at all; on a full disk wait for room, unless the job's directory is gone.

    No fsync, which would slow down all jobs of the machine: a kill -9 takes nothing of what was written, and after a
    loss of power a job without exit status is one whose outcome the catalog tells.
    """
    path = f"{job.directory}/exit.json"
    while True:
        try:
            with open(f"{path}.new", "w") as file:
                file.write(json.dumps(content))
            os.replace(f"{path}.new", path)
            return
        except FileNotFoundError:
            return
        except OSError:
            remove_tree(job.scratch)  # perhaps this is what fills the disk
            time.sleep(0.5)  # the slot stays taken meanwhile, as it should on a full disk


def remove_tree(path: str) -> None:
    """Remove a directory, also when a job made parts of it read-only. What can't be removed is left for `forget`."""
    try:
        shutil.rmtree(path)
    except FileNotFoundError:
        return
    except OSError:
        for below, _, _ in os.walk(path):
            with contextlib.suppress(OSError):
                os.chmod(below, 0o700)
        shutil.rmtree(path, ignore_errors=True)


if __name__ == "__main__":
    take_orders(int(sys.argv[1]))
