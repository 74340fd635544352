"""Every error keepupd raises on purpose, each with its remedy.

Callers tell two kinds apart: `Transient` (nobody answered; we try again by ourselves) and the rest (a person must act).
"""

from collections.abc import Sequence
from difflib import get_close_matches


class KeepupError(Exception):
    """What is wrong and where (`problem`), and what to do about it (`remedy`)."""

    def __init__(self, problem: str, remedy: str):
        super().__init__(f"{problem}\n  remedy: {remedy}")
        self.problem, self.remedy = problem, remedy


class Transient(KeepupError):
    """No answer, which is never the same as absence: try again later, move nothing."""


# --- what is written in files -------------------------------------------------------------------------------------


class FaultsError(KeepupError):
    """A file with faults: all of them at once, a line each, `file:line: words`."""

    what = "file"

    def __init__(self, path: object, faults: Sequence[str], remedy: str = "correct these lines and try again"):
        lines = "".join(f"\n  {fault}" for fault in faults)
        super().__init__(f"{self.what} {path} has {len(faults)} fault(s):{lines}", remedy)
        self.faults = list(faults)


class ChartError(FaultsError):
    what = "statechart"


class CausesError(FaultsError):
    what = "table of causes"


class ConfigError(FaultsError):
    what = "configuration"


# --- states -------------------------------------------------------------------------------------------------------


class EventRefused(KeepupError):
    def __init__(self, event: str, state: str, allowed: Sequence[str]):
        super().__init__(
            f"event {event!r} in state {state!r}; allowed there: {', '.join(allowed) or 'none'}",
            "`keepupctl why FILE` shows how it came to this state",
        )


class UnitMoved(Transient):
    def __init__(self, wanted: int, moved: int):
        super().__init__(f"{wanted - moved} of {wanted} moves were outrun by another", "the next pass looks again")


# --- the store ----------------------------------------------------------------------------------------------------


class StoreUnavailable(Transient):
    """The database is locked, full or gone."""


class SchemaError(KeepupError):
    """The database has another schema than this keepupd."""


class AlreadyRunning(KeepupError):
    """Another daemon holds the database."""


class NotFound(KeepupError):
    """No campaign or file of that name; the closest names are suggested."""

    def __init__(self, what: str, name: str, known: Sequence[str] = ()):
        close = get_close_matches(name, known, 3, cutoff=0.6)
        hint = (
            f"perhaps {' or '.join(close)}" if close else "`keepupctl status` lists campaigns, `keepupctl files` files"
        )
        super().__init__(f"there is no {what} {name!r}", hint)


class Ambiguous(KeepupError):
    def __init__(self, name: str, campaigns: Sequence[str]):
        super().__init__(
            f"file {name!r} is in {len(campaigns)} campaigns: {', '.join(campaigns)}", "add --campaign NAME"
        )


# --- SAM ----------------------------------------------------------------------------------------------------------


class SamUnavailable(Transient):
    """SAM did not answer, or answered with 5xx until our patience ended."""


class SamRefused(KeepupError):
    """SAM answered no (4xx): asking the same again is no use. `kind` is SAM's own name of the error."""

    def __init__(self, problem: str, remedy: str, kind: str = "", status: int = 400):
        super().__init__(problem, remedy)
        self.kind, self.status = kind, status


class SamAbsent(SamRefused):
    """SAM answered, and there is no such file, definition or project (404)."""


class DefinitionDiffers(KeepupError):
    def __init__(self, name: str, wanted: str, found: str):
        super().__init__(
            f"definition {name!r} exists with another query\n  wanted: {wanted}\n  in SAM: {found}",
            "give the campaign another name, or rename the old definition in SAM",
        )


# --- batch --------------------------------------------------------------------------------------------------------


class BatchUnavailable(Transient):
    """The batch system did not answer."""


class JobRejected(KeepupError):
    """The batch system answered no: asking the same again is no use."""
