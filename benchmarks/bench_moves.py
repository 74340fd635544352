"""(c) Durable moves a second: store.apply() against the same rows written by plain SQLAlchemy Core bulk statements.

A move is an update of the unit, a row of history, the counters and, where the chart says so, a row of the outbox, in
one transaction synced to disk. The plain side is handed its rows ready made, checks nothing, and writes the same rows.
"""

import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from common import WORK, Figure, fill, in_turns, make_keeper_at, median, ratio, remove
from sqlalchemy import bindparam, insert, select, update
from sqlalchemy.dialects.sqlite import insert as sqlite_insert

from keepupd.core.model import Move, Unit
from keepupd.daemon.keeper import Keeper
from keepupd.store import store
from keepupd.store.store import UNIT_COLUMNS, unit_of
from keepupd.store.tables import counters, history, outbox, units

BATCH = 500  # moves in one transaction, as in the daemon's passes
NOW = datetime.now(UTC)
ALONE = frozenset({"alone"})
WAY = (("launch", "running", None), ("output_valid", "validated", "declare"), ("output_seen", "declared", None))
COLUMNS = ("state", "since", "due", "cause", "why", "tries", "losses", "launch_id", "needs", "edition")


class Side:
    """A database of its own with pending units, which each call takes one step further on their way to declared."""

    def __init__(self, name: str, files: int, database_url: str = ""):
        home = WORK / f"moves_{name}"
        remove(home)
        self.k: Keeper = make_keeper_at(home, database_url=database_url)
        fill(self.k, {"pending": files}, NOW)
        self.files, self.step = files, 0

    def all_units(self) -> list[Unit]:
        with self.k.database.read() as db:
            return [unit_of(row) for row in db.execute(select(*UNIT_COLUMNS).order_by(units.c.id))]

    def again(self) -> None:
        """From declared back to pending: every turn takes the same way."""
        if self.step % len(WAY) == 0 and self.step:
            with self.k.database.write("again") as db:
                db.execute(update(units).values(state="pending"))
                db.execute(outbox.delete())

    def batches(self) -> list[list[Unit]]:
        self.again()
        listed = self.all_units()
        return [listed[i : i + BATCH] for i in range(0, len(listed), BATCH)]


class Ours(Side):
    def moves_a_second(self) -> float:
        batches = self.batches()
        event, _, _ = WAY[self.step % len(WAY)]
        self.step += 1
        begun = time.perf_counter()
        for batch in batches:
            moves = [Move(unit, event, "measured", guards=ALONE, values={"launch_id": 1}) for unit in batch]
            with self.k.database.write("moves") as db:
                store.apply(db, self.k.file_chart, moves, NOW)
        return self.files / (time.perf_counter() - begun)


class Plain(Side):
    def moves_a_second(self) -> float:
        batches = [_rows(batch, WAY[self.step % len(WAY)]) for batch in self.batches()]
        self.step += 1
        changed = update(units).where(units.c.id == bindparam("b_id")).values(
            {name: bindparam(f"b_{name}") for name in COLUMNS} | {"version": bindparam("b_version")})  # fmt: skip
        new = sqlite_insert(counters)
        counted = new.on_conflict_do_update(
            index_elements=list(counters.primary_key), set_={"n": counters.c.n + new.excluded.n})  # fmt: skip
        begun = time.perf_counter()
        for moved, told, numbers, wanted in batches:
            with self.k.database.write("moves") as db:
                db.execute(changed, moved)
                db.execute(insert(history), told)
                db.execute(counted, numbers)
                if wanted:
                    db.execute(insert(outbox), wanted)
        return self.files / (time.perf_counter() - begun)


Rows = Sequence[dict[str, Any]]


def _rows(batch: Sequence[Unit], step: tuple[str, str, str | None]) -> tuple[Rows, Rows, Rows, Rows]:
    event, dest, effect = step
    moved = [{"b_id": u.id, "b_version": u.version + 1, "b_state": dest, "b_since": NOW, "b_due": None, "b_cause": "",
              "b_why": "measured", "b_tries": u.tries, "b_losses": u.losses, "b_launch_id": 1, "b_needs": u.needs,
              "b_edition": u.edition} for u in batch]  # fmt: skip
    told = [{"campaign_id": u.campaign_id, "unit_id": u.id, "at": NOW, "source": u.state, "event": event, "dest": dest,
             "cause": "", "why": "measured", "who": "keepupd"} for u in batch]  # fmt: skip
    source, campaign_id = batch[0].state, batch[0].campaign_id
    counted = [{"campaign_id": campaign_id, "state": state, "cause": "", "n": n}
               for state, n in ((source, -len(batch)), (dest, len(batch)))]  # fmt: skip
    wanted = [{"effect": effect, "key": u.id, "detail": "", "created": NOW, "due": NOW} for u in batch if effect]
    return moved, told, counted, wanted


def measure(quick: bool = False) -> list[Figure]:
    ours, plain = Ours("ours", 5_000 if quick else 20_000), Plain("plain", 5_000 if quick else 20_000)
    one, other = in_turns(3 if quick else 12, ours.moves_a_second, plain.moves_a_second)
    for side in (ours, plain):
        side.k.database.close()
    detail = f"{median(one):.0f} against {median(other):.0f} moves a second, {BATCH} in a transaction"
    return [Figure("moves a second: store.apply / plain Core", ratio(one, other), "", 0.5, 0.5, True, detail)]
