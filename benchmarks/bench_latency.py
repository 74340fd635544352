"""(e) Latency: from an input's declaration to its output's, less the worker's own run time. Every poll is at 1 second.

Inputs are declared one by one at moments of chance, fewer than two slots can take, so that no job waits for a slot.
Two ends are shown: when SAM has the output, and when keepupd has moved the file to declared.
"""

import random
import sqlite3
import time
from contextlib import closing
from typing import NamedTuple

from common import (
    WORK,
    Figure,
    declare_input,
    prepare_catalog,
    remove,
    run_daemon,
    sam_client,
    serve_batch,
    serve_sam,
    write_config,
)

HOME = WORK / "latency"
APART_S = (0.5, 1.5)  # between two inputs
LOOK_S = 0.05  # between two looks at SAM: the error of the first figure
PATIENCE_S = 120
DONE = """
SELECT u.name, u.since, j.wall_s FROM units u JOIN attempts a ON a.unit_id = u.id
  JOIN jobs j ON j.launch_id = a.launch_id AND j.number = a.job_number WHERE u.state = 'declared'
"""


class Times(NamedTuple):
    """Latency of one file in seconds: until SAM has its output, until keepupd calls it declared."""

    in_sam: float
    in_keepupd: float


def measure(quick: bool = False) -> list[Figure]:
    remove(HOME)
    write_config(HOME, "http://unknown/sam/dune/api")
    with serve_sam(HOME) as url, serve_batch(HOME):
        write_config(HOME, url)
        prepare_catalog(url, HOME)
        with run_daemon(HOME):
            found = _latencies(url, 15 if quick else 120)
    figures = []
    for words, times in (("in SAM", [t.in_sam for t in found]), ("in keepupd", [t.in_keepupd for t in found])):
        p50, p99 = _quantile(times, 0.50), _quantile(times, 0.99)
        figures += [Figure(f"latency {words}, p50", p50, "s"),
                    Figure(f"latency {words}, p99", p99, "s", detail=f"{len(times)} files")]  # fmt: skip
    return figures


def _latencies(url: str, count: int) -> list[Times]:
    sam = sam_client(url)
    begun: dict[str, float] = {}
    seen: dict[str, float] = {}
    next_at = give_up = time.time() + 1
    while len(seen) < count:
        now = time.time()
        if now >= next_at and len(begun) < count:
            name = declare_input(sam, HOME, len(begun))
            begun[name], next_at = time.time(), now + random.uniform(*APART_S)
            give_up = now + PATIENCE_S
        for file in sam.files("data_tier full-reconstructed") if len(begun) > len(seen) else ():
            seen.setdefault(file.name, now)
        if now > give_up:
            raise SystemExit(f"only {len(seen)} of {count} outputs came; see {HOME}")
        time.sleep(LOOK_S)
    time.sleep(3)  # keepupd's own look
    sam.close()
    return _paired(begun, seen)


def _paired(begun: dict[str, float], seen: dict[str, float]) -> list[Times]:
    with closing(sqlite3.connect(HOME / "state" / "keepupd.db")) as db:
        done = {name: (since / 1000, wall_s) for name, since, wall_s in db.execute(DONE)}
    outputs = {name: next(at for output, at in seen.items() if output.startswith(name[:8])) for name in begun}
    return [Times(outputs[name] - at - done[name][1], done[name][0] - at - done[name][1]) for name, at in begun.items()]


def _quantile(values: list[float], share: float) -> float:
    """The value that this share of the values does not exceed."""
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]
