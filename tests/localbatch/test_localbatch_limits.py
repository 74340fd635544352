"""Over its memory or wall time a job is held, with a reason; an operator can hold, release and remove."""

import time

FORKS = """
import os, time
for n in range(4):
    if os.fork() == 0:
        block = bytearray(os.urandom(1 << 20) * 60)
        time.sleep(30)
time.sleep(30)
"""
SHARES = """
import os, time
block = bytearray(os.urandom(1 << 20) * 100)
for n in range(4):
    if os.fork() == 0:
        time.sleep(1.5); os._exit(0)
while True:
    try: os.wait()
    except ChildProcessError: break
"""
ON_TERM = """
import signal, sys, time
def end(*_):
    open('report.json', 'w').write('"ended by signal"'); sys.exit(18)
signal.signal(signal.SIGTERM, end)
open('ready', 'w')
time.sleep(60)
"""


def test_memory_of_forked_children_counts(batch):
    batch.python(FORKS, limits={"memory_mib": 150})
    job = batch.until("held")
    assert job["hold_code"] == 34 and "MiB over the request of 150 MiB" in job["hold_reason"]
    assert 150 < job["peak_mib"] < 400 and job["signal"] == 15
    assert batch.ask("status")["slots_free"] == 2


def test_memory_that_children_share_counts_once(batch):
    batch.python(SHARES, limits={"memory_mib": 250})
    job = batch.until("left")
    assert job["exit_code"] == 0 and 100 <= job["peak_mib"] <= 250


def test_over_its_wall_time_a_job_is_held_and_may_write_its_report_first(batch):
    batch.python(ON_TERM, limits={"wall_s": 1})
    job = batch.until("held")
    assert (job["hold_code"], job["exit_code"]) == (47, 18) and "over the request of 1 s" in job["hold_reason"]
    assert batch.file("report.json").read_text() == '"ended by signal"'


def test_a_job_that_does_not_listen_is_killed_with_all_its_children(batch, helpers, tmp_path):
    script = f"trap '' TERM; (sleep 60) & echo $! > {tmp_path}/pid; while :; do sleep 1; done"  # inherited by all below
    batch.sh(script, limits={"wall_s": 1})
    assert batch.until("held")["signal"] == 9
    assert not helpers.alive(int((tmp_path / "pid").read_text()))


def test_held_by_hand_and_released_a_job_starts_again(batch, helpers, tmp_path):
    batch.sh(f"echo run >> {tmp_path}/runs; test -e {tmp_path}/go || sleep 60")
    helpers.wait_for((tmp_path / "runs").exists, "the job runs")
    batch.ask("hold", keys=["L.1", "no.7"], reason="wait for müller")
    job = batch.until("held")
    assert (job["hold_code"], job["hold_reason"]) == (1, "wait for müller")
    (tmp_path / "go").touch()
    batch.ask("release", keys=["L.1"])
    job = batch.until("left")
    assert (job["exit_code"], job["hold_code"], job["hold_reason"]) == (0, None, "")
    assert (tmp_path / "runs").read_text() == "run\nrun\n"


def test_an_idle_job_is_held_where_it_stands(make_batch):
    batch = make_batch(slots=1)
    batch.sh("sleep 0.5", 3)
    batch.ask("hold", keys=["L.2"], reason="x")
    assert batch.job("L.2")["state"] == "held"
    batch.until("left", "L.3")
    assert not batch.file("shim", "L.2").exists()


def test_a_removed_job_is_killed_gone_and_never_started_again(batch, helpers):
    batch.python(ON_TERM, 3)
    helpers.wait_for((batch.file("scratch") / "ready").exists, "the job listens")
    batch.ask("remove", keys=["L.1", "L.3", "never.1", "nonsense"])
    helpers.wait_for(lambda: set(batch.jobs()) == {"L.2"}, "L.1 and L.3 gone")
    assert batch.file("report.json").exists(), "files are kept until the launch is forgotten"
    assert batch.python(ON_TERM, 3) == {"v": 1, "accepted": 0, "known": 3}
    assert batch.ask("remove", keys=["L.1"])["v"] == 1
    time.sleep(0.2)
    assert set(batch.jobs()) == {"L.2"} and not batch.file("shim", "L.3").exists()


def test_a_job_that_ended_by_itself_is_not_held_for_what_it_was(batch):
    batch.sh("exit 4")
    batch.until("left")
    batch.ask("hold", keys=["L.1"], reason="too late")
    assert (batch.job()["state"], batch.job()["hold_code"], batch.job()["exit_code"]) == ("left", None, 4)


def test_a_forgotten_launch_leaves_nothing_behind_but_its_keys(batch, helpers):
    batch.sh("sleep 30", 2)
    batch.until("running", "L.2")
    assert "2 of its jobs are idle, running or held" in batch.ask("forget", launch="L")["problem"]
    batch.ask("remove", keys=["L.1", "L.2"])
    helpers.wait_for(lambda: not batch.jobs(), "removed")
    for _ in range(2):
        assert batch.ask("forget", launch="L") == {"v": 1}
    helpers.wait_for(lambda: not any((batch.directory / "trash").iterdir()), "files gone")
    assert not (batch.directory / "jobs" / "L").exists()
    assert batch.sh("true", 2)["known"] == 2 and batch.jobs() == {}
    assert batch.sh("true", 3)["accepted"] == 1, "a higher number is new"
