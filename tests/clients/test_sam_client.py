"""What the SAM client makes of every way of not being answered, and what it sends, byte by byte.

The other side is a scripted server on loopback: it reads a request, notes it, and does the next thing on its list.
"""

import re
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from urllib.parse import parse_qs

import httpx
import pytest
import stamina.instrumentation
from hypothesis import given
from hypothesis import strategies as st

from keepupd.clients.catalog import normal_checksum, quote, record_of, same_content
from keepupd.clients.sam import Sam, segment
from keepupd.core.errors import DefinitionDiffers, SamAbsent, SamRefused, SamUnavailable
from keepupd.core.model import CatalogFile

BASE = "/sam/dune/api"
RECORD = '[{"file_name": "a.root", "file_id": 7, "file_size": 12, "checksum": ["adler32:00ab00cd"]}]'
DECLARATION = {"file_name": "a.root", "file_size": 12, "checksum": ["adler32:AB00CD"]}
Action = bytes | Callable[[socket.socket], None]


def reply(body: str | bytes = "", status: str = "200 OK", kind: str = "text/plain", **headers: str) -> bytes:
    data = body.encode() if isinstance(body, str) else body
    head = {"Content-Type": kind, "Content-Length": str(len(data)), "Connection": "close"}
    head |= {key.replace("_", "-"): value for key, value in headers.items()}
    lines = "".join(f"{key}: {value}\r\n" for key, value in head.items() if value)
    return f"HTTP/1.1 {status}\r\n{lines}\r\n".encode() + data


def no(status: str, error: str, message: str = "no") -> bytes:
    return reply(f'{{"error": "{error}", "message": "{message}"}}', status, "application/json")


def page(status: str) -> bytes:
    return reply("<html><body>Proxy Error</body></html>", status, "text/html; charset=utf-8")


def json(text: str) -> bytes:
    return reply(text, kind="application/json")


def reset(connection: socket.socket) -> None:
    """Break the connection after the request was read: SAM may have carried it out."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


class Scripted:
    def __init__(self) -> None:
        self.script: list[Action] = []
        self.requests: list[tuple[str, str, dict[str, str], str]] = []  # method, target, headers, body
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.over = threading.Event()
        self.thread = threading.Thread(target=self.serve, daemon=True)
        self.thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.listener.getsockname()[1]}{BASE}"

    def answers(self, *script: Action) -> None:
        """What to do with the next requests; the last action goes on for ever."""
        self.script = list(script)

    def serve(self) -> None:
        while not self.over.is_set():
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            with connection:
                if request := read_request(connection):
                    self.requests.append(request)
                    action = self.script.pop(0) if len(self.script) > 1 else self.script[0]
                    connection.sendall(action) if isinstance(action, bytes) else action(connection)

    def hangs(self, connection: socket.socket) -> None:
        """Say nothing for longer than the client's time-out."""
        connection.settimeout(5)
        connection.recv(1)  # returns when the client gives up

    def asked(self) -> list[str]:
        return [f"{method} {target.removeprefix(BASE)}" for method, target, _, _ in self.requests]

    def close(self) -> None:
        self.over.set()
        with suppress(OSError):  # closed before, by a test
            self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self.thread.join(10)


def read_request(connection: socket.socket) -> tuple[str, str, dict[str, str], str] | None:
    with connection.makefile("rb") as stream:
        first = stream.readline().decode()
        if not first:
            return None
        headers = {}
        while (line := stream.readline().decode().strip()) != "":
            key, _, value = line.partition(": ")
            headers[key.lower()] = value
        body = stream.read(int(headers.get("content-length", 0))).decode()
    method, target, _ = first.split(" ")
    return method, target, headers, body


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr("keepupd.clients.http.WAIT_FIRST_S", 0.02)
    monkeypatch.setattr("keepupd.clients.http.WAIT_JITTER_S", 0)


@pytest.fixture
def server() -> Iterator[Scripted]:
    server = Scripted()
    yield server
    server.close()


@pytest.fixture
def sam(server: Scripted) -> Iterator[Sam]:
    sam = Sam(server.url, timeout_s=0.5, patience_s=10, user="keeper")
    yield sam
    sam.close()


@pytest.fixture
def hasty(server: Scripted) -> Iterator[Sam]:
    """A client that gives up after a try or two."""
    sam = Sam(server.url, timeout_s=0.3, patience_s=0.05)
    yield sam
    sam.close()


# --- no answer ----------------------------------------------------------------------------------------------------


def test_nobody_listens(hasty, server):
    server.close()
    with pytest.raises(SamUnavailable, match=r"does not answer GET .*/files/count.*refused") as error:
        hasty.count("file_id 1")
    assert "remedy: " in str(error.value)


def test_a_connection_that_breaks_or_hangs_is_asked_again(sam, server):
    server.answers(reset, server.hangs, reply("", "500 Internal Server Error"), page("502 Bad Gateway"), reply("42"))
    assert sam.count("file_id 1") == 42
    assert len(server.requests) == 5


@pytest.mark.parametrize("trouble", ["hangs", "reset", "500", "html", "proxy_404", "half_json", "not_a_number", "rate"])
def test_what_is_no_answer_is_never_taken_for_one(hasty, server, trouble):
    action: Action = {
        "hangs": server.hangs,
        "reset": reset,
        "500": no("500 Internal Server Error", "Oops"),
        "html": page("200 OK"),
        "proxy_404": page("404 Not Found"),
        "half_json": json('[{"file_na'),
        "not_a_number": reply("Service will be back soon"),
        "rate": reply("slow down", "429 Too Many Requests"),
    }[trouble]
    server.answers(action)
    asks = [lambda: hasty.count("file_id 1"), lambda: hasty.records(["a"]), lambda: hasty.find_project("p")]
    for ask in asks:
        with pytest.raises(SamUnavailable):
            ask()


def test_a_login_page_is_not_taken_for_a_declaration(hasty, server):
    server.answers(page("200 OK"))
    with pytest.raises(SamUnavailable, match="something else than SAM"):
        hasty.declare(DECLARATION)


def test_a_404_without_sams_own_words_is_not_absence(hasty, server):
    unrouted = '{"error": "HTTPNotFound", "message": "no such page"}'
    for body in ("", "Not Found", '{"detail": "Not Found"}', unrouted):
        server.answers(reply(body, "404 Not Found", "application/json" if body[:1] == "{" else "text/plain"))
        with pytest.raises(SamUnavailable, match="is its URL right"):
            hasty.definition("d")


def test_sams_own_404_is_absence(sam, server):
    server.answers(no("404 Not Found", "DefinitionNotFound", "Definition 'd' not found"))
    with pytest.raises(SamAbsent, match="Definition 'd' not found") as error:
        sam.definition("d")
    assert (error.value.kind, error.value.status, len(server.requests)) == ("DefinitionNotFound", 404, 1)
    assert sam.find_project("p") is None


@pytest.mark.parametrize("status", ["400 Bad Request", "403 Forbidden", "409 Conflict", "418 Teapot"])
def test_a_refusal_is_told_at_once_and_in_sams_words(sam, server, status):
    server.answers(no(status, "SomeError", "because so"))
    with pytest.raises(SamRefused, match="because so") as error:
        sam.count("file_id 1")
    assert (error.value.kind, error.value.status, len(server.requests)) == ("SomeError", int(status[:3]), 1)


def test_a_refusal_in_plain_text_keeps_its_words(sam, server):
    server.answers(reply("not your file\n", "403 Forbidden"))
    with pytest.raises(SamRefused, match=r"not your file[\s\S]*remedy: this account may not do that"):
        sam.retire("a.root")


def test_not_let_in_is_no_refusal_of_what_was_asked_and_is_not_tried_again_at_once(sam, server):
    server.answers(reply("certificate expired\n", "401 Unauthorized"))
    with pytest.raises(SamUnavailable, match=r"certificate expired[\s\S]*remedy: renew the token"):
        sam.retire("a.root")
    assert len(server.requests) == 1


def test_a_redirect_is_never_followed_since_a_write_would_become_a_read(sam, server):
    server.answers(reply("", "302 Found", Location="https://new.example.org/sam"))
    with pytest.raises(SamRefused, match=r"moved to https://new\.example\.org/sam[\s\S]*correct the URL"):
        sam.declare(DECLARATION)
    assert len(server.requests) == 1


@pytest.mark.parametrize("url", ["ftp://sam.example.org", "sam.example.org", "http://", "http://a\x00b/"])
def test_a_url_that_is_none_is_refused_at_once(url):
    with pytest.raises(SamRefused, match="correct the URL"):
        Sam(url, patience_s=60).count("file_id 1")


# --- waiting as SAM asks ------------------------------------------------------------------------------------------


@pytest.fixture
def waits() -> Iterator[list[float]]:
    """The seconds of each wait between two tries."""
    found: list[float] = []
    stamina.instrumentation.set_on_retry_hooks([lambda details: found.append(details.wait_for)])
    yield found
    stamina.instrumentation.set_on_retry_hooks(None)


def test_retry_after_is_obeyed(sam, server, waits):
    server.answers(reply("", "503 Service Unavailable", Retry_After="1"), reply("7"))
    assert sam.count("file_id 1") == 7
    assert waits == [1.0]


def test_retry_after_may_be_a_date_or_nonsense(sam, server, waits):
    soon = format_datetime(datetime.now(UTC) - timedelta(hours=1), usegmt=True)
    busy = [reply("", "503 Service Unavailable", Retry_After=text) for text in (soon, "in a while", "0")]
    server.answers(*busy, reply("7"))
    assert sam.count("file_id 1") == 7
    assert waits == pytest.approx([0, 0.04, 0])


def test_a_wait_beyond_our_patience_is_not_begun(sam, server, waits):
    server.answers(reply("", "503 Service Unavailable", Retry_After="3600"))
    with pytest.raises(SamUnavailable, match="503"):
        sam.count("file_id 1")
    assert waits == [] and len(server.requests) == 1


def test_what_sam_asked_for_is_kept_by_the_next_calls_too(server, monkeypatch):
    sam = Sam(server.url, timeout_s=0.5, patience_s=0.1)
    server.answers(reply("", "503 Service Unavailable", Retry_After="1"), reply("7"))
    with pytest.raises(SamUnavailable, match="503"):
        sam.count("file_id 1")
    for ask in (sam.server_info, lambda: list(sam.files("file_id 1")), lambda: sam.declare(DECLARATION)):
        with pytest.raises(SamUnavailable, match="left alone for 1 s more"):
            ask()
    assert len(server.requests) == 1
    time.sleep(1)
    assert sam.count("file_id 1") == 7
    monkeypatch.setattr("keepupd.clients.http.REST_MOST_S", 0.01)
    server.answers(reply("", "503 Service Unavailable", Retry_After="86400"), reply("7"))
    with pytest.raises(SamUnavailable, match="503"):
        sam.count("file_id 1")
    time.sleep(0.02)
    assert sam.count("file_id 1") == 7


def test_a_reply_that_drips_for_ever_is_given_up(server):
    over = threading.Event()

    def drips(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 100000\r\n\r\n")
        with suppress(OSError):
            while not over.wait(0.02):
                connection.sendall(b"1")

    server.answers(drips)
    sam = Sam(server.url, timeout_s=0.3, patience_s=0.1)
    with pytest.raises(SamUnavailable, match="does not come to its end"):
        sam.count("file_id 1")
    over.set()


# --- lists that are cut -------------------------------------------------------------------------------------------


LIST = "a.root\t1\t10\t5\nb b.root\t2\t20\t0\n"
FILES = [CatalogFile("a.root", 1, 10, 5), CatalogFile("b b.root", 2, 20, 0)]


def chunked(*chunks: str, end: bool = True) -> bytes:
    body = b"".join(f"{len(chunk.encode()):x}\r\n{chunk}\r\n".encode() for chunk in chunks) + (
        b"0\r\n\r\n" if end else b""
    )
    return (
        b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n" + body
    )


@pytest.mark.parametrize("shape", ["whole", "no_last_newline", "chunked", "to_the_end", "blanks", "crlf"])
def test_a_whole_list(sam, server, shape):
    server.answers(
        {
            "whole": reply(LIST),
            "no_last_newline": reply(LIST.rstrip("\n")),
            "chunked": chunked(LIST[:9], LIST[9:]),
            "to_the_end": reply(LIST, Content_Length=""),
            "blanks": reply(LIST.replace("\t", "  ")),
            "crlf": reply(LIST.replace("\n", "\r\n")),
        }[shape]
    )
    assert list(sam.files("file_id 1,2")) == FILES


@pytest.mark.parametrize("cut", ["length", "chunks", "in_a_line", "in_a_number", "strange_line", "no_text"])
def test_a_cut_list_is_never_taken_for_a_short_one(hasty, server, cut):
    server.answers(
        {
            "length": reply(LIST, Content_Length=str(len(LIST) + 1)),
            "chunks": chunked(LIST, end=False),
            "in_a_line": reply(LIST[:-6], Content_Length=""),
            "in_a_number": reply(LIST[:-1], Content_Length=""),
            "strange_line": reply(LIST + "Internal error\n"),
            "no_text": reply(LIST.encode() + b"\xff\xfe\t1\t1\t1\n"),
        }[cut]
    )
    with pytest.raises(SamUnavailable):
        list(hasty.definition_files("d"))


def test_a_list_is_asked_for_again_only_before_its_first_line(sam, server):
    server.answers(no("503 Busy", "Busy"), reset, reply(LIST, Content_Length="999"), reply(LIST))
    stream = sam.files("file_id 1,2")
    assert next(stream) == FILES[0]
    with pytest.raises(SamUnavailable):
        list(stream)
    assert len(server.requests) == 3


def test_a_refused_list_says_why(sam, server):
    server.answers(no("400 Bad Request", "DimensionError", "no dimension 'fil_id'"))
    with pytest.raises(SamRefused, match="no dimension 'fil_id'"):
        list(sam.files("fil_id 1"))


def test_names_may_hold_what_python_takes_for_line_ends(sam, server):
    name = "a\u2028b\x0cc\x85d.root"
    server.answers(reply(f"{name}\t1\t2\t3\n"))
    assert [file.name for file in sam.files("file_id 1")] == [name]


def test_a_long_list_is_streamed():
    made = []

    def blocks() -> Iterator[bytes]:
        for number in range(1000):
            made.append(number)
            yield f"f{number}.root\t{number}\t1\t1\n".encode()

    sam = Sam("http://sam.example.org", transport=httpx.MockTransport(lambda _: httpx.Response(200, content=blocks())))
    files = sam.files("file_name f%")
    assert next(files).name == "f0.root" and len(made) <= 2
    assert sum(1 for _ in files) == 999


# --- lost replies -------------------------------------------------------------------------------------------------


def test_a_declaration_whose_reply_was_lost_ends_well(sam, server):
    server.answers(reset, no("409 Conflict", "FileAlreadyExists"), json(RECORD))
    sam.declare(DECLARATION)
    assert server.asked() == ["POST /files", "POST /files", "POST /files/metadata"]


@pytest.mark.parametrize(
    "found", [RECORD.replace("00cd", "00ce"), RECORD.replace("12", "13"), "[]", RECORD.replace("adler32", "md5")]
)
def test_a_lost_reply_does_not_make_anothers_file_ours(sam, server, found):
    server.answers(reset, no("409 Conflict", "FileAlreadyExists"), json(found))
    with pytest.raises(SamRefused) as error:
        sam.declare(DECLARATION)
    assert error.value.kind == "FileAlreadyExists"


def test_a_taken_name_is_refused_even_if_the_content_is_equal(sam, server):
    server.answers(no("409 Conflict", "FileAlreadyExists"), json(RECORD))
    with pytest.raises(SamRefused) as error:
        sam.declare(DECLARATION)
    assert error.value.kind == "FileAlreadyExists" and len(server.requests) == 1


def test_a_project_is_not_started_twice(sam, server):
    url = "http://sam.example.org/projects/dune/p"
    server.answers(
        no("404 Not Found", "ProjectNotFound"), reset, no("409 Conflict", "ProjectExists"), reply(url + "\n")
    )
    assert sam.start_project("p", "d") == url
    assert [one.split("?")[0] for one in server.asked()] == [
        "GET /findProject", "POST /startProject", "POST /startProject", "GET /findProject",
    ]  # fmt: skip


def test_a_started_project_that_cant_be_found_yet_is_no_answer(sam, server):
    server.answers(
        no("404 Not Found", "ProjectNotFound"),
        no("409 Conflict", "ProjectExists"),
        no("404 Not Found", "ProjectNotFound"),
    )
    with pytest.raises(SamUnavailable, match="can't find it yet"):
        sam.start_project("p", "d")


def test_a_definition_whose_reply_was_lost_is_compared(sam, server):
    there = json('{"defname": "d", "dimensions": "file_id  1\\n"}')
    server.answers(reset, no("409 Conflict", "DefinitionExists"), there)
    sam.create_definition("d", "file_id 1")
    server.answers(no("409 Conflict", "DefinitionExists"), there)
    with pytest.raises(DefinitionDiffers, match="file_id 2"):
        sam.create_definition("d", "file_id 2")


def test_a_rename_whose_reply_was_lost_ends_well(sam, server):
    gone, there = no("404 Not Found", "DefinitionNotFound"), json('{"dimensions": "file_id 1"}')
    server.answers(reset, gone, gone, there)
    sam.rename_definition("old", "new")
    server.answers(gone, gone, gone)
    with pytest.raises(SamAbsent):
        sam.rename_definition("old", "new")
    server.answers(no("409 Conflict", "DefinitionExists"), there, there)
    with pytest.raises(SamRefused):
        sam.rename_definition("old", "new")


def test_setting_up_twice_is_quiet(sam, server):
    server.answers(no("409 Conflict", "AlreadyExists"))
    sam.register_parameter("DUNE.campaign")
    sam.register_value("data_tiers", "raw")
    sam.register_application("art", "reco", "v1")
    sam.register_data_disk("demo:/data", ["root://localhost:1094/"])
    assert parse_qs(server.requests[-1][3]) == {"mountpoint": ["demo:/data"], "url_prefix": ["root://localhost:1094/"]}


# --- what is sent -------------------------------------------------------------------------------------------------


def test_every_request_says_who_asks(sam, server):
    server.answers(reply("1"))
    sam.count("file_id 1")
    sam.retire("a.root")
    reading, writing = server.requests[0][2], server.requests[1][2]
    assert reading["accept"] == "application/json"
    assert re.fullmatch(r"keepupd/\S+ python/3\.\S+ httpx/\S+", reading["user-agent"])
    assert reading["from"] == f"keeper@{socket.gethostname()}"
    assert (reading["sam-role"], writing["sam-role"], writing["content-length"]) == ("default", "*", "0")


def test_writes_go_where_writes_belong(server):
    asked = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(f"{request.method} {request.url.host}")
        return httpx.Response(200, text="1")

    sam = Sam("http://read.example.org/api", "https://write.example.org/api", transport=httpx.MockTransport(answer))
    sam.count("file_id 1")
    sam.modify("a.root", {"content_status": "bad"})
    sam.create_definition("d", "file_id 1")
    assert asked == ["GET read.example.org", "PUT write.example.org", "POST write.example.org"]


def test_a_token_goes_over_https_alone_and_into_no_log(tmp_path, monkeypatch, caplog):
    (tmp_path / "token").write_text("s3cret\n")
    monkeypatch.setenv("BEARER_TOKEN_FILE", str(tmp_path / "token"))
    sent = []

    def answer(request: httpx.Request) -> httpx.Response:
        sent.append(request.headers.get("authorization"))
        return httpx.Response(503 if len(sent) == 1 else 403, json={"error": "E", "message": "m"})

    caplog.set_level("DEBUG")
    for scheme in ("https", "http"):
        with pytest.raises(SamRefused) as error:
            Sam(f"{scheme}://sam.example.org/api", transport=httpx.MockTransport(answer)).count("file_id 1")
        assert "s3cret" not in str(error.value) + repr(error.value)
    assert sent == ["Bearer s3cret", "Bearer s3cret", None]
    assert "s3cret" not in caplog.text


def test_a_renewed_token_is_used_at_once(tmp_path, monkeypatch):
    monkeypatch.setenv("BEARER_TOKEN_FILE", str(tmp_path / "token"))
    sent = []

    def answer(request: httpx.Request) -> httpx.Response:
        sent.append(request.headers.get("authorization"))
        return httpx.Response(200, text="1")

    sam = Sam("https://sam.example.org/api", transport=httpx.MockTransport(answer))
    for token in ("one", "two"):
        (tmp_path / "token").write_text(token)
        sam.count("file_id 1")
    assert sent == ["Bearer one", "Bearer two"]


def test_long_queries_go_by_post(sam, server):
    server.answers(reply("1"))
    short, long = "file_id 1", "file_id " + ",".join(map(str, range(1000, 1300)))
    assert [sam.count(short), sam.count(long)] == [1, 1]
    server.answers(reply(LIST))
    assert list(sam.files(long)) == FILES
    assert server.asked() == [
        "GET /files/count?dims=file_id+1",
        "POST /files/count",
        "POST /files/list?format=plain&fileinfo=1",
    ]
    assert parse_qs(server.requests[1][3]) == parse_qs(server.requests[2][3]) == {"dims": [long]}


def test_records_are_asked_for_in_bulk_and_once_each(server):
    sam = Sam(server.url, bulk=500)
    server.answers(json("[]"))
    assert sam.records([f"f{n}" for n in range(1201)] + ["f0", "f1"]) == {}
    assert [len(parse_qs(body)["file_name"]) for *_, body in server.requests] == [500, 500, 201]
    server.requests.clear()
    assert sam.records([]) == {} and server.requests == []


@pytest.mark.parametrize("name", ["..", ".", "", "a/b", "../../startProject", "a\nb", "a\x00b", "\udcff"])
def test_a_name_that_would_change_the_path_is_not_sent(sam, server, name):
    server.answers(reply("1"))
    asks = [
        lambda: sam.retire(name), lambda: sam.modify(name, {}), lambda: sam.add_location(name, "n:/d"),
        lambda: sam.definition(name), lambda: sam.definition_count(name), lambda: list(sam.definition_files(name)),
        lambda: sam.delete_definition(name), lambda: sam.rename_definition("d", name), lambda: sam.summary(name),
        lambda: sam.create_definition(name, "file_id 1"), lambda: sam.values(name),
    ]  # fmt: skip
    for ask in asks:
        with pytest.raises(SamRefused) as error:
            ask()
        assert error.value.kind == "BadName"
    assert server.requests == []


def test_odd_names_are_one_segment_of_the_path(sam, server):
    server.answers(reply("ok"))
    sam.retire("100% of a?b#c;d=é&'\".root")
    assert server.asked() == ["POST /files/name/100%25%20of%20a%3Fb%23c%3Bd%3D%C3%A9%26%27%22.root/retired_date"]


@given(st.text(min_size=1))
def test_any_name_is_one_segment_or_refused(name):
    try:
        encoded = segment(name)
    except SamRefused:
        return
    path = httpx.URL(f"http://h/files/{encoded}/x").raw_path.decode()
    assert path == f"/files/{encoded}/x" and path.count("/") == 3


@given(st.text(alphabet=st.one_of(st.sampled_from("'\"\\% ?,()-\n"), st.characters())))
def test_a_quoted_value_cant_end_early(value):
    try:
        quoted = quote(value)
    except SamRefused as error:
        assert error.kind == "Unquotable" and ("\\" in value or not value.isprintable() or {"'", '"'} <= set(value))
        return
    mark = quoted[0]
    assert mark in "'\"" and quoted[-1] == mark and quoted[1:-1] == value
    assert mark not in value and "\\" not in value and "\n" not in value


# --- what is read -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given_as", "normal"),
    [
        ("adler32:ab00CD", "adler32:00ab00cd"), ("ADLER32: 00ab00cd", "adler32:00ab00cd"), ("crc:17", "enstore:17"),
        ("adler32:0x1f", "adler32:0000001f"), ("md5:ABC", "md5:abc"), ("enstore:0017", "enstore:17"),
    ],
)  # fmt: skip
def test_a_checksum_has_one_spelling(given_as, normal):
    assert normal_checksum(given_as) == normal


def test_checksums_agree_where_an_algorithm_is_shared_and_none_differs():
    assert same_content(["adler32:1f"], ["md5:aa", "adler32:0000001F"])
    assert not same_content(["adler32:1f"], ["md5:aa"])
    assert not same_content(["adler32:1f", "md5:aa"], ["md5:ab", "adler32:1f"])
    assert not same_content([], [])


def test_a_record_in_all_its_historic_spellings():
    old = record_of(
        {"file_name": "a", "file_id": 1, "file_size": "12", "crc": {"crc_value": 17, "crc_type": "adler 32"}}
    )
    assert (old.size, old.checksums, old.locations, old.good, old.retired) == (12, ("enstore:17",), (), True, False)
    tape = {"full_path": "enstore:/pnfs/raw/00", "location": "enstore:/pnfs/raw/00(602@vpe776)"}
    new = record_of(
        {
            "file_name": "a", "file_id": 1, "checksum": "adler32:1f", "content_status": "bad", "event_count": None,
            "locations": [tape, {"full_path": "dcache:/x"}], "retired_date": "2024-01-01T00:00:00+00:00",
            "parents": [{"file_name": "p.root", "file_id": 3}],
        }
    )  # fmt: skip
    assert new.locations == ("enstore:/pnfs/raw/00(602@vpe776)", "dcache:/x") and new.parents == ("p.root",)
    assert (new.checksums, new.events, new.good, new.retired) == (("adler32:0000001f",), 0, False, True)


def test_prefixes_are_taken_literally_whatever_sam_makes_of_them(sam, server):
    server.answers(reply("u1_a\nu1xa\nu1_b\n"))
    assert sam.definitions("u1_") == ["u1_a", "u1_b"]
    assert server.asked() == ["GET /definitions/list?format=plain&defname=u1_%25"]


def test_open_projects_are_those_that_have_not_ended(sam, server):
    server.answers(reply("p1\np2\np3\n"), reply("p2\n"))
    assert sam.projects("p", open_only=True) == ["p1", "p3"]
    assert server.asked()[1] == "GET /projects?format=plain&name=p%25&ended_after=1970-01-01T00%3A00%3A00"


def test_a_location_that_is_not_there_is_removed_quietly(sam, server):
    refusal = no("400 Bad Request", "LocationNotFound")
    server.answers(refusal, json(RECORD))
    sam.remove_location("a.root", "n:/d")
    held = json(RECORD.replace("}]", ', "locations": [{"location": "n:/d", "full_path": "n:/d"}]}]'))
    for records in (json("[]"), held):
        server.answers(refusal, records)
        with pytest.raises(SamRefused):
            sam.remove_location("a.root", "n:/d")
