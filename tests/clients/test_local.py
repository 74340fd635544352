"""LocalBatch against a real keepup-batch."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest

from keepupd.clients.local import LocalBatch
from keepupd.core.errors import BatchUnavailable, JobRejected
from keepupd.core.model import JobState, Launch

LAUNCH = Launch(
    key="L-1", daemon="prod", campaign="dune_x", numbers=(1, 2), files={"order.json": '{"ä": 1}'},
    argv=("/bin/sh", "-c", "cat order.json; echo $1 > report.json; echo x > executable.log; exit $2",
          "sh", "{key}", "{number}"),
    memory_mib=100,
)  # fmt: skip


@pytest.fixture
def served(tmp_path):
    directory = tmp_path / "batch"
    command = [sys.executable, "-m", "keepupd.localbatch.main", "serve", f"--dir={directory}", "--slots=2"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert "serving" in process.stdout.readline()
    yield directory, process
    if process.poll() is None:
        batch = LocalBatch(directory)
        batch.remove([job.key for job in batch.look("prod", None).jobs])
        process.terminate()
    process.wait(10)
    process.stdout.close()


def until(batch, count, state):
    for _ in range(500):
        jobs = {job.key: job for job in batch.look("prod", None).jobs if job.state is state}
        if len(jobs) == count:
            return jobs
        time.sleep(0.02)
    raise AssertionError(f"no {count} jobs {state}: {batch.look('prod', None)}")


def test_a_launch_from_submission_to_oblivion(served, tmp_path):
    batch = LocalBatch(served[0])
    for _ in range(2):  # the answer to the first may have been lost
        batch.submit(LAUNCH)
    jobs = until(batch, 2, JobState.LEFT)
    one = jobs["L-1.1"]
    assert (one.tag, one.exit_code, jobs["L-1.2"].exit_code, one.host) == ("prod/dune_x/L-1", 1, 2, os.uname().nodename)
    assert one.started.utcoffset().total_seconds() == 0 and one.started <= one.ended and one.wall_s > 0
    batch.fetch(one, tmp_path / "home")
    home = {file.name: file.read_text() for file in (tmp_path / "home").iterdir()}
    assert home == {"stdout": '{"ä": 1}', "stderr": "", "report.json": "L-1.1\n", "executable.log": "x\n"}
    batch.remove(list(jobs))
    batch.forget("L-1")
    batch.forget("L-1")
    assert batch.look("prod", None).jobs == []
    batch.submit(LAUNCH)
    assert batch.look("prod", None).jobs == [], "a known key is never started again"
    batch.fetch(one, tmp_path / "late")
    assert list((tmp_path / "late").iterdir()) == []


def test_a_look_shows_what_changed_and_only_our_jobs(served):
    batch = LocalBatch(served[0])
    first = batch.look("prod", None)
    assert first.complete and first.jobs == []
    batch.submit(LAUNCH)
    batch.submit(replace(LAUNCH, key="M", daemon="prod2"))
    until(batch, 2, JobState.LEFT)
    later = batch.look("prod", first.cursor)
    assert not later.complete and {job.key for job in later.jobs} == {"L-1.1", "L-1.2"}
    assert batch.look("prod", "12").complete


def test_a_look_at_more_jobs_than_fit_in_one_answer(served):
    batch = LocalBatch(served[0])
    batch.submit(replace(LAUNCH, argv=("sleep", "60"), numbers=range(5000)))
    look = batch.look("prod", None)
    assert look.complete and len({job.key for job in look.jobs}) == len(look.jobs) == 5000


def test_what_can_never_run_is_rejected(served):
    with pytest.raises(JobRejected, match=r"cpus 99, and there are 2\n  remedy:"):
        LocalBatch(served[0]).submit(replace(LAUNCH, cpus=99))


def test_silence_is_not_absence(served, tmp_path):
    directory, process = served
    with pytest.raises(BatchUnavailable):
        LocalBatch(tmp_path / "nothing").look("prod", None)
    process.send_signal(signal.SIGKILL)
    process.wait(10)
    with pytest.raises(BatchUnavailable, match="gave no answer"):
        LocalBatch(directory).submit(LAUNCH)
