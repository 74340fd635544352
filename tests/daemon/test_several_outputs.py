"""Units with two outputs each: declared when SAM shows both, whoever declared which; stories in the fake world."""

import pytest
from farm import CAMPAIGN, Farm

TRACKS, HITS = "a_tracks_farm_reco.raw", "a_hits_farm_reco.raw"
TWO = [
    {"label": "tracks", "tier": "full-reconstructed", "file_type": "mc", "location": "demo:/tracks",
     "name": "{stem}_{label}_{campaign}{edition}{suffix}"},
    {"label": "hits", "tier": "hits", "file_type": "mc", "location": "demo:/hits",
     "name": "{stem}_{label}_{campaign}{edition}{suffix}", "definitions": ["hits_input"]},
]  # fmt: skip
ARGV = ["run", "{output:tracks}", "{output:hits}"]
RUN = {"executable": {"argv": ARGV, "application": {"family": "t", "name": "reco", "version": "v1"}}}
RECO = CAMPAIGN | {"outputs": TWO} | RUN
GENERATOR = {
    "name": "gen", "type": "generator", "input": {}, "outputs": [
        one | {"name": "{stem}_{label}_{campaign}{edition}.root"} for one in TWO],
    "generator": {"target_units": 3, "events_per_unit": 10, "first_run": 1}, **RUN,
}  # fmt: skip
READER = {"name": "reader", "input": {"definition": "hits_input"},
          "outputs": [{"tier": "clusters", "file_type": "mc", "location": "demo:/clusters"}]}  # fmt: skip


@pytest.fixture
def farm(tmp_path):
    return Farm(tmp_path, flow=[RECO])


def job_of(farm, name):
    """Its job, once the daemon has launched it."""
    farm.passes(3)
    return farm.job_of(name)


def located(farm, *names):
    return [bool(name in farm.sam.by_name and farm.sam.by_name[name].locations) for name in names]


def test_both_are_declared_each_with_its_own_tier_place_and_name(farm):
    farm.finds("a.raw")
    job_of(farm, "a.raw").succeeds()
    farm.passes(2)
    assert farm.state_of("a.raw") == "declared" and farm.outputs_of("a.raw") == [HITS, TRACKS]
    tracks, hits = farm.sam.by_name[TRACKS], farm.sam.by_name[HITS]
    assert (tracks.metadata["data_tier"], hits.metadata["data_tier"]) == ("full-reconstructed", "hits")
    assert tracks.locations[0].startswith("demo:/tracks/") and hits.locations[0].startswith("demo:/hits/")
    assert farm.broken_sums() == {}


def test_a_bad_one_of_two_sets_the_file_aside(farm):
    farm.finds("a.raw")
    job_of(farm, "a.raw").makes_no_events()
    farm.passes(3)
    assert farm.state_of("a.raw") == "debug" and farm.outputs_of("a.raw") == []


def test_both_are_declared_from_the_report_when_sam_was_away(farm):
    farm.finds("a.raw")
    job_of(farm, "a.raw").succeeds(declares=False)
    farm.passes(1)
    assert farm.state_of("a.raw") == "validated"
    farm.passes(3)
    assert farm.state_of("a.raw") == "declared" and farm.outputs_of("a.raw") == [HITS, TRACKS]


@pytest.mark.parametrize("lacking", ["tracks", "hits"])
def test_one_of_two_is_not_declared_and_the_daemon_adds_the_other(farm, lacking):
    farm.finds("a.raw")
    job_of(farm, "a.raw").succeeds(without=[lacking])
    [first] = farm.outputs_of("a.raw")
    there = list(farm.sam.by_name[first].locations)
    farm.passes(1)
    assert farm.state_of("a.raw") == "validated", "one is not enough"
    farm.passes(3)
    assert farm.state_of("a.raw") == "declared" and farm.outputs_of("a.raw") == [HITS, TRACKS]
    assert farm.sam.by_name[first].locations == there, "what was there is left alone"


def test_a_job_killed_between_its_two_declarations_leaves_one_copy_of_each(farm):
    farm.finds("a.raw")
    job = job_of(farm, "a.raw")
    tracks, _ = job.copies(0, "dead"), job.copies(1, "dead")
    job.declares(tracks)
    job.is_killed()
    farm.passes(2)
    assert farm.state_of("a.raw") == "held"
    farm.later(hours=2)
    job_of(farm, "a.raw").succeeds()
    farm.passes(3)
    assert farm.state_of("a.raw") == "declared" and farm.sam.by_name[TRACKS].locations == [tracks["location"]]
    assert sorted(name for there in farm.storage.made.values() for name in there) == [HITS, TRACKS]


def test_one_of_two_that_sam_refuses_holds_the_file(farm):
    farm.finds("a.raw")
    job = job_of(farm, "a.raw")
    job.order["outputs"][1]["metadata"]["Nobody.knows"] = "x"
    job.succeeds(declares=False)
    farm.passes(3)
    assert farm.state_of("a.raw") == "held" and HITS in farm.unit("a.raw").why
    assert located(farm, TRACKS, HITS) == [True, False]


def test_one_of_two_is_no_output_for_a_lost_database(farm):
    """The report went with the database: the file runs again, keeps what SAM has, and adds what it lacks."""
    farm.finds("a.raw", "b.raw")
    job_of(farm, "b.raw").succeeds()
    farm.job_of("a.raw").succeeds(without=["hits"])
    farm.batch.jobs.clear()
    for project in farm.sam.started.values():
        project.ended = True
    first = list(farm.sam.by_name[TRACKS].locations)
    farm.loses_database()
    farm.passes(3)
    assert farm.state_of("b.raw") == "declared" and farm.story("b.raw") == ["output_seen"]
    job_of(farm, "a.raw").succeeds()
    farm.passes(3)
    assert farm.state_of("a.raw") == "declared" and located(farm, TRACKS, HITS) == [True, True]
    assert farm.sam.by_name[TRACKS].locations == first and len(farm.sam.by_name[HITS].locations) == 1
    copies = [name for there in farm.storage.made.values() for name in there]
    assert copies.count(TRACKS) == 1, "the copy that lost is gone"


def test_a_redo_retires_both_and_makes_both_anew(farm):
    farm.finds("a.raw")
    job_of(farm, "a.raw").succeeds()
    farm.passes(2)
    farm.operator("redo", "a.raw")
    farm.passes(1)
    assert farm.sam.by_name[TRACKS].retired and farm.sam.by_name[HITS].retired
    job_of(farm, "a.raw").succeeds()
    farm.passes(2)
    again = ["a_hits_farm_reco_e2.raw", "a_tracks_farm_reco_e2.raw"]
    assert farm.state_of("a.raw") == "declared" and farm.outputs_of("a.raw") == again
    farm.loses_database()
    farm.passes(3)
    assert (farm.state_of("a.raw"), farm.unit("a.raw").edition) == ("declared", 2) and not farm.batch.live_jobs()


def test_the_second_feeds_the_next_campaign_and_the_first_does_not(tmp_path):
    farm = Farm(tmp_path, flow=[RECO, READER])
    farm.finds("a.raw", "b.raw")
    for _ in range(4):
        farm.passes(3)
        for job in farm.starts_jobs():
            job.succeeds()
    farm.passes(3)
    assert farm.states() == dict.fromkeys(["a.raw", "b.raw", HITS, HITS.replace("a_", "b_", 1)], "declared")
    assert farm.outputs_of(HITS) == ["a_hits_farm_reco_reader.raw"] and farm.outputs_of(TRACKS) == []


def test_a_generator_makes_two_files_of_each_serial(tmp_path):
    farm = Farm(tmp_path, flow=[GENERATOR])
    farm.passes(3)
    lacking, *rest = farm.starts_jobs()
    for job in rest:
        job.succeeds()
    lacking.succeeds(without=["tracks"])
    farm.passes(4)
    assert set(farm.states().values()) == {"declared"} and len(farm.states()) == 3
    made = sorted(name for name in farm.sam.by_name if farm.sam.by_name[name].locations)
    assert made == sorted(f"{n:08d}_{label}_gen.root" for n in (1, 2, 3) for label in ("tracks", "hits"))
    farm.loses_database()
    farm.passes(4)
    assert set(farm.states().values()) == {"declared"} and not farm.batch.live_jobs()
