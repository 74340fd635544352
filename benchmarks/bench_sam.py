"""How fast the embedded SAM is, each figure with what it is compared with, measured in the same run.

    python benchmarks/bench_sam.py                    one million files, some four minutes
    python benchmarks/bench_sam.py --files 100000     a tenth of it, half a minute

Queries are compared with the same SQL in plain sqlite3; calls with the emptiest call there is (server info), which is
what HTTP alone costs here. Client and server share the machine: with few cores the clients are part of the limit, and
the server's processor time for each call says what it could do with a core to itself.
Memory is the server's own, without the pages of the catalog it has mapped, the most while that line was measured.
"""

import argparse
import http.client
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote, urlencode

import psutil

from keepupd.samserver import fill
from keepupd.samserver.compile import compile_dims
from keepupd.samserver.db import connect

BASE = "/sam/dune/api"
TURNS = 3
QUERIES = (
    ("count all", "count", "file_id > 0"),
    ("list all", "list", "file_id > 0"),
    ("count all raw", "count", "data_tier raw"),
    ("list all raw", "list", "data_tier raw"),
    ("count raw without child", "count", "data_tier raw minus isparentof:(data_tier full-reconstructed)"),
    ("list raw without child", "list", "data_tier raw minus isparentof:(data_tier full-reconstructed)"),
    ("count by two parameters", "count", "fill.campaign campaign_3 and fill.stream 5"),
    ("list a run range", "list", "run_number 500-600 and data_tier raw"),
)


class Client:
    """One kept-alive connection."""

    def __init__(self, port: int):
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=600)

    def call(self, method: str, path: str, form: dict[str, str] | None = None, metadata: object = None) -> str | None:
        """The reply's text, None for a 204; anything but a success ends the benchmark."""
        body = json.dumps(metadata) if metadata is not None else urlencode(form or {})
        kind = "application/json" if metadata is not None else "application/x-www-form-urlencoded"
        self.connection.request(method, path if path.startswith(BASE) else BASE + path,
                                body if method == "POST" else None, {"Content-Type": kind})
        reply = self.connection.getresponse()
        text = reply.read().decode()
        if reply.status >= 300:
            raise SystemExit(f"{method} {path}: {reply.status} {text}")
        return None if reply.status == 204 else text


def shared_out(work: Callable[..., None], port: int, count: int, *args: object, processes: int = 4) -> float:
    """Calls a second of `work(port, first, last, ...)` in some processes, which do `count` calls between them."""
    share = count // processes
    jobs = [multiprocessing.Process(target=work, args=(port, k * share, (k + 1) * share, *args))
            for k in range(processes)]
    started = time.perf_counter()
    for job in jobs:
        job.start()
    for job in jobs:
        job.join()
        if job.exitcode:
            raise SystemExit(f"{work.__name__} failed")
    return share * processes / (time.perf_counter() - started)


def ask_nothing(port: int, first: int, last: int) -> None:
    client = Client(port)
    for _ in range(first, last):
        client.call("GET", "")


def declare(port: int, first: int, last: int, turn: int) -> None:
    client = Client(port)
    for n in range(first, last):
        client.call("POST", "/files", metadata={
            "file_name": f"bench_{turn}_{n:08}.root", "file_type": "mc", "file_size": n, "data_tier": "simulated",
            "checksum": [f"adler32:{n:08x}"], "runs": [[n // 100, n % 100, "mc"]], "Fill.campaign": "bench",
            "Fill.stream": n % 9, "parents": [{"file_name": "fill_00000001.raw"}]})


def consume(port: int, first: int, last: int, project: str, consumers: int) -> None:
    """getNextFile and its verdict from some consumer processes at once, until nothing is left."""
    threads = [threading.Thread(target=_consume, args=(port, project)) for _ in range(consumers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _consume(port: int, project: str) -> None:
    client = Client(port)
    process = client.call("POST", f"{project}/establishProcess", {"appname": "bench", "appversion": "v1"})
    while url := client.call("POST", f"{project}/processes/{process}/getNextFile"):
        client.call("POST", f"{project}/processes/{process}/updateFileStatus", {"filename": url, "status": "consumed"})


class Peak(threading.Thread):
    """Watches the most memory a process has of its own, in MiB, from `with` to the block's end."""

    def __init__(self, process: psutil.Process):
        super().__init__(daemon=True)
        self.process, self.most, self.over = process, 0.0, threading.Event()

    def run(self) -> None:
        while True:
            memory = self.process.memory_info()
            self.most = max(self.most, (memory.rss - memory.shared) / 2**20)
            if self.over.wait(0.05):
                return

    def __enter__(self) -> "Peak":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self.join()


def compare_queries(client: Client, path: Path, server: psutil.Process) -> None:
    db = connect(path)
    print(f"\n{'query':28}{'files':>10}{'sqlite3 s':>11}{'server s':>10}{'speed':>8}{'server MiB':>12}")
    for title, kind, dims in QUERIES:
        query = compile_dims(db, dims)
        sql = query.select("count(*)", order="") if kind == "count" else query.select("f.file_name")
        plain = served = float("inf")
        with Peak(server) as memory:
            for _ in range(TURNS):
                started = time.perf_counter()
                rows = db.execute(sql, query.args).fetchall()
                between = time.perf_counter()
                answer = client.call("GET", f"/files/{kind}?dims={quote(dims)}") or ""
                plain, served = min(plain, between - started), min(served, time.perf_counter() - between)
        found = int(answer) if kind == "count" else answer.count("\n")
        assert found == (rows[0][0] if kind == "count" else len(rows))
        print(f"{title:28}{found:>10}{plain:>11.3f}{served:>10.3f}{plain / served:>8.2f}{memory.most:>12.0f}")
    db.close()


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--files", type=int, default=1_000_000, help="in the catalog, a quarter of them children")
    files = options.parse_args().files
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "catalog.db"
        started = time.perf_counter()
        fill.run(path, files * 3 // 4, "dune")
        print(f"filled in {time.perf_counter() - started:.0f} s, {path.stat().st_size / 2**20:.0f} MiB")
        command = [sys.executable, "-m", "keepupd.samserver.main", "serve", "--db", str(path), "--port", "0"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
            assert server.stdout is not None
            port = int(server.stdout.readline().split(":")[3].partition("/")[0])
            try:
                measure(port, path, psutil.Process(server.pid), min(8_000, files // 20))
            finally:
                server.terminate()


def measure(port: int, path: Path, server: psutil.Process, calls: int) -> None:
    client = Client(port)
    compare_queries(client, path, server)
    print(f"\n{'calls':28}{'a second':>10}{'of server info':>16}{'server CPU':>12}{'CPU ms each':>12}"
          f"{'server MiB':>12}")
    client.call("POST", "/definitions/create", {"defname": "bench", "dims": f"data_tier raw with limit {calls}"})
    empty = 0.0
    for title, work in (
            ("server info", lambda turn: shared_out(ask_nothing, port, calls)),
            ("declare", lambda turn: shared_out(declare, port, calls, turn)),
            ("getNextFile (and consumed)", lambda turn: shared_out(consume, port, calls, start(client, turn), 16))):
        used, started = sum(server.cpu_times()[:2]), time.perf_counter()
        with Peak(server) as memory:
            pace = max(work(turn) for turn in range(TURNS))
        cpu = sum(server.cpu_times()[:2]) - used
        share = cpu / (time.perf_counter() - started)
        empty = empty or pace
        print(f"{title:28}{pace:>10.0f}{pace / empty:>16.2f}{share:>12.0%}{1000 * cpu / TURNS / calls:>12.2f}"
              f"{memory.most:>12.0f}")
    print(f"\nthe best of {TURNS} turns each; load {os.getloadavg()[0]:.1f} at the end, some 3 of it ours")


def start(client: Client, turn: int) -> str:
    """A new project over the first raw files; gives its path."""
    url = client.call("POST", "/startProject", {"name": f"bench{turn}", "station": "dune", "defname": "bench"}) or ""
    return url[url.index(BASE):]


if __name__ == "__main__":
    main()
