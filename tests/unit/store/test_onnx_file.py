import contextlib
from pathlib import Path

import graphs
import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from sluice.errors import ModelError
from sluice.spec import Port
from sluice.store.onnx_file import OTHER, read


def test_a_file_tells_its_signature_and_its_making(tmp_path: Path) -> None:
    told = read(graphs.tagger(tmp_path))
    assert told.inputs == tuple(Port(name, "INT64", ("batch", "sequence")) for name in ("input_ids", "attention_mask"))
    assert told.outputs == (Port("tokens", "INT64", ("batch", "sequence")), Port("total", "INT64", ("batch", 1)))
    assert (told.opsets, told.ir_version, told.parameters) == ({"ai.onnx": 17}, 9, 2)


def test_every_datatype_is_known(tmp_path: Path) -> None:
    told = read(graphs.identity(tmp_path, datatypes=tuple(graphs.DATATYPES)))
    assert tuple(port.datatype for port in told.inputs) == tuple(graphs.DATATYPES)


def test_it_agrees_with_the_onnx_package(tmp_path: Path) -> None:
    path = graphs.lookup(tmp_path)
    told, model = read(path), onnx.load(path)
    assert told.parameters == sum(numpy_helper.to_array(one).size for one in model.graph.initializer)
    assert [port.name for port in told.inputs] == [one.name for one in model.graph.input]
    assert [port.name for port in told.outputs] == [one.name for one in model.graph.output]


def test_odd_graphs_are_read(tmp_path: Path) -> None:
    nameless = helper.make_tensor_value_info("a", TensorProto.FLOAT, [None, "", 3])
    scalar = helper.make_tensor_value_info("b", TensorProto.FLOAT, [])
    strange = helper.make_tensor_value_info("c", TensorProto.COMPLEX64, [1])
    shapeless = helper.make_tensor_value_info("d", TensorProto.FLOAT, None)
    listed = helper.make_tensor_sequence_value_info("e", TensorProto.FLOAT, [1])
    constant = numpy_helper.from_array(np.zeros((2, 3), np.float32), "w")
    old = helper.make_tensor_value_info("w", TensorProto.FLOAT, [2, 3])  # a constant among the inputs
    graph = helper.make_graph([], "g", [nameless, scalar, strange, shapeless, old], [listed], [constant])
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, producer_name="somebody", producer_version="2")
    path = tmp_path / "model.onnx"
    path.write_bytes(model.SerializeToString())
    told = read(path)
    assert told.inputs == (
        Port("a", "FP32", ("?", "?", 3)),
        Port("b", "FP32", ()),
        Port("c", OTHER, (1,)),
        Port("d", "FP32", ()),
    )
    assert told.outputs == (Port("e", OTHER, ()),)
    assert (told.producer, told.parameters) == ("somebody 2", 6)
    assert told.opsets == {"ai.onnx": 20, "com.microsoft": 1}


@pytest.mark.parametrize("content", [b"", b"nothing of the kind", b"\x08", b"\x08\x09", b"\x3a\x7f", b"\xff" * 64])
def test_what_is_no_model_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=r"^model\.onnx: "):
        read(path)


def test_absurd_sizes_are_refused(tmp_path: Path) -> None:
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[1 << 62, 1 << 62])
    graph = helper.make_graph([], "g", [], [], [tensor])
    path = tmp_path / "model.onnx"
    path.write_bytes(helper.make_model(graph).SerializeToString())
    with pytest.raises(ModelError, match="damaged"):
        read(path)


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return graphs.lookup(tmp_path_factory.mktemp("sound"))


@given(data=st.data())
def test_damage_is_read_or_refused(sound: Path, data: st.DataObject) -> None:
    content = bytearray(sound.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = sound.with_name("damaged.onnx")
    path.write_bytes(content[: data.draw(st.integers(1, len(content)))])
    with contextlib.suppress(ModelError):
        read(path)
