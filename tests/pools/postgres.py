"""A PostgreSQL cluster of its own on a free port, on loopback: for tests, benchmarks, and by hand.

    python tests/pools/postgres.py up DIR [--durable]    make it in DIR, or start it again; prints the URL of a database
    python tests/pools/postgres.py down DIR              stop it; DIR stays, and may be removed

Needs the server's programs (Debian: `apt-get install postgresql`), not root. The server refuses to run as root: then it
runs as `postgres`, or as `nobody` where there is no such account, and DIR must lie where that account may go. Whoever
reaches the port may do everything. Commits are safe from a crash of the server, not of the machine: they are not synced
to disk, unless --durable, for measurements.
"""

import argparse
import os
import pwd
import shutil
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

TRIES = 3  # another process may take the port between our look and the server's start
SETTINGS = """
listen_addresses = '127.0.0.1'
unix_socket_directories = ''
max_connections = 200
"""
HASTY = """
fsync = off
full_page_writes = off
"""


class PoolError(Exception):
    """A program of the server failed; with what it said."""


def programs() -> Path | None:
    """The directory of the newest installed server; None where there is none."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: float(path.parts[-3]))
    other = shutil.which("initdb")
    return found[-1].parent if found else Path(other).parent if other else None


class Cluster:
    """A server on `home`. It remembers its port there, so that it can be stopped and started again."""

    def __init__(self, home: Path):
        self.home = home.absolute()

    def url(self, database: str = "postgres") -> str:
        port = (self.home / "port").read_text()
        return f"postgresql+psycopg://keepupd@127.0.0.1:{port}/{database}"

    def up(self, durable: bool = False) -> None:
        """Make it where it is not there yet, and start it."""
        if (self.home / "port").exists():
            return self.start()
        self.home.mkdir(parents=True, exist_ok=True)
        if account := _account():
            shutil.chown(self.home, account)
        self._run("initdb", "--auth=trust", "--username=keepupd", "--encoding=UTF8", "--locale=C", "--no-sync")
        with (self.home / "data" / "postgresql.conf").open("a") as file:
            file.write(SETTINGS if durable else SETTINGS + HASTY)
        for tries_left in reversed(range(TRIES)):
            (self.home / "port").write_text(str(_free_port()))
            try:
                return self.start()
            except PoolError:
                if not tries_left:
                    raise
        return None

    def start(self) -> None:
        port = (self.home / "port").read_text()
        self._run("pg_ctl", "start", "--wait", "--silent", f"--log={self.home / 'log'}", f"--options=-p {port}")

    def stop(self, mode: str = "fast") -> None:
        """fast: who is connected is sent away. immediate: as a crash, with recovery at the next start."""
        self._run("pg_ctl", "stop", "--wait", "--silent", f"--mode={mode}")

    def remove(self) -> None:
        with suppress(PoolError):
            self.stop("immediate")
        shutil.rmtree(self.home)

    def _run(self, program: str, *arguments: str) -> None:
        bin_dir = programs()
        if bin_dir is None:
            raise PoolError("there is no PostgreSQL server here: apt-get install postgresql")
        command = [str(bin_dir / program), f"--pgdata={self.home / 'data'}", *arguments]
        account = _account()
        groups = {"group": pwd.getpwnam(account).pw_gid, "extra_groups": []} if account else {}
        # to a file, not a pipe: the server keeps what it inherits open
        with (self.home / f"{program}.log").open("w+") as said:
            done = subprocess.run(command, check=False, cwd=self.home, stdin=subprocess.DEVNULL, stdout=said,
                                  stderr=said, user=account, **groups)  # fmt: skip
            said.seek(0)
            if done.returncode:
                raise PoolError(f"{' '.join(command)} failed:\n{said.read()}\nthe server's own log: {self.home}/log")


def _account() -> str | None:
    """Whom the server runs as when it is started by root; else by oneself."""
    if os.geteuid() != 0:
        return None
    return "postgres" if any(one.pw_name == "postgres" for one in pwd.getpwall()) else "nobody"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("action", choices=("up", "down"))
    options.add_argument("directory", type=Path)
    options.add_argument("--durable", action="store_true", help="commits are synced to disk")
    given = options.parse_args()
    cluster = Cluster(given.directory)
    if given.action == "up":
        cluster.up(given.durable)
        print(cluster.url())
    else:
        cluster.stop()


if __name__ == "__main__":
    sys.exit(main())
