"""What differs between two settings of a campaign, and which of it may not change once an output is declared."""

import json
import re
from collections.abc import Iterable
from typing import Any

from keepupd.campaign import Campaign

# Settings that say nothing of what a job does: a change of any other makes the campaign run a canary again.
HARMLESS = re.compile(
    r"description|owner|contact|requested_by|expected_files|wanted_by|causes|settle_|retry|canary|breaker"
    r"|limits\.(jobs|idle_jobs|launch_size)|generator\.target_|merge\.max_|analysis\.total"
)


def diff(old_json: str, new_json: str) -> list[str]:
    """What differs between two `Campaign.as_json()`, a line each: `resources.memory_mib: 2000 → 3000`."""
    old, new = dict(_flat(json.loads(old_json))), dict(_flat(json.loads(new_json)))
    keys = [*old, *(key for key in new if key not in old)]
    return [f"{key}: {_shown(old, key)} → {_shown(new, key)}" for key in keys if old.get(key) != new.get(key)]


def needs_canary(old_json: str, new_json: str) -> bool:
    """Whether what differs is about what a job is given or does, so that a few units must try it first."""
    old, new = dict(_flat(json.loads(old_json))), dict(_flat(json.loads(new_json)))
    return any(old.get(key) != new.get(key) for key in old | new if not HARMLESS.match(key))


def _flat(value: Any, path: str = "") -> Iterable[tuple[str, Any]]:
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from _flat(inner, f"{path}.{key}".lstrip("."))
    elif isinstance(value, list) and any(isinstance(item, dict) for item in value):
        for number, inner in enumerate(value):
            yield from _flat(inner, f"{path}[{number}]")
    else:
        yield path, value


def _shown(flat: dict[str, Any], key: str) -> str:
    words = json.dumps(flat[key], ensure_ascii=False) if key in flat else "(none)"
    words = words[1:-1] if words.startswith('"') and len(words) > 2 else words
    return words if len(words) <= 60 else words[:57] + "..."


def frozen_changes(old: Campaign, new: Campaign) -> list[str]:
    """What `new` may not change any more after the first declared output of `old`, a line each; empty: all is well.

    All outputs of a campaign are alike, and a unit's numbers are its own for ever. Everything else changes in place.
    """
    lines = diff(json.dumps(old.shape()), json.dumps(new.shape()))
    if old.generator and new.generator and new.generator.last_run < old.generator.last_run:
        lines.append(
            f"generator: runs up to {old.generator.last_run} → {new.generator.last_run}; runs are never given up"
        )
    why = "outputs are declared, and all of a campaign are alike: start a campaign with a new name for it"
    return [f"{line} ({why})" for line in lines]
