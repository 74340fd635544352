"""The campaigns' own life: taken up from their files, their definitions in SAM, their state from the counts."""

import logging
from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import Connection, insert, select, update

from keepupd.campaign import Campaign, definitions_made
from keepupd.changes import diff, frozen_changes, needs_canary
from keepupd.core.causes_table import parse_rules
from keepupd.core.decide import decide_campaign
from keepupd.core.errors import DefinitionDiffers
from keepupd.daemon.keeper import Keeper, say
from keepupd.flow import build_flow
from keepupd.store import reads, store
from keepupd.store.tables import AnyRow, campaigns


def take_up(k: Keeper, listed: Sequence[Campaign], now: datetime) -> None:
    """Put the campaigns of the configuration in force; those that are gone from it launch nothing more. One that
    changes what may not change any more keeps the settings it has. Raises CausesError before anything is written."""
    for campaign in listed:
        parse_rules(campaign.causes, f"campaign {campaign.name}")
    with k.database.write("campaigns taken up") as db:
        known = {row.name: row for row in db.execute(select(campaigns))}
        for campaign in listed:
            _write_campaign(db, campaign, known.get(campaign.name), k.campaign_chart.initial, now)
        gone = known.keys() - {campaign.name for campaign in listed}
        db.execute(update(campaigns).where(campaigns.c.name.in_(gone)).values(active=False))
        rows = db.execute(select(campaigns.c.id, campaigns.c.name, campaigns.c.settings)).all()
    k.campaigns = {row.id: Campaign.model_validate_json(row.settings) for row in rows}
    k.defined.clear()
    k.flow = build_flow([c for c in k.campaigns.values() if c.name not in gone], k.settings.sam.campaign_parameter)
    k.own_rules = {i: parse_rules(c.causes, f"campaign {c.name}") for i, c in k.campaigns.items()}
    k.touched.update(k.campaigns)


def _write_campaign(db: Connection, campaign: Campaign, known: AnyRow | None, initial: str, now: datetime) -> None:
    settings = campaign.as_json()
    if known is None:
        why = "defined; waits for its first input"
        db.execute(insert(campaigns).values(name=campaign.name, type=campaign.type, settings=settings, state=initial,
                                            since=now, created=now, epoch=now, why=why))  # fmt: skip
        say("campaign taken up", campaign=campaign.name)
    elif known.settings != settings or not known.active or known.refused:
        _change(db, campaign, known, settings, now)


def _change(db: Connection, campaign: Campaign, known: AnyRow, settings: str, now: datetime) -> None:
    """Take up a changed file, or one that is back, or say why it is refused."""
    this = campaigns.c.id == known.id
    if refusals := refused_changes(db, known, campaign):
        db.execute(update(campaigns).where(this).values(active=True, refused="; ".join(refusals)))
        for line in refusals:
            say("change refused; the old settings stay in force", logging.ERROR, campaign=campaign.name, setting=line)
        return
    for line in diff(known.settings, settings):
        say("campaign changed", campaign=campaign.name, setting=line)
    db.execute(update(campaigns).where(this).values(settings=settings, active=True, refused=""))
    if not known.active or needs_canary(known.settings, settings):
        store.vouch_for(db, known.id, now)


def refused_changes(db: Connection, known: AnyRow, campaign: Campaign) -> list[str]:
    """What a campaign file changes that may not change any more: one output of `known`, its row, is declared."""
    old = Campaign.model_validate_json(known.settings)
    return frozen_changes(old, campaign) if reads.counts(db, known.id).get("declared") else []


def make_definitions(k: Keeper, now: datetime) -> None:
    """The definitions a campaign reads and feeds exist before it starts; one with another query is never changed: it
    holds the campaign, which would process other files than its own file says, or hand its outputs to nobody."""
    for campaign_id, campaign in [(i, c) for i, c in k.campaigns.items() if c.name not in k.defined]:
        with k.contained(f"definitions:{campaign.name}", now):
            try:
                for name, dims in definitions_wanted(campaign, k.settings.sam.campaign_parameter):
                    k.sam.create_definition(name, dims, f"made for campaign {campaign.name}")
            except DefinitionDiffers as differs:
                _hold(k, campaign_id, str(differs), now)
                raise
            k.defined.add(campaign.name)


def _hold(k: Keeper, campaign_id: int, why: str, now: datetime) -> None:
    """Not again when a person has it in hand already."""
    with k.database.write("definition differs") as db:
        if "refused" in k.campaign_chart.events(store.campaign_state(db, campaign_id)):
            store.move_campaign(db, k.campaign_chart, campaign_id, "refused", now, why, cause="definition_differs")


def definitions_wanted(campaign: Campaign, parameter: str) -> list[tuple[str, str]]:
    """Name and dimensions of the definitions that keepupd makes for a campaign."""
    wanted = [(campaign.input.definition, campaign.input.query)] if campaign.input.query else []
    return [*wanted, *definitions_made(campaign, parameter).items()]


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
