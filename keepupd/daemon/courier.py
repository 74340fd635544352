"""Carry out the outbox: effects wanted outside, in order per key, each tried until it is done.

A crash after an effect and before it is noted repeats it: every effect is safe to repeat.
"""

import logging
import random
import time
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta

from sqlalchemy import delete, update

from keepupd.core.errors import KeepupError, Transient
from keepupd.daemon.keeper import Keeper, log, say
from keepupd.store import reads
from keepupd.store.tables import AnyRow, outbox

Effect = Callable[[Keeper, AnyRow, datetime], None]
AT_ONCE = 200
FIRST_WAIT_S, LONGEST_WAIT_S = 2, 600


def deliver(k: Keeper, perform: Mapping[str, Effect], now: datetime) -> int:
    """Carry out what is due; gives how many effects were done."""
    with k.database.read() as db:
        items = reads.due_effects(db, now, AT_ONCE)
    return sum(_carry_out(k, perform, item, now) for item in items)


def _carry_out(k: Keeper, perform: Mapping[str, Effect], item: AnyRow, now: datetime) -> bool:
    begun = time.perf_counter()
    try:
        perform[item.effect](k, item, now)
    except Transient as error:
        k.note_silence(error, now)
        _postpone(k, item, now, error)
    except KeepupError as error:
        _park(k, item, now, str(error))
    except Exception as error:
        log.exception("effect failed effect=%s key=%s: a fault in keepupd itself", item.effect, item.key)
        _park(k, item, now, f"{type(error).__name__}: {error}; a fault in keepupd itself, please report it")
    else:
        with k.database.write(f"{item.effect} done") as db:
            db.execute(delete(outbox).where(outbox.c.id == item.id))
        k.observe_effect(item.effect, time.perf_counter() - begun)
        return True
    return False


def _postpone(k: Keeper, item: AnyRow, now: datetime, error: Transient) -> None:
    wait = min(FIRST_WAIT_S * 2.0 ** min(item.tries, 20), LONGEST_WAIT_S) * random.uniform(0.8, 1.2)
    with k.database.write("effect postponed") as db:
        values = {"due": now + timedelta(seconds=wait), "tries": item.tries + 1, "error": str(error)}
        db.execute(update(outbox).where(outbox.c.id == item.id).values(values))
    say("effect postponed", logging.WARNING, effect=item.effect, key=item.key, seconds=round(wait), why=error.problem)


def _park(k: Keeper, item: AnyRow, now: datetime, why: str) -> None:
    """A person's turn: `keepupctl stuck` lists it, an alert counts it."""
    with k.database.write("effect parked") as db:
        db.execute(update(outbox).where(outbox.c.id == item.id).values(parked=now, tries=item.tries + 1, error=why))
    say("effect parked", logging.ERROR, effect=item.effect, key=item.key, why=why, remedy="keepupctl stuck")
