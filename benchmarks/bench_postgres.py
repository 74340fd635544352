"""(g) Durable moves a second on PostgreSQL against SQLite: store.apply() on both, each commit synced to the same disk.

The server is made for this, on loopback, with Debian's settings. Without PostgreSQL's programs there is no figure.
"""

import sys
import tempfile
from pathlib import Path

from bench_moves import BATCH, Ours
from common import ROOT, Figure, in_turns, median, ratio

sys.path.append(str(ROOT / "tests"))
from pools.postgres import Cluster, programs


def measure(quick: bool = False) -> list[Figure]:
    if programs() is None:
        print("left out: no PostgreSQL server here", end=" ")
        return []
    with tempfile.TemporaryDirectory(prefix="keepup-postgres-") as home:
        cluster = Cluster(Path(home))
        cluster.up(durable=True)
        try:
            return [_compare(cluster, 2_000 if quick else 10_000, 3 if quick else 6)]
        finally:
            cluster.stop()


def _compare(cluster: Cluster, files: int, times: int) -> Figure:
    server, file = Ours("postgres", files, cluster.url()), Ours("sqlite", files)
    one, other = in_turns(times, server.moves_a_second, file.moves_a_second)
    for side in (server, file):
        side.k.database.close()
    detail = f"{median(one):.0f} against {median(other):.0f} moves a second, {BATCH} in a transaction"
    return Figure("moves a second: PostgreSQL / SQLite", ratio(one, other), "", detail=detail)
