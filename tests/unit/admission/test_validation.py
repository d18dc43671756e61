"""Everything a model could choke on is refused with the name of what is wrong; what fits becomes work."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluice.admission.validation import Rules, check
from sluice.errors import InvalidRequest
from sluice.request import InferRequest, Parameter, RequestedOutput, Tensor, encode_bytes
from sluice.spec import BYTES, DATATYPES, NUMPY_TYPES, ModelSpec, Padding, TensorSpec

IDS = TensorSpec("input_ids", "INT64", (-1, -1), 0, 1)
MASK = TensorSpec("attention_mask", "INT64", (-1, -1), 0, 1, fill=1)
IMAGE = TensorSpec("image", "FP32", (-1, 3, -1), 0)
TEXT = TensorSpec("text", BYTES, (-1, 1), 0)
SPEC = ModelSpec("m", "1", "test", "test", (IDS, MASK), (TensorSpec("out", "FP32", (-1, 4), 0),), 8)
RULES = Rules(priority_levels=10, default_priority=5, max_length=512)


def tensor(spec: TensorSpec, *shape: int) -> Tensor:
    if spec.datatype == BYTES:
        return Tensor(spec.name, BYTES, shape, encode_bytes([b"x"] * int(np.prod(shape))))
    return Tensor(spec.name, spec.datatype, shape, np.ones(shape, NUMPY_TYPES[spec.datatype]).tobytes())


def request(*inputs: Tensor, **parameters: Parameter) -> InferRequest:
    return InferRequest("m", "", inputs, parameters=parameters)


def refusal(asked: InferRequest, spec: ModelSpec = SPEC, rules: Rules = RULES) -> str:
    with pytest.raises(InvalidRequest) as caught:
        check(asked, spec, rules)
    return caught.value.message


def test_what_fits_becomes_work() -> None:
    ids = tensor(IDS, 2, 7)
    work = check(request(ids), SPEC, RULES)
    assert (work.rows, work.length, work.size) == (2, 7, 2 * 7 * 8)
    assert work.inputs == (ids, None)
    assert work.outputs == ("out",)
    assert work.priority == 0
    assert work.queue_timeout is None


REFUSED: dict[str, tuple[InferRequest, list[str]]] = {
    "unknown input": (request(tensor(IDS, 1, 2), tensor(TEXT, 1, 1)), ["'text'", "'m'"]),
    "twice": (request(tensor(IDS, 1, 2), tensor(IDS, 1, 2)), ["'input_ids'", "twice"]),
    "missing": (request(tensor(MASK, 1, 2)), ["expected 2 inputs but got 1", "missing: 'input_ids'"]),
    "no inputs": (request(), ["missing: 'input_ids'"]),
    "unknown datatype": (request(Tensor("input_ids", "INT65", (1, 1), bytes(8))), ["'input_ids'", "'INT65'"]),
    "other datatype": (request(Tensor("input_ids", "FP64", (1, 1), bytes(8))), ["'input_ids'", "'FP64'", "'INT64'"]),
    "rank": (request(Tensor("input_ids", "INT64", (2,), bytes(16))), ["'input_ids'", "[-1, -1]", "[2]"]),
    "negative": (request(Tensor("input_ids", "INT64", (-1, -2), bytes(16))), ["'input_ids'", "[-1, -2]"]),
    "too little data": (request(Tensor("input_ids", "INT64", (1, 3), bytes(16))), ["'input_ids'", "16 bytes", "24"]),
    "too much data": (request(Tensor("input_ids", "INT64", (1, 1), bytes(16))), ["'input_ids'", "16 bytes", "need 8"]),
    "no rows": (request(Tensor("input_ids", "INT64", (0, 3), b"")), ["'input_ids'", "batch size 0"]),
    "no length": (request(Tensor("input_ids", "INT64", (3, 0), b"")), ["'input_ids'", "sequence length 0"]),
    "rows differ": (request(tensor(IDS, 2, 3), tensor(MASK, 1, 3)), ["'attention_mask'", "batch size 1", "has 2"]),
    "lengths differ": (request(tensor(IDS, 2, 3), tensor(MASK, 2, 4)), ["'attention_mask'", "length 4", "has 3"]),
    "too many rows": (request(tensor(IDS, 9, 3)), ["batch-size must be <= 8", "'m'", "got 9"]),
    "too long": (request(tensor(IDS, 1, 513)), ["513", "512", "'m'"]),
    "priority text": (request(tensor(IDS, 1, 1), priority="1"), ["'priority'", "'1'"]),
    "priority bool": (request(tensor(IDS, 1, 1), priority=True), ["'priority'"]),
    "priority negative": (request(tensor(IDS, 1, 1), priority=-1), ["'priority'", "-1"]),
    "timeout float": (request(tensor(IDS, 1, 1), timeout=1.5), ["'timeout'", "1.5"]),
    "timeout negative": (request(tensor(IDS, 1, 1), timeout=-5), ["'timeout'", "-5"]),
    "sequence id": (request(tensor(IDS, 1, 1), sequence_id=1.5), ["'sequence_id'"]),
    "sequence start": (request(tensor(IDS, 1, 1), sequence_start=1), ["'sequence_start'"]),
    "sequence end": (request(tensor(IDS, 1, 1), sequence_end="no"), ["'sequence_end'"]),
    "reserved": (request(tensor(IDS, 1, 1), triton_new_thing=True), ["'triton_new_thing'", "reserved"]),
}


@pytest.mark.parametrize("case", REFUSED)
def test_each_refusal_names_what_is_wrong(case: str) -> None:
    asked, words = REFUSED[case]
    message = refusal(asked)
    for word in words:
        assert word in message


def test_a_fixed_size_must_be_met() -> None:
    spec = replace(SPEC, inputs=(IMAGE,))
    assert "'image'" in refusal(request(tensor(IMAGE, 1, 4, 2)), spec)
    assert check(request(tensor(IMAGE, 1, 3, 2)), spec, RULES).rows == 1


def test_bytes_are_counted_by_element() -> None:
    spec = replace(SPEC, inputs=(TEXT,))
    assert check(request(tensor(TEXT, 3, 1)), spec, RULES).rows == 3
    short = Tensor("text", BYTES, (3, 1), encode_bytes([b"a", b"b"]))
    assert refusal(request(short), spec) == "input 'text' has 2 elements, but its shape says 3"
    lying = Tensor("text", BYTES, (1, 1), b"\xff\xff\xff\xffx")
    assert "'text'" in refusal(request(lying), spec)
    torn = Tensor("text", BYTES, (1, 1), b"\x01\x00")
    assert "'text'" in refusal(request(torn), spec)


def test_outputs_must_exist_and_be_asked_for_once() -> None:
    unknown = replace(request(tensor(IDS, 1, 1)), outputs=(RequestedOutput("nothing"),))
    assert "'nothing'" in refusal(unknown)
    doubled = replace(request(tensor(IDS, 1, 1)), outputs=(RequestedOutput("out"), RequestedOutput("out")))
    assert "'out'" in refusal(doubled)


def test_only_default_outputs_unless_asked_for() -> None:
    spec = replace(SPEC, outputs=(*SPEC.outputs, TensorSpec("states", "FP32", (-1, -1), 0, 1, default=False)))
    asked = request(tensor(IDS, 1, 1))
    assert check(asked, spec, RULES).outputs == ("out",)
    wanted = replace(asked, outputs=(RequestedOutput("states"), RequestedOutput("out")))
    assert check(wanted, spec, RULES).outputs == ("states", "out")


def test_priorities_reach_from_the_most_urgent_level_to_the_least() -> None:
    def priority(level: int) -> float:
        return check(request(tensor(IDS, 1, 1), priority=level), SPEC, RULES).priority

    assert priority(1) == -1
    assert priority(3) == -0.5
    assert priority(10) == 1
    assert priority(0) == priority(5) == priority(11) == 0


def test_harmless_parameters_pass() -> None:
    parameters: dict[str, Parameter] = {
        "triton_enable_empty_final_response": True,
        "sequence_id": "a",
        "sequence_start": True,
        "sequence_end": False,
        "timeout": 2_000_000,
        "anything": "else",
    }
    work = check(request(tensor(IDS, 1, 1), **parameters), SPEC, RULES)
    assert work.queue_timeout == 2.0


def test_groups_keep_apart_what_padding_cannot_join() -> None:
    spec = replace(SPEC, inputs=(IMAGE,))

    def group(asked: InferRequest, spec: ModelSpec) -> Any:
        return check(asked, spec, RULES).group

    assert group(request(tensor(IMAGE, 1, 3, 2)), spec) == group(request(tensor(IMAGE, 4, 3, 2)), spec)
    assert group(request(tensor(IMAGE, 1, 3, 2)), spec) != group(request(tensor(IMAGE, 1, 3, 5)), spec)
    short, long = request(tensor(IDS, 1, 2)), request(tensor(IDS, 1, 9))
    assert group(short, SPEC) == group(long, SPEC)
    equal = replace(SPEC, padding=Padding.EQUAL)
    assert group(short, equal) != group(long, equal)


def test_a_model_without_a_batch_axis_takes_its_own_shape() -> None:
    spec = replace(SPEC, inputs=(TensorSpec("x", "FP32", (3,)),), max_batch_rows=0)
    work = check(request(Tensor("x", "FP32", (3,), bytes(12))), spec, RULES)
    assert (work.rows, work.length) == (1, 1)
    assert "'x'" in refusal(request(Tensor("x", "FP32", (2,), bytes(8))), spec)


TENSORS = st.builds(
    Tensor,
    st.sampled_from(["input_ids", "attention_mask", "", "other"]),
    st.sampled_from([*sorted(DATATYPES), "", "int64"]),
    st.lists(st.integers(-2, 2**62), max_size=4).map(tuple) | st.tuples(st.integers(0, 4), st.integers(0, 4)),
    st.binary(max_size=64),
)
VALUES = st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text(max_size=5)
NAMES = st.sampled_from(["priority", "timeout", "sequence_id", "sequence_start", "triton_x", "mine"])


@given(st.lists(TENSORS, max_size=4), st.dictionaries(NAMES, VALUES))
def test_anything_is_either_refused_or_consistent(inputs: list[Tensor], parameters: dict[str, Parameter]) -> None:
    asked = InferRequest("m", "", tuple(inputs), parameters=parameters)
    try:
        work = check(asked, SPEC, RULES)
    except InvalidRequest:
        return
    assert 1 <= work.rows <= SPEC.max_batch_rows
    assert 1 <= work.length <= 512
    for spec, checked in zip(SPEC.inputs, work.inputs, strict=True):
        assert checked is None or (checked.datatype, checked.shape) == (spec.datatype, (work.rows, work.length))
