"""An inference request's body to our request, our response to the reply's body: JSON with the binary tensor extension.

Tensors that arrive as binary data or lie in shared memory stay where they are: the request holds views of them. What a
model allows is not looked at here: the engine knows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import msgspec
import orjson

from sluice.errors import InvalidRequest
from sluice.frontends.http import elements, schema
from sluice.frontends.http.reply import JSON, Reply, mark_headers
from sluice.request import Buffer, InferRequest, InferResponse, RequestedOutput, Tensor, Timeline, encode_bytes
from sluice.spec import BYTES, NUMPY_TYPES, TensorSpec

if TYPE_CHECKING:
    from sluice.frontends.regions import Regions
    from sluice.request import Parameter

JSON_LENGTH = b"inference-header-content-length"

_BINARY_CONTENT = b"content-type: application/octet-stream\r\n"
_PLACE_PARAMETERS = ("shared_memory_region", "shared_memory_offset", "shared_memory_byte_size")


class Target(msgspec.Struct, frozen=True):
    """What of a request stands outside its body."""

    model: str
    version: str
    id: str = ""
    deadline: float | None = None
    timeline: Timeline = msgspec.field(default_factory=Timeline)


class Place(msgspec.Struct, frozen=True):
    """Where in a registered shared-memory region a tensor lies."""

    region: str
    offset: int
    byte_size: int


class Wishes(msgspec.Struct, frozen=True):
    """How the client wants its answer written."""

    binary: bool = False  # outputs about which nothing is said
    binary_by_name: Mapping[str, bool] = {}
    places: Mapping[str, Place] = {}
    id: str = ""  # repeated in the body only if it came in the body


class Decoded(msgspec.Struct, frozen=True):
    request: InferRequest
    wishes: Wishes


def decode(
    body: Buffer,
    json_length: int | None,
    target: Target,
    regions: Regions,
    check: Callable[[list[schema.InputBody]], None] | None = None,
) -> Decoded:
    """The request in `body`, whose first `json_length` bytes are JSON; None: all of it. `check` may refuse the inputs
    by what stands beside their data, before the data are read."""
    view = memoryview(body)
    if json_length is None:
        json_length = len(view)
    elif json_length > len(view):
        raise InvalidRequest(
            f"Inference-Header-Content-Length: is {json_length}, but the body has only {len(view)} bytes"
        )
    sent = schema.decode(schema.INFER, view[:json_length])
    if check is not None:
        check(sent.inputs)
    inputs = _inputs(sent.inputs, view[json_length:], regions)
    parameters = sent.parameters
    binary = parameters.pop("binary_data_output", False)
    if not isinstance(binary, bool):
        raise InvalidRequest("parameters.binary_data_output: expected bool")
    outputs, wishes = _outputs(sent.outputs, binary, sent.id)
    request = InferRequest(
        model=target.model,
        version=target.version,
        inputs=inputs,
        outputs=outputs,
        id=sent.id or target.id,
        parameters=parameters,
        deadline=target.deadline,
        timeline=target.timeline,
    )
    return Decoded(request, wishes)


def decode_raw(body: Buffer, target: Target, inputs: tuple[TensorSpec, ...]) -> Decoded:
    """A body without JSON: the bytes of the model's only input, one row; all outputs are wanted as binary data."""
    if len(inputs) != 1:
        raise InvalidRequest(
            f"Inference-Header-Content-Length: 0 needs a model with one input, '{target.model}' has {len(inputs)}"
        )
    spec = inputs[0]
    shape = [1 if axis == spec.batch_axis else size for axis, size in enumerate(spec.shape)]
    if spec.datatype == BYTES:
        shape = [1 if size < 0 else size for size in shape]
        tensor = Tensor(spec.name, BYTES, tuple(shape), encode_bytes([bytes(body)]))
    else:
        tensor = Tensor(spec.name, spec.datatype, _fill_in(shape, spec, len(body)), body)
    request = InferRequest(
        model=target.model,
        version=target.version,
        inputs=(tensor,),
        id=target.id,
        deadline=target.deadline,
        timeline=target.timeline,
    )
    return Decoded(request, Wishes(binary=True))


def encode(response: InferResponse, wishes: Wishes, regions: Regions) -> Reply:
    """The reply: JSON, then the outputs wanted as binary data in the JSON's order."""
    body: dict[str, Any] = {"model_name": response.model, "model_version": response.version}
    if wishes.id:
        body["id"] = wishes.id
    marks: list[bytes] = []
    if response.parameters:
        body["parameters"] = dict(response.parameters)
        marks = mark_headers(response.parameters)
    outputs: list[dict[str, Any]] = []
    binary: list[Buffer] = []
    for tensor in response.outputs:
        output: dict[str, Any] = {"name": tensor.name, "datatype": tensor.datatype, "shape": tensor.shape}
        place = wishes.places.get(tensor.name)
        if place is not None:
            # No parameters here: clients take an output that has any for one with binary_data_size.
            regions.write(place.region, place.offset, place.byte_size, tensor.data)
        elif wishes.binary_by_name.get(tensor.name, wishes.binary):
            data = memoryview(tensor.data).cast("B")
            output["parameters"] = {"binary_data_size": len(data)}
            binary.append(data)
        else:
            output["data"] = elements.to_json(tensor)
        outputs.append(output)
    body["outputs"] = outputs
    text = orjson.dumps(body, option=orjson.OPT_SERIALIZE_NUMPY)
    if not binary:
        return Reply(200, [JSON, *marks], (text,))
    return Reply(200, [_BINARY_CONTENT, b"%b: %d\r\n" % (JSON_LENGTH, len(text)), *marks], (text, *binary))


def _inputs(sent: list[schema.InputBody], binary: memoryview, regions: Regions) -> tuple[Tensor, ...]:
    inputs: list[Tensor] = []
    used = 0
    for index, entry in enumerate(sent):
        shape = tuple(entry.shape)
        data: Buffer
        if not entry.parameters:
            data = _json_data(entry, shape, index)
        elif (size := entry.parameters.get("binary_data_size")) is not None:
            at = f"inputs[{index}].parameters.binary_data_size"
            size = _whole(size, at)
            if used + size > len(binary):
                raise InvalidRequest(f"{at}: is {size}, but only {len(binary) - used} bytes are left of the body")
            _refuse_two_sources(entry, index)
            data = binary[used : used + size]
            used += size
        elif (place := _place(entry.parameters, f"inputs[{index}]")) is not None:
            _refuse_two_sources(entry, index)
            data = regions.read(place.region, place.offset, place.byte_size)
        else:
            data = _json_data(entry, shape, index)
        inputs.append(Tensor(entry.name, entry.datatype, shape, data))
    if used != len(binary):
        raise InvalidRequest(f"the body has {len(binary) - used} bytes of binary data that no input claims")
    if len({entry.name for entry in sent}) != len(sent):
        raise InvalidRequest(f"inputs: '{_repeated([entry.name for entry in sent])}' is given more than once")
    return tuple(inputs)


def _json_data(entry: schema.InputBody, shape: tuple[int, ...], index: int) -> Buffer:
    if entry.data is schema.NOTHING:
        raise InvalidRequest(f"inputs[{index}].data: is missing, and so are binary_data_size and shared_memory_region")
    return elements.from_json(entry.data, entry.datatype, shape, f"inputs[{index}]")


def _refuse_two_sources(entry: schema.InputBody, index: int) -> None:
    if entry.data is not schema.NOTHING:
        raise InvalidRequest(f"inputs[{index}].data: is given beside binary data or shared memory; send one of them")
    if "binary_data_size" in entry.parameters and "shared_memory_region" in entry.parameters:
        raise InvalidRequest(f"inputs[{index}].parameters: binary data and shared memory exclude each other")


def _outputs(sent: list[schema.OutputBody], binary: bool, id: str) -> tuple[tuple[RequestedOutput, ...], Wishes]:
    if not sent:
        return (), Wishes(binary, id=id)
    outputs: list[RequestedOutput] = []
    binary_by_name: dict[str, bool] = {}
    places: dict[str, Place] = {}
    for index, entry in enumerate(sent):
        at = f"outputs[{index}]"
        classification = 0
        if entry.parameters:
            wanted = entry.parameters.get("binary_data", binary)
            if not isinstance(wanted, bool):
                raise InvalidRequest(f"{at}.parameters.binary_data: expected bool")
            binary_by_name[entry.name] = wanted
            if "classification" in entry.parameters:
                classification = _whole(entry.parameters["classification"], f"{at}.parameters.classification")
            place = _place(entry.parameters, at)
            if place is not None:
                if classification:
                    raise InvalidRequest(f"{at}.parameters: classification and shared memory exclude each other")
                places[entry.name] = place
        outputs.append(RequestedOutput(entry.name, classification))
    if len({entry.name for entry in sent}) != len(sent):
        raise InvalidRequest(f"outputs: '{_repeated([entry.name for entry in sent])}' is asked for more than once")
    return tuple(outputs), Wishes(binary, binary_by_name, places, id)


def _place(parameters: Mapping[str, Parameter], at: str) -> Place | None:
    region = parameters.get("shared_memory_region")
    at = f"{at}.parameters"
    if region is None:
        for name in _PLACE_PARAMETERS:
            if name in parameters:
                raise InvalidRequest(f"{at}.{name}: is given without shared_memory_region")
        return None
    if not isinstance(region, str):
        raise InvalidRequest(f"{at}.shared_memory_region: expected str")
    if "shared_memory_byte_size" not in parameters:
        raise InvalidRequest(f"{at}.shared_memory_byte_size: is missing")
    return Place(
        region,
        _whole(parameters.get("shared_memory_offset", 0), f"{at}.shared_memory_offset"),
        _whole(parameters["shared_memory_byte_size"], f"{at}.shared_memory_byte_size"),
    )


def _whole(value: Parameter, at: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise InvalidRequest(f"{at}: expected a whole number from 0 up")
    return value


def _repeated(names: list[str]) -> str:
    return next(name for index, name in enumerate(names) if name in names[:index])


def _fill_in(shape: list[int], spec: TensorSpec, size: int) -> tuple[int, ...]:
    """The shape with its one unknown dimension found from the data's size."""
    unknown = [axis for axis, length in enumerate(shape) if length < 0]
    if len(unknown) > 1:
        raise InvalidRequest(
            f"'{spec.name}': the shape {list(spec.shape)} does not follow from the data's size; send it as JSON"
        )
    if unknown:
        row = NUMPY_TYPES[spec.datatype].itemsize * math.prod(length for length in shape if length >= 0)
        if row == 0 or size % row:
            raise InvalidRequest(f"'{spec.name}': {size} bytes do not fill the shape {list(spec.shape)}")
        shape[unknown[0]] = size // row
    return tuple(shape)
