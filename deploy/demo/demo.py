"""`make demo`: a real daemon runs a whole production flow by itself, from generators to histograms, with trouble in it.

Starts the embedded SAM, the local batch system and the daemon as processes of their own, and shows what an operator
would look at. All of it lies in build/demo. Flows: mcc10 (mcc10.py, about three minutes) and first-light
(first_light.py, one campaign and 40 files). Exit codes: 0 all is as it should be; 1 not so; 2 the demo could not run.
"""

import argparse
import fcntl
import os
import shutil
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import first_light
import mcc10
from desk import DemoError
from services import ServiceFailed, end_leftovers

from keepupd.core.errors import KeepupError

OURS = ".keepupd-demo"  # marks a directory that the demo may empty


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--flow", choices=("mcc10", "first-light"), default="mcc10")
    parser.add_argument("--dir", type=Path, default=Path("build/demo"), help="where all of it goes; emptied first")
    parser.add_argument("--seed", type=int, default=15, help="decides which files have trouble, and the order")
    parser.add_argument("--names", choices=("plain", "other"), default="plain",
                        help="of first light's files; other: names without sense")  # fmt: skip
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(2))
    try:
        with own_directory(args.dir.resolve()) as home:
            return mcc10.run(home, args.seed) if args.flow == "mcc10" else first_light.run(home, args.seed, args.names)
    except (DemoError, ServiceFailed, KeepupError) as error:
        print(f"demo: {error}", file=sys.stderr)
    except KeyboardInterrupt:
        print("demo: interrupted, all its processes are ended", file=sys.stderr)
    return 2


@contextmanager
def own_directory(home: Path) -> Iterator[Path]:
    """An empty directory, ours alone. What an earlier demo left there, processes too, is ended and removed."""
    home.mkdir(parents=True, exist_ok=True)
    directory = os.open(home, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise DemoError(f"another demo runs in {home}: wait for it, or end it with Ctrl-C") from None
    if any(home.iterdir()) and not (home / OURS).exists():
        raise DemoError(f"{home} holds something else than a demo: give another --dir")
    end_leftovers(home)
    for old in home.iterdir():
        shutil.rmtree(old) if old.is_dir() and not old.is_symlink() else old.unlink()
    (home / OURS).touch()
    try:
        yield home
    finally:
        os.close(directory)


if __name__ == "__main__":
    sys.exit(main())
