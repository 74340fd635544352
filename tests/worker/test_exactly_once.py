"""Declared exactly once: two real workers make one output, SAM is a real server, and the daemon's own passes judge.

Whatever dies, is late or loses an answer: SAM ends with one record, which fits its copies; no other copy is left.
"""
import zlib

import pytest
from conftest import Node
from embedded_sam import Between, EmbeddedSam
from farm import Farm

from keepupd.clients.storage import LocalStorage
from keepupd.daemon.app import connect_sam

MAKE = 'cat "$1" > "$2"; printf %s "$FLAVOUR" >> "$2"'     # other bytes with another FLAVOUR
TRIED_ANEW = {"hours": 3}


class Night:
    """One campaign on a farm whose SAM, storage and workers are real; only the batch system does as it is told."""
    def __init__(self, place, sam, root_bytes, name):
        self.sam, self.node, self.between, self.workers = sam, Node(place, sam, root_bytes), [], []
        sam.has_disk(self.node.storage)
        sam.has_disk(self.node.results)
        (place / "farm").mkdir()
        self.name, self.input = name, f"{name}_a%41.dat"
        self.farm = Farm(
            place / "farm", name=f"{name}_reco", input={"query": f"file_name {name}_%.dat and data_tier raw"},
            outputs=[{"tier": "full-reconstructed", "file_type": "mc", "location": f"demo:{self.node.results}"}],
            executable={"argv": ["/bin/sh", "-c", MAKE, "sh", "{input}", "{output}"],
                        "application": {"family": "keepup", "name": "reco", "version": "v1"}},
            validation={"root": False})
        urls = {"read_url": sam.base, "write_url": sam.base}
        settings = self.farm.settings
        self.farm.settings = settings.model_copy(update={"sam": settings.sam.model_copy(update=urls)})
        self.farm.sam, self.farm.storage = connect_sam(self.farm.settings), LocalStorage()
        self.farm.restarts()

    def output(self, name=None, edition=1):
        """The name of the output of an input."""
        return self.farm.flow[0].output_names(name or self.input, edition)["output"]

    def ends(self):
        for worker in self.workers:
            worker.kill()
            worker.wait()
        for between in self.between:
            between.stop()
        self.farm.sam.close()
        self.farm.database.close()

    def launches(self, *names):
        """The daemon takes the files in, or tries them anew; gives the idle jobs."""
        for name in names or [self.input]:
            if name not in self.sam.queue:
                self.node.has_input(name, b"events of " + name.encode())
        self.farm.passes(2)
        return self.farm.batch.live_jobs()

    def starts(self, job, flavour="", call=None, fault=None):
        """A real worker for the job; `call` and `fault` as in Between. Gives both."""
        order = {**job.order, "sam": {**job.order["sam"], "patience_s": 2 if fault == "busy" else 60}}
        between = Between(self.sam.base, call, fault) if call else None
        if between:
            self.between.append(between)
            order["sam"]["write_url"] = between.url
        self.workers.append(self.node.start(order, job=job.key, env={"FLAVOUR": flavour}))
        return self.workers[-1], between

    def ended(self, job, worker):
        """The batch system brings the report home."""
        done = self.node.wait(worker)
        job.leaves(done.code)
        job.report = done.report
        return done

    def loses(self, *jobs):
        """The batch system forgets jobs that may still run; their files are tried anew later."""
        for job in jobs:
            job.vanishes()
        for _ in range(3):
            self.farm.later(minutes=6)
            self.farm.passes(1)
        self.farm.later(**TRIED_ANEW)

    def killed(self, job, worker, between):
        """SIGKILL while its call waits in between: SAM never gets it."""
        assert between.reached.wait(20)
        worker.kill()
        worker.wait()
        between.gone = True
        between.go.set()
        job.is_killed()
        self.farm.passes(1)
        self.farm.later(**TRIED_ANEW)

    def first_is_killed(self, flavour=""):
        """A worker is killed between declaring and adding its location; gives its copy, and the next job."""
        (job,) = self.launches()
        worker, between = self.starts(job, flavour, "locate", "held")
        self.killed(job, worker, between)
        (copy,) = self.node.copies()
        assert self.sam.record(self.output())["locations"] == []
        (again,) = self.launches()
        return copy, again

    def locates(self, location):
        """Somebody adds this location by hand."""
        self.farm.sam.add_location(self.output(), location)

    def check_that_all_is_well(self, *names):
        """Each file is declared; its record has one location, and the one copy there is the one that it describes."""
        self.farm.passes(4)
        for name in names or [self.input]:
            record = self.sam.record(self.output(name))
            assert self.farm.state_of(name) == "declared", self.farm.unit(name).why
            (place,) = record["locations"]
            (copy,) = [path for path in self.node.copies() if path.name == record["file_name"]]
            data = copy.read_bytes()
            assert place["full_path"] == f"demo:{copy.parent}"
            assert record["file_size"] == len(data) and f"adler32:{zlib.adler32(data):08x}" in record["checksum"]
            assert [parent["file_name"] for parent in record["parents"]] == [name]
        return record


@pytest.fixture(scope="module")
def one_sam(tmp_path_factory):
    server = EmbeddedSam(tmp_path_factory.mktemp("sam"))
    yield server
    server.stop()


@pytest.fixture
def night(tmp_path, one_sam, root_bytes, request):
    one_sam.nights = getattr(one_sam, "nights", 0) + 1
    night = Night(tmp_path, one_sam, root_bytes, f"night{one_sam.nights}")
    yield night
    night.ends()


@pytest.mark.parametrize("call", [pytest.param("declare", marks=pytest.mark.long), "locate"])
def test_a_reply_lost_after_the_commit(night, call):
    (job,) = night.launches()
    worker, between = night.starts(job, call=call, fault="lost")
    done = night.ended(job, worker)
    assert between.reached.is_set() and (done.code, done.output["state"]) == (0, "located"), done.log
    night.check_that_all_is_well()


def test_a_file_declared_without_location_gets_it_from_the_daemon(night):
    (job,) = night.launches()
    done = night.ended(job, night.starts(job, call="locate", fault="busy")[0])
    assert (done.code, done.output["state"]) == (16, "declared"), done.log
    night.check_that_all_is_well()
    assert len(night.farm.story(night.input)) == 3 and night.farm.unit(night.input).tries == 0


@pytest.mark.long
def test_a_worker_killed_before_it_located_its_copy_and_another_that_made_the_same(night):
    """The second finds a record that describes its own bytes: it adds its location, and the first copy goes."""
    _, again = night.first_is_killed()
    done = night.ended(again, night.starts(again)[0])
    assert (done.code, done.output["state"]) == (0, "located"), done.log
    night.check_that_all_is_well()


@pytest.mark.long
def test_a_worker_killed_before_it_located_its_copy_and_another_that_made_other_bytes(night):
    """The record's copy is found: the daemon adds its location, and the second copy goes."""
    copy, again = night.first_is_killed("first")
    data = copy.read_bytes()
    done = night.ended(again, night.starts(again, "second")[0])
    assert done.fault == ("declare", "record_differs") and len(night.node.copies()) == 2, done.log
    night.check_that_all_is_well()
    assert night.node.copies() == [copy] and copy.read_bytes() == data


@pytest.mark.long
def test_a_worker_killed_before_it_located_a_copy_that_is_lost_since(night):
    """The record's copy is not found: the daemon corrects size and checksum, and adds the second one's location."""
    copy, again = night.first_is_killed("the first, of another size")
    copy.unlink()
    done = night.ended(again, night.starts(again, "second")[0])
    assert done.fault == ("declare", "record_differs"), done.log
    night.check_that_all_is_well()
    assert night.node.copies()[0].read_bytes().endswith(b"second")


@pytest.mark.long
def test_two_located_copies_that_differ_are_held_with_both_values(night):
    """The first worker was cut off before it could add its location; the second's was added by hand meanwhile."""
    (job,) = night.launches()
    late, between = night.starts(job, "first", "locate", "held")
    assert between.reached.wait(20)
    night.loses(job)
    (again,) = night.launches()
    done = night.ended(again, night.starts(again, "the second")[0])
    assert done.fault == ("declare", "record_differs"), done.log
    night.locates(done.output["location"])
    between.go.set()
    assert night.node.wait(late).code == 0
    night.farm.passes(4)
    unit = night.farm.unit(night.input)
    assert (unit.state, unit.cause, unit.due) == ("held", "record_differs", None), unit
    for copy in night.node.copies():
        data = copy.read_bytes()
        assert f"{len(data)} bytes adler32:{zlib.adler32(data):08x} at demo:{copy.parent}" in unit.why
    assert len(night.node.copies()) == 2, "nothing is removed before a person has looked"
    night.farm.sam.remove_location(night.output(), done.output["location"])
    night.farm.operator("release", night.input)
    (last,) = night.launches()
    assert night.ended(last, night.starts(last, "the third")[0]).output["state"] == "lost_race"
    night.check_that_all_is_well()


def test_two_located_copies_that_are_alike_are_no_trouble(night):
    (job,) = night.launches()
    _, between = night.starts(job, "", "declare", "held")
    assert between.reached.wait(20)
    night.loses(job)
    (again,) = night.launches()
    done = night.ended(again, night.starts(again)[0])
    assert done.code == 0
    (other,) = [copy for copy in night.node.copies() if f"demo:{copy.parent}" != done.output["location"]]
    night.locates(f"demo:{other.parent}")
    night.farm.passes(4)
    assert night.farm.state_of(night.input) == "declared" and len(night.node.copies()) == 2


def test_a_late_worker_of_a_lost_job_changes_nothing(night):
    (job,) = night.launches()
    late, between = night.starts(job, "late", "declare", "held")
    assert between.reached.wait(20)
    night.loses(job)
    (again,) = night.launches()
    done = night.ended(again, night.starts(again, "in time")[0])
    record = night.check_that_all_is_well()
    assert record["locations"][0]["full_path"] == done.output["location"]
    between.go.set()
    late = night.node.wait(late)
    assert (late.code, late.output["state"]) == (0, "lost_race"), late.log
    assert night.check_that_all_is_well() == record


def test_a_late_worker_that_was_not_swept_away_removes_its_own_copy(night):
    """As above, before the daemon has looked: the worker itself sees that it came second."""
    (job,) = night.launches()
    late, between = night.starts(job, "late", "declare", "held")
    assert between.reached.wait(20)
    night.loses(job)
    (again,) = night.launches()
    done = night.ended(again, night.starts(again, "in time")[0])
    between.go.set()
    assert night.node.wait(late).output["state"] == "lost_race"
    assert [f"demo:{copy.parent}" for copy in night.node.copies()] == [done.output["location"]]
    night.check_that_all_is_well()


@pytest.mark.long
def test_a_late_worker_whose_copy_the_daemon_has_located_meanwhile_leaves_it_there(night):
    """Its declaration is done, the reply never came: to its second try SAM says no, and shows its very own copy."""
    (job,) = night.launches()
    late, between = night.starts(job, "late", "declare", "late")
    assert between.reached.wait(20)
    night.loses(job)
    (again,) = night.launches()
    assert night.ended(again, night.starts(again, "in time")[0]).fault == ("declare", "record_differs")
    night.check_that_all_is_well()
    between.go.set()
    late = night.node.wait(late)
    assert (late.code, late.output["state"]) == (0, "located"), late.log
    night.check_that_all_is_well()


@pytest.mark.long
def test_an_output_that_was_retired_meanwhile_is_held_and_made_anew_when_released(night):
    (job,) = night.launches()
    worker, between = night.starts(job, "", "locate", "held")
    night.killed(job, worker, between)
    night.farm.sam.retire(night.output())
    (again,) = night.launches()
    done = night.ended(again, night.starts(again)[0])
    assert done.fault == ("declare", "record_differs") and "retired" in done.log
    night.farm.passes(3)
    unit = night.farm.unit(night.input)
    assert unit.state == "held" and unit.due is None and "retired" in unit.why
    assert night.sam.record(night.output())["locations"] == []
    night.farm.operator("release", night.input)
    (again,) = night.launches()
    assert night.ended(again, night.starts(again)[0]).code == 0
    night.farm.passes(3)
    assert night.farm.state_of(night.input) == "declared"
    assert night.sam.record(night.output(edition=2))["locations"] and len(night.node.copies()) == 1


@pytest.mark.long
@pytest.mark.parametrize("flavours", [("", ""), ("first", "the second")])
def test_two_workers_that_declare_at_the_same_instant(night, flavours):
    """For each of ten files a lost job's worker and its successor's wait before SAM's door, and enter together."""
    names = [f"{night.name}_{number}.dat" for number in range(10)]
    for name in names:
        night.node.has_input(name, b"events of " + name.encode())
    lost = night.launches(*names)
    first = [night.starts(job, flavours[0], "declare", "held")[0] for job in lost]
    assert all(between.reached.wait(60) for between in night.between)
    night.loses(*lost)
    jobs = night.launches(*names)
    second = [night.starts(job, flavours[1], "declare", "held")[0] for job in jobs]
    assert all(between.reached.wait(60) for between in night.between) and len(night.between) == 20
    for between in night.between:
        between.go.set()
    for worker in first:
        night.node.wait(worker)
    for job, worker in zip(jobs, second, strict=True):
        night.ended(job, worker)
    night.check_that_all_is_well(*names)
