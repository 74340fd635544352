"""A real HTCondor pool on this machine, for tests: a Debian 13 in a folder, its daemons in namespaces of their own.

    sudo python tests/pools/condor.py up DIR      # prints the client's settings; Ctrl-C takes it down
    sudo python tests/pools/condor.py root        # only make the folder with HTCondor in it, once, some 90 s

Needs root, debootstrap, and a Debian mirror. Nothing is left mounted or running when the process that made the pool
ends, however it ends: mounts and processes live in namespaces that end with it. Pool and client share no file system.
"""

import contextlib
import fcntl
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

ROOT = Path(os.environ.get("KEEPUP_POOL_ROOT", "/var/tmp/keepup-pool-trixie"))
MIRROR = "http://deb.debian.org/debian"
PACKAGES = ("minicondor", "python3", "xrootd-client")
DOMAIN = "keepup.test"
CONFIG = f"""
SHARED_PORT_PORT = {{port}}
COLLECTOR_HOST = 127.0.0.1:{{port}}
UID_DOMAIN = {DOMAIN}
NUM_CPUS = {{slots}}
MEMORY = {{memory_mib}}
NUM_SLOTS = 1
NUM_SLOTS_TYPE_1 = 1
SLOT_TYPE_1 = 100%
SLOT_TYPE_1_PARTITIONABLE = True
# Without these jobs can't start in such a folder: the starter can't unshare its mount namespace there.
DISCARD_SESSION_KEYRING_ON_STARTUP = False
MOUNT_UNDER_SCRATCH =
BASE_CGROUP =
CGROUP_TRACKING = False
USE_PID_NAMESPACES = False
# A test has no patience.
NEGOTIATOR_INTERVAL = 2
NEGOTIATOR_CYCLE_DELAY = 1
NEGOTIATOR_MIN_INTERVAL = 1
SCHEDD_INTERVAL = 2
SCHEDD_MIN_INTERVAL = 1
UPDATE_INTERVAL = 5
POLLING_INTERVAL = 1
PERIODIC_EXPR_INTERVAL = 2
MAX_PERIODIC_EXPR_INTERVAL = 5
STARTER_UPDATE_INTERVAL = 3
STARTER_INITIAL_UPDATE_INTERVAL = 1
SHADOW_QUEUE_UPDATE_INTERVAL = 3
SHADOW_LAZY_QUEUE_UPDATE = False
JOB_START_COUNT = 50
JOB_START_DELAY = 0
CLAIM_WORKLIFE = 0
STARTD_HISTORY =
ENABLE_RUNTIME_CONFIG = False
{{more}}
"""
CLIENT = """CONDOR_HOST = 127.0.0.1
COLLECTOR_HOST = 127.0.0.1:{port}
SEC_TOKEN_DIRECTORY = {tokens}
SEC_CLIENT_AUTHENTICATION_METHODS = IDTOKENS
SEC_CLIENT_AUTHENTICATION = REQUIRED
UID_DOMAIN = {domain}
LOG = {folder}
"""


EMPTY = """rm -rf /var/spool/condor /var/lib/condor/execute /var/log/condor/* &&
install -d -o condor -g condor /var/spool/condor /run/condor /var/lock/condor &&
install -d -o condor -g condor -m 1777 /var/lib/condor/execute &&
install -d -m 700 /etc/condor/passwords.d /etc/condor/tokens.d"""


class NoPool(Exception):
    """This machine can't run the pool; the message says why."""


def missing() -> str:
    """Why there can be no pool here; empty when there can."""
    if os.geteuid() != 0:
        return "an HTCondor pool needs root"
    if not shutil.which("debootstrap"):
        return "an HTCondor pool needs debootstrap"
    return ""


def make_root(root: Path = ROOT) -> Path:
    """A Debian 13 with HTCondor in the folder `root`; made anew only when there is none that is whole."""
    done = root / "etc" / "keepup-pool"
    if done.is_file() and done.read_text() == " ".join(PACKAGES):
        return root
    if why := missing():
        raise NoPool(why)
    shutil.rmtree(root, ignore_errors=True)
    _run("debootstrap", "--variant=minbase", "--include=ca-certificates", "trixie", str(root), MIRROR)
    (root / "usr/sbin/policy-rc.d").write_text("#!/bin/sh\nexit 101\n")  # nothing starts by being installed
    (root / "usr/sbin/policy-rc.d").chmod(0o755)
    install = f"apt-get install -q -y --no-install-recommends {' '.join(PACKAGES)} && useradd -m keepup"
    _run(*_inside(root, f"DEBIAN_FRONTEND=noninteractive sh -c '{install}'"))
    done.write_text(" ".join(PACKAGES))
    return root


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    if done.returncode:
        raise NoPool(f"{' '.join(command)} failed: {(done.stdout + done.stderr)[-2000:]}")
    return done.stdout


def _inside(root: Path, command: str, mounts: Sequence[str] = ()) -> list[str]:
    """A shell command in the folder, in namespaces that end with it: nothing stays mounted, nothing runs on."""
    binds = "".join(f"mkdir -p {root}{at} && mount --bind {at} {root}{at} && " for at in ("/dev", "/sys", *mounts))
    script = f"{binds} mount -t proc proc {root}/proc && chroot {root} /bin/sh -c \"$0\"; exit $?"
    alone = ["setpriv", "--pdeathsig", "KILL", "unshare", "--mount", "--pid", "--fork", "--kill-child"]
    return ["env", "-u", "CONDOR_CONFIG", *alone, "sh", "-c", script, command]  # the client's is not the pool's


class Pool:
    """One pool: `config` is the client's configuration file, for CONDOR_CONFIG."""

    def __init__(self, folder: Path, slots: int = 4, memory_mib: int = 4000, more: str = "",
                 mounts: Sequence[str] = ()):  # fmt: skip
        self.folder, self.port, self.mounts = folder, _free_port(), mounts
        self.root = make_root()
        self._lock = (self.root / "etc/keepup-pool").open()
        fcntl.flock(self._lock, fcntl.LOCK_EX)  # one pool at a time: they share the folder
        folder.mkdir(parents=True, exist_ok=True)
        self.config = folder / "condor_config"
        self._log = (folder / "master.log").open("a")
        self._process: subprocess.Popen[bytes] | None = None
        settings = CONFIG.format(port=self.port, slots=slots, memory_mib=memory_mib, more=more)
        (self.root / "etc/condor/config.d/90-keepup").write_text(settings)

    def up(self) -> "Pool":
        """Start it on an empty spool, and wait until a slot is there. About 10 s."""
        _run(*_inside(self.root, EMPTY))
        self._token()
        self.starts()
        self.waits(lambda: "slot1" in self.run("condor_status", "-af", "Name"), "a slot")
        return self

    def _token(self) -> None:
        """As in production, the client has a token, in a directory of its own."""
        key = self.root / "etc/condor/passwords.d/POOL"
        if not key.exists():
            key.write_bytes(secrets.token_bytes(64))
            key.chmod(0o600)
        tokens = self.folder / "tokens.d"
        tokens.mkdir(mode=0o700, exist_ok=True)
        make = f"condor_token_create -identity keepup@{DOMAIN}"
        (tokens / "keepup").write_text(_run(*_inside(self.root, make)))
        (tokens / "keepup").chmod(0o600)
        self.config.write_text(CLIENT.format(port=self.port, tokens=tokens, domain=DOMAIN, folder=self.folder))

    def starts(self) -> None:
        self._process = subprocess.Popen(
            _inside(self.root, "exec condor_master -f", self.mounts), stdout=self._log, stderr=self._log,
            stdin=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip

    def down(self) -> None:
        """Take it down, with all its jobs."""
        if self._process:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGTERM)
            try:
                self._process.wait(5)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._log.close()
        self._lock.close()

    def run(self, *command: str) -> str:
        """What a command of HTCondor says, inside; empty when it fails."""
        assert self._process
        child = _child_of(self._process.pid)
        if child is None:
            return ""
        enter = ["env", "-u", "CONDOR_CONFIG", "nsenter", "--target", str(child), "--mount", "--pid", "--"]
        command = (*enter, "chroot", str(self.root), *command)
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60).stdout

    def waits(self, truth: object, what: str, patience_s: float = 90) -> None:
        give_up = time.monotonic() + patience_s
        while not truth():  # type: ignore[operator]
            if time.monotonic() > give_up:
                raise NoPool(f"waited {patience_s} s for {what}; look into {self.root}/var/log/condor")
            time.sleep(0.2)


def _child_of(pid: int) -> int | None:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return int(children[0]) if children else None


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@contextlib.contextmanager
def pool(folder: Path, **settings: object) -> Iterator[Pool]:
    one = Pool(folder, **settings)  # type: ignore[arg-type]
    try:
        yield one.up()
    finally:
        one.down()


if __name__ == "__main__":
    if sys.argv[1:2] == ["root"]:
        print(make_root())
    elif sys.argv[1:2] == ["up"] and len(sys.argv) == 3:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.default_int_handler)
        with pool(Path(sys.argv[2]).absolute()) as it, contextlib.suppress(KeyboardInterrupt):
            print(f"export CONDOR_CONFIG={it.config}", flush=True)
            signal.pause()
    else:
        sys.exit(__doc__)
