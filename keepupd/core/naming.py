"""The names of output files: a function of campaign, label, input and edition, never of time or attempt.

SAM's file names are unique, so the name is what makes "declared exactly once" hold. Hence two promises: two inputs of
a campaign never share an output name, and a name is plain and short enough for every catalog, shell and file system.
Stems that are not plain, or too long, are cleaned and cut, and carry a hash of the input's whole name.
"""

import hashlib
import re

LONGEST = 199  # characters; SAM's clients refuse names of 200 and more
ROOM_FOR_EDITION = 8  # kept free in edition 1 too, so that a stem is cut alike in all editions
DEFAULT_TEMPLATE = "{stem}_{campaign}{edition}{suffix}"
ENDING = re.compile(r"(.+)(\.[A-Za-z0-9]{1,10})", re.DOTALL)
# Not plain: other characters, a start that a shell takes for an option or hides, an end that looks like our own hash.
PLAIN_STEM = re.compile(r"(?![.-])(?!.*-[0-9a-f]{16}\Z)[A-Za-z0-9._+-]+")
# Only this order keeps names apart: what follows the stem is the same for all inputs, but for the edition.
TEMPLATE = re.compile(
    r"(?:[A-Za-z0-9][A-Za-z0-9._+-]{0,19})?"
    r"\{stem\}(?:[A-Za-z0-9._+-]|\{label\}){0,30}"
    r"\{campaign\}\{edition\}(?:[A-Za-z0-9._+-]|\{label\}){0,30}(?:\{suffix\})?"
)


def output_name(template: str, campaign: str, label: str, input_name: str, edition: int = 1) -> str:
    """Fill in `template`: plain ([A-Za-z0-9._+-]) and shorter than 200 characters whatever the input is called.

    {stem} is the input's name without its last ending where the template has {suffix}, and the whole name where it has
    not: `a.root` and `a.hdf5` must not meet. {edition} is empty for edition 1, `_e2` for edition 2.
    """
    stem, suffix = input_name, ""
    if "{suffix}" in template and (match := ENDING.fullmatch(input_name)):
        stem, suffix = match.groups()
    parts = {"campaign": campaign, "label": label, "suffix": suffix, "edition": f"_e{edition}" if edition > 1 else ""}
    room = LONGEST - ROOM_FOR_EDITION - len(template.format(**{**parts, "stem": "", "edition": ""}))
    return template.format(stem=plain_stem(stem, input_name, room), **parts)


def plain_stem(stem: str, input_name: str, room: int) -> str:
    """`stem` as it is when plain and at most `room` characters; else cleaned, cut, and told apart by a hash."""
    if PLAIN_STEM.fullmatch(stem) and len(stem) <= room:
        return stem
    mark = "-" + hashlib.sha256(input_name.encode("utf-8", "surrogatepass")).hexdigest()[:16]
    cleaned = re.sub(r"[^A-Za-z0-9._+-]+", "_", stem).lstrip("._-") or "file"
    return cleaned[: room - len(mark)] + mark


def could_meet(one: tuple[str, str, str], other: tuple[str, str, str]) -> bool:
    """Whether two outputs, each (template, campaign, label), could ever give two inputs the same name.

    They could when what follows the stem in one ends like the other's: `f_dc15` in `reco`, `f` in `dc15_reco`.
    """
    ends = [_end(*one), _end(*other)]
    return ends[0].endswith(ends[1]) or ends[1].endswith(ends[0])


def _end(template: str, campaign: str, label: str) -> str:
    end = template.split("{stem}")[1].format(campaign=campaign, label=label, edition="", suffix="")
    match = ENDING.fullmatch(end)
    return match[1] if match and "{suffix}" not in template else end
