"""Give dimensions their meaning: look up definitions and parameters, and make one SQL query with bound values.

Every part becomes a condition on `files f`; what needs a selection of its own (a relative's sub-query, a `with limit`)
becomes a named step (s1, s2 ...) before it, so that `keepup-sam explain` can be read from top to bottom.

Three rules carry the meaning:
- *Scope*. The whole query is one scope, and so is each sub-query of isparentof: and the like. All availabilities named
  in a scope unite (definitions it uses included) and hold for the whole scope; none named: located, good, not retired.
- *Same row*. Conditions on the same relation that stand in one and-group must hold on the same row of it: the same
  delivery, the same run, the same location. One that repeats a dimension with =, in, like or a range starts another
  row. An and-group in parentheses that repeats one so keeps its own rows: the parser leaves it as it stands.
- *Limits* count files in order of file_id, after the scope's availability.
"""

import re
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import groupby

from .dims import EXACT, And, Availability, Condition, Definition, Node, Not, Or, Relative, Sets, Value, With, parse
from .errors import DimensionError
from .fields import FIELDS, RELATIONS, Field
from .match import NEGATIVE, all_of, any_of, condition_sql, glob

MAX_DEFINITIONS = 500       # looked up in one query, nested ones included
MAX_DEFINITION_DEPTH = 40
NO_FILE = Condition("file_id", "=", (Value("0"),))
MAX_SQL_DEPTH = 8           # of boolean nesting before a step is split off; SQLite's parser allows some thirty


def resolve(db: sqlite3.Connection, node: Node) -> Node:
    """Replace the names of definitions by what they stand for. Raises DimensionError for an unknown or circular one."""
    return _Resolver(db).node(node, ())


@dataclass
class _Resolver:
    db: sqlite3.Connection
    looked_up: int = 0

    def node(self, node: Node, inside: tuple[str, ...]) -> Node:  # noqa: PLR0911  one case a kind of node
        match node:
            case Definition(name): return self.definition("defname", name, inside)
            case Condition(name, op, values) if name in FIELDS and FIELDS[name].type == "definition":
                if NEGATIVE.get(op, op) not in ("=", "in", "like"):
                    raise DimensionError(f"dimension '{name}' takes = or a list, not '{op}'")
                items = tuple(d for v in values for d in self.definitions(FIELDS[name].column, v.text, inside))
                found: Node = items[0] if len(items) == 1 else Or(items) if items else NO_FILE
                return Not(found) if op in NEGATIVE else found
            case Relative(kind, query): return Relative(kind, self.node(query, inside))
            case Not(item): return Not(self.node(item, inside))
            case And(items): return And(tuple(self.node(i, inside) for i in items))
            case Or(items): return Or(tuple(self.node(i, inside) for i in items))
            case Sets(first, rest):
                return Sets(self.node(first, inside), tuple((op, self.node(i, inside)) for op, i in rest))
            case With(query): return With(self.node(query, inside), node.limit, node.offset, node.stride,
                                          node.availability)
            case _: return node

    def definitions(self, column: str, key: str, inside: tuple[str, ...]) -> list[Node]:
        """One definition, or with a wildcard all whose name fits."""
        if not re.search(r"[%?]", key):
            return [self.definition(column, key, inside)]
        rows = self.db.execute(f"SELECT {column} FROM definitions WHERE {column} GLOB ? ORDER BY definition_id "
                               f"LIMIT {MAX_DEFINITIONS + 1}", (glob(key),)).fetchall()
        return [self.definition(column, r[0], inside) for r in rows]

    def definition(self, column: str, key: str, inside: tuple[str, ...]) -> Node:
        self.looked_up += 1
        if self.looked_up > MAX_DEFINITIONS or len(inside) > MAX_DEFINITION_DEPTH:
            raise DimensionError(f"the query uses too many definitions (more than {MAX_DEFINITIONS}, "
                                 f"or nested over {MAX_DEFINITION_DEPTH} deep)")
        row = self.db.execute(f"SELECT defname, dimensions FROM definitions WHERE {column} = ?", (key,)).fetchone()
        if row is None:
            raise DimensionError(f"Definition '{key}' not found")
        if row["defname"] in inside:
            raise DimensionError(f"definition '{row['defname']}' refers to itself: {' -> '.join(inside)}")
        return Definition(row["defname"], self.node(parse(row["dimensions"]), (*inside, row["defname"])))


@dataclass(frozen=True)
class Compiled:
    """`select("f.file_name")` is a query over the files meant, in order of file_id, for `args`."""

    steps: tuple[str, ...]
    where: str
    args: dict[str, object]

    def select(self, columns: str, order: str = " ORDER BY f.file_id") -> str:
        steps = "WITH " + ",\n".join(self.steps) + "\n" if self.steps else ""
        return f"{steps}SELECT {columns} FROM files f WHERE {self.where}{order}"


def compile_dims(db: sqlite3.Connection, text: str) -> Compiled:
    """Parse, look up and compile dimensions. Raises DimensionError."""
    tree = resolve(db, parse(text))
    _check_relatives(tree)
    compiler = _Compiler(db)
    where = compiler.scope(tree)
    return Compiled(tuple(compiler.steps), where, compiler.args)


def walk(node: Node, into_relatives: bool = True) -> Iterator[Node]:
    """The node and all below it; sub-queries of relatives only if asked."""
    yield node
    children: tuple[Node | None, ...] = ()
    match node:
        case Relative(_, query): children = (query,) if into_relatives else ()
        case Definition(_, inner): children = (inner,)
        case With(query): children = (query,)
        case Not(item): children = (item,)
        case And(items) | Or(items): children = items
        case Sets(first, rest): children = (first, *(item for _, item in rest))
    for child in children:
        if child is not None:
            yield from walk(child, into_relatives)


def _check_relatives(tree: Node) -> None:
    kinds = [n.kind for n in walk(tree) if isinstance(n, Relative)]
    far = [k for k in kinds if k in ("isancestorof", "isdescendantof")]
    if len(far) > 1 or (far and len(kinds) > len(far)):
        raise DimensionError("Query forbidden: at most one isancestorof: or isdescendantof:, "
                             "and none beside isparentof: or ischildof:")


def availability_sql(tree: Node) -> str:
    """What all files of this scope must be. Raises DimensionError for an unknown availability."""
    named = {v for n in walk(tree, into_relatives=False) if isinstance(n, With) for v in n.availability}
    named |= {v for n in walk(tree, into_relatives=False) if isinstance(n, Availability) for v in n.values}
    if unknown := named - {"physical", "virtual", "anylocation", "good", "bad", "any"}:
        raise DimensionError(f"unknown availability '{min(unknown)}': there are physical, virtual, anylocation, good, "
                             "bad and any")
    if "any" in named:
        return "1"
    located = {v for v in named if v in ("physical", "virtual", "anylocation")} or {"physical"}
    parts = ["f.retired_date IS NULL"]
    if len(located) == 1 and "anylocation" not in located:
        parts.append(f"f.located = {int('physical' in located)}")
    if not {"good", "bad"} <= named:
        parts.append("f.content_status = 'bad'" if "bad" in named else "f.content_status = 'good'")
    return " AND ".join(parts)


@dataclass
class _Compiler:
    db: sqlite3.Connection
    args: dict[str, object] = field(default_factory=dict)
    steps: list[str] = field(default_factory=list)
    available: str = ""

    def bind(self, value: object) -> str:
        name = f"v{len(self.args)}"
        self.args[name] = value
        return f":{name}"

    def step(self, select: str) -> str:
        """Name a selection of file ids; later parts may use it by its name."""
        name = f"s{len(self.steps) + 1}"
        self.steps.append(f"{name} AS ({select})")
        return name

    def scope(self, tree: Node) -> str:
        outer, self.available = self.available, availability_sql(tree)
        where = f"{self.node(tree, 0)} AND {self.available}"
        self.available = outer
        return where

    def node(self, node: Node, depth: int) -> str:  # noqa: PLR0911  one case a kind of node
        if depth > MAX_SQL_DEPTH:
            return self.split_off(self.node(node, 0))
        match node:
            case Condition(): return self.row([node])
            case Availability(): return "1"
            case Definition(_, query) if query is not None: return self.node(query, depth)
            case Relative(kind, query): return self.relative(kind, query)
            case Not(item): return f"({self.node(item, depth + 1)}) IS NOT TRUE"
            case And(items): return self.conjunction(items, depth + 1)
            case Or(items): return any_of([self.node(i, depth + 1) for i in items])
            case Sets(first, rest): return self.sets(first, rest, depth)
            case With(query): return self.cut(node) if node.cuts else self.node(query, depth)
        raise AssertionError(node)      # a definition that was never looked up

    def conjunction(self, items: tuple[Node, ...], depth: int) -> str:
        rows = same_rows([i for i in items if isinstance(i, Condition)], self.field)
        return all_of([self.row(r) for r in rows] + [
            self.node(i, depth) for i in items if not isinstance(i, Condition)])

    def sets(self, first: Node, rest: tuple[tuple[str, Node], ...], depth: int) -> str:
        """From left to right; equal operators in a row are one expression, a long chain of changing ones is split."""
        sql, nested = self.node(first, depth + 1), depth + 1
        for op, pairs in groupby(rest, key=lambda pair: pair[0]):
            parts = [self.node(item, depth + 2) for _, item in pairs]
            right = all_of(parts) if op == "intersect" else any_of(parts)
            sql = f"({sql} OR {right})" if op == "union" else (
                f"({sql} AND {right})" if op == "intersect" else f"({sql} AND ({right}) IS NOT TRUE)")
            nested += 1
            if nested > MAX_SQL_DEPTH:
                sql, nested = self.split_off(sql), depth + 1
        return sql

    def split_off(self, sql: str) -> str:
        """Make a deep condition a step of its own; MATERIALIZED, or SQLite would put it back in place."""
        name = f"s{len(self.steps) + 1}"
        self.steps.append(f"{name} AS MATERIALIZED (SELECT f.file_id FROM files f WHERE {sql})")
        return f"f.file_id IN {name}"

    def cut(self, node: With) -> str:
        chosen = f"FROM files f WHERE {self.node(node.query, 1)} AND {self.available}"
        limit = -1 if node.limit is None else node.limit
        if node.stride == 1:
            sql = f"SELECT f.file_id {chosen} ORDER BY f.file_id LIMIT {limit} OFFSET {node.offset}"
        else:
            numbered = f"SELECT f.file_id, row_number() OVER (ORDER BY f.file_id) - 1 - {node.offset} AS n {chosen}"
            sql = (f"SELECT file_id FROM ({numbered}) WHERE n >= 0 AND n % {node.stride} = 0 "
                   f"ORDER BY file_id LIMIT {limit}")
        return f"f.file_id IN {self.step(sql)}"

    def relative(self, kind: str, query: Node) -> str:
        inner = self.step(f"SELECT f.file_id FROM files f WHERE {self.scope(query)}")
        near, far = ("child_id", "parent_id") if kind in ("isparentof", "isancestorof") else ("parent_id", "child_id")
        direct = f"SELECT {far} FROM parentage WHERE {near} IN {inner}"
        if kind in ("isparentof", "ischildof"):
            return f"f.file_id IN ({direct})"
        name = f"line{len(self.steps)}"
        self.steps.append(f"{name}(file_id) AS ({direct} UNION SELECT {far} FROM parentage "
                          f"JOIN {name} ON {near} = {name}.file_id)")
        return f"f.file_id IN {name}"

    def field(self, name: str) -> Field:
        """Where a dimension's value is. Raises DimensionError for one that is neither built in nor a parameter."""
        if name in FIELDS:
            return FIELDS[name]
        row = self.db.execute("SELECT param_id, data_type FROM parameters WHERE name = ?", (name,)).fetchone()
        if row is None:
            raise DimensionError(f"Unknown dimension '{name}'")
        kind = {"string": "text", "int": "int", "float": "float"}[row["data_type"]]
        return Field("v.value", kind, "parameter", f"parameter {row['param_id']}")

    def row(self, conditions: list[Condition]) -> str:
        """Conditions that must hold on one row of one relation (or on the file itself)."""
        fields = [self.field(c.name) for c in conditions]
        parts = [self.one(f, c) for f, c in zip(fields, conditions, strict=True)]
        name = fields[0].relation
        if name is None:
            return " AND ".join(parts)
        if name.startswith("parameter "):
            return (f"f.file_id IN (SELECT v.file_id FROM file_parameters v WHERE v.param_id = {name.split()[1]} AND "
                    f"{' AND '.join(parts)})")
        relation, used = RELATIONS[name], " ".join(parts)
        joins = [join for alias, join in relation.joins if f"{alias}." in used or (alias == "s" and "df." in used)]
        select = " ".join([relation.select, *joins, "WHERE", " AND ".join(parts)])
        if name == "deliveries" and (waiting := self.not_handed_out(fields, conditions)):
            select = f"{select} UNION ALL {waiting}"
        return f"f.{relation.key} IN ({select})"

    def one(self, where: Field, condition: Condition) -> str:
        if where.type != "newest":
            return condition_sql(where.column, where.type, condition, self.bind)
        newest = "(SELECT max(n.version) FROM snapshots n WHERE n.definition_id = s.definition_id AND n.ready)"
        return f"{condition_sql(where.column, 'text', condition, self.bind)} AND s.version = {newest}"

    def not_handed_out(self, fields: list[Field], conditions: list[Condition]) -> str | None:
        """Files a project has not delivered yet count as deliveries of status `unconsumed`, where that is asked for."""
        pairs = list(zip(fields, conditions, strict=True))
        statuses = [c for f, c in pairs if f.column == "d.status"]
        if not statuses or any(f.column[:2] not in ("d.", "p.") or f.column == "d.process_id" for f in fields):
            return None
        asked = " AND ".join(condition_sql("'unconsumed'", "text", c, self.bind) for c in statuses)
        if not self.db.execute(f"SELECT {asked}", self.args).fetchone()[0]:
            return None
        of_project = [self.one(f, c) for f, c in pairs if f.column != "d.status"]
        return " AND ".join(["SELECT sf.file_id FROM projects p JOIN snapshot_files sf ON sf.snapshot_id = "
                             "p.snapshot_id WHERE sf.number >= p.next_number", *of_project])


def same_rows(conditions: list[Condition], field_of: Callable[[str], Field]) -> list[list[Condition]]:
    """Group the conditions of an and-group by the row they are about (see *Same row* above)."""
    groups: dict[object, list[list[Condition]]] = {}
    for cond in conditions:
        rows = groups.setdefault(field_of(cond.name).relation or object(), [[]])
        if cond.op in EXACT and any(c.name == cond.name and c.op in EXACT for c in rows[-1]):
            rows.append([])
        rows[-1].append(cond)
    return [row for rows in groups.values() for row in rows]
