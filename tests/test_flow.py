"""Flow files and the flow they form: defaults and overrides with their lines, who feeds whom, and what is odd in it."""

import re
import xml.etree.ElementTree as ET
from itertools import pairwise
from pathlib import Path

import pytest

from keepupd.config import load_campaigns, load_flow, load_settings
from keepupd.core.errors import ConfigError
from keepupd.ctl.flow_view import as_mermaid, as_svg, as_tree
from keepupd.flow import build_flow

MCC10 = Path(__file__).parents[1] / "deploy" / "examples" / "mcc10" / "keepupd.yaml"
DAEMON = """\
name: keepupd-test
state_dir: state
campaigns: ["*.flow.yaml"]
sam: {read_url: "http://127.0.0.1:8480/sam/dune/api", experiment: dune, station: dune, user: dunepro}
batch: {kind: local, directory: batch}
"""
DEFAULTS = """\
defaults:
  owner: production
  contact: production@example.org
  metadata: {DUNE.production: x, DUNE.sample: none}
  executable:
    argv: [run, "{output}"]
    application: {family: keepup, name: run, version: v1}
campaigns:
"""


def generator(name, sample, first_run, more=""):
    return f"""\
  - name: {name}
    type: generator
    generator: {{target_units: 10, events_per_unit: 5, first_run: {first_run}}}
    metadata: {{DUNE.sample: "{sample}"}}
    outputs: [{{tier: simulated, file_type: mc, location: "demo:/sim"{more}}}]
"""


def reco(name, inputs, definitions="", kind="reco"):
    routes = f", definitions: {definitions}" if definitions else ""
    file_type = "histogram" if kind == "analysis" else "mc"
    return f"""\
  - name: {name}
    type: {kind}
    input: {inputs}
    outputs: [{{tier: {name}-tier, file_type: {file_type}, location: "demo:/reco"{routes}}}]
"""


ANALYSIS = "    analysis: {histograms: [h]}\n    validation: {histograms: [h]}\n"
GEN_1, GEN_2 = generator("gen_one", "1", 1), generator("gen_two", "2", 101)


@pytest.fixture
def flow(tmp_path):
    return Files(tmp_path)


class Files:
    def __init__(self, path):
        self.path = path
        (path / "keepupd.yaml").write_text(DAEMON)

    def write(self, *campaigns, defaults=DEFAULTS, name="a.flow.yaml"):
        (self.path / name).write_text(defaults + "".join(campaigns))
        return self

    def load(self):
        return load_flow(load_settings(self.path / "keepupd.yaml"))

    def faults(self):
        with pytest.raises(ConfigError) as caught:
            self.load()
        return [fault.replace(f"{self.path}/", "") for fault in caught.value.faults]

    def warnings(self):
        return [words.replace(f"{self.path}/", "") for words in self.load().warnings]


# --- flow files ---------------------------------------------------------------------------------------------------


def test_defaults_are_laid_under_each_campaign_key_by_key(flow):
    own = GEN_2 + '    executable: {argv: ["other", "{output}"]}\n'
    one, two = flow.write(GEN_1, own).load().campaigns
    assert one.metadata == {"DUNE.production": "x", "DUNE.sample": "1"} and one.owner == two.owner == "production"
    assert one.executable.argv == ["run", "{output}"] and two.executable.argv == ["other", "{output}"]
    assert two.executable.application == one.executable.application


def test_a_fault_in_the_defaults_is_told_once_with_its_own_line(flow):
    flow.write(GEN_1, GEN_2, defaults=DEFAULTS.replace("version: v1", "versoin: v1"))
    assert flow.faults() == [
        "a.flow.yaml:7: defaults.executable.application.version: is missing: SAM application version, "
        "such as v09_91_02d01",
        "a.flow.yaml:7: defaults.executable.application.versoin: unknown key; perhaps 'version'",
    ]


def test_a_fault_in_a_campaign_is_told_with_its_place_in_the_file(flow):
    flow.write(GEN_1, GEN_2.replace("tier:", "teir:").replace("    type: generator\n", ""))
    assert flow.faults() == [
        "a.flow.yaml:14: campaigns[1].type: is missing: generator, reco, merge or analysis",
        "a.flow.yaml:17: campaigns[1].outputs[0].teir: unknown key; perhaps 'tier'",
        "a.flow.yaml:17: campaigns[1].outputs[0].tier: is missing: SAM data tier of the output, "
        "such as full-reconstructed",
    ]


FRAMES = [
    ("defaults: {owner: x}\n", ":1: campaigns: must be a list of campaigns, `- name: ...` each"),
    ("campaigns: []\n", ":1: campaigns: must be a list of campaigns, `- name: ...` each"),
    ("campaigns: [x]\n", ":1: campaigns[0]: must be keys and values, not 'x'"),
    ("defaults: [1]\ncampaigns: [x]\n", ":1: defaults: must be keys and values, not [1]"),
    ("campaigns: [x]\ndefalts: {}\n", ":2: defalts: unknown key beside `campaigns`; perhaps 'defaults'"),
]


@pytest.mark.parametrize(("text", "told"), FRAMES, ids=lambda word: word[:30])
def test_a_wrong_frame_is_told(flow, text, told):
    assert f"a.flow.yaml{told}" in flow.write(defaults=text).faults()


def test_files_of_the_job_are_relative_to_the_flow_file(flow):
    (flow.path / "run.fcl").write_text("physics: {}\n")
    flow.write(GEN_1, defaults=DEFAULTS.replace("    argv", "    files: [run.fcl]\n    argv"))
    assert flow.load().campaigns[0].executable.files == {"run.fcl": "physics: {}\n"}


# --- between campaigns --------------------------------------------------------------------------------------------


def test_overlapping_runs_are_refused_with_both_places(flow):
    flow.write(GEN_1, generator("gen_two", "2", 1))
    assert flow.faults() == [
        f"a.flow.yaml:16: campaigns[1].generator.first_run: its runs 1 to 1 overlap 1 to 1 of gen_one "
        f"({flow.path}/a.flow.yaml:11); take 2 or more".replace(f"{flow.path}/", "")
    ]


@pytest.mark.parametrize(("first", "overlap"), [(1, True), (2, True), (3, False)])
def test_runs_overlap_only_where_the_target_reaches(flow, first, overlap):
    flow.write(GEN_1.replace("target_units: 10", "target_units: 1001"), generator("gen_two", "2", first))
    assert bool(flow.faults()) if overlap else flow.load().campaigns


def test_two_flows_with_clashing_names_are_refused(flow):
    flow.write(GEN_1).write(GEN_1.replace("first_run: 1", "first_run: 900"), name="b.flow.yaml")
    assert flow.faults() == ["b.flow.yaml:9: campaigns[0].name: 'gen_one' is taken by a.flow.yaml:9"]


def test_two_totals_of_one_name_are_refused(flow):
    ana = reco("ana_x", "{definition: raw}", kind="analysis") + "    analysis: {histograms: [h], total: {name: sum}}\n"
    (fault,) = flow.write(ana, ana.replace("ana_x", "ana_y")).faults()
    assert (
        fault
        == "a.flow.yaml:18: campaigns[1].analysis.total.name: 'sum' is the total of the campaign in a.flow.yaml:9 too"
    )


# --- the flow -----------------------------------------------------------------------------------------------------


def test_the_example_flow_is_whole_and_ends():
    loaded = load_flow(load_settings(MCC10))
    flow = loaded.flow
    assert loaded.warnings == [] and len(flow.campaigns) == 15 and not flow.outside
    assert flow.makers_of("dune_mcc10_a_reco") == ["dune_mcc10_1a_gen", "dune_mcc10_1b_gen", "dune_mcc10_2_gen"]
    assert flow.readers_of("dune_mcc10_b_reco") == ["dune_mcc10_3_merge", "dune_mcc10_4_merge"]
    assert flow.upstream_of("dune_mcc10_4_analysis")[-2:] == ["dune_mcc10_b_reco", "dune_mcc10_4_merge"]
    assert not any(flow.is_open_ended(name) for name in flow.campaigns)
    order = list(flow.campaigns)
    assert all(order.index(feed.maker) < order.index(feed.reader) for feed in flow.feeds)


def test_an_input_from_outside_makes_all_below_open_ended(flow):
    flow.write(reco("first_r", "{query: data_tier raw}"), reco("second_r", "{definition: first_r_output}"), GEN_1)
    found = flow.load().flow
    assert found.outside == {"first_r"} and found.is_open_ended("second_r") and not found.is_open_ended("gen_one")


def test_a_query_that_also_takes_files_from_elsewhere_never_ends(flow):
    found = flow.write(GEN_1, reco("mixed_r", '{query: "defname: gen_one_output or defname: old_files"}')).load().flow
    assert found.makers_of("mixed_r") == ["gen_one"] and found.is_open_ended("mixed_r")


def test_a_query_by_metadata_is_fed_by_those_whose_outputs_match(flow):
    found = flow.write(GEN_1, GEN_2, reco("some_r", "{query: data_tier simulated and DUNE.sample 2}")).load().flow
    assert found.makers_of("some_r") == ["gen_two"]


def test_two_readers_of_one_definition_are_fed_alike(flow):
    first = reco("first_r", "{query: data_tier simulated and DUNE.sample 1}")
    found = flow.write(GEN_1, GEN_2, first, reco("other_r", "{definition: first_r_input}")).load().flow
    assert found.makers_of("first_r") == found.makers_of("other_r") == ["gen_one"]


def test_a_circle_is_refused_and_named(flow):
    flow.write(reco("one_r", "{definition: two_r_output}"), reco("two_r", "{definition: one_r_output}"))
    (fault,) = flow.faults()
    assert re.search(r"input: the flow goes in a circle: (one_r → two_r → one_r|two_r → one_r → two_r)", fault)


def test_a_campaign_whose_query_takes_its_own_outputs_is_a_circle(flow):
    (fault,) = flow.write(reco("one_r", "{query: data_tier one_r-tier}")).faults()
    assert fault.startswith("a.flow.yaml:11: campaigns[0].input: the flow goes in a circle: one_r → one_r;")


def test_a_guess_closes_no_circle(flow):
    """run_number is not known before: either could feed the other, or itself."""
    query = "{query: file_type mc and run_number 5}"
    loaded = flow.write(reco("one_r", query), reco("two_r", query)).load()
    assert loaded.flow.cycle == () and len(loaded.flow.campaigns) == 2


@pytest.mark.parametrize(
    ("query", "tier", "inherit", "warned"),
    [
        ("data_tier simulated and DUNE.sample '9'", "simulated", "DUNE.sample", True),
        ("DUNE.sample '9'", "one_r-tier", "dune.Sample", True),
        ("data_tier simulated and DUNE.sample '9'", "one_r-tier", "DUNE.sample", False),
        ("defname: raw_files and DUNE.sample '9'", "one_r-tier", "DUNE.sample", False),
        ("run_number 5", "one_r-tier", "DUNE.sample", False),
    ],
)
def test_a_query_that_may_pick_the_outputs_of_its_own_campaign_is_warned_of(flow, query, tier, inherit, warned):
    defaults = DEFAULTS.replace(", DUNE.sample: none", "")
    one = reco("one_r", f'{{query: "{query}"}}').replace("one_r-tier", tier) + f"    inherit: [{inherit}]\n"
    flow.write(one, defaults=defaults)
    told = "campaigns[0].input.query: may match its own outputs too: ask for what only the true input has"
    assert any(told in line for line in flow.warnings()) == warned


def test_a_query_that_may_pick_what_is_made_of_its_own_results_is_warned_of(flow):
    two = reco("two_r", "{definition: two_in}").replace("two_r-tier", "simulated") + "    inherit: [DUNE.sample]\n"
    one = reco("one_r", "{query: \"data_tier simulated and DUNE.sample '9'\"}", "[two_in]")
    flow.write(one, two, defaults=DEFAULTS.replace(", DUNE.sample: none", ""))
    assert any("may match outputs of two_r, which are made of its own" in line for line in flow.warnings())


def test_an_output_that_no_one_reads_and_its_misspelt_reader_are_warned_of(flow):
    flow.write(GEN_1.replace('"demo:/sim"', '"demo:/sim", definitions: [Sample_1_Reco_input]'),
               reco("one_r", "{definition: Sample_1_Recoo_input}"))  # fmt: skip
    assert flow.warnings() == [
        "a.flow.yaml:13: campaigns[0].outputs[0].definitions[0]: no campaign reads 'Sample_1_Reco_input'",
        "a.flow.yaml:17: campaigns[1].outputs[0].definitions[0]: no campaign reads 'one_r_output'",
        "a.flow.yaml:16: campaigns[1].input.definition: no campaign here makes 'Sample_1_Recoo_input', which must come "
        "from elsewhere; perhaps 'Sample_1_Reco_input', which gen_one makes and no one reads",
    ]


def test_an_input_that_nobody_feeds_is_warned_of_but_not_one_named_on_purpose(flow):
    last = reco("three_r", "{definition: three_in}", kind="analysis") + ANALYSIS
    flow.write(reco("one_r", "{}", "[two_in]"), reco("two_r", "{definition: two_in}", "[three_in]"), last)
    assert flow.warnings() == [
        "a.flow.yaml:11: campaigns[0].input.definition: no campaign here makes 'one_r_input', "
        "which must come from elsewhere"
    ]
    flow.write(reco("one_r", "{definition: raw_files}"))
    assert flow.warnings() == []  # a lone campaign is an end by itself


def test_a_route_that_never_matches_is_warned_of(flow):
    routes = ', definitions: [{name: two_in, where: {DUNE.sample: "2"}}]'
    flow.write(generator("gen_one", "1", 1, routes), reco("two_r", "{definition: two_in}", kind="analysis")
               + ANALYSIS)  # fmt: skip
    assert flow.warnings() == [
        "a.flow.yaml:13: campaigns[0].outputs[0].definitions[0].where.DUNE.sample: never matches: DUNE.sample of this "
        "output is always '1'"
    ]


def test_an_analysis_without_checks_or_with_the_types_of_its_input_is_warned_of(flow):
    last = reco("two_r", "{definition: two_in}", kind="analysis").replace("file_type: histogram", "file_type: mc")
    last = last.replace("tier: two_r-tier", "tier: simulated")
    flow.write(generator("gen_one", "1", 1, ", definitions: [two_in]"), last + "    analysis: {histograms: [h, g]}\n")
    assert flow.warnings() == [
        "a.flow.yaml:14: campaigns[1].validation: nothing checks the histograms; say histograms: [h, g]",
        "a.flow.yaml:17: campaigns[1].outputs[0].tier: is 'simulated', as of its input from gen_one; histogram files "
        "need their own",
        "a.flow.yaml:17: campaigns[1].outputs[0].file_type: is 'mc', as of its input from gen_one; histogram files "
        "need their own",
    ]


def test_the_order_of_files_does_not_matter():
    campaigns = load_campaigns(load_settings(MCC10))
    assert build_flow(campaigns[::-1], "DUNE.campaign") == build_flow(campaigns, "DUNE.campaign")


# --- pictures -----------------------------------------------------------------------------------------------------

COUNTS = {"dune_mcc10_1a_gen": {"declared": 12}, "dune_mcc10_a_reco": {"declared": 9, "debug": 1, "running": 2}}


def test_the_tree_shows_each_campaign_once_with_its_counts():
    flow = load_flow(load_settings(MCC10)).flow
    lines = as_tree(flow, COUNTS).splitlines()
    assert lines[0] == "dune_mcc10_1a_gen (generator): 12 of 12 units: 12 declared"
    assert lines[1] == "└─ dune_mcc10_a_reco (reco): 12 files: 2 running, 9 declared, 1 debug"
    for name in flow.campaigns:
        assert sum(name in line and "(above)" not in line for line in lines) == 1


def test_the_svg_is_well_formed_and_its_boxes_do_not_overlap():
    flow = load_flow(load_settings(MCC10)).flow
    picture = ET.fromstring(as_svg(flow, COUNTS))
    boxes = [(int(r.get("x")), int(r.get("y"))) for r in picture.iter("{http://www.w3.org/2000/svg}rect")]
    assert len(boxes) == len(set(boxes)) == 15
    by_column = {x: sorted(y for bx, y in boxes if bx == x) for x, _ in boxes}
    assert all(b - a >= 60 for ys in by_column.values() for a, b in pairwise(ys)) and min(by_column) == 0
    words = "".join(picture.itertext())
    assert all(name in words for name in flow.campaigns) and "2 running" in words


def test_the_mermaid_diagram_has_all_arrows():
    flow = load_flow(load_settings(MCC10)).flow
    text = as_mermaid(flow, COUNTS)
    assert text.count("-->") == len({(feed.maker, feed.reader) for feed in flow.feeds}) == 13
    assert ":::trouble" in text and ":::done" in text
