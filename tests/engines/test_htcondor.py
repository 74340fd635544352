"""The client of HTCondor against a real pool: what keepupd relies on, and what people and accidents do to jobs."""

import itertools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pools.condor import Pool

from keepupd.clients.htcondor import HTCondorBatch
from keepupd.core.errors import BatchUnavailable, JobRejected
from keepupd.core.model import JobSeen, JobState, Launch

pytestmark = [pytest.mark.long, pytest.mark.engine, pytest.mark.timeout(300)]
KEYS = (f"20260105-0200{n:02d}-{'abcd'}" for n in itertools.count())
PRINTS = """
import os, sys
open("report.json", "w").write("{}")
os.mkdir("sub"); open("sub/big", "w").write("not brought home")
print(sys.argv[1:], os.environ.get("WORDS"))
sys.exit(3 if sys.argv[2].endswith(".2") else 0)
"""
WAITS = "import time; open('report.json', 'w').write('{}'); time.sleep(600)"


@pytest.fixture
def batch(condor: Pool, tmp_path: Path) -> HTCondorBatch:
    return HTCondorBatch(tmp_path / "home", condor.config)


def launch(script: str, *numbers: int, **more: Any) -> Launch:
    argv = ["/usr/bin/python3", "-I", "-S", "job.py", 'it\'s "so"', "{key}"]
    limits = {"memory_mib": 100, "disk_mib": 10, "wall_s": 600} | more
    return Launch(next(KEYS), "tester", "reco", numbers or (1,), {"job.py": script}, argv, **limits)


def jobs_of(batch: HTCondorBatch, key: str) -> dict[str, JobSeen]:
    return {job.key.rpartition(".")[2]: job for job in batch.look("tester", None).jobs if job.key.startswith(key)}


def until(truth: Callable[[], Any], patience_s: float = 90) -> Any:
    give_up = time.monotonic() + patience_s
    while not (found := truth()):
        assert time.monotonic() < give_up, "waited in vain"
        time.sleep(0.3)
    return found


def become(batch: HTCondorBatch, key: str, state: JobState) -> dict[str, JobSeen]:
    def there() -> dict[str, JobSeen] | None:
        seen = jobs_of(batch, key)
        return seen if seen and all(job.state == state for job in seen.values()) else None

    return until(there)  # type: ignore[no-any-return]


def spool_of(condor: Pool) -> list[str]:
    """Sandboxes in the schedd's spool."""
    return condor.run("sh", "-c", "find /var/spool/condor -name 'cluster*.proc*' -type d").split()


def test_jobs_run_and_come_home_and_nothing_is_left(condor: Pool, batch: HTCondorBatch, tmp_path: Path) -> None:
    assert spool_of(condor) == []
    two = launch(PRINTS, 1, 2, environment={"WORDS": "two words"}, units={1: "one"})
    batch.submit(two)
    batch.submit(two)
    assert spool_of(condor), "or this test looks at the wrong place"
    assert len(jobs_of(batch, two.key)) == 2, "what is known is not queued again"
    seen = become(batch, two.key, JobState.LEFT)
    assert [seen["1"].exit_code, seen["2"].exit_code] == [0, 3]
    assert seen["1"].tag == two.tag and seen["1"].host and seen["1"].started <= seen["1"].ended
    batch.fetch(seen["1"], tmp_path / "evidence")
    assert sorted(path.name for path in (tmp_path / "evidence").iterdir()) == ["report.json", "stderr", "stdout"]
    assert (tmp_path / "evidence" / "stdout").read_text() == f"""['it\\'s "so"', '{two.key}.1'] two words\n"""
    batch.fetch(seen["1"], tmp_path / "evidence")
    batch.forget(two.key)
    batch.forget(two.key)
    assert jobs_of(batch, two.key) == {} and until(lambda: not spool_of(condor))


def test_a_submission_that_was_cut_off_while_spooling_is_made_whole(
    batch: HTCondorBatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    import htcondor2

    one = launch(PRINTS)
    with monkeypatch.context() as cut:
        cut.setattr(htcondor2.Schedd, "spool", lambda *_: (_ for _ in ()).throw(OSError("connection lost")))
        with pytest.raises(BatchUnavailable):
            batch.submit(one)
    assert jobs_of(batch, one.key)["1"].state == JobState.IDLE, "spooling is no hold"
    batch.submit(one)
    become(batch, one.key, JobState.LEFT)
    assert len(jobs_of(batch, one.key)) == 1
    batch.forget(one.key)


def test_a_look_shows_what_changed(batch: HTCondorBatch) -> None:
    one = launch(WAITS)
    first = batch.look("tester", None)
    batch.submit(one)
    later = batch.look("tester", first.cursor)
    assert first.complete and not later.complete and f"{one.key}.1" in [job.key for job in later.jobs]
    assert batch.look("another", None).jobs == []
    batch.remove([f"{one.key}.1", f"{one.key}.99", "never-was.1"])
    until(lambda: not jobs_of(batch, one.key))
    batch.forget(one.key)


def test_a_running_job_is_not_forgotten(batch: HTCondorBatch) -> None:
    one = launch(WAITS)
    batch.submit(one)
    become(batch, one.key, JobState.RUNNING)
    with pytest.raises(JobRejected, match="remove them first"):
        batch.forget(one.key)
    batch.remove([f"{one.key}.1"])
    until(lambda: not jobs_of(batch, one.key))
    batch.forget(one.key)


def test_held_by_hand_and_released_it_does_not_start_again(condor: Pool, batch: HTCondorBatch) -> None:
    one = launch(WAITS)
    batch.submit(one)
    become(batch, one.key, JobState.RUNNING)
    condor.run("condor_hold", "-constraint", f'KeepupLaunch == "{one.key}"', "-reason", "let me look")
    held = become(batch, one.key, JobState.HELD)["1"]
    assert held.hold_code == 1 and "let me look" in held.hold_reason
    condor.run("condor_release", "-constraint", f'KeepupLaunch == "{one.key}"')
    again = until(lambda: (job := jobs_of(batch, one.key)["1"]).hold_code == 3 and job)
    assert "start it again" in again.hold_reason
    batch.remove([again.key])
    batch.forget(one.key)


@pytest.mark.parametrize(
    ("script", "limits", "words"),
    [("import time; x = 'x' * 300_000_000; time.sleep(600)", {"memory_mib": 50}, "memory"),
     (WAITS, {"wall_s": 3}, "wall time over the request of 3 s")],
    ids=["memory", "wall"],
)  # fmt: skip
def test_over_its_request_a_job_is_held(batch: HTCondorBatch, script: str, limits: dict[str, int], words: str) -> None:
    one = launch(script, **limits)
    batch.submit(one)
    held = become(batch, one.key, JobState.HELD)["1"]
    assert held.hold_code == 3 and words in held.hold_reason
    batch.remove([held.key])
    batch.forget(one.key)


def test_an_excluded_host_gets_no_job(batch: HTCondorBatch) -> None:
    one = launch(PRINTS)
    batch.submit(one)
    host = become(batch, one.key, JobState.LEFT)["1"].host
    shy = launch(PRINTS, excluded_hosts=[host])
    batch.submit(shy)
    time.sleep(8)
    assert jobs_of(batch, shy.key)["1"].state == JobState.IDLE
    batch.remove([f"{shy.key}.1"])
    for key in (one.key, shy.key):
        batch.forget(key)


def test_idle_jobs_shun_a_host_from_now_on_and_go_there_again(batch: HTCondorBatch) -> None:
    """A full pool with one job waiting; the host is excluded, and the slots become free."""
    full, late = launch(WAITS, 1, 2, 3, 4), launch(PRINTS)
    batch.submit(full)
    host = become(batch, full.key, JobState.RUNNING)["1"].host
    batch.submit(late)
    batch.exclude("tester", ["elsewhere.example.org", host])
    batch.exclude("tester", ["elsewhere.example.org", host])
    batch.remove([f"{full.key}.{number}" for number in full.numbers])
    until(lambda: not jobs_of(batch, full.key))
    time.sleep(8)
    assert jobs_of(batch, late.key)["1"].state == JobState.IDLE
    batch.exclude("another", [])
    time.sleep(4)
    assert jobs_of(batch, late.key)["1"].state == JobState.IDLE, "only the daemon's own jobs are edited"
    batch.exclude("tester", [])
    become(batch, late.key, JobState.LEFT)
    for key in (full.key, late.key):
        batch.forget(key)


def test_lines_that_htcondor_does_not_understand_are_refused(batch: HTCondorBatch) -> None:
    with pytest.raises(JobRejected, match="description"):
        batch.submit(launch(PRINTS, lines={"request_cpus": "many (("}))


def test_a_schedd_that_is_away_gives_no_answer_and_comes_back(
    condor: Pool, batch: HTCondorBatch, tmp_path: Path
) -> None:
    one = launch(PRINTS)
    batch.submit(one)
    ended = become(batch, one.key, JobState.LEFT)["1"]
    condor.run("condor_off", "-fast", "-schedd")
    until(lambda: "condor_schedd" not in condor.run("sh", "-c", "cat /proc/[0-9]*/comm"))
    with pytest.raises(BatchUnavailable):
        batch.look("tester", None)
    condor.run("condor_on", "-schedd")

    def back() -> bool:
        try:
            return bool(batch.look("tester", None).jobs)
        except BatchUnavailable:
            return False

    until(back)
    batch.fetch(ended, tmp_path / "evidence")
    assert (tmp_path / "evidence" / "report.json").read_text() == "{}"
    batch.forget(one.key)
