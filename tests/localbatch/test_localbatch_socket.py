"""The socket: what may be asked, what is refused, and that nobody can block it."""

import json
import os
import socket
import subprocess
import sys
import time

import pytest


def connect(batch) -> socket.socket:
    client = socket.socket(socket.AF_UNIX)
    client.settimeout(20)
    fd = os.open(batch.directory, os.O_PATH)
    client.connect(f"/proc/self/fd/{fd}/batch.sock")
    os.close(fd)
    return client


def say(batch, data: bytes) -> dict:
    with connect(batch) as client:
        client.sendall(data)
        client.shutdown(socket.SHUT_WR)
        return json.loads(client.makefile("rb").readline())


@pytest.mark.parametrize("data", [
    b"\n", b"hello\n", b"{}\n", b"[]\n", b"null\n", b'{"op": []}\n', b'{"op": "dance", "v": 1}\n', b"\xff\xfe\0\n",
    b"[" * 100_000 + b"\n", b'{"op": "status"}\n', b'{"v": 2, "op": "status"}\n',
    b'{"v": 1, "op": "look", "cursor": "x"}\n',
    b'{"v": 1, "op": "status"', b"", b'{"v": 1, "op": "look", "cursor": null, "more": 1}\n',
])  # fmt: skip
def test_nonsense_is_answered_with_words(standing, data):
    answer = say(standing, data)
    assert answer["error"] in ("bad_request", "rejected") and answer["problem"] and answer["remedy"]
    assert standing.ask("status")["slots"] == 2


def test_who_is_slow_or_silent_blocks_nobody(batch):
    silent, half, deaf = connect(batch), connect(batch), connect(batch)
    half.sendall(b'{"v": 1, "op"')
    batch.sh("sleep 30", 5000)
    deaf.sendall(b'{"v": 1, "op": "look"}\n')  # and never reads the megabyte that comes
    began = time.monotonic()
    for _ in range(20):
        assert batch.ask("status")["jobs"] == {"idle": 4998, "running": 2}
    assert time.monotonic() - began < 4.5, "it waited for one of them"
    assert json.loads(half.makefile("rb").readline())["problem"] == "no whole request came in time"
    for client in (silent, half, deaf):
        client.close()


def test_more_callers_than_it_takes_are_turned_away_and_can_come_back(batch):
    crowd = [connect(batch) for _ in range(120)]
    with pytest.raises((OSError, ValueError)):
        batch.ask("status")
    for client in crowd:
        client.close()
    assert batch.ask("status")["slots"] == 2


@pytest.mark.parametrize(("fields", "words"), [
    ({"limits": {"cpus": 3}}, "asks for cpus 3, and there are 2"),
    ({"limits": {"memory_mib": 10_000}}, "asks for memory_mib 10000, and there are 4000"),
    ({"limits": {"disk_mib": 10**12}}, "asks for disk_mib"),
    ({"limits": {"wall_s": 0}}, "limits.wall_s"),
    ({"limits": {"wals_s": 9}}, "limits.wals_s"),
    ({"launch": "../x"}, "launch"), ({"launch": ""}, "launch"), ({"launch": "a\n"}, "launch"),
    ({"launch": "é"}, "launch"),
    ({"files": {"../x": ""}}, "files"), ({"files": {"..": ""}}, "files"), ({"files": {"a/b": ""}}, "files"),
    ({"files": {"exit.json": ""}}, "own file"), ({"files": {"é" * 101: ""}}, "files"),
    ({"files": {"a\0": ""}}, "files"),
    ({"argv": []}, "argv"), ({"argv": ["a\0b"]}, "argv"), ({"argv": "sh"}, "argv"),
    ({"numbers": [-1]}, "numbers"), ({"numbers": ["1"]}, "numbers"), ({"numbers": [True]}, "numbers"),
    ({"environment": {"A=B": "x"}}, "environment"), ({"environment": {"A": "\0"}}, "environment"),
    ({"bring_home": ["../../x"]}, "bring_home"), ({"colour": "red"}, "colour"), ({"tag": "\ud800"}, "tag"),
])  # fmt: skip
def test_an_order_that_could_never_work_is_rejected_with_the_reason(standing, fields, words):
    answer = standing.submit(**({"argv": ["true"]} | fields))
    assert answer["error"] == "rejected" and words in answer["problem"] and answer["remedy"]
    assert standing.jobs() == {}


def test_names_of_any_script_are_good(batch):
    batch.sh("cat '日本 %s\n\"file'", files={'日本 %s\n"file': "über\n"}, environment={"NÄME": "ö"}, tag="d/ç/日本")
    job = batch.until("left")
    assert job["tag"] == "d/ç/日本" and batch.file("stdout").read_text() == "über\n"


def test_a_second_server_refuses_and_names_the_first(batch):
    second = subprocess.run(batch.command, capture_output=True, text=True, timeout=20, check=False)
    assert second.returncode == 1 and f"is served by pid {batch.process.pid}" in second.stderr
    assert batch.ask("status")["pid"] == batch.process.pid


def test_a_directory_with_a_long_name(make_batch, tmp_path):
    batch = make_batch(directory=tmp_path / ("d" * 200) / ("ü" * 50))
    batch.sh("pwd")
    assert batch.until("left")["exit_code"] == 0


def test_the_socket_is_closed_to_others(batch):
    assert (batch.directory / "batch.sock").stat().st_mode & 0o777 == 0o660


def test_status_in_words_and_with_nobody_there(batch):
    command = [sys.executable, "-m", "keepupd.localbatch.main", "status", f"--dir={batch.directory}"]
    batch.sh("sleep 30", 2)
    batch.sh("true", launch="H")
    batch.ask("hold", keys=["H.1"], reason="because")
    batch.until("running", "L.2")
    shown = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    assert shown.returncode == 0 and "0 of 2 slots free" in shown.stdout and "held 1, running 2" in shown.stdout
    assert "slot 2: L.2" in shown.stdout and "held: H.1: because (code 1)" in shown.stdout
    as_json = subprocess.run([*command, "--json"], capture_output=True, text=True, timeout=20, check=False)
    assert json.loads(as_json.stdout)["jobs"] == {"held": 1, "running": 2}
    batch.end()
    gone = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    assert gone.returncode == 1 and "nobody answers" in gone.stderr and "keepup-batch serve --dir" in gone.stderr
