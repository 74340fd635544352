"""The drift chamber of the example flow: what its programs share, and what they tell SAM of their outputs.

Twelve layers of wires, 100 mm apart along z; in each layer a wire every 10 mm along x. A track is straight,
x = intercept + slope * z, but for a curvature in one sample. A hit is a wire and a drift distance, its sign known.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

LAYERS, WIRES = 12, 400
PITCH_MM = 10.0
Z_MM = (np.arange(LAYERS) - (LAYERS - 1) / 2) * 100.0  # the middle of the chamber is 0
NO_WIRE = -1  # a layer without a hit
DRIFT_SIGMA_MM = 0.2  # diffusion: the best any electronics can do
IDS = ("run", "subrun", "event")
Columns = dict[str, np.ndarray]


@dataclass(frozen=True)
class Sample:
    """What is generated: slopes between two limits; curvature in 1/mm, for x = ... + curvature / 2 * z squared."""

    lowest_slope: float
    highest_slope: float
    curvature: float = 0.0


SAMPLES = {
    "1A": Sample(-0.30, 0.00),  # 1A and 1B are halves of one spectrum, made apart and merged
    "1B": Sample(0.00, 0.30),
    "2": Sample(-0.05, 0.05),  # along the beam
    "3": Sample(0.20, 0.80),  # steep
    "4": Sample(-0.30, 0.30, 4e-6),  # slow, in the field: a straight line does not fit well
}


@dataclass(frozen=True)
class Configuration:
    """How the detector was run: the step of its time measurement, as drift distance, and layers without voltage."""

    step_mm: float
    dead_layers: tuple[int, ...] = ()

    @property
    def sigma_mm(self) -> float:
        """What to expect of one hit: diffusion and, of a uniform step, its width over the root of 12."""
        return float(np.hypot(DRIFT_SIGMA_MM, self.step_mm / np.sqrt(12)))


CONFIGURATIONS = {"A": Configuration(step_mm=0.1), "B": Configuration(step_mm=2.0, dead_layers=(3, 8))}


def runs_in(columns: Columns) -> set[tuple[int, int]]:
    """(run, subrun) of the events."""
    pairs = np.unique(np.stack([columns["run"], columns["subrun"]]), axis=1)
    return {(int(run), int(subrun)) for run, subrun in pairs.T}


def write_metadata(path: Path, runs: Iterable[tuple[int, int]], events: np.ndarray | None = None) -> None:
    """Write what SAM shall know of an output: its runs and, unless it holds histograms, how many events and which."""
    said: dict[str, Any] = {"runs": [[run, subrun, "mc"] for run, subrun in sorted(runs)]}
    if not said["runs"]:
        del said["runs"]
    if events is not None:
        said["event_count"] = len(events)
        if len(events):
            said |= {"first_event": int(events.min()), "last_event": int(events.max())}
    path.write_text(json.dumps(said))
