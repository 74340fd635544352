"""What keepupd itself does on storage, which is little: see whether a copy is there, and remove copies that lost.

Jobs copy their own outputs. A copy's directory belongs to one job start alone, so removing it can harm no other.
"""

import shutil
import zlib
from pathlib import Path
from typing import Protocol
from urllib.parse import unquote, urlsplit

from keepupd.core.errors import KeepupError, Transient


class StorageUnavailable(Transient):
    """The storage did not answer."""


class Storage(Protocol):
    """URLs name directories as jobs write to them, `file:///abs/dir`."""

    def list(self, url: str) -> list[str]:
        """Names in a directory; empty when there is none. Raises StorageUnavailable."""

    def identify(self, url: str) -> tuple[int, str] | None:
        """Size in bytes and checksum `adler32:xxxxxxxx` of a file; None when it is not there."""

    def remove_tree(self, url: str) -> None:
        """Remove a job's directory and what is in it; quiet when there is none."""


class LocalStorage:
    """Directories of this machine, or mounted on it."""

    def list(self, url: str) -> list[str]:
        try:
            return sorted(entry.name for entry in local_path(url).iterdir())
        except FileNotFoundError:
            return []
        except OSError as error:
            raise StorageUnavailable(f"cannot list {url}: {error}", "check that it is mounted") from error

    def identify(self, url: str) -> tuple[int, str] | None:
        try:
            return _size_and_adler32(local_path(url))
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StorageUnavailable(f"cannot read {url}: {error}", "check that it is mounted") from error

    def remove_tree(self, url: str) -> None:
        try:
            shutil.rmtree(local_path(url))
        except FileNotFoundError:
            pass
        except OSError as error:
            raise StorageUnavailable(f"cannot remove {url}: {error}", "check its permissions") from error


def local_path(url: str) -> Path:
    """Where a file: URL is on this machine. Raises KeepupError for any other."""
    parts = urlsplit(url)
    if parts.scheme not in ("", "file"):
        raise KeepupError(f"keepupd cannot reach {url} itself", "use a file: URL, or remove the copy by hand")
    return Path(unquote(parts.path))


def _size_and_adler32(path: Path) -> tuple[int, str]:
    size, value = 0, 1
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            size, value = size + len(block), zlib.adler32(block, value)
    return size, f"adler32:{value:08x}"
