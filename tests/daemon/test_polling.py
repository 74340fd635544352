"""How new input is found: one count a poll; where it differs a look at what is new; if that is not enough a sweep."""

import re
import sqlite3
import time
from contextlib import closing
from datetime import UTC, datetime, timedelta

import httpx
import pytest
from farm import Farm
from samserver.sam_process import start_server, stop_server

from keepupd.clients.sam import Sam
from keepupd.core.errors import SamRefused
from keepupd.daemon.check import Findings
from keepupd.daemon.check_campaign import check_campaign
from keepupd.flow import build_flow
from keepupd.samserver import fill


@pytest.fixture
def farm(tmp_path):
    farm = Farm(tmp_path)
    farm.finds(*(f"old{n}.raw" for n in range(20)))
    farm.later(days=3)
    poll(farm)
    return farm


def poll(farm):
    """Poll the inputs a minute later; what SAM was asked of the input definition, and how many files it listed."""
    farm.later(minutes=1)
    asked, listed = [], []
    count, files, members = farm.sam.definition_count, farm.sam.files, farm.sam.definition_files

    def noted(what, stream):
        asked.append(what)
        for one in stream:
            listed.append(one)
            yield one

    farm.sam.definition_count = lambda name: asked.append("count") or count(name)
    farm.sam.files = lambda dims: noted("look", files(dims)) if "create_date" in dims else files(dims)
    farm.sam.definition_files = lambda name: noted("sweep", members(name))
    farm.daemon.inputs(farm.now)
    farm.sam.definition_count, farm.sam.files, farm.sam.definition_files = count, files, members
    return asked, len(listed)


def test_where_nothing_is_new_a_poll_is_one_count(farm):
    assert poll(farm) == (["count"], 0)
    assert poll(farm) == (["count"], 0)


def test_a_new_file_is_found_by_its_date_and_the_others_are_not_listed(farm):
    farm.finds("new.raw")
    assert poll(farm) == (["count", "look"], 1)
    assert farm.state_of("new.raw") == "pending" and poll(farm) == (["count"], 0)


def test_a_file_that_sam_dated_before_the_last_look_is_found_by_the_margin(farm):
    farm.finds("late.raw")
    farm.sam.by_name["late.raw"].metadata["create_date"] = (farm.now - timedelta(minutes=10)).isoformat()
    assert poll(farm) == (["count", "look"], 1)
    assert farm.state_of("late.raw") == "pending"


def test_a_file_that_got_its_location_a_day_after_it_was_declared_is_found_by_a_second_look(farm):
    farm.finds("slow.raw", location=None)
    farm.later(hours=20)
    poll(farm)
    assert "slow.raw" not in farm.states()
    farm.sam.by_name["slow.raw"].locations = ["demo:/in"]
    assert poll(farm) == (["count", "look", "look"], 1)
    assert farm.state_of("slow.raw") == "pending"


def test_an_old_file_that_came_into_the_query_without_a_date_of_its_own_is_found_by_a_sweep(farm):
    farm.sam.put("old.raw", data_tier="digits")
    farm.later(days=7)
    poll(farm)
    farm.sam.by_name["old.raw"].metadata["data_tier"] = "raw"  # no update_date
    assert poll(farm) == (["count", "look", "look", "sweep"], 21)
    assert farm.state_of("old.raw") == "pending"


def test_files_that_left_are_found_by_a_sweep_and_come_back_by_a_look(farm):
    farm.sam.modify("old3.raw", {"content_status": "bad"})
    assert poll(farm) == (["count", "sweep"], 19)
    assert farm.campaign_row().gone == 1 and farm.unit("old3.raw").due is None
    farm.later(hours=1)
    poll(farm)
    farm.sam.modify("old3.raw", {"content_status": "good"})
    assert poll(farm) == (["count", "look"], 1)
    row = farm.campaign_row()
    assert (row.gone, row.ever_seen, row.difference) == (0, 20, 0) and farm.unit("old3.raw").due == farm.now
    assert farm.broken_sums() == {}


def test_one_leaves_as_another_comes_and_the_seldom_sweep_sees_it(farm):
    farm.finds("new.raw")
    farm.sam.modify("old3.raw", {"content_status": "bad"})
    assert poll(farm) == (["count"], 0), "the count is as it was"
    farm.later(seconds=farm.settings.polls.sweep_s)
    poll(farm)
    row = farm.campaign_row()
    assert (row.ever_seen, row.gone, row.difference) == (21, 1, 0) and farm.state_of("new.raw") == "pending"


def test_files_that_come_between_the_count_and_the_look_start_no_sweep(farm):
    farm.finds("new.raw")
    count, late = farm.sam.definition_count, ["second.raw"]

    def count_and_then_another_comes(name):
        n = count(name)
        while late:
            farm.finds(late.pop())
        return n

    farm.sam.definition_count = count_and_then_another_comes
    assert poll(farm) == (["count", "look", "count"], 2)
    assert farm.states().keys() >= {"new.raw", "second.raw"}


def test_a_sam_that_refuses_the_question_for_dates_is_swept(farm):
    files = farm.sam.files

    def knows_no_update_date(dims):
        if "update_date" in dims:
            raise SamRefused("unknown dimension 'update_date'", "ask otherwise", kind="DimensionError")
        return files(dims)

    farm.finds("new.raw")
    farm.sam.files = knows_no_update_date
    farm.daemon.inputs(farm.now + timedelta(minutes=1))
    assert farm.state_of("new.raw") == "pending"


def test_a_look_cut_short_loses_nothing(farm):
    farm.finds("new.raw")
    count = farm.sam.definition_count

    def count_and_fall_silent(name):
        n = count(name)
        farm.sam.fail_next()
        return n

    farm.sam.definition_count = count_and_fall_silent
    farm.daemon.inputs(farm.now)
    farm.sam.definition_count = count
    assert "new.raw" not in farm.states()
    assert poll(farm) == (["count", "look"], 1) and farm.state_of("new.raw") == "pending"


def test_merge_files_are_found_by_a_look_too(tmp_path):
    farm = Farm(tmp_path, type="merge", merge={"by": ["run"], "max_files": 2})
    farm.finds("a.raw", runs=[[1, 1, "mc"]])
    poll(farm)
    farm.finds("b.raw", runs=[[1, 2, "mc"]])
    assert poll(farm) == (["count", "look"], 2), "of the last quarter of an hour"
    assert len(farm.states()) == 1, "the group is closed"


# --- definitions that files leave by themselves -------------------------------------------------------------------

DRAINING = "data_tier raw minus isparentof: (data_tier full-reconstructed)"


def test_an_input_that_drains_itself_works_and_the_campaign_says_so(tmp_path):
    farm = Farm(tmp_path, input={"query": DRAINING})
    farm.finds("a.raw", "b.raw")
    farm.passes(2)
    farm.job_of("a.raw").succeeds()
    farm.passes(3)
    assert farm.states() == {"a.raw": "declared", "b.raw": "running"}
    row = farm.campaign_row()
    assert (row.ever_seen, row.gone, row.sam_count, row.difference) == (2, 1, 1, 0)
    assert "minus isparentof" in row.drains and row.drains.endswith("the base query instead: data_tier raw")


def warnings(farm, **campaign):
    found = Findings()
    new = farm.flow[0].model_validate(farm.flow[0].model_dump(mode="json") | campaign)
    farm.keeper.flow = build_flow([*farm.flow, new], "DUNE.campaign")
    check_campaign(found, farm.keeper, new, False, farm.now)
    return [check["words"] for check in found.checks if "warning" in check]


def test_check_proposes_the_base_query_also_of_a_definition_that_others_made(farm):
    assert warnings(farm) == []
    farm.sam.create_definition("theirs", DRAINING)
    [words] = warnings(farm, name="other", input={"definition": "theirs"})
    assert "theirs drains itself" in words and words.endswith("instead: data_tier raw")
    [words] = warnings(farm, name="other", input={"query": "defname: theirs and file_type mc"})
    assert words.endswith("instead: (data_tier raw) and file_type mc")


def test_check_tells_who_reads_files_in_trouble_that_they_leave(farm):
    farm.passes(1)
    words = " | ".join(warnings(farm, name="second_chance", input={"definition": "farm_reco_debug"}))
    assert "campaign farm_reco" in words and "leave" in words


# --- against a real SAM -------------------------------------------------------------------------------------------


class Counting(httpx.HTTPTransport):
    """Notes each request's path and the lines of its answer."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def handle_request(self, request):
        reply = super().handle_request(request)
        reply.read()
        self.seen.append((re.sub(r".*/api", "", request.url.path), len(reply.text.splitlines())))
        return reply


def poll_really(farm, transport):
    """What was asked of SAM in a poll, and how many lines each answer had."""
    farm.later(minutes=1)
    transport.seen.clear()
    farm.daemon.inputs(farm.now)
    return transport.seen


@pytest.mark.long
def test_one_new_file_among_many_costs_three_small_answers(tmp_path):
    """keepup-sam itself: what a poll asks, and how long its answers are."""
    fill.run(tmp_path / "sam.db", 5000, "dune")
    with closing(sqlite3.connect(tmp_path / "sam.db")) as db, db:
        db.execute("UPDATE files SET create_date = ?", (int(time.time()) - 30 * 86400,))
    server, transport = start_server(tmp_path / "sam.db"), Counting()
    try:
        sam = Sam(f"http://127.0.0.1:{server.port}{server.base}", transport=transport)
        sam.register_parameter("DUNE.campaign")
        (tmp_path / "farm").mkdir()
        farm = Farm(tmp_path / "farm", now=datetime.now(UTC))
        farm.keeper.sam = sam
        count, look = "/definitions/name/farm_reco_input/files/count", "/files/list"
        first = poll_really(farm, transport)
        assert first.count(("/definitions/name/farm_reco_input/files/list", 5000)) == 1 == first.count((count, 1))
        assert len([path for path, _ in first if path == "/files/metadata"]) == 10, "outputs are looked for in bulk"
        assert poll_really(farm, transport) == [(count, 1)]
        server.declare("new.raw", data_tier="raw", file_type="detector", located=False)
        server.post("/files/name/new.raw/locations", add="fill:/fill/0")
        asked = poll_really(farm, transport)
        assert asked[:2] == [(count, 1), (look, 1)] and all(lines <= 1 for _, lines in asked), "no list of all"
        assert farm.state_of("new.raw") == "pending" and poll_really(farm, transport) == [(count, 1)]
        sam.modify("new.raw", {"content_status": "bad"})
        assert ("/definitions/name/farm_reco_input/files/list", 5000) in poll_really(farm, transport)
        sam.modify("new.raw", {"content_status": "good"})
        assert poll_really(farm, transport) == [(count, 1), (look, 1)]
        row = farm.campaign_row()
        assert (row.ever_seen, row.gone, row.difference) == (5001, 0, 0)
        sam.close()
    finally:
        stop_server(server)
