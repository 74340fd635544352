"""Check a histogram file: it opens, the named histograms are there and finite, and not all of them are empty.

    check_histograms.py --names residual,chi2 histograms.root

It goes along with a job whose campaign names histograms under `validation`, and needs uproot on the node. Exit code 0
when all is well; 1 when not, with every fault found, a line each; 127 where there is no uproot.
"""

import argparse
import sys
from collections.abc import Iterator

try:
    import numpy as np
    import uproot
except ImportError as error:
    print(f"{sys.executable} has no uproot, which the check of histograms needs: {error}")
    sys.exit(127)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--names", required=True, help="with commas between them")
    parser.add_argument("file")
    args = parser.parse_args()
    names = [name for name in args.names.split(",") if name]
    if not names:
        parser.error("--names is empty")
    found = list(faults(args.file, names))
    for fault in found:
        print(f"{args.file}: {fault}")
    return 1 if found else 0


def faults(path: str, names: list[str]) -> Iterator[str]:
    filled = []
    try:
        with uproot.open(path) as file:
            there = file.classnames(cycle=False)
            for name in names:
                if not there.get(name, "").startswith(("TH1", "TH2", "TH3")):
                    yield f"histogram {name!r} is not there; there are {', '.join(there) or 'none'}"
                    continue
                values, variances = (np.asarray(part(flow=True)) for part in (file[name].values, file[name].variances))
                if not (np.isfinite(values).all() and np.isfinite(variances).all()):
                    yield f"histogram {name!r} has a bin that is not a finite number"
                filled.append(bool(values.any()))
    except Exception as error:  # uproot has no exception of its own for a bad file
        yield f"can't be read: {type(error).__name__}: {(str(error).splitlines() or ['no words'])[0]}"
    if filled and not any(filled):
        yield f"all histograms are empty: {', '.join(names)}"


if __name__ == "__main__":
    sys.exit(main())
