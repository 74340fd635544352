"""The docs say what the code does: diagrams are the charts' own, links lead somewhere."""

import re
from pathlib import Path

import pytest

from keepupd.ctl.chart_view import as_mermaid
from keepupd.daemon.app import load_charts

ROOT = Path(__file__).parents[1]
PAGES = sorted([ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").glob("*.md")])


def test_the_diagrams_are_made_from_the_charts():
    page = (ROOT / "docs" / "statecharts.md").read_text()
    assert re.findall(r"```mermaid\n(.*?)\n```", page, re.S) == [as_mermaid(chart).strip() for chart in load_charts()]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\((?!https?://|mailto:|#)([^)#]+)", page.read_text()):
        assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_paths_in_the_architecture_page_exist():
    page = (ROOT / "docs" / "architecture.md").read_text()
    for path in re.findall(r"`((?:keepupd|statecharts|tests|docs)/[\w/.-]+)`", page):
        assert (ROOT / path).exists(), path
