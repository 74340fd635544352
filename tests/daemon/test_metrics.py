"""What Prometheus reads: numbers that agree with the story, base units, and no label that grows with files."""

import json
import re
import socket
import time
from contextlib import contextmanager
from datetime import timedelta

import databases
import httpx
import pytest
from farm import Farm
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from keepupd.daemon.app import Daemon
from keepupd.daemon.metrics import Metrics
from keepupd.daemon.web import Pulse, WebServer, make_app
from keepupd.store.hosts import SickHost


@pytest.fixture
def farm(tmp_path):
    farm = Farm(tmp_path)
    farm.metrics = Metrics(farm.database, lambda: farm.now)
    for hook in ("count_moves", "count_attempts", "observe_poll", "observe_effect"):
        setattr(farm.keeper, hook, getattr(farm.metrics, hook))
    return farm


def numbers(farm):
    """{name: {labels as a tuple of values: value}}"""
    found = {}
    for family in text_string_to_metric_families(generate_latest(farm.metrics.registry).decode()):
        for sample in family.samples:
            found.setdefault(sample.name, {})[tuple(sorted(sample.labels.values()))] = sample.value
    return found


def test_the_numbers_tell_the_story(farm):
    farm.finds("a.raw", "b.raw", "c.raw")
    farm.passes(2)
    farm.job_of("a.raw").succeeds()
    farm.job_of("b.raw").dies()
    for job in farm.batch.jobs.values():
        if job.state == "left":
            job.facts["ended"] = farm.now
            farm.batch.touch(job)
    farm.passes(1)
    farm.later(minutes=5)
    seen = numbers(farm)
    files = seen["keepupd_files"]
    assert {key: n for key, n in files.items() if n} == {
        ("declared", "farm_reco"): 1, ("crash", "farm_reco"): 1, ("farm_reco", "running"): 1,
    }  # fmt: skip
    assert sum(files.values()) == seen["keepupd_input_files"]["farm_reco",]
    assert seen["keepupd_transitions_total"]["farm_reco", "launch"] == 3
    assert seen["keepupd_attempts_total"]["", "farm_reco", "ok"] == 1
    assert sum(n for key, n in seen["keepupd_attempts_total"].items() if "crash" in key) == 1
    assert seen["keepupd_crash_ratio"]["farm_reco",] == 0.5
    assert seen["keepupd_oldest_undeclared_age_seconds"]["farm_reco",] == 303
    assert seen["keepupd_sum_rule_difference_files"]["farm_reco",] == 0
    assert seen["keepupd_jobs"]["farm_reco", "running"] == 1
    assert seen["keepupd_last_good_poll_timestamp_seconds"]["batch",] > 0
    assert seen["keepupd_outbox_oldest_age_seconds"][()] == 0


def test_a_silent_sam_shows_in_the_time_of_its_last_good_poll(farm):
    farm.finds("a.raw")
    farm.passes(1)
    before = numbers(farm)["keepupd_last_good_poll_timestamp_seconds"]["input:farm_reco",]
    farm.sam.silent = True
    farm.later(minutes=10)
    farm.passes(1)
    seen = numbers(farm)
    assert seen["keepupd_last_good_poll_timestamp_seconds"]["input:farm_reco",] == before
    assert seen["keepupd_poll_failing"]["input:farm_reco",] == 1
    assert seen["keepupd_poll_duration_seconds_count"]["failed", "input"] == 1


def test_names_have_base_units_and_labels_do_not_grow_with_files(farm):
    farm.finds(*[f"f{n}.raw" for n in range(5)])
    farm.passes(2)
    few = sum(map(len, numbers(farm).values()))
    farm.finds(*[f"g{n}.raw" for n in range(40)])
    farm.passes(2)
    text = generate_latest(farm.metrics.registry).decode()
    assert sum(map(len, numbers(farm).values())) == few
    assert ".raw" not in text
    for name in re.findall(r"^# TYPE (\w+)", text, re.M):
        assert name.startswith("keepupd_")
        assert not re.search(r"_(ms|mib|minutes|percent)(_|$)", name)


@contextmanager
def served(farm, pulse):
    """The daemon's own web server, really listening."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    web = WebServer(make_app(farm.metrics.registry, pulse), "127.0.0.1", port)
    web.start()
    while not web.server.started:
        time.sleep(0.01)
    with httpx.Client(base_url=f"http://127.0.0.1:{port}") as client:
        yield client
    web.stop()


def test_health_is_the_age_of_the_last_pass(farm):
    pulse = Pulse(lambda: farm.now, timedelta(minutes=5))
    with served(farm, pulse) as web:
        assert web.get("/readyz").status_code == 503
        pulse.beat()
        pulse.ready = True
        assert web.get("/healthz").status_code == web.get("/readyz").status_code == 200
        farm.later(minutes=6)
        answer = web.get("/healthz")
        assert answer.status_code == 503
        assert json.loads(answer.text) == {"healthy": False, "last_pass_s_ago": 360.0}
        assert "keepupd_files" in web.get("/metrics").text


def test_a_lost_database_is_an_answer_in_words(farm):
    farm.database.close()
    databases.spoil(farm.url)
    with served(farm, Pulse(lambda: farm.now, timedelta(minutes=5))) as web:
        answer = web.get("/metrics")
    assert answer.status_code == 503
    assert "remedy" in answer.text


def test_sick_hosts_are_counted_and_not_named(farm):
    daemon = Daemon(farm.folder / "keepupd.yaml", farm.settings, farm.database)
    daemon.keeper.sick_hosts["hole.example.org"] = SickHost(farm.now, 6, 6, "no disk space left")
    said = generate_latest(daemon.metrics.registry).decode()
    assert "keepupd_sick_hosts 1.0" in said and "hole" not in said
