"""The daemon's file and its campaign files: what is read, and how each kind of mistake is told, all of them at once."""

import json
import re
from pathlib import Path

import pytest
from pydantic import BaseModel

from keepupd.campaign import Campaign
from keepupd.changes import diff
from keepupd.checking import Model
from keepupd.config import Settings, json_schema, load_campaigns, load_settings
from keepupd.core.errors import ConfigError
from keepupd.yamlfile import read_settings_lightly

EXAMPLES = Path(__file__).parents[1] / "deploy" / "examples"
DAEMON = """\
name: keepupd-test
state_dir: state
campaigns: [campaigns]
sam:
  read_url: http://127.0.0.1:8480/sam/dune/api/
  experiment: dune
  station: dune
  user: dunepro
batch: {kind: local, directory: batch}
"""
RECO = """\
name: dune_dc15_reco
type: reco
owner: production
contact: production@example.org
outputs:
  - tier: full-reconstructed
    file_type: mc
    location: demo:/data/reco
executable:
  argv: [reco.py, "{input}", "{output}"]
  application: {family: keepup, name: reco, version: v1}
"""


@pytest.fixture
def folder(tmp_path):
    """A daemon's file with one campaign; `write` and `faults` change and read them."""
    return Folder(tmp_path)


class Folder:
    def __init__(self, path):
        self.path = path
        (path / "campaigns").mkdir()
        self.daemon(DAEMON)
        self.campaign(RECO)

    def daemon(self, text):
        (self.path / "keepupd.yaml").write_text(text)

    def campaign(self, text, name="reco.yaml"):
        (self.path / "campaigns" / name).write_text(text)

    def load(self):
        return load_campaigns(load_settings(self.path / "keepupd.yaml"))

    def faults(self):
        with pytest.raises(ConfigError) as caught:
            self.load()
        return [fault.replace(f"{self.path}/", "").replace("campaigns/", "") for fault in caught.value.faults]

    def fault(self, old, new, text=RECO):
        """The one fault of the campaign file in which `old` is replaced by `new`."""
        assert old in text
        self.campaign(text.replace(old, new))
        (fault,) = self.faults()
        return fault

    def daemon_fault(self, old, new):
        assert old in DAEMON
        self.daemon(DAEMON.replace(old, new))
        (fault,) = self.faults()
        return fault


# --- what is right ------------------------------------------------------------------------------------------------


def test_a_short_daemon_file_is_filled_in(folder):
    settings = load_settings(folder.path / "keepupd.yaml")
    assert settings.sam.write_url == settings.sam.read_url == "http://127.0.0.1:8480/sam/dune/api"
    assert settings.sam.group == "dune" and settings.state_dir == folder.path / "state"
    assert settings.batch.directory == folder.path / "batch" and settings.file == folder.path / "keepupd.yaml"
    assert settings.database == read_settings_lightly(settings.file)["database"]


SAMS_VARIABLES = ("EXPERIMENT", "STATION", "GROUP", "WEB_BASE_URL", "WEB_BASE_SSL_URL", "WEB_HOST", "WEB_PORT",
                  "WEB_SSL_PORT")  # fmt: skip


@pytest.fixture
def env(monkeypatch):
    """Sets samweb's variables, and no others of them."""
    for name in (*(f"SAM_{name}" for name in SAMS_VARIABLES), "GRID_USER"):
        monkeypatch.delenv(name, raising=False)
    return lambda **given: [monkeypatch.setenv(name, value) for name, value in given.items()]


WHO = {"SAM_EXPERIMENT": "dune", "SAM_STATION": "st", "GRID_USER": "me"}
READ, WRITE = "http://sam.example.org/sam/dune/api", "https://sam.example.org/sam/dune/api"


@pytest.mark.parametrize(
    ("given", "read", "write"),
    [
        ({"SAM_WEB_BASE_URL": READ, "SAM_WEB_BASE_SSL_URL": WRITE}, READ, WRITE),
        ({"SAM_WEB_BASE_URL": READ}, READ, READ),  # samweb goes to the production service here
        ({"SAM_WEB_BASE_URL": WRITE, "SAM_WEB_HOST": "other.example.org"}, WRITE, WRITE),
        ({"SAM_WEB_HOST": "h"}, "http://h:8480/sam/dune/api", "https://h:8483/sam/dune/api"),
        ({"SAM_WEB_HOST": "h", "SAM_EXPERIMENT": "dune/dev", "SAM_WEB_PORT": "1", "SAM_WEB_SSL_PORT": "2"},
         "http://h:1/sam/dune/dev/api", "https://h:2/sam/dune/dev/api"),
        ({"SAM_WEB_BASE_URL": READ, "SAM_WEB_HOST": "h"}, READ, "https://h:8483/sam/dune/api"),
    ],
)  # fmt: skip
def test_what_the_file_leaves_out_comes_from_samwebs_variables(folder, env, given, read, write):
    env(**WHO | given)
    folder.daemon(re.sub(r"sam:\n(  .*\n)+", "sam: {}\n", DAEMON))
    sam = load_settings(folder.path / "keepupd.yaml").sam
    assert (sam.read_url, sam.write_url) == (read, write)
    assert (sam.experiment, sam.station, sam.group, sam.user) == ("dune", "st", "dune", "me")


def test_the_file_comes_first_and_its_address_is_never_half_of_two_places(folder, env):
    env(**WHO, SAM_WEB_BASE_URL=READ, SAM_WEB_BASE_SSL_URL=WRITE, SAM_WEB_HOST="h", SAM_GROUP="other")
    sam = load_settings(folder.path / "keepupd.yaml").sam
    assert sam.write_url == sam.read_url == "http://127.0.0.1:8480/sam/dune/api"
    assert (sam.experiment, sam.station, sam.group, sam.user) == ("dune", "dune", "other", "dunepro")
    folder.daemon(DAEMON.replace("read_url", "write_url"))
    (fault,) = folder.faults()
    assert "sam.read_url: is missing" in fault


def test_without_file_and_environment_no_service_is_assumed(folder, env):
    env()
    folder.daemon(re.sub(r"sam:\n(  .*\n)+", "sam: {}\n", DAEMON))
    told = "\n".join(folder.faults())
    for words in ("sam.read_url: is missing", "else SAM_WEB_BASE_URL", "else SAM_EXPERIMENT", "else SAM_STATION",
                  "else GRID_USER"):  # fmt: skip
        assert words in told


@pytest.mark.parametrize("given", ["sqlite:///here.db", "sqlite:////abs/here.db", "postgresql+psycopg://me@host/db"])
def test_daemon_and_keepupctl_find_the_same_database(folder, given):
    folder.daemon(f"{DAEMON}database: {given}\n")
    settings = load_settings(folder.path / "keepupd.yaml")
    assert settings.database == read_settings_lightly(settings.file)["database"]
    assert settings.database == given.replace("///here", f"///{folder.path}/here")


def test_a_short_campaign_is_filled_in(folder):
    (campaign,) = folder.load()
    (output,) = campaign.outputs
    assert campaign.input.definition == "dune_dc15_reco_input" and campaign.resources.memory_cap_mib == 8000
    assert output.url == "file:///data/reco"
    assert [route.name for route in output.definitions] == ["dune_dc15_reco_output"]
    assert campaign.output_names("a.root", 2) == {"output": "a_dune_dc15_reco_e2.root"}


def test_a_campaign_survives_its_json(folder):
    folder.campaign(RECO + "input: {query: data_tier raw}\nwanted_by: 2026-12-31\nresources: {memory_mib: 100}\n")
    (campaign,) = folder.load()
    again = Campaign.model_validate_json(campaign.as_json())
    assert again == campaign and again.as_json() == campaign.as_json()


def test_files_of_the_job_travel_with_the_campaign(folder):
    (folder.path / "campaigns" / "reco.fcl").write_text("physics: {}\n")
    folder.campaign(RECO + "  files: [reco.fcl]\n")
    (campaign,) = folder.load()
    assert campaign.executable.files == {"reco.fcl": "physics: {}\n"}
    (folder.path / "campaigns" / "reco.fcl").write_text("physics: {other: 1}\n")
    assert folder.load()[0].fingerprint() != campaign.fingerprint()


@pytest.mark.parametrize("change", ["resources: {cpus: 2}", "limits: {jobs: 5}", "retry: {attempts: 9}", "settle_s: 5"])
def test_what_may_change_in_place_leaves_the_fingerprint(folder, change):
    before = folder.load()[0].fingerprint()
    folder.campaign(f"{RECO}{change}\n")
    assert folder.load()[0].fingerprint() == before


@pytest.mark.parametrize(
    ("old", "new"), [("v1", "v2"), ("reco.py", "other.py"), ("tier: full", "tier: half"), ("mc", "data")]
)
def test_what_shapes_outputs_changes_the_fingerprint(folder, old, new):
    before = folder.load()[0].fingerprint()
    folder.campaign(RECO.replace(old, new))
    assert folder.load()[0].fingerprint() != before


def test_a_move_of_the_outputs_changes_the_fingerprint_but_not_another_way_to_reach_them(folder):
    before = folder.load()[0].fingerprint()
    folder.campaign(RECO.replace("/data/reco", "/data2/reco"))
    assert folder.load()[0].fingerprint() != before
    folder.campaign(RECO.replace("    location:", "    url: file:///mnt/data/reco\n    location:"))
    assert folder.load()[0].fingerprint() == before


def test_differences_are_told_in_words(folder):
    old = folder.load()[0].as_json()
    folder.campaign(
        RECO.replace("v1", "v2") + "resources: {memory_mib: 3000, memory_cap_mib: 8000}\nwanted_by: 2026-12-31\n"
    )
    assert diff(old, folder.load()[0].as_json()) == [
        "executable.application.version: v1 → v2",
        "resources.memory_mib: 2000 → 3000",
        "wanted_by: null → 2026-12-31",
    ]
    assert diff(old, old) == []


def test_campaigns_come_by_name_from_files_patterns_and_directories(folder):
    folder.campaign(RECO.replace("dune_dc15_reco", "a_first_one"), "z.yml")
    for written in (
        "[campaigns]",
        "[campaigns/reco.yaml, campaigns/z.yml]",
        "['campaigns/*.y*ml', campaigns/reco.yaml]",
    ):
        folder.daemon(DAEMON.replace("[campaigns]", written))
        assert [campaign.name for campaign in folder.load()] == ["a_first_one", "dune_dc15_reco"]


def test_an_empty_directory_of_campaigns_is_fine(folder):
    (folder.path / "campaigns" / "reco.yaml").unlink()
    assert folder.load() == []


@pytest.mark.parametrize("file", sorted(EXAMPLES.glob("*/keepupd.yaml")), ids=lambda path: path.parent.name)
def test_the_examples_are_right(file):
    assert load_campaigns(load_settings(file))


def test_braces_that_are_no_placeholders_are_plain_text(folder):
    folder.campaign(
        RECO.replace('argv: [reco.py, "{input}", "{output}"]', "shell: 'A=${HOME} awk \"{print $1}\" {input}'")
    )
    assert folder.load()[0].executable.shell == 'A=${HOME} awk "{print $1}" {input}'


# --- mistakes in a campaign file ----------------------------------------------------------------------------------


def test_every_fault_is_told_at_once_in_the_order_of_lines(folder):
    text = RECO.replace("type: reco", "type: rcco").replace("tier:", "teir:").replace("owner: production\n", "")
    folder.campaign(text + "resources: {memory: 2000, cpus: none}\nvalidation:\n  min_bytes: 0\n")
    assert folder.faults() == [
        "reco.yaml:1: owner: is missing: Person or group that answers for it",
        "reco.yaml:2: type: 'rcco' is not known; perhaps 'reco'",
        "reco.yaml:5: outputs[0].teir: unknown key; perhaps 'tier'",
        "reco.yaml:5: outputs[0].tier: is missing: SAM data tier of the output, such as full-reconstructed",
        "reco.yaml:11: resources.cpus: must be a whole number, not 'none'",
        "reco.yaml:11: resources.memory: unknown key; perhaps 'memory_mib'",
        "reco.yaml:13: validation.min_bytes: must be more than 0, not 0",
    ]


def test_faults_of_all_files_come_together(folder):
    folder.campaign(RECO.replace("type: reco", "type: rec"))
    folder.campaign("name: [unclosed\n", "broken.yaml")
    folder.campaign("", "empty.yaml")
    files = [fault.split(":")[0] for fault in folder.faults()]
    assert files == ["broken.yaml", "empty.yaml", "reco.yaml"]


MISTAKES = [  # what is written, what instead, and what must be told
    ("name: dune_dc15_reco", "name: Dune-DC15", "reco.yaml:1: name: 'Dune-DC15' must be 3 to 80 lower-case letters"),
    ("name: dune_dc15_reco", "name: 15_reco", "reco.yaml:1: name: '15_reco' must be 3 to 80 lower-case letters"),
    ("name: dune_dc15_reco", "name: 15", "reco.yaml:1: name: must be text (put it in quotes), not 15"),
    ("name: dune_dc15_reco", "name: reco_e2", "reco.yaml:1: name: 'reco_e2' must not end like _e2"),
    ("name: dune_dc15_reco", f"name: {'a' * 81}", "reco.yaml:1: name: 'aaa"),
    ("type: reco", "type: recon", "reco.yaml:2: type: 'recon' is not known; perhaps 'reco'"),
    ("type: reco", "type: zzz", "reco.yaml:2: type: 'zzz' is not known; there are analysis, generator, merge, reco"),
    ("owner: production", "owner: ' '", "reco.yaml:3: owner: ' ' must not be empty"),
    ("owner: production", "ownner: production\nowner: p", "reco.yaml:3: ownner: unknown key; perhaps 'owner'"),
    ("production@example.org", "nobody", "reco.yaml:4: contact: 'nobody' must be an e-mail address"),
    (
        "location: demo:/data/reco",
        "location: /data/reco",
        "reco.yaml:8: outputs[0].location: '/data/reco' must be node:/",
    ),
    ("location: demo:/data/reco", "location: demo:/a/../b", "reco.yaml:8: outputs[0].location: must not hold .."),
    ("location: demo:/data/reco", "location: 'demo:/a b'", "reco.yaml:8: outputs[0].location: 'demo:/a b' must be"),
    (
        "file_type: mc",
        "file_type: [mc]",
        "reco.yaml:7: outputs[0].file_type: must be text (put it in quotes), not ['mc']",
    ),
    ("file_type: mc", "file_type: m c", "reco.yaml:7: outputs[0].file_type: 'm c' must be one plain word"),
    (
        "    file_type: mc",
        "    file_type: mc\n    url: ftp://x/y",
        "reco.yaml:8: outputs[0].url: 'ftp://x/y' must be file:///",
    ),
    (
        "    file_type: mc",
        "    file_type: mc\n    name: '{stm}'",
        "outputs[0].name: unknown placeholder {stm}; perhaps 'stem'",
    ),
    (
        "    file_type: mc",
        "    file_type: mc\n    name: out.root",
        "reco.yaml:8: outputs[0].name: must be built like {stem}_",
    ),
    ("    file_type: mc", "    file_type: mc\n    name: '{stem}_e2_{campaign}{edition}'", "marks an edition"),
    (
        "    file_type: mc",
        "    file_type: mc\n    inherit: [a b]",
        "reco.yaml:8: outputs[0].inherit[0]: 'a b' is no metadata key",
    ),
    (
        "    file_type: mc",
        "    file_type: mc\n    metadata: {file_size: 1}",
        "outputs[0].metadata.file_size: file_size is set by",
    ),
    (
        "    file_type: mc",
        "    file_type: mc\n    metadata: {A.b: yes}",
        "reco.yaml:8: outputs[0].metadata.A.b: must be text or a",
    ),
    ("    file_type: mc", "    file_type: mc\n    definitions: [dune_dc15_reco_input]", "it would feed itself"),
    ("    file_type: mc", "    file_type: mc\n    file_format: hdf5", "has file_format hdf5; set root: false"),
    ('"{input}"', '"{inptu}"', "reco.yaml:10: executable.argv[1]: unknown placeholder {inptu}; perhaps 'input'"),
    ('"{input}"', '"{Input}"', "reco.yaml:10: executable.argv[1]: unknown placeholder {Input}; perhaps 'input'"),
    ('"{output}"', '"{output:}"', "reco.yaml:10: executable.argv[2]: unknown placeholder {output:}; perhaps 'output'"),
    ('"{input}"', '"{seed}"', "reco.yaml:10: executable.argv[1]: {seed}: only a generator has it"),
    ('"{output}"', '"{output:hist}"', "executable.argv[2]: {output:hist}: there is no output 'hist'; there are output"),
    ('"{input}"', '"{input:a}"', "executable.argv[1]: {input:a}: only output and metadata take a label"),
    ('argv: [reco.py, "{input}", "{output}"]', "argv: reco.py", "reco.yaml:10: executable.argv: must be a list"),
    ('argv: [reco.py, "{input}", "{output}"]', "argv: []", "executable.argv: must have at least 1 item(s)"),
    (
        'argv: [reco.py, "{input}", "{output}"]',
        "argv: ['']",
        "executable.argv[0]: the program's name must not be empty",
    ),
    ('argv: [reco.py, "{input}", "{output}"]', "shell: ' '", "reco.yaml:10: executable.shell: must not be empty"),
    (
        'argv: [reco.py, "{input}", "{output}"]',
        "environment: {}",
        "executable: needs `argv` (a list) or `shell` (one line)",
    ),
    ("executable:", "executable:\n  shell: ls", "reco.yaml:9: executable: needs `argv` (a list) or `shell` (one line)"),
    ("version: v1", "version: 1.10", "executable.application.version: must be text (put it in quotes), not 1.1"),
    (
        "executable:",
        "executable:\n  environment: {K: 1}",
        "reco.yaml:10: executable.environment.K: must be text (put it in",
    ),
    (
        "executable:",
        "executable:\n  environment: {'K=': x}",
        "executable.environment.K=: 'K=' is no name of a variable",
    ),
    ("executable:", "executable:\n  files: [absent.fcl]", "absent.fcl cannot be read as text: No such file"),
    ("executable:", "executable:\n  files: [a/order.json]", "executable.files[0]: another file of the job is called"),
    ("type: reco", "type: reco\nexpected_files: 1.5", "reco.yaml:3: expected_files: must be a whole number, not 1.5"),
    ("type: reco", "type: reco\nexpected_files: true", "reco.yaml:3: expected_files: must be a whole number, not True"),
    ("type: reco", "type: reco\nwanted_by: soon", "reco.yaml:3: wanted_by: must be a date like 2026-12-31, not 'soon'"),
    ("type: reco", "type: reco\ninput: {definition: a, query: b}", "input: `definition` and `query` are both given"),
    ("type: reco", "type: reco\ninput: {query: ''}", "reco.yaml:3: input.query: must not be empty"),
    (
        "type: reco",
        "type: reco\ninput: some_definition",
        "reco.yaml:3: input: must be keys and values, not 'some_definition'",
    ),
    ("type: reco", "type: reco\nresources: {memory_mib: -1}", "resources.memory_mib: must be more than 0, not -1"),
    (
        "type: reco",
        "type: reco\nresources: {memory_mib: 99, memory_cap_mib: 9}",
        "resources.memory_cap_mib: must be at least",
    ),
    (
        "type: reco",
        "type: reco\nresources: {wall_s: 8h}",
        "reco.yaml:3: resources.wall_s: must be a whole number, not '8h'",
    ),
    ("type: reco", "type: reco\nsettle_s: .inf", "reco.yaml:3: settle_s: must be a finite number, not inf"),
    ("type: reco", "type: reco\nsettle_s: .nan", "reco.yaml:3: settle_s: must be"),
    ("type: reco", "type: reco\nretry: {wait_s: -5}", "reco.yaml:3: retry.wait_s: must be at least 0, not -5"),
    ("type: reco", "type: reco\nretry: {atempts: 5}", "reco.yaml:3: retry.atempts: unknown key; perhaps 'attempts'"),
    (
        "type: reco",
        "type: reco\nlimits: {launch_size: 1000000}",
        "limits.launch_size: must be at most 10000, not 1000000",
    ),
    ("type: reco", "type: reco\nvalidation: {root: 1}", "reco.yaml:3: validation.root: must be true or false, not 1"),
    (
        "type: reco",
        "type: reco\nvalidation: {command: [x, '{seed}']}",
        "validation.command[1]: unknown placeholder {seed}",
    ),
    ("type: reco", "type: reco\nmetadata: {bad key: 1}", "reco.yaml:3: metadata.bad key: 'bad key' is no metadata key"),
    ("type: reco", "type: reco\nmetadata: {A.b: .nan}", "reco.yaml:3: metadata.A.b: must be a finite number"),
    ("type: reco", "type: reco\ncauses: [segfault]", "reco.yaml:3: causes[0]: must be keys and values, not 'segfault'"),
    ("type: reco", "type: reco\ntype: reco", "reco.yaml:3: type: is given twice, first in line 2"),
]


@pytest.mark.parametrize(("old", "new", "told"), MISTAKES, ids=lambda words: words[:40])
def test_each_kind_of_mistake_is_told_with_its_line(folder, old, new, told):
    fault = folder.fault(old, new)
    assert told in fault and fault.startswith("reco.yaml:")


GENERATOR = "generator: {target_units: 10, events_per_unit: 100, first_run: 1}"


def test_a_generator_has_no_input(folder):
    fault = folder.fault("type: reco", f"type: generator\n{GENERATOR}")
    assert fault == "reco.yaml:11: executable.argv[1]: {input}: a generator has no input"


NAMED = RECO.replace("  - tier", "  - name: '{stem}_{label}_{campaign}{edition}{suffix}'\n    tier")
HIST = """outputs:
  - {label: hist, tier: root-tuple, file_type: mc, location: 'demo:/h', name: '{stem}_{label}_{campaign}{edition}.root'}
"""


def test_with_several_outputs_each_placeholder_says_which(folder):
    told = "{output}: there are several outputs; say which, such as {output:hist}"
    assert folder.fault("outputs:\n", HIST, NAMED) == f"reco.yaml:12: executable.argv[2]: {told}"
    both = NAMED.replace("outputs:\n", HIST)
    assert folder.fault('"{output}"', '"{output:hst}"', both).endswith("there is no output 'hst'; perhaps 'hist'")
    folder.campaign(both.replace('"{output}"', '"{output:hist}", "{output:output}"'))
    names = folder.load()[0].output_names("a.root")
    assert names == {"hist": "a.root_hist_dune_dc15_reco.root", "output": "a_output_dune_dc15_reco.root"}


def test_two_outputs_may_not_share_a_label_or_a_name(folder):
    assert folder.fault("outputs:\n", HIST.replace("hist", "output")).endswith("two outputs have the label 'output'")
    fault = folder.fault("outputs:\n", HIST)  # a_hist.root in the one, a.root in the other
    assert fault.startswith("reco.yaml:7: outputs[1].name: could equal the name of output 'hist'; put {label} into")


# --- mistakes between campaigns -----------------------------------------------------------------------------------


def test_two_campaigns_of_one_name(folder):
    folder.campaign("# the same again\n" + RECO, "z.yaml")
    assert folder.faults() == ["z.yaml:2: name: 'dune_dc15_reco' is taken by reco.yaml:1"]


def test_two_campaigns_that_make_one_definition(folder):
    folder.campaign(RECO.replace("    file_type", "    definitions: [shared]\n    file_type"))
    other = RECO.replace("dune_dc15_reco", "dune_dc15_more")
    folder.campaign(other.replace("    file_type", "    definitions: [own, shared]\n    file_type"), "z.yaml")
    assert folder.faults() == ["z.yaml:7: outputs[0].definitions[1]: definition 'shared' is made by reco.yaml:7 too"]


def test_a_query_may_not_make_a_definition_that_another_campaign_fills(folder):
    folder.campaign(RECO.replace("    file_type", "    definitions: [next_one_input]\n    file_type"))
    folder.campaign(RECO.replace("dune_dc15_reco", "next_one") + "input:\n  query: data_tier raw\n", "z.yaml")
    assert folder.faults() == ["z.yaml:13: input.query: definition 'next_one_input' is made by reco.yaml:7 too"]
    folder.campaign(RECO.replace("dune_dc15_reco", "next_one"), "z.yaml")
    assert len(folder.load()) == 2  # one campaign's output as the next one's input is how campaigns chain


def test_two_campaigns_whose_output_names_could_meet(folder):
    folder.campaign(RECO.replace("dune_dc15_reco", "dc15_reco"), "a.yaml")
    (fault,) = folder.faults()
    assert fault == "reco.yaml:1: name: output names could equal those of 'dc15_reco' (a.yaml); give it another end"


# --- mistakes in the daemon's file --------------------------------------------------------------------------------

DAEMON_MISTAKES = [
    ("name: keepupd-test", "name: Keepupd", "keepupd.yaml:1: name: 'Keepupd' must be 1 to 40 lower-case letters"),
    (
        "state_dir: state",
        "statedir: state\nstate_dir: state",
        "keepupd.yaml:2: statedir: unknown key; perhaps 'state_dir'",
    ),
    ("state_dir: state\n", "", "keepupd.yaml:1: state_dir: is missing: Directory of the daemon's own files"),
    ("[campaigns]", "campaigns", "keepupd.yaml:3: campaigns: must be a list"),
    ("[campaigns]", "[campaigns, absent]", "keepupd.yaml:3: campaigns[1]: there is no file"),
    ("[campaigns]", "\n- campaigns\n- other/*.yaml", "keepupd.yaml:5: campaigns[1]: there is no file"),
    (
        "http://127.0.0.1:8480",
        "ftp://127.0.0.1",
        "keepupd.yaml:5: sam.read_url: 'ftp://127.0.0.1/sam/dune/api/' must be an URL",
    ),
    (
        "  user: dunepro",
        "  user: dunepro\n  timeout: 5",
        "keepupd.yaml:9: sam.timeout: unknown key; perhaps 'timeout_s'",
    ),
    ("  user: dunepro", "  user: dunepro\n  timeout_s: 0", "keepupd.yaml:9: sam.timeout_s: must be more than 0, not 0"),
    (
        "  user: dunepro",
        "  user: dunepro\n  timeout_s: '5'",
        "keepupd.yaml:9: sam.timeout_s: must be a number, not '5'",
    ),
    ("  user: dunepro", "  user: dunepro\n  campaign_parameter: camp", "'camp' must be Category.name"),
    ("kind: local", "kind: locl", "keepupd.yaml:9: batch.kind: 'locl' is not known; perhaps 'local'"),
    (
        "name: keepupd-test",
        "name: k\nhttp: {port: 99999}",
        "keepupd.yaml:2: http.port: must be at most 65535, not 99999",
    ),
    (
        "name: keepupd-test",
        "name: k\nlog_level: loud",
        "keepupd.yaml:2: log_level: 'loud' is not known; there are debug, error",
    ),
    (
        "name: keepupd-test",
        "name: k\npolls: {pass_s: 1e3}",
        "keepupd.yaml:2: polls.pass_s: must be a number, not '1e3'",
    ),
    (
        "name: keepupd-test",
        "name: k\npolls: {input_s: 1}",
        "keepupd.yaml:2: polls.input_s: unknown key; perhaps 'inputs_s'",
    ),
    ("name: keepupd-test", "name: k\nfile: x", "keepupd.yaml:2: file: unknown key"),
    ("name: keepupd-test", "name: k\nsam:", "keepupd.yaml:5: sam: is given twice, first in line 2"),
]


@pytest.mark.parametrize(("old", "new", "told"), DAEMON_MISTAKES, ids=lambda words: words[:40])
def test_each_mistake_in_the_daemons_file_is_told_with_its_line(folder, old, new, told):
    assert told in folder.daemon_fault(old, new)


def test_a_password_in_the_database_url_is_never_shown(folder):
    fault = folder.daemon_fault("state_dir: state", "state_dir: state\ndatabase: mysql://me:secret@host/db")
    assert fault == "keepupd.yaml:3: database: must be sqlite:///PATH or postgresql+psycopg://USER@HOST/NAME"


# --- what editors and the docs are made from ----------------------------------------------------------------------


def models_of(annotation):
    parts = (annotation, *getattr(annotation, "__args__", ()))
    return [part for part in parts if isinstance(part, type) and issubclass(part, BaseModel)]


def models_under(model):
    yield model
    for field in model.model_fields.values():
        for part in models_of(field.annotation):
            yield from models_under(part)


@pytest.mark.parametrize("top", [Campaign, Settings])
def test_every_field_says_what_it_means_and_its_unit(top):
    for model in models_under(top):
        assert issubclass(model, Model)
        for name, field in model.model_fields.items():
            assert field.description, f"{model.__name__}.{name}"
            unit = "seconds" if name.endswith("_s") else "MiB" if name.endswith("_mib") else ""
            assert unit.lower() in field.description.lower(), f"{model.__name__}.{name}: {field.description}"


def test_the_schema_knows_every_key_and_refuses_others():
    schema = json_schema()
    assert set(schema["properties"]) == set(Campaign.model_fields) and schema["additionalProperties"] is False
    assert schema["properties"]["type"]["enum"] == ["generator", "reco", "merge", "analysis"]
    assert set(json_schema("daemon")["properties"]) == set(Settings.model_fields)
    assert json.loads(json.dumps(schema)) == schema


def keys_under(model, start=""):
    for name, field in model.model_fields.items():
        inner = [part for part in models_of(field.annotation) if issubclass(part, Model)]
        key = f"{start}{name}{'[]' if inner and 'list' in str(field.annotation) else ''}"
        yield from keys_under(inner[0], f"{key}.") if inner else [(key, field.description)]


@pytest.mark.parametrize(("model", "part"), [(Campaign, 0), (Settings, 1)])
def test_the_docs_explain_every_key_in_the_same_words(model, part):
    page = (EXAMPLES.parents[1] / "docs" / "campaign-files.md").read_text().split("## The daemon's file")[part]
    for key, description in keys_under(model):
        row = next((line for line in page.splitlines() if line.startswith(f"| `{key}` |")), "")
        assert description.replace("<campaign>", "&lt;campaign&gt;") in row, f"docs/campaign-files.md lacks {key}"
