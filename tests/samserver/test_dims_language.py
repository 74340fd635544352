"""The dimensions language where the oracle does not go: real queries, what must be refused and how, great sizes."""

import sqlite3
import subprocess
import sys

import pytest

from keepupd.samserver import definitions, fill, values
from keepupd.samserver.compile import compile_dims
from keepupd.samserver.db import connect
from keepupd.samserver.dims import parse
from keepupd.samserver.errors import DimensionError
from keepupd.samserver.explain import branches
from keepupd.samserver.match import date_bounds, parse_time
from keepupd.samserver.tables import create

REAL = """defname: d1
defname: d1 with limit 100
defname: d1 with limit 50 offset 150
defname: d1 with stride 4 offset 1
defname: d1  minus snapshot_id 4711  with limit 20
snapshot_id 4711 or snapshot_id 4712
defname: d1 minus snapshot_id 4711 and run_number 12.0003
defname: d1 and run_number 12.1,12.2,12.5
defname: d1 and end_time > '2024-01-01T00:00:00' and end_time <= '2024-01-08T00:00:00'
project_name stage1 and consumed_status 'consumed' minus snapshot_id 4711 with limit 10
snapshot_for_project_name p1 minus (project_name p1 and consumed_status co%)
ischildof:( snapshot_for_project_name p1 ) and version v1 and create_date > '2024-01-01T00:00:00+0000' and file_name like '%.root'
snapshot_for_project_name p1 and isparentof:( version v1 with availability anylocation )
snapshot_for_project_name p1 and isparentof:( file_name % and version 'v1' and create_date > '2024-01-01' with availability physical )
snapshot_for_project_name p1 and isparentof:( isparentof:( version v1 ))
defname:d1 or defname:d2 or defname:d1
consumer_process_id 101,102 and consumed_status consumed
(defname: d1) minus (consumer_process_id 101,102 and consumed_status consumed)
consumer_process_id=101 and consumed_status consumed
defname: d1 minus (project_name u1_d1_% and consumed_status consumed) with limit 100
defname: d1 minus snapshot_for_project_name u1_d1_%
(defname: d1 minus isparentof:( data_tier reco and version v1 with availability physical ) ) minus defname: d2 minus defname: d1
isparentof: (create_date > '2024-01-01T00:00:00' and availability: virtual)
snapshot_for_project_name p1,p2,p3
file_id 0
file_name a.root, b.root
file_name in (a.root, b.root)
isparentof: (defname: d2) and availability: anylocation
ischildof: (file_name=a.root) and availability: physical
Dataset.Tag u1_tag
full_path like '/pnfs/%' and not full_path like '/pnfs/exp/scratch%' and create_date < '2024-01-01 00:00:00' minus tape_label like '%'
data_tier raw and data_stream physics and run_type r1 and file_type detector and create_date >= 2024-01-01 and version v08%
dh.dataset=sim.u1.x.v1.art and create_date > '2025-02-17T08:00:00-05:00'
snapshot_id=4711 and snapshot_file_number<=100
data_tier raw AND online.detector fardet and run_number 13114
Online.Detector="fardet" AND Online.Stream=2
run_number 129-130,140-150 and data_tier raw
( data_stream numi and file_id 5 )
file_name like '???.u1.x.%'
snapshot_for_project_name p1 minus ( snapshot_for_project_name p1 and isparentof:( data_tier raw ) )
project_name P and consumed_status skipped,unknown,delivered,transferred,unconsumed,cancelled
project_name P minus consumed_status co%
create_date 06-May-2024 or create_date 6-May-24 or create_date 2024-01-01-2024-02-01 or create_date '2024-01-01' - '2024-02-01'
version 1-2 or file_name 12345678-1234-x.root or project_name 20240506-1
lum_block 5 or lum_block 1-3,9 or lum_block 10 - 12 minus lum_block %
project_name p1 and (consumed_status skipped and project_name p2) and (consumer u1 and run_number 5)
dataset_def_name d% and dataset_def_name != d2,d1 minus dataset_def_id 1
project_description 'keep-up of May' and consumer u1 or consumer_process_description 12.%"""       # noqa: E501  as they are sent


@pytest.fixture(scope="module")
def db(tmp_path_factory):
    made = connect(tmp_path_factory.mktemp("dims") / "catalog.db")
    create(made, "dune")
    for name, kind in (("Dataset.Tag", "string"), ("dh.dataset", "string"), ("Online.Detector", "string"),
                       ("Online.Stream", "int")):
        values.add_parameter(made, name, kind)
    definitions.create(made, "d1", "data_tier raw", "u", "g", "")
    definitions.create(made, "d2", "defname: d1 and isparentof: (data_tier raw)", "u", "g", "")
    yield made
    made.close()


def run(db, dims):
    query = compile_dims(db, dims)
    return [r[0] for r in db.execute(query.select("f.file_name"), query.args)]


@pytest.mark.parametrize("dims", REAL.splitlines())
def test_queries_of_production_are_understood_and_keep_their_meaning_when_written_out(db, dims):
    assert run(db, dims) == []
    assert parse(str(parse(dims))) == parse(dims)


@pytest.mark.parametrize(("dims", "said"), [
    ("", "empty"), ("  ", "empty"), ("colour red", "Unknown dimension 'colour'"), ("No.such x", "'no.such'"),
    ("defname: nope", "Definition 'nope' not found"), ("data_tier raw and", "the end of the query"),
    ("data_tier", "a value"), ("(data_tier raw", "')'"), ("data_tier raw)", "column 14"), ("raw", "line 1, column 4"),
    ("data_tier raw\nand or", "line 2, column 5"), ("data_tier a:b", "column 12"),
    ("file_name é", "ASCII"),
    ("availability: virtual", "neighbouring 'and'"), ("not availability: virtual", "neighbouring 'and'"),
    ("data_tier raw with availability gone", "unknown availability 'gone'"),
    ("file_id abc", "whole number, not 'abc'"),
    ("data_tier raw with colour 5", "unknown option 'colour'"),
    ("data_tier raw with limit x", "whole number, not 'x'"),
    ("data_tier raw with stride 0", "whole number, not '0'"), ("file_size > 1,2", "one value"),
    ("run_number x", "run.subrun"),
    ("file_size like 1 - 2", "one value"), ("create_date someday", "takes a date"),
    ("create_date 2024-13-45", "takes a date"),
    ("data_tier raw with limit 5 minus data_tier reco", "parentheses"), ("file_id > 1.5", "whole number"),
    ("data_tier raw with limit 5 limit 6", "twice"), ("dataset_def_name > x", "takes = or a list"),
    ("online.stream x", "whole"),
    ("isancestorof:(file_id 1) and isdescendantof:(file_id 1)", "forbidden"), ("'data_tier' raw", "column 1"),
    ("isancestorof:(file_id 1) and isparentof:(file_id 1)", "forbidden"), ("data_tier 'raw", "column 11"),
])
def test_a_faulty_query_is_refused_with_the_place_and_the_reason(db, dims, said):
    with pytest.raises(DimensionError) as refusal:
        run(db, dims)
    assert said in str(refusal.value)


def test_what_is_said_to_be_expected_is_what_could_stand_there(db):
    with pytest.raises(DimensionError) as refusal:
        parse("data_tier raw: x")
    assert "':' where the end, '-', 'minus', 'intersect', 'union', 'and', 'or', 'with' was expected" in str(
        refusal.value)


def test_the_caret_stands_under_the_fault(db):
    with pytest.raises(DimensionError) as refusal:
        parse("data_tier raw and\n  run_number ( 5 and x 1")
    _, line, caret = str(refusal.value).split("\n")
    assert line[caret.index("^"):] == "and x 1"


def test_definitions_that_go_round_in_a_circle_are_refused(db):
    definitions.create(db, "c1", "file_id 1", "u", "g", "")
    definitions.create(db, "c2", "defname: c1 or file_id 2", "u", "g", "")
    db.execute("UPDATE definitions SET dimensions = 'defname: c2' WHERE defname = 'c1'")
    with pytest.raises(DimensionError, match="refers to itself: c1 -> c2"):
        run(db, "defname: c1")


@pytest.mark.parametrize("dims", [
    f"file_name {', '.join(f'file_{n}.root' for n in range(10_000))}",
    f"file_id {','.join(map(str, range(10_000)))}",
    f"run_number {','.join(f'{n}.1' for n in range(3000))}",
    " or ".join(f"file_name x{n}%" for n in range(1100)),
    " and ".join(f"not file_id {n}" for n in range(1500)) + " minus file_id > 0",
    "data_tier raw " + " minus ".join(["", *(f"file_id {n}" for n in range(1000))]),
    "data_tier raw " + " ".join(f"{op} file_id {n}" for n in range(100) for op in ("union", "minus", "intersect")),
    "not " * 90 + "file_id 1",
    "(" * 90 + "file_id 1" + ")" * 90,
    "isparentof: (" * 60 + "file_id 1" + ")" * 60,
    "(file_id 1 and " * 90 + "file_id 2" + ")" * 90,
    "(file_id 1 and (file_id 2 or " * 45 + "file_id 3" + "))" * 45,
])
def test_large_queries_are_answered(db, dims):
    assert isinstance(run(db, dims), list)


@pytest.mark.parametrize("dims", ["(" * 5000 + "file_id 1" + ")" * 5000, "not " * 5000 + "file_id 1",
                                  "isparentof:(" * 3000 + "file_id 1" + ")" * 3000,
                                  "file_id 1" + " with limit 5" * 5000])
def test_queries_nested_without_end_are_refused_not_crashed_on(db, dims):
    with pytest.raises((DimensionError, RecursionError)):
        run(db, dims)
    assert run(db, "file_id 0") == []


@pytest.mark.parametrize("text", ["2024-05-06T07:08:09", "2024-05-06 07:08:09", "2024-05-06T07:08:09Z",
                                  "2024-05-06T07:08:09+0000", "2024-05-06T02:08:09-05:00", "2024-05-06T07:08:09:+00:00",
                                  "2024-05-06T07:08:09 0000", "2024-05-06T07:08:09.5+00:00"])
def test_a_moment_may_be_written_in_many_ways(text):
    assert int(parse_time(text).timestamp()) == 1714979289
    assert date_bounds("x", text) == (1714979289, 1714979289)


def test_a_date_alone_is_its_whole_day():
    assert [date_bounds("x", d) for d in ("2024-05-06", "06-May-2024", "6-may-24")] == [(1714953600, 1715039999)] * 3


def test_explain_tells_the_tree_the_sql_and_the_count(tmp_path):
    path = tmp_path / "catalog.db"
    fill.run(path, 30, "dune")
    command = [sys.executable, "-m", "keepupd.samserver.main", "explain", "--db", str(path)]
    said = subprocess.run([*command, "data_tier raw minus isparentof: (data_tier full-reconstructed) with limit 50"],
                          capture_output=True, text=True, check=True).stdout
    assert "minus\n    isparentof" in said and "WITH s1 AS (SELECT" in said and "'full-reconstructed'" in said
    assert said.splitlines()[-1].startswith("20 files in ")
    wrong = subprocess.run([*command, "data_tier raw and"], capture_output=True, text=True, check=False)
    assert wrong.returncode == 1 and wrong.stderr.startswith("keepup-sam: syntax error at line 1")


def test_the_tree_of_a_long_list_is_cut():
    (line,) = branches(parse(f"file_name {', '.join(f'file_{n}.root' for n in range(10_000))}"))
    assert line.startswith("file_name = (file_0.root, file_1") and line.endswith(" characters)") and len(line) < 1000


def test_a_filled_catalog_is_whole(tmp_path):
    fill.run(tmp_path / "catalog.db", 300, "dune")
    fill.run(tmp_path / "catalog.db", 300, "dune")
    db = connect(tmp_path / "catalog.db")
    assert len(run(db, "data_tier raw")) == 600 and len(run(db, "isparentof: (data_tier full-reconstructed)")) == 200
    assert len(run(db, "fill.stream 3 and fill.detector far")) == len(run(db, "fill.stream 3"))
    assert db.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
    db.close()


def test_a_snapshot_that_is_still_being_written_is_not_seen_by_its_definition(tmp_path):
    fill.run(tmp_path / "catalog.db", 10, "dune")
    db = connect(tmp_path / "catalog.db")
    definitions.create(db, "d", "data_tier raw", "u", "g", "")
    db.executemany("INSERT INTO snapshots VALUES (?, 1, ?, 'x', 5, 0, ?)", [(1, 1, 1), (2, 2, 0)])
    db.executemany("INSERT INTO snapshot_files VALUES (?, ?, ?)", [(1, n, n) for n in range(1, 6)] + [(2, 1, 9)])
    assert len(run(db, "dataset_def_name_newest_snapshot d")) == len(run(db, "def_snapshot d")) == 5
    db.execute("UPDATE snapshots SET ready = 1")
    assert len(run(db, "dataset_def_name_newest_snapshot d")) == 1 and len(run(db, "def_snapshot d")) == 6
    db.close()


def test_a_catalog_of_another_schema_is_left_alone(tmp_path):
    db = sqlite3.connect(tmp_path / "catalog.db")
    db.execute("PRAGMA user_version = 99")
    db.close()
    path = str(tmp_path / "catalog.db")
    command = [sys.executable, "-m", "keepupd.samserver.main", "serve", "--port", "0", "--db", path]
    said = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    assert said.returncode == 1 and "schema 99" in said.stderr and len(said.stderr.splitlines()) == 1
