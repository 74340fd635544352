"""The types of the fields of config.py and campaign.py: what a value must look like, and the words when it does not."""

import math
import re
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo, WithJsonSchema

from keepupd.checking import perhaps, text, wrong
from keepupd.core import naming
from keepupd.yamlfile import from_folder

FROM_INPUT = ("input", "inputs", "input_list")
FROM_SERIAL = ("run", "subrun", "seed", "events", "serial")
ALWAYS = ("output", "metadata", "unit", "scratch", "campaign")
PLACEHOLDER = re.compile(r"\{([a-z_]+)(?::([A-Za-z0-9_.-]+))?\}")  # as the worker reads them; ${HOME} is the shell's
ALMOST = re.compile(r"(?<!\$)\{([A-Za-z_]+)(?::[^{}]*)?\}")
NAMES_OF_THE_JOB = ("order.json", "report.json", "executable.log", "keepup_worker.py")
HISTOGRAM_CHECK = "check_histograms.py"  # sent with the jobs of a campaign that has validation.histograms
LONGEST_FILE = 1_000_000  # characters of a file sent with each job
SET_BY_KEEPUPD = (
    *("file_name", "file_size", "file_id", "checksum", "file_type", "file_format"),
    *("data_tier", "application", "parents", "process_id", "event_count"),
)


def _path(path: Path, info: ValidationInfo) -> Path:
    return from_folder((info.context or {}).get("folder", Path()), path)


NearPath = Annotated[Path, AfterValidator(_path)]  # relative to the file it is written in
Text = Annotated[str, text(r"\S", "must not be empty")]
Word = Annotated[str, text(r"^[A-Za-z0-9][A-Za-z0-9._+-]{0,79}$", "must be one plain word: letters, digits and ._+-")]
Count = Annotated[int, Field(strict=True, gt=0, le=1_000_000_000)]
Seconds = Annotated[float, Field(strict=True, gt=0, le=31_536_000, allow_inf_nan=False)]  # at most a year
Pause = Annotated[float, Field(strict=True, ge=0, le=31_536_000, allow_inf_nan=False)]
WallTime = Annotated[int, Field(strict=True, gt=0, le=31_536_000)]  # seconds
Mebibytes = Annotated[int, Field(strict=True, gt=0, le=10_000_000)]
Flag = Annotated[bool, Field(strict=True)]
HttpUrl = Annotated[str, text(r"^https?://[A-Za-z0-9._\[\]:-]+(/[^\s?#]*)?$", "must be an URL, http:// or https://")]


# --- what only campaigns have --------------------------------------------------------------------------------------


def placeholders_in(words: str) -> list[tuple[str, str]]:
    """(name, label) of each placeholder; other braces are plain text."""
    return [(name, label) for name, label in PLACEHOLDER.findall(words)]


def _known_placeholders(words: str) -> str:
    known = [*FROM_INPUT, *FROM_SERIAL, *ALWAYS]
    for name, _ in placeholders_in(words):
        if name not in known:
            raise wrong(f"unknown placeholder {{{name}}}" + perhaps(name, known))
    for match in ALMOST.finditer(words):
        if match[1].lower() in known and not PLACEHOLDER.fullmatch(match[0]):
            raise wrong(f"unknown placeholder {match[0]}; perhaps {match[1].lower()!r}")
    return words


def _check_placeholders(words: str) -> str:
    for name, label in placeholders_in(words):
        if name not in (known := ["input", "inputs", "output", "metadata", "scratch"]) or label:
            raise wrong(f"unknown placeholder {{{name}}} of a check" + perhaps(name, known))
    return words


def _metadata_key(key: str) -> str:
    if key in SET_BY_KEEPUPD:
        raise wrong(f"{key} is set by keepupd and cannot be given here")
    if not re.fullmatch(r"[a-z_]+|[A-Za-z][A-Za-z0-9_]*\.[A-Za-z0-9_.-]+", key):
        raise wrong(f"{key!r} is no metadata key; write Category.name, or a field of SAM such as data_stream")
    return key


def _metadata_value(value: object) -> object:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise wrong(f"must be text or a number (put it in quotes), not {value!r}")
    if isinstance(value, float) and not math.isfinite(value):
        raise wrong(f"must be a finite number, not {value!r}")
    return value


def _plain_template(template: str) -> str:
    names = re.findall(r"\{([^{}]*)\}", template)
    for name in names:
        if name not in (known := ["stem", "suffix", "campaign", "edition", "label"]):
            raise wrong(f"unknown placeholder {{{name}}}" + perhaps(name, known))
    if not naming.TEMPLATE.fullmatch(template):
        raise wrong(
            f"must be built like {naming.DEFAULT_TEMPLATE}: stem first, then campaign and edition together, suffix last"
        )
    if re.search(r"(^|_)e[0-9]+(_|$)", re.sub(r"\{[^{}]*\}", " ", template).replace(" ", "_")):
        raise wrong("must not hold a word like _e2, which marks an edition")
    return template


def _read_files(value: object, info: ValidationInfo) -> object:
    """Paths as written in the file become name -> text, so that a campaign is whole in itself."""
    if not isinstance(value, list):
        return value
    found: dict[str, str] = {}
    for number, path in enumerate(value):
        full = _path(Path(str(path)), info)
        if full.name in found or full.name in NAMES_OF_THE_JOB:
            raise wrong(f"another file of the job is called {full.name}", number)
        try:
            found[full.name] = full.read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            raise wrong(f"{full} cannot be read as text: {getattr(error, 'strerror', None) or error}", number) from None
        if len(found[full.name]) > LONGEST_FILE:
            raise wrong(f"{full} is over {LONGEST_FILE} characters; put it where the nodes see it", number)
    return found


Name = Annotated[
    str, text(r"^[a-z][a-z0-9_]{2,79}$", "must be 3 to 80 lower-case letters, digits and _, a letter first")
]
Definition = Annotated[
    str, text(r"^[A-Za-z][A-Za-z0-9_.-]{0,199}$", "must be a definition's name: letters, digits and _.-")
]
DefinitionOrNone = Annotated[
    str, text(r"^([A-Za-z][A-Za-z0-9_.-]{0,199})?$", "must be a definition's name: letters, digits and _.-")
]
Label = Annotated[
    str, text(r"^[a-z][a-z0-9_]{0,19}$", "must be 1 to 20 lower-case letters, digits and _, a letter first")
]
Location = Annotated[
    str,
    text(
        r"^[A-Za-z0-9._-]+:/[^\s'\"()*?\[\]]*$",
        "must be node:/directory as SAM writes it, without blanks, quotes or brackets",
    ),
]
WriteUrl = Annotated[
    str, text(r"^(file:///|(root|xroot|https?)://[^/\s]+/)[^\s'\"]*$", "must be file:///, root:// or https://")
]
Template = Annotated[str, AfterValidator(_plain_template)]
HistogramName = Annotated[str, text(r"^[A-Za-z0-9_][A-Za-z0-9_./-]{0,199}$", "must be a histogram's name in its file")]
MetadataKey = Annotated[str, AfterValidator(_metadata_key)]
MetadataValue = Annotated[Any, AfterValidator(_metadata_value), WithJsonSchema({"type": ["string", "number"]})]
Metadata = dict[MetadataKey, MetadataValue]
Argument = Annotated[str, AfterValidator(_known_placeholders)]
CheckArgument = Annotated[str, AfterValidator(_check_placeholders)]
JobFiles = Annotated[
    dict[str, str],
    BeforeValidator(_read_files),
    WithJsonSchema({"type": "array", "items": {"type": "string"}}),
]
