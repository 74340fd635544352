"""(d) `keepupctl status` with 300,000 files: seconds from command to prompt, and against `import sqlalchemy` alone."""

import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta

from common import BIN, WORK, Figure, fill, in_turns, make_keeper_at, median, ratio, remove

FILES = 300_000
SHARES = {"pending": 0.02, "running": 0.01, "validated": 0.001, "held": 0.005, "crash": 0.002, "debug": 0.01}


def measure(quick: bool = False) -> list[Figure]:
    files, home = FILES // 10 if quick else FILES, WORK / "status"
    remove(home)
    k = make_keeper_at(home)
    parts = {state: int(share * files) for state, share in SHARES.items()}
    fill(k, parts | {"declared": files - sum(parts.values())}, datetime.now(UTC) - timedelta(minutes=30))
    k.database.close()
    status, imports = in_turns(
        5 if quick else 25,
        lambda: _seconds(str(BIN / "keepupctl"), "-c", str(home / "keepupd.yaml"), "status"),
        lambda: _seconds(sys.executable, "-c", "import sqlalchemy"),
    )
    detail = f"{files} files, all seen or declared within the last hour; the import alone {median(imports):.2f} s"
    return [
        Figure("keepupctl status, seconds", median(status), "s", 0.5, 0.5, detail=detail),
        Figure("keepupctl status / import sqlalchemy", ratio(status, imports), ""),
    ]


def _seconds(*command: str) -> float:
    begun = time.perf_counter()
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - begun
