"""The Batch of an HTCondor pool, by its Python bindings: one spooled submission a launch, one proc a job.

Client and pool share no file system: a job's files travel through the schedd's spool. The tag is in the ad before
anything can go wrong; a submission whose reply was lost, or whose spooling was cut off, is found by it. A job starts
once: SAM gives a delivered file to no one again, so a job that the pool would start a second time is held instead.
"""

import os
import re
import shutil
import time
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from keepupd.core.chunks import chunked, grouped
from keepupd.core.errors import BatchUnavailable, JobRejected
from keepupd.core.model import JobSeen, JobState, Launch, Look

SPOOLING = 16  # HoldReasonCode of a job whose input is still on its way to the schedd: no hold
HELD, COMPLETED, REMOVED = 5, 4, 3
STATES = {1: JobState.IDLE, 2: JobState.RUNNING, 3: JobState.LEFT, 4: JobState.LEFT, 5: JobState.HELD,
          6: JobState.RUNNING, 7: JobState.RUNNING}  # fmt: skip
SHOWN = [
    "KeepupTag", "KeepupLaunch", "KeepupNumber", "JobStatus", "HoldReasonCode", "HoldReason", "RemoteHost",
    "LastRemoteHost", "JobStartDate", "CompletionDate", "EnteredCurrentStatus", "ExitBySignal", "ExitCode",
    "ExitSignal", "ResidentSetSize_RAW", "MemoryUsage", "RemoteWallClockTime",
]  # fmt: skip
MARGIN_S = 120  # a look asks again for what changed so long before the last one: for clocks that differ
KEPT_S = 60 * 86400  # how long the schedd keeps an ended job that we never fetched
CHUNK = 500
REFUSED = re.compile(r"(?i)create job ad|parse error|submit[ _]requirement|not allowed|exceeds")
STARTS_ONCE = "keepupd: the pool lost it and would start it again, which SAM's project does not allow"
HOLD = (
    "(JobStatus == 1 && NumJobStarts > 0) || (JobStatus == 2 && time() - EnteredCurrentStatus > {wall_s})"
    " || (JobStatus == 2 && MemoryUsage =!= undefined && MemoryUsage > RequestMemory)"
)
HOLD_REASON = (
    'ifThenElse(JobStatus == 1, "{starts_once}", ifThenElse(time() - EnteredCurrentStatus > {wall_s},'
    ' "wall time over the request of {wall_s} s",'
    ' strcat("memory ", string(MemoryUsage), " MiB over the request of ", string(RequestMemory), " MiB")))'
)


class HTCondorBatch:
    """A schedd. Any method may raise BatchUnavailable: no answer.

    home: directory where sandboxes come home to; client_config: HTCondor's own configuration file of this client;
    lines: more lines of the submit description, `{campaign}` and `{launch}` in them replaced.
    """

    def __init__(self, home: Path, client_config: Path | None = None, collector: str = "", schedd: str = "",
                 lines: Mapping[str, str] | None = None):  # fmt: skip
        if client_config:
            os.environ["CONDOR_CONFIG"] = str(client_config)  # read when the bindings are imported, and only then
        self._home, self._collector, self._name, self._lines = home, collector, schedd, dict(lines or {})
        self._schedd: Any = None

    # --- what the daemon asks -----------------------------------------------------------------------------------------

    def about(self) -> str:
        found = self._ask(lambda h, schedd: schedd.query("false", projection=["ClusterId"]))
        assert found is not None
        return f"HTCondor schedd {self._name or 'of this configuration'}"

    def submit(self, launch: Launch) -> None:
        """Queue the jobs whose key is unknown, as one cluster. Raises JobRejected: asking again is no use."""
        known = self._known(launch.key)
        numbers = [number for number in launch.numbers if number not in known]
        if not numbers:
            return
        description = self._description(launch)
        items = [{"number": str(number), "unit": launch.units.get(number, "")} for number in numbers]
        for number in numbers:
            self._folder(launch.key, number).mkdir(parents=True, exist_ok=True)

        def send(h: Any, schedd: Any) -> None:
            try:
                cluster = schedd.submit(h.Submit(description), itemdata=iter(items), spool=True)
            except (ValueError, h.HTCondorException) as error:
                if REFUSED.search(str(error)):
                    raise _rejected(launch, error) from error
                raise
            schedd.spool(cluster)

        self._ask(send)

    def look(self, daemon: str, cursor: str | None) -> Look:
        """Jobs tagged by `daemon` that changed since `cursor`; all of them for None."""
        ours, begun = f"KeepupDaemon == {_quoted(daemon)}", int(time.time())
        changed = f"{ours} && EnteredCurrentStatus >= {int(cursor) - MARGIN_S}" if cursor else ours
        ads = self._ask(lambda h, schedd: schedd.query(changed, projection=SHOWN))
        return Look([_seen(ad) for ad in ads], str(begun), cursor is None)

    def fetch(self, job: JobSeen, into: Path) -> None:
        """Bring stdout, stderr, report and logs of a job home; of one that never ran there is nothing."""
        launch, _, number = job.key.rpartition(".")
        folder = self._folder(launch, int(number))
        if job.state == JobState.LEFT:
            self._ask(lambda h, schedd: schedd.retrieve(f"{_these(launch, [number])} && JobStatus == {COMPLETED}"))
        into.mkdir(parents=True, exist_ok=True)
        for file in folder.iterdir() if folder.is_dir() else ():
            if file.is_file() and not file.is_symlink():
                shutil.copyfile(file, into / file.name)

    def remove(self, keys: Collection[str]) -> None:
        """Take jobs away, running or not; quiet where there is none."""
        for launch, some in grouped(list(keys), lambda key: key.rpartition(".")[0]).items():
            for chunk in chunked([key.rpartition(".")[2] for key in some], CHUNK):
                self._remove(_these(launch, chunk))

    def exclude(self, daemon: str, hosts: Collection[str]) -> None:
        """From now on the idle jobs tagged by `daemon` shun these hosts, and no others: one edit of their ads."""
        shunned = _quoted(",".join(hosts))
        waiting = f"(JobStatus == 1 || JobStatus == {HELD} && HoldReasonCode == {SPOOLING})"
        others = f"KeepupDaemon == {_quoted(daemon)} && {waiting} && KeepupExcluded =!= {shunned}"
        if self._ask(lambda h, schedd: schedd.query(others, projection=["ProcId"], limit=1)):
            self._ask(lambda h, schedd: schedd.edit(others, "KeepupExcluded", shunned))

    def forget(self, launch_key: str) -> None:
        """Leave nothing of a launch in queue or spool. Raises JobRejected when some of its jobs may still run."""
        ours = f"KeepupLaunch == {_quoted(launch_key)}"
        live = f"{ours} && JobStatus != {COMPLETED} && JobStatus != {REMOVED}"
        if n := len(self._ask(lambda h, schedd: schedd.query(live, projection=["ProcId"]))):
            raise JobRejected(f"launch {launch_key}: {n} of its jobs are idle, running or held", "remove them first")
        self._remove(ours)
        shutil.rmtree(self._home / launch_key, ignore_errors=True)

    # --- within -------------------------------------------------------------------------------------------------------

    def _ask(self, question: Any) -> Any:
        """Put a question to the schedd. After an error the next one looks for the schedd anew: it may have moved."""
        import htcondor2  # an extra; reads CONDOR_CONFIG

        try:
            if self._schedd is None:
                self._schedd = self._located(htcondor2)
            return question(htcondor2, self._schedd)
        except (htcondor2.HTCondorException, ValueError, OSError) as error:
            self._schedd = None
            raise BatchUnavailable(
                f"the HTCondor schedd gave no answer: {error}", "`condor_q` and `condor_ping -type schedd WRITE` there"
            ) from error

    def _located(self, h: Any) -> Any:
        collector = h.Collector(self._collector) if self._collector else h.Collector()
        found = [self._name] if self._name else []
        return h.Schedd(collector.locate(h.DaemonType.Schedd, *found))

    def _known(self, launch: str) -> set[int]:
        """Numbers of the launch that the schedd has. Jobs whose spooling was cut off are removed, and not known."""
        ours = f"KeepupLaunch == {_quoted(launch)}"
        self._remove(f"{ours} && JobStatus == {HELD} && HoldReasonCode == {SPOOLING}")
        there = f"{ours} && JobStatus != {REMOVED}"
        return {ad["KeepupNumber"] for ad in self._ask(lambda h, schedd: schedd.query(there, ["KeepupNumber"]))}

    def _remove(self, these: str) -> None:
        self._ask(lambda h, schedd: schedd.act(h.JobAction.Remove, these, reason="keepupd is done with it"))

    def _folder(self, launch: str, number: int) -> Path:
        return self._home / launch / str(number)

    def _description(self, launch: Launch) -> dict[str, str]:
        inputs = self._home / launch.key / "input"
        inputs.mkdir(parents=True, exist_ok=True)
        for name, words in launch.files.items():
            (inputs / name).write_text(words)
        names = {"campaign": launch.campaign, "launch": launch.key}
        key = f"{launch.key}.$(number)"
        argv = [word.replace("{key}", key).replace("{number}", "$(number)") for word in launch.argv]
        extra = {name: value.format(**names) for name, value in {**self._lines, **launch.lines}.items()}
        return {
            "universe": "vanilla", "executable": argv[0], "transfer_executable": "False",
            "arguments": _arguments(argv[1:]),
            "environment": _arguments(f"{name}={value}" for name, value in launch.environment.items()),
            "initialdir": f"{self._home / launch.key}/$(number)", "output": "stdout", "error": "stderr",
            "transfer_input_files": ", ".join(str(inputs / name) for name in launch.files),
            "should_transfer_files": "YES", "when_to_transfer_output": "ON_EXIT",
            "request_cpus": str(launch.cpus), "request_memory": str(launch.memory_mib),
            "request_disk": str(launch.disk_mib * 1024),
            "periodic_hold": HOLD.format(wall_s=launch.wall_s),
            "periodic_hold_reason": HOLD_REASON.format(wall_s=launch.wall_s, starts_once=STARTS_ONCE),
            "leave_in_queue": f"JobStatus == {COMPLETED} && time() - CompletionDate < {KEPT_S}",
            "+KeepupDaemon": _quoted(launch.daemon), "+KeepupCampaign": _quoted(launch.campaign),
            "+KeepupLaunch": _quoted(launch.key), "+KeepupTag": _quoted(launch.tag), "+KeepupNumber": "$(number)",
            "+KeepupUnit": '"$(unit)"', **extra,
            "+KeepupExcluded": _quoted(",".join(launch.excluded_hosts)),
            "requirements": _requirements(extra.get("requirements", "")),
        }  # fmt: skip


def _requirements(more: str) -> str:
    """The hosts to shun stay outside, in an attribute that can be edited while the job is idle."""
    once = "(NumJobStarts =?= undefined || NumJobStarts == 0)"
    elsewhere = "!stringListIMember(TARGET.Machine, MY.KeepupExcluded)"
    return " && ".join([once, *([f"({more})"] if more else []), elsewhere])


def _rejected(launch: Launch, error: Exception) -> JobRejected:
    return JobRejected(
        f"launch {launch.key}: HTCondor does not take its description: {error}",
        "look at `lines` of the batch system in keepupd.yaml and of the campaign",
    )


def _these(launch: str, numbers: Iterable[str]) -> str:
    return f"KeepupLaunch == {_quoted(launch)} && member(KeepupNumber, {{{', '.join(map(str, numbers))}}})"


def _quoted(text: str) -> str:
    """A ClassAd string."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _arguments(words: Iterable[str]) -> str:
    """HTCondor's new syntax: all in double quotes, each word in single ones, quotes doubled."""
    return '"' + " ".join("'" + word.replace("'", "''").replace('"', '""') + "'" for word in words) + '"'


def _seen(ad: Any) -> JobSeen:
    spooling = ad["JobStatus"] == HELD and ad.get("HoldReasonCode") == SPOOLING
    held = ad["JobStatus"] == HELD and not spooling
    ended = ad["JobStatus"] == COMPLETED
    by_signal = bool(ad.get("ExitBySignal"))
    return JobSeen(
        key=f"{ad['KeepupLaunch']}.{ad['KeepupNumber']}", tag=ad["KeepupTag"],
        state=JobState.IDLE if spooling else STATES[ad["JobStatus"]], host=_host(ad),
        started=_time(ad.get("JobStartDate")), ended=_time(ad.get("CompletionDate")) if ended else None,
        exit_code=ad.get("ExitCode") if ended and not by_signal else None,
        signal=ad.get("ExitSignal") if ended and by_signal else None,
        hold_code=ad.get("HoldReasonCode") if held else None, hold_reason=ad.get("HoldReason", "") if held else "",
        peak_mib=_peak_mib(ad), wall_s=ad.get("RemoteWallClockTime"),
    )  # fmt: skip


def _host(ad: Any) -> str:
    return str(ad.get("RemoteHost") or ad.get("LastRemoteHost") or "").rpartition("@")[2]


def _peak_mib(ad: Any) -> int | None:
    kib = None
    with suppress(TypeError, ValueError):
        kib = int(ad.get("ResidentSetSize_RAW") or 0)
    return round(kib / 1024) if kib else None


def _time(epoch_s: Any) -> datetime | None:
    return datetime.fromtimestamp(epoch_s, UTC) if epoch_s else None
