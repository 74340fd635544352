"""Who the client says it is, over real TLS: proxies and tokens are shown where they belong, renewed, and never told."""

import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from tls import Grid, Server

from keepupd.clients.credentials import AT_ONCE, NotLetIn
from keepupd.clients.sam import Sam
from keepupd.core.errors import SamUnavailable

UID = 900_000_000 + os.getpid()  # whose files in /tmp nobody has
TOKEN = f"bt_u{UID}"


@pytest.fixture(scope="module")
def grid(tmp_path_factory: pytest.TempPathFactory) -> Grid:
    return Grid(tmp_path_factory.mktemp("grid"))


@pytest.fixture
def home(tmp_path: Path, grid: Grid, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An account without credentials, which trusts the grid's authority."""
    for name in ("BEARER_TOKEN_FILE", "X509_USER_PROXY", "X509_USER_CERT", "X509_USER_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setattr("os.getuid", lambda: UID)
    monkeypatch.setenv("X509_CERT_DIR", str(grid.authorities))
    return tmp_path


@pytest.fixture
def server(grid: Grid) -> Iterator[Server]:
    server = Server(grid)
    yield server
    server.ends()


@pytest.fixture
def sam(server: Server, home: Path) -> Iterator[Sam]:
    sam = Sam(server.url, timeout_s=5, patience_s=0.05)
    yield sam
    sam.close()


def test_a_proxy_is_shown_and_a_renewed_one_at_once(sam, server, home, grid, monkeypatch):
    assert sam.count("file_id 1") == 7
    proxy = home / "proxy"
    monkeypatch.setenv("X509_USER_PROXY", str(proxy))
    for number in (1, 2):
        proxy.write_text(grid.proxy("alice", number))
        sam.retire("a.root")
    assert [one.who for one in server.asked] == ["", "alice/1", "alice/2"]


def test_a_list_that_is_being_read_is_not_cut_by_a_renewal(sam, server, home, grid, monkeypatch):
    renewed = threading.Event()

    def answers(handler, asked):
        if "list" not in asked.path:
            return 200, "7"
        lines = [f"f{n}.root\t{n}\t1\t1\n".encode() for n in range(5000)]
        handler.send_response(200)
        handler.send_header("Content-Length", str(sum(map(len, lines))))
        handler.end_headers()
        handler.wfile.write(b"".join(lines[:2000]))
        renewed.wait(10)
        handler.wfile.write(b"".join(lines[2000:]))
        return 0, ""

    server.answers = answers
    monkeypatch.setenv("X509_USER_PROXY", str(home / "proxy"))
    (home / "proxy").write_text(grid.proxy("alice", 1))
    files = sam.files("file_id 1")
    next(files)
    (home / "proxy").write_text(grid.proxy("alice", 2))
    sam.count("file_id 1")
    renewed.set()
    assert sum(1 for _ in files) == 4999 and [one.who for one in server.asked] == ["alice/1", "alice/2"]


def test_a_proxy_in_the_usual_place_is_shown_where_there_is_no_token(sam, server, home, grid):
    usual = Path(f"/tmp/x509up_u{UID}")
    try:
        usual.write_text(grid.proxy("alice", 5))
        sam.count("file_id 1")
        (home / TOKEN).write_text("t0ken")
        sam.count("file_id 1")
    finally:
        usual.unlink()
    assert [one.who for one in server.asked] == ["alice/5", ""]


def test_certificate_and_key_in_two_files(sam, server, home, grid, monkeypatch):
    grid.proxy("bob", 1)
    monkeypatch.setenv("X509_USER_CERT", str(grid.folder / "bob.pem"))
    monkeypatch.setenv("X509_USER_KEY", str(grid.folder / "bob.key"))
    sam.count("file_id 1")
    monkeypatch.delenv("X509_USER_KEY")
    sam.count("file_id 1")
    assert [one.who for one in server.asked] == ["bob", ""]


def test_without_a_usable_proxy_nothing_is_asked_and_a_good_one_heals_it(sam, server, home, grid, monkeypatch):
    proxy = home / "proxy"
    monkeypatch.setenv("X509_USER_PROXY", str(proxy))
    with pytest.raises(NotLetIn, match=f"can't find the grid certificate {proxy}") as error:
        sam.count("file_id 1")
    assert "X509_USER_PROXY" in error.value.remedy
    good = grid.proxy("alice", 3)
    locked = grid.openssl("ec", "-in", "alice-3.key", "-aes256", "-passout", "pass:s3cret")
    for bad in ("", good[:300], grid.text("alice-3.pem"), grid.text("alice-3.pem") + locked):
        proxy.write_text(bad)
        with pytest.raises(NotLetIn, match="can't be used"):
            sam.count("file_id 1")
    proxy.write_text(good)
    assert sam.count("file_id 1") == 7 and [one.who for one in server.asked] == ["alice/3"]


def test_a_server_that_the_grid_does_not_know_is_told_nothing(server, home, monkeypatch, tmp_path):
    (tmp_path / "token").write_text("s3cret")
    monkeypatch.setenv("BEARER_TOKEN_FILE", str(tmp_path / "token"))
    monkeypatch.delenv("X509_CERT_DIR")
    sam = Sam(server.url, timeout_s=5, patience_s=0.05)
    with pytest.raises(SamUnavailable, match=r"CERTIFICATE_VERIFY_FAILED[\s\S]*X509_CERT_DIR"):
        sam.count("file_id 1")
    assert server.asked == []


def test_a_token_that_changes_on_an_open_connection(sam, server, home):
    sent = []
    for token in ("one.two-3", "renewed=="):
        (home / TOKEN).write_text(f"{token}\n")
        sam.count("file_id 1")
        sent.append(server.asked[-1].headers.get("authorization"))
    assert sent == ["Bearer one.two-3", "Bearer renewed=="]


def test_a_token_file_that_holds_something_else_is_named_and_not_quoted(sam, server, home, caplog, monkeypatch):
    caplog.set_level("DEBUG")
    file = home / "token"
    monkeypatch.setenv("BEARER_TOKEN_FILE", str(file))
    for bad in (b"", b"s3cret\nx-other: s3cret", b"s3cret s3cret", b"s3cret\x00", b"s3cret\xff"):
        file.write_bytes(bad)
        with pytest.raises(NotLetIn, match=str(file)) as error:
            sam.count("file_id 1")
        assert "s3cret" not in str(error.value) + repr(error.value) + caplog.text
        assert error.value.__cause__ is None
    assert server.asked == []


def test_a_token_that_has_expired_is_asked_once_and_all_goes_on_when_it_is_renewed(sam, server, home):
    def answers(_, asked):
        good = asked.headers.get("authorization") == "Bearer new"
        return (200, "7") if good else (401, '{"error": "HTTPUnauthorized", "message": "token has expired"}')

    server.answers = answers
    (home / TOKEN).write_text("old")
    with pytest.raises(NotLetIn, match="token has expired") as error:
        sam.count("file_id 1")
    assert len(server.asked) == 1 and "BEARER_TOKEN_FILE" in error.value.remedy
    (home / TOKEN).write_text("new")
    assert sam.count("file_id 1") == 7


def test_reads_in_the_clear_and_writes_by_tls_each_to_its_own_address(server, home, grid, monkeypatch):
    plain = Server()
    (home / TOKEN).write_text("t0ken")
    (home / "proxy").write_text(grid.proxy("alice", 4))
    monkeypatch.setenv("X509_USER_PROXY", str(home / "proxy"))
    sam = Sam(plain.url, server.url, timeout_s=5, patience_s=0.05)
    plain.answers = lambda *_: (200, "7")
    sam.count("file_id 1")
    sam.modify("a.root", {"content_status": "bad"})
    sam.create_definition("d", "file_id 1")
    sam.validate({"file_name": "b.root"})
    plain.ends()
    assert [(one.method, one.headers["sam-role"]) for one in server.asked] == [("PUT", "*"), ("POST", "default")]
    assert {(one.who, one.headers["authorization"]) for one in server.asked} == {("alice/4", "Bearer t0ken")}
    assert [one.method for one in plain.asked] == ["GET", "POST"]
    assert not any("authorization" in one.headers for one in plain.asked)


def test_only_so_many_calls_at_once(home):
    busy, most, lock = 0, 0, threading.Lock()
    together = threading.Barrier(AT_ONCE.max_connections)  # opens only when as many calls as may be are under way

    def answers(*_):
        nonlocal busy, most
        with lock:
            busy += 1
            most = max(most, busy)
        together.wait(10)
        with lock:
            busy -= 1
        return 200, "7"

    server = Server(answers=answers)
    sam = Sam(server.url, timeout_s=20, patience_s=1)
    with ThreadPoolExecutor(32) as threads:
        assert set(threads.map(sam.count, ["file_id 1"] * 32)) == {7}
    sam.close()
    server.ends()
    assert most == AT_ONCE.max_connections == 8
