"""What keepupd itself does on storage, which is little: see whether a copy is there, remove copies that lost, and read
histogram files and write their running total. On a file system, or an XRootD server.

Jobs copy their own outputs. A copy's directory belongs to one job start alone, so removing it can harm no other.
"""

import os
import re
import shutil
import subprocess
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Protocol
from urllib.parse import quote, unquote, urlsplit

from keepupd.core.errors import KeepupError, Transient

XROOTD_TIMEOUTS = {  # seconds, and a number of tries; its own defaults wait for many minutes
    "XRD_CONNECTIONWINDOW": "10", "XRD_CONNECTIONRETRY": "2", "XRD_REQUESTTIMEOUT": "30", "XRD_STREAMTIMEOUT": "30",
}  # fmt: skip
ASK_S, COPY_S = 60, 600


class StorageUnavailable(Transient):
    """The storage did not answer."""


class Storage(Protocol):
    """URLs name directories and files as jobs write to them, `file:///abs/dir`, `root://host:port//dir`."""

    def list(self, url: str) -> list[str]:
        """Names in a directory; empty when there is none. Raises StorageUnavailable."""

    def identify(self, url: str) -> tuple[int, str] | None:
        """Size in bytes and checksum `adler32:xxxxxxxx` of a file; None when it is not there."""

    def remove_tree(self, url: str) -> None:
        """Remove a job's directory and what is in it; quiet when there is none."""

    def reading(self, url: str) -> AbstractContextManager[Path]:
        """Where the file, or a copy of it, can be read meanwhile. Raises StorageUnavailable."""

    def put(self, path: Path, url: str) -> None:
        """Copy a file to `url`, in place of what is there, making its directory. Raises StorageUnavailable."""


class StorageByScheme:
    """Passes each question on to the storage of its URL's scheme."""

    def list(self, url: str) -> list[str]:
        return storage_of(url).list(url)

    def identify(self, url: str) -> tuple[int, str] | None:
        return storage_of(url).identify(url)

    def remove_tree(self, url: str) -> None:
        storage_of(url).remove_tree(url)

    def reading(self, url: str) -> AbstractContextManager[Path]:
        return storage_of(url).reading(url)

    def put(self, path: Path, url: str) -> None:
        storage_of(url).put(path, url)


def storage_of(url: str) -> Storage:
    """Raises KeepupError for a scheme that only jobs can use."""
    match urlsplit(url).scheme:
        case "" | "file":
            return LocalStorage()
        case "root" | "xroot":
            return XrootdStorage()
    raise KeepupError(f"keepupd cannot reach {url} itself", "use a file: or root: URL, or remove the copy by hand")


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

    @contextmanager
    def reading(self, url: str) -> Iterator[Path]:
        yield local_path(url)

    def put(self, path: Path, url: str) -> None:
        final = local_path(url)
        draft = final.with_name(f".{final.name}.new")
        try:
            final.parent.mkdir(exist_ok=True)  # and none above: where that is missing, it is likely not mounted
            with path.open("rb") as source, draft.open("wb") as copy:
                shutil.copyfileobj(source, copy)
                copy.flush()
                os.fsync(copy.fileno())
            draft.replace(final)
        except OSError as error:
            raise StorageUnavailable(f"{url} can't be written: {error}", "see who may write there") from error


def local_path(url: str) -> Path:
    return Path(unquote(urlsplit(url).path))


def _size_and_adler32(path: Path) -> tuple[int, str]:
    size, value = 0, 1
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            size, value = size + len(block), zlib.adler32(block, value)
    return size, f"adler32:{value:08x}"


class XrootdStorage:
    """An XRootD server, asked by its own commands. Source: xrdfs(1), xrdcp(1)."""

    def list(self, url: str) -> list[str]:
        said = _xrdfs(url, "ls") or ""
        return sorted(line.rpartition("/")[2] for line in said.splitlines() if line.startswith("/"))

    def identify(self, url: str) -> tuple[int, str] | None:
        about, sums = _xrdfs(url, "stat"), _xrdfs(url, "query", "checksum")
        if about is None or sums is None:
            return None
        size, value = re.search(r"^Size:\s+(\d+)$", about, re.M), re.match(r"adler32 ([0-9a-f]+)$", sums)
        if size is None or value is None:
            words = f"{url}: expected size and adler32, got {about[:200]!r} and {sums!r}"
            raise StorageUnavailable(words, "let the server compute adler32: xrootd.chksum in its configuration")
        return int(size[1]), f"adler32:{value[1].zfill(8)}"  # it may leave zeros out

    def remove_tree(self, url: str) -> None:
        for name in self.list(url):
            _xrdfs(f"{url}/{quote(name)}", "rm")
        _xrdfs(url, "rmdir")

    @contextmanager
    def reading(self, url: str) -> Iterator[Path]:
        with tempfile.TemporaryDirectory(prefix="keepupd-") as folder:
            copy = Path(folder, "copy")
            if _run(["xrdcp", "--nopbar", "".join(_parts(url)), str(copy)], url, COPY_S) is None:
                raise StorageUnavailable(f"{url}: there is no such file", "see whether SAM has the right location")
            yield copy

    def put(self, path: Path, url: str) -> None:
        to = "".join(_parts(url))
        _run(["xrdcp", "-f", "--nopbar", "--posc", "--cksum", "adler32:source", str(path), to], url, COPY_S)


def _parts(url: str) -> tuple[str, str]:
    """(`root://host:port/`, path): xrdcp and xrdfs know no %XX."""
    parts = urlsplit(url)
    return f"root://{parts.netloc}/", "/" + unquote(parts.path).lstrip("/")


def _xrdfs(url: str, *words: str) -> str | None:
    """What the server says; None where there is no such file."""
    server, path = _parts(url)
    return _run(["xrdfs", server, *words, path], url, ASK_S)


def _run(command: list[str], url: str, limit_s: float) -> str | None:
    """What a command prints; None when it finds no such file. Raises StorageUnavailable."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False, timeout=limit_s,
                              stdin=subprocess.DEVNULL, env=XROOTD_TIMEOUTS | os.environ)  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise StorageUnavailable(f"{url}: no end of {command[0]} in {limit_s} s", "look at that server") from error
    except OSError as error:
        raise StorageUnavailable(f"{url}: {command[0]} cannot be run: {error}", "install xrootd-client") from error
    said = (done.stdout + done.stderr).strip()
    if done.returncode == 0:
        return done.stdout.strip()
    if "[3011]" in said:  # kXR_NotFound; its exit status says no more than that the server said no
        return None
    raise StorageUnavailable(f"{url}: {command[0]} ended with {done.returncode}: {said[-300:]}", "look at that server")
