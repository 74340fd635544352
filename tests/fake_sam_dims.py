"""The dimensions FakeSam understands: what keepupd and its tests write, evaluated over plain sets by a hand parser.

query = set ["with" option ...] ;  set = or {("minus"|"union"|"intersect") or} ;  or = and {"or" and}
and = term {"and" term} ;  term = "(" query ")" | defname: V | isparentof:(query) | ischildof:(query) | NAME [op] V
"""

import re
from collections.abc import Callable, Iterable
from typing import Any, Protocol

from keepupd.core.errors import SamRefused

TOKEN = re.compile(r"""\s*('[^']*'|"[^"]*"|<=|>=|!=|[(),=<>:]|[^\s(),=<>:'"]+)""")
COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "<": lambda a, b: a < b, ">": lambda a, b: a > b, "<=": lambda a, b: a <= b, ">=": lambda a, b: a >= b,
}  # fmt: skip
DELIVERY = ("project_name", "consumed_status", "consumer_process_id", "consumer_process_description")
Row = tuple[int, int]  # process id, file id


class World(Protocol):
    """What FakeSam offers the evaluator. Each returns ids of files, but `rows`, which returns deliveries."""

    def everything(self) -> set[int]: ...
    def is_dimension(self, name: str) -> bool: ...
    def definition_dims(self, name: str) -> str: ...
    def snapshot_files(self, matches: Callable[[Any], bool]) -> set[int]: ...
    def field_values(self, file_id: int, name: str) -> list[Any]: ...
    def rows(self, name: str, matches: Callable[[Any], bool]) -> set[Row]: ...
    def relatives(self, file_ids: Iterable[int], parents: bool) -> set[int]: ...
    def is_available(self, file_id: int, availability: set[str]) -> bool: ...


def evaluate(dims: str, world: World) -> list[int]:
    """Ids of the matching files, in order. Raises SamRefused of kind DimensionError."""
    return sorted(_Query(dims, world).files())


def refuse(words: str) -> SamRefused:
    return SamRefused(f"dimensions: {words}", "correct the query", kind="DimensionError", status=400)


class _Query:
    def __init__(self, dims: str, world: World, scope: "_Query | None" = None):
        self.world, self.tokens, self.at = world, _tokens(dims), 0
        self.availability: set[str] = scope.availability if scope else set()

    def files(self) -> set[int]:
        found = self.inside()
        return {file_id for file_id in found if self.world.is_available(file_id, self.availability)}

    def inside(self) -> set[int]:
        """The query's files before availability, which belongs to the outermost query."""
        found = self.query()
        if self.at < len(self.tokens):
            raise refuse(f"unexpected {self.tokens[self.at]!r}")
        return found

    def peek(self) -> str:
        return self.tokens[self.at] if self.at < len(self.tokens) else ""

    def take(self, wanted: str = "") -> str:
        token = self.peek()
        if not token or (wanted and token.lower() != wanted):
            raise refuse(f"expected {wanted or 'a value'}, found {token or 'the end'!r}")
        self.at += 1
        return token

    def accept(self, *words: str) -> str:
        return self.take().lower() if self.peek().lower() in words else ""

    def query(self) -> set[int]:
        found = self.set_()
        while self.accept("with"):
            option = self.take().lower()
            if option == "availability":
                self.availability |= {value.lower() for value in self.values()}
            elif option in ("limit", "offset"):
                count, ids = int(self.value()), sorted(found)
                found = set(ids[:count] if option == "limit" else ids[count:])
            else:
                raise refuse(f"no option {option!r}")
        return found

    def set_(self) -> set[int]:
        found = self.or_()
        while word := self.accept("minus", "union", "intersect"):
            other = self.or_()
            found = {"minus": found - other, "union": found | other, "intersect": found & other}[word]
        return found

    def or_(self) -> set[int]:
        found = self.and_()
        while self.accept("or"):
            found = found | self.and_()
        return found

    def and_(self) -> set[int]:
        """Terms about deliveries must hold for one and the same delivery: they are joined before they become files."""
        files: set[int] | None = None
        rows: set[Row] | None = None
        while True:
            if self.peek().lower() in DELIVERY:
                mine = self.world.rows(self.take().lower(), self.condition())
                rows = mine if rows is None else rows & mine
            else:
                term = self.term()
                files = term if files is None else files & term
            if not self.accept("and"):
                break
        given = None if rows is None else {file_id for _, file_id in rows}
        if files is None or given is None:
            return given if files is None and given is not None else files or set()
        return files & given

    def term(self) -> set[int]:
        if self.accept("not"):
            return self.world.everything() - self.term()
        if self.accept("("):
            found = self.query()
            self.take(")")
            return found
        name = self.take().lower()
        if self.accept(":"):
            return self.special(name)
        if name != "snapshot_for_project_name" and not self.world.is_dimension(name):
            raise refuse(f"unknown dimension {name!r}")
        matches = self.condition()
        if name == "snapshot_for_project_name":
            return self.world.snapshot_files(matches)
        return {i for i in self.world.everything() if any(matches(v) for v in self.world.field_values(i, name))}

    def special(self, name: str) -> set[int]:
        if name == "defname":
            return _Query(self.world.definition_dims(self.value()), self.world, scope=self).inside()
        if name not in ("isparentof", "ischildof"):
            raise refuse(f"unknown dimension {name!r}")
        self.take("(")
        outer, self.availability = self.availability, set()
        found = self.query()
        found = {i for i in found if self.world.is_available(i, self.availability)}
        self.availability = outer
        self.take(")")
        return self.world.relatives(found, parents=name == "isparentof")

    def condition(self) -> Callable[[Any], bool]:
        operator = self.accept("=", "!=", "<", ">", "<=", ">=", "in", "like") or "="
        values = self.values()
        if operator in COMPARE:
            return lambda value: _compares(operator, value, values[0])
        patterns = [_pattern(value) for value in values]
        return lambda value: any(p.fullmatch(str(value)) for p in patterns) != (operator == "!=")

    def values(self) -> list[str]:
        bracket = self.accept("(")
        values = [self.value()]
        while self.accept(","):
            values.append(self.value())
        if bracket:
            self.take(")")
        return values

    def value(self) -> str:
        token = self.take()
        return token[1:-1] if token[0] in "'\"" else token


def _tokens(dims: str) -> list[str]:
    tokens, at, dims = [], 0, dims.strip()
    while at < len(dims):
        if not (match := TOKEN.match(dims, at)):
            raise refuse(f"can't read {dims[at : at + 20]!r}")
        tokens.append(match[1])
        at = match.end()
    if not tokens:
        raise refuse("the query is empty")
    return tokens


def _pattern(value: str) -> re.Pattern[str]:
    """`%` is any text and `?` one character; all else, `_` too, is itself."""
    return re.compile("".join({"%": ".*", "?": "."}.get(c, re.escape(c)) for c in value), re.DOTALL)


def _compares(operator: str, value: Any, wanted: str) -> bool:
    if isinstance(value, int | float):
        return COMPARE[operator](value, float(wanted))
    return COMPARE[operator](str(value), wanted)
