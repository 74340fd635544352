"""File names nobody would choose, end to end: SAM refuses some with its words; all others become declared outputs."""

import json
import re
import urllib.error
import urllib.parse
import urllib.request
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from kill.world import CAMPAIGN, World

from keepupd.core.errors import SamRefused
from keepupd.ctl.main import app

REFUSED = {  # by SAM itself, when it is declared
    "../up.txt": "must not contain '/'",
    "dir/file.txt": "must not contain '/'",
    "..": "must not contain '/' or control characters",
    ".": "must not contain '/' or control characters",
    "two\nlines.txt": "control characters",
    "bell\x07.txt": "control characters",
    "nul\x00.txt": "control characters",
    "tab\there.txt": "control characters",
    "x" * 296 + ".txt": "has 300 characters, the limit is 199",
    "": "must be a non-empty string",
}
TYPICAL = [
    "two words.txt",
    "it's.txt",
    'say "so".txt',
    "100%.txt",
    "größe_Δ_粒子.txt",
    "12345",
    "--help",
    "line\u2028separator.txt",
]
RARE = [
    " blank first.txt", "both ' and \".txt", "%2e%2e%2fup.txt", "%s%n.txt", "e\u0301.txt", "\U0001f4a5.txt", "00042",
    "-rf.txt", ".hidden.txt", "..txt", "back\\slash.txt", "$(touch pwned).txt", "`id`;id|id&.txt", "*?[a].txt",
    "{input}.txt", "~root", "null", "%(name)s{0}.txt", "#q?x=1&y=2.txt", "+plus+.txt", "a:b@c,d=e.txt", "<b>&amp;.txt",
    "n" * 195 + ".txt", "UPPER.txt", "upper.txt", "a_kill_reco.txt", "no\u00a0break.txt", "next\u0085line.txt",
    "right\u202eto left.txt", "\ufeffmark.txt",
]  # fmt: skip
PLAIN = re.compile(r"[A-Za-z0-9._+-]{1,199}")


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path)
    yield world
    world.ends()


def find(world: World, name: str) -> None:
    data = f"fine 1\n{name}\n".encode()
    world.sam.declare({"file_name": name, "file_size": len(data), "file_type": "detector", "file_format": "txt",
                       "data_tier": "raw", "checksum": [f"adler32:{zlib.adler32(data):08x}"]})  # fmt: skip
    (world.home / "in" / name).write_bytes(data)
    form = urllib.parse.urlencode({"add": f"demo:{world.home}/in"}).encode()  # as another client: ours is choosier
    url = f"{world.url}/files/name/{urllib.parse.quote(name, safe='')}/locations"
    urllib.request.urlopen(urllib.request.Request(url, form, {"SAM-Role": "*"}))


def keepupctl(world: World, *words: str) -> str:
    done = CliRunner().invoke(app, words, env={"KEEPUPD_CONFIG": str(world.config)})
    assert done.exit_code == 0, (words, done.output)
    return done.output


def has_control_characters(text: str) -> bool:
    return any(not character.isprintable() for line in text.split("\n") for character in line)


def test_what_sam_refuses_it_refuses_in_words_and_nothing_of_it_is_left(world):
    record = {"file_size": 1, "file_type": "detector", "file_format": "txt", "data_tier": "raw"}
    for name, words in REFUSED.items():
        with pytest.raises(SamRefused) as refused:
            world.sam.declare(record | {"file_name": name})
        assert words in refused.value.problem and not has_control_characters(refused.value.problem), name
    world.sam.declare(record | {"file_name": "taken.txt"})
    with pytest.raises(SamRefused, match=r"FileAlreadyExists.*'taken.txt' already exists"):
        world.sam.declare(record | {"file_name": "taken.txt"})
    assert half_a_character(world.url) == 400
    assert world.sam.count("data_tier raw with availability anylocation") == 1


def half_a_character(url: str) -> int:
    """The status that a name which is no text gets: JSON can write half of a surrogate pair."""
    body = json.dumps({"file_name": "\ud800.txt", "file_size": 1, "file_type": "detector"}).encode()
    request = urllib.request.Request(f"{url}/files", body, {"Content-Type": "application/json"})
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(request)
    return refused.value.code


@pytest.mark.parametrize("names", [TYPICAL, pytest.param(RARE, marks=pytest.mark.long)], ids=["typical", "rare"])
def test_a_name_that_sam_takes_becomes_a_declared_output_with_a_plain_name(world, names):
    world.writes_campaign(limits={"launch_size": 50})
    for name in names:
        find(world, name)
    world.keepupd.starts()
    world.waits(lambda: list(world.states().values()).count("declared") == len(names), "all are declared", 90)

    outputs = [file.name for file in world.sam.files(f"DUNE.campaign {CAMPAIGN}")]
    assert len(outputs) == len(names) and all(PLAIN.fullmatch(output) for output in outputs)
    parents = [parent for record in world.sam.records(outputs).values() for parent in record.parents]
    assert sorted(parents) == sorted(names)
    for path in (world.home / "out").rglob("*.txt"):
        parent = world.sam.records([path.name])[path.name].parents[0]
        assert path.read_bytes() == (world.home / "in" / parent).read_bytes()
    assert not has_control_characters(world.keepupd.said()) and "fault in keepupd" not in world.keepupd.said()
    assert world.keepupctl("audit").returncode == 0
    assert not list(world.home.rglob("pwned"))
    for name in names:
        is_shown_safely(world, name)


def is_shown_safely(world: World, name: str) -> None:
    for command in ("why", "history", "log"):
        assert not has_control_characters(keepupctl(world, command, "--", name)), (command, name)
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in name)
    assert shown in keepupctl(world, "why", "--", name)
    assert json.loads(keepupctl(world, "history", "--json", "--", name))
