"""The campaigns' own life: taken up from their files, their definitions in SAM, their state from the counts."""

import logging
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime

from sqlalchemy import Connection, insert, select, update

from keepupd.campaign import Campaign, definitions_made
from keepupd.changes import diff, frozen_changes, needs_canary
from keepupd.core import serials
from keepupd.core.causes_table import parse_rules
from keepupd.core.decide import decide_campaign
from keepupd.core.errors import DefinitionDiffers, KeepupError
from keepupd.daemon.keeper import Keeper, say
from keepupd.flow import build_flow
from keepupd.store import reads, store
from keepupd.store.tables import AnyRow, campaigns


class RunsTaken(KeepupError):
    """Runs of a generator that are another campaign's for ever."""


def take_up(k: Keeper, listed: Sequence[Campaign], now: datetime) -> None:
    """Put the campaigns of the configuration in force; those that are gone from it launch nothing more. One that
    changes what may not change any more keeps the settings it has. Raises CausesError and RunsTaken; then
    nothing is written."""
    for campaign in listed:
        parse_rules(campaign.causes, f"campaign {campaign.name}")
    with k.database.write("campaigns taken up") as db:
        known = {row.name: row for row in db.execute(select(campaigns))}
        for campaign in listed:
            check_runs(known, campaign, {other.name for other in listed})
            _write_campaign(db, campaign, known.get(campaign.name), k.campaign_chart.initial, now)
        gone = known.keys() - {campaign.name for campaign in listed}
        db.execute(update(campaigns).where(campaigns.c.name.in_(gone)).values(active=False))
        rows = db.execute(select(campaigns.c.id, campaigns.c.name, campaigns.c.settings)).all()
    k.campaigns = {row.id: Campaign.model_validate_json(row.settings) for row in rows}
    k.defined.clear()
    k.flow = build_flow([c for c in k.campaigns.values() if c.name not in gone], k.settings.sam.campaign_parameter)
    k.own_rules = {i: parse_rules(c.causes, f"campaign {c.name}") for i, c in k.campaigns.items()}
    k.touched.update(k.campaigns)


def check_runs(known: Mapping[str, AnyRow], campaign: Campaign, in_force: Collection[str]) -> None:
    """A run is given out once. Raises RunsTaken for one that a campaign has used that is gone from the configuration.

    known: rows of table campaigns, by name."""
    ours, before = campaign.generator, known.get(campaign.name)
    if ours is None or (before is not None and before.active and _last_run(before) == ours.last_run):
        return  # it has had them
    for name, row in known.items():
        theirs = Campaign.model_validate_json(row.settings).generator if name not in in_force else None
        if theirs is None or not row.ever_seen:
            continue
        last = serials.last_run(theirs.first_run, theirs.subruns_per_run, row.ever_seen)
        if ours.first_run <= last and theirs.first_run <= ours.last_run:
            raise RunsTaken(
                f"runs {ours.first_run} to {ours.last_run} of {campaign.name} overlap {theirs.first_run} to {last}, "
                f"which {name} has used, though its file is gone from the configuration",
                f"set generator.first_run of {campaign.name} to {last + 1} or more",
            )


def _last_run(row: AnyRow) -> int | None:
    had = Campaign.model_validate_json(row.settings).generator
    return had.last_run if had else None


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
    """What a campaign file changes that may not change any more: an output of `known`, its row, is declared,
    or was before a redo."""
    old = Campaign.model_validate_json(known.settings)
    return frozen_changes(old, campaign) if reads.ever_declared(db, known.id) else []


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
        events = {row.id: decide_campaign(row.state, reads.counts_without_left(db, row.id)) or "" for row in rows}
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
        left = sum(files.values()) - sum(reads.counts_without_left(db, campaign_id).values())
        why += f"; of these {left} left the input definition" if left else ""
        dest = store.move_campaign(db, k.campaign_chart, campaign_id, event, now, why)
    level = logging.WARNING if dest in ("held", "crash", "debug") else logging.INFO
    say("campaign moved", level, campaign=k.campaigns[campaign_id].name, event=event, dest=dest, why=why)
