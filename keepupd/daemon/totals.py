"""The running total of an analysis campaign: the sum, bin by bin, of its histogram files.

A file is in a total once, however often it is added; a file that does not fit is refused by name and changes nothing.
How a total is kept on disk: keepupd.clients.total_file. No catalog, database or clock here: the caller says which.
"""

import zlib
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from keepupd.clients.total_file import Total, in_one_line, need, open_whole, with_variances
from keepupd.core.errors import KeepupError, Transient

SUMMABLE = ("TH1", "TH2", "TH3")  # class names begin so; the mean of a TProfile is no sum
CHUNK_BYTES = 1 << 20


class BadHistogramFile(KeepupError):
    """A histogram file that can't be added to a total; `name` is the file's."""

    def __init__(self, name: str, problem: str):
        super().__init__(
            f"histogram file {name} is not added to the total: {problem}",
            "look at the file; `keepupctl redo` makes it again, and the total goes on without it",
        )
        self.name = name


class HistogramFileUnavailable(Transient):
    """The file's copy can't be opened now."""


def add_to_total(total: Total, path: Path, name: str) -> Total:
    """The total with the histograms of the file `name`, whose copy is at `path`; the same total when it has that file.

    Raises BadHistogramFile (unreadable, a histogram is missing or not summable, has other bins or a number that is not
    finite, another content under a name the total has) and HistogramFileUnavailable.
    """
    checksum = _adler32(path, name)
    if name in total.files:
        if total.files[name] != checksum:
            words = f"the total has it with {total.files[name]}, the copy {path} has {checksum}"
            raise BadHistogramFile(name, words)
        return total
    found = _read(path, name, total.names)
    histograms = {each: _sum(total.histograms.get(each), one, each, name) for each, one in found.items()}
    return replace(total, names=tuple(histograms), histograms=histograms, files={**total.files, name: checksum})


def rebuild(files: Iterable[tuple[str, Path]], names: Sequence[str] = ()) -> tuple[Total, list[BadHistogramFile]]:
    """The total of (name, path) pairs from scratch, in this order, and the files refused. Bins of whole numbers come
    out the same in any order, others up to rounding. Raises HistogramFileUnavailable: nothing is left out for that."""
    total, refused = Total(tuple(names)), []
    for name, path in files:
        try:
            total = add_to_total(total, path, name)
        except BadHistogramFile as error:
            refused.append(error)
    return total, refused


def _adler32(path: Path, name: str) -> str:
    value = 1
    try:
        with path.open("rb") as stream:
            while chunk := stream.read(CHUNK_BYTES):
                value = zlib.adler32(chunk, value)
    except OSError as error:
        words = f"histogram file {name}: {path} can't be read: {error.strerror}"
        raise HistogramFileUnavailable(words, "see that the copy is there and readable") from error
    return f"adler32:{value:08x}"


def _read(path: Path, name: str, names: Sequence[str]) -> dict[str, Any]:
    """The file's histograms, with variances. Raises BadHistogramFile."""
    try:
        with open_whole(path) as file:
            classes = file.classnames(cycle=False, filter_classname=lambda one: one.startswith(SUMMABLE))
            if lacking := sorted(set(names) - set(classes)):
                raise BadHistogramFile(name, f"it has no {', '.join(lacking)}, as a histogram")
            if not classes:
                raise BadHistogramFile(name, "it has no histogram")
            return {each: with_variances(file[each].to_hist()) for each in names or sorted(classes)}
    except KeepupError:
        raise
    except Exception as error:  # uproot has no exception of its own for a bad file
        raise BadHistogramFile(name, f"{path} can't be read as ROOT: {in_one_line(error)}") from error


def _sum(old: Any | None, new: Any, which: str, name: str) -> Any:
    numpy, view = need("numpy", "root"), new.view(flow=True)
    if not (numpy.isfinite(view.value).all() and numpy.isfinite(view.variance).all()):
        raise BadHistogramFile(name, f"histogram {which} has a bin that is not a finite number")
    if old is None:
        return new
    if _bins(old) != _bins(new):
        words = f"histogram {which} has other bins than the total, {_axes_in_words(new)} and not {_axes_in_words(old)}"
        raise BadHistogramFile(name, words)
    added = old.copy()
    sums = added.view(flow=True)
    with numpy.errstate(over="ignore"):
        sums.value += view.value
        sums.variance += view.variance
    if not (numpy.isfinite(sums.value).all() and numpy.isfinite(sums.variance).all()):
        raise BadHistogramFile(name, f"histogram {which}: the sum is past what a number can hold")
    return added


def _bins(histogram: Any) -> list[list[object]]:
    """Edges, or labels, of each axis: what must be equal to add bin by bin. Titles may differ."""
    return [list(axis) for axis in histogram.axes]


def _axes_in_words(histogram: Any) -> str:
    return " x ".join(f"{len(axis)} bins from {axis[0]} to {axis[-1]}" for axis in histogram.axes)
