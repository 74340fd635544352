"""A real XRootD server on free ports, for tests and by hand: disk, a tape that is slow, checksums, and WebDAV.

    python tests/pools/xrootd.py up DIR       # prints its URLs; Ctrl-C, or the end of its parent, takes it down

Needs Debian's xrootd-server and xrootd-client. As root it runs as `nobody`, since it refuses root, and DIR must lie
where that account may go. It answers this machine alone, and whoever is on it may do everything. It serves DIR/data by
the paths that files have there. What is in DIR/on_tape it shows in DIR/data/tape, and fetches when DIR/mounted exists.
"""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

START_S = 20
CONFIG = """
all.export {home}/data
all.export {home}/data/tape stage
oss.msscmd {home}/tape_stat
oss.stagecmd {home}/stage
all.adminpath {home}/adm
all.pidpath {home}/adm
xrd.port {port}
xrd.protocol http:{http} libXrdHttp.so
xrd.network nodnr
xrd.allow host 127.0.0.1
xrootd.chksum max 2 adler32
"""
TAPE_STAT = """#!/bin/sh
# what is on tape: a return code, and a line as of `ls -l`; as the server asks for it
file={home}/on_tape/$(basename "$2")
test -e "$file" || {{ echo 2; exit; }}
echo 0
echo "- rw-r--r-- 1 0 0 1700000000 1700000000 1700000000 $(stat -c %s "$file") 4096 8"
"""
STAGE = """#!/bin/sh
test -e {home}/mounted && cp {home}/on_tape/"$(basename "$1")" "$1"
"""
CLIENT = {"XRD_CONNECTIONWINDOW": "2", "XRD_CONNECTIONRETRY": "1", "XRD_REQUESTTIMEOUT": "5", "XRD_STREAMTIMEOUT": "3"}


class ServerFailed(Exception):
    """The server did not start; with what it said."""


def missing() -> str:
    """Why there can be no server here; empty when there can."""
    lacking = [name for name in ("xrootd", "xrdcp", "xrdfs", "setpriv") if not shutil.which(name)]
    return f"no XRootD here: {', '.join(lacking)} not found (Debian: xrootd-server xrootd-client)" if lacking else ""


class Server:
    """One server. `data` is what it serves, `url` its address for xrdcp and xrdfs, `web` for WebDAV."""

    def __init__(self, home: Path):
        self.home, self.data = home.absolute(), home.absolute() / "data"
        self.port, self.http = _free_port(), _free_port()
        self.url, self.web = f"root://127.0.0.1:{self.port}", f"http://127.0.0.1:{self.http}"
        self._process: subprocess.Popen[bytes] | None = None

    def up(self) -> "Server":
        for name in ("data/tape", "on_tape", "adm"):
            (self.home / name).mkdir(parents=True, exist_ok=True)
        values = {"home": self.home, "port": self.port, "http": self.http}
        for name, text in (("config", CONFIG), ("tape_stat", TAPE_STAT), ("stage", STAGE)):
            (self.home / name).write_text(text.format(**values))
            (self.home / name).chmod(0o755)
        self.owns()
        self.starts()
        return self

    def owns(self) -> None:
        """Give all below its folder to the account that it runs as."""
        if os.geteuid() == 0:
            subprocess.run(["chown", "-R", "nobody", str(self.home)], check=True)

    def starts(self) -> None:
        """The server ends with the thread that starts it."""
        as_nobody = ["--reuid", "nobody", "--regid", "nogroup", "--clear-groups"] if os.geteuid() == 0 else []
        command = ["setpriv", *as_nobody, "--pdeathsig", "KILL",
                   "xrootd", "-I", "v4", "-c", str(self.home / "config"), "-n", "test"]  # fmt: skip
        with (self.home / "log").open("ab") as log:
            self._process = subprocess.Popen(command, cwd=self.home, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        give_up = time.monotonic() + START_S
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > give_up:
                raise ServerFailed((self.home / "log").read_text(errors="replace")[-3000:])
            time.sleep(0.05)

    def _answers(self) -> bool:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
            return True
        return False

    def runs(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def freezes(self) -> None:
        """From now on it takes connections, and says nothing."""
        self._signal(signal.SIGSTOP)

    def thaws(self) -> None:
        self._signal(signal.SIGCONT)

    def stops(self) -> None:
        """kill -9, as a machine would."""
        self._signal(signal.SIGKILL)
        if self._process:
            self._process.wait()
            self._process = None

    def _signal(self, number: int) -> None:
        if self._process:
            self._process.send_signal(number)

    def run(self, *command: str) -> str:
        """What one of its client's commands prints."""
        environment = {**os.environ, **CLIENT}
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment, timeout=60)
        return done.stdout


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def server(home: Path) -> Iterator[Server]:
    one = Server(home)
    try:
        yield one.up()
    finally:
        one.stops()


if __name__ == "__main__":
    if sys.argv[1:2] != ["up"] or len(sys.argv) != 3:
        sys.exit(__doc__)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    with contextlib.suppress(KeyboardInterrupt), server(Path(sys.argv[2])) as it:
        print(f"{it.url}/\n{it.web}", flush=True)
        signal.pause()
