"""Gen+G4+Det of the example flow: tracks of one sample through the drift chamber, their hits with noise.

    gen.py --run 1001 --subrun 1 --seed 7 --events 100 --sample 2 --out hits.root --metadata hits.json

The same run, subrun, seed and sample give the same events. The output has a tree `hits`, an entry an event; wire
and drift have a value a layer, wire is -1 where there is no hit. For demonstrations KEEPUP_DEMO_TROUBLE spoils chosen
files: see trouble.py.
"""

import argparse
from pathlib import Path

import numpy as np
import uproot
from chamber import DRIFT_SIGMA_MM, LAYERS, NO_WIRE, PITCH_MM, SAMPLES, WIRES, Z_MM, Columns, Sample, write_metadata
from trouble import corrupt, spoil, trouble_of

EFFICIENCY = 0.97  # of a layer
NOISE = 0.01  # probability that a layer shows a wire of chance in place of the track's
WINDOW = 3000  # samples of a wire's signal that the electronics keep


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("run", "subrun", "seed", "events"):
        parser.add_argument(f"--{name}", type=int, required=True)
    parser.add_argument("--sample", choices=sorted(SAMPLES), required=True)
    for name in ("out", "metadata"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    args = parser.parse_args()
    if args.events < 1:
        parser.error(f"--events {args.events}: at least one is needed")
    chance = np.random.default_rng([args.seed, args.run, args.subrun])
    hits = generate(SAMPLES[args.sample], args.events, chance)
    hits |= {"run": np.full(args.events, args.run, np.int32), "subrun": np.full(args.events, args.subrun, np.int32)}
    trouble = trouble_of(args.run, args.subrun)
    write(args.out, spoil(hits, trouble))
    if trouble == "corrupt":
        corrupt(args.out)
    write_metadata(args.metadata, {(args.run, args.subrun)}, hits["event"])
    print(f"run {args.run} subrun {args.subrun}: {args.events} events of sample {args.sample} in {args.out}")


def generate(sample: Sample, events: int, chance: np.random.Generator) -> Columns:
    """Tracks, and a hit for most layers of each."""
    slope = chance.uniform(sample.lowest_slope, sample.highest_slope, events)
    intercept = chance.uniform(-200, 200, events)
    x_mm = intercept[:, None] + slope[:, None] * Z_MM + sample.curvature / 2 * Z_MM**2
    wire = np.rint(x_mm / PITCH_MM).astype(np.int32) + WIRES // 2
    drift = x_mm - (wire - WIRES // 2) * PITCH_MM + chance.normal(0, DRIFT_SIGMA_MM, x_mm.shape)
    noise = chance.random(wire.shape) < NOISE
    wire[noise] = chance.integers(0, WIRES, noise.sum())
    wire[chance.random(wire.shape) >= EFFICIENCY] = NO_WIRE
    return {
        "event": np.arange(1, events + 1, dtype=np.int32), "window": np.full(events, WINDOW, np.int32),
        "wire": wire, "drift": drift.astype(np.float32),
        "true_slope": slope.astype(np.float32), "true_intercept": intercept.astype(np.float32),
    }  # fmt: skip


def write(path: Path, hits: Columns) -> None:
    kinds = {name: np.dtype((column.dtype, column.shape[1:])) for name, column in hits.items()}
    assert kinds["wire"].shape == (LAYERS,)
    with uproot.recreate(path) as file:
        file.mktree("hits", kinds)
        if len(hits["event"]):
            file["hits"].extend(hits)


if __name__ == "__main__":
    main()
