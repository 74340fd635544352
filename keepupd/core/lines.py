"""Read a YAML file, remember the line of every key and item, and collect faults by line.

The statecharts and the table of causes are checked with it, so that a bad file is refused once, with all its faults.
"""

from collections.abc import Collection
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NoReturn

import yaml

from keepupd.core.errors import FaultsError

Place = tuple[str | int, ...]  # the way down to a value: ("states", 3, "means")


def perhaps(name: str, known: Collection[str]) -> str:
    """The end of a fault about an unknown name: the closest known one, or all there are."""
    close = get_close_matches(name, known, 1)
    return f"perhaps {close[0]!r}" if close else f"there are: {', '.join(sorted(known)) or 'none'}"


class LinedFile:
    """A YAML file's `data` (None when it could not be read: then there is a fault) and the faults found so far."""

    def __init__(self, path: Path):
        self.path = path
        self.data: Any = None
        self._lines: dict[Place, int] = {(): 1}
        self._faults: list[tuple[int, str]] = []
        try:
            loader = yaml.SafeLoader(path.read_text(encoding="utf-8"))
            if node := loader.get_single_node():
                self._note(node, ())
                self.data = loader.construct_document(node)
        except yaml.YAMLError as error:
            mark = getattr(error, "problem_mark", None)
            self._faults.append((mark.line + 1 if mark else 1, f"not YAML: {getattr(error, 'problem', None) or error}"))
        except RecursionError:
            self.fault((), "an alias (*name) leads back into itself")
        except (OSError, ValueError) as error:
            self.fault((), f"cannot be read: {error}")

    def _note(self, node: yaml.Node, place: Place) -> None:
        self._lines.setdefault(place, node.start_mark.line + 1)
        if isinstance(node, yaml.SequenceNode):
            for number, item in enumerate(node.value):
                self._note(item, (*place, number))
        elif isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                below = (*place, str(key.value))
                if below in self._lines:
                    self._faults.append((key.start_mark.line + 1, f"key {key.value!r} is here twice"))
                self._lines[below] = key.start_mark.line + 1
                self._note(value, below)

    def line(self, place: Place) -> int:
        """The line of the value at `place`, or of the nearest thing around it."""
        while place not in self._lines:
            place = place[:-1]
        return self._lines[place]

    def fault(self, place: Place, words: str) -> None:
        self._faults.append((self.line(place), words))

    @property
    def faulty(self) -> bool:
        return bool(self._faults)

    def refuse(self, error: type[FaultsError]) -> NoReturn:
        """Raise `error` with every fault found, in the order of their lines."""
        raise error(self.path, [f"{self.path}:{line}: {words}" for line, words in sorted(self._faults)])
