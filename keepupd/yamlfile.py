"""Read a YAML file and remember the line of every key and list item, so that a fault can name its line.

Also reads the few settings keepupctl needs, without the models of config.py: a command must start at once.
"""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from keepupd.core.errors import ConfigError

Place = tuple[str | int, ...]  # where in a file: ("outputs", 0, "label")
MOST_NODES = 100_000  # a file of this size is no configuration; aliases of aliases can reach it in ten lines
DATABASES = re.compile(r"sqlite:///.+|postgresql\+psycopg://.+")


@dataclass(frozen=True)
class YamlFile:
    """A mapping read from `path`; `lines` knows the line (from 1) of every place in it."""

    path: Path
    value: dict[str, Any]
    lines: dict[Place, int]
    written: dict[Place, Place] = field(default_factory=dict)  # where a place really stands, for one campaign of many

    def line(self, place: Place) -> int:
        """Line of `place`, or of what it would be in where it is missing."""
        while place and place not in self.lines:
            place = place[:-1]
        return self.lines.get(place, 1)

    def fault(self, place: Place, words: str) -> str:
        line, place = self.line(place), self.as_written(place)
        return f"{self.path}:{line}: {dotted(place)}{': ' if place else ''}{words}"

    def as_written(self, place: Place) -> Place:
        """`place` from the top of the file: `defaults.retry` or `campaigns[2].retry`, where the file holds several."""
        for known in (place[:length] for length in range(len(place), -1, -1)):
            if known in self.written:
                return (*self.written[known], *place[len(known) :])
        return place


def dotted(place: Place) -> str:
    """("outputs", 0, "label") as people write it: outputs[0].label"""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in place).lstrip(".")


def read_yaml(path: Path) -> YamlFile:
    """Read one mapping. Raises ConfigError with every fault of the file: unreadable, not YAML, a key given twice."""
    text = _text(path)
    loader = yaml.SafeLoader(text)
    try:
        node = loader.get_single_node()
        walk = _Walk(path, loader)
        if node is None:
            raise ConfigError(path, [f"{path}:1: the file is empty"])
        if not isinstance(node, yaml.MappingNode):
            raise ConfigError(path, [f"{path}:1: must be keys and values, `name: ...`, at its top level"])
        walk.mapping(node, ())
        if walk.faults:
            raise ConfigError(path, walk.faults)
        return YamlFile(path, loader.construct_document(node), walk.lines)
    except yaml.MarkedYAMLError as error:
        raise ConfigError(path, [_not_yaml(path, error)]) from None
    finally:
        loader.dispose()


def _text(path: Path) -> str:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ConfigError(
            path, [f"{path}: cannot be read: {error.strerror}"], "check the path and who may read it"
        ) from None
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise ConfigError(path, [f"{path}:{line}: is not UTF-8 text"]) from None
    if bad := yaml.reader.Reader.NON_PRINTABLE.search(text):
        line = text.count("\n", 0, bad.start()) + 1
        raise ConfigError(path, [f"{path}:{line}: has the unprintable character {bad[0]!r}"])
    return text


def _not_yaml(path: Path, error: yaml.MarkedYAMLError) -> str:
    mark = error.problem_mark or error.context_mark
    where = f"{path}:{mark.line + 1}:{mark.column + 1}" if mark else f"{path}:1"
    words = " ".join(part for part in (error.context, error.problem) if part)
    hint = "; indent with blanks, never with tabs" if "\\t" in words else ""
    return f"{where}: is not YAML: {words}{hint}"


@dataclass
class _Walk:
    """One walk over the nodes of a file: lines of all places, and what PyYAML would accept in silence."""

    path: Path
    loader: yaml.SafeLoader
    lines: dict[Place, int] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    above: list[int] = field(default_factory=list)  # nodes we are in, to find an alias inside itself

    def mapping(self, node: yaml.MappingNode, place: Place) -> None:
        self.lines.setdefault(place, node.start_mark.line + 1)
        first: dict[str, int] = {}
        for key, value in node.value:
            line = key.start_mark.line + 1
            if key.tag == "tag:yaml.org,2002:merge":
                self.anything(value, place)
            elif key.tag != "tag:yaml.org,2002:str":
                self.fault(line, f"the key {getattr(key, 'value', '')!r} must be text; put it in quotes")
            elif key.value in first:
                words = f"{dotted((*place, key.value))}: is given twice, first in line {first[key.value]}"
                self.fault(line, words)
            else:
                first[key.value] = self.lines[(*place, key.value)] = line
                self.anything(value, (*place, key.value))

    def anything(self, node: yaml.Node, place: Place) -> None:
        if id(node) in self.above or len(self.lines) > MOST_NODES:
            raise ConfigError(self.path, [f"{self.path}:{node.start_mark.line + 1}: aliases without end"])
        self.above.append(id(node))
        if isinstance(node, yaml.MappingNode):
            self.mapping(node, place)
        elif isinstance(node, yaml.SequenceNode):
            for number, item in enumerate(node.value):
                self.lines.setdefault((*place, number), item.start_mark.line + 1)
                self.anything(item, (*place, number))
        else:
            self.scalar(node, place)
        self.above.pop()

    def scalar(self, node: yaml.Node, place: Place) -> None:
        try:
            self.loader.construct_object(node)
        except ValueError as error:  # a date like 2026-02-30: PyYAML tells no line
            self.fault(node.start_mark.line + 1, f"{dotted(place)}: {node.value}: {error}")

    def fault(self, line: int, words: str) -> None:
        self.faults.append(f"{self.path}:{line}: {words}")


# --- the settings of the daemon's file that keepupctl needs -------------------------------------------------------


def read_settings_lightly(path: Path) -> dict[str, Any]:
    """`name`, `state_dir` (a Path) and `database` (an URL) of the daemon's file; nothing else of it is checked.

    Raises ConfigError when the file cannot be read, or one of the three is missing or of the wrong kind.
    """
    file = read_yaml(Path(path).absolute())
    faults = [file.fault((key,), "is missing or no text") for key in ("name", "state_dir") if not _is_text(file, key)]
    if faults:
        raise ConfigError(path, faults)
    state_dir = from_folder(file.path.parent, file.value["state_dir"])
    try:
        database = database_url(file.value.get("database"), state_dir, file.path.parent)
    except ValueError as error:
        raise ConfigError(path, [file.fault(("database",), str(error))]) from None
    return {"name": file.value["name"], "state_dir": state_dir, "database": database}


def _is_text(file: YamlFile, key: str) -> bool:
    return isinstance(file.value.get(key), str) and bool(file.value[key])


def from_folder(folder: Path, path: str | Path) -> Path:
    """`path`, relative to `folder`, with ~ for the home directory."""
    return folder / Path(path).expanduser()


def database_url(given: object, state_dir: Path, folder: Path) -> str:
    """`given`, or a file in `state_dir`. Raises ValueError, which leaves the URL out: it may hold a password."""
    if given is None:
        return f"sqlite:///{state_dir}/keepupd.db"
    if not isinstance(given, str) or not DATABASES.fullmatch(given):
        raise ValueError("must be sqlite:///PATH or postgresql+psycopg://USER@HOST/NAME")
    if given.startswith("sqlite:///"):
        return f"sqlite:///{from_folder(folder, given.removeprefix('sqlite:///'))}"
    return given
