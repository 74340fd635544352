"""`keepup-sam explain`: what dimensions mean, from the text to the answer."""

import sqlite3
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from .compile import availability_sql, compile_dims, resolve
from .dims import And, Definition, Node, Not, Or, Relative, Sets, With, parse
from .errors import DimensionError
from .routes_files import count, explain


def run(path: Path, dims: str) -> int:
    """Print the tree, the SQL, the number of files and the time; returns the exit code, 1 for faulty dimensions."""
    if not path.exists():
        print(f"keepup-sam: no catalog {path}", file=sys.stderr)
        return 2
    db = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    db.row_factory = sqlite3.Row
    try:
        tree, query, started = resolve(db, parse(dims)), compile_dims(db, dims), time.perf_counter()
        found = count(db, dims)
    except DimensionError as error:
        print(f"keepup-sam: {error}", file=sys.stderr)
        return 1
    print("\n".join(branches(tree)), f"(each file: {availability_sql(tree)})", "", explain(query, "f.file_name"),
          f"{found} files in {time.perf_counter() - started:.3f} s", sep="\n")
    return 0


def branches(node: Node, depth: int = 0) -> Iterator[str]:
    """The tree, one node a line, children indented."""
    pad = "  " * depth
    match node:
        case Definition(name, query):
            yield f"{pad}definition {name}"
            yield from branches(query, depth + 1) if query else ()
        case Relative(kind, query):
            yield f"{pad}{kind} (each file: by the availability of its own part)"
            yield from branches(query, depth + 1)
        case Not(item):
            yield f"{pad}not"
            yield from branches(item, depth + 1)
        case And(items) | Or(items):
            yield f"{pad}{'all of' if isinstance(node, And) else 'any of'}"
            for item in items:
                yield from branches(item, depth + 1)
        case Sets(first, rest):
            yield from branches(first, depth)
            for op, item in rest:
                yield f"{pad}{op}"
                yield from branches(item, depth + 1)
        case With(query):
            yield f"{pad}with {str(node).rpartition(' with ')[2]}"
            yield from branches(query, depth + 1)
        case _:
            shown = str(node)
            yield f"{pad}{shown if len(shown) < 1000 else f'{shown[:900]} ... ({len(shown)} characters)'}"
