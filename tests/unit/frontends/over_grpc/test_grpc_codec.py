"""Bytes to requests and responses to bytes, whatever the bytes."""

import math
import struct
from collections.abc import Iterator
from contextlib import suppress
from multiprocessing import shared_memory
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from sluice.errors import InvalidRequest, SluiceError
from sluice.frontends.grpc import codec, contents, wire
from sluice.frontends.regions import Regions
from sluice.pb.inference_pb2 import ModelInferRequest, ModelInferResponse, ModelStreamInferResponse
from sluice.request import InferRequest, InferResponse, RequestedOutput, Tensor, decode_bytes, encode_bytes
from sluice.spec import DATATYPES, NUMPY_TYPES

REGIONS = Regions(enabled=True)

TYPED = {
    "BOOL": "bool_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
}


def decode(message: ModelInferRequest, regions: Regions = REGIONS) -> InferRequest:
    return codec.decode(codec.parse(message.SerializeToString()), regions).request


def with_input(datatype: str = "INT64", shape: tuple[int, ...] = (1,)) -> tuple[ModelInferRequest, Any]:
    message = ModelInferRequest(model_name="m")
    return message, message.inputs.add(name="x", datatype=datatype, shape=shape)


def padded(message: bytes) -> bytes:
    """The same message, large enough to be walked: an unknown field holds the rest."""
    padding = bytes(wire.SMALL)
    return message + b"\x82\x06" + b"\x80\x80\x01" + padding


# -- what comes in ----------------------------------------------------------------------------------------------------

shapes = st.lists(st.integers(0, 5), max_size=4).map(tuple)


@settings(deadline=None)
@given(st.sampled_from(sorted(NUMPY_TYPES)), shapes, st.booleans(), st.data())
def test_raw_contents_arrive_as_sent(datatype: str, shape: tuple[int, ...], large: bool, data: st.DataObject) -> None:
    size = math.prod(shape) * NUMPY_TYPES[datatype].itemsize
    raw = data.draw(st.binary(min_size=size, max_size=size))
    message, _ = with_input(datatype, shape)
    message.raw_input_contents.append(raw)
    sent = message.SerializeToString()
    (tensor,) = codec.decode(codec.parse(padded(sent) if large else sent), REGIONS).request.inputs
    assert (tensor.name, tensor.datatype, tensor.shape, bytes(tensor.data)) == ("x", datatype, shape, raw)
    assert tensor.array().shape == shape


@settings(deadline=None)
@given(st.sampled_from(sorted(TYPED)), arrays.array_shapes(min_dims=0, max_dims=3, max_side=4), st.data())
def test_typed_contents_become_the_wire_form(datatype: str, shape: tuple[int, ...], data: st.DataObject) -> None:
    array = data.draw(arrays.arrays(NUMPY_TYPES[datatype], shape))
    message, tensor = with_input(datatype, shape)
    getattr(tensor.contents, TYPED[datatype]).extend(array.flatten().tolist())
    (decoded,) = decode(message).inputs
    assert decoded.array().dtype == NUMPY_TYPES[datatype]
    np.testing.assert_array_equal(decoded.array(), array)


@settings(deadline=None)
@given(st.lists(st.binary(max_size=20), max_size=10))
def test_typed_bytes_become_the_wire_form(elements: list[bytes]) -> None:
    message, tensor = with_input("BYTES", (len(elements),))
    tensor.contents.bytes_contents.extend(elements)
    (decoded,) = decode(message).inputs
    assert decode_bytes(decoded.data, "x") == elements


def test_large_raw_contents_are_not_copied() -> None:
    message, _ = with_input("UINT8", (wire.SMALL,))
    message.raw_input_contents.append(bytes(wire.SMALL))
    sent = message.SerializeToString()
    (tensor,) = codec.decode(codec.parse(sent), REGIONS).request.inputs
    assert isinstance(tensor.data, memoryview)
    assert tensor.data.obj is sent


def test_everything_else_of_a_request() -> None:
    message, _ = with_input()
    message.raw_input_contents.append(bytes(8))
    message.model_version, message.id = "2", "r1"
    message.parameters["priority"].uint64_param = 3
    message.parameters["note"].string_param = "hello"
    message.parameters["fast"].bool_param = False
    message.parameters["ratio"].double_param = 0.5
    message.parameters["timeout"].int64_param = -1
    message.outputs.add(name="scores").parameters["classification"].int64_param = 5
    message.outputs.add(name="plain")
    request = decode(message)
    assert (request.model, request.version, request.id) == ("m", "2", "r1")
    assert request.parameters == {"priority": 3, "note": "hello", "fast": False, "ratio": 0.5, "timeout": -1}
    assert request.outputs == (RequestedOutput("scores", 5), RequestedOutput("plain"))


def refusals() -> Iterator[Any]:
    def case(name: str, message: ModelInferRequest, *words: str) -> Any:
        return pytest.param(message, words, id=name)

    for datatype, field, value in [("INT8", "int", 300), ("UINT16", "uint", 70000), ("UINT8", "uint", 256)]:
        message, tensor = with_input(datatype)
        getattr(tensor.contents, f"{field}_contents").append(value)
        yield case(f"range-{datatype}", message, "'x'", datatype)
    for datatype in ("FP16", "BF16"):
        message, tensor = with_input(datatype)
        tensor.contents.fp32_contents.append(1.0)
        yield case(f"typed-{datatype}", message, "'x'", datatype, "raw_input_contents")
    message, tensor = with_input("INT32")
    tensor.contents.int64_contents.append(1)
    yield case("wrong-list", message, "'x'", "int_contents", "int64_contents")
    message, tensor = with_input("INT64")
    tensor.contents.int64_contents.append(1)
    tensor.contents.fp32_contents.append(1)
    yield case("two-lists", message, "'x'", "fp32_contents")
    message, tensor = with_input()
    tensor.contents.int64_contents.append(1)
    message.raw_input_contents.append(bytes(8))
    yield case("raw-and-typed", message, "'x'", "raw_input_contents")
    message, _ = with_input()
    message.inputs.add(name="second", datatype="INT64", shape=[1])
    message.raw_input_contents.append(bytes(8))
    yield case("too-few-raw", message, "'second'", "raw_input_contents")
    message, _ = with_input()
    message.raw_input_contents.extend([bytes(8)] * 2)
    yield case("too-many-raw", message, "2 entries")
    yield case("datatype", with_input("FLOAT")[0], "'x'", "FLOAT")
    yield case("negative", with_input(shape=(-1, 2))[0], "'x'", "negative")
    yield case("rank", with_input(shape=(1,) * 33)[0], "'x'", "33 dimensions")
    yield case("huge", with_input(shape=(1 << 62, 1 << 62))[0], "'x'", "too large")
    yield case("huge-and-empty", with_input(shape=(0, 1 << 62))[0], "'x'", "too large")
    message, _ = with_input()
    message.parameters["empty"].Clear()
    yield case("no-value", message, "'empty'")
    message, _ = with_input()
    for index in range(codec.MAX_PARAMETERS + 1):
        message.parameters[str(index)].bool_param = True
    yield case("many-parameters", message, "parameters")
    for value in (-1, 1 << 63):
        message, _ = with_input()
        parameter = message.outputs.add(name="y").parameters["classification"]
        setattr(parameter, "int64_param" if value < 0 else "uint64_param", value)
        yield case(f"classification-{value}", message, "'y'", "classification")
    message, _ = with_input()
    message.outputs.add(name="y").parameters["classification"].string_param = "5"
    yield case("classification-string", message, "'y'", "classification")
    yield from memory_refusals(case)


def memory_refusals(case: Any) -> Iterator[Any]:
    message, tensor = with_input()
    tensor.parameters["shared_memory_region"].string_param = "nowhere"
    yield case("no-byte-size", message, "'x'", "shared_memory_byte_size")
    message, tensor = with_input()
    tensor.parameters["shared_memory_region"].string_param = "nowhere"
    tensor.parameters["shared_memory_byte_size"].int64_param = 8
    yield case("unknown-region", message, "'nowhere'")
    message, tensor = with_input()
    tensor.parameters["shared_memory_offset"].int64_param = 8
    yield case("no-region", message, "'x'", "shared_memory_region")
    message, tensor = with_input()
    tensor.parameters["shared_memory_region"].int64_param = 8
    yield case("region-no-string", message, "'x'", "shared_memory_region")
    message, tensor = with_input()
    tensor.parameters["shared_memory_region"].string_param = "r"
    tensor.parameters["shared_memory_byte_size"].int64_param = -8
    yield case("negative-size", message, "'x'", "shared_memory_byte_size")
    message, tensor = with_input()
    tensor.parameters["shared_memory_region"].string_param = "r"
    tensor.parameters["shared_memory_byte_size"].int64_param = 8
    tensor.contents.int64_contents.append(1)
    yield case("typed-and-memory", message, "'x'", "shared memory")


@pytest.mark.parametrize(("message", "words"), list(refusals()))
def test_refused_by_name(message: ModelInferRequest, words: tuple[str, ...]) -> None:
    with pytest.raises(InvalidRequest) as raised:
        decode(message)
    for word in words:
        assert word in raised.value.message


def test_too_many_typed_strings() -> None:
    message, tensor = with_input("BYTES", (contents.MAX_TYPED_STRINGS + 1,))
    tensor.contents.bytes_contents.extend([b""] * (contents.MAX_TYPED_STRINGS + 1))
    with pytest.raises(InvalidRequest, match="'x': 1048577 elements"):
        decode(message)


def test_a_message_of_millions_of_empty_fields_is_refused_early() -> None:
    with pytest.raises(InvalidRequest, match="more than 10000"):
        codec.parse(b"\x2a\x00" * 1_000_000)


# -- any bytes at all -------------------------------------------------------------------------------------------------

names = st.text(max_size=8)
parameter_values = st.one_of(
    st.tuples(st.just("bool_param"), st.booleans()),
    st.tuples(st.just("int64_param"), st.integers(-(1 << 63), (1 << 63) - 1)),
    st.tuples(st.just("uint64_param"), st.integers(0, (1 << 64) - 1)),
    st.tuples(st.just("double_param"), st.floats()),
    st.tuples(st.just("string_param"), names),
)
parameter_names = names | st.sampled_from(["shared_memory_region", "shared_memory_byte_size", "classification"])
parameters = st.dictionaries(parameter_names, parameter_values, max_size=3)


@st.composite
def requests(draw: st.DrawFn) -> ModelInferRequest:
    """Well-formed protobuf that need not make sense."""
    message = ModelInferRequest(model_name=draw(names), model_version=draw(names), id=draw(names))
    fill(message.parameters, draw(parameters))
    for _ in range(draw(st.integers(0, 3))):
        datatype = draw(st.sampled_from(sorted(DATATYPES)) | names)
        shape = draw(st.lists(st.integers(0, 4) | st.integers(-(1 << 63), (1 << 63) - 1), max_size=3))
        tensor = message.inputs.add(name=draw(names), datatype=datatype, shape=shape)
        fill(tensor.parameters, draw(parameters))
        if draw(st.booleans()):
            tensor.contents.int_contents.extend(draw(st.lists(st.integers(-(1 << 31), (1 << 31) - 1), max_size=3)))
            tensor.contents.bytes_contents.extend(draw(st.lists(st.binary(max_size=4), max_size=2)))
    for _ in range(draw(st.integers(0, 2))):
        fill(message.outputs.add(name=draw(names)).parameters, draw(parameters))
    message.raw_input_contents.extend(draw(st.lists(st.binary(max_size=16), max_size=3)))
    return message


def fill(target: Any, values: dict[str, tuple[str, Any]]) -> None:
    for name, (kind, value) in values.items():
        setattr(target[name], kind, value)


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """A request with some bytes changed, cut out or put in."""
    data = bytearray(draw(requests()).SerializeToString())
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(data)))
        action = draw(st.sampled_from(["change", "cut", "insert"]))
        if action == "change" and at < len(data):
            data[at] = draw(st.integers(0, 255))
        elif action == "cut":
            del data[at : at + draw(st.integers(1, 5))]
        else:
            data[at:at] = draw(st.binary(min_size=1, max_size=5))
    return bytes(data)


def survives(data: bytes) -> None:
    with suppress(SluiceError):
        codec.decode(codec.parse(data), REGIONS)


# The first text drawn loads tables of characters, which a busy machine takes for slowness.
@settings(max_examples=500, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(st.one_of(st.binary(max_size=200), mutated(), requests().map(ModelInferRequest.SerializeToString)))
def test_only_errors_of_our_tree(data: bytes) -> None:
    survives(data)
    survives(padded(data))


@settings(max_examples=300, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(requests())
def test_both_ways_of_parsing_agree(message: ModelInferRequest) -> None:
    sent = message.SerializeToString()
    small, large = codec.parse(sent), codec.parse(padded(sent))
    assert [bytes(data) for data in large.raw] == [bytes(data) for data in small.raw]
    large.message.DiscardUnknownFields()
    large.message.raw_input_contents.extend(bytes(data) for data in large.raw)
    assert large.message == message or "nan" in str(message)


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(mutated())
def test_both_ways_of_parsing_accept_the_same(data: bytes) -> None:
    """Groups aside, which no version of the protocol has."""

    def accepted(data: bytes) -> bool:
        try:
            codec.parse(data)
        except InvalidRequest:
            return False
        return True

    if accepted(padded(data)):
        assert accepted(data)


# -- what goes out ----------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(st.lists(st.tuples(names, st.sampled_from(sorted(NUMPY_TYPES)), st.binary(max_size=300)), max_size=4), names)
def test_replies(outputs: list[tuple[str, str, bytes]], id: str) -> None:
    tensors = tuple(Tensor(name, datatype, (1, len(data)), memoryview(data)) for name, datatype, data in outputs)
    response = InferResponse("m", "7", id, tensors, {"a": True, "b": 1 << 63, "c": -1, "d": 0.5, "e": "x"})
    plain = codec.encode(response, {}, REGIONS)
    message = ModelInferResponse.FromString(plain)
    assert (message.model_name, message.model_version, message.id) == ("m", "7", id)
    assert [(o.name, o.datatype, list(o.shape)) for o in message.outputs] == [
        (name, datatype, [1, len(data)]) for name, datatype, data in outputs
    ]
    assert list(message.raw_output_contents) == [data for _, _, data in outputs]
    assert message.parameters["a"].bool_param
    assert message.parameters["b"].uint64_param == 1 << 63
    assert message.parameters["c"].int64_param == -1
    assert message.parameters["d"].double_param == 0.5
    assert message.parameters["e"].string_param == "x"
    streamed = ModelStreamInferResponse.FromString(codec.encode(response, {}, REGIONS, streamed=True))
    assert streamed.infer_response == message
    assert not streamed.error_message


def test_views_of_wider_elements_are_measured_in_bytes() -> None:
    data = np.arange(100, dtype="<f4").data
    response = InferResponse("m", "1", "", (Tensor("y", "FP32", (100,), data),))
    streamed = ModelStreamInferResponse.FromString(codec.encode(response, {}, REGIONS, streamed=True, final=True))
    assert streamed.infer_response.raw_output_contents[0] == data.tobytes()
    assert streamed.infer_response.parameters["triton_final_response"].bool_param


# -- shared memory ----------------------------------------------------------------------------------------------------


@pytest.fixture
def memory() -> Iterator[shared_memory.SharedMemory]:
    memory = shared_memory.SharedMemory(create=True, size=4096)
    yield memory
    memory.close()
    memory.unlink()


def test_inputs_and_outputs_in_shared_memory(memory: shared_memory.SharedMemory) -> None:
    regions = Regions(enabled=True)
    regions.register("r", memory.name, 0, 4096)
    assert memory.buf is not None
    memory.buf[16:32] = struct.pack("<2q", 5, -6)
    message, tensor = with_input("INT64", (2,))
    tensor.parameters["shared_memory_region"].string_param = "r"
    tensor.parameters["shared_memory_offset"].int64_param = 16
    tensor.parameters["shared_memory_byte_size"].int64_param = 16
    message.inputs.add(name="raw", datatype="UINT8", shape=[2])
    message.raw_input_contents.append(b"\1\2")  # its index is not its input's
    for name, offset, size in (("y", 64, 32), ("z", 0, 1)):
        output = message.outputs.add(name=name)
        output.parameters["shared_memory_region"].string_param = "r"
        output.parameters["shared_memory_offset"].int64_param = offset
        output.parameters["shared_memory_byte_size"].int64_param = size
    message.outputs.add(name="plain")
    decoded = codec.decode(codec.parse(message.SerializeToString()), regions)
    in_memory, raw = decoded.request.inputs
    assert in_memory.array().tolist() == [5, -6]
    assert bytes(raw.data) == b"\1\2"

    outputs = (Tensor("y", "INT64", (2,), in_memory.data), Tensor("plain", "BYTES", (1,), encode_bytes([b"hi"])))
    reply = ModelInferResponse.FromString(codec.encode(InferResponse("m", "1", "", outputs), decoded.places, regions))
    assert memory.buf[64:80] == memory.buf[16:32]
    assert list(reply.raw_output_contents) == [encode_bytes([b"hi"])]
    first = reply.outputs[0].parameters
    assert first["shared_memory_region"].string_param == "r"
    assert first["shared_memory_offset"].int64_param == 64
    assert first["shared_memory_byte_size"].int64_param == 16
    with pytest.raises(InvalidRequest, match="do not fit"):
        codec.encode(InferResponse("m", "1", "", (Tensor("z", "UINT8", (2,), b"ab"),)), decoded.places, regions)
    del in_memory, decoded, outputs
    regions.close()
