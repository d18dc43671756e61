"""Scores become `value:index[:label]`, largest first, row by row."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluice import classification
from sluice.errors import InvalidRequest
from sluice.request import InferRequest, RequestedOutput, Tensor, decode_bytes, encode_bytes
from sluice.spec import BYTES, ModelSpec, TensorSpec

SCORES = TensorSpec("scores", "FP32", (-1, 3), 0, labels=("cat", "dog"))


def floats(values: list[list[float]]) -> Tensor:
    array = np.array(values, "<f4")
    return Tensor("scores", "FP32", array.shape, array.tobytes())


def texts(tensor: Tensor) -> list[str]:
    assert tensor.datatype == BYTES
    return [element.decode() for element in decode_bytes(tensor.data, tensor.name)]


def test_the_best_of_each_row_with_their_labels() -> None:
    result = classification.classes(floats([[0.5, 0.25, 2], [1, 3, 2]]), SCORES, 2, batched=True)
    assert result.shape == (2, 2)
    assert texts(result) == ["2.000000:2", "0.500000:0:cat", "3.000000:1:dog", "2.000000:2"]


def test_more_classes_than_there_are() -> None:
    result = classification.classes(floats([[1, 3, 2]]), SCORES, 100, batched=True)
    assert result.shape == (1, 3)


def test_equal_scores_keep_their_order_and_nan_comes_last() -> None:
    result = classification.classes(floats([[1, float("nan"), 1]]), SCORES, 3, batched=True)
    assert texts(result) == ["1.000000:0:cat", "1.000000:2", "nan:1:dog"]


def test_without_a_batch_axis_everything_is_one_row() -> None:
    spec = TensorSpec("scores", "INT32", (3,))
    tensor = Tensor("scores", "INT32", (3,), np.array([7, 9, 8], "<i4").tobytes())
    result = classification.classes(tensor, spec, 2, batched=False)
    assert result.shape == (2,)
    assert texts(result) == ["9:1", "8:2"]


def test_bf16_is_read_as_the_number_it_is() -> None:
    bits = (np.array([[-1.5, 2.5]], "<f4").view("<u4") >> 16).astype("<u2")
    tensor = Tensor("scores", "BF16", (1, 2), bits.tobytes())
    result = classification.classes(tensor, TensorSpec("scores", "BF16", (-1, 2), 0), 2, batched=True)
    assert texts(result) == ["2.500000:1", "-1.500000:0"]


def test_texts_have_no_order() -> None:
    tensor = Tensor("scores", BYTES, (1, 1), encode_bytes([b"x"]))
    with pytest.raises(InvalidRequest, match="'scores'"):
        classification.classes(tensor, SCORES, 1, batched=True)


def test_only_what_was_asked_for_is_changed() -> None:
    other = TensorSpec("other", "FP32", (-1, 3), 0)
    spec = ModelSpec("m", "1", "", "", (), (SCORES, other), 4)
    outputs = (floats([[1, 2, 3]]), Tensor("other", "FP32", (1, 3), bytes(12)))
    plain = InferRequest("m", "", (), (RequestedOutput("scores"), RequestedOutput("other")))
    assert classification.apply(plain, spec, outputs) is outputs
    asked = InferRequest("m", "", (), (RequestedOutput("scores", 1), RequestedOutput("other")))
    first, second = classification.apply(asked, spec, outputs)
    assert texts(first) == ["3.000000:2"]
    assert second is outputs[1]


@given(st.lists(st.lists(st.floats(-1e6, 1e6, width=32), min_size=3, max_size=3), min_size=1, max_size=4), st.data())
def test_the_order_is_that_of_the_scores(rows: list[list[float]], data: st.DataObject) -> None:
    count = data.draw(st.integers(1, 3))
    result = classification.classes(floats(rows), SCORES, count, batched=True)
    found = texts(result)
    assert result.shape == (len(rows), count)
    for number, row in enumerate(rows):
        mine = found[number * count : (number + 1) * count]
        indexes = [int(text.split(":")[1]) for text in mine]
        assert [row[index] for index in indexes] == sorted(row, reverse=True)[:count]
