import pytest
from loadtests.chaos.replies import NO_ANSWER, kind

from sluice import errors
from sluice.frontends import status

_MESSAGES: dict[type[errors.SluiceError], str] = {
    errors.NotReady: "Request for unknown model: 'whim' is not at ready state",
    errors.QueueFull: "Exceeds maximum queue size: 4 requests wait for 'whim'",
    errors.QueueTimeout: "Request timeout expired",
    errors.Stopping: "the server is stopping",
    errors.ShortOfMemory: "the server is short of memory",
    errors.CircuitOpen: "'whim' failed too often lately",
    errors.ModelFailed: "the model raised ValueError: it was told to raise",
    errors.WorkerLost: "the worker computing this request died (signal SIGKILL)",
}


@pytest.mark.parametrize("error", list(status.TABLE))
def test_an_error_is_of_the_same_kind_over_both_protocols(error: type[errors.SluiceError]) -> None:
    codes = status.TABLE[error]
    if codes.grpc.name == "UNIMPLEMENTED" or codes.http in (403, 408, 413, 499):
        return  # nobody here asks for these
    text = _MESSAGES.get(error, "")
    assert kind(str(codes.http), text) == kind(codes.grpc.name, text) != NO_ANSWER


@pytest.mark.parametrize(
    ("code", "text", "expected"),
    [
        ("500", "the worker computing this request died (exit code 9)", "worker lost"),
        ("500", "its batch computed for longer than 1 s", "hung"),
        ("500", "the model raised RuntimeError: CUDA out of memory", "device memory"),
        ("500", "the model raised ValueError: no", "model failed"),
        ("503", "Request for unknown model: 'spare' is not at ready state", "not ready"),
        ("422", "this request killed workers lately; 12 seconds left", "quarantined"),
        ("UNAVAILABLE", "Socket closed", NO_ANSWER),
        ("UNAVAILABLE", "failed to connect to all addresses", NO_ANSWER),
        ("INTERNAL", "Received RST_STREAM with error code 2", NO_ANSWER),
        ("UNAVAILABLE", "Stream removed (Received RST_STREAM with error code 7)", "stream refused"),
        ("418", "", "code 418"),
    ],
)
def test_kinds(code: str, text: str, expected: str) -> None:
    assert kind(code, text) == expected
