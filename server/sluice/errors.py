"""Every error the server can answer with, as one tree; `frontends/status.py` is the only place that knows their codes.

SluiceError
├── RequestError            you: the request cannot be served as it was sent
│   ├── InvalidRequest      malformed, or does not fit the model
│   ├── UnknownModel        no such model or version
│   ├── UnknownThing        no such region, route, …
│   ├── NotAllowed          right place, wrong verb
│   ├── NotApproved         the version lacks what models.approval asks for
│   ├── Unsupported         well formed, but not something this server does
│   ├── TooLarge            beyond the message limit
│   ├── TooSlow             the sender stalled in the middle of a request
│   ├── Quarantined         this very request failed or killed workers lately
│   ├── DeadlineExceeded    the sender's own deadline passed
│   └── Cancelled           the sender went away
├── ServerError             we: a good request that could not be answered
│   ├── NotReady            the version exists but is not live
│   │   └── Moved           it waited while workers changed over: to be routed again, and seen by no client
│   ├── Overloaded          cannot be answered in time with what waits already
│   ├── QueueFull           the queue's bound is reached
│   ├── QueueTimeout        waited longer than its queue timeout
│   ├── Stopping            the server is shutting down
│   ├── ShortOfMemory       the server's memory is nearly used up
│   ├── CircuitOpen         the version failed too often lately
│   ├── ModelFailed         the model raised while computing
│   │   └── OutOfDeviceMemory  it does not fit the device
│   ├── WorkerLost          workers died under this request, repeatedly
│   │   ├── Hung            it computed for longer than anybody should wait
│   │   └── DeviceFault     the device failed under it
│   └── InternalError       a bug of ours
└── SetupError              the operator: something on disk or in the configuration is wrong
    ├── ConfigError
    └── ModelError
        └── NoRoom          there is no memory to load it
"""

import os
import socket
from typing import Self


class SluiceError(Exception):
    """Base of the tree. `reason` is the short label used in metrics and logs."""

    reason = "internal"

    def __init__(self, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.retry_after = retry_after

    def about(self, what: str) -> Self:
        """The same, which says of what it is."""
        return type(self)(f"{what}: {self.message}", retry_after=self.retry_after)


class RequestError(SluiceError):
    reason = "invalid"


class InvalidRequest(RequestError):
    reason = "invalid"


class UnknownModel(RequestError):
    reason = "unknown_model"


class UnknownThing(RequestError):
    reason = "not_found"


class NotAllowed(RequestError):
    reason = "method_not_allowed"


class NotApproved(RequestError):
    reason = "not_approved"


class Unsupported(RequestError):
    reason = "unsupported"


class TooLarge(RequestError):
    reason = "too_large"


class TooSlow(RequestError):
    reason = "too_slow"


class Quarantined(RequestError):
    reason = "quarantined"


class DeadlineExceeded(RequestError):
    reason = "deadline"


class Cancelled(RequestError):
    reason = "cancelled"


class ServerError(SluiceError):
    reason = "internal"


class NotReady(ServerError):
    reason = "not_ready"


class Moved(NotReady):
    reason = "moved"


class Overloaded(ServerError):
    reason = "overloaded"


class QueueFull(ServerError):
    reason = "queue_full"


class QueueTimeout(ServerError):
    reason = "queue_timeout"


class Stopping(ServerError):
    reason = "stopping"


class ShortOfMemory(ServerError):
    reason = "short_of_memory"


class CircuitOpen(ServerError):
    reason = "circuit_open"


class ModelFailed(ServerError):
    reason = "model_failed"


class OutOfDeviceMemory(ModelFailed):
    reason = "device_memory"


class WorkerLost(ServerError):
    reason = "worker_lost"


class Hung(WorkerLost):
    reason = "hung"


class DeviceFault(WorkerLost):
    reason = "device_fault"


class InternalError(ServerError):
    reason = "internal"


class SetupError(SluiceError):
    reason = "setup"


class ConfigError(SetupError):
    reason = "config"


class ModelError(SetupError):
    reason = "model"


class NoRoom(ModelError):
    reason = "no_room"


def system_reason(error: OSError) -> str:
    """What the system says is wrong, without what libraries add to it, as the address, which our messages name."""
    if error.errno is None or isinstance(error, socket.gaierror):  # whose numbers are its own
        return error.strerror or str(error)
    return os.strerror(error.errno)
