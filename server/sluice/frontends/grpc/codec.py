"""ModelInferRequest bytes to our request, our response to ModelInferResponse bytes.

Whatever the bytes are, only errors of our tree come out. What a model allows is not looked at here: the engine knows.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from google.protobuf.message import DecodeError

from sluice.errors import InvalidRequest
from sluice.frontends.grpc import wire
from sluice.frontends.grpc.contents import wire_form
from sluice.pb.inference_pb2 import InferParameter, ModelInferRequest, ModelInferResponse, ModelStreamInferResponse
from sluice.request import Buffer, InferRequest, InferResponse, Parameter, RequestedOutput, Tensor
from sluice.spec import DATATYPES

if TYPE_CHECKING:
    from sluice.frontends.regions import Regions

MAX_DIMENSIONS = 32
MAX_ELEMENTS = 1 << 40
MAX_PARAMETERS = 1000

_INT64_MAX = (1 << 63) - 1
_NOTHING: dict[str, Parameter] = {}


@dataclass(frozen=True, slots=True)
class Parsed:
    """A request whose protobuf is sound: whom to answer is known, whether it makes sense is not."""

    message: ModelInferRequest  # without its raw contents if it was large
    raw: Sequence[Buffer]


@dataclass(frozen=True, slots=True)
class Place:
    """Where in a registered shared-memory region a tensor lies."""

    region: str
    offset: int
    byte_size: int


@dataclass(frozen=True, slots=True)
class Decoded:
    """A request, and the outputs whose values go to shared memory instead of into the reply."""

    request: InferRequest
    places: Mapping[str, Place] = field(default_factory=dict)


def parse(data: bytes) -> Parsed:
    """The first half of decoding."""
    try:
        if len(data) <= wire.SMALL:
            message = ModelInferRequest.FromString(data)
            return Parsed(message, list(message.raw_input_contents))
        rest, raw = wire.split(data)
        return Parsed(ModelInferRequest.FromString(rest), raw)
    except DecodeError:
        raise InvalidRequest(wire.MALFORMED) from None


def decode(parsed: Parsed, regions: Regions) -> Decoded:
    """The second half: every tensor gets its bytes, be they raw, typed or in shared memory."""
    message, raw = parsed.message, parsed.raw
    inputs: list[Tensor] = []
    used = 0
    for tensor in message.inputs:
        name, datatype = tensor.name, tensor.datatype
        if datatype not in DATATYPES:
            raise InvalidRequest(f"'{name}': unknown datatype '{datatype}'")
        shape = _shape(tensor.shape, name)
        place = _place(_parameters(tensor.parameters, name), name) if tensor.parameters else None
        typed = tensor.HasField("contents") and tensor.contents.ByteSize() > 0
        data: Buffer
        if typed and (raw or place is not None):
            other = "raw_input_contents" if place is None else "shared memory"
            raise InvalidRequest(f"'{name}': has typed contents beside {other}; send one or the other")
        if place is not None:
            data = regions.read(place.region, place.offset, place.byte_size)
        elif raw:
            if used == len(raw):
                raise InvalidRequest(f"'{name}': has no entry in raw_input_contents, which has {len(raw)}")
            data = raw[used]
            used += 1
        else:
            data = wire_form(tensor.contents, datatype, name) if typed else b""
        inputs.append(Tensor(name, datatype, shape, data))
    if used != len(raw):
        raise InvalidRequest(f"raw_input_contents has {len(raw)} entries for {used} inputs that need one")
    outputs, places = _outputs(message.outputs) if message.outputs else ((), {})
    request = InferRequest(
        model=message.model_name,
        version=message.model_version,
        inputs=tuple(inputs),
        outputs=outputs,
        id=message.id,
        parameters=_parameters(message.parameters, "the request") if message.parameters else _NOTHING,
    )
    return Decoded(request, places)


def encode(
    response: InferResponse,
    places: Mapping[str, Place],
    regions: Regions,
    *,
    streamed: bool = False,
    final: bool = False,
) -> bytes:
    """The reply; `streamed` wraps it for ModelStreamInfer, `final` marks it as its request's last."""
    message = ModelInferResponse(model_name=response.model, model_version=response.version, id=response.id)
    for name, value in response.parameters.items():
        _set(message.parameters[name], value)
    if final:
        message.parameters["triton_final_response"].bool_param = True
    raw: list[Buffer] = []
    for tensor in response.outputs:
        output = message.outputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
        place = places.get(tensor.name)
        if place is None:
            raw.append(tensor.data)
            continue
        regions.write(place.region, place.offset, place.byte_size, tensor.data)
        output.parameters["shared_memory_region"].string_param = place.region
        output.parameters["shared_memory_byte_size"].int64_param = memoryview(tensor.data).nbytes
        if place.offset:
            output.parameters["shared_memory_offset"].int64_param = place.offset
    return wire.join(message.SerializeToString(), raw, streamed=streamed)


def encode_stream_error(text: str, model: str, id: str) -> bytes:
    """What ModelStreamInfer answers to one request that failed."""
    reply = ModelStreamInferResponse(error_message=text)
    reply.infer_response.model_name = model
    reply.infer_response.id = id
    return reply.SerializeToString()


def _shape(sent: Sequence[int], name: str) -> tuple[int, ...]:
    if len(sent) > MAX_DIMENSIONS:
        raise InvalidRequest(f"'{name}': its shape has {len(sent)} dimensions; at most {MAX_DIMENSIONS} are possible")
    shape = tuple(sent)
    if shape and min(shape) < 0:
        raise InvalidRequest(f"'{name}': its shape {list(shape)} has a negative dimension")
    # Zeros do not count, or a huge dimension could hide behind one.
    if math.prod(shape) > MAX_ELEMENTS or (0 in shape and math.prod(size or 1 for size in shape) > MAX_ELEMENTS):
        raise InvalidRequest(f"'{name}': its shape {list(shape)} is too large")
    return shape


def _parameters(sent: Mapping[str, InferParameter], owner: str) -> dict[str, Parameter]:
    if len(sent) > MAX_PARAMETERS:
        raise InvalidRequest(f"{owner}: has {len(sent)} parameters; at most {MAX_PARAMETERS} are possible")
    values: dict[str, Parameter] = {}
    for name, parameter in sent.items():
        kind = parameter.WhichOneof("parameter_choice")
        if kind is None:
            raise InvalidRequest(f"{owner}: parameter '{name}' has no value")
        values[name] = getattr(parameter, kind)
    return values


def _place(parameters: Mapping[str, Parameter], name: str) -> Place | None:
    """What a tensor's parameters say about shared memory, if they do."""
    region = parameters.get("shared_memory_region")
    if region is None:
        for other in ("shared_memory_offset", "shared_memory_byte_size"):
            if other in parameters:
                raise InvalidRequest(f"'{name}': {other} is given without shared_memory_region")
        return None
    if not isinstance(region, str):
        raise InvalidRequest(f"'{name}': shared_memory_region must be a string")
    if "shared_memory_byte_size" not in parameters:
        raise InvalidRequest(f"'{name}': shared_memory_region is given without shared_memory_byte_size")
    return Place(
        region,
        _whole_number(parameters.get("shared_memory_offset", 0), name, "shared_memory_offset"),
        _whole_number(parameters["shared_memory_byte_size"], name, "shared_memory_byte_size"),
    )


def _outputs(sent: Iterable[Any]) -> tuple[tuple[RequestedOutput, ...], dict[str, Place]]:
    outputs: list[RequestedOutput] = []
    places: dict[str, Place] = {}
    for output in sent:
        name, classification = output.name, 0
        if output.parameters:
            parameters = _parameters(output.parameters, name)
            if "classification" in parameters:
                classification = _whole_number(parameters["classification"], name, "classification")
            place = _place(parameters, name)
            if place is not None:
                places[name] = place
        outputs.append(RequestedOutput(name, classification))
    return tuple(outputs), places


def _whole_number(value: Parameter, name: str, parameter: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= _INT64_MAX:
        raise InvalidRequest(f"'{name}': {parameter} must be a whole number, not {value!r}")
    return value


def _set(parameter: InferParameter, value: Parameter) -> None:
    if isinstance(value, bool):
        parameter.bool_param = value
    elif isinstance(value, int):
        if value > _INT64_MAX:
            parameter.uint64_param = value
        else:
            parameter.int64_param = value
    elif isinstance(value, float):
        parameter.double_param = value
    else:
        parameter.string_param = value
