"""What a job gets, and what is kept of it."""

import time

DAEMON = """
import os, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        with open('pid', 'w') as file: file.write(str(os.getpid()))
        os.rename('pid', os.environ['PID_FILE'])
        time.sleep(60)
    os._exit(0)
while not os.path.exists(os.environ['PID_FILE']): time.sleep(0.01)
"""
TALKS = """
import os
os.write(1, b'first line\\n')
for n in range(100): os.write(1, b'x' * 999_999 + b'\\n')
print('last line')
"""


def test_a_job_runs_in_its_own_scratch_directory_and_its_report_comes_home(batch, helpers):
    script = """
        echo "$1" > report.json; cat order.json >> report.json; touch junk
        pwd; echo "$TMPDIR $_CONDOR_SCRATCH_DIR $NAME"; echo no >&2"""
    batch.sh(script, files={"order.json": "täglich\n"}, environment={"NAME": "für"}, bring_home=["report.*", "*.log"])
    job = batch.until("left")
    scratch = str(batch.file("scratch"))
    assert (job["exit_code"], job["signal"], job["hold_code"], job["slot"]) == (0, None, None, 1)
    assert job["submitted"] <= job["started"] <= job["ended"] and job["directory"] == str(batch.file("."))
    assert batch.file("report.json").read_text() == "L.1\ntäglich\n"
    assert batch.file("stdout").read_text() == f"{scratch}\n{scratch} {scratch} für\n"
    assert batch.file("stderr").read_text() == "no\n"
    helpers.wait_for(lambda: not batch.file("scratch").exists(), "scratch directory removed")
    assert not batch.file("junk").exists()


def test_jobs_start_in_the_order_they_came_and_no_more_than_there_are_slots(make_batch, tmp_path):
    batch = make_batch(slots=2)
    batch.sh(f'echo "start $2" >> {tmp_path}/log; sleep 0.05; echo end >> {tmp_path}/log', 8)
    batch.all_ended()
    lines, running, order = (tmp_path / "log").read_text().split("\n")[:-1], 0, []
    for line in lines:
        running += 1 if line.startswith("start") else -1
        assert 0 <= running <= 2
        order += [int(line.split()[1])] if line.startswith("start") else []
    # two shims that were forked at the same time may reach their jobs in either order
    assert sorted(order) == list(range(1, 9)) and all(abs(n - i) <= 2 for i, n in enumerate(order, 1))


def test_a_small_job_does_not_overtake_a_big_one(make_batch, tmp_path):
    batch = make_batch(slots=2)
    batch.sh(f"echo a >> {tmp_path}/log; sleep 0.5", launch="A")
    batch.sh(f"echo b >> {tmp_path}/log", launch="B", limits={"cpus": 2})
    batch.sh(f"echo c >> {tmp_path}/log", launch="C")
    batch.all_ended()
    assert (tmp_path / "log").read_text() == "a\nb\nc\n"


def test_memory_requests_are_added_up(make_batch):
    batch = make_batch(slots=8, memory_mib=1000)
    batch.sh("sleep 30", 3, limits={"memory_mib": 500})
    batch.until("running", "L.2")
    time.sleep(0.3)
    assert [job["state"] for job in batch.jobs().values()] == ["idle", "running", "running"]  # by time of change
    assert batch.ask("status")["memory_free_mib"] == 0


def test_every_way_to_end_is_told_apart(batch):
    batch.submit(["/bin/sh", "-c", "exit 3"], launch="exits")
    batch.submit(["/bin/sh", "-c", "kill -SEGV $$"], launch="signal")
    batch.submit(["no-such-program", "x"], launch="missing")
    batch.submit(["/etc/passwd"], launch="no-program")
    batch.submit(["./dir/none"], launch="missing-here")
    jobs = batch.all_ended()
    ends = {job["launch"]: (job["state"], job["exit_code"], job["signal"]) for job in jobs.values()}
    assert ends == {
        "exits": ("left", 3, None), "signal": ("left", None, 11), "missing": ("left", 127, None),
        "no-program": ("left", 126, None), "missing-here": ("left", 127, None),
    }  # fmt: skip
    assert "cannot start 'no-such-program': No such file" in batch.file("stderr", "missing.1").read_text()


def test_children_that_outlive_the_job_are_killed(batch, helpers, tmp_path):
    batch.python(DAEMON, environment={"PID_FILE": f"{tmp_path}/pid"})
    assert batch.until("left")["exit_code"] == 0
    assert not helpers.alive(int((tmp_path / "pid").read_text()))


def test_a_job_that_kills_its_own_process_group_harms_nobody_else(batch):
    batch.sh("kill -KILL 0")
    assert batch.until("left")["signal"] == 9


def test_a_job_that_writes_without_end_fills_no_disk_and_is_not_harmed(batch):
    batch.python(TALKS)
    assert batch.until("left")["exit_code"] == 0
    kept = batch.file("stdout").read_bytes()
    assert len(kept) < 3_000_000 and kept.startswith(b"first line\n") and kept.endswith(b"last line\n")
    assert b"bytes left out here]" in kept and batch.file("stderr").read_bytes() == b""


def test_just_under_what_is_kept_nothing_is_left_out(batch):
    batch.python("import os\nfor n in range(2000): os.write(1, b'%07d\\n' % n * 128)")
    batch.until("left")
    assert batch.file("stdout").read_bytes() == b"".join(b"%07d\n" % n * 128 for n in range(2000))


def test_only_plain_files_come_home(batch):
    batch.sh("ln -s /etc/passwd a.log; mkdir b.log; echo x > c.log; echo y > d.txt; mkfifo e.log", bring_home=["*.log"])
    batch.until("left")
    found = {file.name for file in batch.file(".").iterdir()} - {"scratch"}
    assert found == {"shim", "exit.json", "stdout", "stderr", "c.log"}


def test_twenty_thousand_jobs_queue_in_one_message_and_are_looked_at_by_change(make_batch, helpers):
    batch = make_batch(slots=1)
    assert batch.sh("sleep 30", 20_000) == {"v": 1, "accepted": 20_000, "known": 0}
    assert batch.sh("sleep 30", 20_000) == {"v": 1, "accepted": 0, "known": 20_000}
    first = answer = batch.ask("look", cursor=None)
    keys = [job["key"] for job in answer["jobs"]]
    while answer["more"]:
        answer = batch.ask("look", cursor=answer["cursor"])
        keys += [job["key"] for job in answer["jobs"]]
    assert len(set(keys)) == 20_000 and first["complete"]
    batch.ask("remove", keys=["L.20000"])
    answer = batch.ask("look", cursor=answer["cursor"])
    assert [(job["key"], job["state"]) for job in answer["jobs"]] == [("L.20000", "removed")] and not answer["complete"]
    assert batch.ask("look", cursor=answer["cursor"])["jobs"] == []
