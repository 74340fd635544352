"""The world of tests/kill with a real HTCondor pool in place of keepup-batch; storage is a disk the nodes share."""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import yaml
from pools.condor import Pool
from world import CAMPAIGN, SETTINGS, World

EXECUTE = "/var/lib/condor/execute/"


class CondorWorld(World):
    """`home` must be on the disk that the pool mounts. Jobs run there as another user."""

    def __init__(self, home: Path, pool: Pool):
        self.pool = pool
        super().__init__(home)
        self.batch.ends()
        for name in ("out", "marks"):
            (home / name).chmod(0o777)

    def writes_settings(self, **changes: Any) -> None:
        super().writes_settings(python="/usr/bin/python3", **changes)
        settings = yaml.safe_load(self.config.read_text())
        settings["batch"] = {"kind": "htcondor", "client_config": str(self.pool.config)}
        settings["polls"] = SETTINGS["polls"] | {"lost_after_s": 20}
        self.config.write_text(yaml.safe_dump(settings))

    def job_processes(self) -> Iterator[psutil.Process]:
        for process in psutil.process_iter():
            with suppress(psutil.Error, OSError):
                if process.environ().get("_CONDOR_SCRATCH_DIR", "").startswith(EXECUTE):
                    yield process

    def queue(self) -> str:
        """Jobs in the queue: launch, number, status and hold reason of each."""
        return self.pool.run("condor_q", "-allusers", "-af", "KeepupLaunch", "KeepupNumber", "JobStatus", "HoldReason")

    def spool(self) -> str:
        return self.pool.run("sh", "-c", "find /var/spool/condor -name 'cluster*.proc*'")

    def _nothing_is_left_behind(self) -> None:
        self.waits(lambda: not self.queue() and not self.spool(), f"an empty queue and spool: {self.queue()}")
        assert not list(self.job_processes())
        assert self.sam.projects(f"keepup_{CAMPAIGN}_", open_only=True) == []
        assert not self.rows("SELECT * FROM attempts WHERE outcome = ''"), "attempts that nobody will judge"
        assert not list((self.home / "state" / "htcondor").iterdir()), "sandboxes"
