"""The campaigns' own life: taken up from their files, their definitions in SAM, their state from the counts."""

import logging
from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import Connection, insert, select, update

from keepupd.clients.catalog import quote
from keepupd.config import Campaign, diff
from keepupd.core.causes_table import parse_rules
from keepupd.core.decide import decide_campaign
from keepupd.daemon.keeper import Keeper, say
from keepupd.store import reads, store
from keepupd.store.tables import AnyRow, campaigns


def take_up(k: Keeper, listed: Sequence[Campaign], now: datetime) -> None:
    """Put the campaigns of the configuration in force; those that are gone from it launch nothing more."""
    rules = {c.name: parse_rules(c.causes, f"campaign {c.name}") for c in listed}
    with k.database.write("campaigns taken up") as db:
        known = {row.name: row for row in db.execute(select(campaigns))}
        for campaign in listed:
            _write_campaign(db, campaign, known.get(campaign.name), k.campaign_chart.initial, now)
        gone = known.keys() - {campaign.name for campaign in listed}
        db.execute(update(campaigns).where(campaigns.c.name.in_(gone)).values(active=False))
        rows = db.execute(select(campaigns.c.id, campaigns.c.name, campaigns.c.settings)).all()
    k.campaigns = {row.id: Campaign.model_validate_json(row.settings) for row in rows}
    k.defined.clear()
    k.own_rules = {row.id: rules.get(row.name, ()) for row in rows}


def _write_campaign(db: Connection, campaign: Campaign, known: AnyRow | None, initial: str, now: datetime) -> None:
    settings = campaign.as_json()
    if known is None:
        why = "defined; waits for its first input"
        db.execute(insert(campaigns).values(name=campaign.name, type=campaign.type, settings=settings, state=initial,
                                            since=now, created=now, why=why))  # fmt: skip
        say("campaign taken up", campaign=campaign.name)
    elif known.settings != settings or not known.active:
        for line in diff(known.settings, settings):
            say("campaign changed", campaign=campaign.name, setting=line)
        this = campaigns.c.name == campaign.name
        db.execute(update(campaigns).where(this).values(settings=settings, active=True, type=campaign.type))


def make_definitions(k: Keeper, now: datetime) -> None:
    """The definitions a campaign reads and feeds exist before it starts; one with another query is never changed."""
    for campaign in [c for c in k.campaigns.values() if c.name not in k.defined]:
        with k.contained(f"definitions:{campaign.name}", now):
            for name, dims in definitions_wanted(campaign, k.settings.sam.campaign_parameter):
                k.sam.create_definition(name, dims, f"made for campaign {campaign.name}")
            k.defined.add(campaign.name)


def definitions_wanted(campaign: Campaign, parameter: str) -> list[tuple[str, str]]:
    """Name and dimensions of the definitions that keepupd makes for a campaign."""
    wanted = [(campaign.input.definition, campaign.input.query)] if campaign.input.query else []
    for output in campaign.outputs:
        dims = f"{parameter} {quote(campaign.name)} and data_tier {quote(output.tier)}"
        wanted += [(name, dims) for name in output.definitions]
    return wanted


def live_on(k: Keeper, now: datetime) -> None:
    """Move campaigns whose counts have said the same in two passes."""
    with k.database.read() as db:
        rows = db.execute(select(campaigns.c.id, campaigns.c.state, campaigns.c.candidate)).all()
        events = {row.id: decide_campaign(row.state, reads.counts(db, row.id)) or "" for row in rows}
    for row in rows:
        if events[row.id] != row.candidate:
            with k.database.write("campaign candidate") as db:
                db.execute(update(campaigns).where(campaigns.c.id == row.id).values(candidate=events[row.id]))
        elif events[row.id]:
            _move(k, row.id, events[row.id], now)


def _move(k: Keeper, campaign_id: int, event: str, now: datetime) -> None:
    with k.database.write("campaign moved") as db:
        files = reads.counts(db, campaign_id)
        why = ", ".join(f"{n} {state}" for state, n in sorted(files.items()))
        dest = store.move_campaign(db, k.campaign_chart, campaign_id, event, now, why)
    level = logging.WARNING if dest in ("held", "crash", "debug") else logging.INFO
    say("campaign moved", level, campaign=k.campaigns[campaign_id].name, event=event, dest=dest, why=why)
