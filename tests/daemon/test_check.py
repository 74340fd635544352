"""`keepupd check` against real services: what it finds, what it would launch, and that it leaves no trace anywhere."""

import hashlib
import json
import re
import shlex
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import httpx
import pytest
from kill.world import BIN, FINE, MISSING, World
from tls import Grid, Server

from keepupd.daemon.check import check_all


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path)
    yield world
    world.ends()


def check(world: World) -> dict:
    """What `keepupd check --json` says, and that its exit code is its verdict."""
    said = []
    well = check_all(world.config, said.append, as_json=True)
    found = json.loads("\n".join(said))
    assert found["ok"] is well
    return found


def faults(found: dict) -> list[str]:
    return [f"{one['part']}: {one['words']} -> {one['remedy']}" for one in found["checks"] if not one["ok"]]


def footprint(world: World) -> dict[str, str]:
    """Every file below the world with its content's hash; SAM's and the database's contents are among them."""
    found = {}
    for path in sorted(world.home.rglob("*")):
        if path.suffix != ".log" and not path.name.endswith("-shm"):  # logs of the services; SQLite's marks of readers
            found[str(path)] = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "no file"
    return found


def test_before_the_first_start_it_shows_the_exact_jobs_and_changes_nothing(world):
    inputs = world.declares(5, kinds=[FINE])
    before = footprint(world)
    found = check(world)
    assert footprint(world) == before and not (world.home / "state").exists()
    assert faults(found) == [] and world.sam.definitions("kill_reco") == [] == world.sam.projects("keepup_")
    (campaign,) = found["campaigns"]
    assert campaign["would_launch"] == campaign["in_sam"] == campaign["looked_at"] == 5 and campaign["adopted"] == 0
    assert [one["name"] for one in campaign["definitions_to_make"]] == ["kill_reco_input", "kill_reco_output"]

    would = campaign["job"]
    world.keepupd.starts()
    world.waits(lambda: world.rows("SELECT 1 FROM launches WHERE submitted IS NOT NULL"), "it launches")
    (order_file,) = list((world.home / "batch").rglob("order.json"))[:1]
    order = json.loads(order_file.read_text())
    assert order["launch"] != would["order"]["launch"]  # its name is made at the launch; all the rest was foretold
    told = json.loads(json.dumps(would["order"]).replace(would["order"]["launch"], order["launch"]))
    assert told == order and list(order["units"]) == [one.name for one in inputs]
    world.settles()


def test_beside_a_running_daemon_it_says_what_the_daemon_says(world):
    world.declares(3, kinds=[FINE])
    world.keepupd.starts()
    world.settles()
    world.waits(lambda: world.rows("SELECT 1 FROM campaigns WHERE state = 'declared'"), "it has caught up")
    (campaign,) = check(world)["campaigns"]
    assert (campaign["would_launch"], campaign["adopted"], campaign["job"]) == (0, 3, None)
    assert any("declared, 3 declared" in note for note in campaign["notes"])

    assert world.keepupd.stops() == 0
    world.declares(2, kinds=[FINE])  # while the daemon is down
    before = footprint(world)
    (campaign,) = check(world)["campaigns"]
    assert footprint(world) == before
    assert (campaign["would_launch"], campaign["adopted"], campaign["in_sam"]) == (2, 3, 5)
    assert list(campaign["job"]["order"]["units"]) == ["raw_004.txt", "raw_005.txt"]


def test_a_lost_database_would_adopt_what_sam_shows_and_launch_the_rest(world):
    world.declares(3, kinds=[FINE, FINE, MISSING])
    world.keepupd.starts()
    world.settles()
    world.keepupd.stops()
    (world.home / "state").rename(world.home / "elsewhere")
    (campaign,) = check(world)["campaigns"]
    assert (campaign["would_launch"], campaign["adopted"]) == (1, 2)


def test_a_held_campaign_would_launch_nothing_and_says_why(world):
    world.keepupd.starts()
    world.keepupctl("pause", "kill_reco", "--reason", "beam studies")
    world.waits(lambda: world.rows("SELECT 1 FROM campaigns WHERE state = 'held'"), "it is held")
    world.keepupd.stops()
    world.declares(2, kinds=[FINE])
    (campaign,) = check(world)["campaigns"]
    assert campaign["would_launch"] == 0 and any(
        "held, " in note and "beam studies" in note for note in campaign["notes"]
    )


def test_everything_sam_lacks_is_told_at_once_with_what_to_type(world):
    out = {"tier": "no-such-tier", "file_type": "detector", "file_format": "txt", "location": "elsewhere:/data/out",
           "inherit": ["No.parameter"]}  # fmt: skip
    world.writes_campaign(input={}, outputs=[out], metadata={"Also.none": "x"})
    found = check(world)
    told = "\n".join(faults(found))
    wanted = ["no-such-tier", "Also.none", "No.parameter", "no data disk for elsewhere:/data/out", "kill_reco_input",
              "no directory /data/out", "add-data-disk elsewhere:/data/out", "add-parameter", "add-value"]  # fmt: skip
    for words in wanted:
        assert words in told, (words, told)
    assert found["campaigns"][0]["job"] is None


def test_typing_what_it_says_makes_all_well(world):
    types(world, "add-user someone")  # from now on this SAM keeps a list of users
    world.config.write_text(world.config.read_text().replace("station: dune", "station: dune\n  group: odd-group"))
    out = {"tier": "odd-tier", "file_type": "odd-type", "file_format": "odd", "location": f"elsewhere:{world.home}/out",
           "inherit": ["No.parameter", "Also.none"]}  # fmt: skip
    run = {"argv": ["true"], "application": {"family": "odd", "name": "reco", "version": "v2"}}
    metadata = {"Also.none": 3, "And.this": 0.5, "data_stream": "odd 'stream'"}
    world.writes_campaign(outputs=[out], executable=run, metadata=metadata)
    found = faults(check(world))
    told = [line for fault in found for line in re.findall(r"`samweb (.*)`", fault)]
    assert sorted(told) == sorted([
        "add-user tester", "add-value groups odd-group", "add-value data_tiers odd-tier",
        "add-value file_types odd-type", "add-value file_formats odd",
        """add-value data_streams 'odd '"'"'stream'"'"''""",
        f"add-data-disk elsewhere:{world.home}/out", "add-parameter No.parameter string", "add-parameter Also.none int",
        "add-parameter And.this float", "add-application odd reco v2",
    ]), found  # fmt: skip
    for line in told:
        types(world, line)
    assert faults(check(world)) == []


def types(world: World, line: str) -> None:
    """What samweb would send for it."""
    verb, *words = shlex.split(line)
    if verb == "add-user":
        assert httpx.post(f"{world.url}/users", json={"username": words[0]}).is_success
    else:
        register = {"add-value": "value", "add-parameter": "parameter", "add-application": "application",
                    "add-data-disk": "data_disk"}[verb]  # fmt: skip
        getattr(world.sam, f"register_{register}")(*words)


def test_it_asks_where_changes_go_too_and_says_as_whom(world, monkeypatch, tmp_path):
    for name in ("BEARER_TOKEN_FILE", "X509_USER_PROXY", "X509_USER_CERT", "X509_USER_KEY"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "grid").mkdir()
    grid = Grid(tmp_path / "grid")
    monkeypatch.setenv("X509_CERT_DIR", str(grid.authorities))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setattr("os.getuid", lambda: 900_000_000)
    secure = Server(grid, lambda *_: (200, "the other door"))
    text = world.config.read_text().replace("  read_url", f"  write_url: {secure.url}\n  read_url")
    world.config.write_text(text.replace("patience_s: 3\n", "patience_s: 0.1\n"))

    def said() -> list[str]:
        return [one["words"] for one in check(world)["checks"] if one["part"].startswith("SAM")]

    assert said()[1] == f"{secure.url} says: the other door" and "neither token nor grid certificate" in said()[2]
    (tmp_path / "token").write_text("s3cret")
    monkeypatch.setenv("BEARER_TOKEN_FILE", str(tmp_path / "token"))
    (tmp_path / "proxy").write_text(grid.proxy("alice", 1))
    monkeypatch.setenv("X509_USER_PROXY", str(tmp_path / "proxy"))
    assert said()[2] == f"tester of group dune, by certificate {tmp_path}/proxy and a bearer token"
    assert {(one.method, one.who) for one in secure.asked[-1:]} == {("GET", "alice/1")}
    secure.ends()
    (fault,) = faults(check(world))
    assert fault.startswith(f"SAM: SAM does not answer GET {secure.url}")


def test_a_generators_run_type_must_be_known_to_sam(world):
    numbers = {"target_units": 2, "events_per_unit": 5, "first_run": 7}
    for kind, told in (("mc", False), ("no-such-type", True)):
        run = {"argv": ["gen", "{output}"], "application": {"family": "keepup", "name": "null", "version": "v1"}}
        world.writes_campaign(type="generator", input={}, generator=numbers | {"run_type": kind}, executable=run)
        assert any("no-such-type" in fault for fault in faults(check(world))) is told


def test_a_query_sam_does_not_understand_and_a_definition_that_is_another(world):
    world.writes_campaign(input={"query": "data_teir raw"})
    assert any("data_teir" in fault for fault in faults(check(world)))
    world.writes_campaign()
    world.sam.create_definition("kill_reco_input", "data_tier simulated", "someone else's")
    assert any("exists with another query" in fault for fault in faults(check(world)))


def test_silence_is_told_in_seconds_and_hides_nothing_else(world):
    world.sam_server.stops()
    world.batch.stops()
    told = faults(check(world))
    assert [fault.split(":")[0] for fault in told] == ["SAM", "batch"]
    assert "keepup-batch serve" in told[1]


def test_faults_of_files_charts_and_schema_come_together(world):
    world.keepupd.starts()
    world.keepupd.stops()
    with closing(sqlite3.connect(world.home / "state" / "keepupd.db")) as db, db:
        db.execute("UPDATE alembic_version SET version_num = '9999'")
    (world.home / "causes.yaml").write_text("classes: {}\n")
    (world.home / "campaigns" / "more.yaml").write_text("name: Bad\n")
    told = "\n".join(faults(check(world)))
    assert "causes.yaml" in told and "more.yaml:1: name" in told and "has schema 9999" in told


def test_the_command_prints_plain_text_and_its_exit_code_is_the_verdict(world):
    world.declares(4, kinds=[FINE])
    command = [BIN / "keepupd", "check", "-c", world.config]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "would launch 4 unit(s) now" in done.stdout and "1 more of its units" in done.stdout
    assert "all is well; nothing was changed" in done.stdout and '"keepup_worker.py"' in done.stdout
    world.writes_campaign(name="Kill Reco")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "FAULT campaign files" in done.stdout and "remedy: " in done.stdout
