"""Say whether an output will match a campaign's input query, as far as that is known before any file exists.

Three answers: yes, no, and None where the query asks for what only the file will tell. SAM alone evaluates queries of
real files; this is for the checks between campaigns and for the picture of the flow.
"""

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

GRAMMAR = r"""
start: sets (_WITH (NAME values)+)*
?sets: or_ (SETOP or_)*
?or_: and_ (_OR and_)*
?and_: not_ (_AND not_)*
?not_: _NOT not_                                 -> negation
     | "(" sets (_WITH (NAME values)+)* ")"         -> inner
     | _AVAILABILITY values                      -> unknown
     | _DEFNAME value                            -> defname
     | RELATIVE "(" sets (_WITH (NAME values)+)* ")" -> relative
     | NAME OPERATOR? values                     -> condition
     | NAME OPERATOR? "(" values ")"             -> condition
values: value ("," value)*
?value: WORD | QUOTED
_AND.3: /and(?![\w.%?+-])/i
_OR.3: /or(?![\w.%?+-])/i
_NOT.3: /not(?![\w.%?+-])/i
_WITH.3: /with(?![\w.%?+-])/i
SETOP.3: /(?:minus|intersect|union)(?![\w.%?+-])/i
OPERATOR.4: /<=|>=|!=|<|>|=|(?:not\s+)?(?:in|like)(?![\w.%?+-])/i
_AVAILABILITY.3: /availability\s*:/i
_DEFNAME.3: /defname\s*:/i
RELATIVE.3: /(?:isparentof|ischildof|isancestorof|isdescendantof)\s*:/i
NAME.2: /(?!(?:and|or|not|with|minus|intersect|union)(?![\w.+-]))[A-Za-z][A-Za-z0-9_.+-]*(?!\s*:)/i
WORD: /[A-Za-z0-9_.%?+-]+/
QUOTED: /'[^']*'|"[^"]*"/
%ignore /\s+/
"""


@dataclass(frozen=True)
class Match:
    """`value`: yes, no, or None for not known. `hit`: something the query asks for by name is known to be there."""

    value: bool | None
    hit: bool = False

    @property
    def likely(self) -> bool:
        return self.value is True or (self.value is None and self.hit)


UNKNOWN = Match(None)
INHERITED = object()  # as a value of what is known: taken over from the input, and so perhaps what a query asks for
Condition = Callable[[str, str, list[str]], Match]


def matches(query: str, known: Mapping[str, object], mine: Collection[str], others: Collection[str]) -> Match:
    """Whether an output matches `query`.

    known: its metadata, keys in lower case. mine: definitions it goes to. others: definitions that it does not go to;
    of all others nothing is known. A query that is none matches nothing here: SAM refuses it, with reasons.
    """
    tree = parsed(query)
    return UNKNOWN if tree is None else evaluate(tree, asks_known(known), mine, others)


def parsed(query: str) -> Any:
    """The query's tree, with places in the text; None where it is no query."""
    import lark

    try:
        return _parser().parse(query)
    except lark.exceptions.LarkError:
        return None


def asks_known(known: Mapping[str, object]) -> Condition:
    """How a condition is answered from metadata, whose keys are in lower case."""
    return lambda name, operator, values: _condition(known, name, operator, values)


def definitions_in(query: str) -> list[str]:
    """The definitions that a query refers to."""
    return [name.strip("'\"") for name in re.findall(r"defname\s*:\s*('[^']*'|\"[^\"]*\"|[^\s()]+)", query, re.I)]


@cache
def _parser() -> Any:
    import lark

    return lark.Lark(GRAMMAR, parser="lalr", propagate_positions=True)


def evaluate(tree: Any, condition: Condition, mine: Collection[str], others: Collection[str]) -> Match:
    inner = [evaluate(part, condition, mine, others) for part in tree.children if hasattr(part, "children")]
    match str(tree.data):
        case "start" | "inner":
            found = inner[0]
        case "and_":
            found = _all(inner)
        case "or_":
            found = _any(inner)
        case "negation":
            found = _not(inner[0])
        case "sets":
            found = _sets(inner, [str(part).lower() for part in tree.children if not hasattr(part, "children")])
        case "defname":
            name = _plain(tree.children[0])
            found = Match(True, True) if name in mine else Match(False) if name in others else UNKNOWN
        case "condition":
            *words, values = tree.children
            operator = " ".join(words[1].lower().split()) if len(words) > 1 else "="
            found = condition(words[0].lower(), operator, [_plain(value) for value in values.children])
        case _:
            found = UNKNOWN
    return found


def _sets(parts: list[Match], operators: list[str]) -> Match:
    found = parts[0]
    for operator, part in zip(operators, parts[1:], strict=True):
        found = (
            _any([found, part])
            if operator == "union"
            else _all([found, part if operator == "intersect" else _not(part)])
        )
    return found


def _all(parts: list[Match]) -> Match:
    values = [part.value for part in parts]
    value = False if False in values else None if None in values else True
    return Match(value, any(part.hit for part in parts))


def _any(parts: list[Match]) -> Match:
    values = [part.value for part in parts]
    value = True if True in values else None if None in values else False
    return Match(value, any(part.hit for part in parts if part.value is not False))


def _not(part: Match) -> Match:
    return Match(None if part.value is None else not part.value)


def _condition(known: Mapping[str, object], name: str, operator: str, values: list[str]) -> Match:
    if known.get(name) is INHERITED:
        return Match(None, True)
    if name not in known or operator in ("<", ">", "<=", ">="):
        return UNKNOWN
    patterns = [re.escape(value).replace("%", ".*").replace(r"\?", ".") for value in values]
    found = any(re.fullmatch(pattern, str(known[name]), re.DOTALL) for pattern in patterns)
    if operator in ("!=", "not in", "not like"):
        return Match(not found)
    return Match(found, found)


def _plain(word: str) -> str:
    return word[1:-1] if word[0] in "'\"" else str(word)
