"""Bodies to requests and responses to bodies: every datatype, every placement, and only clear errors for the rest."""

from __future__ import annotations

import json
import math
import struct
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from sluice.errors import InvalidRequest, SluiceError
from sluice.frontends.http import codec
from sluice.frontends.http.codec import Decoded, Target, Wishes
from sluice.frontends.http.reply import Reply
from sluice.frontends.regions import Regions
from sluice.request import InferRequest, InferResponse, RequestedOutput, Tensor, encode_bytes
from sluice.spec import BYTES, NUMPY_TYPES, TensorSpec

REGIONS = Regions(enabled=True)
TARGET = Target("m", "1")
JSON_TYPES = sorted(set(NUMPY_TYPES) - {"FP16", "BF16"})


def decode(body: Any, binary: bytes = b"", regions: Regions = REGIONS) -> Decoded:
    text = body if isinstance(body, bytes) else json.dumps(body).encode()
    return codec.decode(text + binary, len(text) if binary else None, TARGET, regions)


def one(datatype: str, shape: Any, data: Any = None, **parameters: Any) -> dict[str, Any]:
    entry: dict[str, Any] = {"name": "x", "datatype": datatype, "shape": shape}
    if data is not None:
        entry["data"] = data
    if parameters:
        entry["parameters"] = parameters
    return {"inputs": [entry]}


def parts(reply: Reply) -> tuple[Any, bytes]:
    """The JSON and the binary section of a reply, as a client splits them."""
    content = b"".join(reply.parts)
    headers = dict(line.rstrip(b"\r\n").split(b": ", 1) for line in reply.headers)
    length = int(headers.get(b"inference-header-content-length", len(content)))
    return json.loads(content[:length]), content[length:]


# Round trips


@st.composite
def arrays(draw: st.DrawFn, datatypes: list[str]) -> tuple[str, np.ndarray[Any, Any]]:
    datatype = draw(st.sampled_from(datatypes))
    dtype = NUMPY_TYPES[datatype]
    elements = {"allow_nan": False, "allow_infinity": False} if dtype.kind == "f" else {}
    shape = draw(hnp.array_shapes(min_dims=1, max_dims=4, min_side=0, max_side=4))
    return datatype, draw(hnp.arrays(dtype, shape, elements=elements))


@given(arrays(JSON_TYPES), st.booleans())
def test_json_data_arrives_exactly(case: tuple[str, np.ndarray[Any, Any]], nested: bool) -> None:
    datatype, array = case
    data = array.tolist() if nested else array.ravel().tolist()
    (tensor,) = decode(one(datatype, list(array.shape), data)).request.inputs
    assert (tensor.name, tensor.datatype, tensor.shape) == ("x", datatype, array.shape)
    assert tensor.data == array.tobytes()


@given(arrays(JSON_TYPES))
def test_json_answers_carry_exactly(case: tuple[str, np.ndarray[Any, Any]]) -> None:
    datatype, array = case
    response = InferResponse("m", "1", "", (Tensor("y", datatype, array.shape, array.tobytes()),))
    body, binary = parts(codec.encode(response, Wishes(), REGIONS))
    (output,) = body["outputs"]
    assert binary == b""
    assert output["shape"] == list(array.shape)
    assert "parameters" not in output
    assert np.array(output["data"], NUMPY_TYPES[datatype]).tobytes() == array.tobytes()


@given(arrays(sorted(NUMPY_TYPES)), arrays(sorted(NUMPY_TYPES)))
def test_binary_data_arrives_and_leaves_as_it_is(
    first: tuple[str, np.ndarray[Any, Any]], second: tuple[str, np.ndarray[Any, Any]]
) -> None:
    inputs = [
        {
            "name": name,
            "datatype": datatype,
            "shape": array.shape,
            "parameters": {"binary_data_size": array.nbytes},
        }
        for name, (datatype, array) in (("a", first), ("b", second))
    ]
    section = first[1].tobytes() + second[1].tobytes()
    sent = {"inputs": inputs, "parameters": {"binary_data_output": True}}
    text = json.dumps(sent).encode()
    decoded = codec.decode(text + section, len(text), TARGET, REGIONS)
    assert [bytes(tensor.data) for tensor in decoded.request.inputs] == [first[1].tobytes(), second[1].tobytes()]
    assert decoded.request.parameters == {}

    response = InferResponse("m", "1", "", decoded.request.inputs)
    body, binary = parts(codec.encode(response, decoded.wishes, REGIONS))
    assert binary == section
    assert [output["parameters"]["binary_data_size"] for output in body["outputs"]] == [
        first[1].nbytes,
        second[1].nbytes,
    ]
    assert all("data" not in output for output in body["outputs"])


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"])), max_size=6), st.booleans())
def test_bytes_travel_as_strings(strings: list[str], nested: bool) -> None:
    data = [strings] if nested else strings
    (tensor,) = decode(one(BYTES, [1, len(strings)], data)).request.inputs
    assert tensor.data == encode_bytes([string.encode() for string in strings])
    body, _ = parts(codec.encode(InferResponse("m", "1", "", (tensor,)), Wishes(), REGIONS))
    assert body["outputs"][0]["data"] == strings


def test_binary_inputs_are_views_of_the_body() -> None:
    text = json.dumps(one("FP32", [2], binary_data_size=8)).encode()
    body = text + struct.pack("<2f", 1, 2)
    (tensor,) = codec.decode(body, len(text), TARGET, REGIONS).request.inputs
    assert isinstance(tensor.data, memoryview)
    assert tensor.data.obj is body


def test_unaligned_data_can_be_written_as_json() -> None:
    data = memoryview(b"\0" + struct.pack("<2d", 1.5, -2.5))[1:]
    body, _ = parts(codec.encode(InferResponse("m", "1", "", (Tensor("y", "FP64", (2,), data),)), Wishes(), REGIONS))
    assert body["outputs"][0]["data"] == [1.5, -2.5]


def test_numbers_json_does_not_know_become_null() -> None:
    data = np.array([math.nan, math.inf, -math.inf, 1], "<f4").tobytes()
    body, _ = parts(codec.encode(InferResponse("m", "1", "", (Tensor("y", "FP32", (4,), data),)), Wishes(), REGIONS))
    assert body["outputs"][0]["data"] == [None, None, None, 1]


# The envelope


def test_everything_a_request_may_say() -> None:
    body = one("INT64", [1, 2], [[1, 2]])
    body |= {
        "id": "request 1",
        "parameters": {"priority": 3, "sequence_start": True, "temperature": 0.5, "user": "u"},
        "outputs": [{"name": "a", "parameters": {"classification": 3}}, {"name": "b"}],
        "model_name": "ignored",
        "unknown": {"nested": [None]},
    }
    decoded = decode(body)
    assert decoded.request == InferRequest(
        "m",
        "1",
        (Tensor("x", "INT64", (1, 2), struct.pack("<2q", 1, 2)),),
        (RequestedOutput("a", 3), RequestedOutput("b")),
        "request 1",
        {"priority": 3, "sequence_start": True, "temperature": 0.5, "user": "u"},
        timeline=TARGET.timeline,
    )
    assert decoded.wishes.id == "request 1"


def test_an_id_from_the_header_is_not_repeated_in_the_body() -> None:
    text = json.dumps(one("INT8", [1], [1])).encode()
    decoded = codec.decode(text, None, Target("m", "", id="from header"), REGIONS)
    assert decoded.request.id == "from header"
    body, _ = parts(codec.encode(InferResponse("m", "1", "from header", ()), decoded.wishes, REGIONS))
    assert body == {"model_name": "m", "model_version": "1", "outputs": []}


def test_each_output_is_written_as_it_was_asked_for() -> None:
    body = one("INT8", [1], [1])
    body["parameters"] = {"binary_data_output": True}
    body["outputs"] = [
        {"name": "a", "parameters": {"binary_data": False}},
        {"name": "b"},
        {"name": "c", "parameters": {"binary_data": True}},
        {"name": "d", "parameters": {"classification": 1}},
    ]
    wishes = decode(body).wishes
    tensors = tuple(Tensor(name, "INT8", (1,), bytes([index])) for index, name in enumerate("abcd"))
    sent, binary = parts(codec.encode(InferResponse("m", "1", "", tensors, {"p": 1}), wishes, REGIONS))
    assert sent["parameters"] == {"p": 1}
    assert [output.get("data") for output in sent["outputs"]] == [[0], None, None, None]
    assert binary == bytes([1, 2, 3])


@pytest.mark.parametrize(
    ("name", "headers"),
    [("spare/1", [b"sluice-fallback: spare/1\r\n"]), ("größer/1", []), ("a\r\nb: c/1", []), ("", [])],
)
@pytest.mark.parametrize("binary", [False, True])
def test_who_answered_instead_is_told_in_a_header_that_can_hold_it(
    name: str, headers: list[bytes], binary: bool
) -> None:
    tensors = (Tensor("a", "INT8", (1,), b"1"),)
    response = InferResponse("m", "1", "", tensors, {"sluice_fallback": name})
    reply = codec.encode(response, Wishes(binary=binary), REGIONS)
    assert [line for line in reply.headers if b"fallback" in line] == headers
    assert parts(reply)[0]["parameters"] == {"sluice_fallback": name}


CASES: list[tuple[Any, str]] = [
    (b"", "the body: not JSON"),
    (b"[]", "the body: expected object, got array"),
    (b"null", "the body: expected object, got null"),
    (b"{", "the body: not JSON"),
    (b'{"inputs": []} x', "the body: not JSON"),
    (b"[" * 200_000, "the body: "),
    (b'{"x":' + b"[" * 200_000, "the body: nested too deeply"),
    (b'{"inputs":[{"name":"\xff"}]}', "the body: not JSON: a string is not UTF-8"),
    ({}, "the body: object missing required field inputs"),
    ({"inputs": None}, "inputs: expected array, got null"),
    ({"inputs": {}}, "inputs: expected array, got object"),
    ({"inputs": [1]}, r"inputs\[0\]: expected object, got int"),
    ({"inputs": [{"datatype": "INT8", "shape": [1]}]}, r"inputs\[0\]: object missing required field name"),
    ({"inputs": [], "id": 7}, "id: expected str, got int"),
    ({"inputs": [], "parameters": []}, "parameters: expected object"),
    ({"inputs": [], "parameters": {"a": None}}, r"parameters\[...\]: expected"),
    ({"inputs": [], "parameters": {"a": {}}}, r"parameters\[...\]: expected"),
    ({"inputs": [], "parameters": {"binary_data_output": 1}}, "parameters.binary_data_output: expected bool"),
    ({"inputs": [], "outputs": None}, "outputs: expected array"),
    ({"inputs": [], "outputs": [{}]}, r"outputs\[0\]: object missing required field name"),
    ({"inputs": [], "outputs": [{"name": "a"}, {"name": "a"}]}, "outputs: 'a' is asked for more than once"),
    (
        {"inputs": [], "outputs": [{"name": "a", "parameters": {"binary_data": "yes"}}]},
        r"outputs\[0\].parameters.binary_data: expected bool",
    ),
    (
        {"inputs": [], "outputs": [{"name": "a", "parameters": {"classification": -1}}]},
        r"outputs\[0\].parameters.classification: expected a whole number",
    ),
    (
        {"inputs": [], "outputs": [{"name": "a", "parameters": {"classification": True}}]},
        r"outputs\[0\].parameters.classification: expected a whole number",
    ),
    ({"inputs": one("INT8", [1], [1])["inputs"] * 2}, "inputs: 'x' is given more than once"),
    (one("INT8", [1]), r"inputs\[0\].data: is missing"),
    (one("INT8", None, [1]), r"inputs\[0\].shape: expected array, got null"),
    (one("INT8", [1.5], [1]), r"inputs\[0\].shape\[0\]: expected int, got float"),
    (one("INT8", [True], [1]), r"inputs\[0\].shape\[0\]: expected int, got bool"),
    (one("INT8", [-1], [1]), r"inputs\[0\].shape\[0\]: expected int >= 0"),
    (one("INT8", [2**63], [1]), r"inputs\[0\].shape\[0\]: expected int <= "),
    (one("INT8", [1] * 33, [1]), r"inputs\[0\].shape: expected array of length <= 32"),
    (one("int8", [1], [1]), r"inputs\[0\].datatype: 'int8' is none of BF16, BOOL"),
    (one("INT8", [1], None, surprise=1), r"inputs\[0\].data: is missing"),
    (one("INT8", [1], 1), r"inputs\[0\].data: expected array"),
    (one("INT8", [1], "1"), r"inputs\[0\].data: expected array"),
    (one("INT8", [1], {}), r"inputs\[0\].data: expected array"),
    (one("INT8", [2], [1]), r"inputs\[0\].data: has 1 elements, but the shape is \[2\]"),
    (one("INT8", [2, 1], [[1, 2]]), r"inputs\[0\].data: has the shape \[1, 2\], but the shape is \[2, 1\]"),
    (one("INT8", [2, 2], [[1], [2, 3]]), r"inputs\[0\].data: its rows differ in length"),
    (one(BYTES, [2, 2], [["a"], ["b", "c"]]), r"inputs\[0\].data: its rows differ in length"),
    (one("INT8", [2, 2, 1], [[[1], [2]], [[3]]]), r"inputs\[0\].data: its rows differ in length"),
    (one("INT8", [2, 2, 1], [[[1], [2]], [[3], []]]), r"inputs\[0\].data: its rows differ in length"),
    (one(BYTES, [2, 1], [["a", "b"]]), r"inputs\[0\].data: has the shape \[1, 2\], but the shape is \[2, 1\]"),
    (one("INT8", [2], [[1], [2]]), r"inputs\[0\].data: is nested 2 deep, but the shape \[2\] has 1"),
    (one("INT8", [1, 1, 2], [[1, 2]]), r"inputs\[0\].data: is nested 2 deep"),
    (one("INT8", [2, 1], [[1], 2]), r"inputs\[0\].data\[1\]: expected array, got int"),
    (one("INT8", [1], [128]), r"inputs\[0\].data: a value is out of range for INT8"),
    (one("UINT8", [1], [-1]), r"inputs\[0\].data: a value is out of range for UINT8"),
    (one("UINT64", [1], [2**64]), r"inputs\[0\].data: a value is out of range for UINT64"),
    (one("INT64", [1], [2**63]), r"inputs\[0\].data: a value is out of range for INT64"),
    (one("INT64", [1], [1.0]), r"inputs\[0\].data\[0\]: expected int, got float"),
    (one("INT64", [1], [True]), r"inputs\[0\].data\[0\]: expected int, got bool"),
    (one("INT64", [1], ["1"]), r"inputs\[0\].data\[0\]: expected int, got str"),
    (one("INT64", [2, 1], [[1], [None]]), r"inputs\[0\].data\[1\]\[0\]: expected int, got null"),
    (one("BOOL", [1], [1]), r"inputs\[0\].data\[0\]: expected bool, got int"),
    (one("FP32", [1], [1e39]), r"inputs\[0\].data: a value is out of range for FP32"),
    (one("FP32", [1], [False]), r"inputs\[0\].data\[0\]: expected float, got bool"),
    (one("FP32", [1], [None]), r"inputs\[0\].data\[0\]: expected float, got null"),
    (one("FP32", [1], [math.nan]), "the body: not JSON"),
    (one("FP64", [1], [math.inf]), "the body: not JSON"),
    (one("FP16", [1], [1.0]), r"inputs\[0\].datatype: FP16 travels as binary data only"),
    (one("BF16", [1], [1.0]), r"inputs\[0\].datatype: BF16 travels as binary data only"),
    (one(BYTES, [1], [1]), r"inputs\[0\].data\[0\]: expected str, got int"),
    (one("INT8", [1], binary_data_size=1), r"inputs\[0\].parameters.binary_data_size: is 1, but only 0 bytes are left"),
    (one("INT8", [1], binary_data_size=-1), r"inputs\[0\].parameters.binary_data_size: expected a whole number"),
    (one("INT8", [1], binary_data_size=1.0), r"inputs\[0\].parameters.binary_data_size: expected a whole number"),
    (one("INT8", [1], binary_data_size=True), r"inputs\[0\].parameters.binary_data_size: expected a whole number"),
    (one("INT8", [0], [1], binary_data_size=0), r"inputs\[0\].data: is given beside binary data"),
    (one("INT8", [1], shared_memory_region=1), r"inputs\[0\].parameters.shared_memory_region: expected str"),
    (one("INT8", [1], shared_memory_region="r"), r"inputs\[0\].parameters.shared_memory_byte_size: is missing"),
    (one("INT8", [1], [1], shared_memory_offset=1), r"shared_memory_offset: is given without shared_memory_region"),
    (one("INT8", [1], shared_memory_region="r", shared_memory_byte_size=1), "region 'r' is not registered"),
]


@pytest.mark.parametrize(("body", "message"), CASES)
def test_what_is_wrong_is_named(body: Any, message: str) -> None:
    with pytest.raises(
        InvalidRequest, match=f"^{message}" if not message.startswith(("shared", "region")) else message
    ):
        decode(body)


def test_lone_surrogates_are_no_text() -> None:
    for text in (b'"\\ud800"', b'"\\udc00"', b'"\\ud800x"'):
        with pytest.raises(InvalidRequest):
            decode(b'{"inputs":[{"name":"x","datatype":"BYTES","shape":[1],"data":[%b]}]}' % text)
        with pytest.raises(InvalidRequest):
            decode(b'{"inputs":[],"id":%b}' % text)


def test_binary_sections_must_match_exactly() -> None:
    with pytest.raises(InvalidRequest, match="3 bytes of binary data that no input claims"):
        decode(one("INT8", [2], binary_data_size=2), b"12345")
    with pytest.raises(InvalidRequest, match="is 2, but only 1 bytes are left"):
        decode(one("INT8", [2], binary_data_size=2), b"1")
    with pytest.raises(InvalidRequest, match=r"^Inference-Header-Content-Length: is 99, but the body has only 2"):
        codec.decode(b"{}", 99, TARGET, REGIONS)


def test_answers_that_json_cannot_carry() -> None:
    for tensor, message in (
        (Tensor("y", "FP16", (1,), b"\0\0"), "output 'y': FP16 travels as binary data only"),
        (Tensor("y", "BF16", (1,), b"\0\0"), "output 'y': BF16 travels as binary data only"),
        (Tensor("y", BYTES, (1,), encode_bytes([b"\xff"])), "output 'y': its bytes are not UTF-8; ask for it with"),
    ):
        with pytest.raises(InvalidRequest, match=message):
            codec.encode(InferResponse("m", "1", "", (tensor,)), Wishes(), REGIONS)
        _, binary = parts(codec.encode(InferResponse("m", "1", "", (tensor,)), Wishes(binary=True), REGIONS))
        assert binary == tensor.data


# Shared memory


def test_inputs_and_outputs_in_shared_memory() -> None:
    key = f"codec-test-{uuid.uuid4().hex}"
    path = Path("/dev/shm") / key
    path.write_bytes(bytes(range(64)))
    regions = Regions(enabled=True)
    try:
        regions.register("r", key, 0, 64)
        body = one("INT8", [4], shared_memory_region="r", shared_memory_byte_size=4, shared_memory_offset=2)
        body["outputs"] = [
            {
                "name": "y",
                "parameters": {
                    "shared_memory_region": "r",
                    "shared_memory_byte_size": 4,
                    "shared_memory_offset": 32,
                    "binary_data": False,
                },
            }
        ]
        decoded = decode(body, regions=regions)
        assert bytes(decoded.request.inputs[0].data) == bytes([2, 3, 4, 5])
        response = InferResponse("m", "1", "", (Tensor("y", "INT8", (4,), b"abcd"),))
        sent, binary = parts(codec.encode(response, decoded.wishes, regions))
        assert sent["outputs"] == [{"name": "y", "datatype": "INT8", "shape": [4]}]
        assert binary == b""
        assert path.read_bytes()[32:36] == b"abcd"
        long = InferResponse("m", "1", "", (Tensor("y", "INT8", (5,), b"abcde"),))
        with pytest.raises(InvalidRequest, match="do not fit"):
            codec.encode(long, decoded.wishes, regions)
        with pytest.raises(InvalidRequest, match="exclude each other"):
            decode(one("INT8", [1], shared_memory_region="r", shared_memory_byte_size=1, binary_data_size=0), b"")
        body["outputs"][0]["parameters"]["classification"] = 2
        with pytest.raises(InvalidRequest, match="classification and shared memory exclude"):
            decode(body, regions=regions)
    finally:
        regions.close()
        path.unlink()


# Bodies without JSON


def raw(spec: TensorSpec, body: bytes) -> Tensor:
    decoded = codec.decode_raw(body, TARGET, (spec,))
    assert decoded.wishes == Wishes(binary=True)
    return decoded.request.inputs[0]


def test_a_raw_body_is_the_only_input() -> None:
    assert raw(TensorSpec("x", "FP32", (-1, 2), batch_axis=0), bytes(8)).shape == (1, 2)
    assert raw(TensorSpec("x", "FP32", (-1, -1), batch_axis=0), bytes(12)).shape == (1, 3)
    assert raw(TensorSpec("x", "INT8", (-1,)), bytes(5)).shape == (5,)
    text = raw(TensorSpec("x", BYTES, (-1, 1), batch_axis=0), b"hello")
    assert (text.shape, text.data) == ((1, 1), encode_bytes([b"hello"]))


def test_raw_bodies_that_say_too_little() -> None:
    with pytest.raises(InvalidRequest, match="does not follow from the data's size"):
        raw(TensorSpec("x", "FP32", (-1, -1, -1), batch_axis=0), bytes(8))
    with pytest.raises(InvalidRequest, match="7 bytes do not fill"):
        raw(TensorSpec("x", "FP32", (-1, -1), batch_axis=0), bytes(7))
    with pytest.raises(InvalidRequest, match="one input, 'm' has 2"):
        codec.decode_raw(b"", TARGET, (TensorSpec("x", "INT8", (1,)), TensorSpec("y", "INT8", (1,))))


# Anything at all

VALID = json.dumps(
    {
        "id": "1",
        "inputs": [
            {"name": "a", "datatype": "INT64", "shape": [1, 2], "data": [[1, 2]], "parameters": {"p": 1}},
            {"name": "b", "datatype": "FP32", "shape": [2], "parameters": {"binary_data_size": 8}},
            {"name": "c", "datatype": "BYTES", "shape": [1], "data": ["text"]},
        ],
        "outputs": [{"name": "o", "parameters": {"binary_data": True, "classification": 1}}],
        "parameters": {"binary_data_output": True, "timeout": 10, "x": 0.5},
    }
).encode()
VALID_TAIL = bytes(8)

anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(sorted(NUMPY_TYPES)),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=10,
)


def survives(body: bytes, length: int | None) -> None:
    try:
        decoded = codec.decode(body, length, TARGET, REGIONS)
        tensors = decoded.request.inputs
        codec.encode(InferResponse("m", "1", "", tensors), decoded.wishes, REGIONS)
    except SluiceError:
        pass  # clear errors are what is asked for; any other exception fails the test


@given(st.data())
def test_mutated_bytes_raise_only_our_errors(data: st.DataObject) -> None:
    body = bytearray(VALID)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(body) - 1))
        how = data.draw(st.sampled_from(("change", "cut", "insert", "repeat")))
        if how == "change":
            body[at] = data.draw(st.integers(0, 255))
        elif how == "cut":
            del body[at : at + data.draw(st.integers(1, 20))]
        elif how == "insert":
            body[at:at] = data.draw(st.binary(max_size=8))
        else:
            body[at:at] = body[at : at + 30]
        if not body:
            break
    length = data.draw(st.sampled_from((len(body), len(VALID), None)))
    survives(bytes(body) + VALID_TAIL, length)


@given(st.data())
def test_fields_of_any_type_raise_only_our_errors(data: st.DataObject) -> None:
    body = json.loads(VALID)
    targets: list[Any] = [body, *body["inputs"], *body["outputs"], body["inputs"][1]["parameters"], body["parameters"]]
    for _ in range(data.draw(st.integers(1, 3))):
        target = data.draw(st.sampled_from(targets))
        target[data.draw(st.sampled_from(sorted(target)))] = data.draw(anything)
    text = json.dumps(body).encode()
    survives(text + VALID_TAIL, len(text))


@given(st.sampled_from(sorted({*NUMPY_TYPES, BYTES})), st.lists(st.integers(0, 3), max_size=4), anything)
def test_data_of_any_form_raises_only_our_errors(datatype: str, shape: list[int], value: Any) -> None:
    survives(json.dumps(one(datatype, shape, value)).encode(), None)
