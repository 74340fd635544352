"""`keepupctl status` and the other lists: exact numbers, a shape to rely on, exit codes, and no slow import."""

import json
import os
import re
import sqlite3
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner
from sqlalchemy import insert, select, update

from keepupd.ctl import main, status, views
from keepupd.ctl.words import cut, plain, span
from keepupd.store.tables import SCHEMA, campaigns, counters, outbox, polls, units

STATES = ("pending", "running", "validated", "declared", "held", "crash", "debug")
BIN = Path(sys.executable).parent


def test_status_has_the_shape_that_others_rely_on(crashed, shift):
    crashed.finds("good.raw", "waits.raw")
    crashed.passes(3)
    crashed.job_of("good.raw").succeeds()
    crashed.passes(2)
    found = shift.json("status")
    assert found["keepupctl"] == "keepupctl"
    [campaign] = found["campaigns"]
    assert (campaign["name"], campaign["type"], campaign["state"]) == ("farm_reco", "reco", "running")
    assert campaign["files"] == dict.fromkeys(STATES, 0) | {"crash": 1, "declared": 1, "running": 1}
    assert campaign["sum_rule_difference"] == 0 and campaign["top_cause"] == "segmentation_fault"
    assert campaign["oldest_undeclared_s"] == pytest.approx(9, abs=3)
    assert (campaign["rate_in_1h"], campaign["rate_out_1h"]) == (3, 1)
    assert found["daemon"]["last_pass_s"] <= 2 and not found["daemon"]["silent"]
    crashed.later(hours=2)
    [campaign] = shift.json("status")["campaigns"]
    assert (campaign["rate_in_1h"], campaign["rate_out_1h"]) == (0, 0)


def test_trouble_is_seen_without_colour(crashed, shift):
    crashed.operator("pause", reason="power cut")
    with crashed.database.write("test") as db:
        db.execute(update(campaigns).values(difference=3))
        db.execute(insert(polls).values(name="input:farm_reco2", failed=crashed.now, error="of a campaign long gone"))
        batch = update(polls).where(polls.c.name == "batch")
        db.execute(batch.values(failed=crashed.now, good=None, error="no schedd"))
        at = {"created": crashed.now, "due": crashed.now, "parked": crashed.now}
        db.execute(insert(outbox).values(effect="close", key=1, **at))
    said = shift.reads("status")
    assert "! farm_reco" in said and "HELD" in said and "power cut" in said and "3 files break the sum rule" in said
    assert "no schedd" in said and "effects wait for a person" in said and "long gone" not in said
    crashed.later(minutes=10)
    assert "is it running?" in shift.reads("status")


def test_the_table_fits_120_columns_whatever_is_in_it(crashed, shift):
    with crashed.database.write("test") as db:
        db.execute(update(campaigns).values(name="x" * 100, state="validated", why="y" * 500))
        db.execute(update(units).values(cause="c" * 80))
        for state in STATES:
            db.execute(insert(counters).values(campaign_id=1, state=state, cause="c" * 80, n=987_654_321))
    for words in (["status"], ["files", "x" * 100]):
        lines = shift.reads(*words).splitlines()
        table = [line for line in lines if not line.startswith("    ")]
        assert max(map(len, table)) <= views.WIDTH, table
    assert "987.7M" in shift.reads("status")


@pytest.mark.sqlite
def test_status_and_its_numbers_come_from_indices(crashed):
    sql = status.CAMPAIGNS.format(hour_ago=0)
    with sqlite3.connect(crashed.url.removeprefix("sqlite:///")) as db:
        plan = [row[3] for row in db.execute(f"EXPLAIN QUERY PLAN {sql}")]
        perhaps_sick = [row[3] for row in db.execute(f"EXPLAIN QUERY PLAN {status.SICK.format(day_ago=0)}")]
    assert not [line for line in perhaps_sick if line.startswith("SCAN")], perhaps_sick
    searches = [line for line in plan if " u " in line]
    assert len(searches) == 5 and all("USING" in line and "SEARCH" in line for line in searches), plan
    assert any("attempts_ended" in line and "SEARCH" in line for line in plan), plan
    assert {"units_open", "units_by_seen", "units_declared"} <= {word for line in searches for word in line.split()}


def test_a_file_that_left_sam_is_not_the_oldest(farm, shift):
    farm.finds("a.raw")
    farm.daemon.inputs(farm.now)
    farm.sam.retire("a.raw")
    farm.later(minutes=1)
    farm.daemon.inputs(farm.now)
    assert shift.json("status")["campaigns"][0]["oldest_undeclared_s"] is None


def test_status_needs_no_slow_import(crashed, shift):
    code = (
        "import sys; from keepupd.ctl.main import app\n"
        "try: app(['status'])\n"
        "finally: print(sorted({'sqlalchemy', 'pydantic', 'httpx', 'rich', 'transitions'} & set(sys.modules)))"
    )
    env = os.environ | {"KEEPUPD_CONFIG": str(shift.config)}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert "farm_reco" in done.stdout and done.stdout.splitlines()[-1] == "[]"


def test_the_schema_it_looks_for_is_the_one_the_tables_have():
    assert status.newest_schema() == SCHEMA


def test_files_lists_those_in_trouble_first_and_counts_the_rest(crashed, shift):
    crashed.finds(*(f"b{n}.raw" for n in range(5)))
    crashed.daemon.inputs(crashed.now)
    found = shift.json("files", "farm_reco", "--limit", "3")
    assert [f["state"] for f in found["files"]] == ["crash", "pending", "pending"] and found["total"] == 6
    assert "3 of 6 files; more with --limit" in shift.reads("files", "farm_reco", "--limit", "3")
    assert shift.json("files", "farm_reco", "--state", "pending")["total"] == 5
    only = shift.json("files", "farm_reco", "--cause", "segmentation_fault")
    assert [f["name"] for f in only["files"]] == ["run51.raw"] and only["total"] == 1
    assert shift.json("files", "farm_reco", "--cause", "aborted")["files"] == []
    assert "'crashed' is not one of" in shift.reads("files", "farm_reco", "--state", "crashed", code=2)


def test_history_and_log_tell_the_whole_story(crashed, shift):
    steps = shift.json("history", "run51.raw")["steps"]
    assert [(s["source"], s["dest"]) for s in steps] == [("pending", "running"), ("running", "crash")]
    assert "pending -> running (work_seen)" in shift.reads("history", "farm_reco")
    folder = Path(shift.reads("log", "run51.raw", code=1).split(" is in ")[1].strip())
    (folder / "stdout").write_text("3 execute: started\n")
    (folder / "executable.log").write_text("".join(f"event {n}\n" for n in range(20_000)))
    said = shift.reads("log", "run51.raw")
    assert "3 execute: started" in said and "event 19999" in said and "event 1\n" not in said and "left out" in said
    assert shift.json("log", "run51.raw", "--attempt", "1")["attempt"] == 1
    assert "it has 1" in shift.reads("log", "run51.raw", "--attempt", "2", code=3)


def test_stuck_lists_what_waits_for_a_person_or_too_long(crashed, shift):
    assert "nothing is stuck" in shift.reads("stuck")
    crashed.later(days=3)
    with crashed.database.write("test") as db:
        db.execute(insert(outbox).values(effect="submit", key=1, created=crashed.now, due=crashed.now, tries=2,
                                         error="JobRejected: no such queue", parked=crashed.now))  # fmt: skip
        db.execute(insert(outbox).values(effect="declare", key=1, created=crashed.now, due=crashed.now))
    commands = [one["command"] for one in shift.json("stuck", code=1)["stuck"]]
    again, why = commands
    assert re.fullmatch(r"keepupctl again \d+ --reason WHY", again)
    assert why == "keepupctl why --campaign farm_reco run51.raw"
    said = shift.reads("stuck", code=1)
    assert "JobRejected: no such queue" in said and "give the jobs to the batch system" in said
    assert "run51.raw is late in crash" in said
    with crashed.database.write("test") as db:
        db.execute(outbox.delete())
        unit = db.execute(select(units.c.id)).scalar_one()
        old = crashed.now - timedelta(hours=1)
        db.execute(insert(outbox).values(effect="declare", key=unit, created=old, due=crashed.now))
    stuck = [one["what"] for one in shift.json("stuck", code=1)["stuck"]]
    assert stuck == ["file run51.raw", "run51.raw is late in crash"]


def test_a_chart_needs_no_daemon(tmp_path):
    done = subprocess.run([BIN / "keepupctl", "chart", "file", "--json"], capture_output=True, text=True, check=True,
                          cwd=tmp_path, env={"PATH": os.environ["PATH"]})  # fmt: skip
    assert [s["name"] for s in json.loads(done.stdout)["states"]] == list(STATES)
    drawn = CliRunner().invoke(main.app, ["chart", "campaign", "--mermaid"])
    assert drawn.exit_code == 0 and drawn.output.startswith("stateDiagram-v2")
    assert CliRunner().invoke(main.app, ["chart", "unit"]).exit_code == 2


def test_the_process_ends_with_the_exit_code(crashed, shift):
    env = os.environ | {"KEEPUPD_CONFIG": str(shift.config)}
    done = subprocess.run([BIN / "keepupctl", "why", "nothing"], capture_output=True, text=True, env=env, check=False)
    assert done.returncode == 3 and done.stdout == "" and "there is no file 'nothing'" in done.stderr
    assert "Traceback" not in done.stderr


def test_each_trouble_has_its_exit_code(farm, shift, tmp_path, monkeypatch):
    monkeypatch.delenv("KEEPUPD_CONFIG", raising=False)

    def code(*words: str) -> tuple[int, str]:
        done = CliRunner().invoke(main.app, list(words))
        return done.exit_code, done.output

    assert code("status", "-c", str(shift.config))[0] == 0
    for words in (["status"], ["staus"], ["hold", "-c", str(shift.config), "--reason", "x"]):
        assert code(*words)[0] == 2
    assert code("why", "nothing", "-c", str(shift.config))[0] == 3
    empty = tmp_path / "empty.yaml"
    empty.write_text(f"name: x\nstate_dir: {tmp_path}/none\n")
    for command in ("status", "stuck"):
        returned, said = code(command, "-c", str(empty))
        assert returned == 4 and "there is no database" in said
    assert not (tmp_path / "none").exists()
    with farm.database.write("test") as db:
        db.exec_driver_sql("UPDATE alembic_version SET version_num = '0000'")
    for command in ("status", "stuck"):
        returned, said = code(command, "-c", str(shift.config))
        assert returned == 4 and "keepupd db upgrade" in said
    other = tmp_path / "other.yaml"
    other.write_text(f"name: x\nstate_dir: .\ndatabase: sqlite:///{tmp_path}/text.db\n")
    (tmp_path / "text.db").write_text("this is no database" * 100)
    for command in ("status", "stuck"):
        assert code(command, "-c", str(other))[0] == 4
    other.write_text("name: [")
    assert code("status", "-c", str(other))[0] == 5
    assert code("status", "-c", str(tmp_path / "nowhere.yaml"))[0] == 5


@pytest.mark.sqlite
def test_reading_leaves_the_database_as_it_is(crashed, shift):
    path = Path(crashed.url.removeprefix("sqlite:///"))
    crashed.database.close()
    before = path.read_bytes()
    for words in (["status"], ["files", "farm_reco"], ["why", "run51.raw"], ["history", "run51.raw"]):
        shift.reads(*words)
    assert path.read_bytes() == before


def test_spans_and_cuts_read_well():
    assert [span(s) for s in (0, 59, 60, 3600, 11400, 200_000, 10_000_000, -60)] == [
        "0 s", "59 s", "1 min", "1 h", "3 h 10 min", "2 d 7 h", "115 d", "-1 min"
    ]  # fmt: skip
    assert cut("abcdefgh", 5) == "ab~gh" and cut("abc", 5) == "abc" and len(cut("x" * 300, 40)) == 40
    assert plain("a\tb\r\n\x9b") == "a\\tb\\r\\n\\x9b"


def test_a_sick_host_is_shown_until_when_and_why(farm, shift):
    farm.finds("at_work.raw")
    farm.passes(2)
    farm.job_of("at_work.raw")
    farm.finds(*(f"{n}.raw" for n in range(6)))
    farm.passes(2)
    assert shift.json("status")["sick_hosts"] == [] and "sick" not in shift.reads("status")
    for job in farm.batch.live_jobs():
        if job.state == "idle":
            job.host = "hole.example.org"
            job.starts()
            job.leaves(13, "execute", "no_space")
    farm.passes(2)
    [sick] = shift.json("status")["sick_hosts"]
    assert sick["host"] == "hole.example.org" and sick["until"].startswith("2026-01-05T06:00")
    assert "6 of 6 jobs failed there at once, the last: no disk space" in sick["why"]
    said = shift.reads("status")
    assert "! host hole.example.org is sick, no jobs go there until 2026-01-05 06:00" in said
    assert "    6 of 6 jobs failed there at once, the last: no disk space" in said
    said = shift.reads("why", "at_work.raw")
    assert "no job goes to hole.example.org until " in said and "no disk space" in said
    said = shift.reads("why", "0.raw")
    assert "sick_host" in said and "tell the site" in said and "0 of 10 lost jobs" in said
    farm.later(hours=4, minutes=1)
    assert shift.json("status")["sick_hosts"] == []
