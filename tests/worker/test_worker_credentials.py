"""The worker over real TLS: it shows proxy and token as the daemon does, takes up renewed ones, and tells neither."""

import pytest
from scripted_sam import ScriptedSam
from tls import Grid, shown

CREDENTIALS = ("BEARER_TOKEN_FILE", "X509_USER_PROXY", "X509_USER_CERT", "X509_USER_KEY")


class GuardedSam(ScriptedSam):
    """By TLS; notes with what each call was signed: (call, certificate, token)."""

    def __init__(self, grid):
        self.signed = []
        super().__init__()
        self.server.socket = grid.guards(self.server.socket)
        self.base = self.base.replace("http:", "https:")

    def handler(self):
        sam = self

        class Handler(super().handler()):
            def parse_request(self):
                whole = super().parse_request()
                call = self.path.partition("?")[0].rpartition("/")[2]
                sam.signed.append((call, shown(self.connection), self.headers.get("Authorization")))
                return whole

        return Handler


@pytest.fixture(scope="module")
def grid(tmp_path_factory):
    return Grid(tmp_path_factory.mktemp("grid"))


@pytest.fixture
def sam(grid, tmp_path, monkeypatch):
    for name in CREDENTIALS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setenv("X509_CERT_DIR", str(grid.authorities))
    server = GuardedSam(grid)
    yield server
    server.stop()


@pytest.fixture
def hasty(node):
    """An order whose job gives up on SAM soon."""
    return lambda: node.order() | {"sam": node.order()["sam"] | {"patience_s": 0.1}}


def test_a_token_that_is_renewed_while_the_executable_runs_declares_its_output(node, sam, grid, tmp_path):
    token, proxy = tmp_path / "token", tmp_path / "proxy"
    token.write_text("0ld.t0ken\n")
    proxy.write_text(grid.proxy("alice", 1))
    node.has_input()
    (tmp_path / "token.next").write_text("n3w.t0ken")
    renew = 'mv "$BEARER_TOKEN_FILE.next" "$BEARER_TOKEN_FILE"; cp "$0" "$1"'
    done = node.work(node.order("sh", "-c", renew, "{input}", "{output}"),
                     env={"BEARER_TOKEN_FILE": str(token), "X509_USER_PROXY": str(proxy)})  # fmt: skip
    assert done.code == 0, done.log
    by = {call: signed for call, *signed in sam.signed}
    assert by["establishProcess"] == ["alice/1", "Bearer 0ld.t0ken"]
    assert by["files"] == by["locations"] == by["endProcess"] == ["alice/1", "Bearer n3w.t0ken"]
    told = done.log + (done.scratch / "report.json").read_text()
    assert "t0ken" not in told and "PRIVATE KEY" not in told


def test_a_token_file_that_holds_something_else_is_named_and_not_quoted(node, sam, tmp_path, hasty):
    node.has_input()
    (tmp_path / "token").write_text("s3cret\nx-more: s3cret\n")
    done = node.work(hasty(), env={"BEARER_TOKEN_FILE": str(tmp_path / "token")})
    assert done.fault == ("establish", "sam_unavailable") and sam.signed == []
    told = done.log + (done.scratch / "report.json").read_text()
    assert f"{tmp_path}/token holds no bearer token" in told and "s3cret" not in told


def test_a_proxy_that_is_absent_or_locked_is_named_and_nothing_waits_for_a_password(node, sam, grid, tmp_path, hasty):
    node.has_input()
    grid.proxy("bob", 1)
    locked = grid.openssl("ec", "-in", "bob.key", "-aes256", "-passout", "pass:s3cret")
    (tmp_path / "locked").write_text(grid.text("bob.pem") + locked)
    for name in ("absent", "locked"):
        done = node.work(hasty(), env={"X509_USER_PROXY": str(tmp_path / name)})
        assert done.fault == ("establish", "sam_unavailable") and sam.signed == []
        assert f"the grid certificate {tmp_path}/{name} can't be used" in done.report["message"]


def test_certificate_and_key_in_two_files(node, sam, grid):
    node.has_input()
    grid.proxy("carol", 1)
    done = node.work(env={"X509_USER_CERT": str(grid.folder / "carol.pem"),
                          "X509_USER_KEY": str(grid.folder / "carol.key")})  # fmt: skip
    assert done.code == 0 and {tuple(signed) for _, *signed in sam.signed} == {("carol", None)}
