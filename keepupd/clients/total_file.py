"""The file of an analysis campaign's running total: kept, read and drawn, for the daemon and for `keepupctl total`.

It is one ROOT file: the summed histograms, and a text `keepupd_total` (JSON) with the names and checksums of the files
that they are the sum of. Sum and list are replaced together, so they can't disagree. keepupd.daemon.totals adds.
uproot and hist (extra `root`) and matplotlib (extra `plot`) are imported when first needed: they are slow to start.
"""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

from keepupd.core.errors import KeepupError

CONTENTS = "keepupd_total"
FORMAT = 1


class TotalDamaged(KeepupError):
    """The total's own file is not what save() wrote."""

    def __init__(self, path: Path, problem: str):
        super().__init__(f"running total {path}: {problem}", "remove it: it is made again from the declared files")


class ExtraMissing(KeepupError):
    """A package is not installed that only some installations need."""


@dataclass(frozen=True)
class Total:
    """Histograms by name, and the files they are the sum of, {name: "adler32:..."}. `names` are to be in each file;
    left empty, the first file says them. Never changed in place: adding gives a new one."""

    names: tuple[str, ...] = ()
    histograms: Mapping[str, Any] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
    refused: Mapping[str, str] = field(default_factory=dict)  # name -> why: not in it, and not tried again
    version: int = 0  # the last that was declared; 0: none yet

    def entries(self) -> dict[str, float]:
        """Sum over all bins, those outside the axes too, by histogram."""
        return {name: float(one.view(flow=True).value.sum()) for name, one in self.histograms.items()}


def kept_at(state_dir: Path, campaign: str) -> Path:
    """Where the daemon keeps a campaign's total."""
    return state_dir / "totals" / campaign / "total.root"


def save(total: Total, path: Path) -> None:
    """Replace the file at `path` in one step: at any time the old total is there or the new one. Raises OSError."""
    uproot, draft = need("uproot", "root"), path.with_name(f".{path.name}.new")
    said = {"format": FORMAT, "names": total.names, "files": total.files,
            "refused": total.refused, "version": total.version}  # fmt: skip
    with uproot.recreate(draft) as file:
        for name, histogram in total.histograms.items():
            file[name] = histogram
        file[CONTENTS] = json.dumps(said)
    with draft.open("rb") as stream:
        os.fsync(stream.fileno())
    draft.replace(path)


def load(path: Path) -> Total:
    """What save() wrote. Raises TotalDamaged, OSError (FileNotFoundError for one)."""
    path.open("rb").close()  # an OSError from here is no damage; uproot raises it for damage too
    try:
        with open_whole(path) as file:
            said = json.loads(str(file[CONTENTS]))
            if said["format"] != FORMAT:
                raise TotalDamaged(path, f"has format {said['format']}, this keepupd knows {FORMAT}")
            names = tuple(said["names"])
            histograms = {name: with_variances(file[name].to_hist()) for name in names if said["files"]}
            return Total(names, histograms, said["files"], said["refused"], int(said["version"]))
    except KeepupError:
        raise
    except Exception as error:  # uproot has no exception of its own for a bad file
        raise TotalDamaged(path, f"can't be read: {in_one_line(error)}") from error


# --- drawing ------------------------------------------------------------------------------------------------------


def draw_png(totals: Mapping[str, Total], path: Path, names: Sequence[str] = ()) -> None:
    """Draw histograms to a PNG: a panel for each name (default: all), with a line for each total, by its title in the
    legend; of two-dimensional ones, a panel for each total. Needs no display. Raises ExtraMissing, KeepupError."""
    panels = _panels(totals, names)
    columns = min(len(panels), 3)
    rows = -(-len(panels) // columns)
    figure = need("matplotlib.figure", "plot").Figure(figsize=(5 * columns, 3.6 * rows), layout="constrained")
    for number, (title, drawn) in enumerate(panels, 1):
        _draw(figure, figure.add_subplot(rows, columns, number), title, drawn)
    figure.savefig(path, format="png", dpi=100)


def _panels(totals: Mapping[str, Total], names: Sequence[str]) -> list[tuple[str, dict[str, Any]]]:
    """(title, {label: histogram}) of each panel."""
    known = list(dict.fromkeys(name for total in totals.values() for name in total.histograms))
    if lacking := [name for name in names if name not in known]:
        raise KeepupError(f"no total has a histogram {', '.join(lacking)}", f"there are: {', '.join(known) or 'none'}")
    panels: list[tuple[str, dict[str, Any]]] = []
    for name in names or known:
        found = {label: total.histograms[name] for label, total in totals.items() if name in total.histograms}
        flat = {label: one for label, one in found.items() if one.ndim == 1}
        panels += [(name, flat)] if flat else []
        panels += [(f"{name}, {label}", {label: one}) for label, one in found.items() if one.ndim == 2]
    if not panels:
        raise KeepupError("there is nothing to draw", "wait for a declared histogram file in one or two dimensions")
    return panels


def _draw(figure: Any, axes: Any, title: str, drawn: Mapping[str, Any]) -> None:
    for label, one in drawn.items():
        if one.ndim == 2:
            figure.colorbar(axes.pcolormesh(*one.axes.edges.T, one.values().T), ax=axes)
        else:
            axes.stairs(one.values(), one.axes[0].edges, label=f"{label}, sum {one.values(flow=True).sum():.6g}")
            axes.legend(fontsize="x-small")
        axes.set_xlabel(one.axes[0].label)
    axes.set_title(title)


# --- also for keepupd.daemon.totals -------------------------------------------------------------------------------


def open_whole(path: Path) -> Any:
    """Open for reading. Raises ValueError for a file that was cut off: uproot reads what happens to be left of one."""
    file = need("uproot", "root").open(path)
    if file.file.fEND != path.stat().st_size:
        file.close()
        raise ValueError(f"its header says {file.file.fEND} bytes, it has {path.stat().st_size}")
    return file


def with_variances(histogram: Any) -> Any:
    """A copy that keeps a variance a bin; ROOT leaves it out where it equals the content."""
    hist = need("hist", "root")
    copy = hist.Hist(*histogram.axes, storage=hist.storage.Weight(), name=histogram.name, label=histogram.label)
    view = copy.view(flow=True)
    view.value, view.variance = histogram.values(flow=True), histogram.variances(flow=True)
    return copy


def need(module: str, extra: str) -> Any:
    """Import late. Raises ExtraMissing."""
    try:
        return import_module(module)
    except ImportError as error:
        words = f"this needs {module.partition('.')[0]}: {error}"
        raise ExtraMissing(words, f"pip install 'keepupd[{extra}]'") from error


def in_one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).splitlines() or ['no words'])[0]}"
