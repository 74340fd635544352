"""One real keepup-sam process for all tests of a run that don't harm it."""

from urllib.parse import quote

import pytest
from sam_process import register, start_server, stop_server


@pytest.fixture(scope="session")
def sam(tmp_path_factory: pytest.TempPathFactory):
    server = start_server(tmp_path_factory.mktemp("sam") / "catalog.db")
    register(server)
    yield server
    stop_server(server)


@pytest.fixture
def new_server():
    """Starts servers of a test's own, and ends them however the test goes."""
    started = []

    def start(db):
        started.append(start_server(db))
        return started[-1]
    yield start
    for server in started:
        stop_server(server)


@pytest.fixture
def quoted():
    return lambda name: quote(name, safe="")
