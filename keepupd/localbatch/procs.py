"""What /proc says of processes: who descends from whom, since when they live, how much memory they hold.

A process is told from a later one with the same number by its start time in clock ticks since boot, as /proc/PID/stat
has it, and by the boot's id: both stand still when somebody sets the clock, which psutil's create_time does not.
Source: proc(5).
"""

import errno
import os
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
TICKS_PER_S = os.sysconf("SC_CLK_TCK")
BOOT_ID = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Process:
    parent: int
    started_ticks: int  # since boot
    rss_mib: float
    alive: bool  # False for a zombie: it has ended, nobody has asked how


def process(pid: int) -> Process | None:
    """The process of this number, or None when there is none."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as stat:  # noqa: PTH123 - hundreds a look: Path costs more than the read
            fields = stat.read().rpartition(b")")[2].split()  # the name before ")" may hold anything
    except (FileNotFoundError, ProcessLookupError):
        return None
    return Process(int(fields[1]), int(fields[19]), int(fields[21]) * PAGE_BYTES / MIB, fields[0] not in b"ZX")


def all_processes() -> dict[int, Process]:
    found = {int(name): process(int(name)) for name in os.listdir("/proc") if name.isdigit()}  # noqa: PTH208
    return {pid: its for pid, its in found.items() if its}


def descendants(processes: Mapping[int, Process], roots: Iterable[int]) -> dict[int, list[int]]:
    """For each root all processes below it, the root itself left out, the nearest first."""
    children: dict[int, list[int]] = {}
    for pid, its in processes.items():
        children.setdefault(its.parent, []).append(pid)
    below = {root: list(children.get(root, ())) for root in roots}
    for found in below.values():
        for pid in found:  # the list grows while it is walked
            found.extend(children.get(pid, ()))
    return below


def pss_mib(pid: int) -> float | None:
    """Memory of a process in MiB, pages it shares counted by its share; None when /proc does not tell."""
    try:
        rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
        return int(rollup.split("\nPss:", 1)[1].split(None, 1)[0]) / 1024
    except (OSError, IndexError, ValueError):
        return None


def memory_mib(processes: Mapping[int, Process], pids: Iterable[int], limit_mib: float) -> float:
    """Memory of these processes together, in MiB.

    The sum of RSS, which the walk over /proc has for nothing; but a page that forked processes share it counts once for
    each. So when it is over the limit the PSS is asked for (milliseconds a process), and nobody is held for sharing.
    """
    pids = list(pids)
    total = sum(processes[pid].rss_mib for pid in pids)
    if total <= limit_mib:
        return total
    shares = ((pss_mib(pid), processes[pid].rss_mib) for pid in pids)
    return sum(rss if pss is None else pss for pss, rss in shares)


def age_s(its: Process) -> float:
    """Seconds since the process was started; no clock that can be set is asked."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) - its.started_ticks / TICKS_PER_S


def identity(pid: int) -> str | None:
    """A name no other process ever has on this machine; None when the process has ended."""
    its = process(pid)
    return f"{BOOT_ID}/{its.started_ticks}" if its and its.alive else None


def open_alive(pid: int, name: str) -> int | None:
    """A pidfd (readable when it ends) of the process with this identity, or None when it has ended."""
    try:
        pidfd = os.pidfd_open(pid)
    except OSError as error:
        if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM):
            raise  # our trouble; it says nothing about the process
        return None
    if identity(pid) == name:  # asked after the opening: so the pidfd can't be of a later process
        return pidfd
    os.close(pidfd)
    return None


def with_environment(setting: str) -> list[int]:
    """Processes that were started with this `NAME=value` in their environment; for those that lost their shim."""
    wanted, found = b"\0" + setting.encode() + b"\0", []
    for name in filter(str.isdigit, os.listdir("/proc")):  # noqa: PTH208
        try:
            if wanted in b"\0" + Path(f"/proc/{name}/environ").read_bytes():
                found.append(int(name))
        except OSError:
            continue
    return found
