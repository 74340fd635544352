"""Run the benchmarks and print a table: figure, value, wanted, limit, verdict. All of it goes to build/bench.json too.

    python benchmarks/run.py                    everything, some ten minutes
    python benchmarks/run.py --quick            smaller and once: does it work, and roughly how fast
    python benchmarks/run.py --only throughput,idle_pass

Exit code 1 when a figure is over its limit. What each figure means: docs/benchmarks.md.
"""

import argparse
import importlib
import json
import os
import platform
import sys
import time

from common import WORK, Figure, load

PARTS = ("moves", "idle_pass", "status", "latency", "throughput", "grouping", "postgres")


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--quick", action="store_true", help="smaller, and without repetition")
    options.add_argument("--only", default=",".join(PARTS), metavar="A,B", help=f"some of: {', '.join(PARTS)}")
    given = options.parse_args()
    WORK.mkdir(parents=True, exist_ok=True)
    before, found = load(), list[Figure]()
    for part in given.only.split(","):
        begun = time.monotonic()
        print(f"{part} ...", end=" ", flush=True)
        found += importlib.import_module(f"bench_{part}").measure(given.quick)
        print(f"{time.monotonic() - begun:.0f} s", flush=True)
    _show(found)
    machine = {"cpus": os.cpu_count(), "python": platform.python_version(), "load_before": before, "load_after": load()}
    (WORK.parent / "bench.json").write_text(
        json.dumps({"machine": machine, "figures": [figure.row() for figure in found]}, indent=1)
    )
    print(f"\n{machine['cpus']} processors, Python {machine['python']}, load {before:.1f} before, {load():.1f} after")
    return 1 if any(figure.verdict == "OVER" for figure in found) else 0


def _show(found: list[Figure]) -> None:
    print(f"\n{'figure':44}{'value':>10} {'':5}{'wanted':>8}{'limit':>8}  verdict")
    for one in found:
        wanted, limit = ("" if bound is None else f"{bound:g}" for bound in (one.wanted, one.limit))
        print(f"{one.name:44}{one.value:>10.3g} {one.unit:5}{wanted:>8}{limit:>8}  {one.verdict}")
        if one.detail:
            print(f"    {one.detail}")


if __name__ == "__main__":
    sys.exit(main())
