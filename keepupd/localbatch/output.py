"""What a job writes to stdout or stderr, kept within bounds: its first and its last MiB."""

import contextlib
import os

KEPT_BYTES = 1024 * 1024  # of the beginning, and again of the end


class Kept:
    """One output stream of a job: a pipe of which the first and the last KEPT_BYTES go to a file."""

    def __init__(self, path: str):
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        self._read_end, self.write_end = os.pipe()
        os.set_blocking(self._read_end, False)
        self._room, self._left_out, self._tail = KEPT_BYTES, 0, bytearray()

    def fileno(self) -> int:
        return self._read_end

    def close_write_end(self) -> None:
        os.close(self.write_end)

    def take(self) -> bool:
        """Read what is there now; False when nothing can come any more, or nothing is there."""
        try:
            chunk = os.read(self._read_end, 65536)
        except BlockingIOError:
            return False
        head, rest = chunk[: self._room], chunk[self._room :]
        self._room -= len(head)
        self._write(head)
        self._tail += rest
        if len(self._tail) > 2 * KEPT_BYTES:
            self._shorten_tail()
        return bool(chunk)

    def close(self) -> None:
        while self.take():
            pass
        self._shorten_tail()
        if self._left_out:
            self._write(f"\n[keepup-batch: {self._left_out} bytes left out here]\n".encode())
        self._write(bytes(self._tail))
        os.close(self._file)

    def _shorten_tail(self) -> None:
        too_much = max(0, len(self._tail) - KEPT_BYTES)
        self._left_out += too_much
        del self._tail[:too_much]

    def _write(self, data: bytes) -> None:
        with contextlib.suppress(OSError):  # disk full: the job must not suffer for its log
            os.write(self._file, data)
