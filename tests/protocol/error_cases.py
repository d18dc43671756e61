"""The cases of the error table: what is asked, in both protocols' words, and the row that answers it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

from tritonclient.grpc import service_pb2 as pb
from wires import Ask, Input, tokens

from sluice import errors

MESSAGE_LIMIT = 1 << 20


def echo(*values: int) -> Ask:
    return Ask("echo", (Input("x", "INT64", (1, len(values)), values),))


def ids(datatype: str, shape: tuple[int, ...], *data: Any) -> Ask:
    return Ask("tagger", (Input("input_ids", datatype, shape, data),))


def log_change(name: str, **value: Any) -> Any:
    return pb.LogSettingsRequest(settings={name: pb.LogSettingsRequest.SettingValue(**value)})


def trace_change(name: str, value: str) -> Any:
    return pb.TraceSettingRequest(settings={name: pb.TraceSettingRequest.SettingValue(value=[value])})


@dataclass(frozen=True)
class Both:
    """The same wish that is no inference, in each protocol's words."""

    http: tuple[str, str, Any]  # method, path, body
    grpc: tuple[str, Any]  # method, message


@dataclass(frozen=True)
class Case:
    """What is asked, and the row of the table that answers it."""

    name: str
    error: type[errors.SluiceError]
    text: str  # a regular expression that is found in the message
    ask: Ask | Both
    during: Literal["", "busy", "full"] = ""  # what the server is doing meanwhile


GOOD = tokens(1, 2, 3)
TEXTS = Ask("texts", (Input("INPUT0", "BYTES", (1, 1), ("a",)),))

CASES = [
    Case(
        "unknown model", errors.UnknownModel, "^Request for unknown model: 'x' is not found$", replace(GOOD, model="x")
    ),
    Case(
        "unknown version",
        errors.UnknownModel,
        "^Request for unknown model: 'tagger' version 7 is not found$",
        replace(GOOD, version="7"),
    ),
    Case(
        "metadata of an unknown model",
        errors.UnknownModel,
        "unknown model: 'x'",
        Both(("GET", "/v2/models/x", b""), ("ModelMetadata", pb.ModelMetadataRequest(name="x"))),
    ),
    Case(
        "configuration of an unknown model",
        errors.UnknownModel,
        "unknown model: 'x'",
        Both(("GET", "/v2/models/x/config", b""), ("ModelConfig", pb.ModelConfigRequest(name="x"))),
    ),
    Case(
        "statistics of an unknown model",
        errors.UnknownModel,
        "unknown model: 'x'",
        Both(("GET", "/v2/models/x/stats", b""), ("ModelStatistics", pb.ModelStatisticsRequest(name="x"))),
    ),
    Case(
        "loading an unknown model",
        errors.UnknownModel,
        "'x'",
        Both(
            ("POST", "/v2/repository/models/x/load", {}),
            ("RepositoryModelLoad", pb.RepositoryModelLoadRequest(model_name="x")),
        ),
    ),
    Case(
        "unloading an unknown model",
        errors.UnknownModel,
        "'x'",
        Both(
            ("POST", "/v2/repository/models/x/unload", {}),
            ("RepositoryModelUnload", pb.RepositoryModelUnloadRequest(model_name="x")),
        ),
    ),
    Case(
        "trace settings of an unknown model",
        errors.UnknownModel,
        "'x'",
        Both(("GET", "/v2/models/x/trace/setting", b""), ("TraceSetting", pb.TraceSettingRequest(model_name="x"))),
    ),
    Case(
        "a version that could not be loaded",
        errors.NotReady,
        "^'broken' version 1 is not at ready state: .*model.onnx",
        replace(GOOD, model="broken"),
    ),
    Case(
        "an unloaded version",
        errors.NotReady,
        "^'retired' version 1 is not at ready state: unloaded$",
        replace(GOOD, model="retired", version="1"),
    ),
    Case(
        "loading a broken model",
        errors.ModelError,
        "failed to load 'broken': .*model.onnx",
        Both(
            ("POST", "/v2/repository/models/broken/load", {}),
            ("RepositoryModelLoad", pb.RepositoryModelLoadRequest(model_name="broken")),
        ),
    ),
    Case(
        "too few dimensions",
        errors.InvalidRequest,
        r"shape for input 'input_ids' .* \[-1, -1\], got \[3\]",
        ids("INT64", (3,), 1, 2, 3),
    ),
    Case("no rows", errors.InvalidRequest, "'input_ids' has batch size 0", ids("INT64", (0, 3))),
    Case("no tokens", errors.InvalidRequest, "'input_ids' has sequence length 0", ids("INT64", (1, 0))),
    Case(
        "inputs that disagree about rows",
        errors.InvalidRequest,
        "'attention_mask' has batch size 2, but .*'input_ids' has 1",
        replace(GOOD, inputs=(GOOD.inputs[0], Input("attention_mask", "INT64", (2, 3), (1,) * 6))),
    ),
    Case(
        "inputs that disagree about length",
        errors.InvalidRequest,
        "'attention_mask' has sequence length 2",
        replace(GOOD, inputs=(GOOD.inputs[0], Input("attention_mask", "INT64", (1, 2), (1, 1)))),
    ),
    Case(
        "batch too big",
        errors.InvalidRequest,
        "batch-size must be <= 64 for 'tagger', got 65",
        tokens(*[1] * 65, rows=65),
    ),
    Case(
        "another datatype",
        errors.InvalidRequest,
        "'input_ids' data-type is 'INT32', but model 'tagger' expects 'INT64'",
        ids("INT32", (1, 2), 1, 2),
    ),
    Case(
        "missing input",
        errors.InvalidRequest,
        "expected 2 inputs but got 1 .*missing: 'input_ids'",
        replace(GOOD, inputs=GOOD.inputs[1:]),
    ),
    Case("no inputs", errors.InvalidRequest, "missing: 'input_ids'", replace(GOOD, inputs=())),
    Case(
        "input given twice",
        errors.InvalidRequest,
        "'input_ids' is given (twice|more than once)",
        replace(GOOD, inputs=(GOOD.inputs[0], *GOOD.inputs)),
    ),
    Case(
        "unexpected input",
        errors.InvalidRequest,
        "unexpected inference input 'extra' for model 'tagger'",
        replace(GOOD, inputs=(*GOOD.inputs, Input("extra", "INT64", (1, 3), (1, 2, 3)))),
    ),
    Case(
        "unexpected output",
        errors.InvalidRequest,
        "unexpected inference output 'extra' for model 'tagger'",
        replace(GOOD, outputs=(("extra", {}),)),
    ),
    Case(
        "output asked for twice",
        errors.InvalidRequest,
        "'total'",
        replace(GOOD, outputs=(("total", {}), ("total", {}))),
    ),
    Case(
        "classes of BYTES",
        errors.InvalidRequest,
        "'OUTPUT0' is of BYTES, which cannot be classified",
        replace(TEXTS, outputs=(("OUTPUT0", {"classification": 1}),)),
    ),
    Case(
        "negative classification",
        errors.InvalidRequest,
        "classification",
        replace(GOOD, outputs=(("total", {"classification": -1}),)),
    ),
    Case(
        "unknown triton parameter",
        errors.InvalidRequest,
        "'triton_magic' is reserved",
        replace(GOOD, parameters={"triton_magic": True}),
    ),
    Case(
        "priority that is no number",
        errors.InvalidRequest,
        "'priority'",
        replace(GOOD, parameters={"priority": "high"}),
    ),
    Case("negative timeout", errors.InvalidRequest, "'timeout'", replace(GOOD, parameters={"timeout": -1})),
    Case(
        "sequence id that is a bool",
        errors.InvalidRequest,
        "'sequence_id'",
        replace(GOOD, parameters={"sequence_id": True}),
    ),
    Case(
        "sequence start that is no bool",
        errors.InvalidRequest,
        "'sequence_start'",
        replace(GOOD, parameters={"sequence_start": 1}),
    ),
    Case(
        "output into an unknown region",
        errors.InvalidRequest,
        "region 'nowhere' is not registered",
        replace(GOOD, outputs=(("total", {"shared_memory_region": "nowhere", "shared_memory_byte_size": 8}),)),
    ),
    Case(
        "a region of an unknown key",
        errors.InvalidRequest,
        "^key: ",
        Both(
            ("POST", "/v2/systemsharedmemory/region/r/register", {"key": "/none", "offset": 0, "byte_size": 8}),
            ("SystemSharedMemoryRegister", pb.SystemSharedMemoryRegisterRequest(name="r", key="/none", byte_size=8)),
        ),
    ),
    Case(
        "status of an unknown region",
        errors.UnknownThing,
        "region 'r' is not registered",
        Both(
            ("GET", "/v2/systemsharedmemory/region/r/status", b""),
            ("SystemSharedMemoryStatus", pb.SystemSharedMemoryStatusRequest(name="r")),
        ),
    ),
    Case(
        "unknown log setting",
        errors.InvalidRequest,
        "unknown log setting 'volume'",
        Both(("POST", "/v2/logging", {"volume": 11}), ("LogSettings", log_change("volume", uint32_param=11))),
    ),
    Case(
        "unknown trace setting",
        errors.InvalidRequest,
        "unknown trace setting 'colour'",
        Both(("POST", "/v2/trace/setting", {"colour": "red"}), ("TraceSetting", trace_change("colour", "red"))),
    ),
    Case(
        "unknown load parameter",
        errors.InvalidRequest,
        "colour",
        Both(
            ("POST", "/v2/repository/models/tagger/load", {"parameters": {"colour": "red"}}),
            (
                "RepositoryModelLoad",
                pb.RepositoryModelLoadRequest(
                    model_name="tagger", parameters={"colour": pb.ModelRepositoryParameter(string_param="red")}
                ),
            ),
        ),
    ),
    Case(
        "CUDA shared memory",
        errors.Unsupported,
        "CUDA shared memory is not supported",
        Both(
            (
                "POST",
                "/v2/cudasharedmemory/region/r/register",
                {"raw_handle": {"b64": "AAAA"}, "device_id": 0, "byte_size": 8},
            ),
            ("CudaSharedMemoryRegister", pb.CudaSharedMemoryRegisterRequest(name="r", byte_size=8)),
        ),
    ),
    Case(
        "a log file",
        errors.Unsupported,
        "'log_file' cannot be changed",
        Both(
            ("POST", "/v2/logging", {"log_file": "/tmp/log"}),
            ("LogSettings", log_change("log_file", string_param="/tmp/log")),
        ),
    ),
    Case("message too large", errors.TooLarge, str(MESSAGE_LIMIT), tokens(*[1] * MESSAGE_LIMIT)),
    Case("model raises", errors.ModelFailed, "the number of the beast", echo(666)),
    Case("queue full", errors.QueueFull, "^Exceeds maximum queue size", echo(3), "full"),
    Case(
        "queue timeout",
        errors.QueueTimeout,
        "^Request timeout expired$",
        replace(echo(3), parameters={"timeout": 1000}),
        "busy",
    ),
    Case(
        "the client's deadline", errors.DeadlineExceeded, "^Deadline Exceeded$", replace(echo(3), timeout=0.2), "busy"
    ),
]
