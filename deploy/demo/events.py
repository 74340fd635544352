"""Are all events in a total, each once? Counted from SAM and the ROOT files alone, never from keepupd's database.

From each total up: the histogram files it is the sum of, the merged file that each is made of, and the events in that
file's tree. Against them stand the events that the generators' files hold, as SAM says.
"""

from collections import Counter
from collections.abc import Collection, Iterator
from pathlib import Path

import numpy as np
import uproot

from keepupd.clients import total_file
from keepupd.clients.catalog import FileRecord
from keepupd.clients.sam import Sam
from keepupd.clients.total_file import Total

COUNTING = "hits_per_track"  # the histogram with one entry for every event
Event = tuple[int, int, int]  # run, subrun, number


def path_of(record: FileRecord) -> Path:
    """Where its first copy lies, on this machine."""
    return Path(record.locations[0].split(":", 1)[1], record.name)


def members(sam: Sam, definition: str) -> dict[str, FileRecord]:
    return sam.records([file.name for file in sam.files(f"defname: {definition} with availability physical")])


def newest_total(sam: Sam, campaign: str) -> FileRecord | None:
    """The last version that SAM shows: <campaign>_total_v<N>.root."""
    found = sam.records([file.name for file in sam.files(f"file_name {campaign}_total_v%")])
    return max(found.values(), key=lambda one: int(one.name.rpartition("_v")[2].removesuffix(".root")), default=None)


def lacking(sam: Sam, analyses: Collection[str], generators: Collection[str], lost: Collection[str]) -> list[str]:
    """What is wrong with the totals, in words. `lost`: the generators' files that are set aside in debug."""
    found: Counter[Event] = Counter()
    faults: list[str] = []
    for campaign in analyses:
        record = newest_total(sam, campaign)
        if record is None:
            faults.append(f"SAM shows no total of {campaign}")
            continue
        total = total_file.load(path_of(record))
        events = Counter(events_in(sam, record))
        found += events
        faults += _odd(sam, campaign, record, total, events)
    made = Counter(event for name in generators for event in generated(members(sam, f"{name}_output"), lost))
    faults += _compare(made, found)
    return faults


def _odd(sam: Sam, campaign: str, record: FileRecord, total: Total, events: Counter[Event]) -> Iterator[str]:
    """Where the total, its list of files, and SAM say different things."""
    declared = members(sam, f"{campaign}_output").keys()
    if set(total.files) != set(declared) or set(record.parents) != set(declared):
        yield (f"{record.name} says it holds {len(total.files)} files, SAM shows {len(record.parents)} parents of it, "
               f"{len(declared)} histogram files are declared")  # fmt: skip
    if (entries := total.entries()[COUNTING]) != events.total():
        yield f"{record.name} counts {entries:.0f} events, the files it is made of hold {events.total()}"


def events_in(sam: Sam, total: FileRecord) -> Iterator[Event]:
    """The events of the merged files that a total is made of, file by file, as their trees have them."""
    merged = [parent for one in sam.records(total.parents).values() for parent in one.parents]
    records = sam.records(merged)
    for name in merged:  # a file that is named twice is counted twice
        with uproot.open(path_of(records[name])) as file:
            columns = file["tracks"].arrays(["run", "subrun", "event"], library="np")
        yield from map(tuple, np.stack([columns[c] for c in ("run", "subrun", "event")], axis=1).tolist())


def generated(files: dict[str, FileRecord], lost: Collection[str]) -> Iterator[Event]:
    for record in files.values():
        if record.name not in lost:
            [[run, subrun, _]] = record.metadata["runs"]
            yield from ((run, subrun, number) for number in range(1, record.events + 1))


def _compare(made: Counter[Event], found: Counter[Event]) -> Iterator[str]:
    for words, events in (("in no total", made - found), ("too often in the totals", found - made)):
        if events:
            runs = sorted({(run, subrun) for run, subrun, _ in events})
            yield f"{events.total()} events are {words}, of (run, subrun) {', '.join(map(str, runs[:5]))}"
