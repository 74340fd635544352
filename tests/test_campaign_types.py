"""What only some types of campaign have: filled in, refused elsewhere, and frozen once an output is declared."""

import json

import pytest
import yaml
from fake_sam import FakeSam

from keepupd.campaign import Campaign, definitions_made
from keepupd.changes import frozen_changes
from keepupd.checking import check
from keepupd.config import json_schema
from keepupd.yamlfile import read_yaml

COMMON = {
    "owner": "tests", "contact": "tests@example.org",
    "outputs": [{"tier": "simulated", "file_type": "mc", "location": "demo:/out"}],
    "executable": {"argv": ["run", "{output}"], "application": {"family": "t", "name": "run", "version": "v1"}},
}  # fmt: skip
OF_TYPE = {
    "generator": {"target_units": 20, "events_per_unit": 100, "first_run": 1001, "subruns_per_run": 10},
    "merge": {"by": ["DUNE.sample", "run", "data_tier"], "max_files": 5},
    "analysis": {"histograms": ["residual"]},
}


def spec(kind, **changed):
    own = {kind: OF_TYPE[kind]} if kind in OF_TYPE else {}
    return {"name": f"x_{kind}", "type": kind, **COMMON, **own, **changed}


def made(kind, **changed):
    return Campaign.model_validate(spec(kind, **changed))


def faults(tmp_path, written):
    path = tmp_path / "c.yaml"
    path.write_text(yaml.safe_dump(written, sort_keys=False))
    return [fault.replace(f"{tmp_path}/", "").split(": ", 1)[1] for fault in check(Campaign, read_yaml(path))[1]]


# --- the types ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["generator", "reco", "merge", "analysis"])
def test_each_type_survives_its_json(kind):
    campaign = made(kind)
    again = Campaign.model_validate_json(campaign.as_json())
    assert again == campaign and again.as_json() == campaign.as_json() and again.fingerprint() == campaign.fingerprint()


@pytest.mark.parametrize("kind", ["generator", "merge", "analysis"])
def test_a_type_needs_its_own_settings_and_no_other_may_have_them(tmp_path, kind):
    missing = spec(kind)
    del missing[kind]
    (fault,) = faults(tmp_path, missing)
    assert fault.startswith(f"{kind}: is missing: a campaign of type {kind} needs ")
    (fault,) = faults(tmp_path, spec("reco", **{kind: OF_TYPE[kind]}))
    assert fault == f"{kind}: only a campaign of type {kind} has it, and this one is of type reco"


def test_a_generator_counts_in_units_or_events():
    assert made("generator").generator.units == 20 and made("generator").generator.last_run == 1002
    by_events = made("generator", generator={"target_events": 1001, "events_per_unit": 100, "first_run": 5})
    assert by_events.generator.units == 11 and by_events.generator.last_run == 5
    assert by_events.input.definition == "" and by_events.output_names("00000001") == {
        "output": "00000001_x_generator.root"
    }


def test_a_merge_names_its_output_and_inherits_what_it_groups_by():
    merge = made("merge", inherit=["dune.SAMPLE", "DUNE.config"])
    assert merge.output_names("g0123") == {"output": "g0123_x_merge.root"}
    assert merge.outputs[0].inherit == ["DUNE.sample", "DUNE.config"]  # SAM's keys know no case; run is united instead


def test_an_analysis_may_not_bring_a_file_called_as_keepupds_own_check(tmp_path):
    (tmp_path / "check_histograms.py").write_text("print('mine')")
    own = {"executable": {**COMMON["executable"], "files": ["check_histograms.py"]}}
    assert faults(tmp_path, spec("analysis", **own)) == []
    (fault,) = faults(tmp_path, spec("analysis", **own, validation={"histograms": ["residual"]}))
    assert fault == "validation.histograms: keepupd brings check_histograms.py: take yours out of executable.files"


def test_an_analysis_has_a_total_of_its_own():
    assert made("analysis").analysis.total.name == "x_analysis_total"


GENERATOR = OF_TYPE["generator"]
WRONG = [
    ("generator", {"generator": {**GENERATOR, "target_events": 5}}, "give target_units or target_events, one"),
    ("generator", {"generator": {"events_per_unit": 1, "first_run": 1}}, "give target_units or target_events"),
    ("generator", {"generator": {**GENERATOR, "first_run": 0}}, "generator.first_run: must be more than 0, not 0"),
    ("generator", {"generator": {**GENERATOR, "subruns_per_run": 2**20}}, "must be at most 1.04858e+06"),
    ("generator", {"generator": {**GENERATOR, "first_run": 2**31 - 1}}, "first_run: the target needs runs up to"),
    ("generator", {"generator": {**GENERATOR, "run": 1}}, "generator.run: unknown key; there are events_per_unit,"),
    ("generator", {"input": {"definition": "raw"}}, "input: a generator has no input"),
    ("generator", {"inherit": ["DUNE.sample"]}, "inherit: a generator has no input to inherit from"),
    ("generator", {"outputs": [{**COMMON["outputs"][0], "inherit": ["A.b"]}]}, "outputs[0].inherit: a generator"),
    ("generator", {"outputs": [{**COMMON["outputs"][0], "name": "a{stem}_{campaign}{edition}{suffix}"}]}, "ending"),
    ("merge", {"merge": {"by": ["run"]}}, "give at least one of max_files, max_bytes, max_events, max_age_s"),
    ("merge", {"merge": {"max_files": 1, "by": ["runs"]}}, "merge.by[0]: 'runs' is nothing to group by"),
    ("merge", {"merge": {"max_files": 1, "by": ["A.b", "run", "a.B"]}}, "merge.by[2]: 'a.B' is given twice"),
    ("merge", {"merge": {"max_age_s": 0}}, "merge.max_age_s: must be more than 0"),
    ("analysis", {"analysis": {"histograms": []}}, "analysis.histograms: must have at least 1 item(s)"),
    ("analysis", {"analysis": {"histograms": ["a;1"]}}, "analysis.histograms[0]: 'a;1' must be a histogram's name"),
    ("analysis", {"analysis": {"histograms": ["a"], "total": {"name": "../x"}}}, "analysis.total.name: '../x' must be"),
    ("analysis", {"outputs": [{**COMMON["outputs"][0], "file_format": "csv"}], "validation": {"root": False}},
     "outputs[0].file_format: histograms are kept in ROOT files, not csv"),
    ("reco", {"validation": {"histograms": ["a"]}}, "validation.histograms: only a campaign of type analysis has it"),
    ("analysis", {"validation": {"histograms": []}}, "validation.histograms: must have at least 1 item(s)"),
    ("analysis", {"validation": {"histograms": ["a,b"]}}, "validation.histograms[0]: 'a,b' must be a histogram's name"),
    ("reco", {"canary": {"units": -1}}, "canary.units: must be at least 0"),
    ("reco", {"breaker": {"share": 1.5}}, "breaker.share: must be at most 1"),
    ("reco", {"breaker": {"window": 5}}, "breaker.least: must be at most window, 5, not 10"),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "changed", "told"), WRONG, ids=lambda word: str(word)[-40:])
def test_each_mistake_is_told_once(tmp_path, kind, changed, told):
    (fault,) = faults(tmp_path, spec(kind, **changed))
    assert told in fault


# --- routing ------------------------------------------------------------------------------------------------------


def routed(*definitions, **more):
    return made("reco", outputs=[{**COMMON["outputs"][0], "definitions": list(definitions), **more}])


def test_routes_are_dimensions_over_metadata_that_select_just_their_files():
    campaign = routed(
        "all_of_it", {"name": "one_in", "where": {"T.s": ["1A", "1B"]}}, {"name": "two_in", "where": {"T.s": 2}}
    )
    wanted = definitions_made(campaign, "T.campaign")
    assert wanted["all_of_it"] == "T.campaign 'x_reco' and data_tier 'simulated'"
    assert wanted["one_in"] == wanted["all_of_it"] + " and T.s in ('1A', '1B')"
    sam = FakeSam()
    sam.register_parameter("T.s")
    sam.register_parameter("T.campaign")
    for sample in ("1A", "1B", "2", "3"):
        sam.put(f"{sample}.root", data_tier="simulated", **{"T.s": sample, "T.campaign": "x_reco"})
    sam.put("others.root", data_tier="simulated", **{"T.s": "1A", "T.campaign": "y_reco"})
    listed = {name: sorted(file.name for file in sam.files(dims)) for name, dims in wanted.items()}
    assert listed == {
        "all_of_it": ["1A.root", "1B.root", "2.root", "3.root"], "one_in": ["1A.root", "1B.root"], "two_in": ["2.root"],
    }  # fmt: skip


def test_outputs_that_share_a_definition_are_all_in_it():
    both = [
        {**COMMON["outputs"][0], "label": label, "tier": tier, "name": "{stem}_{label}_{campaign}{edition}{suffix}"}
        for label, tier in (("hits", "simulated"), ("hist", "root-tuple"))
    ]
    campaign = made("reco", outputs=both, executable={**COMMON["executable"], "argv": ["run"]})
    (dims,) = definitions_made(campaign, "T.c").values()
    assert dims == "T.c 'x_reco' and ((data_tier 'simulated') or (data_tier 'root-tuple'))"


@pytest.mark.parametrize(
    "value", ["a'b", 'a"b', "10%", "a?", " a", "", "a\nb", "x" * 201, True, None, float("nan"), []]
)
def test_a_value_that_could_break_out_of_the_query_is_refused(tmp_path, value):
    output = {**COMMON["outputs"][0], "definitions": [{"name": "d_in", "where": {"T.s": value}}]}
    found = faults(tmp_path, spec("reco", outputs=[output]))
    assert len(found) == 1 and found[0].startswith("outputs[0].definitions[0].where.T.s")


def test_the_schema_takes_a_route_by_name_alone():
    schema = json_schema()
    assert {"type": "string"} in schema["$defs"]["Route"]["anyOf"] and json.dumps(schema)


# --- what is frozen -----------------------------------------------------------------------------------------------


def test_what_shapes_outputs_is_frozen_and_the_reason_told():
    old, new = made("merge"), made("merge", merge={"by": ["run"], "max_files": 5})
    told = frozen_changes(old, new)
    assert any(line.startswith("merge.by: ") for line in told)
    assert all(line.endswith("start a campaign with a new name for it)") for line in told)


@pytest.mark.parametrize(
    ("kind", "changed", "frozen"),
    [
        ("merge", {"merge": {**OF_TYPE["merge"], "max_files": 9, "max_age_s": 5}}, False),
        ("merge", {"resources": {"memory_mib": 9}, "owner": "others", "retry": {"attempts": 9}}, False),
        ("merge", {"canary": {"groups": 0}, "breaker": {"share": 1}, "causes": [{"name": "x"}]}, False),
        ("merge", {"executable": {**COMMON["executable"], "argv": ["other", "{output}"]}}, True),
        ("merge", {"metadata": {"A.b": 1}}, True),
        ("merge", {"outputs": [{**COMMON["outputs"][0], "name": "x{stem}_{campaign}{edition}.root"}]}, True),
        ("generator", {"generator": {**GENERATOR, "target_units": 500}}, False),
        ("generator", {"generator": {**GENERATOR, "target_units": 11}}, False),  # the same runs
        ("generator", {"generator": {**GENERATOR, "target_units": 10}}, True),  # would give a run away
        ("generator", {"generator": {**GENERATOR, "events_per_unit": 7}}, True),
        ("generator", {"generator": {**GENERATOR, "subruns_per_run": 20}}, True),
        ("analysis", {"analysis": {"histograms": ["residual"], "total": {"min_new_files": 3}}}, False),
    ],
)
def test_frozen_or_not(kind, changed, frozen):
    assert bool(frozen_changes(made(kind), made(kind, **changed))) == frozen
