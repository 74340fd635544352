"""keepup-sam: the command line. A SAM catalog in one SQLite file, for tests, laptops and small experiments."""

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False,
                  help="A SAM catalog of your own: a SAMWeb-compatible HTTP server on one SQLite file.")
DbFile = Annotated[Path, typer.Option("--db", help="the catalog's SQLite file; made when it does not exist")]


@app.command()
def serve(
    db: DbFile,
    port: Annotated[int, typer.Option(help="0 takes a free one")] = 8480,
    host: Annotated[str, typer.Option(help="there is no authentication: think before you leave the loopback")] = (
        "127.0.0.1"),
    experiment: Annotated[str, typer.Option(help="name of the experiment, a part of the URL")] = "dune",
    idle_hours: Annotated[float, typer.Option(min=0, help="ends a project that is silent so long; 0: never")] = 72,
) -> None:
    """Serve the catalog at http://HOST:PORT/sam/EXPERIMENT/api until interrupted."""
    from . import server
    try:
        server.serve(db, host, port, experiment, idle_hours)
    except (OSError, RuntimeError) as error:
        raise SystemExit(f"keepup-sam: {error}") from None


@app.command()
def explain(dims: str, db: DbFile) -> None:
    """Show what dimensions mean: the tree, the SQL, the number of files and the time it took."""
    from . import explain
    raise SystemExit(explain.run(db, dims))


@app.command()
def fill(
    db: DbFile,
    files: Annotated[int, typer.Option(help="how many raw files; each third gets a reconstructed child")],
    experiment: str = "dune",
) -> None:
    """Fill a catalog with made-up files that have parameters, runs, parents and locations, for trials at scale."""
    from . import fill
    fill.run(db, files, experiment)


if __name__ == "__main__":
    app()
