"""Who we are to SAM: the bearer token and the grid certificate, looked for where samweb and ifdh look for them, and the
connections that show it.

Both are renewed under our feet, so each request looks at the files anew. Neither ever goes over plain http, nor into a
log, an error, a repr or a command line: errors here name the file and never what is in it.
"""

import os
import re
import ssl
import threading
from dataclasses import dataclass
from pathlib import Path

import httpx

from keepupd.core.errors import SamUnavailable

TOKEN = re.compile(r"[A-Za-z0-9._~+/-]+=*")  # RFC 6750, 2.1; anything else would be quoted in errors about headers
AT_ONCE = httpx.Limits(max_connections=8, max_keepalive_connections=8, keepalive_expiry=30)  # calls of one process


class NotLetIn(SamUnavailable):
    """Without credentials that SAM takes nothing is known of it: as when it is silent, nothing moves. Not tried again
    at once, since renewing them takes longer; when they are renewed all goes on by itself."""

    def __init__(self, problem: str):
        super().__init__(
            problem,
            "renew the token (BEARER_TOKEN_FILE) or proxy (X509_USER_PROXY) of the account that runs this; "
            "keepupd then goes on by itself",
        )


def bearer_token() -> str | None:
    """By the WLCG Bearer Token Discovery, and ifdh's /run/user. Raises NotLetIn."""
    name = f"bt_u{os.getuid()}"
    folders = (os.environ.get("XDG_RUNTIME_DIR") or f"/run/user/{os.getuid()}", "/tmp")
    for file in (os.environ.get("BEARER_TOKEN_FILE", ""), *(f"{folder}/{name}" for folder in folders)):
        if file and Path(file).is_file():
            return _token_in(Path(file))
    return None


def _token_in(file: Path) -> str:
    try:
        token = file.read_bytes().decode("ascii", "replace").strip()
    except OSError as error:
        raise NotLetIn(f"can't read the bearer token in {file}: {error.strerror}") from None
    if not TOKEN.fullmatch(token):
        raise NotLetIn(f"{file} holds no bearer token: " + ("it is empty" if not token else "it is of another form"))
    return token


@dataclass(frozen=True, slots=True)
class Certificate:
    """A certificate's file and its key's; `stamps` tell a renewed one from the old."""

    file: str
    key: str
    stamps: tuple[tuple[int, ...], ...]


def certificate() -> Certificate | None:
    """X509_USER_PROXY, X509_USER_CERT with X509_USER_KEY, or /tmp/x509up_u<uid>. Raises NotLetIn.

    The last one, which nobody asked for, only where there is no token: SAM's door shuts at a proxy that has expired.
    """
    proxy, usual = os.environ.get("X509_USER_PROXY"), f"/tmp/x509up_u{os.getuid()}"
    cert, key = os.environ.get("X509_USER_CERT"), os.environ.get("X509_USER_KEY")
    if proxy or (cert and key):
        return _certificate_in(proxy or str(cert), proxy or str(key))
    if Path(usual).is_file() and bearer_token() is None:
        return _certificate_in(usual, usual)
    return None


def _certificate_in(file: str, key: str) -> Certificate:
    try:
        found = [Path(path).stat() for path in (file, key)]
    except OSError as error:
        raise NotLetIn(f"can't find the grid certificate {error.filename}: {error.strerror}") from None
    return Certificate(file, key, tuple((one.st_mtime_ns, one.st_ino, one.st_size) for one in found))


def tls_context(who: Certificate | None) -> ssl.SSLContext:
    """Verify SAM by the system's authorities (or SSL_CERT_FILE, SSL_CERT_DIR) and the grid's in X509_CERT_DIR; show
    `who` we are. Takes 50 ms. Raises NotLetIn."""
    context = ssl.create_default_context()
    if folder := os.environ.get("X509_CERT_DIR"):
        context.load_verify_locations(capath=folder)
    if who is not None:
        try:
            context.load_cert_chain(who.file, who.key, password="")  # else OpenSSL asks on the terminal for one
        except OSError as error:  # ssl.SSLError is one
            raise NotLetIn(f"the grid certificate {who.file} can't be used: {error.strerror or error}") from None
    return context


class Connections(httpx.BaseTransport):
    """Connections to SAM. Those by TLS show a certificate, so a renewed one begins new ones; the calls that are under
    way on the old ones, lists that are being read, are left in peace until the next renewal."""

    def __init__(self) -> None:
        nobody = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # trusts none: the plain connections never need it
        self._plain = httpx.HTTPTransport(verify=nobody, limits=AT_ONCE, trust_env=False)
        self._secure: list[tuple[Certificate | None, httpx.HTTPTransport]] = []  # at most two, the newest last
        self._lock = threading.Lock()

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Raises NotLetIn when the certificate can't be used."""
        if request.url.scheme != "https":
            return self._plain.handle_request(request)
        return self._as(certificate()).handle_request(request)

    def _as(self, who: Certificate | None) -> httpx.HTTPTransport:
        with self._lock:
            if not self._secure or self._secure[-1][0] != who:
                # trust_env is off: the http_proxy of a grid site is a cache, and a stale answer is worse than none
                made = httpx.HTTPTransport(verify=tls_context(who), limits=AT_ONCE, trust_env=False)
                self._secure.append((who, made))
                for _, old in self._secure[:-2]:
                    old.close()
                del self._secure[:-2]
            return self._secure[-1][1]

    def close(self) -> None:
        for transport in (self._plain, *(made for _, made in self._secure)):
            transport.close()
