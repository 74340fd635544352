"""YAML files: each mistake of writing is told with its line, and keepupctl reads its three settings quickly."""

import subprocess
import sys

import pytest

from keepupd.core.errors import ConfigError
from keepupd.yamlfile import read_settings_lightly, read_yaml


def faults_of(tmp_path, text):
    path = tmp_path / "f.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ConfigError) as caught:
        read_yaml(path)
    return [fault.replace(str(path), "f.yaml") for fault in caught.value.faults]


def test_each_place_has_its_line(tmp_path):
    (tmp_path / "f.yaml").write_text("# a comment\na: 1\nb:\n  - c: x\n    d: y\n  - e\n")
    file = read_yaml(tmp_path / "f.yaml")
    assert file.value == {"a": 1, "b": [{"c": "x", "d": "y"}, "e"]}
    assert [file.line(p) for p in [("a",), ("b", 0, "d"), ("b", 1), ("b", 1, "missing")]] == [2, 5, 6, 6]
    assert file.fault(("b", 0, "d"), "is wrong") == f"{tmp_path}/f.yaml:5: b[0].d: is wrong"


@pytest.mark.parametrize("text", ["", "# nothing but a comment\n", "---\n"])
def test_an_empty_file(tmp_path, text):
    assert any("empty" in fault or "top level" in fault for fault in faults_of(tmp_path, text))


def test_a_list_at_the_top(tmp_path):
    assert faults_of(tmp_path, "- a\n- b\n") == ["f.yaml:1: must be keys and values, `name: ...`, at its top level"]


def test_a_tab(tmp_path):
    (fault,) = faults_of(tmp_path, "a:\n  b: 1\n\tc: 2\n")
    assert fault.startswith("f.yaml:3:1: is not YAML") and "never with tabs" in fault


def test_not_yaml(tmp_path):
    (fault,) = faults_of(tmp_path, "a: 1\nb: [1, 2\nc: 3\n")
    assert fault.startswith("f.yaml:3:2: is not YAML") and "expected ',' or ']'" in fault


def test_keys_given_twice_are_all_told_with_the_first_line(tmp_path):
    assert faults_of(tmp_path, "a: 1\nb: {c: 1, c: 2}\na: 2\n") == [
        "f.yaml:2: b.c: is given twice, first in line 2",
        "f.yaml:3: a: is given twice, first in line 1",
    ]


def test_a_key_that_yaml_takes_for_something_else(tmp_path):
    assert faults_of(tmp_path, "a: 1\non: 2\n3: x\n") == [
        "f.yaml:2: the key 'on' must be text; put it in quotes",
        "f.yaml:3: the key '3' must be text; put it in quotes",
    ]


def test_a_day_that_does_not_exist(tmp_path):
    assert faults_of(tmp_path, "a: 1\nb:\n  - 2026-02-30\n")[0].startswith("f.yaml:3: b[0]: 2026-02-30: ")


def test_python_objects_are_refused(tmp_path):
    (fault,) = faults_of(tmp_path, "a: !!python/object/apply:os.system [ls]\n")
    assert fault.startswith("f.yaml:1:4: is not YAML: could not determine a constructor")


def test_two_documents(tmp_path):
    assert faults_of(tmp_path, "a: 1\n---\nb: 1\n")[0].startswith("f.yaml:2:1: is not YAML: expected a single document")


def test_other_encodings_and_unprintable_characters(tmp_path):
    assert faults_of(tmp_path, b"a: 1\nb: f\xfcnf\n") == ["f.yaml:2: is not UTF-8 text"]
    assert faults_of(tmp_path, "a: 1\nb: \x00\n") == ["f.yaml:2: has the unprintable character '\\x00'"]


def test_no_file_and_a_directory(tmp_path):
    for path in (tmp_path / "absent.yaml", tmp_path):
        with pytest.raises(ConfigError, match="cannot be read"):
            read_yaml(path)


def test_aliases_are_fine_but_not_without_end(tmp_path):
    (tmp_path / "g.yaml").write_text("base: &base {x: 1}\na: *base\nb:\n  <<: *base\n  y: 2\n")
    file = read_yaml(tmp_path / "g.yaml")
    assert file.value["a"] == {"x": 1} and file.value["b"] == {"x": 1, "y": 2} and file.line(("b", "y")) == 5
    assert faults_of(tmp_path, "a: &a [*a]\n") == ["f.yaml:1: aliases without end"]
    bomb = "a0: &a0 [x, x]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 9))
    assert "aliases without end" in faults_of(tmp_path, bomb)[0]


def test_a_byte_order_mark_is_no_fault(tmp_path):
    (tmp_path / "f.yaml").write_bytes(b"\xef\xbb\xbfa: 1\n")
    assert read_yaml(tmp_path / "f.yaml").value == {"a": 1}


# --- what keepupctl reads -----------------------------------------------------------------------------------------


def test_keepupctl_finds_the_database_beside_the_file(tmp_path):
    path = tmp_path / "keepupd.yaml"
    path.write_text("name: k\nstate_dir: state\nwhatever: else\n")
    state = tmp_path / "state"
    assert read_settings_lightly(path) == {"name": "k", "state_dir": state, "database": f"sqlite:///{state}/keepupd.db"}


def test_keepupctl_is_told_what_is_missing_and_no_password(tmp_path):
    path = tmp_path / "keepupd.yaml"
    path.write_text("state_dir: 7\n")
    with pytest.raises(ConfigError) as caught:
        read_settings_lightly(path)
    assert caught.value.faults == [
        f"{path}:1: name: is missing or no text",
        f"{path}:1: state_dir: is missing or no text",
    ]
    path.write_text("name: k\nstate_dir: s\ndatabase: mysql://me:secret@host/db\n")
    with pytest.raises(ConfigError, match=f"{path}:3: database: must be sqlite") as caught:
        read_settings_lightly(path)
    assert "secret" not in str(caught.value)


def test_keepupctl_does_not_wait_for_pydantic():
    code = "import sys, keepupd.yamlfile; sys.exit('pydantic' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
