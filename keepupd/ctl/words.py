"""Write values for people and shells: times, spans, names with anything in them. Imports nothing that takes time."""

import re
import shlex
from datetime import UTC, datetime, timedelta
from typing import Any

ESCAPE_SEQUENCE = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[@-Z\\-_])")


def plain(text: object) -> str:
    """One line that no terminal obeys: what is not printable becomes an escape such as \\n or \\x1b."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text))


def log_line(text: str, longest: int = 500) -> str:
    """A line of a log as it looked on its terminal: without colours, and only the last state of a progress bar."""
    shown = ESCAPE_SEQUENCE.sub("", text).rstrip().rpartition("\r")[2].expandtabs()
    return plain(shown if len(shown) <= longest else shown[:longest] + " ...")


def cut(text: object, width: int) -> str:
    """At most `width` characters; the end counts in a name, so the middle goes."""
    text = plain(text)
    if len(text) <= width:
        return text
    head = (width - 1) // 2
    return f"{text[:head]}~{text[len(text) - (width - 1 - head) :]}" if width > 1 else "~"


def span(length: timedelta | float) -> str:
    """A length of time in two units at most: `45 s`, `12 min`, `3 h 10 min`, `2 d 4 h`. A number is in seconds."""
    seconds = int(length.total_seconds() if isinstance(length, timedelta) else length)
    if seconds < 0:
        return f"-{span(-seconds)}"
    days, hours, minutes = seconds // 86400, seconds // 3600 % 24, seconds // 60 % 60
    if days:
        return f"{days} d {hours} h" if hours and days < 10 else f"{days} d"
    if hours:
        return f"{hours} h {minutes} min" if minutes and hours < 10 else f"{hours} h"
    return f"{minutes} min" if minutes else f"{seconds} s"


def clock(at: datetime) -> str:
    return f"{at:%Y-%m-%d %H:%M:%S} UTC"


def when(at: datetime, now: datetime) -> str:
    """`2026-02-01 03:04:05 UTC, in 9 min`"""
    return f"{clock(at)}, " + (f"in {span(at - now)}" if at > now else f"{span(now - at)} ago")


def from_ms(milliseconds: int | None) -> datetime | None:
    return None if milliseconds is None else datetime.fromtimestamp(milliseconds / 1000, UTC)


def for_json(value: Any) -> str:
    """Times as ISO 8601 in UTC; for json.dumps."""
    return f"{value:%Y-%m-%dT%H:%M:%SZ}" if isinstance(value, datetime) else str(value)


def for_shell(name: str) -> str:
    """A name as an argument to type, whatever is in it; one that starts with - comes after `--`."""
    if name.isprintable():
        word = shlex.quote(name)
    else:
        odd = {"'": "\\'", "\\": "\\\\"}
        word = "$'" + "".join(odd.get(c, c) if c.isprintable() else _octal(c) for c in name) + "'"
    return f"-- {word}" if name.startswith("-") else word


def _octal(character: str) -> str:
    return "".join(f"\\{byte:03o}" for byte in character.encode("utf-8", "surrogateescape"))
