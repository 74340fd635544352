"""`keepupctl why`: what an operator at 2 am finds out about one file, or one campaign."""

import json
import shlex
import shutil
import subprocess
from pathlib import Path

import databases
import pytest
from sqlalchemy import insert, select, update

from keepupd.core.model import CatalogFile
from keepupd.daemon.judge import judge_jobs
from keepupd.store.intake import take_in
from keepupd.store.tables import attempts, campaigns, files, jobs, launches, outbox, polls, units


def evidence_of(farm, name: str) -> Path:
    with farm.database.read() as db:
        mine = select(attempts.c.evidence).where(attempts.c.unit_id == farm.unit(name).id)
        return Path(db.execute(mine).scalar_one())


def test_a_crash_is_told_with_its_evidence_its_future_and_the_command_that_overrules_it(crashed, shift):
    (evidence_of(crashed, "run51.raw") / "executable.log").write_text("event 17\n\x1b[31mTrack fit failed\x1b[0m\n")
    said = shift.reads("why", "run51.raw")
    assert said.startswith("! run51.raw is in crash for ")
    for words in ("the executable died on it", "segmentation_fault", "signal 11 (SIGSEGV)", "host node1",
                  "step execute", "1 of 2 attempts", "| Track fit failed", "back to pending", "in 9 min",
                  "keepupctl retry --reason 'say why' run51.raw"):  # fmt: skip
        assert words in said, f"{words!r} is not in\n{said}"
    facts = shift.json("why", "run51.raw")
    assert facts["evidence"]["lines"] == ["event 17", "Track fit failed"]
    assert facts["evidence"]["log"] == "executable.log"
    assert (facts["state"], facts["tries"], facts["late"]) == ("crash", 1, False)
    assert facts["outputs"] == {"output": "run51_farm_reco.raw"}


def test_the_command_it_names_does_what_it_says(crashed, shift):
    [retry] = [way["command"] for way in shift.json("why", "run51.raw")["overrule"] if " retry " in way["command"]]
    with shift.daemon_answers():
        shift.reads(*shlex.split(retry)[1:])
    assert crashed.state_of("run51.raw") == "pending" and crashed.unit("run51.raw").tries == 0
    assert "say why" in shift.reads("history", "run51.raw")


def test_evidence_that_is_gone_is_missed_and_not_made_up(crashed, shift):
    shutil.rmtree(evidence_of(crashed, "run51.raw"))
    said = shift.reads("why", "run51.raw")
    assert "is not there" in said and "|" not in said
    folder = evidence_of(crashed, "run51.raw")
    folder.mkdir(parents=True)
    (folder / "report.json").write_text("{ cut o")
    (folder / "stderr").write_bytes(b"\xff\x00binary\r\n")
    facts = shift.json("why", "run51.raw")["evidence"]
    assert "not a worker's report" in facts["missing"] and facts["log"] == "stderr"
    assert facts["lines"] == ["�\\x00binary"]


def test_a_file_with_its_attempts_used_up_is_set_aside_and_nothing_happens_by_itself(crashed, shift):
    crashed.later(minutes=11)
    crashed.passes(3)
    crashed.job_of("run51.raw").dies()
    crashed.daemon.watch.poll(crashed.keeper, crashed.now)
    judge_jobs(crashed.keeper, crashed.now)
    assert "goes to debug: its attempts are used up, in the next pass" in shift.reads("why", "run51.raw")
    crashed.passes(1)
    said = shift.reads("why", "run51.raw")
    for words in ("is in debug", "nothing by itself", "attempt 2", "no attempt is left"):
        assert words in said


def test_a_held_job_is_told_with_what_the_batch_system_said_of_it(farm, shift):
    farm.finds("big.raw")
    farm.passes(3)
    farm.job_of("big.raw").is_held(34)
    farm.passes(1)
    said = shift.reads("why", "big.raw")
    assert "memory 900 MiB over the request" in said and "hold code 34" in said and "peak mib 900" in said
    assert '"memory_mib"' in said  # what the next job asks for


def test_a_pending_file_says_what_it_waits_for(farm, shift):
    farm.finds("a.raw", "b.raw")
    farm.daemon.inputs(farm.now)
    assert "launched in the next pass" in shift.reads("why", "a.raw")
    farm.operator("pause", reason="tape drive down")
    said = shift.reads("why", "a.raw")
    assert "campaign farm_reco is in held: tape drive down" in said and "resume --reason 'say why' farm_reco" in said
    farm.operator("resume")
    with farm.database.write("test") as db:
        db.execute(insert(polls).values(name="batch", failed=farm.now, error="schedd does not answer"))
    assert "schedd does not answer" in shift.reads("why", "a.raw")
    with farm.database.write("test") as db:
        settings = db.execute(select(campaigns.c.settings)).scalar_one().replace('"jobs": 1000', '"jobs": 0')
        db.execute(update(campaigns).values(settings=settings, active=False))
        db.execute(update(units).where(units.c.name == "b.raw").values(due=None))
        db.execute(update(files).where(files.c.name == "b.raw").values(gone=farm.now))
    said = shift.reads("why", "a.raw")
    assert "limits.jobs of the campaign is 0" in said and "gone from the configuration" in said
    farm.later(days=9)
    assert "left the input definition" in shift.reads("why", "b.raw")  # and is not late: nobody waits for it
    assert "LATE" in shift.reads("why", "a.raw", code=1)


def test_a_running_file_says_where_its_launch_stands(farm, shift):
    farm.finds("a.raw", "b.raw")
    farm.passes(2)
    assert "one of the jobs of launch" in shift.reads("why", "a.raw") and "2 idle" in shift.reads("why", "a.raw")
    with farm.database.write("test") as db:
        db.execute(update(launches).values(submitted=None))
        row = {"effect": "submit", "key": 1, "created": farm.now, "due": farm.now, "tries": 4, "error": "SAM is down"}
        db.execute(insert(outbox).values(row))
        db.execute(update(attempts).where(attempts.c.unit_id == farm.unit("a.raw").id).values(job_number=1))
        db.execute(update(jobs).where(jobs.c.number == 1).values(state="running", host="wn42"))
    said = shift.reads("why", "a.raw")
    assert "has failed 4 times" in said and "SAM is down" in said and "is running on wn42" in said
    farm.later(hours=1)
    assert "was last at work" in shift.reads("why", "a.raw")


def test_a_validated_file_shows_what_its_declaration_waits_for(farm, shift):
    farm.finds("a.raw")
    farm.passes(3)
    farm.job_of("a.raw").succeeds(declares=False)
    farm.daemon.batch(farm.now)
    with farm.database.write("test") as db:
        declare = update(outbox).where(outbox.c.effect == "declare")
        db.execute(declare.values(tries=3, error="SAM said\n503", parked=farm.now))
    said = shift.reads("why", "a.raw")
    assert "is in validated" in said and "declare the output" in said and "SAM said 503" in said
    assert "a_farm_reco.raw" in said


ODD = "it's a 100% $HOME\n\x1b[2J\u202e.raw"


def test_names_from_outside_reach_neither_the_terminal_nor_the_shell_unquoted(farm, shift):
    farm.finds(ODD, "-rf.raw")
    farm.passes(3)
    farm.job_of(ODD).dies()
    farm.passes(1)
    for command in (["why", ODD], ["history", ODD], ["files", "farm_reco"], ["status"], ["why", "farm_reco"]):
        said = shift.reads(*command)
        assert all(line.isprintable() for line in said.splitlines())
        assert "\x1b" not in said and "\u202e" not in said
    [way, *_] = [w["command"] for w in shift.json("why", ODD)["overrule"]]
    words = subprocess.run(["bash", "-c", f"printf '%s\\0' {way}"], capture_output=True, check=True).stdout.split(b"\0")
    assert words[-2].decode() == ODD
    [way, *_] = [w["command"] for w in json.loads(shift.reads("why", "--json", "--", "-rf.raw"))["overrule"]]
    assert way.endswith("-- -rf.raw")
    with shift.daemon_answers():
        shift.reads(*shlex.split(way)[1:])


def test_a_misspelt_name_is_answered_with_the_ones_that_may_be_meant(farm, shift):
    farm.finds(*(f"run{n:05d}.raw" for n in range(300)))
    farm.daemon.inputs(farm.now)
    assert "run00151.raw" in shift.reads("why", "run00151.rwa", code=3)
    assert "perhaps farm_reco" in shift.reads("why", "farm_rceo", code=3)
    assert "perhaps farm_reco" in shift.reads("files", "farm_rec", code=3)
    shift.reads("why", "\udcff\udcfe", code=3)


def test_a_name_in_two_campaigns_must_say_which(farm, shift):
    farm.finds("a.raw")
    farm.daemon.inputs(farm.now)
    with farm.database.write("test") as db:
        other = dict(db.execute(select(campaigns)).one()._mapping) | {"id": 2, "name": "farm_two"}
        db.execute(insert(campaigns).values(other))
        take_in(db, 2, [CatalogFile("a.raw", 1)], farm.now, farm.now - farm.now)
    assert "in 2 campaigns: farm_reco, farm_two" in shift.reads("why", "a.raw", code=2)
    facts = shift.json("why", "a.raw", "--campaign", "farm_two")
    assert facts["campaign"] == "farm_two" and "--campaign farm_two a.raw" in facts["overrule"][0]["command"]


def test_a_file_in_no_state_is_said_to_break_the_sum_rule(farm, shift):
    farm.finds("a.raw")
    farm.daemon.inputs(farm.now)
    with farm.database.write("test") as db:
        databases.unguarded(db)
        db.execute(units.delete())
    assert "in no state" in shift.reads("why", "a.raw", code=1)


@pytest.mark.parametrize("by", ["option first", "option last", "environment"])
def test_the_commands_to_type_carry_the_configuration_as_it_was_given(crashed, shift, by):
    given, words = ["-c", str(shift.config)], ["why", "run51.raw"]
    said = shift.reads(*{"option first": given + words, "option last": words + given, "environment": words}[by])
    assert (f"keepupctl -c {shift.config} retry" in said) == (by != "environment")


def test_a_campaign_tells_its_causes_with_an_example_each_and_its_polls(crashed, shift):
    crashed.finds("no_copy.raw")
    crashed.passes(3)
    crashed.job_of("no_copy.raw").finds_no_copy()
    crashed.passes(1)
    crashed.sam.silent = True
    said = shift.reads("why", "farm_reco")
    for words in ("farm_reco is in running", "work is in flight", "tests@example.org", "farm_reco_input",
                  "segmentation_fault", "keepupctl why run51.raw", "keepupctl why no_copy.raw", "ever seen 2",
                  "oldest", "pause --reason"):  # fmt: skip
        assert words in said, f"{words!r} is not in\n{said}"
    facts = shift.json("why", "farm_reco")
    assert {c["cause"]: c["files"] for c in facts["causes"]} == {"segmentation_fault": 1, "input_copy_absent": 1}
    assert facts["oldest"]["file"] == "run51.raw" and facts["files"]["crash"] == 1
    assert {poll["name"] for poll in facts["polls"]} >= {"batch", "input:farm_reco"}


def test_a_campaign_whose_input_drains_itself_is_told_with_the_base_query(farm, shift):
    query = "data_tier raw minus isparentof: (version v1)"
    farm.flow = [one.model_validate(one.model_dump(mode="json") | {"input": {"query": query}}) for one in farm.flow]
    farm.restarts()
    farm.passes(1)
    assert "minus isparentof: (version v1)" in (said := shift.reads("why", "farm_reco"))
    assert "give the campaign the base query instead: data_tier raw" in said
