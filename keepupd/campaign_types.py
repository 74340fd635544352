"""What only some types of campaign have: a generator's numbers, a merge's grouping, an analysis's histograms.

And what protects the farm from a bad campaign: the canary and the circuit breaker.
"""

import re
from typing import Annotated, Self

from pydantic import AfterValidator, Field, ValidationInfo, field_validator, model_validator

from keepupd.checking import Model, text, wrong
from keepupd.core import serials
from keepupd.fields import SET_BY_KEEPUPD, Count, HistogramName, Seconds, Word

GROUP_FIELDS = ("run", "data_tier", "data_stream", "file_type", "file_format")  # SAM's own, beside Category.name
LIMITS = ("max_files", "max_bytes", "max_events", "max_age_s")


class Generator(Model):
    target_units: Count | None = Field(default=None, description="Units to make in all; may be raised while it runs")
    target_events: Count | None = Field(
        default=None,
        validate_default=True,
        description="Events to make in all, in whole units, instead of target_units; may be raised too",
    )
    events_per_unit: Count = Field(description="Events that each unit makes, {events}")
    first_run: Annotated[int, Field(strict=True, gt=0, le=serials.LAST_RUN)] = Field(
        description="Run number of the first units; no two campaigns may share a run"
    )
    subruns_per_run: Annotated[int, Field(strict=True, gt=0, le=serials.MOST_SUBRUNS)] = Field(
        default=1000, description="Units of one run, each a subrun"
    )
    run_type: Word = Field(default="mc", description="SAM run type of its runs")

    @field_validator("target_events")
    @classmethod
    def _one_target(cls, events: int | None, info: ValidationInfo) -> int | None:
        if "target_units" in info.data and (events is None) == (info.data["target_units"] is None):
            raise wrong("give target_units or target_events, one of the two")
        return events

    @model_validator(mode="after")
    def _room_for_runs(self) -> Self:
        if self.last_run > serials.LAST_RUN:
            raise wrong(f"the target needs runs up to {self.last_run}, SAM's end at {serials.LAST_RUN}", "first_run")
        return self

    @property
    def units(self) -> int:
        """How many units reach the target."""
        return serials.units_wanted(self.target_units, self.target_events, self.events_per_unit)

    @property
    def last_run(self) -> int:
        """The last run that the target needs."""
        return serials.last_run(self.first_run, self.subruns_per_run, self.units)


def _group_key(key: str) -> str:
    if key in GROUP_FIELDS or re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*\.[A-Za-z0-9_.-]+", key):
        return key
    raise wrong(f"{key!r} is nothing to group by; write Category.name, or one of {', '.join(GROUP_FIELDS)}")


class Merge(Model):
    by: list[Annotated[str, AfterValidator(_group_key)]] = Field(
        default=[], description="Metadata keys, or run, data_tier, ..., that all files of a group agree in"
    )
    max_files: Count | None = Field(default=None, description="A group is closed when it has so many files")
    max_bytes: Annotated[int, Field(strict=True, gt=0)] | None = Field(
        default=None, description="A group is closed before it would be larger, in bytes"
    )
    max_events: Annotated[int, Field(strict=True, gt=0)] | None = Field(
        default=None, description="A group is closed before it would have more events"
    )
    max_age_s: Seconds | None = Field(
        default=None,
        validate_default=True,
        description="A group is closed when its oldest file has waited so long, in seconds",
    )

    @field_validator("by")
    @classmethod
    def _each_once(cls, keys: list[str]) -> list[str]:
        lowered = [key.lower() for key in keys]
        for number, key in enumerate(lowered):
            if key in lowered[:number]:
                raise wrong(f"{keys[number]!r} is given twice", number)
        return keys

    @field_validator("max_age_s")
    @classmethod
    def _some_limit(cls, age_s: float | None, info: ValidationInfo) -> float | None:
        if age_s is None and all(info.data.get(limit, 1) is None for limit in LIMITS[:-1]):
            raise wrong(f"give at least one of {', '.join(LIMITS)}: without a limit no group is ever closed")
        return age_s

    @property
    def inherited(self) -> list[str]:
        """The grouping keys that a merged file takes over; keepupd sets the others from the campaign or the inputs."""
        return [key for key in self.by if key != "run" and key not in SET_BY_KEEPUPD]


class Total(Model):
    name: Annotated[str, text(r"^([A-Za-z][A-Za-z0-9_.-]{0,99})?$", "must be a plain word of at most 100")] = Field(
        default="", description="First part of the running total's file name (default: <campaign>_total)"
    )
    min_new_files: Count = Field(
        default=20, description="Histogram files that are new before another version of the total is declared"
    )


class Analysis(Model):
    histograms: list[HistogramName] = Field(
        min_length=1, description="Histograms that each output must hold, and that are summed into the total"
    )
    total: Total = Field(default=Total(), description="The campaign's running total")


class Canary(Model):
    units: Annotated[int, Field(strict=True, ge=0, le=1000)] = Field(
        default=3,
        description="Units that a new or changed campaign runs first; it goes on when they are declared (0: none)",
    )
    groups: Annotated[int, Field(strict=True, ge=0, le=1000)] = Field(
        default=1, description="The same for a merge: groups that run first"
    )


class Breaker(Model):
    window: Annotated[int, Field(strict=True, gt=0, le=10_000)] = Field(
        default=50, description="Attempts of different files, the last ones, that are looked at"
    )
    share: Annotated[float, Field(strict=True, gt=0, le=1, allow_inf_nan=False)] = Field(
        default=0.5, description="Launching stops when more than this share of them failed with one cause"
    )
    least: Annotated[int, Field(strict=True, gt=0, le=10_000)] = Field(
        default=10, validate_default=True, description="Failures with that cause that it takes at least"
    )

    @field_validator("least")
    @classmethod
    def _within_window(cls, least: int, info: ValidationInfo) -> int:
        if least > info.data.get("window", least):
            raise wrong(f"must be at most window, {info.data['window']}, not {least}")
        return least
