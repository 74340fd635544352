"""The demo's input files: real ROOT files of simulated hits, some of them with trouble in their contents.

What a file's trouble is, nobody but this module and the demo's last check knows: it is in no name and in no metadata.
"""

import random
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import uproot

FILES, EVENTS, WIRES, TICKS = 40, 20, 200, 3000
LONG_READOUT_TICKS = 250_000  # times WIRES times 4 bytes: 191 MiB
STRANGE_WIRE = 4711
SIMULATION = "dune_dc15_pd_sp_sim"  # the campaign that would have made them


@dataclass(frozen=True)
class Trouble:
    """What is wrong with a file, the state it must end in, and the causes that keepupd must name on the way."""

    words: str
    ends_in: str
    causes: frozenset[str]


NONE = Trouble("nothing", "declared", frozenset())
TRUNCATED = Trouble("was cut off before it was declared", "debug", frozenset({"executable_failed"}))
CRASHES_ONCE = Trouble("makes the executable die by a signal, once", "declared", frozenset({"segmentation_fault"}))
HUNGRY = Trouble("needs more memory than a job asks for", "declared", frozenset({"memory_over_request"}))
NO_TRACKS = Trouble("gives an output without events", "debug", frozenset({"too_few_events"}))
MISSING = Trouble("is not at its location", "held", frozenset({"input_copy_absent"}))
TROUBLES = (TRUNCATED, CRASHES_ONCE, HUNGRY, NO_TRACKS, MISSING)


@dataclass(frozen=True)
class Input:
    """A file, and what SAM is told of it. The size and checksum are those of the copy as it was declared."""

    path: Path
    run: int
    trouble: Trouble
    size: int
    adler32: str

    @property
    def name(self) -> str:
        return self.path.name

    def metadata(self) -> dict[str, Any]:
        return {
            "file_name": self.name, "file_size": self.size, "checksum": [f"adler32:{self.adler32}"],
            "file_type": "mc", "file_format": "root", "data_tier": "simulated", "data_stream": "physics",
            "event_count": EVENTS, "first_event": 1, "last_event": EVENTS, "runs": [[self.run, 1, "mc"]],
            "DUNE.campaign": SIMULATION,
        }  # fmt: skip


def make_inputs(directory: Path, seed: int, names: str) -> list[Input]:
    """Write the files in an order of chance, which `seed` decides; `names`: plain (by run) or other (without sense)."""
    directory.mkdir(parents=True)
    chance = random.Random(seed)
    troubles = [*TROUBLES, *[NONE] * (FILES - len(TROUBLES))]
    chance.shuffle(troubles)
    made = []
    for run, trouble in zip(range(18001, 18001 + FILES), troubles, strict=True):
        name = f"hits_r{run}_s1.root" if names == "plain" else f"{chance.getrandbits(48):012x}.root"
        made.append(_make(directory / name, run, trouble, np.random.default_rng(seed + run)))
    chance.shuffle(made)
    return made


def _make(path: Path, run: int, trouble: Trouble, random_numbers: np.random.Generator) -> Input:
    hits = _hits(run, faint=trouble is NO_TRACKS, random_numbers=random_numbers)
    if trouble is CRASHES_ONCE:
        hits["wire"][len(hits["wire"]) // 2] = STRANGE_WIRE
    ticks = LONG_READOUT_TICKS if trouble is HUNGRY else TICKS
    with uproot.recreate(path) as file:
        file["hits"] = hits
        file["readout"] = {"ticks": np.array([ticks], np.int32)}
    data = path.read_bytes()
    if trouble is TRUNCATED:
        data = data[: len(data) * 2 // 3]
        path.write_bytes(data)
    if trouble is MISSING:
        path.unlink()
    return Input(path, run, trouble, len(data), f"{zlib.adler32(data):08x}")


def _hits(run: int, faint: bool, random_numbers: np.random.Generator) -> dict[str, np.ndarray]:
    """A straight track in each event, one hit a wire; faint hits stay below the reconstruction's threshold."""
    events = list(_events(random_numbers))
    wire, tick = (np.concatenate(columns) for columns in zip(*events, strict=True))
    event = np.repeat(np.arange(1, EVENTS + 1, dtype=np.int32), [len(wires) for wires, _ in events])
    charge = random_numbers.gamma(4, 5 if faint else 100, len(wire)).clip(1, 30 if faint else 4000)
    constant = {"run": np.full(len(wire), run, np.int32), "subrun": np.full(len(wire), 1, np.int32)}
    return {**constant, "event": event, "wire": wire, "tick": tick, "charge": charge.astype(np.float32)}


def _events(random_numbers: np.random.Generator) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for _ in range(EVENTS):
        first, last = sorted(random_numbers.choice(WIRES, 2, replace=False))
        wire = np.arange(first, max(last, first + 10).clip(max=WIRES - 1) + 1, dtype=np.int32)
        slope, start = random_numbers.uniform(-4, 4), random_numbers.uniform(900, 2000)
        yield wire, (start + slope * (wire - first) + random_numbers.normal(0, 1, len(wire))).astype(np.float32)
