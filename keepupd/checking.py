"""Check what a YAML file says against a pydantic model, and tell every fault in plain words, with its line.

A fault reads `file:line: key.path: words; perhaps 'x'`. Models and types that campaign.py and config.py share are here.
"""

import re
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails, PydanticCustomError

from keepupd.yamlfile import Place, YamlFile


class Model(BaseModel):
    """Frozen, and closed: a key it does not know is a fault, never ignored."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


M = TypeVar("M", bound=Model)
PATTERN_WORDS: dict[str, str] = {}


def text(pattern: str, words: str) -> Any:
    """A field's pattern, with the words an operator reads when a value does not match it."""
    PATTERN_WORDS[pattern] = words
    return Field(pattern=pattern)


def wrong(words: str, *at: str | int) -> PydanticCustomError:
    """The fault a validator raises; `at` leads from its field to the place inside it."""
    return PydanticCustomError("keepupd", "{words}", {"words": words, "at": at})


def check(model: type[M], file: YamlFile, place: Place = ()) -> tuple[M | None, list[str]]:
    """The model of what stands at `place` in the file, or None and all its faults."""
    value: Any = file.value
    for part in place:
        value = value[part]
    try:
        return model.model_validate(value, context={"folder": file.path.parent}), []
    except ValidationError as error:
        found = {_fault(model, file, place, value, one) for one in error.errors(include_url=False)}
        return None, [words for _, words in sorted(found)]


def _fault(model: type[Model], file: YamlFile, start: Place, value: Any, error: ErrorDetails) -> tuple[int, str]:
    ctx: Mapping[str, Any] = error.get("ctx", {})
    loc = tuple(part for part in error["loc"] if part != "[key]")
    place = (*start, *loc, *ctx.get("at", ()))
    words = _words(error, ctx, model, loc)
    return file.line(place), file.fault(place, words)


def _words(error: ErrorDetails, ctx: Mapping[str, Any], model: type[Model], loc: Place) -> str:
    given = error["input"]
    match error["type"]:
        case "extra_forbidden":
            words = "unknown key" + perhaps(str(loc[-1]), fields_at(model, loc[:-1]))
        case "missing":
            words = f"is missing: {description_at(model, loc)}"
        case "literal_error":
            words = f"{_short(given)} is not known" + perhaps(
                str(given), re.findall(r"'([^']*)'", str(ctx["expected"]))
            )
        case "string_pattern_mismatch":
            words = f"{_short(given)} {PATTERN_WORDS[ctx['pattern']]}"
        case "keepupd":
            words = str(ctx["words"])
        case kind:
            plain = next((words for start, words in PLAIN.items() if kind.startswith(start)), error["msg"])
            words = plain.format(**ctx) + ("" if given is None else f", not {_short(given)}")
    return words


PLAIN = {  # pydantic's types of error, by their beginning
    "greater_than_equal": "must be at least {ge:g}",
    "greater_than": "must be more than {gt:g}",
    "less_than_equal": "must be at most {le:g}",
    "finite_number": "must be a finite number",
    "string_type": "must be text (put it in quotes)",
    "int_": "must be a whole number",
    "float_": "must be a number",
    "bool_": "must be true or false",
    "list_": "must be a list (`- item` lines, or [a, b])",
    "tuple_": "must be a list (`- item` lines, or [a, b])",
    "dict_": "must be keys and values",
    "model_": "must be keys and values",
    "date_": "must be a date like 2026-12-31",
    "path_": "must be a path",
    "too_short": "must have at least {min_length} item(s)",
}


def _short(value: object) -> str:
    words = repr(value)
    return words if len(words) <= 60 else words[:57] + "..."


def perhaps(word: str, known: list[str]) -> str:
    """`; perhaps 'x'`, or all that is known where nothing is close."""
    close = get_close_matches(word, known, 1, cutoff=0.6)
    return f"; perhaps {close[0]!r}" if close else f"; there are {', '.join(sorted(known))}"


# --- what a model says of a place ---------------------------------------------------------------------------------


def fields_at(model: type[Model], loc: Place) -> list[str]:
    found = model_at(model, loc)
    return list(found.model_fields) if found else []


def description_at(model: type[Model], loc: Place) -> str:
    found = model_at(model, loc[:-1])
    return (found.model_fields[str(loc[-1])].description or "") if found else ""


def model_at(model: type[Model], loc: Place) -> type[Model] | None:
    """The model of what is at `loc`; list indices lead nowhere deeper."""
    found: type[Model] | None = model
    for part in loc:
        if found and isinstance(part, str) and part in found.model_fields:
            found = _model_in(found.model_fields[part].annotation)
    return found


def _model_in(annotation: object) -> type[Model] | None:
    if isinstance(annotation, type) and issubclass(annotation, Model):
        return annotation
    return next((found for arg in get_args(annotation) if (found := _model_in(arg))), None)
