"""`keepupctl audit`: compare SAM with the store both ways, and name every file that is not as it should be.

Inputs by the sum rule, here: every file ever seen in the input definition is in exactly one state. Outputs and their
copies in audit_outputs.py. Nothing is changed: `--repair` asks the daemon, which looks anew and mends what it can.
"""

import json
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, Select, exists, func, select

from keepupd.clients.storage import LocalStorage
from keepupd.config import load_settings
from keepupd.core.chunks import chunked
from keepupd.core.errors import SamRefused, SamUnavailable
from keepupd.ctl import reads
from keepupd.ctl.audit_outputs import Compared, compare
from keepupd.ctl.desk import Desk
from keepupd.store.intake import fill_members, members
from keepupd.store.tables import WAITING, AnyRow, files, units

if TYPE_CHECKING:
    from keepupd.clients.catalog import Catalog
    from keepupd.clients.storage import Storage
    from keepupd.config import Sam as SamSettings

PATIENCE_S = 10.0  # a person waits; the daemon has more patience with SAM


def audit(desk: Desk, campaign: str | None) -> dict[str, Any]:
    """One campaign, or all that are active. Raises ConfigError and StoreUnavailable; a silent SAM is in the answer."""
    with desk.read() as db:
        rows = [reads.campaign_named(db, campaign)] if campaign else [c for c in reads.all_campaigns(db) if c.active]
    settings = load_settings(desk.config).sam
    sam = _connect(settings)
    try:
        return {"campaigns": [_audit_one(desk, sam, row, settings.campaign_parameter) for row in rows]}
    finally:
        sam.close()


def ask_for_repair(desk: Desk, found: Mapping[str, Any], reason: str) -> list[int]:
    """Write the requests down: a sweep for each campaign with a fault, and the outputs to mend. Gives their ids."""
    from keepupd.ctl import ask

    return ask.write_down(desk, [
        {"at": desk.now, "who": ask.real_user(), "event": "repair", "campaign_id": c["id"], "reason": reason,
         "detail": json.dumps(dict(some))}
        for c in found["campaigns"] if c["broken"]
        for some in list(chunked(c["mendable"].items(), ask.TOGETHER)) or [[]]
    ])  # fmt: skip


def _storage() -> "Storage":
    return LocalStorage()


def _connect(sam: "SamSettings") -> "Catalog":
    from keepupd.clients.sam import Sam

    return Sam(
        sam.read_url, sam.write_url, experiment=sam.experiment, station=sam.station, group=sam.group, user=sam.user,
        timeout_s=sam.timeout_s, patience_s=min(sam.patience_s, PATIENCE_S), bulk=sam.bulk,
    )  # fmt: skip


def _audit_one(desk: Desk, sam: "Catalog", row: AnyRow, parameter: str) -> dict[str, Any]:
    definition = json.loads(row.settings)["input"]["definition"]
    with desk.database.connection() as db:
        in_sam, silence, outputs = None, "", Compared(None, "", {}, {}, {})
        try:
            if row.type != "generator":  # which has no input
                in_sam = fill_members(db, sam.definition_files(definition))
            outputs = compare(db, sam, _storage(), row, parameter, desk.now)
        except (SamUnavailable, SamRefused) as error:
            silence = error.problem
        with db.begin():
            row = reads.campaign_named(db, row.name)  # as it is by now: the daemon goes on while SAM lists
            broken = {what: ask(db, row) for what, ask in IN_STORE.items()}
            if in_sam is not None:
                broken |= {what: list(db.execute(ask(row)).scalars()) for what, ask in AGAINST_SAM.items()}
            ever, gone = _totals(db, row)
    broken = {what: names for what, names in broken.items() if names}
    remedies = {what: HOPELESS.get(what, "--repair: a sweep, as every polls.sweep_s") for what in broken}
    return {
        "id": row.id, "name": row.name, "definition": definition, "members_in_sam": in_sam, "sam_error": silence,
        "silent": bool(silence or outputs.storage_error),
        "ever_seen": ever, "left": gone, "swept": row.swept,
        "outputs_in_sam": outputs.in_sam, "storage_error": outputs.storage_error,
        "broken": broken | outputs.broken, "remedies": remedies | outputs.remedies, "mendable": outputs.units,
    }  # fmt: skip


# --- what breaks it: a name each, and who does ----------------------------------------------------------------------


def _unknown(row: AnyRow) -> Select[Any]:
    known = exists().where(files.c.campaign_id == row.id, files.c.file_id == members.c.file_id)
    return select(members.c.name).where(~known).order_by(members.c.name)


def _members(row: AnyRow, member: bool, gone: bool) -> Select[Any]:
    there = exists().where(members.c.file_id == files.c.file_id)
    query = select(files.c.name).where(files.c.campaign_id == row.id, there if member else ~there)
    return query.where(files.c.gone.is_not(None) if gone else files.c.gone.is_(None)).order_by(files.c.name)


HOPELESS = {"states of no file": "nothing is launched for them; find out who changed the database"}
AGAINST_SAM: dict[str, Callable[[AnyRow], Select[Any]]] = {
    "in SAM, not in the store": _unknown,
    "in the store, not in SAM": lambda row: _members(row, member=False, gone=False),
    "in SAM, in the store as left": lambda row: _members(row, member=True, gone=True),
}


def _stateless(db: Connection, row: AnyRow) -> list[str]:
    unit = exists().where(units.c.id == files.c.unit_id)
    waiting = files.c.unit_id.is_(None) if row.type == "merge" else files.c.name.is_(None)  # for a group to close
    query = select(files.c.name).where(files.c.campaign_id == row.id, ~unit, ~waiting).order_by(files.c.name)
    return list(db.execute(query).scalars())


def _unfounded(db: Connection, row: AnyRow) -> list[str]:
    file = exists().where(files.c.unit_id == units.c.id)
    query = select(units.c.name).where(units.c.campaign_id == row.id, ~file).order_by(units.c.name)
    return [] if row.type == "generator" else list(db.execute(query).scalars())


def _miscounted(db: Connection, row: AnyRow) -> list[str]:
    """Counters that differ from the rows they count."""
    sums = select(units.c.state, units.c.cause, func.sum(units.c.files)).where(units.c.campaign_id == row.id)
    true = {(state, cause): int(n) for state, cause, n in db.execute(sums.group_by(units.c.state, units.c.cause))}
    waits = select(func.count()).select_from(files).where(files.c.campaign_id == row.id, WAITING)
    true["pending", ""] = true.get(("pending", ""), 0) + db.execute(waits).scalar_one()  # for a merge group to close
    kept = reads.counts(db, row.id)
    pairs = [(key, kept.get(key, 0), true.get(key, 0)) for key in sorted(kept | true)]
    wrong = [f"{' '.join(key).strip()}: counted {k}, there are {t}" for key, k, t in pairs if k != t]
    now = dict(zip(("ever seen", "left"), _totals(db, row), strict=True))
    totals = (("ever seen", row.ever_seen), ("left", row.gone))
    return wrong + [f"{what}: counted {n}, there are {now[what]}" for what, n in totals if n != now[what]]


def _totals(db: Connection, row: AnyRow) -> tuple[int, int]:
    """Ever seen and left, as the rows say; a generator has no files, its units are what was seen."""
    if row.type == "generator":
        return db.execute(select(func.count()).select_from(units).where(units.c.campaign_id == row.id)).scalar_one(), 0
    query = select(func.count(), func.count(files.c.gone)).where(files.c.campaign_id == row.id)
    ever, gone = db.execute(query).one()
    return ever, gone


IN_STORE: dict[str, Callable[[Connection, AnyRow], list[str]]] = {
    "files in no state": _stateless,
    "states of no file": _unfounded,
    "counters that differ": _miscounted,
}
