"""`keepupctl total`: what is in a campaign's running total, and a picture of it."""

import json
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, func, select

from keepupd.clients.total_file import Total, draw_png, kept_at, load
from keepupd.core.errors import KeepupError, NotFound
from keepupd.core.naming import output_name
from keepupd.ctl import reads
from keepupd.ctl.desk import Desk
from keepupd.store.tables import DECLARED, AnyRow, files, units


def totals(desk: Desk, names: tuple[str, ...], png: Path | None) -> dict[str, Any]:
    """Raises NotFound, TotalDamaged, and KeepupError for a campaign that has no total."""
    read: dict[str, Total] = {}
    with desk.read() as db:
        told = []
        for row in [reads.campaign_named(db, name) for name in names]:
            read[row.name] = _load(desk, row)
            told.append(_tell(db, row, read[row.name]) | {"path": str(kept_at(desk.settings["state_dir"], row.name))})
    if png is not None:
        draw_png(read, png)
    return {"totals": told, "png": str(png) if png else None}


def _load(desk: Desk, row: AnyRow) -> Total:
    if row.type != "analysis":
        raise KeepupError(f"{row.name} is of type {row.type}: only an analysis has a total", "name an analysis")
    try:
        return load(kept_at(desk.settings["state_dir"], row.name))
    except FileNotFoundError:
        raise NotFound("total yet of campaign", row.name) from None


def _tell(db: Connection, row: AnyRow, total: Total) -> dict[str, Any]:
    settings = json.loads(row.settings)
    events, lacking = _behind(db, row, settings, total)
    entries = total.entries()
    return {
        "campaign": row.name, "version": total.version, "complete": row.complete,
        "file": f"{settings['analysis']['total']['name']}_v{total.version}.root" if total.version else None,
        "files": len(total.files), "events": events, "lacking": lacking, "refused": dict(total.refused),
        "histograms": [{"name": name, "entries": entries[name], "mean": means(one), "bins": [len(a) for a in one.axes]}
                       for name, one in total.histograms.items()],
        "names": sorted(total.files),
    }  # fmt: skip


def _behind(db: Connection, row: AnyRow, settings: dict[str, Any], total: Total) -> tuple[int, int]:
    """Events of the input files whose histograms are in the total; and declared histogram files that it lacks."""
    query = (
        select(units.c.name, units.c.edition, func.sum(files.c.events))
        .join(files, files.c.unit_id == units.c.id)
        .where(units.c.campaign_id == row.id, DECLARED)
        .group_by(units.c.id, units.c.name, units.c.edition)
    )
    events = lacking = 0
    for unit, edition, n in db.execute(query):
        made = [output_name(o["name"], row.name, o["label"], unit, edition) for o in settings["outputs"]]
        events += n if any(name in total.files for name in made) else 0
        lacking += sum(name not in total.files and name not in total.refused for name in made)
    return events, lacking


def means(histogram: Any) -> list[float | None]:
    """Along each axis, from the bins inside it; None for an empty histogram, or an axis of labels."""
    values = histogram.values()
    found: list[float | None] = []
    for number, axis in enumerate(histogram.axes):
        others = tuple(n for n in range(values.ndim) if n != number)
        along = values.sum(axis=others)
        known = along.sum() and axis.traits.ordered
        found.append(float((along * axis.centers).sum() / along.sum()) if known else None)
    return found
