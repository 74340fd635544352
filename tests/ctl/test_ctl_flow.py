"""keepupctl flow: the campaigns in force with their counts, and before the first start what the files say."""

import xml.etree.ElementTree as ET

from click.testing import CliRunner

from keepupd.ctl import main

CAMPAIGN = """\
name: farm_sim
type: generator
owner: tests
contact: tests@example.org
generator: {target_units: 3, events_per_unit: 5, first_run: 1}
outputs: [{tier: simulated, file_type: mc, location: "demo:/out"}]
executable: {argv: [gen, "{output}"], application: {family: t, name: gen, version: v1}}
"""


def test_the_flow_is_shown_with_the_counts_of_the_database(crashed, shift):
    crashed.finds("run52.raw")
    crashed.passes(1)
    assert shift.reads("flow").startswith("farm_reco (reco): 2 files: 1 ")
    (campaign,) = shift.json("flow")["campaigns"]
    assert campaign["open_ended"] and campaign["counts"]["crash"] == 1 and sum(campaign["counts"].values()) == 2
    assert "farm_reco" in shift.reads("flow", "--mermaid")


def test_a_picture_is_written_where_it_can_be(shift, tmp_path):
    assert shift.reads("flow", "--svg", str(tmp_path / "flow.svg")) == f"written to {tmp_path}/flow.svg\n"
    assert "farm_reco" in "".join(ET.parse(tmp_path / "flow.svg").getroot().itertext())
    assert "cannot be written" in shift.reads("flow", "--svg", str(tmp_path / "absent" / "flow.svg"), code=2)


def test_before_the_first_start_the_files_are_shown(tmp_path):
    (tmp_path / "c.yaml").write_text(CAMPAIGN)
    (tmp_path / "keepupd.yaml").write_text(
        "name: k\nstate_dir: state\ncampaigns: [c.yaml]\nbatch: {kind: local, directory: b}\n"
        "sam: {read_url: 'http://127.0.0.1:1/sam', experiment: dune, station: dune, user: me}\n"
    )
    shown = CliRunner().invoke(main.app, ["flow", "-c", str(tmp_path / "keepupd.yaml")])
    assert (shown.exit_code, shown.output) == (0, "farm_sim (generator): 0 of 3 units\n")
    assert not (tmp_path / "state").exists()
