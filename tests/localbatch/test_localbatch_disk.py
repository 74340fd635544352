"""The disk is full: nothing is lost, keepup-batch says so, and all goes on when there is room."""

import os
import subprocess

import pytest


@pytest.fixture
def small_disk(tmp_path):
    """A tmpfs of 3 MiB."""
    directory = tmp_path / "small"
    directory.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", directory], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("only root may mount a tmpfs")
    yield directory
    subprocess.run(["umount", "--lazy", directory], check=True)


def fill(directory) -> None:
    fd = os.open(directory / "ballast", os.O_WRONLY | os.O_CREAT)
    for size in (65536, 1):
        try:
            while os.write(fd, b"x" * size):
                pass
        except OSError:
            continue
    os.close(fd)


def test_a_job_that_fills_the_disk_is_noted_all_the_same(small_disk, make_batch):
    batch = make_batch(directory=small_disk / "batch", slots=1)
    batch.sh("cat /dev/zero > big; exit 3", 2)
    ends = {key: (job["state"], job["exit_code"]) for key, job in batch.all_ended().items()}
    assert ends == {"L.1": ("left", 3), "L.2": ("left", 3)}


def test_exit_statuses_wait_for_room_on_a_full_disk(small_disk, make_batch, helpers, tmp_path):
    batch = make_batch(directory=small_disk / "batch")
    batch.sh(f"touch {tmp_path}/began.$2; while ! test -e {tmp_path}/go; do sleep 0.02; done; echo out; exit $2", 4)
    helpers.wait_for((tmp_path / "began.2").exists, "two run")
    fill(small_disk)
    (tmp_path / "go").touch()
    helpers.wait_for(lambda: batch.sh("true", launch="M").get("error") == "unavailable", "an order is refused")
    (small_disk / "ballast").unlink()
    ends = {key: (job["state"], job["exit_code"]) for key, job in batch.all_ended().items()}
    assert ends == {f"L.{n}": ("left", n) for n in (1, 2, 3, 4)}
    assert batch.sh("true", launch="M")["accepted"] == 1
