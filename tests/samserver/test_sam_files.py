"""The life of a file record: declared, located, found, changed, retired; and everything that must be refused."""

import http.client

import pytest

STRANGE = ["a b.root", "it's.root", 'say "x".root', "50%.root", "%41.root", "é-ü-日本.root", "12345", "a+b&c=d?.root",
           "#1.root", "a;b,c.root", "x" * 199, "..root", "-dash", "back\\slash", "a%2Fb", "name", "metadata"]


@pytest.mark.parametrize("name", STRANGE)
def test_a_file_of_any_name_is_declared_found_and_delivered(sam, quoted, name):
    number = sam.declare(name)
    assert sam.get(f"/files/name/{quoted(name)}/metadata", format="json").json["file_id"] == number
    assert [r["file_name"] for r in sam.post("/files/metadata", file_name=[name]).json] == [name]
    assert sam.get("/files/count", dims=f"file_id {number}").text == "1"
    process = sam.establish(sam.start(f"file_id {number}"))
    url = sam.post(f"{process}/getNextFile").text
    assert url == "file:///data/d1/" + quoted(name)
    assert sam.post(f"{process}/updateFileStatus", filename=url, status="consumed").status == 200
    assert sam.list(f"file_id {number} and consumed_status consumed") == [name]


@pytest.mark.parametrize("name", ["", "x" * 200, "a/b", "../x", "a\nb", "a\tb", "\x00", "a\x7f", ".", "..", 12, None,
                                  ["a"], {"x": 1}, True, "\ud800"])
def test_a_name_no_client_could_ask_for_is_refused(sam, name):
    reply = sam.call("POST", "/files", body={"file_name": name, "file_type": "test", "file_size": 1})
    assert reply.error in ("InvalidMetadata", "BadRequest")


def test_every_fault_of_metadata_is_named_in_one_reply(sam):
    bad = {"file_name": "bad.root", "file_type": "no-such-type", "file_size": -1, "Nope.x": 1, "colour": "red",
           "checksum": ["md5:123"], "parents": [{"file_name": "no-such-parent"}], "runs": [[1, 2, 3, 4]],
           "application": {"family": "art", "name": "reco", "version": "v99"}, "event_count": 2**63,
           "start_time": "yesterday", "Test.count": "many", "content_status": "ugly", "crc": 5}
    for path in ("/files", "/files/validate_metadata"):
        reply = sam.call("POST", path, body=bad)
        assert reply.error == "InvalidMetadata"
        said = reply.json["message"].split("\n")
        assert len(said) == len(bad) - 1
        unknown = {line.rsplit("'", 2)[1] for line in said if "Unknown" in line}
        assert unknown == {"no-such-type", "Nope.x", "colour", "no-such-parent", "art reco v99"}
        assert "checksum md5: value is wrong length, 3 instead of 32" in said
    assert sam.get("/files/name/bad.root/metadata").error == "FileNotFound"


@pytest.mark.parametrize(("parameter", "given"), [
    *(("Test.energy", v) for v in ("nan", "-inf", "Infinity", "1e400", "1_000", "x", True)),
    *(("Test.count", v) for v in ("1_000", "1e3", "5.0", 5.5, 1e300, 2**63, "9" * 4000))])
def test_a_parameter_that_is_no_number_of_its_type_is_refused(sam, parameter, given):
    metadata = {"file_name": sam.new("odd"), "file_type": "test", "file_size": 1, parameter: given}
    reply = sam.call("POST", "/files", body=metadata)
    kind = {"Test.energy": "float and finite", "Test.count": "int"}[parameter]
    assert reply.status == 400 and f"parameter '{parameter}' must be of type {kind}" in reply.json["message"]
    assert sam.get(f"/files/name/{metadata['file_name']}/metadata").error == "FileNotFound"


def test_a_query_for_an_infinite_number_is_refused(sam):
    for dims in ("Test.energy 1e400", "Test.energy 1e400,2"):
        reply = sam.call("POST", "/files/count", form={"dims": dims})
        assert reply.status == 400 and "takes a finite number" in reply.text


@pytest.mark.parametrize(("parameter", "given", "kept"), [
    *(("Test.count", v, int(v)) for v in (2**53 + 1, str(2**53 + 1), -2**53 - 1, 2**63 - 1, -2**63 + 1, "+5", 5.0)),
    ("Test.energy", "-2.5e3", -2500.0), ("Test.energy", 1e308, 1e308), ("Test.energy", "5", 5.0)])
def test_a_number_is_taken_exactly(sam, parameter, given, kept):
    name = sam.new("exact")
    sam.declare(name, **{parameter: given})
    assert sam.get(f"/files/name/{name}/metadata", format="json").json[parameter] == kept
    assert name in sam.list(f"{parameter} {kept}") and name not in sam.list(f"{parameter} > {kept}")


@pytest.mark.parametrize(("path", "body"), [
    ("/files", '{"file_name": "far.root", "file_type": "test", "file_size": 1, "Test.energy": 1e400}'),
    ("/files", '{"file_name": "far.root", "file_type": "test", "file_size": 1, "lum_block_ranges": [[1, 1e400]]}'),
    ("/users", '{"username": "far", "height": -1e400}')])
def test_a_number_too_large_for_a_float_is_refused_wherever_it_stands(sam, path, body):
    connection = http.client.HTTPConnection("127.0.0.1", sam.port, timeout=60)
    connection.request("POST", sam.base + path, body, {"Content-Type": "application/json"})
    reply = connection.getresponse()
    assert reply.status == 400 and b"1e400" in reply.read()
    connection.close()


def test_an_and_group_in_parentheses_that_repeats_a_dimension_keeps_its_own_row(sam):
    apart, together = sam.new("apart"), sam.new("apart")
    sam.declare(apart, runs=[[5, "mc"], [6, "test"]])
    sam.declare(together, runs=[[5, "test"], [6, "mc"]])
    for dims, names in (("run_number 5 and (run_type mc and run_number 6)", [together]),
                        ("(run_type mc and run_number 6) and run_number 5", [together]),
                        ("run_number 5 and (run_type test and (run_type mc and run_number 6))", [together]),
                        ("run_number 5 and (run_type mc and run_number 6) and run_type test", [together]),
                        ("run_number 5 and (run_type mc and run_number 6) and run_type mc", []),
                        ("run_number 5 and run_type mc and run_number 6", [apart]),
                        ("run_number 5 and (run_type mc)", [apart]),
                        ("run_number 6 and (file_type test and run_type mc)", [together]),
                        ("run_number < 6 and (run_type mc and run_number > 4)", [apart])):
        assert sam.list(f"file_name apart_% and ({dims})") == names, dims
        expanded = sam.get("/files/expand_query", dims=dims).json["query"]
        assert sam.list(f"file_name apart_% and ({expanded})") == names, expanded


def test_a_declared_name_stays_taken_even_after_retirement(sam):
    name = sam.new("once")
    number = sam.declare(name)
    for _ in range(2):
        reply = sam.call("POST", "/files", body={"file_name": name, "file_type": "test", "file_size": 99})
        assert (reply.status, reply.error) == (409, "FileAlreadyExists") and "already exists" in reply.json["message"]
        assert sam.post(f"/files/name/{name}/retired_date").status == 200
    record, = sam.post("/files/metadata", file_name=name, locations=1).json
    assert record["file_id"] == number and record["file_size"] == 10 and record["retired_date"]
    assert record["locations"] == [{"full_path": "demo:/data/d1", "location": "demo:/data/d1", "location_type": "disk"}]
    assert sam.list(f"file_name {name}") == [] and sam.list(f"file_name {name} with availability any") == [name]


def test_metadata_come_back_as_they_were_declared(sam):
    parent, name = sam.new("parent"), sam.new("child")
    parent_id = sam.declare(parent)
    fields = {"file_format": "artroot", "data_tier": "raw", "data_stream": "physics", "group": "dune",
              "application": {"family": "art", "name": "reco", "version": "v1"}, "event_count": 7, "first_event": 1,
              "last_event": 9, "start_time": "2024-05-06T07:08:09+00:00", "end_time": "2024-05-06T08:00:00+00:00",
              "content_status": "good", "Test.label": "blue", "Test.count": 3, "Test.energy": 2.5,
              "checksum": ["adler32:0011aabb", "enstore:12"], "runs": [[5, 1, "mc"], [6, "test"]], "user": "pro",
              "lum_block_ranges": [[1, 2]], "file_partition": 4, "process_id": 8}
    sam.declare(name, located=False, parents=[{"file_name": parent}], **fields)
    record = sam.get(f"/files/name/{name}/metadata", format="json").json
    assert {k: record[k] for k in fields} == fields
    assert record["parents"] == [{"file_name": parent, "file_id": parent_id}] and "locations" not in record
    assert list(record)[:4] == ["file_name", "file_id", "create_date", "user"]
    again = sam.call("POST", "/files", body={**record, "file_name": name + "_copy"})     # with fields the server owns
    assert again.status == 201


def test_the_lenient_forms_producers_send_are_accepted(sam):
    name = sam.new("lenient")
    sam.declare(name, file_size="12345", event_count="3", checksum="enstore:1713616759", start_time=1704067200,
                crc={"crc_value": "77", "crc_type": "adler 32 crc type"}, create_date="2024-01-02T03:04:05:+00:00",
                end_time="2024-01-02T03:04:05:+00:00", file_id=1, locations=[], parents=[], data_tier=None)
    record = sam.get(f"/files/name/{name}/metadata", format="json").json
    assert (record["file_size"], record["event_count"]) == (12345, 3)
    assert set(record["checksum"]) == {"enstore:1713616759", "enstore:77"}
    assert (record["start_time"], record["end_time"]) == ("2024-01-01T00:00:00+00:00", "2024-01-02T03:04:05+00:00")


def test_a_list_is_declared_whole_or_not_at_all(sam):
    good, taken = [sam.new("bulk") for _ in range(3)], sam.new("taken")
    sam.declare(taken)
    metadata = [{"file_name": n, "file_type": "test", "file_size": 1} for n in (*good, taken)]
    assert sam.call("POST", "/files", body=metadata).error == "FileAlreadyExists"
    assert sam.post("/files/metadata", file_name=good).json == []
    reply = sam.call("POST", "/files", body=metadata[:3])
    assert reply.status == 201 and len(set(reply.lines)) == 3
    assert [r["file_name"] for r in sam.post("/files/metadata", file_name=[*good, "no-such"]).json] == good


def test_only_the_fields_given_change_and_null_empties_one(sam):
    name = sam.new("changing")
    sam.declare(name, event_count=5, runs=[[1, 1, "mc"]], **{"Test.label": "old", "Test.count": 1})
    for method in ("PUT", "POST"):
        change = {"event_count": None, "runs": [[2, 2, "test"]], "Test.label": method, "content_status": "bad"}
        assert sam.call(method, f"/files/name/{name}/metadata", body=change, From="shifter@node").status == 200
        record = sam.get(f"/files/name/{name}/metadata", format="json").json
        assert "event_count" not in record and record["runs"] == [[2, 2, "test"]] and record["Test.label"] == method
        assert record["Test.count"] == 1 and record["update_user"] == "shifter" and record["update_date"]
    assert sam.list(f"file_name {name}") == [] and sam.list(f"file_name {name} with availability bad") == [name]
    assert sam.call("PUT", f"/files/name/{name}/metadata", body={"file_name": "other"}).error == "InvalidMetadata"
    assert sam.call("PUT", f"/files/name/{name}/metadata", body={"file_size": "big"}).error == "InvalidMetadata"
    assert sam.call("PUT", "/files/name/no-such-file/metadata", body={}).error == "FileNotFound"


def test_several_files_are_modified_in_one_call(sam):
    names = [sam.new("many") for _ in range(2)]
    for name in names:
        sam.declare(name)
    changes = [{"file_name": names[0], "event_count": 4}, {"file_name": "no-such-file", "event_count": 4},
               {"file_name": names[1], "event_count": 4}]
    assert sam.call("PUT", "/files?continue_on_error=False", body=changes).error == "FileNotFound"
    assert all("event_count" not in r for r in sam.post("/files/metadata", file_name=names).json)
    outcome = sam.call("PUT", "/files?continue_on_error=True", body=changes).json
    assert [one["status"] for one in outcome] == ["ok", "error", "ok"]
    assert [r["event_count"] for r in sam.post("/files/metadata", file_name=names).json] == [4, 4]


def test_locations_are_kept_word_for_word_and_once(sam):
    name = sam.new("located")
    sam.declare(name, located=False)
    path, tape = f"/files/name/{name}/locations", "enstore:/pnfs/exp/raw/00(602@vpe776)"
    assert sam.get(path, format="json").json == [] and sam.list(f"file_name {name}") == []
    for location in (tape, "demo:/data/d1/", "demo:/data//d1", "demo:/data/d1"):
        assert sam.post(path, add=location).status == 200
    assert sam.get(path, format="json").json == [
        {"full_path": "enstore:/pnfs/exp/raw/00", "location": tape, "location_type": "tape"},
        {"full_path": "demo:/data/d1/", "location": "demo:/data/d1/", "location_type": "disk"}]
    assert sam.get(path).lines == [tape, "demo:/data/d1/"] and sam.list(f"file_name {name}") == [name]
    assert sam.list(f"file_name {name} and tape_label vpe776") == [name]
    assert sam.list(f"file_name {name} and full_path '/pnfs/%' and full_path 'demo:/data%'") == [name]
    for location in (tape, "demo:/data/d1"):
        assert sam.post(path, remove=location).status == 200
    assert sam.post(path, remove="demo:/data/d1").error == "LocationNotFound"
    assert sam.list(f"file_name {name}") == [] and sam.list(f"file_name {name} with availability virtual") == [name]


@pytest.mark.parametrize("location", ["nodisk:/data", "demo:/datax", "demo:data", "demo", "/data/d1", "demo:/data/../x",
                                      "root://other//data", "demo:/data/a\nb", "demo:/"])
def test_a_location_outside_the_registered_disks_is_refused(sam, location):
    name = sam.new("nowhere")
    sam.declare(name, located=False)
    reply = sam.post(f"/files/name/{name}/locations", add=location)
    assert reply.status in (400, 404) and sam.get(f"/files/name/{name}/locations", format="json").json == []
    if location == "nodisk:/data":
        assert "Location" in reply.json["message"] and "not found" in reply.json["message"]


def test_access_urls_follow_the_schemas_asked_for(sam):
    name = sam.new("with blank #1?")
    number = sam.declare(name)
    sam.post("/values/data_disks", mountpoint="root://eos.example.org:1094/")
    for location in ("enstore:/pnfs/exp/r 1", "root://eos.example.org:1094//eos/d"):
        assert sam.post(f"/files/id/{number}/locations", add=location).status == 200
    path, file = f"/files/id/{number}/locations/url", name.replace(" ", "%20").replace("#", "%23").replace("?", "%3F")
    assert sam.get(path, schema="xroot", format="json").json == [
        f"root://eos.example.org:1094//eos/d/{file}", f"root://door:1094//pnfs/exp/r%201/{file}"]
    assert sam.get(path, schema="https,file").lines == [
        f"https://door:2880/pnfs/exp/r%201/{file}", f"file:///data/d1/{file}"]
    assert sam.get(path, schema="gsiftp", location="demo:").lines == [f"file:///data/d1/{file}"]


def test_locations_of_many_files_come_by_the_name_they_were_asked_by(sam):
    names = [sam.new("bulkloc") for _ in range(2)]
    number = sam.declare(names[0])
    sam.declare(names[1], located=False)
    for reply in (sam.post("/files/locations", file_name=[*names, "no-such"], file_id=number, format="json"),
                  sam.get("/files/locations", file_name=[*names, "no-such"], file_id=number)):
        assert set(reply.json) == {*names, str(number)} and reply.json[names[1]] == []
        assert reply.json[names[0]][0]["location"] == "demo:/data/d1" and '"location":"demo:/data/d1"' in reply.text
        assert reply.headers["Content-Length"] == str(len(reply.body))


def test_lineage_knows_parents_children_and_the_whole_line(sam):
    grand, father, mother, child = (sam.new(who) for who in ("grand", "father", "mother", "child"))
    sam.declare(grand)
    sam.declare(father, parents=[{"file_name": grand}])
    sam.declare(mother, parents=[grand])
    number = sam.declare(child, parents=[{"file_name": father}, {"file_name": mother}])
    sam.post(f"/files/name/{mother}/retired_date")

    def line(name, kind):
        return sam.get(f"/files/name/{name}/lineage/{kind}", format="json").json
    assert [n["file_name"] for n in line(child, "parents")] == [father, mother]
    assert [n.get("retired") for n in line(child, "ancestors")] == [None, True]
    assert line(child, "ancestors")[0]["parents"][0]["file_name"] == grand
    assert [n["file_name"] for n in line(child, "rawancestors")] == [grand]
    assert [n["file_name"] for n in line(grand, "children")] == [father, mother]
    assert line(grand, "descendants")[0]["children"][0]["file_id"] == number
    assert sam.get(f"/files/name/{child}/lineage/ancestors").lines[:2] == [father, "    " + grand]
    assert sam.list(f"isancestorof: (file_name {child})") == [grand, father]
    assert sam.list(f"isdescendantof: (file_name {grand})") == [father, child]
    assert sam.call("PUT", f"/files/name/{child}/metadata", body={"parents": [child]}).error == "InvalidMetadata"


def test_registered_values_are_listed_and_no_one_is_registered_twice(sam):
    tier = sam.new("tier")
    assert sam.post("/values/data_tiers", value=tier).status == 200
    assert tier in sam.get("/values/data_tiers", format="json").json and "raw" in sam.get("/values/data_tiers").lines
    assert sam.post("/values/data_tiers", value=tier).error == "ValueExists"
    assert sam.get("/values/colours").status == 404 and sam.post("/values/colours", value="x").status == 404
    name = sam.new("Test.key")
    assert sam.post("/values/parameters", name=name.split(".")[1], category="Test", data_type="int").status == 200
    again = sam.post("/values/parameters", name=name.upper(), data_type="int")
    assert again.status == 409 and "already exists" in again.json["message"]
    assert {"name": name, "data_type": "int"} in sam.get("/values/parameters", format="json").json
    sam.declare(sam.new("valued"), **{name: 12})
    assert sam.get(f"/values/parameters/{name}", format="json").json == [12]
    assert sam.get("/values/parameters/No.such").status == 404
    assert sam.get("/values/applications", version="v2", format="json").json == [
        {"family": "art", "name": "reco", "version": "v2"}]
    disk = next(d for d in sam.get("/values/data_disks", format="json").json if d["node"] == "demo")
    assert (disk["mount_point"], disk["dir"], disk["disk_type"]) == ("demo:/data", "/data", "disk")
    assert "demo:/data" in sam.get("/values/data_disks").lines
    assert sam.post("/values/data_disks", mountpoint="demo:/data").json["message"] == (
        "Disk for node 'demo', directory '/data' already exists")
    assert "data_tiers" in sam.get("/values", list="generic").json
    user = sam.new("user")
    assert sam.call("POST", "/users", body={"username": user, "first_name": "Ann"}).status == 201
    assert user in sam.get("/users", format="json").json
    assert sam.call("POST", f"/users/name/{user}", body={"status": "inactive"}).status == 200
    assert sam.get(f"/users/name/{user}", format="json").json == {
        "username": user, "first_name": "Ann", "status": "inactive"}
