"""The built wheel, installed outside the checkout, has all that it needs: charts, causes, worker, migrations."""

import os
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

from keepupd.clients.sam import Sam

CHECKOUT = Path(__file__).parents[1]
TRAVELS = (
    "keepupd/statecharts/file.yaml", "keepupd/statecharts/campaign.yaml", "keepupd/statecharts/causes.yaml",
    "keepupd/worker/keepup_worker.py", "keepupd/worker/check_histograms.py", "keepupd/store/migrations/env.py",
    "keepupd/samserver/dims.lark",
)  # fmt: skip
CAMPAIGN = """
name: dune_wheel_reco
type: reco
owner: someone
contact: someone@example.org
input: {query: data_tier simulated}
outputs:
  - {tier: full-reconstructed, file_type: mc, location: "here:/tmp"}
executable:
  argv: [reco.py, "{input}", "{output}"]
  application: {family: keepup, name: reco, version: v1}
"""
pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(CHECKOUT), cwd=CHECKOUT)
    (built,) = out.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """bin of a new virtual environment with the wheel; the libraries are those of the environment that tests."""
    home = tmp_path_factory.mktemp("elsewhere") / "venv"
    venv.create(home, with_pip=False)
    (site,) = home.glob("lib/python*/site-packages")
    libraries = next(Path(path) for path in sys.path if path.endswith("site-packages"))
    (site / "libraries.pth").write_text(f"{libraries}\n")  # a .pth inside it, such as our checkout's, is not followed
    run(sys.executable, "-m", "pip", "--python", str(home / "bin/python"), "install", "--quiet", "--no-deps",
        "--no-index", "--ignore-installed", str(wheel), cwd=home)  # fmt: skip
    where = run(home / "bin/python", "-c", "import keepupd; print(keepupd.__file__)", cwd=home)
    assert Path(where.strip()).is_relative_to(home), "the checkout's keepupd is found instead of the wheel's"
    return home / "bin"


def run(*command: str | Path, cwd: Path) -> str:
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "KEEPUPD_CONFIG")}
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}: exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def test_the_files_that_are_no_modules_travel_with_the_wheel(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    assert not set(TRAVELS) - names
    assert any(name.startswith("keepupd/store/migrations/versions/") for name in names)
    assert not [name for name in names if name.startswith(("tests/", "deploy/"))]


@pytest.mark.parametrize("command", ["keepupd", "keepupctl", "keepup-sam", "keepup-batch"])
def test_each_command_says_how_it_is_used(installed: Path, command: str, tmp_path: Path) -> None:
    assert command in run(installed / command, "--help", cwd=tmp_path)


def test_the_charts_are_found(installed: Path, tmp_path: Path) -> None:
    assert "automation has given up" in run(installed / "keepupctl", "chart", "file", cwd=tmp_path)


def test_the_worker_runs_as_a_file_of_its_own(installed: Path, tmp_path: Path) -> None:
    where = run(
        installed / "python", "-c", "from keepupd.worker import keepup_worker as w; print(w.__file__)", cwd=tmp_path
    )
    assert "usage" in run(sys.executable, where.strip(), "--help", cwd=tmp_path)


def test_a_site_is_checked_and_its_database_made(installed: Path, tmp_path: Path, sam_server, batch_server) -> None:
    sam = Sam(sam_server.answer)
    sam.register_parameter("DUNE.campaign")
    sam.register_application("keepup", "reco", "v1")
    sam.register_data_disk("here:/tmp")
    (tmp_path / "keepupd.yaml").write_text(
        f"name: wheel\nstate_dir: state\ncampaigns: [campaign.yaml]\n"
        f"sam: {{read_url: '{sam_server.answer}', experiment: dune, station: dune, user: tester}}\n"
        f"batch: {{kind: local, directory: '{batch_server.answer}'}}\n"
    )
    (tmp_path / "campaign.yaml").write_text(CAMPAIGN)
    run(installed / "keepupd", "db", "upgrade", "-c", "keepupd.yaml", cwd=tmp_path)
    assert "dune_wheel_reco" in run(installed / "keepupd", "check", "-c", "keepupd.yaml", cwd=tmp_path)
