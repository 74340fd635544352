"""SAM's dimensions language: text to a typed tree, and back to text. No database here; `compile.py` gives it meaning.

The grammar is `dims.lark`, after the SAM server's own. Kinder than that server in one point: an unquoted value such as
`20240506-1` is a range only where the dimension is a number or a date, else it is a word.
"""

import re
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from lark import Lark, Token, Transformer, UnexpectedCharacters, UnexpectedEOF, UnexpectedInput, UnexpectedToken, v_args
from lark.exceptions import VisitError

from .errors import DimensionError

MAX_NESTING = 100       # of parentheses; well inside Python's recursion limit
MAX_LENGTH = 8_000_000  # characters; ten thousand names of 200 characters are two million
EXACT = ("=", "in", "like", "range")    # operators that, repeated for a dimension, ask for another row


@dataclass(frozen=True)
class Value:
    text: str
    quoted: bool = False

    def __str__(self) -> str:
        quote = '"' if "'" in self.text else "'"
        return f"{quote}{self.text}{quote}" if self.quoted else self.text


@dataclass(frozen=True)
class Condition:
    """`name op values`. op: = != < <= > >= like, "not like", in, "not in", range, "not range" (two values)."""

    name: str
    op: str
    values: tuple[Value, ...]

    def __str__(self) -> str:
        if self.op.endswith("range"):
            return f"{self.name} {'!= ' if self.op != 'range' else ''}{self.values[0]} - {self.values[1]}"
        values = ", ".join(map(str, self.values))
        return f"{self.name} {self.op} {f'({values})' if len(self.values) > 1 else values}"


@dataclass(frozen=True)
class Availability:
    values: tuple[str, ...]

    def __str__(self) -> str:
        return f"availability: {','.join(self.values)}"


@dataclass(frozen=True)
class Definition:
    """The files of a dataset definition; `query` is filled in when its name is looked up."""

    name: str
    query: "Node | None" = None

    def __str__(self) -> str:
        return f"defname: {Value(self.name, quoted=True)}"


@dataclass(frozen=True)
class Relative:
    """kind: isparentof, ischildof, isancestorof, isdescendantof."""

    kind: str
    query: "Node"

    def __str__(self) -> str:
        return f"{self.kind}: ({self.query})"


@dataclass(frozen=True)
class Not:
    item: "Node"

    def __str__(self) -> str:
        return f"not ({self.item})"


@dataclass(frozen=True)
class And:
    items: tuple["Node", ...]

    def __str__(self) -> str:
        return " and ".join(_wrapped(i) for i in self.items)


@dataclass(frozen=True)
class Or:
    items: tuple["Node", ...]

    def __str__(self) -> str:
        return " or ".join(_wrapped(i) for i in self.items)


@dataclass(frozen=True)
class Sets:
    """first, then minus, intersect or union of each of the rest, from left to right."""

    first: "Node"
    rest: tuple[tuple[str, "Node"], ...]

    def __str__(self) -> str:
        return " ".join([_wrapped(self.first), *(f"{op} {_wrapped(item)}" for op, item in self.rest)])


@dataclass(frozen=True)
class With:
    """One group of options, applied to all of `query`: first the stride and its offset, then offset, then limit."""

    query: "Node"
    limit: int | None = None
    offset: int = 0
    stride: int = 1
    availability: tuple[str, ...] = ()

    @property
    def cuts(self) -> bool:
        return self.limit is not None or self.offset > 0 or self.stride > 1

    def __str__(self) -> str:
        options = [f"limit {self.limit}"] if self.limit is not None else []
        options += [f"stride {self.stride}"] if self.stride > 1 else []
        options += [f"offset {self.offset}"] if self.offset else []
        options += [f"availability {','.join(self.availability)}"] if self.availability else []
        return f"{_wrapped(self.query)} with {' '.join(options)}"


Node = Condition | Availability | Definition | Relative | Not | And | Or | Sets | With


def _wrapped(node: Node) -> str:
    return str(node) if isinstance(node, Condition | Availability | Definition | Relative | Not) else f"({node})"


def _unquoted(text: str) -> Value:
    return Value(text[1:-1], quoted=True) if text[0] in "'\"" else Value(text)


def _alone(node: Node) -> Node:
    if isinstance(node, Availability):
        raise DimensionError(f"'{node}' can't stand alone or under 'not': it needs a neighbouring 'and', "
                             "or write 'with availability ...'")
    return node


@v_args(inline=True)
class _ToTree(Transformer[Token, Any]):
    """Builds the tree while the parser runs."""

    def start(self, query: Node) -> Node: return _alone(query)
    def value(self, token: str) -> Value: return _unquoted(str(token))
    def range(self, low: Value, _: str, high: Value) -> tuple[str, Value, Value]: return "range", low, high
    def operator(self, *op: str | None) -> str: return " ".join(op[0].lower().split()) if op and op[0] else "="
    def parenthesis(self, query: Node) -> Node: return query
    def availability(self, values: tuple[Value, ...]) -> Node: return Availability(_option("availability", values))
    def defname(self, name: Value) -> Node: return Definition(name.text)
    def relative(self, kind: str, query: Node) -> Node: return Relative(kind.rstrip(": \t\r\n").lower(), _alone(query))
    def negation(self, item: Node) -> Node: return Not(_alone(item))
    def or_(self, *items: Node) -> Node: return Or(tuple(_alone(i) for i in items))
    def option(self, name: str, values: tuple[Value, ...]) -> tuple[str, tuple[Value, ...]]: return name.lower(), values

    def values(self, token: Value | str) -> tuple[Value, ...]:
        if isinstance(token, Value):
            return (token,)
        return tuple(_unquoted(t) for t in re.findall(r"'[^']*'|\"[^\"]*\"|[^\s,'\"]+", token))

    def condition(self, name: str, op: str, argument: tuple[Any, ...]) -> Node:
        is_range = argument[0] == "range"
        if op not in ("=", "!=", "in", "not in") and (is_range or len(argument) > 1):
            raise DimensionError(f"'{name} {op}' takes one value, not a list or a range")
        if is_range:
            return Condition(name.lower(), "range" if op in ("=", "in") else "not range", argument[1:])
        return Condition(name.lower(), op, argument)

    def and_(self, *items: Node) -> Node:
        """One and-group, with that of inner parentheses, unless it repeats a dimension: then it is of other rows."""
        flat: list[Node] = []
        named: set[str] = set()
        for item in items:
            inner = item.items if isinstance(item, And) else (item,)
            names = {i.name for i in inner if isinstance(i, Condition) and i.op in EXACT}
            apart = isinstance(item, And) and not names.isdisjoint(named)
            flat.extend((item,) if apart else inner)
            named.update(() if apart else names)
        return And(tuple(flat))

    def sets(self, first: Node, *rest: Any) -> Node:
        pairs = tuple((str(op).lower(), _alone(item)) for op, item in zip(rest[::2], rest[1::2], strict=True))
        return Sets(_alone(first), pairs)

    def with_(self, query: Node, *options: tuple[str, tuple[Value, ...]]) -> Node:
        chosen: dict[str, Any] = {}
        for name, values in options:
            if name in chosen:
                raise DimensionError(f"option '{name}' is given twice in one 'with'")
            chosen[name] = _option(name, values)
        return With(_alone(query), **chosen)


def _option(name: str, values: tuple[Value, ...]) -> Any:
    if name == "availability":
        return tuple(v.text.lower() for v in values)
    if name not in ("limit", "offset", "stride"):
        raise DimensionError(f"unknown option '{name}' after 'with': there are limit, offset, stride and availability")
    text = values[0].text
    if len(values) > 1 or not re.fullmatch(r"[0-9]{1,18}", text) or (name == "stride" and int(text) == 0):
        raise DimensionError(f"'with {name}' takes a whole number, not '{', '.join(v.text for v in values)}'")
    return int(text)


_PARSER = Lark((Path(__file__).parent / "dims.lark").read_text(), parser="lalr", transformer=_ToTree())

_EXPECTED = {
    "NAME": "a dimension name", "WORD": "a value", "QUOTED": "a quoted value", "LIST": "a list", "_AND": "'and'",
    "_OR": "'or'", "_NOT": "'not'", "_WITH": "'with'", "SETOP": "'minus', 'intersect', 'union'", "LPAR": "'('",
    "RPAR": "')'", "_AVAILABILITY": "'availability:'", "_DEFNAME": "'defname:'", "RELATIVE": "'isparentof:' etc.",
    "IN": "'in'", "NOT_IN": "'not in'", "LIKE": "'like'", "NOT_LIKE": "'not like'", "COMPARISON": "= != < <= > >=",
    "DASH": "'-'", "$END": "the end",
}


def parse(text: str) -> Node:
    """Parse dimensions. Raises DimensionError with the place, the line with a caret, and what was expected."""
    if len(text) > MAX_LENGTH:
        raise DimensionError(f"the query has {len(text)} characters, more than the {MAX_LENGTH} allowed")
    return _parse_once(text) if len(text) < 4096 else _parse(text)


def _parse(text: str) -> Node:
    bare = re.sub(r"'[^']*'|\"[^\"]*\"", "", text)
    if odd := re.search(r"[^\x00-\x7f]", bare):
        raise DimensionError(f"{odd.group()!r} is not ASCII: put it in quotes")
    if not text.strip():
        raise DimensionError("the query is empty")
    _check_nesting(bare)
    try:
        tree: Node = _PARSER.parse(text)  # type: ignore[assignment]
    except UnexpectedInput as error:
        raise DimensionError(_explain(text, error)) from None
    except VisitError as error:
        raise error.orig_exc from None
    return tree


_parse_once = lru_cache(maxsize=512)(_parse)


def _check_nesting(bare: str) -> None:
    depth = nots = 0
    for mark in re.findall(r"[()]|\bnot\b|[\w.%-]+", bare, re.IGNORECASE):
        depth += {"(": 1, ")": -1}.get(mark, 0)
        nots = nots + 1 if mark.lower() == "not" or (mark == "(" and nots) else 0
        if depth > MAX_NESTING or nots > MAX_NESTING:
            raise DimensionError(f"the query is nested more than {MAX_NESTING} deep")


def _expected(text: str) -> set[str]:
    """What could stand where the text goes wrong; the error itself names tokens that could not."""
    parser = _PARSER.parse_interactive(text)
    with suppress(UnexpectedInput):
        parser.exhaust_lexer()
    accepted: set[str] = parser.accepts()  # type: ignore[no-untyped-call]
    return accepted


def _explain(text: str, error: UnexpectedInput) -> str:
    line, column = error.line, error.column
    if isinstance(error, UnexpectedCharacters):
        found = repr(error.char)
    elif isinstance(error, UnexpectedEOF) or (isinstance(error, UnexpectedToken) and error.token.type == "$END"):
        lines = text.splitlines()
        line, column, found = len(lines), len(lines[-1]) + 1, "the end of the query"
    else:
        found = repr(str(getattr(error, "token", "?")))
    lines = text.splitlines() or [""]
    shown, caret = lines[line - 1], column - 1
    start = max(0, caret - 60)
    wanted = ", ".join(dict.fromkeys(_EXPECTED.get(t, t) for t in sorted(_expected(text))))
    hint = "; put parentheses round what stands before 'with'" if found.strip("'\"")[:5] in (
        "minus", "inter", "union") else ""
    return (f"syntax error at line {line}, column {column}: {found} where {wanted} was expected{hint}\n"
            f"{shown[start:start + 120]}\n{' ' * (caret - start)}^")
