"""What the daemon asks of storage, alike on a file system and on a real XRootD server."""

import os
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from pools.xrootd import CLIENT, Server

from keepupd.clients.storage import StorageByScheme, StorageUnavailable
from keepupd.core.errors import KeepupError

DATA = next(data for data in (b"%d" % n for n in range(100000)) if zlib.adler32(data) < 0x10000000)
ADLER32 = f"adler32:{zlib.adler32(DATA):08x}"
storage = StorageByScheme()


@pytest.fixture
def folder(tmp_path: Path, xrootd: Server) -> Iterator[Path]:
    folder = xrootd.data / tmp_path.name
    (folder / "L" / "1-ab").mkdir(parents=True)
    for name in ("a.root", "it's 100%.root", ".part"):
        (folder / "L" / "1-ab" / name).write_bytes(DATA)
    xrootd.owns()
    yield folder


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in CLIENT.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def served(folder: Path, xrootd: Server) -> str:
    return f"{xrootd.url}/{folder}"


@pytest.fixture(params=["file", "root"])
def top(request: pytest.FixtureRequest, folder: Path, served: str) -> str:
    return f"file://{folder}" if request.param == "file" else served


def test_directories_are_listed_with_all_that_is_in_them(top: str) -> None:
    assert storage.list(f"{top}/L") == ["1-ab"]
    assert storage.list(f"{top}/L/1-ab") == [".part", "a.root", "it's 100%.root"]
    assert storage.list(f"{top}/M") == []


def test_a_copy_is_known_by_its_size_and_eight_digits(top: str) -> None:
    assert ADLER32.startswith("adler32:0")
    assert storage.identify(f"{top}/L/1-ab/a.root") == (len(DATA), ADLER32)
    assert storage.identify(f"{top}/L/1-ab/it%27s%20100%25.root") == (len(DATA), ADLER32)
    assert storage.identify(f"{top}/L/1-ab/b.root") is None
    assert storage.identify(f"{top}/M/a.root") is None


def test_a_losers_directory_goes_with_all_that_is_in_it(top: str, folder: Path) -> None:
    storage.remove_tree(f"{top}/L/1-ab")
    assert list((folder / "L").iterdir()) == []
    storage.remove_tree(f"{top}/L/1-ab")


def test_a_file_is_read_and_put(top: str, folder: Path, tmp_path: Path) -> None:
    with storage.reading(f"{top}/L/1-ab/a.root") as path:
        assert path.read_bytes() == DATA
    for text in ("one", "another in its place"):
        (tmp_path / "total.root").write_text(text)
        storage.put(tmp_path / "total.root", f"{top}/totals/t_v1.root")
        assert (folder / "totals" / "t_v1.root").read_text() == text
    assert storage.list(f"{top}/totals") == ["t_v1.root"]


def test_what_is_forbidden_is_not_absent(served: str, folder: Path, tmp_path: Path) -> None:
    if os.geteuid():
        pytest.skip("an XRootD server that may not read needs root")
    os.chown(folder / "L", 0, 0)
    (folder / "L").chmod(0o700)
    (tmp_path / "x").write_text("x")
    for question in (lambda: storage.list(f"{served}/L"), lambda: storage.identify(f"{served}/L/1-ab/a.root"),
                     lambda: storage.remove_tree(f"{served}/L/1-ab"),
                     lambda: storage.put(tmp_path / "x", f"{served}/L/x")):  # fmt: skip
        with pytest.raises(StorageUnavailable):
            question()


@pytest.mark.long
@pytest.mark.engine
def test_a_server_that_is_away_gives_no_answer(tmp_path: Path) -> None:
    away = "root://127.0.0.1:9//data"
    (tmp_path / "x").write_text("x")
    for question in (lambda: storage.list(away), lambda: storage.identify(f"{away}/x"),
                     lambda: storage.put(tmp_path / "x", f"{away}/x"),
                     lambda: storage.reading(f"{away}/x").__enter__()):  # fmt: skip
        with pytest.raises(StorageUnavailable, match=r"^root://127.0.0.1:9//data.*ended with \d+: .*onnection"):
            question()


def test_without_its_client_xrootd_says_what_to_install(served: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(StorageUnavailable, match="install xrootd-client"):
        storage.list(served)


@pytest.mark.long
@pytest.mark.engine
def test_a_server_that_hangs_is_given_up(served: str, xrootd: Server) -> None:
    xrootd.freezes()
    try:
        with pytest.raises(StorageUnavailable):
            storage.list(served)
    finally:
        xrootd.thaws()


def test_urls_that_only_jobs_can_use_are_refused() -> None:
    with pytest.raises(KeepupError, match="cannot reach https://door/x itself") as refusal:
        storage.list("https://door/x")
    assert not isinstance(refusal.value, StorageUnavailable), "asking again is no use"
