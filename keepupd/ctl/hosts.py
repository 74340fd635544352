"""Sick hosts, as `keepupctl status` and `why` show them: the daemon's own question, asked once more."""

import json
from typing import Any

from sqlalchemy import Connection, select

from keepupd.core.causes import Causes, load_causes, parse_rules
from keepupd.core.chart import charts_dir
from keepupd.ctl.desk import Desk
from keepupd.store import hosts
from keepupd.store.tables import campaigns
from keepupd.yamlfile import from_folder, read_yaml


def sick_hosts(desk: Desk, db: Connection) -> list[dict[str, Any]]:
    """Each with the time until which no job goes there, and why. Raises CausesError where that table is faulty."""
    settings = db.execute(select(campaigns.c.name, campaigns.c.settings).where(campaigns.c.active))
    own = [rule for name, text in settings for rule in parse_rules(json.loads(text).get("causes", ()), name)]
    found = hosts.sick_hosts(db, desk.now, causes_of(desk).excluding(own))
    return [{"host": host, "until": sick.until, "why": sick.words} for host, sick in found.items()]


def causes_of(desk: Desk) -> Causes:
    """The table of causes that the daemon has."""
    other = read_yaml(desk.config.absolute()).value.get("causes")
    path = from_folder(desk.config.absolute().parent, other) if other else charts_dir() / "causes.yaml"
    return load_causes(path, frozenset(event for _, event, _ in desk.chart("file").edges()))
