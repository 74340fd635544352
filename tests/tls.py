"""A grid for tests: an authority, certificates, a true RFC 3820 proxy, and an HTTPS server that notes who asks."""

import socket
import ssl
import subprocess
import threading
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

CA = "basicConstraints=critical,CA:true\nkeyUsage=critical,keyCertSign,cRLSign\nsubjectKeyIdentifier=hash\n"
LEAF = "basicConstraints=CA:false\nkeyUsage=critical,digitalSignature\nauthorityKeyIdentifier=keyid\n"
SERVER = LEAF + "subjectAltName=IP:127.0.0.1\n"
PROXY = "keyUsage=critical,digitalSignature\nproxyCertInfo=critical,language:id-ppl-inheritAll\n"


class Grid:
    """Files are made below `folder`; `authorities` is what X509_CERT_DIR names."""

    def __init__(self, folder: Path):
        self.folder, self.authorities = folder, folder / "authorities"
        self.authorities.mkdir()
        self.makes("ca", "/CN=Test Grid CA", CA)
        digest = self.openssl("x509", "-hash", "-noout", "-in", "ca.pem").strip()
        (self.authorities / f"{digest}.0").write_text(self.text("ca.pem"))
        self.makes("server", "/CN=sam", SERVER, "ca")

    def openssl(self, *words: str) -> str:
        done = subprocess.run(["openssl", *words], cwd=self.folder, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def text(self, name: str) -> str:
        return (self.folder / name).read_text()

    def makes(self, name: str, subject: str, extensions: str, issuer: str | None = None) -> None:
        """name.pem and name.key, signed by the issuer or by itself."""
        (self.folder / f"{name}.ext").write_text(extensions)
        self.openssl("req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout",
                     f"{name}.key", "-out", f"{name}.csr", "-subj", subject)  # fmt: skip
        by = ["-CA", f"{issuer}.pem", "-CAkey", f"{issuer}.key"] if issuer else ["-signkey", f"{name}.key"]
        serial = str(abs(hash((name, subject))) % 10**9 + 1)
        self.openssl("x509", "-req", "-in", f"{name}.csr", *by, "-set_serial", serial, "-days", "2", "-extfile",
                     f"{name}.ext", "-out", f"{name}.pem")  # fmt: skip

    def proxy(self, user: str, number: int) -> str:
        """The text of a proxy file: the proxy's certificate and key, then the user's certificate."""
        if not (self.folder / f"{user}.pem").exists():
            self.makes(user, f"/CN={user}", LEAF, "ca")
        name = f"{user}-{number}"
        self.makes(name, f"/CN={user}/CN={number}", PROXY, user)
        return self.text(f"{name}.pem") + self.text(f"{name}.key") + self.text(f"{user}.pem")

    def guards(self, listener: socket.socket) -> ssl.SSLSocket:
        """The listener of a server, from now on by TLS; it takes certificates and proxies, and goes without."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.folder / "server.pem", self.folder / "server.key")
        context.load_verify_locations(self.folder / "ca.pem")
        context.verify_mode, context.verify_flags = ssl.CERT_OPTIONAL, ssl.VERIFY_ALLOW_PROXY_CERTS
        return context.wrap_socket(listener, server_side=True, do_handshake_on_connect=False)


@dataclass
class Asked:
    """A request, and by whom: the common names of the certificate shown, joined by /."""

    method: str
    path: str
    headers: dict[str, str]
    body: str
    who: str


Answer = Callable[[BaseHTTPRequestHandler, Asked], tuple[int, str]]


class Server:
    """HTTP, or HTTPS where a grid is given. `answers` gives status and body; status 0: it has written them itself."""

    def __init__(self, grid: Grid | None = None, answers: Answer = lambda *_: (200, "7")):
        self.asked: list[Asked] = []
        self.answers = answers
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.server.daemon_threads = True
        if grid:
            self.server.socket = grid.guards(self.server.socket)
        self.url = f"{'https' if grid else 'http'}://127.0.0.1:{self.server.server_port}/sam/dune/api"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True)
        self.thread.start()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version, disable_nagle_algorithm, timeout = "HTTP/1.1", True, 20

            def log_message(self, *_: object) -> None:
                """Quiet."""

            def answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
                headers = {key.lower(): value for key, value in self.headers.items()}
                asked = Asked(self.command, self.path, headers, body, shown(self.connection))
                server.asked.append(asked)
                status, text = server.answers(self, asked)
                if status:
                    self.send_response(status)
                    self.send_header("Content-Type", "text/plain" if text[:1] not in "[{" else "application/json")
                    self.send_header("Content-Length", str(len(text)))
                    self.end_headers()
                    self.wfile.write(text.encode())

            do_GET = do_POST = do_PUT = do_DELETE = answer

        return Handler

    def ends(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join(10)


def shown(connection: object) -> str:
    certificate = connection.getpeercert() if isinstance(connection, ssl.SSLSocket) else None
    return "/".join(value for part in (certificate or {}).get("subject", ()) for _, value in part)
