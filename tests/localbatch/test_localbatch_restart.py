"""keepup-batch is killed at any moment: no job runs twice, none is lost, and no exit status either."""

import contextlib
import os
import random
import selectors
import shutil
import signal
import sqlite3
import time

import pytest

from keepupd.localbatch import shim
from keepupd.localbatch.queue import Queue
from keepupd.localbatch.requests import Submit
from keepupd.localbatch.slots import Settings, Slots
from keepupd.localbatch.starter import Starter


def test_jobs_run_on_without_it_and_are_adopted(batch, helpers, tmp_path):
    batch.sh(f"touch {tmp_path}/began.$2; while ! test -e {tmp_path}/go.$2; do sleep 0.02; done; exit $2", 2)
    helpers.wait_for((tmp_path / "began.2").exists, "both run")
    for number in (signal.SIGTERM, signal.SIGKILL):
        batch.end(number)
        batch.start()
        assert [job["state"] for job in batch.jobs().values()] == ["running", "running"]
    batch.end(signal.SIGKILL)
    (tmp_path / "go.1").touch()  # this one ends while nobody looks
    helpers.wait_for(batch.file("exit.json").exists, "L.1 has ended")
    batch.start()
    assert (batch.job("L.1")["state"], batch.job("L.1")["exit_code"]) == ("left", 1)
    (tmp_path / "go.2").touch()
    assert batch.until("left", "L.2")["exit_code"] == 2


def test_an_adopted_job_is_still_measured(batch):
    batch.sh("sleep 60", limits={"wall_s": 2})
    batch.until("running")
    batch.end(signal.SIGKILL)
    batch.start()
    assert batch.until("held")["hold_code"] == 47


def run_through_kills(batch, tmp_path, count: int, seed: int, kills: int) -> None:
    chance = random.Random(seed)
    batch.sh(f"echo $2 >> {tmp_path}/ran.$2; sleep 0.0$(($2 % 5)); exit $(($2 % 7))", count)
    for _ in range(kills):
        time.sleep(chance.uniform(0, 0.1))
        batch.end(signal.SIGKILL)
        batch.start()
    jobs = batch.all_ended()
    assert {key: (job["state"], job["exit_code"]) for key, job in jobs.items()} == {
        f"L.{n}": ("left", n % 7) for n in range(1, count + 1)
    }
    assert [(tmp_path / f"ran.{n}").read_text() for n in range(1, count + 1)] == [f"{n}\n" for n in range(1, count + 1)]


def test_killed_again_and_again_each_job_runs_once(batch, tmp_path):
    run_through_kills(batch, tmp_path, count=40, seed=1, kills=6)


@pytest.mark.long
@pytest.mark.parametrize("seed", [2, 3])
def test_killed_forty_times_each_job_runs_once(batch, tmp_path, seed):
    run_through_kills(batch, tmp_path, count=400, seed=seed, kills=40)


def test_a_shim_that_was_killed_is_said_to_be_lost_and_its_job_ends(batch, helpers, tmp_path):
    batch.sh(f"echo $$ > {tmp_path}/pid; exec sleep 60")
    helpers.wait_for(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text(), "the job runs")
    os.kill(batch.shim_pid(), signal.SIGKILL)
    job = batch.until("left")
    assert (job["exit_code"], job["signal"]) == (None, None) and job["hold_reason"].startswith("lost_shim")
    helpers.wait_for(lambda: not helpers.alive(int((tmp_path / "pid").read_text())), "the orphan is killed")


def test_a_recycled_pid_is_not_taken_for_the_shim(batch):
    batch.sh("sleep 60")
    batch.until("running")
    batch.end(signal.SIGKILL)
    real, link = str(batch.file("shim").readlink()), batch.file("shim")
    link.unlink()
    link.symlink_to(f"{os.getpid()}:{real.split(':')[1]}")  # our pid, and the start time of another
    os.kill(int(real.split(":", 1)[0]), signal.SIGKILL)
    batch.start()
    assert batch.job()["hold_reason"].startswith("lost_shim")


def write_in_queue(batch, sql: str) -> None:
    """As if keepup-batch had been killed between a commit and what should follow it."""
    batch.end(signal.SIGKILL)
    with contextlib.closing(sqlite3.connect(batch.directory / "queue.db")) as queue, queue:
        queue.execute(sql)


def test_a_stop_that_was_asked_for_is_carried_out_after_a_restart(batch, helpers):
    batch.sh("trap '' TERM; touch ready; while :; do sleep 0.1; done", 2)
    for key in ("L.1", "L.2"):
        helpers.wait_for((batch.file("scratch", key) / "ready").exists, "both run")
    write_in_queue(batch, "UPDATE jobs SET hold_code = 1, hold_reason = 'enough', removing = number - 1")
    batch.start()
    assert batch.until("held")["hold_reason"] == "enough"
    helpers.wait_for(lambda: set(batch.jobs()) == {"L.1"}, "L.2 removed")


def test_a_job_that_ended_well_before_it_could_be_stopped_has_left(batch, helpers, tmp_path):
    batch.sh(f"touch {tmp_path}/began; while ! test -e {tmp_path}/go; do sleep 0.02; done; exit 3")
    helpers.wait_for((tmp_path / "began").exists, "it runs")
    write_in_queue(batch, "UPDATE jobs SET hold_code = 34, hold_reason = 'memory'")
    (tmp_path / "go").touch()
    helpers.wait_for(batch.file("exit.json").exists, "it has ended")
    batch.start()
    job = batch.until("left")
    assert (job["exit_code"], job["hold_code"], job["hold_reason"]) == (3, None, "")


def test_a_look_goes_on_after_a_restart_and_starts_anew_when_the_queue_is_another(batch):
    batch.sh("true")
    batch.until("left")
    cursor = batch.ask("look", cursor=None)["cursor"]
    batch.end(signal.SIGKILL)
    batch.start()
    answer = batch.ask("look", cursor=cursor)
    assert answer["jobs"] == [] and not answer["complete"]
    batch.end()
    shutil.rmtree(batch.directory)
    batch.start()
    for old in (cursor, 0, -1, cursor + 10**9):
        answer = batch.ask("look", cursor=old)
        assert answer["complete"] and answer["jobs"] == []


def test_served_with_less_the_queue_is_not_blocked_by_what_no_longer_fits(batch):
    batch.sh("sleep 0.3", launch="A", limits={"cpus": 2})
    batch.sh("true", launch="B", limits={"cpus": 2})
    batch.sh("true", launch="C")
    batch.end(signal.SIGKILL)
    batch.command[batch.command.index("--slots=2")] = "--slots=1"
    batch.start()
    batch.until("left", "C.1")
    assert batch.job("B.1")["hold_code"] == 26 and "asks for cpus 2, and there are 1" in batch.job("B.1")["hold_reason"]


def test_with_no_room_for_its_files_a_job_is_held(batch, helpers):
    batch.sh("sleep 0.5", 3)
    shutil.rmtree(batch.directory / "jobs" / "L" / "input-1")  # as if the disk had failed
    jobs = batch.all_ended()
    assert jobs["L.3"]["hold_code"] == 6 and "could not be prepared" in jobs["L.3"]["hold_reason"]


# --- the moments by name: nothing forked yet, forked twice, never begun ----------------------------------------------


class Killed:
    """The inside of keepup-batch without its loop: dropped and made anew, as a kill -9 does."""

    def __init__(self, directory, tmp_path):
        for name in ("jobs", "trash"):
            (directory / name).mkdir(parents=True, exist_ok=True)
        self.queue = Queue(directory / "queue.db")
        self.selector = selectors.DefaultSelector()
        self.slots = Slots(Settings(directory, 1, 1000, grace_s=0.1), self.queue, self.selector)
        self.order = Submit.model_validate({
            "v": 1, "op": "submit", "launch": "L", "tag": "", "files": {}, "numbers": [1],
            "argv": ["/bin/sh", "-c", f"echo ran >> {tmp_path}/ran; exit 5"],
        })  # fmt: skip

    def submit(self, directory):
        with self.queue.transaction():
            self.queue.submit(self.order, 0.0)
        (directory / "jobs" / "L" / "input-1").mkdir(parents=True)

    def fill(self):
        with self.queue.transaction():
            self.slots.fill()

    def until_ended(self):
        while self.slots.running:
            ready = [key.data for key, _ in self.selector.select(10)]
            assert ready, "the shim never ended"
            with self.queue.transaction():
                for job in ready:
                    self.slots.ended(job)
        (row,) = self.queue.jobs(["L.1"])
        return row["state"], row["exit_code"]


@pytest.fixture
def killed(tmp_path):
    made = []

    def make():
        made.append(Killed(tmp_path / "b", tmp_path))
        return made[-1]

    yield make
    for one in made:
        one.slots.close()


def test_killed_between_the_commit_and_the_fork(killed, tmp_path):
    before = killed()
    before.submit(tmp_path / "b")
    before.fill()
    after = killed()
    after.slots.recover()
    assert after.queue.jobs(["L.1"])[0]["state"] == "idle"
    after.fill()
    after.slots.start()
    assert after.until_ended() == ("left", 5) and (tmp_path / "ran").read_text() == "ran\n"


def test_a_shim_forked_before_the_kill_and_one_after_it_run_the_job_once(killed, tmp_path):
    before = killed()
    before.submit(tmp_path / "b")
    before.fill()
    after = killed()
    after.slots.recover()
    after.fill()
    before.slots.start()  # the one that slept through the kill
    after.slots.start()
    assert after.until_ended() == ("left", 5) and (tmp_path / "ran").read_text() == "ran\n"


@pytest.mark.parametrize(("values", "state"), [({"removing": 1}, "removed"), ({"hold_code": 1}, "held")])
def test_never_begun_and_to_be_stopped_no_shim_can_begin_it_later(killed, tmp_path, values, state):
    before = killed()
    before.submit(tmp_path / "b")
    before.fill()
    with before.queue.transaction():
        before.queue.set(1, **values)
    after = killed()
    after.slots.recover()
    assert after.queue.jobs(["L.1"])[0]["state"] == state
    after.slots.recover()  # again, as after trouble with the disk
    assert after.queue.jobs(["L.1"])[0]["state"] == state
    before.slots.start()
    assert before.selector.select(10), "the shim ends"
    assert not (tmp_path / "ran").exists()


def test_after_a_restart_of_the_machine_a_job_without_exit_is_lost_and_not_run_again(killed, tmp_path):
    before = killed()
    before.submit(tmp_path / "b")
    before.fill()
    before.queue._db.execute("UPDATE meta SET boot = 'another'")
    after = killed()
    after.slots.recover()
    (row,) = after.queue.jobs(["L.1"])
    assert row["state"] == "left" and row["exit_code"] is None and row["hold_reason"].startswith("lost_shim")


def test_a_starter_that_died_is_replaced(tmp_path):
    (tmp_path / "in").mkdir()
    starter = Starter()
    try:
        for n in (1, 2):
            order = shim.Start(str(tmp_path / str(n)), str(tmp_path / "in"), ["/bin/sh", "-c", "exit 3"], {}, [], 1.0)
            assert starter.start(order) > 0
            os.kill(starter._process.pid, signal.SIGKILL)
            starter._process.wait()
            with pytest.raises(OSError, match=r"gone|Broken pipe|reset by peer"):
                starter.start(order)
    finally:
        starter.close()
