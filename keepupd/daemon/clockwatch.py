"""Notice when the wall clock jumps: due times move with it, and absences are counted anew.

A job is lost after ten minutes of absence and a retry is due after its wait; a clock set forward an hour must not make
the first true at once, and one set back must not hold the second up for an hour.
"""

import logging
import time
from collections.abc import Callable
from datetime import datetime, timedelta

from sqlalchemy import BigInteger, type_coerce, update

from keepupd.daemon.jobs import forget_absences
from keepupd.daemon.keeper import say
from keepupd.store.database import Database
from keepupd.store.tables import outbox, units

JUMP = timedelta(seconds=60)


class ClockWatch:
    def __init__(
        self, database: Database, clock: Callable[[], datetime], monotonic: Callable[[], float] = time.monotonic
    ):
        self.database, self.monotonic = database, monotonic
        self.wall, self.steady = clock(), monotonic()

    def look(self, now: datetime) -> None:
        """Compare the wall clock with one that never jumps, since the last look."""
        steady = self.monotonic()
        jump = (now - self.wall) - timedelta(seconds=steady - self.steady)
        if abs(jump) > JUMP:
            say("the clock has jumped", logging.WARNING, seconds=round(jump.total_seconds()))
            self._shift(jump)
        self.wall, self.steady = now, steady  # only now: a jump that could not be written down is seen again

    def _shift(self, jump: timedelta) -> None:
        ms = jump // timedelta(milliseconds=1)
        with self.database.write("clock jumped") as db:
            forget_absences(db)
            for table in (units, outbox):  # NULL, not due at all, stays NULL
                db.execute(update(table).values(due=type_coerce(table.c.due, BigInteger) + ms))
