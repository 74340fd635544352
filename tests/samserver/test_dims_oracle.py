"""The oracle: thousands of random queries, each answered by the server's SQL and by a naive evaluator over Python sets.

The evaluator below shares nothing with the server: it knows the language's rules as docs/sam.md states them, and walks
every file for every condition. A query is made as a small tree of tuples, and written out in one of its many spellings.

Each run asks the same questions. To ask others, and more of them (a failure names its world and seed):

    DIMS_SEED=20260501 DIMS_QUERIES=100000 .venv/bin/pytest -m long tests/samserver/test_dims_oracle.py
"""

import asyncio
import os
import random
import re
from datetime import UTC, datetime, timedelta

import pytest

from keepupd.samserver import definitions, files, locations, projects, values
from keepupd.samserver.compile import compile_dims
from keepupd.samserver.db import Database, transact
from keepupd.samserver.fields import FIELDS

TIERS, LABELS = ["raw", "simulated", "hit-reconstructed"], ["blue", "bl_e", "red-1", "x y"]
STATUSES = ["consumed", "skipped", "transferred"]
APPLICATIONS = [("art", "reco", "v1"), ("art", "reco", "v2"), ("art", "reco", "v1-2"), ("gen", "corsika", "v2")]
DAY = 86400
START = 1704067200      # 2024-01-01T00:00:00+00:00
TIMES = ("start_time", "end_time", "create_date", "update_date", "retired_date")


class World:
    """A catalog of some sixty files, and the same facts in plain dictionaries."""

    def __init__(self, path, seed=1):
        self.random = random.Random(seed)
        self.database = Database(path, "dune")
        self.db = self.database.writer
        self.files = {}
        self.projects = []
        self.snapshots = []
        self.definitions = {}
        self.run(locations.add_disk, "demo:/d", [])
        self.run(locations.add_disk, "tape:/t", [])
        for application in APPLICATIONS:
            self.run(values.add_application, *application)
        for name, kind in (("Test.label", "string"), ("Test.count", "int"), ("Test.energy", "float")):
            self.run(values.add_parameter, name, kind)
        for number in range(60):
            self.add_file(number)
        for name, tree in (("d1", ("cond", "data_tier", "=", ["raw"])),
                           ("d2", ("with", ("cond", "file_name", "=", ["f_%"]), {"availability": ["anylocation"]})),
                           ("d3", ("with", ("sets", ("def", "d2"), [("minus", ("def", "d1"))]), {"limit": 20})),
                           ("d4", ("rel", "isparentof", ("cond", "file_id", ">", ["0"]))),
                           ("e5", ("and", [("cond", "run_number", "=", ["1-3"]), ("def", "d1")]))):
            self.definitions[name] = tree
            self.run(definitions.create, name, spell(tree, self.random), "u", "g", "")
            self.add_project(name)
        for number in range(60, 75):
            self.add_file(number)
        for number in range(1, 60, 7):      # what left since the first snapshots
            self.run(files.modify, "file_id", str(number), {"content_status": "bad"}, "u")
            self.stamp(number, self.files[number], {"content_status": "bad"})
        for name in ("d1", "d3", "d1"):
            self.add_project(name)

    def run(self, work, *args):
        return transact(self.db, "BEGIN IMMEDIATE", work, *args)

    def add_file(self, number):
        pick = self.random
        parents = pick.sample(sorted(self.files), k=min(len(self.files), pick.choice([0, 0, 1, 2])))
        raw = {"file_name": f"f{pick.choice('_x')}{number:02}.root", "file_type": pick.choice(["test", "mc"]),
               "file_size": pick.randrange(100), "data_tier": pick.choice([*TIERS, None]),
               "event_count": pick.choice([None, 0, 5, 10, 17]), "start_time": START + pick.randrange(5 * DAY),
               "content_status": pick.choice(["good"] * 4 + ["bad"]), "parents": [{"file_id": p} for p in parents],
               "application": pick.choice([None, *(dict(zip(("family", "name", "version"), a, strict=True))
                                                   for a in APPLICATIONS)]),
               **{k: pick.choice([None, *v]) for k, v in (
                   ("file_format", ["root", "txt"]), ("data_stream", ["cosmics", "test"]), ("group", ["dune"]),
                   ("first_event", [1, 5]), ("last_event", [9, 12]), ("file_partition", [0, 3]), ("process_id", [7]))},
               "user": pick.choice(["ann", "bob"]), "end_time": pick.choice([None, START + pick.randrange(5 * DAY)]),
               "lum_block_ranges": pick.choice([None, [], [[3, 5]], [[1, 1], [6, 9]], [[2, 8], [20, 20]]]),
               "runs": [[pick.randrange(1, 6), *([pick.randrange(4)] if pick.random() < .7 else []),
                         pick.choice(["mc", "test"])] for _ in range(pick.choice([0, 1, 1, 2]))],
               "checksum": pick.choice([[], ["enstore:5"], ["enstore:6", "adler32:00000001"]]),
               "Test.label": pick.choice([None, *LABELS]), "Test.count": pick.choice([None, 1, 2, 12, 20]),
               "Test.energy": pick.choice([None, 0.5, 2.0, -1.25])}
        given = {k: v for k, v in raw.items() if v is not None}
        number = self.run(files.declare, given, "u")
        places = [] if pick.random() < .25 else pick.sample(["demo:/d/one", "demo:/d/two", "tape:/t/x(7@AB12)"],
                                                            pick.choice([1, 1, 2]))
        for place in places:
            self.run(locations.add, "file_id", str(number), place)
        retired = pick.random() < .1
        if retired:
            self.run(files.retire, "file_id", str(number))
        self.stamp(number, {**raw, "id": number, "locations": places, "retired": retired, "parents": set(parents)}, {})

    def stamp(self, number, facts, changes):
        """Give a file times and users of its own choice where the server would put in the present."""
        pick = self.random
        stamps = {"create_date": START + pick.randrange(5 * DAY), "update_user": pick.choice([None, "ann"]),
                  "update_date": pick.choice([None, START + pick.randrange(5 * DAY)]),
                  "retired_date": START + pick.randrange(5 * DAY) if facts["retired"] else None}
        self.db.execute(f"UPDATE files SET {', '.join(f'{k} = ?' for k in stamps)} WHERE file_id = ?",
                        (*stamps.values(), number))
        self.files[number] = {**facts, **changes, **stamps}

    def add_project(self, definition):
        name = f"p_{definition}{len(self.projects)}"
        ids = sorted(Oracle(self).scope(self.definitions[definition]))
        snapshot = asyncio.run(definitions.take_snapshot(self.database, definition))
        older = {s["id"] for s in self.snapshots if s["definition"] == definition and s["id"] != snapshot}
        self.snapshots.append({"id": snapshot, "definition": definition, "ids": ids, "project": name,
                               "version": len(older) + 1, "number": len(self.projects) + 1})
        self.run(projects.start, name, "dune", "g", "u", definition, snapshot)
        self.run(projects.describe, name, "dune", f"about {definition}")
        deliveries, passed = [], 0
        for number in range(3):
            given = {"description": f"{len(self.projects)}.{number}", "username": f"user{number}"}
            process = self.run(projects.establish, name, "dune", given, 0)
            for _ in range(self.random.randrange(5)):
                got = self.run(projects.next_file, name, "dune", str(process))
                names = [self.files[i]["file_name"] for i in ids]
                end = names.index(got[1]) + 1 if got else len(ids)
                deliveries += [{"file": n, "status": "failed", "process": None, "description": None, "username": None}
                               for n in names[passed:end] if not got or n != got[1]]       # those without location
                passed = max(passed, end)
                status = self.random.choice(STATUSES)
                if got:
                    self.run(projects.update_file, name, "dune", str(process), got[1], status)
                    deliveries.append({"file": got[1], "status": status, "process": process, **given})
        last = {d["file"]: d for d in deliveries}
        self.projects.append({"name": name, "id": len(self.projects) + 1, "ids": ids, "about": f"about {definition}",
                              "deliveries": list(last.values())})


class Oracle:
    """The meaning of a query, the slow and plain way."""

    def __init__(self, world):
        self.world = world

    def scope(self, tree):
        named = self.availabilities(tree)
        return {i for i in self.of(tree, named) if self.available(i, named)}

    def availabilities(self, tree):
        kind, *rest = tree
        if kind == "with":
            return {*rest[1].get("availability", []), *self.availabilities(rest[0])}
        if kind == "avail":
            return set(rest[0])
        if kind == "def":
            return self.availabilities(self.world.definitions[rest[0]])
        if kind == "defs":
            return set().union(*(self.availabilities(("def", d)) for d in self.fitting(rest[1])))
        if kind == "not":
            return self.availabilities(rest[0])
        if kind in ("and", "or"):
            return set().union(*map(self.availabilities, rest[0]))
        if kind == "sets":
            return set().union(self.availabilities(rest[0]), *(self.availabilities(t) for _, t in rest[1]))
        return set()        # conditions have none; a relative is a scope of its own

    def fitting(self, names):
        return [d for d in self.world.definitions if any(matches("file_name", d, n) for n in names)]

    def available(self, number, named):
        file = self.world.files[number]
        if "any" in named:
            return True
        where = named & {"physical", "virtual", "anylocation"} or {"physical"}
        what = named & {"good", "bad"} or {"good"}
        located = "physical" if file["locations"] else "virtual"
        return not file["retired"] and ("anylocation" in where or located in where) and file["content_status"] in what

    def of(self, tree, named):
        everything = set(self.world.files)
        match tree:
            case ("cond", *_): return {i for i in everything if self.some_row(i, [tree])}
            case ("avail", _): return everything
            case ("def", name): return self.of(self.world.definitions[name], named)
            case ("defs", op, names):
                found = set().union(*(self.of(("def", d), named) for d in self.fitting(names)))
                return everything - found if op == "!=" else found
            case ("not", item): return everything - self.of(item, named)
            case ("or", items): return set().union(*(self.of(i, named) for i in items))
            case ("and", items): return self.all_of(items, named)
            case ("sets", first, rest):
                found = self.of(first, named)
                for op, item in rest:
                    other = self.of(item, named)
                    found = found - other if op == "minus" else found & other if op == "intersect" else found | other
                return found
            case ("with", query, options):
                found = sorted(i for i in self.of(query, named) if self.available(i, named))
                found = found[options.get("offset", 0)::options.get("stride", 1)]
                return set(found[:options["limit"]] if "limit" in options else found) if set(options) - {
                    "availability"} else self.of(query, named)
            case ("rel", kind, query): return self.relatives(kind, self.scope(query))
        raise AssertionError(tree)

    def relatives(self, kind, start):
        parents = {i: f["parents"] for i, f in self.world.files.items()}
        children = {i: {c for c, ps in parents.items() if i in ps} for i in parents}
        step = parents if kind in ("isparentof", "isancestorof") else children
        found = set().union(*(step[i] for i in start)) if start else set()
        while kind in ("isancestorof", "isdescendantof") and (more := set().union(*(step[i] for i in found)) - found):
            found |= more
        return found

    def all_of(self, items, named):
        rows, found = {}, set(self.world.files)
        for item in opened(items):
            if item[0] != "cond":
                found &= self.of(item, named)
                continue
            groups = rows.setdefault(relation(item[1]), [[]])
            if exact([item]) & exact(groups[-1]):
                groups.append([])
            groups[-1].append(item)
        for groups in rows.values():
            for group in groups:
                found &= {i for i in found if self.some_row(i, group)}
        return found

    def some_row(self, number, conditions):
        return any(all(holds(row, c) for c in conditions) for row in self.rows(number, relation(conditions[0][1]), {
            c[1] for c in conditions}))

    def rows(self, number, table, asked):
        file = self.world.files[number]
        if table == "runs":
            return [{"run_number": (r[0], r[1] if len(r) == 3 else None), "run_type": r[-1],
                     "subrun_number": r[1] if len(r) == 3 else None} for r in file["runs"]]
        if table == "locations":
            return [{"full_path": p.partition("(")[0], "tape_label": "AB12" if "(" in p else None}
                    for p in file["locations"]]
        if table == "lum_blocks":
            return [{"lum_block": tuple(b)} for b in file["lum_block_ranges"] or []]
        if table == "checksums":
            return [{"checksum": c} for c in file["checksum"]]
        if table == "snapshots":
            return [{"snapshot_id": s["id"], "snapshot_file_number": s["ids"].index(number) + 1,
                     "snapshot_for_project_name": s["project"], "def_snapshot": s["definition"],
                     "snapshot_version": s["version"], "snapshot_for_project_id": s["number"],
                     "dataset_def_name_newest_snapshot": s["definition"] if s["id"] == max(
                         o["id"] for o in self.world.snapshots if o["definition"] == s["definition"]) else None}
                    for s in self.world.snapshots if number in s["ids"]]
        if table == "deliveries":
            return self.deliveries(file, asked)
        made_by = file["application"] or dict.fromkeys(("family", "name", "version"))
        return [{**{k.lower(): v for k, v in file.items()}, "file_id": number, "create_user": file["user"], **made_by,
                 "application": made_by["name"], "appl_name": made_by["name"]}]

    def deliveries(self, file, asked):
        rows = []
        for p in self.world.projects:
            row = next((d for d in p["deliveries"] if d["file"] == file["file_name"]), None)
            project = {"project_name": p["name"], "project_id": p["id"], "project_description": p["about"]}
            if row:
                rows.append({**project, "consumed_status": row["status"],
                             "consumer_process_id": row["process"], "consumer": row["username"],
                             "consumer_process_description": row["description"]})
            elif file["id"] in p["ids"] and "consumed_status" in asked and not any("consumer" in a for a in asked):
                rows.append({**project, "consumed_status": "unconsumed"})
        return rows


def opened(items):
    """An and-group with its inner parentheses undone, but for those that repeat a dimension asked for before them."""
    made = []
    for item in items:
        inner = opened(item[1]) if item[0] == "and" else [item]
        made += [("and", inner)] if item[0] == "and" and exact(inner) & exact(made) else inner
    return made


def exact(items):
    return {i[1] for i in items if i[0] == "cond" and i[2] in ("=", "in", "like", "range")}


def relation(name):
    groups = {"runs": "run_number subrun_number run_type", "locations": "full_path tape_label", "checksums": "checksum",
              "lum_blocks": "lum_block",
              "snapshots": "snapshot_id snapshot_file_number snapshot_for_project_name def_snapshot snapshot_version "
                           "snapshot_for_project_id dataset_def_name_newest_snapshot",
              "deliveries": "project_name project_id project_description consumed_status consumer_process_id consumer "
                            "consumer_process_description"}
    return next((g for g, names in groups.items() if name in names.split()), "files")


def holds(row, condition):
    """One condition on one row; a missing value meets none."""
    _, name, op, wanted = condition
    value = row[name]
    if value is None:
        return False
    if op in ("!=", "not in", "not like"):
        return unknown_not(matches(name, value, w) for w in wanted)
    if op in ("=", "in", "like"):
        return any(matches(name, value, w) for w in wanted)
    if op.endswith("range"):
        return within(name, value, *wanted) is (op == "range")
    if name == "run_number":
        return compare(op, *as_runs(value, wanted[0]))
    if name == "lum_block":
        return compare(op, value["<" not in op], float(wanted[0]))
    forms = (value, value.partition(":")[2]) if name == "full_path" else (value,)
    return any(compare(op, form, typed(name, wanted[0])[0]) for form in forms)


def within(name, value, low, high):
    if name == "run_number":
        return compare(">=", *as_runs(value, low)) and compare("<=", *as_runs(value, high))
    if name == "lum_block":
        return value[0] <= float(high) and value[1] >= float(low)
    forms = (value, value.partition(":")[2]) if name == "full_path" else (value,)
    return any(typed(name, low)[0] <= form <= typed(name, high)[1] for form in forms)


def unknown_not(results):
    """SQL's not: a subrun that is unknown makes it neither true nor false."""
    results = list(results)
    return not any(results) and None not in results


def matches(name, value, wanted):
    if name == "full_path":
        return any(matches("path", v, wanted) for v in (value, value.partition(":")[2]))
    if "%" in wanted or "?" in wanted:
        shown = str(value[0]) if name == "run_number" else "{}-{}".format(*value) if name == "lum_block" else str(value)
        if name in TIMES:
            shown = datetime.fromtimestamp(value, UTC).replace(tzinfo=None).isoformat()
        return bool(re.fullmatch("".join({"%": ".*", "?": "."}.get(c, re.escape(c)) for c in wanted), shown))
    pair = r"([\d-]{10})-([\d-]{10})" if name in TIMES else r"(-?[\d.]+)-(-?[\d.]+)"
    if name not in TEXTS and (ends := re.fullmatch(pair, wanted)):
        return within(name, value, ends[1], ends[2])
    if name == "lum_block":
        return within(name, value, wanted, wanted)
    if name == "run_number":
        run, _, subrun = wanted.partition(".")
        if subrun and value[0] == int(run):
            return None if value[1] is None else value[1] == int(subrun)
        return value[0] == int(run)
    low, high = typed(name, wanted)
    return low <= value <= high


TEXTS = {"path"} | {name for name, field in FIELDS.items() if field.type in ("text", "path", "newest")} | {"test.label"}


def typed(name, text):
    if name in TEXTS:
        return text, text
    if name in TIMES:
        day = DATES.get(text) or (text if len(text) == 10 else None)
        moment = (datetime.fromisoformat(day or text.partition("+")[0]) - datetime(1970, 1, 1)) / timedelta(seconds=1)
        return (moment, moment + DAY - 1) if day else (moment - 7200 * text.endswith("+02:00"),) * 2
    return float(text), float(text)


def as_runs(value, wanted):
    run, _, subrun = wanted.partition(".")
    return (value, (int(run), int(subrun))) if subrun else (value[0], int(run))


def compare(op, left, right):
    if isinstance(left, tuple) and None in left:
        return False
    return {"<": left < right, "<=": left <= right, ">": left > right, ">=": left >= right}[op]


DATES = {"02-Jan-2024": "2024-01-02", "3-jan-24": "2024-01-03"}
DAYS = ["2024-01-02", *DATES, "2024-01-03T12:00:00", "2024-01-04 00:30:00", "2024-01-03T12:00:00+02:00", "2024-01-0%",
        "2024-01-02-2024-01-04", "%T1?:%"]
USERS = ["ann", "bob", "%", "a?n"]
NUMBERS = ["1", "5", "3-9", "%"]
VALUES = {
    "file_name": ["f_0%", "fx1?.root", "%5%", "f_", "f?0%"], "file_id": ["3", "10", "20-30", "99", "1%"],
    "data_tier": [*TIERS, "%-reco%", "RAW"], "file_size": ["5", "20-60", "50", "9%"], "event_count": ["0", "5", "3-12"],
    "file_type": ["test", "mc", "m?"], "file_format": ["root", "txt", "%t"], "data_stream": ["cosmics", "%"],
    "group": ["dune", "other"], "first_event": NUMBERS, "last_event": ["9", "10-12"], "file_partition": ["0", "0-5"],
    "process_id": ["7", "1-9"], "user": USERS, "create_user": USERS, "update_user": USERS, "family": ["art", "g%"],
    "application": ["reco", "corsika"], "appl_name": ["reco", "%"], **dict.fromkeys(TIMES, DAYS),
    "content_status": ["good", "bad"], "version": ["v1", "v1-2", "v%", "v?"], "checksum": ["enstore:5", "adler32:%"],
    "run_number": ["1", "2.1", "3.0002", "1-3", "2.1-4.2", "4%"], "subrun_number": ["1", "0-2"],
    "run_type": ["mc", "test"], "lum_block": ["1", "4", "8", "20", "5-7", "2%", "%"],
    "full_path": ["demo:/d/one", "/d/%", "tape:%", "/t/x"], "tape_label": ["AB12", "%", "AB1?"],
    "test.label": [*LABELS, "bl?e", "%-1"], "test.count": ["1", "2", "2-15", "1%"],
    "test.energy": ["0.5", "2", "-1.25", "0-3", "-2-1"], "snapshot_id": ["1", "2", "1-3"],
    "snapshot_version": ["1", "2"], "snapshot_for_project_id": ["1", "6", "3-7"], "def_snapshot": ["d1", "d?"],
    "dataset_def_name_newest_snapshot": ["d1", "d3", "%2"],
    "snapshot_file_number": ["1", "3", "2-6"], "snapshot_for_project_name": ["p_d10", "p_d%"],
    "project_name": ["p_d10", "p_d1%", "p_d21", "%"], "project_id": ["1", "2-4"],
    "project_description": ["about d1", "about%"],
    "consumed_status": ["consumed", "skipped", "unconsumed", "transferred", "co%", "%consumed"],
    "consumer_process_id": ["1", "2-7", "12"], "consumer": ["user0", "user%"],
    "consumer_process_description": ["0.1", "1.%"],
}
OPERATORS = ["=", "=", "=", "!=", "in", "not in", "like", "not like", "<", "<=", ">", ">=", "range", "not range"]


def condition(pick, names=VALUES):
    name, op = pick.choice(sorted(names)), pick.choice(OPERATORS)
    count = pick.choice([1, 1, 2, 3]) if op in ("=", "!=", "in", "not in") else 2 if "range" in op else 1
    choices = VALUES[name]
    if op[0] in "<>" or "range" in op:
        several = r"[%?]" if name in TEXTS else r"[%?]|\d{4}-\d\d-\d\d-" if name in TIMES else r"[%?]|\d-"
        choices = [v for v in choices if not re.search(several, v)] or ["1"]
    elif "like" in op and name not in TEXTS:
        choices = [v for v in choices if "%" in v] or ["%"]
    return ("cond", name, op, [pick.choice(choices) for _ in range(count)])


def about_one_thing(pick):
    """Which of these conditions must hold on the same row?"""
    about = pick.choice(ROWS)
    about = about if pick.random() < .5 else [pick.choice(about)]
    made = [condition(pick, about) for _ in range(pick.choice([2, 2, 3, 4]))]
    apart = pick.randrange(1, len(made) - 1) if len(made) > 2 and pick.random() < .6 else 0
    return ("and", [*made[:apart], ("and", made[apart:])] if apart else made)


def query(pick, depth=3):
    if depth == 0 or pick.random() < .25:
        return condition(pick) if pick.random() < .75 else ("def", pick.choice(["d1", "d2", "d3", "d4", "e5"]))
    kind = pick.choice(["and", "and", "rows", "or", "sets", "not", "rel", "with", "defs"])
    if kind == "rows":
        return about_one_thing(pick)
    if kind in ("and", "or"):
        items = [query(pick, depth - 1) for _ in range(pick.choice([2, 2, 3]))]
        if kind == "and" and pick.random() < .15:
            items.append(("avail", pick.sample(AVAILABILITIES, pick.choice([1, 1, 2]))))
        return (kind, items)
    if kind == "sets":
        return ("sets", query(pick, depth - 1), [(pick.choice(["minus", "minus", "intersect", "union"]), query(
            pick, depth - 1)) for _ in range(pick.choice([1, 1, 2, 3]))])
    if kind == "not":
        return ("not", query(pick, depth - 1))
    if kind == "defs":
        return ("defs", pick.choice(["=", "=", "!="]), pick.choice([["d1", "d2"], ["d%"], ["?5", "d1"], ["none%"]]))
    if kind == "rel":
        return ("rel", pick.choice(["isparentof", "ischildof"]), query(pick, depth - 1))
    options = {"limit": pick.randrange(30), "offset": pick.randrange(10), "stride": pick.randrange(1, 5),
               "availability": pick.sample(AVAILABILITIES, pick.choice([1, 1, 2]))}
    chosen = pick.sample(sorted(options), pick.choice([1, 1, 2, 3]))
    return ("with", query(pick, depth - 1), {k: options[k] for k in chosen})


AVAILABILITIES = ["physical", "virtual", "anylocation", "good", "bad", "any"]
ROWS = [[n for n in VALUES if relation(n) == r] for r in sorted({*map(relation, VALUES)} - {"files"})]
BINDING = {"with": 0, "sets": 1, "or": 2, "and": 3, "not": 4}      # the others bind tightest


def spell(tree, pick):
    """One of the ways to write a query down."""
    case = pick.choice([str, str.upper, str.title])

    def inner(below, binding):
        """In parentheses where they are needed, and now and then where they are not."""
        text = spell(below, pick)
        return text if BINDING.get(below[0], 5) >= binding and pick.random() < .7 else f"({text})"
    match tree:
        case ("cond", name, op, wanted): return spell_condition(pick, case, name, op, wanted)
        case ("def", name): return pick.choice([f"{case('defname')}:{pick.choice(['', ' '])}{name}",
                                                f"dataset_def_name {name}", f"dataset_def_name in ('{name}')"])
        case ("defs", op, names): return f"dataset_def_name {op} {','.join(names)}"
        case ("avail", names):
            shown = ",".join(names)
            return f"{case('availability')}: {pick.choice([shown, f'({shown})'])}"
        case ("not", item): return f"{case('not')} {inner(item, 4)}"
        case ("rel", kind, item): return f"{case(kind)}: ({spell(item, pick)})"
        case ("and", items):        # one right in another stands in parentheses: they may have a meaning
            return f" {case('and')} ".join(spell(i, pick) if i[0] == "avail" else inner(i, 3 + (i[0] == "and"))
                                           for i in items)
        case ("or", items): return f" {case('or')} ".join(inner(i, 3) for i in items)
        case ("sets", first, rest):
            return " ".join([inner(first, 1), *(f"{case(op)} {inner(t, 2)}" for op, t in rest)])
        case ("with", item, options):
            shown = [f"{case(k)} {','.join(v) if isinstance(v, list) else v}" for k, v in options.items()]
            return f"{inner(item, 0)} {case('with')} {' '.join(shown)}"
    raise AssertionError(tree)


def spell_condition(pick, case, name, op, wanted):
    bare = [re.fullmatch(r"[\w.%?-]+", w) and (pick.random() < .5 or re.search(r"\d-[\d.-]", w)) for w in wanted]
    texts = [w if plain else f"'{w}'" for w, plain in zip(wanted, bare, strict=True)]
    if op.endswith("range"):
        shown = " - ".join(texts)
        sign = pick.choice(["", "=", "in"]) if op == "range" else pick.choice(["!=", "not in"])
    else:
        shown = pick.choice([", ", ",", " , "]).join(texts)
        sign = "" if op == "=" and pick.random() < .5 else op
    return f"{case(name)} {case(sign)} {f'({shown})' if pick.random() < .3 else shown}"


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    made = World(tmp_path_factory.mktemp("oracle") / "catalog.db")
    yield made
    made.database.close()


def agree(world, seed, tree):
    text = spell(tree, random.Random(seed))
    compiled = compile_dims(world.db, text)
    got = [r[0] for r in world.db.execute(compiled.select("f.file_id"), compiled.args)]
    assert got == sorted(Oracle(world).scope(tree)), f"seed {seed}: {text}"
    return len(got)


def test_every_dimension_there_is_gets_asked_for():
    assert set(FIELDS) - set(VALUES) == {"dataset_def_name", "dataset_def_id"}


def test_random_queries_mean_what_they_should(world):
    sizes = [agree(world, seed, query(random.Random(seed))) for seed in range(300)]
    assert sum(0 < size < 50 for size in sizes) > 100, "the queries are too dull to show anything"


def test_each_dimension_means_what_it_should(world):
    """A condition or two of one kind at a time: what large queries hide behind their other parts."""
    sizes = [agree(world, seed, ("with", make(random.Random(seed)), {"availability": ["any"]}))
             for seed in range(300) for make in (condition, about_one_thing)]
    assert sum(0 < size < 75 for size in sizes) > 300


def test_parentheses_that_repeat_a_dimension_mean_what_they_should(world):
    """Whichever comes first in them, the rows of `a and (b and a)` are those of `a` and those of `b and a`."""
    for seed in range(400):
        pick = random.Random(seed)
        about = pick.choice([r for r in ROWS if len(r) > 1])
        outer, other = pick.sample(about, 2)
        inside = [condition(pick, [name]) for name in pick.sample([outer, other], 2)]
        agree(world, seed, ("with", ("and", [condition(pick, [outer]), ("and", inside)]), {"availability": ["any"]}))


@pytest.mark.long
@pytest.mark.timeout(0)
def test_thousands_of_random_queries_mean_what_they_should(tmp_path):
    first, count = int(os.environ.get("DIMS_SEED", "1000")), int(os.environ.get("DIMS_QUERIES", "8000"))
    for begin in range(first, first + count, 2000):
        world = World(tmp_path / f"{begin}.db", begin)
        for seed in range(begin, min(begin + 2000, first + count)):
            agree(world, seed, query(random.Random(seed)))
        world.database.close()


def test_ancestors_and_descendants_mean_what_they_should(world):
    for seed in range(60):
        pick = random.Random(seed)
        agree(world, seed, ("and", [("rel", pick.choice(["isancestorof", "isdescendantof"]), condition(pick)),
                                    condition(pick)]))
