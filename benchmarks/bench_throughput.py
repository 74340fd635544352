"""(a) Throughput: many files with a null executable, keepupd against a bare `xargs -P 2` loop of the same worker.

keepupd's time runs from the first launch to the last file declared, with daemon, batch and SAM up and all inputs known
to SAM; the loop's from its start to its end. Each has its own copy of the same catalog. What is over 1 is the daemon's
and the batch system's own work, on the processors that the jobs want too, and the wait of the last job to be seen.
"""

import shutil
import sqlite3
import subprocess
import time
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

from common import (
    CAMPAIGN,
    WORK,
    Figure,
    declare_input,
    is_quiet,
    make_keeper_at,
    median,
    prepare_catalog,
    quiet_pairs,
    ratio,
    remove,
    run_daemon,
    sam_client,
    serve_batch,
    serve_sam,
    spread,
    write_config,
)

from keepupd.core.model import Unit
from keepupd.daemon.effects import cluster_of

HOME = WORK / "throughput"
PATIENCE_S = 1200
LOOP = 'mkdir {} && cd {} && exec "$@" >stdout 2>stderr'


def measure(quick: bool = False) -> list[Figure]:
    files, times = (100, 1) if quick else (500, 3)
    remove(HOME)
    _make_template(files)
    pairs = quiet_pairs(times, lambda: _keepupd(files), lambda: _bare(files))
    ours, bare = [a.value for a, _ in pairs], [b.value for _, b in pairs]
    costs = [a.cpu_s for a, _ in pairs], [b.cpu_s for _, b in pairs]
    detail = f"{files} files; keepupd {spread(ours, '.1f')} s, loop {spread(bare, '.1f')} s"
    if not all(map(is_quiet, pairs)):
        detail += "; DISTURBED: others took " + " ".join(f"{max(a.others, b.others):.0%}" for a, b in pairs)
    return [
        Figure("throughput: keepupd / bare loop", ratio(ours, bare), "", 1.10, 1.25, detail=detail),
        Figure("throughput: processor time, the same", ratio(*costs), "", detail=f"{spread(costs[0], '.1f')} s"),
        Figure("throughput: files a second", files / median(ours), "1/s"),
    ]


def _make_template(files: int) -> None:
    """The catalog that both sides start from a copy of. Names and locations are the same in every copy."""
    write_config(HOME, "http://unknown/sam/dune/api")
    with serve_sam(HOME) as url:
        prepare_catalog(url, HOME)
        sam = sam_client(url)
        for number in range(files):
            declare_input(sam, HOME, number)
        sam.close()
    (HOME / "sam.db").rename(HOME / "template.db")


def _renew() -> None:
    for name in ("out", "state", "batch", "bare", "sam.db", "sam.db-wal", "sam.db-shm"):
        remove(HOME / name)
    (HOME / "out").mkdir()
    shutil.copy(HOME / "template.db", HOME / "sam.db")


def _keepupd(files: int) -> float:
    """Seconds from the first launch to the last file declared. The daemon is up first, with nothing to do."""
    _renew()
    with serve_sam(HOME) as url, serve_batch(HOME):
        write_config(HOME, url)
        with run_daemon(HOME), closing(sqlite3.connect(HOME / "state" / "keepupd.db", timeout=30)) as db:
            return _until_declared(db, files)


def _until_declared(db: sqlite3.Connection, files: int) -> float:
    give_up = time.monotonic() + PATIENCE_S
    while time.monotonic() < give_up:
        if _one(db, "SELECT sum(n) FROM counters WHERE state = 'declared'") == files:
            return time.time() - _one(db, "SELECT min(at) FROM history WHERE event = 'launch'") / 1000
        time.sleep(0.1)
    raise SystemExit(f"not all declared: {db.execute('SELECT state, cause, n FROM counters').fetchall()}")


def _one(db: sqlite3.Connection, sql: str) -> float:
    return float(db.execute(sql).fetchone()[0] or 0)


def _bare(files: int) -> float:
    """Seconds that a plain loop takes, two at a time, over one project with the same order."""
    _renew()
    with serve_sam(HOME) as url:
        loop = HOME / "bare"
        loop.mkdir()
        command = _write_order(url, loop, files)
        numbers = "\n".join(str(number) for number in range(1, files + 1))
        begun = time.monotonic()
        subprocess.run(["xargs", "-P", "2", "-I{}", "sh", "-c", LOOP, "sh", *command], cwd=loop, input=numbers,
                       text=True, check=True)  # fmt: skip
        took = time.monotonic() - begun
        sam = sam_client(url)
        done = sam.count("data_tier full-reconstructed")
        sam.close()
    if done != files:
        raise SystemExit(f"the bare loop made {done} of {files} outputs; see {loop}")
    return took


def _write_order(url: str, loop: Path, files: int) -> list[str]:
    """What the daemon would send with such a launch, and the project it would start; gives the job's command."""
    now, key = datetime.now(UTC), "bare"
    keeper = make_keeper_at(HOME, url)
    (campaign,) = keeper.campaigns.values()
    units = [Unit(n + 1, 1, f"in{n:06d}.txt", "pending", 1, now) for n in range(files)]
    launch = cluster_of(keeper, key, "", campaign, units, range(1, files + 1))
    for name, text in launch.files.items():
        (loop / name).write_text(text)
    project = f"keepup_{CAMPAIGN}_{key}"
    keeper.sam.create_definition(project, "data_tier raw", "the bare loop")
    keeper.sam.start_project(project, project)
    keeper.sam.close()
    keeper.database.close()
    return [f"../{word}" if word in launch.files else word.replace("{key}", f"{key}.{{}}") for word in launch.argv]
