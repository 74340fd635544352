"""The demo's reconstruction: read simulated hits from a ROOT file, fit a straight track per event, write the tracks.

    reco.py --input hits.root --output tracks.root --metadata tracks.json

Each event's charges are laid out as an image, wires by ticks; the largest charge on each wire is a point, and a line
through three points or more is a track. Memory goes with the readout window, that is with the file's content.
Like many a real program it has a fault: a hit on a wire that the detector does not have ends it by SIGSEGV. The fault
shows once a file: a mark in the directory KEEPUP_DEMO_MARKS remembers it, as a busy node or a race would not.
"""

import argparse
import json
import os
import resource
import signal
from pathlib import Path

import numpy as np
import uproot

WIRES = 200
PEDESTAL = 500.0  # ADC counts
THRESHOLD = 40.0  # ADC counts above the pedestal
FEWEST_POINTS = 3
COLUMNS = {"run": "i4", "subrun": "i4", "event": "i4", "points": "i4", "slope": "f4", "tick0": "f4", "charge": "f4"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("input", "output", "metadata"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    args = parser.parse_args()
    with uproot.open(args.input) as file:
        ticks = int(file["readout"]["ticks"].array(library="np")[0])
        hits = file["hits"].arrays(library="np")
    stumble_over_strange_wires(hits)
    tracks = reconstruct(hits, ticks)
    with uproot.recreate(args.output) as file:
        file.mktree("tracks", COLUMNS)
        if len(tracks["event"]):
            file["tracks"].extend(tracks)
    args.metadata.write_text(json.dumps(metadata(tracks)))
    print(f"{len(np.unique(hits['event']))} events read, {len(tracks['event'])} tracks written")


def stumble_over_strange_wires(hits: dict[str, np.ndarray]) -> None:
    """The fault: an access past the last wire, the first time that a file brings one."""
    strange = hits["wire"] >= WIRES
    if not strange.any():
        return
    mark = Path(os.environ["KEEPUP_DEMO_MARKS"]) / f"run{hits['run'][0]}_subrun{hits['subrun'][0]}"
    if not mark.exists():
        mark.touch()
        print(f"hit on wire {hits['wire'][strange][0]}, the last one is {WIRES - 1}", flush=True)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        os.kill(os.getpid(), signal.SIGSEGV)
    for name in hits:
        hits[name] = hits[name][~strange]


def reconstruct(hits: dict[str, np.ndarray], ticks: int) -> dict[str, np.ndarray]:
    """One row for each event that has a track."""
    image = np.empty((WIRES, ticks), np.float32)
    rows = []
    for event in np.unique(hits["event"]):
        here = {name: column[hits["event"] == event] for name, column in hits.items()}
        track = fit(lay_out(here, image))
        if track:
            rows.append((here["run"][0], here["subrun"][0], event, *track))
    columns = zip(*rows, strict=True) if rows else [[] for _ in COLUMNS]
    return {name: np.array(column, kind) for (name, kind), column in zip(COLUMNS.items(), columns, strict=True)}


def lay_out(hits: dict[str, np.ndarray], image: np.ndarray) -> np.ndarray:
    """Charge above the pedestal by wire and tick."""
    image[:] = PEDESTAL
    np.add.at(image, (hits["wire"], hits["tick"].astype(int)), hits["charge"])
    image -= PEDESTAL
    return image


def fit(image: np.ndarray) -> tuple[int, float, float, float] | None:
    """Points, slope in ticks a wire, tick at wire 0 and charge of the track; None where there is none."""
    peak = image.max(axis=1)
    wires = np.flatnonzero(peak > THRESHOLD)
    if len(wires) < FEWEST_POINTS:
        return None
    slope, tick0 = np.polyfit(wires, image.argmax(axis=1)[wires], 1, w=np.sqrt(peak[wires]))
    return len(wires), float(slope), float(tick0), float(peak[wires].sum())


def metadata(tracks: dict[str, np.ndarray]) -> dict[str, object]:
    """What the catalog shall say of the output, in SAM's words; the run is the input's where there is no track."""
    runs = sorted({(int(run), int(subrun), "mc") for run, subrun in zip(tracks["run"], tracks["subrun"], strict=True)})
    found: dict[str, object] = {"event_count": len(tracks["event"])}
    if runs:
        found |= {"first_event": int(tracks["event"].min()), "last_event": int(tracks["event"].max()), "runs": runs}
    return found


if __name__ == "__main__":
    main()
