"""Every refusal the server makes on purpose. The class name is the `error` type a client sees, `status` its status.

All are 4xx: a 5xx would make the samweb client repeat the call for hours. Names the reference does not know are ours.
"""


class SamError(Exception):
    """A refusal; the message says what was wrong and, where that helps, what to do."""

    status = 400


class InvalidMetadata(SamError):
    """The metadata breaks a rule; the message has one line a problem."""

    def __init__(self, problems: list[str]):
        super().__init__("\n".join(problems))


class DimensionError(SamError):
    """The dimensions can't be parsed, or name something that does not exist."""


class BadRequest(SamError):
    """A form field, a query item or the body is missing or malformed."""


class NotFound(SamError):
    """No such path, or no such value, user or disk."""

    status = 404


class FileNotFound(NotFound):
    pass


class DefinitionNotFound(NotFound):
    pass


class SnapshotNotFound(NotFound):
    pass


class ProjectNotFound(NotFound):
    pass


class ProcessNotFound(NotFound):
    pass


class LocationNotFound(NotFound):
    pass


class Conflict(SamError):
    """The thing exists already, or its state forbids the call."""

    status = 409


class FileAlreadyExists(Conflict):
    pass


class DefinitionExists(Conflict):
    pass


class DefinitionInUse(Conflict):
    pass


class ProjectExists(Conflict):
    pass


class ProjectEnded(Conflict):
    pass


class ProcessEnded(Conflict):
    pass


class ValueExists(Conflict):
    pass


class RequestTooLarge(SamError):
    status = 413
