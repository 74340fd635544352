"""keepupctl at work on the database of the fake world's daemon, with the fake world's clock."""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from farm import SETTINGS, Farm

from keepupd.ctl import ask, main


class Shift:
    """An operator on shift: types commands, and reads what comes back."""

    def __init__(self, farm: Farm, config: Path):
        self.farm, self.config = farm, config

    def types(self, *words: str, typed: str | None = None) -> Result:
        return CliRunner().invoke(main.app, list(words), input=typed, env={"KEEPUPD_CONFIG": str(self.config)})

    def reads(self, *words: str, code: int = 0) -> str:
        result = self.types(*words)
        assert result.exit_code == code, (result.output, result.exception)
        return result.output

    def json(self, *words: str, code: int = 0) -> Any:
        return json.loads(self.reads(*words, "--json", code=code))

    @contextmanager
    def daemon_answers(self) -> Iterator[None]:
        """The daemon looks for requests all the while, as it does every other second."""
        over = threading.Event()

        def look() -> None:
            while not over.is_set():
                self.farm.daemon.operator(self.farm.now)
                time.sleep(0.02)

        daemon = threading.Thread(target=look)
        daemon.start()
        yield
        over.set()
        daemon.join()


@pytest.fixture
def farm(tmp_path: Path) -> Iterator[Farm]:
    farm = Farm(tmp_path)
    yield farm
    farm.database.close()


@pytest.fixture
def shift(farm: Farm, monkeypatch: pytest.MonkeyPatch) -> Shift:
    config = farm.folder / "ctl.yaml"
    config.write_text(f"{SETTINGS}\ndatabase: {farm.url}\n")
    monkeypatch.setattr(main, "utc_now", lambda: farm.now)
    monkeypatch.setattr(ask, "PATIENCE_S", 3.0)
    return Shift(farm, config)


@pytest.fixture
def crashed(farm: Farm) -> Farm:
    """run51.raw died by signal 11 in its first attempt of two."""
    farm.finds("run51.raw")
    farm.passes(3)
    farm.job_of("run51.raw").dies(signal=11)
    farm.passes(1)
    assert farm.state_of("run51.raw") == "crash"
    return farm
