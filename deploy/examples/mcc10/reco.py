"""Reconstruction of the example flow: a straight line through the hits of each event.

    reco.py --in hits.root --out tracks.root --metadata tracks.json --config A

The configuration is how the detector was run: A measures in steps of 0.1 mm with all layers, B in steps of 2 mm
and without two layers, so that residuals come out wider. The output has a tree `tracks`, an entry for every event read;
points is 0 where no line was found. Memory goes with the readout window, that is with the file's content.
Like many a real program it has a fault: a wire that the detector does not have ends it by SIGSEGV. With
KEEPUP_DEMO_MARKS naming a directory the fault shows once a file, as a race would; a mark there remembers it.
"""

import argparse
import os
import resource
import signal
from pathlib import Path

import numpy as np
import uproot
from chamber import CONFIGURATIONS, IDS, LAYERS, NO_WIRE, PITCH_MM, WIRES, Z_MM

from chamber import Columns, Configuration, runs_in, write_metadata  # isort: skip

FEWEST_POINTS = 4  # two decide the line, two test it
WORST_PULL = 5.0  # a hit farther from the line, in sigma, is noise
PEDESTAL = 512.0  # ADC counts; exact in 4 bytes
MOST_NOISE = 3  # hits dropped of a track at most
NUMBERS = ("slope", "intercept", "chi2")
KINDS: dict[str, np.dtype] = {name: np.dtype("i4") for name in (*IDS, "points")}
KINDS |= {name: np.dtype("f4") for name in NUMBERS}
KINDS["residual"] = np.dtype(("f4", (LAYERS,)))  # mm; NaN in a layer without a hit on the track


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--in", dest="input", type=Path, required=True)
    for name in ("out", "metadata"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--config", choices=sorted(CONFIGURATIONS), required=True)
    args = parser.parse_args()
    with uproot.open(args.input) as file:
        hits = file["hits"].arrays([*IDS, "window", "wire", "drift"], library="np")
    stumble_over_strange_wires(hits)
    tracks = reconstruct(hits, CONFIGURATIONS[args.config])
    with uproot.recreate(args.out) as file:
        file.mktree("tracks", KINDS)
        if len(tracks["event"]):
            file["tracks"].extend(tracks)
    write_metadata(args.metadata, runs_in(tracks), tracks["event"])
    print(f"{len(hits['event'])} events read, {np.count_nonzero(tracks['points'])} have a track")


def stumble_over_strange_wires(hits: Columns) -> None:
    """The fault: an access past the last wire. Past it, once it has shown, such hits are left out."""
    strange = hits["wire"] >= WIRES
    if not strange.any():
        return
    marks = os.environ.get("KEEPUP_DEMO_MARKS")
    mark = Path(marks) / f"run{hits['run'][0]}_subrun{hits['subrun'][0]}" if marks else None
    if not mark or not mark.exists():
        if mark:
            mark.touch()
        print(f"hit on wire {hits['wire'][strange][0]}, the last one is {WIRES - 1}", flush=True)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        os.kill(os.getpid(), signal.SIGSEGV)
    hits["wire"][strange] = NO_WIRE


def reconstruct(hits: Columns, detector: Configuration) -> Columns:
    """A row for every event, with its line; all events at once."""
    x_mm = positions(hits, detector)
    used = hits["wire"] != NO_WIRE
    used[:, list(detector.dead_layers)] = False
    everyone = np.arange(len(used))
    for _ in range(MOST_NOISE):
        pull = np.abs(np.where(used, x_mm - line(x_mm, used)[2], 0)) / detector.sigma_mm
        worst = pull.argmax(axis=1)
        used[everyone, worst] &= pull[everyone, worst] < WORST_PULL
    slope, intercept, expected = line(x_mm, used)
    points = used.sum(axis=1)
    found = points >= FEWEST_POINTS
    residual = np.where(used & found[:, None], x_mm - expected, np.nan)
    chi2 = np.nansum((residual / detector.sigma_mm) ** 2, axis=1)
    values = {"points": points * found, "slope": slope, "intercept": intercept, "chi2": chi2, "residual": residual}
    values |= {name: np.where(found, values[name], np.nan) for name in NUMBERS}
    values |= {name: hits[name] for name in IDS}
    return {name: values[name].astype(kind.base) for name, kind in KINDS.items()}


def positions(hits: Columns, detector: Configuration) -> np.ndarray:
    """x in mm as this detector measures it: the drift distance in whole steps, less what the layer shows at rest."""
    phase = np.arange(LAYERS) ** 2 * 0.382 % 1  # each layer has a clock of its own, so that their errors are not alike
    drift: np.ndarray = (np.rint(hits["drift"] / detector.step_mm + phase) - phase) * detector.step_mm
    return np.asarray(drift + (hits["wire"] - WIRES // 2) * PITCH_MM - offsets(max(hits["window"], default=1)))


def offsets(window: int) -> np.ndarray:
    """Each layer's offset over its readout window. The signals are not simulated and flat; their room is taken."""
    signals: np.ndarray = np.full((LAYERS, window), PEDESTAL, np.float32)
    return np.array([pedestal(signal) for signal in signals]) - PEDESTAL


def pedestal(signal: np.ndarray, rounds: int = 4) -> float:
    """The mean without pulses: of what is near the mean of the round before. A long window takes its time."""
    low, high, mean = -np.inf, np.inf, 0.0
    for _ in range(rounds):
        inside = signal[(signal >= low) & (signal <= high)]
        mean, width = float(inside.mean()), 3 * float(inside.std()) + 1
        low, high = mean - width, mean + width
    return mean


def line(x_mm: np.ndarray, used: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Slope, intercept and x at each layer of the least-squares line through the used hits; NaN with fewer than two."""
    with np.errstate(invalid="ignore", divide="ignore"):
        n, z, x = used.sum(axis=1), used @ Z_MM, (x_mm * used).sum(axis=1)
        zz, zx = used @ Z_MM**2, (x_mm * used) @ Z_MM
        slope = (n * zx - z * x) / (n * zz - z * z)
        intercept = (x - slope * z) / n
    return slope, intercept, intercept[:, None] + slope[:, None] * Z_MM


if __name__ == "__main__":
    main()
