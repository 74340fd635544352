"""The executables of the soak test's flow: an event is a line "run subrun number", so that events can be counted.

    soak_payload.py gen|reco|merge|analyse METADATA OUTPUT ARGUMENT...

gen makes events of RUN SUBRUN EVENTS, reco and merge hand on the lines of their INPUTs, and analyse makes a histogram
with one entry for each event.
"""

import json
import sys
from pathlib import Path


def main(step: str, metadata: str, output: str, *arguments: str) -> None:
    if step == "gen":
        run, subrun, events = arguments
        lines = [f"{run} {subrun} {number}\n" for number in range(1, int(events) + 1)]
    else:
        lines = [line for path in arguments for line in Path(path).read_text().splitlines(keepends=True)]
    runs = sorted({(int(line.split()[0]), int(line.split()[1]), "mc") for line in lines})
    said = {"runs": runs}
    if step == "analyse":
        histogram(lines, output)
    else:
        Path(output).write_text("".join(lines))
        said["event_count"] = len(lines)
    Path(metadata).write_text(json.dumps(said))


def histogram(lines: list[str], output: str) -> None:
    import numpy as np
    import uproot

    numbers = [int(line.split()[2]) for line in lines]
    with uproot.recreate(output) as file:
        file["events"] = np.histogram(numbers, bins=20, range=(0.5, 20.5))


if __name__ == "__main__":
    main(*sys.argv[1:])
