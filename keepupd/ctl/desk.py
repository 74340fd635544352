"""What every command of keepupctl needs: the light settings, the database, the charts, and how to be called again."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from keepupd.core.errors import StoreUnavailable
from keepupd.ctl.words import for_shell

if TYPE_CHECKING:  # at run time only where a command needs them: they take longer to import than `status` may last
    from sqlalchemy import Connection

    from keepupd.core.chart import Chart
    from keepupd.store.database import Database


@dataclass(frozen=True)
class Desk:
    """One call of keepupctl. `typed` is how it was told its configuration: "" when by KEEPUPD_CONFIG."""

    config: Path
    typed: str
    now: datetime

    @cached_property
    def settings(self) -> dict[str, Any]:
        from keepupd.yamlfile import read_settings_lightly

        return read_settings_lightly(self.config)

    def command(self, *words: str) -> str:
        """A command to type, as this one was called."""
        return " ".join(["keepupctl", *([f"-c {for_shell(self.typed)}"] if self.typed else []), *words])

    @cached_property
    def database(self) -> "Database":
        """Raises StoreUnavailable where there is none: opening would make an empty one."""
        from keepupd.store.database import Database

        check_there(self.settings["database"])
        return Database(self.settings["database"], read_only=True)

    @contextmanager
    def read(self) -> Iterator["Connection"]:
        """A read transaction. Raises StoreUnavailable, or SchemaError for another keepupd's database."""
        from keepupd.store.database import check_schema

        with self.database.read() as db:
            check_schema(db, self.config)
            yield db

    def chart(self, name: str) -> "Chart":
        """The chart of `file` or `campaign`. That its effects and guards exist is for the daemon to check."""
        import yaml

        from keepupd.core.chart import charts_dir, load_chart

        path = charts_dir() / f"{name}.yaml"
        rows = yaml.safe_load(path.read_text())["transitions"]
        return load_chart(path, _named(rows, "effect"), _named(rows, "guard"))


def _named(rows: list[dict[str, Any]], key: str) -> frozenset[str]:
    given = [row.get(key, []) for row in rows]
    return frozenset(name for value in given for name in (value if isinstance(value, list) else [value]))


def check_there(url: str) -> None:
    path = Path(url.removeprefix("sqlite:///"))
    if url.startswith("sqlite:///") and not path.is_file():
        raise StoreUnavailable(
            f"there is no database {path}", "start the daemon, which makes it, or give the right file with -c"
        )
