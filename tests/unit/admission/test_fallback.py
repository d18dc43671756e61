"""Which version may stand in for which."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sluice.admission.fallback import difference
from sluice.admission.validation import Rules
from sluice.spec import ModelSpec, TensorSpec

IDS = TensorSpec("ids", "INT64", (-1, -1), 0, 1)
MASK = TensorSpec("mask", "INT64", (-1, -1), 0, 1, fill=1)
SCORES = TensorSpec("scores", "FP32", (-1, 3), 0, labels=("a", "b", "c"))
SPEC = ModelSpec("m", "1", "onnxruntime_onnx", "onnxruntime", (IDS, MASK), (SCORES,), max_batch_rows=8)
RULES = Rules(priority_levels=10, default_priority=5, max_length=128)


def test_what_does_not_show_may_differ() -> None:
    other = ModelSpec("m-int8", "7", "python", "python", (MASK, IDS), (SCORES,), max_batch_rows=64)
    assert difference((SPEC, RULES), (other, replace(RULES, max_length=None, priority_levels=2))) == ""


def test_an_input_may_be_left_out_that_had_to_be_sent() -> None:
    other = replace(SPEC, inputs=(replace(IDS, fill=0), MASK))
    assert difference((SPEC, RULES), (other, RULES)) == ""


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"inputs": (IDS,)}, "it has no input 'mask'"),
        ({"inputs": (IDS, MASK, replace(IDS, name="types"))}, "it has another input, 'types'"),
        ({"inputs": (replace(IDS, datatype="INT32"), MASK)}, "its input 'ids' is INT32 [-1, -1], not INT64 [-1, -1]"),
        ({"inputs": (IDS, replace(MASK, fill=None))}, "its input 'mask' may not be left out"),
        ({"outputs": (replace(SCORES, shape=(-1, 4)),)}, "its output 'scores' is FP32 [-1, 4], not FP32 [-1, 3]"),
        ({"outputs": (replace(SCORES, labels=("x", "y", "z")),)}, "its output 'scores' has other labels"),
        ({"outputs": (replace(SCORES, default=False),)}, "its output 'scores' does not come unasked"),
        ({"max_batch_rows": 4}, "it takes 4 rows at most, not 8"),
        ({"max_batch_rows": 0}, "it has no batch axis"),
    ],
)
def test_what_a_client_could_notice(changes: dict[str, object], said: str) -> None:
    other = replace(SPEC, **changes)  # type: ignore[arg-type]
    assert difference((SPEC, RULES), (other, RULES)) == said


def test_shorter_sequences() -> None:
    shorter = replace(RULES, max_length=64)
    assert difference((SPEC, RULES), (SPEC, shorter)) == "it takes lengths of 64 at most, not 128"
    unlimited = replace(RULES, max_length=None)
    assert difference((SPEC, unlimited), (SPEC, RULES)) == "it takes lengths of 128 at most, not any"
