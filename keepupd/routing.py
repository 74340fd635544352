"""Which dataset definitions an output goes to, and the dimensions each of them has in SAM.

A route is a definition's name and, where metadata decides, the values that lead there: a real SAM definition with
dimensions over metadata, never a list of files. What SAM shows in it needs no bookkeeping of ours.
"""

import re
from collections.abc import Iterable
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from keepupd.checking import Model, wrong
from keepupd.fields import Definition, MetadataKey, MetadataValue

MOST_VALUES = 1000  # of one key: a definition is read by people too
PLAIN = re.compile(r"[A-Za-z0-9 ._+:/@,=#-]{1,200}")  # no quotes, which have no escape, and no wildcards (% and ?)


def _as_list(values: object) -> object:
    return values if isinstance(values, list) else [values]


def _plain_value(value: object) -> object:
    if isinstance(value, str) and (not PLAIN.fullmatch(value) or value != value.strip()):
        raise wrong(f"must be plain text without quotes or wildcards, so that it can stand in a query, not {value!r}")
    return value


RouteValues = Annotated[
    list[Annotated[MetadataValue, AfterValidator(_plain_value)]],
    BeforeValidator(_as_list),
    Field(min_length=1, max_length=MOST_VALUES),
]


def _schema(schema: dict[str, Any]) -> None:
    """A route may be written as its name alone."""
    whole = dict(schema)
    schema.clear()
    schema["anyOf"] = [{"type": "string"}, whole]


class Route(Model, json_schema_extra=_schema):
    """A definition that outputs go to: all of them, or those whose metadata has one of the values."""

    name: Definition = Field(
        description="Name of the definition, such as the next campaign's input (default: <campaign>_output)"
    )
    where: dict[MetadataKey, RouteValues] = Field(
        default={}, description="Only outputs whose metadata has this value, or one of these: Category.name: [values]"
    )

    @model_validator(mode="before")
    @classmethod
    def _name_alone(cls, given: object) -> object:
        return {"name": given} if isinstance(given, str) else given


def quoted(value: object) -> str:
    """A value as it stands in dimensions; `value` is plain, as every value of a campaign file is checked to be."""
    if isinstance(value, int) and value >= 0:
        return str(value)
    text = str(value)
    if not PLAIN.fullmatch(text):
        raise ValueError(f"{text!r} can't be written into a query")
    return f"'{text}'"


def clause(key: str, values: Iterable[object]) -> str:
    """`DUNE.sample '3'`, or `DUNE.sample in ('1A', '1B')`."""
    listed = [quoted(value) for value in values]
    return f"{key} {listed[0]}" if len(listed) == 1 else f"{key} in ({', '.join(listed)})"


def either(parts: Iterable[str]) -> str:
    """The parts, each once, joined by `or`; in brackets where there are several."""
    each = list(dict.fromkeys(parts))
    return each[0] if len(each) == 1 else "(" + " or ".join(f"({part})" for part in each) + ")"
