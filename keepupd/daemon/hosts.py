"""Sick hosts get no more of our jobs for some hours, and what they cost is given back. store/hosts.py says which.

Level-triggered: every pass tells the batch system which hosts its idle jobs must shun, as long as there are any.
"""

import logging
from datetime import datetime

from keepupd.daemon.keeper import Keeper, say
from keepupd.store import hosts


class HostWatch:
    """Remembers only what the batch system was told; forgetting that tells it once more."""

    def __init__(self) -> None:
        self.told: list[str] | None = None

    def look(self, k: Keeper, now: datetime) -> None:
        excluding = k.causes.excluding([rule for rules in k.own_rules.values() for rule in rules])
        with k.database.read() as db:
            found = hosts.sick_hosts(db, now, excluding)
            owed = hosts.owed(db, found, now, excluding)
        if owed:
            with k.database.write("losses given back") as db:
                hosts.give_back(db, owed := hosts.owed(db, found, now, excluding), excluding)
            say("losses on sick hosts given back", attempts=len(owed))
        _say_changes(k.sick_hosts, found)
        k.sick_hosts = found
        if found or self.told != []:
            k.batch.exclude(k.settings.name, list(found))
            self.told = list(found)


def _say_changes(before: dict[str, hosts.SickHost], after: dict[str, hosts.SickHost]) -> None:
    for host in after.keys() - before.keys():
        until = f"{after[host].until:%Y-%m-%dT%H:%M:%SZ}"
        say("host is sick, no more jobs go there", logging.WARNING, host=host, until=until, why=after[host].words,
            remedy="tell the site; it is let back in by itself")  # fmt: skip
    for host in before.keys() - after.keys():
        say("host is let back in", host=host)
