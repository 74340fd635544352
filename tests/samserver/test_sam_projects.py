"""Definitions, snapshots, and the delivery of files: each file once, to one process, whatever happens."""

import http.client
import threading
from collections import Counter

import pytest


@pytest.fixture
def four(sam):
    """Dimensions of four located files in the catalog, and their names."""
    stem = sam.new("four")
    names = [f"{stem}_{n}.root" for n in range(4)]
    for name in names:
        sam.declare(name)
    return f"file_name {stem}_%", names


def test_a_definition_lives_through_rename_use_and_deletion(sam, four):
    dims, names = four
    name = sam.new("def")
    reply = sam.post("/definitions/create", defname=name, dims=dims, group="dune", description="words", user="ann")
    assert reply.json["defname"] == name and isinstance(reply.json["defid"], int)
    assert sam.post("/createDefinition", name=name, dims=dims, user="ann", group="dune").error == "DefinitionExists"
    made = sam.get(f"/definitions/name/{name}/describe", format="json").json
    assert (made["defname"], made["dimensions"], made["username"], made["group"]) == (name, dims, "ann", "dune")
    for path in (f"/definitions/name/{name}/describe?format=plain", f"/definitions/name/{name}"):
        assert [x.split(": ", 1) for x in sam.get(path).lines if "Definition Name" in x or "Dimensions" in x] == [
            ["Definition Name", name], ["     Dimensions", dims]]
    assert sam.get(f"/definitions/name/{name}/files/list").lines == names
    assert sam.get(f"/definitions/name/{name}/files/count").text == "4"
    for what in ("list", "count", "summary"):           # the real server has them under files/ alone
        assert sam.get(f"/definitions/name/{name}/{what}").status == 404
    assert sam.get(f"/definitions/name/{name}/files/summary").json == {
        "file_count": 4, "total_file_size": 40, "total_event_count": None}
    other = sam.define(sam.new("def"), dims)
    assert sam.call("PUT", f"/definitions/name/{name}", {"defname": other}).error == "DefinitionExists"
    assert sam.call("PUT", f"/definitions/name/{name}", {"defname": name + "_old"}).status == 200
    assert sam.get(f"/definitions/name/{name}").error == "DefinitionNotFound"
    assert name + "_old" in sam.get("/definitions/list", defname=name[:-1] + "%").lines
    assert sam.post(f"/definitions/name/{name}_old/snapshot").status == 200
    assert sam.call("DELETE", f"/definitions/name/{name}_old?").error == "DefinitionInUse"
    assert sam.call("PUT", f"/definitions/name/{name}_old", {"defname": name}).status == 200
    assert sam.call("DELETE", f"/definitions/name/{other}?").status == 200
    assert sam.post(f"/definitions/name/{other}/delete").error == "DefinitionNotFound"


def test_definitions_are_listed_by_pattern_user_and_time(sam):
    stem = sam.new("listed_")
    sam.post("/definitions/create", defname=stem + "a", dims="file_id 0", user="ann")
    sam.post("/definitions/create", defname=stem + "b", dims="file_id 0", user="bob")
    assert sam.get("/definitions/list", defname=stem + "%").lines == [stem + "a", stem + "b"]
    assert sam.get("/definitions/list", defname=stem + "%", user="bob", format="json").json == [stem + "b"]
    assert sam.get("/definitions/list", defname=stem.replace("_", "x") + "%").lines == []
    assert sam.get("/definitions/list", defname=stem + "%", after="2100-01-01").lines == []
    assert sam.get("/definitions/list", after="soon").error == "BadRequest"


@pytest.mark.parametrize(("name", "dims"), [("bad/name", "file_id 0"), ("", "file_id 0"), ("x'y", "file_id 0"),
                                            ("ok", ""), ("ok", "colour red"), ("ok", "defname: no-such-definition")])
def test_a_definition_that_could_not_be_used_is_refused(sam, name, dims):
    assert sam.post("/definitions/create", defname=name, dims=dims).status == 400


def test_a_snapshot_is_frozen_and_taken_again_only_when_something_changed(sam, four):
    dims, names = four
    name = sam.define(sam.new("snap"), dims)
    first = sam.post(f"/definitions/name/{name}/snapshot", group="dune").text
    assert sam.get(f"/definitions/name/{name}/snapshot").text == first        # ifdh uses GET
    sam.declare(names[0] + "_late")
    second = sam.call("POST", f"/definitions/name/{name}/snapshot?format=plain", {"group": "dune"}).text
    assert second != first and sam.list(f"snapshot_id {first}") == names
    assert sam.list(f"snapshot_id={first} and snapshot_file_number<=2") == names[:2]
    assert sam.list(f"snapshot_id {second} minus snapshot_id {first}") == [names[0] + "_late"]
    assert sam.list(f"dataset_def_name_newest_snapshot {name} minus def_snapshot {name}") == []


def test_a_project_from_start_to_end_in_both_dialects(sam, four):
    dims, names = four
    project = sam.start(dims)
    name = project.rpartition("/")[2]
    for query in ({"name": name, "station": "dune"}, {"name": name, "station": ""}):
        assert sam.path_of(sam.get("/findProject", **query).text) == project
    assert sam.get("/findProject", name="no_such").error == "ProjectNotFound"
    by_ifdh = sam.establish(project, description="7.0", filelimit=0, schemas="file")
    by_samweb = sam.establish(project, description="7.1", filelimit=1).replace("/processes/", "/process/")

    url = sam.post(f"{by_ifdh}/getNextFile").text
    assert url == f"file:///data/d1/{names[0]}" == sam.post(f"{by_ifdh}/getNextFile").text
    assert sam.post(f"{by_ifdh}/updateFileStatus", filename=url, status="transferred").text == "ok"
    assert sam.post(f"{by_ifdh}/getNextFile").text == url                     # still held
    two = sam.call("POST", f"{by_samweb}/getNextFile", Accept="application/json").lines
    assert two == [f"file:///data/d1/{names[1]}", names[1]]
    assert sam.post(f"{by_samweb}/updateFileStatus", filename=names[1], status="consumed").status == 200
    assert sam.post(f"{by_samweb}/getNextFile").status == 204                 # its limit
    assert sam.post(f"{by_ifdh}/releaseFile", filename=f"/scratch/{names[0]}", status="error").status == 200
    assert sam.post(f"{by_ifdh}/getNextFile").text.endswith(names[2])

    assert sam.list(f"project_name {name} and consumer_process_description '7.1'") == [names[1]]
    assert sam.list(f"project_name {name}") == names[:3] and sam.list(f"snapshot_for_project_name {name}") == names
    assert sam.list(f"project_name {name} and consumed_status unconsumed") == names[3:]
    assert sam.list(f"snapshot_for_project_name {name} minus (project_name {name} and consumed_status co%)") == [
        names[0], names[2], names[3]]
    assert sam.list(sam.get(f"/projects/name/{name}/recovery_dimensions").text) == [names[0], names[2], names[3]]
    assert sam.list(sam.get(f"{project}/recovery_dimensions", useProcess=1).text) == names

    assert sam.call("PUT", f"{by_samweb}/status", {"status": "completed"}).status == 200
    assert sam.post(f"{by_samweb}/endProcess").status == 200
    assert sam.list(sam.get(f"{project}/recovery_dimensions", useProcess=1).text) == [names[0], names[2], names[3]]
    assert sam.post(f"{by_ifdh}/setStatus", status="bad").status == 200
    assert sam.post(f"{by_ifdh}/getNextFile").error == "ProcessEnded"
    assert "project_end_time" not in sam.get(f"{project}/summary", format="json").json
    for form in ({"force": "1"}, {}):                                         # ending it twice is no error
        assert sam.post(f"{project}/endProject", **form).status == 200
    assert sam.get(f"{project}/status").text == "ended incomplete"
    assert sam.post(f"{by_samweb}/getNextFile").error == "ProjectEnded"
    assert sam.post(f"{project}/establishProcess", appname="x").error == "ProjectEnded"
    assert sam.post(f"{by_ifdh}/updateFileStatus", filename=names[2], status="consumed").status == 200    # a late job
    assert sam.path_of(sam.get("/findProject", name=name).text) == project

    made = sam.get(f"/projects/name/{name}/summary", format="json").json
    assert made["project_status"] == "ended incomplete" and len(made["project_end_time"]) >= 19
    assert (made["files_in_snapshot"], made["dataset_def_name"]) == (4, f"{name}_def")
    assert {k: n for k, n in made["file_counts"].items() if n} == {"consumed": 2, "skipped": 1, "unconsumed": 1}
    assert made["process_counts"]["completed"] == 1 and made["process_counts"]["bad"] == 1
    assert [(p["status"], p["counts"]["consumed"], p["description"]) for p in made["processes"]] == [
        ("bad", 1, "7.0"), ("completed", 1, "7.1")]
    assert "processes" not in sam.get(f"{project}/summary", format="json", process_limit=0).json
    assert "Project status: ended incomplete" in sam.get(f"{project}/summary").text


def test_what_a_process_may_not_do(sam, four):
    dims, names = four
    project, elsewhere = sam.start(dims), sam.start(dims)
    process = sam.establish(project)
    assert sam.post(f"{process}/updateFileStatus", filename=names[0], status="consumed").error == "FileNotFound"
    url = sam.post(f"{process}/getNextFile").text
    assert sam.post(f"{process}/updateFileStatus", filename=url, status="eaten").error == "BadRequest"
    assert sam.post(f"{process}/updateFileStatus", filename=url).error == "BadRequest"
    assert sam.post(f"{process}/setStatus", status="fine").error == "BadRequest"
    foreign = process.replace(project, elsewhere)
    for call in ("getNextFile", "endProcess"):
        assert sam.post(f"{foreign}/{call}").error == "ProcessNotFound"
        assert sam.post(f"{project}/processes/99999999999999999999/{call}").error == "ProcessNotFound"
        assert sam.post(f"{project}x/processes/1/{call}").error == "ProjectNotFound"
    assert sam.post(f"{project}/establishProcess", filelimit="-1").error == "BadRequest"


def test_a_late_transferred_does_not_undo_a_verdict(sam, four):
    process = sam.establish(sam.start(four[0]))
    url = sam.post(f"{process}/getNextFile").text
    for status in ("consumed", "transferred"):
        sam.post(f"{process}/updateFileStatus", filename=url, status=status)
    assert sam.post(f"{process}/getNextFile").text != url


def test_a_status_can_be_set_by_the_description_of_a_process(sam, four):
    project = sam.start(four[0])
    name = project.rpartition("/")[2]
    sam.establish(project, description="12.0@js/é")
    for _ in range(2):
        sam.establish(project, description="twin")
    path = f"/projects/name/{name}/process_description"
    assert sam.call("PUT", f"{path}/12.0%40js%2f%C3%A9/status", {"status": "ok"}).status == 200
    assert sam.get(f"{project}/summary", format="json").json["process_counts"]["completed"] == 1
    assert sam.call("PUT", f"{path}/twin/status", {"status": "ok"}).error == "BadRequest"
    assert sam.call("PUT", f"{path}/none/status", {"status": "ok"}).error == "ProcessNotFound"


def test_starting_a_project_again_is_the_same_project_or_a_conflict(sam, four):
    dims, names = four
    name, first, second = sam.new("again"), sam.define(sam.new("d"), dims), sam.define(sam.new("d"), dims)
    urls = {sam.post("/startProject", name=name, station="dune", defname=d).text for d in (first, f"{first}:force")}
    assert len(urls) == 1
    reply = sam.post("/startProject", name=name, station="dune", defname=second)
    assert (reply.status, reply.error) == (409, "ProjectExists")
    sam.declare(names[0] + "_late")
    project = sam.path_of(sam.post("/startProject", name=sam.new("p"), defname=f"{first}:latest").text)
    assert sam.get(f"{project}/summary", format="json").json["files_in_snapshot"] == 4
    snapshot = sam.post(f"/definitions/name/{first}/snapshot").text
    project = sam.path_of(sam.post("/startProject", name=sam.new("p"), snapshot_id=snapshot).text)
    assert sam.get(f"{project}/summary", format="json").json["files_in_snapshot"] == 5


@pytest.mark.parametrize("form", [
    {"name": "1digit", "defname": "D"}, {"name": "a/b", "defname": "D"}, {"name": "p"}, {"defname": "D"},
    {"name": "p", "defname": "no_such_definition"}, {"name": "p", "snapshot_id": "99999"}, {"name": "p", "defname": "D",
    "snapshot_id": "1"}, {"name": "p", "snapshot_id": "one"}, {"name": "p", "defname": "D", "station": "name"},
    {"name": "p", "defname": "D:latest"}])
def test_a_project_that_can_not_be_is_not_started(sam, form):
    if "D" in form.get("defname", ""):
        form = {**form, "defname": form["defname"].replace("D", sam.define(sam.new("D"), "file_id 0"))}
    assert 400 <= sam.post("/startProject", **form).status < 500
    assert sam.get("/findProject", name=form.get("name", "p")).status in (400, 404)


def test_projects_are_listed_by_pattern_and_by_time(sam, four):
    stem = sam.new("lst") + "_"
    running, ended = sam.start(four[0], stem), sam.start(four[0], stem)
    sam.post(f"{ended}/endProject")
    names = [p.rpartition("/")[2] for p in (running, ended)]
    assert sam.get("/projects", name=stem + "%").lines == names
    assert sam.get("/projects", name=stem + "%", ended_after="2020-01-01T00:00:00").lines == names[1:]
    assert sam.get("/projects", name=stem + "%", started_before="2020-01-01T00:00:00").lines == []
    assert sam.get("/projects", defname=names[0] + "_def", format="json").json == names[:1]


def test_a_file_that_lost_its_copy_since_the_snapshot_is_passed_over(sam, four):
    dims, names = four
    project = sam.start(dims)
    sam.post(f"/files/name/{names[0]}/locations", remove="demo:/data/d1")
    process = sam.establish(project)
    assert sam.post(f"{process}/getNextFile").text.endswith(names[1])
    assert sam.get(f"{project}/summary", format="json").json["file_counts"]["failed"] == 1


def test_the_station_dump_tells_its_readers_what_they_look_for(sam, four):
    project = sam.start(four[0])
    name = project.rpartition("/")[2]
    sam.post(f"{sam.establish(project)}/getNextFile")
    for query in ("station=dune&dump", "dump=all"):
        dump = sam.get(f"/dumpStation?{query}").lines
        words = next(x for x in dump if x.startswith(f"project {name}(")).split(" ")
        assert words[8:11] == ["contains", "4", "total"] and (words[16], words[20]) == ("1", "4")
        assert any(x.startswith("Per-project prefetched files: ") for x in dump)
    assert any(x.split()[0] == name and len(x.split()) > 5 for x in sam.get("/dumpStation").lines)


def test_64_consumers_at_once_get_each_of_2000_files_exactly_once(sam):
    stem = sam.new("crowd")
    metadata = [{"file_name": f"{stem}_{n:04}", "file_type": "test", "file_size": 1} for n in range(2000)]
    first, *_, last = map(int, sam.call("POST", "/files", body=metadata).lines)
    with_location = threading.local()

    def locate(numbers):
        with_location.c = http.client.HTTPConnection("127.0.0.1", sam.port)
        for n in numbers:
            sam.on(with_location.c, "POST", f"/files/id/{n}/locations", {"add": "demo:/data/x"})
    crowd([threading.Thread(target=locate, args=(range(first + k, last + 1, 8),)) for k in range(8)])
    project, got = sam.start(f"file_name {stem}_%"), Counter()

    def consume():
        connection, process = http.client.HTTPConnection("127.0.0.1", sam.port, timeout=60), sam.establish(project)
        while (reply := sam.on(connection, "POST", f"{process}/getNextFile")).status == 200:
            got[reply.text] += 1
            sam.on(connection, "POST", f"{process}/updateFileStatus", {"filename": reply.text, "status": "consumed"})
        assert reply.status == 204
    crowd([threading.Thread(target=consume) for _ in range(64)])
    assert len(got) == 2000 and set(got.values()) == {1}
    assert sam.get(f"{project}/summary", format="json").json["file_counts"]["consumed"] == 2000


def test_a_status_in_parentheses_is_of_the_project_beside_it(sam, four):
    dims, names = four
    first, second = sam.start(dims), sam.start(dims)
    for project, statuses in ((first, ("skipped", "consumed")), (second, ("consumed", "skipped"))):
        process = sam.establish(project)
        for name, status in zip(names, statuses, strict=False):
            sam.post(f"{process}/getNextFile")
            assert sam.post(f"{process}/updateFileStatus", filename=name, status=status).status == 200
    p1, pb = (path.rpartition("/")[2] for path in (first, second))
    sam.define(p1, f"project_name {p1}")
    for outside in (f"project_name {p1}", f"defname: {p1}"):
        assert sam.list(f"{outside} and (consumed_status skipped and project_name {pb})") == names[1:2]
        assert sam.list(f"(consumed_status skipped and project_name {pb}) and {outside}") == names[1:2]
    assert sam.list(f"project_name {p1} and consumed_status skipped and project_name {pb}") == names[:1]


def test_a_project_started_by_many_at_once_is_one_project_or_a_conflict(sam, four):
    name, told = sam.new("race"), []
    definitions = [sam.define(sam.new("d"), four[0]) for _ in range(2)]

    def start(definition):
        told.append((definition, sam.post("/startProject", name=name, station="dune", defname=definition)))
    crowd([threading.Thread(target=start, args=(definitions[n % 2],)) for n in range(8)])
    winner = sam.get(f"/projects/name/{name}/summary", format="json").json["dataset_def_name"]
    assert all((reply.status == 200) == (definition == winner) for definition, reply in told)
    assert {reply.error for definition, reply in told if definition != winner} == {"ProjectExists"}


def crowd(threads):
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
