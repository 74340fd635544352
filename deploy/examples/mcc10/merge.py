"""Merge of the example flow, a null reco path: the trees of many files, one after the other, in one file. No physics.

    merge.py --inputs a.root b.root --out merged.root --metadata merged.json

Reads and writes bit by bit, so memory does not go with the sum of the inputs. Afterwards the output is opened
again: each input's events must be there, in their order, once. Exit code 1, with the files' names, if they are not.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import uproot
from chamber import IDS, Columns, runs_in, write_metadata

TREE = "tracks"
STEP = 50_000  # events held in memory at once


class NotMerged(Exception):
    """The output would not hold what the inputs hold; says which files are to blame."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--inputs", nargs="+", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--metadata", type=Path, required=True)
    args = parser.parse_args()
    try:
        events_of = merge(args.inputs, args.out)
        events = check(events_of, args.out)
    except NotMerged as error:
        print(f"merge: {error}", file=sys.stderr)
        return 1
    write_metadata(args.metadata, runs_in(dict(zip(IDS, events.T, strict=True))), events[:, 2])
    print(f"{len(events)} events of {len(args.inputs)} files in {args.out}")
    return 0


def merge(inputs: list[Path], out: Path) -> dict[Path, np.ndarray]:
    """Write the inputs' events to `out`. Returns each one's (run, subrun, event) rows. Raises NotMerged."""
    events_of: dict[Path, np.ndarray] = {}
    first: dict[str, np.dtype] = {}
    with uproot.recreate(out) as target:
        for path in inputs:
            if path in events_of:
                raise NotMerged(f"{path} is given twice")
            try:
                with uproot.open(path) as source:
                    tree = source[TREE]
                    kinds = {name: native(branch.interpretation.numpy_dtype) for name, branch in tree.items()}
                    if not first:
                        first = kinds
                        target.mktree(TREE, kinds)
                    if kinds != first:
                        raise NotMerged(f"{path} has other branches than {inputs[0]}: {kinds} and {first}")
                    events_of[path] = copy(tree, target[TREE])
                    if len(events_of[path]) != tree.num_entries:
                        raise NotMerged(f"{path}: {len(events_of[path])} events read of {tree.num_entries}")
            except NotMerged:
                raise
            except Exception as error:  # uproot has no exception of its own for a bad file
                words = (str(error).splitlines() or ["no words"])[0]
                raise NotMerged(f"{path} can't be read: {type(error).__name__}: {words}") from error
    return events_of


def native(kind: np.dtype) -> np.dtype:
    return np.dtype((kind.base.newbyteorder("="), kind.shape))


def copy(tree: uproot.TTree, target: uproot.WritableTree) -> np.ndarray:
    seen = [np.empty((0, len(IDS)), np.int64)]
    for part in tree.iterate(step_size=STEP, library="np"):
        target.extend(part)
        seen.append(ids(part))
    return np.concatenate(seen)


def ids(columns: Columns) -> np.ndarray:
    return np.stack([columns[name].astype(np.int64) for name in IDS], axis=1)


def check(events_of: dict[Path, np.ndarray], out: Path) -> np.ndarray:
    """Events in = events out, and none of them twice. Returns them. Raises NotMerged with the files' names."""
    with uproot.open(out) as file:
        written = ids(file[TREE].arrays(IDS, library="np"))
    at, faults = 0, []
    for path, events in events_of.items():
        if not np.array_equal(written[at : at + len(events)], events):
            faults.append(f"{path}: its {len(events)} events are not in the output as they were")
        at += len(events)
    if at != len(written):
        faults.append(f"{at} events in, {len(written)} out, from {', '.join(map(str, events_of))}")
    if len(np.unique(written, axis=0)) != len(written):
        faults += twice(events_of)
    if faults:
        raise NotMerged("; ".join(faults))
    return written


def twice(events_of: dict[Path, np.ndarray]) -> list[str]:
    """Events that are in more than one place, by file."""
    seen: dict[tuple[int, ...], Path] = {}
    faults: dict[tuple[Path, Path], str] = {}
    for path, events in events_of.items():
        for event in map(tuple, events.tolist()):
            if event in seen:
                faults.setdefault((seen[event], path), f"{path} and {seen[event]} both hold run, subrun, event {event}")
            seen[event] = path
    return list(faults.values())


if __name__ == "__main__":
    sys.exit(main())
