"""`keepupctl flow`: the campaigns in force, who feeds whom, and counts; before the first start, what the files say."""

from typing import Any

from keepupd.campaign import Campaign
from keepupd.config import load_flow, load_settings
from keepupd.core.errors import StoreUnavailable
from keepupd.ctl import reads
from keepupd.ctl.desk import Desk
from keepupd.ctl.flow_view import STATES, Counts
from keepupd.flow import Flow, build_flow


def flow_now(desk: Desk) -> tuple[Flow, Counts]:
    """The flow and its counts. Raises ConfigError; a database that is not there yet means no counts."""
    settings = load_settings(desk.config)
    try:
        with desk.read() as db:
            rows = [row for row in reads.all_campaigns(db) if row.active]
            found = {row.name: reads.counts(db, row.id) for row in rows}
    except StoreUnavailable:
        return load_flow(settings).flow, {}
    flow = build_flow([Campaign.model_validate_json(row.settings) for row in rows], settings.sam.campaign_parameter)
    by_state = {name: {state: sum(n for (s, _), n in each.items() if s == state) for state in STATES}
                for name, each in found.items()}  # fmt: skip
    return flow, by_state


def as_data(flow: Flow, counts: Counts) -> dict[str, Any]:
    """For --json: the campaigns, makers before readers."""
    return {
        "campaigns": [
            {
                "name": name, "type": campaign.type, "makers": flow.makers_of(name), "readers": flow.readers_of(name),
                "open_ended": flow.is_open_ended(name), "counts": dict(counts.get(name, {})),
                "target_units": campaign.generator.units if campaign.generator else None,
            }
            for name, campaign in flow.campaigns.items()
        ]
    }  # fmt: skip
