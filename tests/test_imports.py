"""Who may import whom: walks every import of keepupd, also those inside functions.

`core` imports none of ours, so that decisions stay pure; `samserver` and `localbatch` share no code with their clients,
so that a shared mistake can't hide; the worker runs on nodes that have nothing but Python.
"""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "keepupd"
CONFIG = {  # modules at the top, that together read YAML
    *("campaign", "campaign_parts", "campaign_types", "campaignfiles", "changes", "checking", "config", "fields"),
    *("draining", "flow", "queries", "routing", "yamlfile"),
}
MAY_IMPORT = {
    "core": set(),
    "config": {"core"},
    "store": {"core"},
    "clients": {"core"},
    "ctl": {"core", "store", "config", "clients"},
    "daemon": {"core", "store", "config", "clients", "worker"},
    "worker": set(),
    "samserver": set(),
    "localbatch": set(),
}
BESIDE_THE_STANDARD_LIBRARY = {"keepupd.worker.check_histograms": {"numpy", "uproot"}}  # runs where these are
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def part_of(module: str) -> str:
    """keepupd.store.tables -> store; the modules that read YAML are one part, config; keepupd.__version__ -> none."""
    name = module.partition(".")[2].split(".")[0]
    return "config" if name in CONFIG else "" if name.startswith("__") else name


def imported(text: str, module: str) -> Iterator[tuple[int, str]]:
    """(line, full name) of everything that the text of `module` imports, relative imports spelt out."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = module.split(".")[: -node.level] if node.level else []
            whole = ".".join([*base, *(node.module or "").split(".")]).rstrip(".")
            names = [f"keepupd.{alias.name}" for alias in node.names] if whole == "keepupd" else [whole]
            yield from ((node.lineno, name) for name in names)


def faults(text: str, module: str) -> list[str]:
    """Imports that `module` must not have."""
    mine, found = part_of(module), []
    for line, name in imported(text, module):
        if name.split(".")[0] == "keepupd":
            wrong = part_of(name) not in {mine, "", *MAY_IMPORT[mine]}
        else:
            allowed = {*sys.stdlib_module_names, *BESIDE_THE_STANDARD_LIBRARY.get(module, ())}
            wrong = mine == "worker" and name.split(".")[0] not in allowed
        if wrong:
            found.append(f"{module}:{line}: {mine} must not import {name}")
    return found


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_nobody_imports_what_it_must_not(path: Path) -> None:
    assert faults(path.read_text(), module_name(path)) == []


def test_every_part_has_its_rule() -> None:
    assert {part_of(module_name(path)) for path in MODULES} == set(MAY_IMPORT)


@pytest.mark.parametrize(
    ("module", "text"),
    [
        ("keepupd.core.decide", "from keepupd.store import reads"),
        ("keepupd.core.decide", "from keepupd import store"),
        ("keepupd.core.decide", "from ..store.tables import units"),
        ("keepupd.core.decide", "from .. import config"),
        ("keepupd.core.decide", "def late():\n    import keepupd.campaign"),
        ("keepupd.samserver.web", "from keepupd.core.errors import KeepupError"),
        ("keepupd.localbatch.server", "if TYPE_CHECKING:\n    from keepupd.clients.local import LocalBatch"),
        ("keepupd.clients.sam", "import keepupd.samserver.dims"),
        ("keepupd.ctl.main", "from keepupd.daemon import app"),
        ("keepupd.config", "from keepupd.store.tables import units"),
        ("keepupd.worker.keepup_worker", "import requests"),
        ("keepupd.worker.keepup_worker", "from keepupd.core import errors"),
    ],
)
def test_a_wrong_import_is_found(module: str, text: str) -> None:
    assert len(faults(text, module)) == 1


@pytest.mark.parametrize(
    ("module", "text"),
    [
        ("keepupd.core.decide", "from keepupd.core.model import Unit\nimport yaml\nfrom . import model"),
        ("keepupd.config", "from keepupd.campaign import Campaign\nfrom keepupd.core import naming"),
        ("keepupd.daemon.app", "from keepupd.store import store\nfrom keepupd.config import Settings"),
        ("keepupd.worker.keepup_worker", "import json\nimport urllib.request"),
        ("keepupd.samserver.web", "from keepupd import __version__"),
    ],
)
def test_a_right_import_is_left_alone(module: str, text: str) -> None:
    assert faults(text, module) == []
