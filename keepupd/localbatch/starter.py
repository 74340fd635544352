"""The starter's side in keepup-batch: it keeps one bare process (see shim.py) from which the shims are forked."""

import contextlib
import json
import socket
import subprocess
import sys
from dataclasses import asdict

from keepupd.localbatch.shim import Start

PATIENCE_S = 10.0


class Starter:
    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None

    def start(self, job: Start) -> int:
        """Have the shim of this job forked; its pid, which nobody else has until the next call. Raises OSError.

        After an error it is not known whether the shim was forked; the job's directory tells.
        """
        try:
            return self._ask(json.dumps(asdict(job)).encode() + b"\n")
        except OSError:
            self.close()
            raise

    def _ask(self, line: bytes) -> int:
        if self._socket is None:
            self._socket, there = socket.socketpair()
            self._socket.settimeout(PATIENCE_S)
            with there:
                command = [sys.executable, "-m", "keepupd.localbatch.shim", str(there.fileno())]
                self._process = subprocess.Popen(
                    command, pass_fds=[there.fileno()], stdin=subprocess.DEVNULL, start_new_session=True
                )
        self._socket.sendall(line)
        answer = json.loads(self._socket.recv(4096) or b'{"error": "the starter of jobs has gone"}')
        if "error" in answer:
            raise OSError(f"no job can be started: {answer['error']}")
        return int(answer["pid"])

    def close(self) -> None:
        """End the starter; the shims stay."""
        if self._socket:
            self._socket.close()
        if self._process:
            with contextlib.suppress(OSError):
                self._process.kill()
            self._process.wait()
        self._socket = self._process = None
