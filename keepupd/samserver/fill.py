"""`keepup-sam fill`: a catalog of any size, for trials: raw files, and a reconstructed child for every third of them.

Every file has four parameters, a run, checksums, a location. Names tell their number; the same call twice adds more.
"""

import sqlite3
import time
from pathlib import Path

from .db import connect
from .locations import add_disk
from .tables import create

BATCH = 20_000
PARAMETERS = (("Fill.campaign", "string"), ("Fill.stream", "int"), ("Fill.energy", "float"),
              ("Fill.detector", "string"))


def run(path: Path, count: int, experiment: str) -> None:
    """Add `count` raw files and their children to the catalog at `path`, and print the pace."""
    db = connect(path)
    create(db, experiment)
    db.execute("BEGIN IMMEDIATE")
    db.executemany("INSERT OR IGNORE INTO parameters (name, data_type) VALUES (?, ?)", PARAMETERS)
    for name in ("raw", "reco"):
        db.execute("INSERT OR IGNORE INTO applications (family, name, version) VALUES ('fill', ?, 'v1')", (name,))
    if not db.execute("SELECT 1 FROM data_disks WHERE mount_point = 'fill:/fill'").fetchone():
        add_disk(db, "fill:/fill", [])
    db.execute("COMMIT")
    started, first = time.monotonic(), db.execute("SELECT coalesce(max(file_id), 0) + 1 FROM files").fetchone()[0]
    for begin in range(0, count, BATCH):
        done = min(count, begin + BATCH)
        db.execute("BEGIN IMMEDIATE")
        _add(db, [(first + n, f"fill_{first + n:08d}.raw", "raw", None) for n in range(begin, done)])
        _add(db, [(first + count + n, f"fill_{first + n:08d}_reco.root", "full-reconstructed", first + n)
                  for n in range(begin, done) if n % 3 == 0])
        db.execute("COMMIT")
        print(f"\r{done} of {count} files, {done / (time.monotonic() - started):.0f}/s", end="", flush=True)
    db.execute("PRAGMA analysis_limit = 1000")
    db.execute("PRAGMA optimize = 0x10002")
    print(f"\nkeepup-sam: {path} has {db.execute('SELECT count(*) FROM files').fetchone()[0]} files")
    db.close()


def _add(db: sqlite3.Connection, new: list[tuple[int, str, str, int | None]]) -> None:
    """new: file_id, name, data tier and parent."""
    key = {name: number for number, name in db.execute("SELECT param_id, name FROM parameters")}
    app = {name: number for number, name in db.execute(
        "SELECT application_id, name FROM applications WHERE family = 'fill'")}
    now = int(time.time())
    db.executemany(
        "INSERT INTO files (file_id, file_name, file_size, file_type, file_format, data_tier, data_stream, group_name, "
        "content_status, application_id, event_count, create_date, user_name) "
        "VALUES (?, ?, ?, 'detector', 'root', ?, 'physics', 'fill', 'good', ?, ?, ?, 'fill')",
        [(i, name, 1000 + i, tier, app["raw" if parent is None else "reco"], i % 500, now) for i, name, tier, parent
         in new])
    db.executemany("INSERT INTO checksums VALUES (?, ?)", [(i, f"adler32:{i:08x}") for i, *_ in new])
    db.executemany("INSERT INTO runs VALUES (?, ?, ?, 'physics')", [(i, i // 100, i % 100) for i, *_ in new])
    db.executemany("INSERT INTO file_parameters VALUES (?, ?, ?)", [row for i, *_ in new for row in (
        (i, key["Fill.campaign"], f"campaign_{i % 7}"), (i, key["Fill.stream"], i % 20),
        (i, key["Fill.energy"], i / 8), (i, key["Fill.detector"], "far" if i % 2 else "near"))])
    db.executemany("INSERT INTO locations (file_id, location, full_path, path, location_type, canonical) "
                   "VALUES (?, ?, ?, ?, 'disk', ?)",
                   [(i, f"fill:/fill/{i // 1000}", f"fill:/fill/{i // 1000}", f"/fill/{i // 1000}",
                     f"fill:/fill/{i // 1000}") for i, *_ in new])
    db.executemany("INSERT INTO parentage VALUES (?, ?)", [(i, parent) for i, _, _, parent in new if parent])
