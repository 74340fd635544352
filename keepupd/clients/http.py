"""One HTTP exchange with SAM: try again while nobody answers, and tell "SAM says no" from "SAM does not answer".

An answer is a 2xx, or a 4xx whose body is SAM's own: JSON with `error` and `message`. Connection errors, time-outs,
5xx, cut or unreadable replies and pages of some proxy are no answer: they are retried until our patience ends. Never
log headers here: one may hold a token.
"""

import logging
import platform
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar

import httpx
import stamina

from keepupd import __version__
from keepupd.clients.credentials import Connections, NotLetIn, bearer_token
from keepupd.core.errors import SamAbsent, SamRefused, SamUnavailable

log = logging.getLogger(__name__)
T = TypeVar("T")
Form = Mapping[str, str | Sequence[str]]
NO_SUCH_PAGE = "HTTPNotFound"  # what SAM calls a 404 about the address; the others name what is absent
ASK_LATER = (408, 425, 429)  # 4xx by their number, but they say "try again"
WAIT_FIRST_S, WAIT_MOST_S, WAIT_JITTER_S = 0.2, 20, 0.2
REST_MOST_S = 600  # the longest Retry-After we believe: beyond that a person should see that SAM is back
AGENT = f"keepupd/{__version__} python/{platform.python_version()} httpx/{httpx.__version__}"
REMEDIES = {
    301: "SAM has moved: correct the URL of SAM in the configuration",
    403: "this account may not do that in SAM: check its token, and its registration with SAM",
    404: "check the name; `keepupctl why NAME` shows where it comes from",
    409: "SAM holds something else of that name: compare the two",
}


class NoAnswer(SamUnavailable):
    """One try without an answer. `wait_s` is SAM's own wish (Retry-After), in seconds."""

    def __init__(self, problem: str, wait_s: float | None = None):
        remedy = "keepupd tries again by itself; `keepupctl status` shows if SAM is back"
        if "[SSL" in problem:
            remedy += "; if it stays: renew token and proxy, and see that X509_CERT_DIR has SAM's authority"
        super().__init__(problem, remedy)
        self.wait_s = wait_s


class Conflict(SamRefused):
    """409: SAM holds something else already, or the same. `tries` above 1: it may be our own, its reply lost."""

    tries = 1


@dataclass(frozen=True, slots=True)
class Reply:
    text: str
    json: Any  # None unless the reply says that it is JSON


class Http:
    """Thread-safe. `timeout_s` limits one silence of the server, `patience_s` when the last try may start; SAM's own
    wish to be left alone (Retry-After) is kept beyond the end of a call."""

    def __init__(self, user: str, timeout_s: float, patience_s: float, transport: httpx.BaseTransport | None = None):
        self.timeout_s, self.patience_s = timeout_s, patience_s
        self._rest_until = 0.0  # time.monotonic
        headers = {"Accept": "application/json", "From": f"{user}@{socket.gethostname()}", "User-Agent": AGENT}
        self._client = httpx.Client(
            headers=headers, auth=_signed, timeout=timeout_s, trust_env=False, transport=transport or Connections()
        )

    def close(self) -> None:
        self._client.close()

    def ask(
        self,
        method: str,
        url: str,
        *,
        params: Form | None = None,
        form: Form | None = None,
        json: Any = None,
        role: str = "default",
        read: Callable[[Reply], T],
    ) -> T:
        """Ask until answered; `read` makes the result of the reply, and any error in it is a garbled reply.

        Raises SamUnavailable (NotLetIn when it is about our credentials), SamRefused, SamAbsent or Conflict.
        """
        request = self._build(method, url, params, form, json, role)

        def once(tries: int, ends: float) -> T:
            try:
                with _answered(request):
                    response = self._whole(request, ends)
                    _check(response)
                    return read(Reply(response.text, _json(response)))
            except Conflict as error:
                error.tries = tries
                raise

        return self._patiently(once)

    @contextmanager
    def stream(self, method: str, url: str, params: Form, form: Form | None = None) -> Iterator[Iterator[str]]:
        """Ask until answered, then give the lines of the reply as they come. A cut reply raises SamUnavailable."""
        request = self._build(method, url, params, form)

        def once(_tries: int, _ends: float) -> httpx.Response:
            with _answered(request):
                response = self._client.send(request, stream=True)
                with _closed_on_error(response):
                    if not response.is_success:
                        response.read()
                    _check(response)
                return response

        response = self._patiently(once)
        try:
            with _answered(request):
                yield _lines(response)
        finally:
            response.close()

    def _whole(self, request: httpx.Request, ends: float) -> httpx.Response:
        """The reply with its body. A byte now and then keeps the time-out from striking, so there is an end to it."""
        with closing(self._client.send(request, stream=True)) as response:
            body = bytearray()
            for block in response.iter_bytes():
                body += block
                if time.monotonic() > ends:
                    raise NoAnswer(f"SAM's reply to {_where(request)} does not come to its end")
        headers = [(k, v) for k, v in response.headers.multi_items() if k != "content-encoding"]
        return httpx.Response(response.status_code, headers=headers, content=bytes(body), request=request)

    def _build(
        self, method: str, url: str, params: Form | None, form: Form | None, json: Any = None, role: str = "default"
    ) -> httpx.Request:
        """A request may be sent again: all its body is in memory. Raises SamRefused when it can't be written."""
        try:
            return self._client.build_request(
                method, url, params=params, data=form, json=json, headers={"SAM-Role": role}
            )
        except (httpx.InvalidURL, ValueError) as error:
            raise SamRefused(
                f"{method} {url!r} can't be sent to SAM: {_words(error)}",
                "correct the URL of SAM in the configuration, or the name, which has characters SAM can't hold",
                kind="BadRequest",
            ) from None

    def _patiently(self, once: Callable[[int, float], T]) -> T:
        """Call `once` with the number of the try and the monotonic time when it must be over.

        Raises the last NoAnswer when patience ends, or at once when SAM asks for a longer wait than that.
        """
        ends = time.monotonic() + self.patience_s
        if (rest_s := self._rest_until - time.monotonic()) > 0:
            raise NoAnswer(f"SAM asked to be left alone for {rest_s:.0f} s more (Retry-After)")

        def again(error: Exception) -> bool | float:
            if not isinstance(error, NoAnswer):
                return False
            if time.monotonic() + (error.wait_s or 0) >= ends:
                self._rest_until = time.monotonic() + min(error.wait_s or 0, REST_MOST_S)
                return False
            log.warning("%s; trying again", error.problem)
            return True if error.wait_s is None else error.wait_s

        tries = stamina.retry_context(
            on=again,
            attempts=None,
            timeout=self.patience_s,
            wait_initial=WAIT_FIRST_S,
            wait_max=WAIT_MOST_S,
            wait_jitter=WAIT_JITTER_S,
        )
        for attempt in tries:
            with attempt:
                return once(attempt.num, ends + self.timeout_s)
        raise AssertionError("stamina ends with a result or an error")


@contextmanager
def _answered(request: httpx.Request) -> Iterator[None]:
    """Turn every way of not being answered into NoAnswer, which says where and what."""
    where = _where(request)
    try:
        yield
    except httpx.UnsupportedProtocol as error:
        raise SamRefused(f"can't ask SAM at {where}: {error}", "correct the URL of SAM in the configuration") from None
    except httpx.HTTPError as error:
        raise NoAnswer(f"SAM does not answer {where}: {_words(error)}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise NoAnswer(f"SAM's reply to {where} is garbled: {_words(error)}") from error


@contextmanager
def _closed_on_error(response: httpx.Response) -> Iterator[None]:
    try:
        yield
    except BaseException:
        response.close()
        raise


def _where(request: httpx.Request) -> str:
    return f"{request.method} {request.url.copy_with(query=None)}"


def _words(error: Exception) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def _check(response: httpx.Response) -> None:
    """Raises NoAnswer, NotLetIn, SamRefused, SamAbsent or Conflict unless this is a success of SAM itself."""
    status, where = response.status_code, _where(response.request)
    if response.is_success:
        if _is_page(response):
            raise NoAnswer(f"something else than SAM answered {where}: a page of HTML")
        return
    if status >= 500 or status in ASK_LATER:
        raise NoAnswer(f"SAM answered {where} with {status}: {_said(response)}", _retry_after_s(response))
    error = _sams_error(response)
    if status == 404 and (not error or error[0] == NO_SUCH_PAGE):  # a wrong URL, a proxy's: not the absence of a file
        raise NoAnswer(f"something else than SAM answered {where} with 404: {_said(response)}; is its URL right?")
    kind, words = error or ("", _said(response))
    if status == 401:
        raise NotLetIn(f"SAM does not let us in at {where} (401 {kind}): {words}")
    if response.is_redirect:
        words = f"moved to {response.headers.get('location', 'nowhere')}"
    refusal = {404: SamAbsent, 409: Conflict}.get(status, SamRefused)
    remedy = REMEDIES.get(301 if response.is_redirect else status, "correct the request")
    raise refusal(f"SAM refused {where} ({status} {kind}): {words}", remedy, kind, status)


def _is_page(response: httpx.Response) -> bool:
    return bool(response.headers.get("content-type", "").startswith("text/html"))


def _sams_error(response: httpx.Response) -> tuple[str, str] | None:
    """SAM's name of the error and its words, where the body is SAM's."""
    try:
        body = response.json()
        return str(body["error"]), str(body["message"])
    except (ValueError, KeyError, TypeError):
        return None


def _said(response: httpx.Response) -> str:
    """The reply's own words in one line, for people."""
    error = _sams_error(response)
    text = error[1] if error else response.text
    if _is_page(response):
        text = f"{response.reason_phrase} (a page of HTML)"
    return " ".join(text.split())[:300] or response.reason_phrase


def _json(response: httpx.Response) -> Any:
    is_json = response.headers.get("content-type", "").startswith("application/json")
    return response.json() if is_json else None


def _retry_after_s(response: httpx.Response) -> float | None:
    """Seconds to wait; the header holds seconds or a date (RFC 9110, 10.2.3). None when absent or nonsense."""
    text = response.headers.get("retry-after", "").strip()
    if text.isdecimal():
        return float(text)
    try:
        when = parsedate_to_datetime(text)
        return max(0.0, (when - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):
        return None


def _lines(response: httpx.Response) -> Iterator[str]:
    """Split at newlines alone: file names may hold what str.splitlines takes for the end of a line."""
    rest = b""
    for block in response.iter_bytes():
        *whole, rest = (rest + block).split(b"\n")
        yield from (line.decode().rstrip("\r") for line in whole)
    framed = "content-length" in response.headers or "transfer-encoding" in response.headers
    if rest and not framed:
        raise ValueError("it ends in the middle of a line")
    if rest:
        yield rest.decode().rstrip("\r")


def _signed(request: httpx.Request) -> httpx.Request:
    """Add the bearer token where there is one, over https alone: in the clear it would be anybody's."""
    if request.url.scheme == "https" and (token := bearer_token()):
        request.headers["Authorization"] = f"Bearer {token}"
    return request
