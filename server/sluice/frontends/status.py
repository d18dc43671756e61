"""The only table from our errors to the protocols' codes; both front ends read it, nothing else does."""

from typing import NamedTuple

from grpc import StatusCode

from sluice import errors


class Status(NamedTuple):
    http: int
    grpc: StatusCode


TABLE: dict[type[errors.SluiceError], Status] = {
    errors.InvalidRequest: Status(400, StatusCode.INVALID_ARGUMENT),
    errors.UnknownModel: Status(404, StatusCode.NOT_FOUND),
    errors.UnknownThing: Status(404, StatusCode.NOT_FOUND),
    errors.NotAllowed: Status(405, StatusCode.UNIMPLEMENTED),
    errors.NotApproved: Status(403, StatusCode.PERMISSION_DENIED),
    errors.Unsupported: Status(501, StatusCode.UNIMPLEMENTED),
    errors.TooLarge: Status(413, StatusCode.RESOURCE_EXHAUSTED),
    errors.TooSlow: Status(408, StatusCode.DEADLINE_EXCEEDED),
    # Not to be sent again as it is: neither clients nor proxies retry these.
    errors.Quarantined: Status(422, StatusCode.FAILED_PRECONDITION),
    errors.DeadlineExceeded: Status(504, StatusCode.DEADLINE_EXCEEDED),
    errors.Cancelled: Status(499, StatusCode.CANCELLED),
    errors.NotReady: Status(503, StatusCode.UNAVAILABLE),
    errors.Overloaded: Status(429, StatusCode.RESOURCE_EXHAUSTED),
    errors.QueueFull: Status(503, StatusCode.UNAVAILABLE),
    errors.QueueTimeout: Status(503, StatusCode.UNAVAILABLE),
    errors.Stopping: Status(503, StatusCode.UNAVAILABLE),
    errors.ShortOfMemory: Status(503, StatusCode.UNAVAILABLE),
    errors.CircuitOpen: Status(503, StatusCode.UNAVAILABLE),
    errors.ModelFailed: Status(500, StatusCode.INTERNAL),
    errors.WorkerLost: Status(500, StatusCode.INTERNAL),
    errors.InternalError: Status(500, StatusCode.INTERNAL),
    errors.ConfigError: Status(400, StatusCode.INVALID_ARGUMENT),
    errors.ModelError: Status(400, StatusCode.INVALID_ARGUMENT),
}


def of(error: errors.SluiceError) -> Status:
    """The codes of the nearest class in the table."""
    return next((TABLE[cls] for cls in type(error).__mro__ if cls in TABLE), TABLE[errors.InternalError])
