"""One set of stories for every SAM: the fake in memory, the client over our own server, the client over recordings.

A recording (tests/data/sam/TEST.json) holds a story's requests and replies, written after samweb's source. It is
replayed strictly: the client must ask exactly that, in that order. Stories without a recording leave this world out.
"""

import itertools
import json
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote

import httpx
import pytest
from fake_sam import FakeSam

from keepupd.clients.catalog import Catalog, quote
from keepupd.clients.sam import Sam
from keepupd.core.errors import DefinitionDiffers, SamAbsent, SamRefused, SamUnavailable

RECORDINGS = Path(__file__).parents[1] / "data" / "sam"
NUMBERS = itertools.count(1)
DISK = "demo:/data"


class FakeWorld:
    """The fake, and what a worker would do, straight in it."""

    def __init__(self) -> None:
        self.sam = FakeSam()
        self.prefix = f"u{next(NUMBERS)}_"
        self.establish, self.end_process = self.sam.establish, self.sam.end_process
        self.set_status = self.sam.set_file_status

    def already(self, definition: str, *names: str) -> None:
        """What is there before a story begins; in a recording it simply is."""
        put(self.sam, *names)
        self.sam.create_definition(definition, f"file_name {quote(self.prefix + '%')}")

    def next_file(self, process: int) -> str | None:
        file = self.sam.next_file(process)
        return file.name if file else None


class HttpWorld:
    """The client over HTTP; the worker's part of the protocol in its plainest form, sharing no code with the client."""

    def __init__(self, url: str, prefix: str, transport: httpx.BaseTransport | None = None) -> None:
        self.sam = Sam(url, patience_s=5, transport=transport)
        self.prefix = prefix
        self.worker = httpx.Client(trust_env=False, verify=False, timeout=30, transport=transport)
        self.processes: dict[int, str] = {}
        self.recorded = transport is not None

    def already(self, definition: str, *names: str) -> None:
        if not self.recorded:
            FakeWorld.already(self, definition, *names)

    def establish(self, project: str, description: str, limit: int = 0) -> int:
        url = self.sam.find_project(project)
        form = {"appname": "reco", "appversion": "v1", "appfamily": "art", "description": description}
        reply = self.post(f"{url}/establishProcess", {**form, "filelimit": str(limit)})
        self.processes[int(reply.text)] = f"{url}/process/{reply.text}"
        return int(reply.text)

    def next_file(self, process: int) -> str | None:
        reply = self.post(f"{self.processes[process]}/getNextFile", {})
        return unquote(reply.text.rpartition("/")[2]) if reply.status_code == 200 else None

    def set_status(self, process: int, name: str, status: str) -> None:
        self.post(f"{self.processes[process]}/updateFileStatus", {"filename": name, "status": status})

    def end_process(self, process: int) -> None:
        self.post(f"{self.processes[process]}/endProcess", {})

    def post(self, url: str, form: dict[str, str]) -> httpx.Response:
        return self.worker.post(url, data=form).raise_for_status()

    def close(self) -> None:
        self.sam.close()
        self.worker.close()


class Recording:
    """Replays a story's exchanges one by one, and refuses any request but the next."""

    def __init__(self, path: Path) -> None:
        story = json.loads(path.read_text())
        self.base, self.prefix, self.rest = story["base"], story["prefix"], story["exchanges"]

    def __call__(self, request: httpx.Request) -> httpx.Response:
        expected, reply = self.rest.pop(0)
        assert self.seen(request) == expected
        body = reply.get("body", "")
        text = body if isinstance(body, str) else json.dumps(body)
        return httpx.Response(reply["status"], headers={"Content-Type": reply.get("type", "text/plain")}, text=text)

    def seen(self, request: httpx.Request) -> dict[str, Any]:
        seen = {"request": f"{request.method} {str(request.url.copy_with(query=None)).removeprefix(self.base)}"}
        if request.url.query:
            seen["query"] = dict(request.url.params.multi_items())
        body = request.read().decode()
        if body and request.headers["content-type"] == "application/json":
            seen["json"] = json.loads(body)
        elif body:
            seen["form"] = {key: ",".join(values) for key, values in parse_qs(body, keep_blank_values=True).items()}
        return seen


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Our own SAM, a process of its own on a free port. Gives its URL."""
    command = [Path(sys.executable).with_name("keepup-sam"), "serve", "--port", "0", "--db"]
    process = subprocess.Popen([*command, tmp_path_factory.mktemp("sam") / "sam.db"], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout
        words = process.stdout.readline().split()
        assert "serving" in words, f"keepup-sam did not start: {words}"
        yield next(word for word in words if word.startswith("http"))
    finally:
        process.terminate()
        process.wait(20)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "world" in metafunc.fixturenames:
        recorded = (RECORDINGS / f"{metafunc.function.__name__}.json").exists()
        metafunc.parametrize("world", ["fake", "served", *(["recorded"] if recorded else [])], indirect=True)


@pytest.fixture
def world(request: pytest.FixtureRequest) -> Iterator[Any]:
    if request.param == "fake":
        fake = FakeWorld()
        fake.sam.register_data_disk(DISK)
        yield fake
        return
    if request.param == "served":
        world = HttpWorld(request.getfixturevalue("served"), f"u{next(NUMBERS)}_")
        world.sam.register_data_disk(DISK)
        yield world
        world.close()
        return
    recording = Recording(RECORDINGS / f"{request.node.originalname}.json")
    world = HttpWorld(recording.base, recording.prefix, httpx.MockTransport(recording))
    yield world
    world.close()
    assert recording.rest == [], "the story ended before its recording"


@pytest.fixture
def sam(world: Any) -> Catalog:
    return world.sam


@pytest.fixture
def p(world: Any) -> str:
    """What the names of this story begin with: the server is shared by all stories."""
    return str(world.prefix)


def record(name: str, **more: Any) -> dict[str, Any]:
    kind = {"file_type": "mc", "file_format": "root", "data_tier": "raw"}
    return {"file_name": name, "file_size": 1000, "checksum": ["adler32:00ab00cd"], "event_count": 10, **kind, **more}


def put(sam: Catalog, *names: str, **more: Any) -> None:
    """Declared and located files."""
    for name in names:
        sam.declare(record(name, **more))
        sam.add_location(name, f"{DISK}/in")


def names(files: Any) -> list[str]:
    return sorted(file.name for file in files)


def test_the_fake_fails_as_ordered():
    sam = FakeSam()
    sam.silent = True
    for ask in (sam.server_info, lambda: list(sam.files("file_id 0")), lambda: sam.create_definition("d", "file_id 0")):
        with pytest.raises(SamUnavailable):
            ask()
    sam.silent = False
    sam.fail_next(2)
    for _ in range(2):
        with pytest.raises(SamUnavailable):
            sam.create_definition("d", "file_id 0")
    assert sam.definitions("d") == []
    sam.lose_reply_next()
    with pytest.raises(SamUnavailable):
        sam.create_definition("d", "file_id 0")
    assert sam.definitions("d") == ["d"]


# --- files --------------------------------------------------------------------------------------------------------


def test_server_info(sam):
    assert "SAM" in sam.server_info()


def test_declare_and_locate(sam, p):
    name = f"{p}x.root"
    sam.declare(record(name))
    assert sam.count(f"file_name {quote(name)}") == 0
    sam.add_location(name, f"{DISK}/out")
    assert sam.count(f"file_name {quote(name)}") == 1
    found = sam.records([name, f"{p}none.root"])
    assert list(found) == [name]
    assert found[name].locations == (f"{DISK}/out",)
    assert (found[name].size, found[name].events, found[name].checksums) == (1000, 10, ("adler32:00ab00cd",))
    assert found[name].good and not found[name].retired
    assert found[name].metadata["file_type"] == "mc"


def test_locations_come_and_go_quietly(sam, p):
    name = f"{p}x.root"
    sam.declare(record(name))
    for _ in range(2):
        sam.add_location(name, f"{DISK}/one")
        sam.add_location(name, f"{DISK}/two")
    assert sorted(sam.records([name])[name].locations) == [f"{DISK}/one", f"{DISK}/two"]
    for _ in range(2):
        sam.remove_location(name, f"{DISK}/one")
    assert sam.records([name])[name].locations == (f"{DISK}/two",)
    sam.remove_location(name, f"{DISK}/two")
    assert sam.count(f"file_name {quote(name)}") == 0
    assert sam.count(f"file_name {quote(name)} with availability anylocation") == 1


def test_locations_of_no_file_or_on_no_disk_are_refused(sam, p):
    for change in (sam.add_location, sam.remove_location):
        with pytest.raises(SamAbsent):
            change(f"{p}none.root", f"{DISK}/in")
    sam.declare(record(f"{p}x.root"))
    with pytest.raises(SamRefused, match=r"Location[\s\S]*not found"):
        sam.add_location(f"{p}x.root", "nowhere:/at/all")


def test_a_name_is_declared_once(sam, p):
    name = f"{p}x.root"
    sam.declare(record(name))
    with pytest.raises(SamRefused, match="already exists") as error:
        sam.declare(record(name, file_size=2000))
    assert (error.value.kind, error.value.status) == ("FileAlreadyExists", 409)
    assert sam.records([name])[name].size == 1000


def test_of_many_who_declare_at_once_one_succeeds(sam, p):
    def declare(size: int) -> int:
        try:
            sam.declare(record(f"{p}x.root", file_size=size))
        except SamRefused as error:
            assert error.kind == "FileAlreadyExists"
            return 0
        return size

    with ThreadPoolExecutor(8) as pool:
        winners = [size for size in pool.map(declare, range(1, 17)) if size]
    assert len(winners) == 1 and sam.records([f"{p}x.root"])[f"{p}x.root"].size == winners[0]


def test_metadata_that_is_wrong_is_refused_with_reasons(sam, p):
    wrong = record(f"{p}x.root", parents=[{"file_name": f"{p}nobody.root"}])
    for ask in (sam.validate, sam.declare):
        with pytest.raises(SamRefused, match=f"{p}nobody.root") as error:
            ask(wrong)
        assert (error.value.kind, error.value.status) == ("InvalidMetadata", 400)
        with pytest.raises(SamRefused, match=rf"Unknown.*'{p}Cat\.none'"):
            ask(record(f"{p}x.root", **{f"{p}Cat.none": "1"}))
        with pytest.raises(SamRefused):
            ask({"file_name": f"{p}x.root"})
        with pytest.raises(SamRefused):
            ask(record(f"{p}a/b.root"))
        with pytest.raises(SamRefused):
            ask(record(p + 300 * "x"))
    sam.validate(record(f"{p}x.root"))
    assert sam.records([f"{p}x.root", f"{p}a/b.root", p + 300 * "x"]) == {}


def test_modify_changes_what_is_given(sam, p):
    put(sam, f"{p}x.root")
    sam.modify(f"{p}x.root", {"content_status": "bad"})
    found = sam.records([f"{p}x.root"])[f"{p}x.root"]
    assert not found.good and (found.size, found.events) == (1000, 10)
    assert sam.count(f"file_name {quote(p + 'x.root')}") == 0
    sam.modify(f"{p}x.root", {"content_status": "good", "file_size": 77, "checksum": ["adler32:00000001"]})
    found = sam.records([f"{p}x.root"])[f"{p}x.root"]
    assert found.good and (found.size, found.checksums) == (77, ("adler32:00000001",))
    with pytest.raises(SamAbsent):
        sam.modify(f"{p}none.root", {"content_status": "bad"})


def test_a_retired_file_leaves_queries_and_keeps_its_name(sam, p):
    put(sam, f"{p}x.root")
    for _ in range(2):
        sam.retire(f"{p}x.root")
    assert list(sam.files(f"file_name {quote(p + 'x.root')}")) == []
    assert sam.records([f"{p}x.root"])[f"{p}x.root"].retired
    with pytest.raises(SamRefused) as error:
        sam.declare(record(f"{p}x.root"))
    assert error.value.kind == "FileAlreadyExists"
    with pytest.raises(SamAbsent):
        sam.retire(f"{p}none.root")


ODD = ["a b.root", "100%.root", "it's.root", 'say"so".root', "q?.root", "-1-2.root", "20240506-1.root", "é日本.root",
       "a,b(c).root", "and.root", "x;y&z=1#2.root", "with limit 0", "%", "1-5"]  # fmt: skip


def test_odd_names_are_found_alone_and_listed_whole(sam, p):
    put(sam, *(p + odd for odd in ODD))
    assert names(sam.files(f"file_name {quote(p + '%')}")) == sorted(p + odd for odd in ODD)
    assert set(sam.records([p + odd for odd in ODD])) == {p + odd for odd in ODD}
    for odd in ODD:
        if not {"%", "?"} & set(odd):  # these match others too, within quotes or not
            assert names(sam.files(f"file_name {quote(p + odd)}")) == [p + odd]
        sam.modify(p + odd, {"event_count": 11})
    assert {one.events for one in sam.files(f"file_name {quote(p + '%')}")} == {11}


def test_a_name_of_digits_is_a_name(sam):
    name = f"9{next(NUMBERS):09}"
    put(sam, name)
    sam.modify(name, {"event_count": 12})
    assert sam.records([name])[name].events == 12


def test_many_records_in_few_questions(sam, p):
    wanted = [f"{p}{n}.root" for n in range(30)]
    put(sam, *wanted[::3])
    assert set(sam.records(wanted + [f"{p}none{n}" for n in range(1500)])) == set(wanted[::3])
    assert sam.records([]) == {}


def test_long_lists_of_ids(sam, p):
    put(sam, f"{p}1.root", f"{p}2.root", f"{p}3.root")
    ids = [file.file_id for file in sam.files(f"file_name {quote(p + '%')}")]
    many = ",".join(map(str, [*ids[:2], *range(10_000_000, 10_002_000)]))
    assert sam.count(f"file_id in ({many})") == 2
    assert sorted(file.file_id for file in sam.files(f"file_id in ({many})")) == sorted(ids[:2])


def test_nothing_matches(sam, p):
    assert sam.count("file_id 0") == 0
    assert list(sam.files("file_id 0")) == []


def test_a_query_that_is_wrong_is_refused(sam, p):
    for dims in ("file_name", "no_such_dimension 5", "file_id 1 minus", f"defname: {p}none", ""):
        for ask in (sam.count, lambda dims: list(sam.files(dims))):
            with pytest.raises(SamRefused) as error:
                ask(dims)
            assert error.value.status == 400 and not isinstance(error.value, SamAbsent)


def test_parents_and_children(sam, p):
    put(sam, f"{p}a.root", f"{p}b.root")
    put(sam, f"{p}o.root", parents=[{"file_name": f"{p}a.root"}])
    sam.declare(record(f"{p}virtual.root", parents=[{"file_name": f"{p}b.root"}]))
    sam.create_definition(f"{p}in", f"file_name {quote(p + 'a.root')}, {quote(p + 'b.root')}")
    done = f"isparentof:(file_name {quote(p + '%')}"
    assert sam.records([f"{p}o.root"])[f"{p}o.root"].parents == (f"{p}a.root",)
    assert names(sam.files(f"defname: {p}in minus {done})")) == [f"{p}b.root"]
    assert names(sam.files(f"defname: {p}in and {done} with availability anylocation)")) == [f"{p}a.root", f"{p}b.root"]
    assert names(sam.files(f"ischildof:(defname: {p}in)")) == [f"{p}o.root"]


# --- definitions --------------------------------------------------------------------------------------------------


def test_create_definition(sam, p):
    dims = f"file_name {quote(p + '%')}"
    sam.create_definition(f"{p}d", dims, "for a test")
    sam.create_definition(f"{p}d", dims.replace(" ", "\n  "))
    assert sam.definition(f"{p}d").split() == dims.split()
    with pytest.raises(DefinitionDiffers, match=f"{p}d"):
        sam.create_definition(f"{p}d", "file_id 0")


def test_a_definition_keeps_what_was_said_of_it(sam, p):
    sam.create_definition(f"{p}d", f"file_name {quote(p + '%')}", "3 files for merge; closed by: file count, 3 files")
    sam.create_definition(f"{p}silent", "file_id 0")
    assert sam.description(f"{p}d") == "3 files for merge; closed by: file count, 3 files"
    assert sam.description(f"{p}silent") == ""


def test_no_such_definition(sam, p):
    for ask in (sam.definition, sam.definition_count, lambda name: list(sam.definition_files(name))):
        with pytest.raises(SamAbsent) as error:
            ask(f"{p}none")
        assert (error.value.kind, error.value.status) == ("DefinitionNotFound", 404)


def test_a_definition_of_nonsense_is_refused(sam, p):
    with pytest.raises(SamRefused):
        sam.create_definition(f"{p}d", "file_id 1 minus")
    assert sam.definitions(p) == []


def test_definitions_by_prefix(sam, p):
    for name in ("c_1", "c_2", "cx1", "other"):
        sam.create_definition(p + name, "file_id 0")
    assert sorted(sam.definitions(f"{p}c_")) == [f"{p}c_1", f"{p}c_2"]
    assert sam.definitions(f"{p}none") == []


def test_renaming_and_deleting_are_safe_to_repeat(sam, p):
    sam.create_definition(f"{p}old", "file_id 0")
    for _ in range(2):
        sam.rename_definition(f"{p}old", f"{p}new")
    assert sam.definitions(p) == [f"{p}new"]
    sam.create_definition(f"{p}old", "file_id 1")
    with pytest.raises(SamRefused):
        sam.rename_definition(f"{p}old", f"{p}new")
    with pytest.raises(SamAbsent):
        sam.rename_definition(f"{p}none", f"{p}other")
    for _ in range(2):
        sam.delete_definition(f"{p}old")
    assert sam.definitions(p) == [f"{p}new"]


def test_a_definition_grows(sam, p):
    sam.create_definition(f"{p}d", f"file_name {quote(p + '%')}")
    for count in (0, 1, 2):
        assert sam.definition_count(f"{p}d") == count == len(list(sam.definition_files(f"{p}d")))
        assert sam.count(f"defname: {p}d") == count
        put(sam, f"{p}{count}.root")


def test_what_a_listed_file_carries(sam, world, p):
    world.already(f"{p}d", f"{p}x.root")
    (file,) = sam.definition_files(f"{p}d")
    assert file.file_id == sam.records([f"{p}x.root"])[f"{p}x.root"].file_id
    assert (file.name, file.size, file.events) == (f"{p}x.root", 1000, 10)


# --- projects -----------------------------------------------------------------------------------------------------


def start(sam: Catalog, p: str, files: int) -> str:
    """A running project over `files` new files."""
    put(sam, *(f"{p}{n}.root" for n in range(files)))
    sam.create_definition(f"{p}d", f"file_name {quote(p + '%')}")
    sam.start_project(f"{p}project", f"{p}d")
    return f"{p}project"


def test_project_life(sam, world, p):
    world.already(f"{p}d", f"{p}0.root", f"{p}1.root", f"{p}2.root")
    url = sam.start_project(f"{p}project", f"{p}d")
    assert sam.find_project(f"{p}project") == url
    assert sam.find_project(f"{p}none") is None
    process = world.establish(f"{p}project", "L1.0", limit=1)
    name = world.next_file(process)
    world.set_status(process, name, "transferred")
    world.set_status(process, name, "consumed")
    world.end_process(process)
    summary = sam.summary(f"{p}project")
    assert summary["dataset_def_name"] == f"{p}d" and summary["files_in_snapshot"] == 3
    assert summary["project_status"] == "running"
    assert summary["file_counts"]["consumed"] == 1
    sam.end_project(f"{p}project")
    assert sam.find_project(f"{p}project") == url


def test_starting_and_ending_are_safe_to_repeat(sam, p):
    project = start(sam, p, 1)
    url = sam.find_project(project)
    assert url and sam.start_project(project, f"{p}d") == url
    for _ in range(2):
        sam.end_project(project)
    assert sam.summary(project)["project_status"].startswith("ended")
    assert sam.start_project(project, f"{p}d") == url, "an ended project is not started anew"


def test_no_such_project_or_definition_to_start(sam, p):
    for ask in (sam.summary, sam.end_project):
        with pytest.raises(SamAbsent):
            ask(f"{p}none")
    with pytest.raises(SamRefused):
        sam.start_project(f"{p}project", f"{p}none")
    assert sam.find_project(f"{p}project") is None


def test_a_snapshot_does_not_grow(sam, p):
    project = start(sam, p, 2)
    put(sam, f"{p}late.root")
    assert sam.definition_count(f"{p}d") == 3
    assert names(sam.project_files(project)) == [f"{p}0.root", f"{p}1.root"]


def test_a_file_without_location_is_not_in_the_snapshot(sam, p):
    sam.declare(record(f"{p}virtual.root"))
    project = start(sam, p, 1)
    assert names(sam.project_files(project)) == [f"{p}0.root"]


def test_each_job_gets_its_own_file_and_sam_knows_which(sam, world, p):
    project = start(sam, p, 3)
    jobs = {f"L1.{n}": world.establish(project, f"L1.{n}", limit=1) for n in range(3)}
    given = {key: world.next_file(process) for key, process in jobs.items()}
    assert sorted(given.values()) == [f"{p}{n}.root" for n in range(3)]
    for key, name in given.items():
        assert names(sam.delivered(project, key)) == [name]
    assert sam.delivered(project, "L1.99") == []
    assert sam.delivered(f"{p}none", "L1.0") == []


def test_a_delivered_file_stays_delivered_without_its_location(sam, world, p):
    project = start(sam, p, 1)
    name = world.next_file(world.establish(project, "L1.0"))
    sam.remove_location(name, f"{DISK}/in")
    assert names(sam.delivered(project, "L1.0")) == [name] == names(sam.project_files(project))


def test_a_file_that_lost_its_location_since_the_start_is_passed_over_for_good(sam, world, p):
    project = start(sam, p, 3)
    process = world.establish(project, "L1.0")
    sam.remove_location(f"{p}1.root", f"{DISK}/in")
    given = []
    for _ in range(2):
        given.append(world.next_file(process))
        world.set_status(process, given[-1], "consumed")
    assert given == [f"{p}0.root", f"{p}2.root"]
    sam.add_location(f"{p}1.root", f"{DISK}/in")
    assert world.next_file(process) is None
    assert names(sam.delivered(project, "L1.0")) == given


def test_a_file_is_held_until_it_is_released(sam, world, p):
    project = start(sam, p, 2)
    process = world.establish(project, "L1.0")
    first = world.next_file(process)
    assert world.next_file(process) == first
    world.set_status(process, first, "transferred")
    assert world.next_file(process) == first
    world.set_status(process, first, "consumed")
    second = world.next_file(process)
    assert second not in (first, None)
    world.set_status(process, second, "skipped")
    assert world.next_file(process) is None
    counts = sam.summary(project)["file_counts"]
    assert (counts["consumed"], counts["skipped"]) == (1, 1)


def test_a_process_gets_no_more_than_its_limit(sam, world, p):
    project = start(sam, p, 2)
    process = world.establish(project, "L1.0", limit=1)
    world.set_status(process, world.next_file(process), "consumed")
    assert world.next_file(process) is None
    assert world.next_file(world.establish(project, "L1.1", limit=1)) is not None


def test_what_a_dead_job_was_given_is_never_given_again(sam, world, p):
    project = start(sam, p, 1)
    dead = world.establish(project, "L1.0")
    name = world.next_file(dead)
    world.end_process(dead)
    assert world.next_file(world.establish(project, "L1.1")) is None
    assert names(sam.delivered(project, "L1.0")) == [name]


def test_consumed_and_project_must_hold_for_the_same_delivery(sam, world, p):
    project = start(sam, p, 2)
    process = world.establish(project, "L1.0")
    first = world.next_file(process)
    world.set_status(process, first, "consumed")
    world.next_file(process)
    done = f"project_name {quote(project)} and consumed_status consumed"
    assert names(sam.files(done)) == [first]
    left = names(sam.files(f"snapshot_for_project_name {quote(project)} minus ({done})"))
    assert left == [n for n in (f"{p}0.root", f"{p}1.root") if n != first]


def test_open_projects(sam, p):
    start(sam, p, 1)
    sam.start_project(f"{p}project2", f"{p}d")
    sam.end_project(f"{p}project")
    assert sorted(sam.projects(f"{p}pro")) == [f"{p}project", f"{p}project2"]
    assert sam.projects(f"{p}pro", open_only=True) == [f"{p}project2"]


def test_a_used_definition_is_not_deleted_but_can_step_aside(sam, p):
    project = start(sam, p, 1)
    with pytest.raises(SamRefused):
        sam.delete_definition(f"{p}d")
    sam.rename_definition(f"{p}d", f"{p}d_20240506")
    sam.create_definition(f"{p}d", "file_id 0")
    assert (sam.definition_count(f"{p}d"), sam.definition_count(f"{p}d_20240506")) == (0, 1)
    assert names(sam.project_files(project)) == [f"{p}0.root"]


# --- values -------------------------------------------------------------------------------------------------------


def test_registering_twice_is_quiet(sam, p):
    for _ in range(2):
        sam.register_parameter(f"{p}Cat.campaign")
        sam.register_value("data_streams", f"{p}stream")
        sam.register_application("art", "reco", f"{p}v1")
        sam.register_data_disk(f"{p}node:/data")
    assert [one["data_type"] for one in sam.values("parameters") if one["name"] == f"{p}Cat.campaign"] == ["string"]
    assert [one["name"] for one in sam.values("applications") if one["version"] == f"{p}v1"] == ["reco"]
    assert [one["dir"] for one in sam.values("data_disks") if one["mount_point"] == f"{p}node:/data"] == ["/data"]


def test_parameters_are_kept_and_can_be_asked_for(sam, p):
    sam.register_parameter(f"{p}Cat.campaign")
    put(sam, f"{p}x.root", **{f"{p}Cat.campaign": "dune_mcc_10"})
    put(sam, f"{p}y.root", **{f"{p}Cat.campaign": "other"})
    assert names(sam.files(f"{p}Cat.campaign {quote('dune_mcc_10')}")) == [f"{p}x.root"]
    assert names(sam.files(f"file_name {quote(p + '%')} minus {p}Cat.campaign {quote('dune%')}")) == [f"{p}y.root"]
    assert sam.records([f"{p}x.root"])[f"{p}x.root"].metadata[f"{p}Cat.campaign"] == "dune_mcc_10"
