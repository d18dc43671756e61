"""Tensors of graphs within a graph come back into it, and all else stays where it is."""

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from sluice.store.inlining import inlined

SMALL = np.array([1, 300], np.int64)
LARGE = np.arange(5000, dtype=np.int16)
EVERYWHERE = {"location": "file", "offset": 5, "length": SMALL.nbytes}
ALONE = {"location": "alone"}


def tensor(array: np.ndarray[Any, Any], name: str, said: dict[str, Any]) -> TensorProto:
    made = numpy_helper.from_array(array, name)
    if said:
        made.ClearField("raw_data")
        made.data_location = TensorProto.EXTERNAL
        for key, value in said.items():
            made.external_data.add(key=key, value=str(value))
    return made


def model(outer: bool, inner: bool) -> onnx.ModelProto:
    """With a tensor in every place where one can be; whether those of the graph itself lie in files, and those of
    graphs and functions within it."""
    within, alone = (EVERYWHERE, ALONE) if inner else ({}, {})
    branch = helper.make_graph(
        [helper.make_node("Constant", [], ["c"], value=tensor(SMALL, "c", within))],
        "inner",
        [],
        [],
        [tensor(SMALL, "deep", within), tensor(LARGE, "deep_large", alone)],
    )
    nodes = [
        helper.make_node("If", ["x"], ["y"], then_branch=branch, else_branch=branch, alpha=2.5, name="ünïcode"),
        helper.make_node("Constant", [], ["z"], value=tensor(SMALL, "z", EVERYWHERE if outer else {})),
    ]
    constants = [tensor(LARGE, "large", ALONE if outer else {}), tensor(SMALL, "own", {})]
    made = helper.make_model(helper.make_graph(nodes, "outer", [], [], constants), producer_name="test" * 100)
    body = [helper.make_node("Constant", [], ["c"], value=tensor(SMALL, "c", within))]
    made.functions.append(helper.make_function("own", "f", [], ["c"], body, [helper.make_opsetid("", 17)]))
    return made


def read(location: str, offset: int, length: int | None) -> bytes:
    content = {"file": b"....." + SMALL.tobytes() + b"...", "alone": LARGE.tobytes()}[location]
    return content[offset : None if length is None else offset + length]


@pytest.mark.parametrize("outer", [False, True])
def test_they_come_back(outer: bool) -> None:
    found = onnx.load_from_string(inlined(model(outer, True).SerializeToString(), read))
    assert found == model(outer, False)


@pytest.mark.parametrize("outer", [False, True])
def test_what_has_none_stays_as_it_is(outer: bool) -> None:
    graph = model(outer, False).SerializeToString()
    assert inlined(graph, read) is graph
