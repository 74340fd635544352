"""The command keepup-batch: serve a directory of jobs on this machine's slots, and say how it stands."""

import json
import os
import socket
import sys
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, help=__doc__)
Directory = Annotated[Path, typer.Option("--dir", help="Directory of the queue and of the jobs' files.")]


@app.command()
def serve(
    directory: Directory,
    slots: Annotated[int, typer.Option(min=1, help="CPUs for jobs; default: all.")] = len(os.sched_getaffinity(0)),
    memory_mib: Annotated[int | None, typer.Option(min=1, help="Memory for jobs, MiB; default: 80 % of it.")] = None,
    measure_s: Annotated[float, typer.Option(min=0.05, help="Seconds between two measurements of the jobs.")] = 0.5,
    grace_s: Annotated[float, typer.Option(min=0, help="Seconds from SIGTERM to SIGKILL when a job is stopped.")] = 2.0,
) -> None:
    """Run the jobs of DIR until SIGTERM; they run on, and are adopted at the next start. Exit code 1: DIR is taken."""
    from keepupd.localbatch.queue import QueueError
    from keepupd.localbatch.server import DirectoryTaken, Server
    from keepupd.localbatch.slots import Settings

    memory_mib = memory_mib or os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") * 8 // 10 // 2**20
    try:
        server = Server(Settings(directory.resolve(), slots, memory_mib, measure_s, grace_s))
    except DirectoryTaken as error:
        _fail(f"{error}", "stop that one first (its jobs run on), or give another --dir")
    except (QueueError, OSError) as error:
        _fail(str(error), "see that --dir is a directory we may write in")
    server.serve()


@app.command()
def status(directory: Directory, as_json: Annotated[bool, typer.Option("--json")] = False) -> None:
    """Show slots, counts of jobs by state, and each running and held job. Exit code 1: nobody serves DIR."""
    try:
        answer = ask(directory, {"v": 1, "op": "status"})
    except (OSError, ValueError) as error:
        _fail(f"nobody answers in {directory}: {error}", f"start it: keepup-batch serve --dir {directory}")
    if as_json:
        print(json.dumps(answer, indent=1))
    else:
        _show(answer)


def ask(directory: Path, request: dict[str, Any]) -> dict[str, Any]:
    """One request, one answer. Raises OSError when nobody serves the directory."""
    fd = os.open(directory, os.O_PATH | os.O_DIRECTORY)
    try:
        with socket.socket(socket.AF_UNIX) as server:
            server.settimeout(10)
            server.connect(f"/proc/self/fd/{fd}/batch.sock")
            server.sendall(json.dumps(request).encode() + b"\n")
            with server.makefile("rb") as reply:
                return dict(json.loads(reply.readline()))
    finally:
        os.close(fd)


def _show(its: dict[str, Any]) -> None:
    print(f"{its['directory']}: pid {its['pid']}, {its['slots_free']} of {its['slots']} slots free, "
          f"{its['memory_free_mib']} of {its['memory_mib']} MiB free")  # fmt: skip
    if its["trouble"]:
        print(f"  TROUBLE: {its['trouble']}")
    print("  jobs: " + (", ".join(f"{state} {count}" for state, count in sorted(its["jobs"].items())) or "none"))
    for job in its["running"]:
        stopping = ", stopping" if job["stopping"] else ""
        print(f"  slot {job['slot']}: {job['key']}, {job['wall_s']} of {job['wall_asked_s']} s, "
              f"{job['memory_mib']} of {job['memory_asked_mib']} MiB, shim {job['shim_pid']}{stopping}")  # fmt: skip
    for job in its["held"]:
        print(f"  held: {job['key']}: {job['hold_reason']} (code {job['hold_code']}); files in {job['directory']}")


def _fail(problem: str, remedy: str) -> NoReturn:
    print(f"keepup-batch: {problem}\n  remedy: {remedy}", file=sys.stderr)
    raise typer.Exit(1)


if __name__ == "__main__":
    app()
