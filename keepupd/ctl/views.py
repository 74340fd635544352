"""Show on a terminal what a command found. Each function gives lines; one that begins with ! is trouble.

Text and --json come from the same mapping: `fields` shows any of it. Whoever prints lines cleans them (words.plain):
names, reasons and logs come from outside.
"""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from keepupd.ctl.words import clock, cut, for_shell, plain, span

WIDTH = 120  # of tables
GROUPS = 20  # groups that the preview of a flush shows
SHORT = 40  # characters; a longer fact has a line of its own
NORMAL = ("pending", "running", "validated", "declared")
NOT_SHOWN = (
    "kind", "name", "unit", "state", "since", "since_s", "late", "seen", "due", "tries", "losses", "edition", "polls",
)  # fmt: skip

Lines = Iterator[str]
Found = Mapping[str, Any]


def table(rows: Sequence[Sequence[str]], elastic: int) -> Lines:
    """Columns as wide as they must be; the `elastic` one gives way so that a line fits WIDTH."""
    widths = [max(len(plain(cell)) for cell in column) for column in zip(*rows, strict=True)]
    over = sum(widths) + 2 * (len(widths) - 1) - WIDTH
    widths[elastic] = max(12, widths[elastic] - max(0, over))
    for row in rows:
        cells = [cut(cell, width).ljust(width) for cell, width in zip(row, widths, strict=True)]
        yield "  ".join(cells).rstrip()[:WIDTH]


def fields(found: Found) -> Lines:
    """A row for each thing known: `label      words`."""
    for key, value in found.items():
        words = [] if key in NOT_SHOWN or value in (None, "", False) else list(_rows(value))
        for n, row in enumerate(words):
            yield f"  {'' if n else key.replace('_', ' '):<11} {row}"


def _rows(value: Any) -> Lines:
    """A value in one row, a list in a row an item; lines of a log below the facts around them."""
    if isinstance(value, Mapping) and "command" in value and len(value) == 2:
        yield f"{value['command']}    # {value['means']}"
    elif isinstance(value, Mapping) and "dest" in value:
        yield step(value)
    elif isinstance(value, Mapping):
        known = {k.replace("_", " "): _word(v) for k, v in value.items() if v not in (None, "", []) and k != "lines"}
        yield ", ".join(f"{k} {v}" for k, v in known.items() if len(v) <= SHORT)
        yield from (f"{k}: {v}" for k, v in known.items() if len(v) > SHORT)
        yield from (f"| {line}" for line in value.get("lines", ()))
    elif isinstance(value, list):
        for item in value:
            yield from _rows(item)
    else:
        yield _word(value)


def _word(value: Any) -> str:
    return clock(value) if isinstance(value, datetime) else str(value)


def step(moved: Found) -> str:
    """A row of history."""
    who = "" if moved["who"] == "keepupd" else f" by {moved['who']}"
    return f"{clock(moved['at'])} {moved['source']} -> {moved['dest']} ({moved['event']}{who}): {moved['why']}"


# --- one function a command ---------------------------------------------------------------------------------------


def why(found: Found) -> Lines:
    if found["state"] is None:
        yield f"{'! ' if found['late'] else ''}{plain(found['name'])} {found['means']}"
    else:
        mark = "" if found["state"] in NORMAL and not found["late"] else "! "
        late = ", LATE" if found["late"] else ""
        age = f"for {span(found['since_s'])}, since {clock(found['since'])}"
        yield f"{mark}{plain(found['name'])} is in {found['state']} {age}{late}"
    yield from fields(found)
    for poll in found.get("polls", ()):
        if poll["failing"]:
            yield f"! poll {poll['name']} fails, last at {clock(poll['failed'])}: {poll['error']}"


HEADS = ("pend", "run", "valid", "decl", "held", "crash", "debug")  # of STATES


def status(found: Found) -> Lines:
    campaigns, daemon = found["campaigns"], found["daemon"]
    head = ("  campaign", "state", *HEADS, "oldest", "in/h", "out/h", "top cause")
    yield from table([head, *map(_campaign_row, campaigns)], 0) if campaigns else ["no campaign is taken up yet"]
    for c in campaigns:
        yield from _attention(c, found["keepupctl"])
    for poll in daemon["failing_polls"]:
        yield cut(f"! poll {poll['name']} fails, last at {clock(poll['failed'])}: {poll['error']}", WIDTH)
    for one in found["sick_hosts"]:
        yield cut(f"! host {plain(one['host'])} is sick, no jobs go there until {clock(one['until'])}", WIDTH)
        yield f"    {plain(one['why'])}"
    if found["outbox"]["parked"]:
        yield f"! {found['outbox']['parked']} effects wait for a person: {found['keepupctl']} stuck"
    age = daemon["last_pass_s"]
    if daemon["silent"]:
        seen = "has never worked on this database" if age is None else f"was last at work {span(age)} ago"
        yield f"! the daemon {seen}: is it running? The numbers are as it left them"
    else:
        yield f"the daemon was at work {span(age)} ago; {found['outbox']['depth']} effects in the outbox"


def _campaign_row(c: Found) -> list[str]:
    numbers = [_number(n) for n in (*c["files"].values(), c["rate_in_1h"], c["rate_out_1h"])]
    return [_mark(c) + c["name"], c["state"], *numbers[:-2], _oldest(c), *numbers[-2:], cut(c["top_cause"] or "-", 20)]


def _mark(c: Found) -> str:
    return "! " if c["state"] not in NORMAL or c["sum_rule_difference"] else "  "


def _number(n: int) -> str:
    return f"{n / 1_000_000:.4g}M" if n >= 1_000_000 else str(n)


def _oldest(c: Found) -> str:
    return "-" if c["oldest_undeclared_s"] is None else span(c["oldest_undeclared_s"])


def _attention(c: Found, keepupctl: str) -> Lines:
    name, short = for_shell(c["name"]), cut(c["name"], 40)
    if c["state"] not in NORMAL:
        yield cut(f"! {short} {c['state'].upper()} since {clock(c['since'])}: {plain(c['why'])}", WIDTH)
        yield f"    {keepupctl} why {name}"
    if not c["active"]:
        yield f"! {short} launches nothing: its file is gone from the configuration"
    if c["sum_rule_difference"]:
        yield f"! {short}: {c['sum_rule_difference']} files break the sum rule: {keepupctl} audit {name}"
    if c["refused_change"]:
        yield cut(f"! {short}: its changed file is not in force: {plain(c['refused_change'])}", WIDTH)
        yield f"    {keepupctl} why {name}"
    if c["incomplete_groups"]:
        yield f"! {short}: {c['incomplete_groups']} groups wait for files that left SAM: {keepupctl} stuck"
    if c["total_refused_files"]:
        yield f"! {short}: its total refuses {c['total_refused_files']} histogram files: {keepupctl} total {name}"
    if "in debug" in c["outlook"]:  # what is expected in vain must not be found out by counting
        yield cut(f"  {short}: {c['outlook']}", WIDTH)
    if c["outage"]:
        yield cut(f"! {short}: outage, {c['outage']}: one job probes, all goes on by itself when it ends", WIDTH)
    if c["canary"] and c["files"]["pending"]:
        yield f"  {short}: the canary is out, {c['canary']['declared']} of {c['canary']['of']} declared"
    if c["usual_memory_mib"]:
        yield f"  {short}: jobs ask for {c['usual_memory_mib']} MiB of memory, by what recent ones used"
    if trouble := [s for s in ("debug", "crash", "held") if c["files"][s]]:
        numbers = ", ".join(f"{c['files'][s]} {s}" for s in trouble)
        klass = f", class {c['top_cause_class']}" if c["top_cause_class"] else ""
        most = f", most for {c['top_cause']} ({c['top_cause_files']}{klass})" if c["top_cause"] else ""
        yield cut(f"  {short}: {numbers}{most}", WIDTH)
        yield f"    {keepupctl} files {name} --state {trouble[0]}"


def files(found: Found) -> Lines:
    head = ("file", "state", "since", "next look", "cause", "why")
    rows = [(f["name"], f["state"], _short(f["since"]), _short(f["due"]), f["cause"] or "-", f["why"][:40])
            for f in found["files"]]  # fmt: skip
    yield from table([head, *rows], 0)
    yield f"{len(rows)} of {found['total']} files" + ("" if len(rows) >= found["total"] else "; more with --limit")


def _short(at: datetime | None) -> str:
    return f"{at:%m-%d %H:%M}" if at else "-"


def history(found: Found) -> Lines:
    yield from map(step, found["steps"])
    if not found["steps"]:
        yield f"{plain(found['name'])} has not moved since it was first seen"


def log(found: Found) -> Lines:
    yield f"attempt {found['attempt']} of {found['of']}, launch {found['launch']}, node {found['host'] or 'not known'}"
    if found["missing"]:
        yield f"! {found['missing']}"
    for one in found["logs"]:
        left_out = f", the first {one['left_out']} left out" if one["left_out"] else ""
        yield f"--- {one['name']}: {one['bytes']} bytes{left_out}; {one['path']}"
        yield from one["lines"]


def stuck(found: Found) -> Lines:
    for one in found["stuck"]:
        yield f"! {one['what']}, since {clock(one['since'])}: {one['why']}"
        yield f"    {one['command']}"
    if not found["stuck"]:
        yield "nothing is stuck"


def audit(found: Found, show_remedies: bool, asked: bool) -> Lines:
    for c in found["campaigns"]:
        members = "SAM gave no answer" if c["members_in_sam"] is None else f"{c['members_in_sam']} members in SAM"
        source = f"{members} ({c['definition']})" if c["definition"] else "no input, it makes its own units"
        yield f"{c['name']}: {source}; ever seen {c['ever_seen']}, of these left {c['left']}"
        if c["sam_error"]:
            yield f"! only the store was looked at: {c['sam_error']}"
        if c["storage_error"]:
            yield f"! the storage was not looked at: {c['storage_error']}"
        for what, names in c["broken"].items():
            yield f"! {len(names)} {what}:"
            yield from (f"    {plain(name)}" for name in names)
            yield from [f"  {c['remedies'][what]}"] if show_remedies else []
        if not c["broken"] and not c["sam_error"]:
            yield "  the sum rule is kept: each file is in exactly one state"
            yield f"  outputs agree: {c['outputs_in_sam']} in SAM"
    yield from found["answers"]
    if asked and not found["answers"]:
        yield "recorded; the daemon has not taken it yet and will when it runs: see `keepupctl status`"
    elif show_remedies and not asked and any(c["broken"] for c in found["campaigns"]):
        yield "nothing was changed: with --yes the daemon is asked for what says --repair"


def asked(chosen: Sequence[Any], let_be: Sequence[str], event: str) -> Lines:
    """The preview of what is asked for."""
    yield f"{event}: {len(chosen)} file(s)"
    for unit in chosen[:10]:
        yield f"    {plain(unit.name)}  ({unit.state}{': ' + unit.cause if unit.cause else ''})"
    if len(chosen) > 10:
        yield f"    and {len(chosen) - 10} more"
    yield from (f"! {words}" for words in let_be)


def groups(found: Found) -> Lines:
    """The preview of a flush."""
    listed = found["groups"]
    files, events = (sum(one[what] for one in listed) for what in ("files", "events"))
    yield f"flush: {files} waiting file(s), {events} events, would go into {len(listed)} group(s)"
    for one in listed[:GROUPS]:
        keys = ", ".join(f"{key} {value}" for key, value in one["by"].items()) or "no keys"
        yield f"    {one['group']}: {one['files']} file(s), {one['events']} events, {keys}, by {one['closed_by']}"
        more = ", ..." if one["files"] > len(one["names"]) else ""
        yield f"        {', '.join(map(plain, one['names']))}{more}"
    if len(listed) > GROUPS:
        yield f"    and {len(listed) - GROUPS} more groups"


def totals(found: Found, named: bool = False) -> Lines:
    for t in found["totals"]:
        version = f"declared as {t['file']}" if t["file"] else "no version declared yet"
        done = ", complete" if t["complete"] else ""
        yield f"{t['campaign']}: {t['files']} histogram files of {t['events']} events{done}; {version}"
        rows = [_histogram_row(h) for h in t["histograms"]]
        yield from table([("  histogram", "entries", "mean", "bins"), *rows], 0) if rows else ()
        if t["lacking"]:
            yield f"  {t['lacking']} declared histogram files are not in it yet"
        for name, why in t["refused"].items():
            yield f"! refused {name}: {why}"
        yield from (f"    {plain(name)}" for name in t["names"]) if named else ()
    if found["png"]:
        yield f"drawn to {found['png']}"


def _histogram_row(h: Found) -> tuple[str, ...]:
    mean = ", ".join("-" if one is None else f"{one:.5g}" for one in h["mean"])
    return f"  {h['name']}", f"{h['entries']:.10g}", mean, "x".join(map(str, h["bins"]))
