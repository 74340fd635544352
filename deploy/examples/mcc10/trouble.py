"""Trouble for demonstrations: files that look well to SAM and make the next program stumble.

KEEPUP_DEMO_TROUBLE in the environment of gen.py says which, as "RUN.SUBRUN:KIND RUN.SUBRUN:KIND". Nothing else shows
it, not the file's name and not its metadata. The kinds:
  corrupt    bytes in the middle are zero, reco.py can't read them, ever
  crash      a hit on a wire that does not exist: reco.py dies by SIGSEGV, the first time (see there)
  hungry     a readout window so long that reco.py needs some 290 MiB for seconds, not 60
  no_events  the events are lost, though the metadata say otherwise
"""

import os
from pathlib import Path

import numpy as np
import uproot

KINDS = ("corrupt", "crash", "hungry", "no_events")
STRANGE_WIRE = 4711
LONG_WINDOW = 4_500_000  # times 12 layers times 4 bytes: 206 MiB


def trouble_of(run: int, subrun: int) -> str | None:
    """The kind for this file, None for most."""
    items = dict(item.split(":", 1) for item in os.environ.get("KEEPUP_DEMO_TROUBLE", "").split())
    if unknown := set(items.values()) - set(KINDS):
        raise SystemExit(f"KEEPUP_DEMO_TROUBLE names {sorted(unknown)}; there are {', '.join(KINDS)}")
    return items.get(f"{run}.{subrun}")


def spoil(hits: dict[str, np.ndarray], kind: str | None) -> dict[str, np.ndarray]:
    """The columns to write in place of `hits`, for kinds that are a matter of values."""
    spoiled = {name: column.copy() for name, column in hits.items()}
    if kind == "crash":
        spoiled["wire"][0, 0] = STRANGE_WIRE
    if kind == "hungry":
        spoiled["window"][:] = LONG_WINDOW
    if kind == "no_events":
        spoiled = {name: column[:0] for name, column in hits.items()}
    return spoiled


def corrupt(path: Path) -> None:
    """Zeros in place of the drift distances' bytes. The file stays whole: all its parts are where they should be."""
    with uproot.open(path) as file:
        basket = file["hits"]["drift"].basket(0)
        start, size = basket.cursor.index, basket.compressed_bytes
    with path.open("r+b") as stream:
        stream.seek(start)
        stream.write(bytes(size))
