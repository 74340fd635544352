"""Analysis of the example flow: histograms of the reconstructed tracks.

    analyse.py --in merged.root --out histograms.root --metadata histograms.json

`hits_per_track` has one entry for every event (0: no track was found), so that its sum over many files counts
events; the others are filled from tracks alone. `hits_by_layer` shows dead layers.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import uproot
from chamber import IDS, LAYERS, Columns, runs_in, write_metadata
from hist import Hist

BRANCHES = [*IDS, "points", "slope", "chi2", "residual"]
STEP = 100_000  # events held in memory at once


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--in", dest="input", type=Path, required=True)
    for name in ("out", "metadata"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    args = parser.parse_args()
    histograms, runs = book(), set()
    with uproot.open(args.input) as file:
        for tracks in file["tracks"].iterate(BRANCHES, step_size=STEP, library="np"):
            fill(histograms, tracks)
            runs |= runs_in(tracks)
    with uproot.recreate(args.out) as file:
        for name, histogram in histograms.items():
            file[name] = histogram
    write_metadata(args.metadata, runs)
    print(f"{histograms['hits_per_track'].sum(flow=True):.0f} events in {len(histograms)} histograms in {args.out}")


def book() -> dict[str, Hist[Any]]:
    return {
        "residual": Hist.new.Reg(120, -3, 3, label="residual [mm]").Double(),
        "chi2": Hist.new.Reg(100, 0, 10, label="chi2 / degrees of freedom").Double(),
        "slope": Hist.new.Reg(120, -1, 1, label="slope").Double(),
        "hits_per_track": Hist.new.Reg(LAYERS + 1, -0.5, LAYERS + 0.5, label="hits on the track").Double(),
        "hits_by_layer": Hist.new.Reg(LAYERS, -0.5, LAYERS - 0.5, label="layer").Double(),
    }


def fill(histograms: dict[str, Hist[Any]], tracks: Columns) -> None:
    found = tracks["points"] > 0
    on_track = np.isfinite(tracks["residual"])
    histograms["hits_per_track"].fill(tracks["points"])
    histograms["slope"].fill(tracks["slope"][found])
    histograms["chi2"].fill(tracks["chi2"][found] / (tracks["points"][found] - 2))
    histograms["residual"].fill(tracks["residual"][on_track])
    histograms["hits_by_layer"].fill(np.nonzero(on_track)[1])


if __name__ == "__main__":
    main()
