"""The slots of this machine: start the jobs at the head of the queue, watch them, note how they ended.

The life of a job, and what is true after a kill -9 of keepup-batch at any point of it:
  idle -> running    committed before the fork. After a restart without link `shim`: nobody started it, back to idle
  link `shim`        made by the shim; only one process can. After a restart: it lives, so the job is adopted;
                     or it is dead, and exit.json tells; or neither (the machine fell, the shim was killed): `lost_shim`
  stopping           hold_code or removing is committed before the shim gets SIGTERM; after a restart it gets it again
  running -> left, held, removed   from exit.json, which stays: reading it twice gives the same
So `recover()` is right at any moment, and the answer to every trouble with the disk or the database too.
"""

import contextlib
import json
import os
import selectors
import shutil
import signal
import sqlite3
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from keepupd.localbatch import procs, shim
from keepupd.localbatch.queue import Queue
from keepupd.localbatch.starter import Starter

# HTCondor manual, "Hold Reason Codes"
HOLD_BY_HAND, HOLD_NOT_STARTED, HOLD_POLICY, HOLD_MEMORY, HOLD_WALL = 1, 6, 26, 34, 47
INHERITED = ("PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LC_ALL", "TZ")
LOST_SHIM = "lost_shim: the process that watched this job is gone (machine restarted, or killed); its exit is unknown"


@dataclass(frozen=True, slots=True)
class Settings:
    directory: Path  # absolute
    slots: int
    memory_mib: int
    measure_s: float = 0.5  # between two measurements of memory and wall time
    grace_s: float = 2.0  # between SIGTERM and SIGKILL when a job is stopped


@dataclass(slots=True)
class Running:
    row: sqlite3.Row
    pid: int  # of the shim
    pidfd: int
    slot: int
    stopping: bool
    memory_mib: float = 0.0
    peak_mib: float = 0.0
    wall_s: float = 0.0


class Slots:
    def __init__(self, settings: Settings, queue: Queue, selector: selectors.BaseSelector):
        self._set, self._queue, self._selector = settings, queue, selector
        self.running: dict[int, Running] = {}  # by seq, the job's number in the queue
        self._starter = Starter()
        self._starts: list[tuple[sqlite3.Row, int]] = []  # chosen and not yet forked

    def close(self) -> None:
        """Leave the jobs to their shims."""
        self._starter.close()

    def directory(self, row: sqlite3.Row) -> Path:
        return self._set.directory / "jobs" / str(row["launch"]) / str(row["number"])

    def free(self) -> tuple[int, int]:
        """Slots and memory (MiB) that no running job asked for."""
        rows = [job.row for job in self.running.values()] + [row for row, _ in self._starts]
        return (self._set.slots - sum(row["cpus"] for row in rows),
                self._set.memory_mib - sum(row["memory_mib"] for row in rows))  # fmt: skip

    def misfit(self, cpus: int, memory_mib: int, disk_mib: int) -> str:
        """In words why a job that asks for this could never start here; empty when it could."""
        disk_there = shutil.disk_usage(self._set.directory).total // 2**20
        pairs = {"cpus": (cpus, self._set.slots), "memory_mib": (memory_mib, self._set.memory_mib),
                 "disk_mib": (disk_mib, disk_there)}  # fmt: skip
        over = {name: pair for name, pair in pairs.items() if pair[0] > pair[1]}
        return "; ".join(f"it asks for {name} {asked}, and there are {there}" for name, (asked, there) in over.items())

    # --- start ----------------------------------------------------------------------------------------------------

    def fill(self) -> None:
        """Inside a transaction: take jobs from the head of the queue while they fit. No job overtakes a bigger one."""
        slots, memory_mib = self.free()
        taken = {job.slot for job in self.running.values()}
        while slots > 0 and (row := self._queue.first_idle()):
            if misfit := self.misfit(row["cpus"], row["memory_mib"], row["disk_mib"]):
                self.hold(row, HOLD_POLICY, misfit)  # served with less than when it was submitted; let the others pass
                continue
            slots, memory_mib = slots - row["cpus"], memory_mib - row["memory_mib"]
            if slots < 0 or memory_mib < 0:
                return
            slot = min(set(range(1, self._set.slots + 1)) - taken)
            taken.add(slot)
            self._queue.set(row["seq"], state="running", slot=slot, started=time.time())
            self._starts.append((row, slot))

    def start(self) -> None:
        """After the commit: fork a shim for each job that fill() took."""
        while self._starts:
            row, slot = self._starts[0]
            pid = self._starter.start(self._order(row))
            self._starts.pop(0)
            self._watch(Running(row, pid, os.pidfd_open(pid), slot, stopping=False))

    def _order(self, row: sqlite3.Row) -> shim.Start:
        directory = str(self.directory(row))
        environment = {name: os.environ[name] for name in INHERITED if name in os.environ}
        environment |= json.loads(row["environment"])
        scratch = f"{directory}/scratch"
        environment |= {"TMPDIR": scratch, "_CONDOR_SCRATCH_DIR": scratch}
        key = f"{row['launch']}.{row['number']}"
        argv = [word.replace("{key}", key).replace("{number}", str(row["number"])) for word in json.loads(row["argv"])]
        inputs = str(self.directory(row).parent / f"input-{row['submission']}")
        return shim.Start(directory, inputs, argv, environment, json.loads(row["bring_home"]), self._set.grace_s)

    def _watch(self, job: Running) -> None:
        self.running[job.row["seq"]] = job
        self._selector.register(job.pidfd, selectors.EVENT_READ, job)

    def _unwatch(self, job: Running) -> None:
        self._selector.unregister(job.pidfd)
        os.close(job.pidfd)
        del self.running[job.row["seq"]]

    # --- end ------------------------------------------------------------------------------------------------------

    def ended(self, job: Running) -> None:
        """Inside a transaction: the shim of this job has ended."""
        self._unwatch(job)
        (row,) = self._queue.jobs([f"{job.row['launch']}.{job.row['number']}"])
        if not self._settle(row, job.peak_mib):
            words = f"the job's shim could not begin in {self.directory(row)}: is the disk full?"
            self._stopped(row, words, HOLD_NOT_STARTED)

    def let_go(self) -> None:
        """Stop watching; the jobs run on."""
        for job in list(self.running.values()):
            self._unwatch(job)
        self._starts.clear()

    def recover(self) -> None:
        """Forget what is in memory and take it anew from queue.db and the jobs' directories."""
        self.let_go()
        with self._queue.transaction():
            rebooted = self._queue.boot_was_another()
            for row in self._queue.in_state("running"):
                if self._settle(row):
                    continue
                if rebooted:
                    self._lost(row, self.directory(row))
                elif not (row["removing"] or row["hold_code"]):
                    self._queue.reset(row["seq"])  # if a shim was forked and slept till now: only one gets the job
                elif shim.claim(str(self.directory(row)), 0) or not self._settle(row):  # now no shim can
                    self._stopped(row)

    def _settle(self, row: sqlite3.Row, peak_mib: float = 0.0) -> bool:
        """See from its files where a job with state running stands; False when no shim has begun it."""
        directory = self.directory(row)
        who = shim.claimed_by(str(directory))
        if who is None:
            return False
        pidfd = procs.open_alive(*who)
        if pidfd is not None:
            self._watch(Running(row, who[0], pidfd, row["slot"], stopping=False, peak_mib=peak_mib))
            self._stop_if_wanted(row)
            return True
        ending = _read(directory / "exit.json")  # after the shim was seen dead: it is there now, or never will be
        if ending:
            self._note(row, ending, peak_mib)
        else:
            self._lost(row, directory)
        return True

    def _note(self, row: sqlite3.Row, ending: dict[str, Any], peak_mib: float) -> None:
        values = {name: ending[name] for name in ("ended", "wall_s", "exit_code", "signal")}
        self._queue.set(row["seq"], **values, peak_mib=max(round(peak_mib), ending["peak_mib"]))
        if ending["failed"]:
            self._stopped(row, ending["failed"], HOLD_NOT_STARTED)
        elif row["removing"] or (row["hold_code"] and ending["stopped"]):
            self._stopped(row)
        else:
            self._queue.set(row["seq"], state="left", hold_code=None, hold_reason="")

    def _stopped(self, row: sqlite3.Row, words: str = "", code: int = 0) -> None:
        if row["removing"]:
            self._queue.set(row["seq"], state="removed", removing=0)
        else:
            code, words = code or row["hold_code"], words or row["hold_reason"]
            self._queue.set(row["seq"], state="held", hold_code=code, hold_reason=words)

    def _lost(self, row: sqlite3.Row, directory: Path) -> None:
        for pid in procs.with_environment(f"_CONDOR_SCRATCH_DIR={directory / 'scratch'}"):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        state = "removed" if row["removing"] else "left"
        self._queue.set(row["seq"], state=state, ended=time.time(), removing=0, hold_code=None, hold_reason=LOST_SHIM)

    # --- stop -----------------------------------------------------------------------------------------------------

    def hold(self, row: sqlite3.Row, code: int, words: str) -> None:
        """Hold a job; a running one is stopped first. Call stop() after the commit."""
        if row["state"] in ("idle", "running") and not row["hold_code"]:
            state = {"state": "held"} if row["state"] == "idle" else {}
            self._queue.set(row["seq"], **state, hold_code=code, hold_reason=words)

    def remove(self, row: sqlite3.Row) -> None:
        """Take a job out of the queue; a running one is stopped first. Call stop() after the commit."""
        if row["state"] == "running":
            self._queue.set(row["seq"], removing=1)
        elif row["state"] != "removed":
            self._queue.set(row["seq"], state="removed")

    def release(self, row: sqlite3.Row) -> None:
        if row["state"] == "held":
            for name in ("shim", "exit.json"):
                (self.directory(row) / name).unlink(missing_ok=True)
            self._queue.reset(row["seq"])

    def stop(self, keys: list[str]) -> None:
        """After the commit: stop those of the jobs that are to be held or removed."""
        for row in self._queue.jobs(keys):
            self._stop_if_wanted(row)

    def _stop_if_wanted(self, row: sqlite3.Row) -> None:
        job = self.running.get(row["seq"])
        if job and not job.stopping and (row["hold_code"] or row["removing"]):
            job.stopping = True
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(job.pidfd, signal.SIGTERM)

    # --- measure --------------------------------------------------------------------------------------------------

    def measure(self) -> None:
        """One walk over /proc for all jobs; hold those over their memory or wall time."""
        processes = procs.all_processes()
        below = procs.descendants(processes, [job.pid for job in self.running.values()])
        for job in self.running.values():
            if not job.stopping and job.pid in processes and (fault := self._over(job, processes, below[job.pid])):
                key = f"{job.row['launch']}.{job.row['number']}"
                with self._queue.transaction():
                    self.hold(self._queue.jobs([key])[0], *fault)
                self.stop([key])

    def _over(self, job: Running, processes: dict[int, procs.Process], pids: list[int]) -> tuple[int, str] | None:
        asked_mib, asked_s = job.row["memory_mib"], job.row["limit_s"]
        job.memory_mib = procs.memory_mib(processes, pids, asked_mib)
        job.peak_mib = max(job.peak_mib, job.memory_mib)
        job.wall_s = procs.age_s(processes[job.pid])
        if job.memory_mib > asked_mib:
            return HOLD_MEMORY, f"memory {job.memory_mib:.0f} MiB over the request of {asked_mib} MiB"
        if job.wall_s > asked_s:
            return HOLD_WALL, f"wall time {job.wall_s:.0f} s over the request of {asked_s} s"
        return None


def _read(path: Path) -> dict[str, Any] | None:
    """A JSON file; None when there is none, or the machine fell before it was whole on the disk."""
    try:
        return dict(json.loads(path.read_bytes()))
    except (FileNotFoundError, ValueError):
        return None
