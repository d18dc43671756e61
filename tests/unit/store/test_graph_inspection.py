"""What an ONNX file may not have in it: each case is refused with the file, the field and the reason."""

import contextlib
import os
from pathlib import Path
from typing import Any

import graphs
import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from sluice.errors import ModelError
from sluice.store.graph_inspection import LARGEST, inspect

WEIGHTS = np.arange(12, dtype=np.float32)


def model_of(nodes: list[onnx.NodeProto], *constants: TensorProto, **more: Any) -> onnx.ModelProto:
    return helper.make_model(helper.make_graph(nodes, "test", [], [], list(constants)), **more)


def external(**said: object) -> TensorProto:
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[12], data_location=TensorProto.EXTERNAL)
    for key, value in said.items():
        tensor.external_data.add(key=key, value=str(value))
    return tensor


def refusal(directory: Path, model: onnx.ModelProto | bytes) -> str:
    """Why it is refused; empty if it is not."""
    path = directory / "model.onnx"
    path.write_bytes(model if isinstance(model, bytes) else model.SerializeToString())
    try:
        inspect(path, directory, "m/1/model.onnx")
    except ModelError as error:
        place, _, why = error.message.partition(": ")
        return why if place == "m/1/model.onnx" else f"{place} is another file"
    return ""


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A version's, with weights in a file of their own."""
    (tmp_path / "secret.bin").write_bytes(bytes(1000))
    version = tmp_path / "m" / "1"
    (version / "data").mkdir(parents=True)
    (version / "data" / "weights.bin").write_bytes(WEIGHTS.tobytes())
    return version


def test_sound_graphs_pass(directory: Path) -> None:
    for path in (graphs.lookup(directory), graphs.identity(directory, datatypes=tuple(graphs.DATATYPES))):
        assert refusal(directory, path.read_bytes()) == ""
    for array in (WEIGHTS, np.array(["text", ""], dtype=object), np.zeros((0, 4)), np.array(1 + 2j)):
        assert refusal(directory, model_of([], numpy_helper.from_array(array, "w"))) == ""
    typed = helper.make_tensor("w", TensorProto.INT4, [3], [1, 2, 3])
    assert refusal(directory, model_of([], typed, helper.make_tensor("b", TensorProto.BOOL, [2], [True, False]))) == ""


@pytest.mark.parametrize("said", [{}, {"offset": 0, "length": 48}, {"length": 0, "checksum": "any"}])
def test_weights_in_the_directory_pass(directory: Path, said: dict[str, object]) -> None:
    assert refusal(directory, model_of([], external(location="data/weights.bin", **said))) == ""
    (directory / "linked.bin").symlink_to("data/weights.bin")
    assert refusal(directory, model_of([], external(location="linked.bin", **said))) == ""


@pytest.mark.parametrize(
    ("location", "why"),
    [
        ("/etc/passwd", "absolute"),
        ("C:/windows/file", "absolute"),
        ("\\\\server\\file", "absolute"),
        ("../../secret.bin", "leads out"),
        ("data/../../../secret.bin", "leads out"),
        ("data\\..\\..\\secret.bin", "leads out"),
        ("*/_ORT_MEM_ADDR_/*", "an address in memory"),
        ("stolen.bin", "a link that leads out"),
        ("folder/secret.bin", "a link that leads out"),
        ("circle", "a circle"),
        ("pipe", "not a file"),
        ("data", "not a file"),
        ("missing.bin", "is not there"),
        ("README.md", "is written beside the model"),
        ("linked.bin", "is written beside the model"),
        ("a\0b", "cannot be read"),
        ("n" * 5000, "cannot be read"),
        ("", "names no file"),
    ],
)
def test_weights_elsewhere_are_refused(directory: Path, location: str, why: str) -> None:
    (directory / "stolen.bin").symlink_to("../../secret.bin")
    (directory / "folder").symlink_to("../..")
    (directory / "circle").symlink_to("circle")
    os.mkfifo(directory / "pipe")
    (directory / "README.md").write_bytes(bytes(48))
    (directory / "linked.bin").symlink_to("README.md")
    reason = refusal(directory, model_of([], external(location=location)))
    assert reason.startswith("tensor 'w': external_data: location: ")
    assert why in reason or (location == "circle" and "symbolic links" in reason)


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ({"length": 49}, "offset and length: 0 + 49 bytes are beyond the end of data/weights.bin, which has 48"),
        ({"offset": 1, "length": 48}, "beyond the end"),
        ({"offset": 100}, "beyond the end"),
        ({"length": 47}, "length: by its dims it has 48 bytes, and there are 47"),
        ({"offset": 4}, "there are 44"),
        ({"offset": -4}, "offset: '-4' is not a number"),
        ({"length": "9" * 40}, "is not a number"),
        ({"length": "٤٨"}, "is not a number"),
    ],
)
def test_weights_beyond_their_file_are_refused(directory: Path, said: dict[str, object], why: str) -> None:
    reason = refusal(directory, model_of([], external(location="data/weights.bin", **said)))
    assert reason.startswith("tensor 'w': external_data: ")
    assert why in reason


def test_weights_are_found_wherever_a_tensor_may_be(directory: Path) -> None:
    bad = external(location="/etc/passwd")
    inner = helper.make_graph([], "inner", [], [], [bad])
    sparse = onnx.SparseTensorProto(values=bad, indices=numpy_helper.from_array(np.zeros(12, np.int64)), dims=[12])
    nodes = [
        helper.make_node("Constant", [], ["c"], value=bad),
        helper.make_node("If", ["c"], ["y"], then_branch=inner, else_branch=inner),
        helper.make_node("Constant", [], ["c"], sparse_value=sparse),
        helper.make_node("Many", [], ["c"], tensors=[bad]),
        helper.make_node("Many", [], ["c"], graphs=[inner]),
    ]
    models = [model_of([node]) for node in nodes]
    function = helper.make_function("own", "F", [], ["c"], nodes[:1], [helper.make_opsetid("", 20)])
    models.append(model_of([], functions=[function]))
    models.append(model_of([]))
    models[-1].graph.sparse_initializer.append(sparse)
    models.append(model_of([]))
    models[-1].training_info.add().algorithm.CopyFrom(inner)
    for model in models:
        assert "'/etc/passwd' is an absolute path" in refusal(directory, model)


def message(number: int, content: bytes) -> bytes:
    length, varint = len(content), b""
    while length > 127:
        length, varint = length >> 7, varint + bytes([length & 127 | 128])
    return bytes([number << 3 & 127 | 2 | (128 if number > 15 else 0)]) + (
        bytes([number >> 4]) if number > 15 else b""
    ) + varint + bytes([length]) + content  # fmt: skip


def test_what_two_readers_could_understand_differently_is_refused(directory: Path) -> None:
    tensor = external(location="/etc/passwd").SerializeToString()
    node = helper.make_node("Constant", [], ["c"])

    def model(attribute: bytes) -> bytes:
        graph = message(1, node.SerializeToString() + message(5, attribute))
        return b"\x08\x09" + message(7, graph)

    # protobuf merges the halves of one tensor into one; and keeps EXTERNAL over what is no location at all.
    halves = message(5, TensorProto(name="w", data_type=1).SerializeToString()) + message(5, tensor)
    assert "two values" in refusal(directory, model(halves))
    assert "absolute path" in refusal(directory, model(message(5, tensor + b"\x70\x07")))
    assert "absolute path" in refusal(directory, model(message(5, tensor + b"\x70\x81\x80\x80\x80\x10")))
    assert "damaged" in refusal(directory, model_of([]).SerializeToString() * 2)
    twice = external(location="data/weights.bin")
    twice.external_data.add(key="location", value="/etc/passwd")
    assert refusal(directory, model_of([], twice)) == "tensor 'w': its external_data says 'location' twice"


def test_operators_that_nobody_knows_are_refused(directory: Path) -> None:
    node = helper.make_node("Shout", ["x"], ["y"], name="loud", domain="my.ops")
    reason = refusal(directory, model_of([node]))
    assert reason.startswith("node 'loud': its operator 'Shout' is of the domain 'my.ops'")
    known = [helper.make_node("Gelu", ["x"], ["y"], domain=domain) for domain in ("com.microsoft", "ai.onnx.ml", "")]
    assert refusal(directory, model_of(known)) == ""
    # A model may bring its own operators, made of others.
    function = helper.make_function("my.ops", "Shout", ["x"], ["y"], known[:1], [helper.make_opsetid("", 20)])
    assert refusal(directory, model_of([node], functions=[function])) == ""


@pytest.mark.parametrize(
    ("tensor", "why"),
    [
        (TensorProto(dims=[1 << 20, 1 << 20], data_type=TensorProto.FLOAT, raw_data=b"1234"), "and there are 4"),
        (TensorProto(dims=[1 << 40], data_type=TensorProto.FLOAT), "at least"),
        (TensorProto(dims=[1 << 40], data_type=TensorProto.INT8, int32_data=[1]), "at least"),
        (TensorProto(dims=[1 << 40], data_type=TensorProto.STRING, string_data=[b"a"]), "at least"),
        (TensorProto(dims=[1 << 40], data_type=99), "at least"),
        (TensorProto(dims=[1 << 62] * 100, data_type=TensorProto.FLOAT), "absurd"),
        (TensorProto(dims=[-1], data_type=TensorProto.FLOAT), "negative"),
    ],
)
def test_absurd_sizes_are_refused(directory: Path, tensor: TensorProto, why: str) -> None:
    tensor.name = "w"
    reason = refusal(directory, model_of([], tensor))
    assert reason.startswith("tensor 'w': ")
    assert why in reason


def test_what_would_unpack_without_end_is_refused(directory: Path) -> None:
    value = numpy_helper.from_array(np.ones(1, np.float32), "s")
    model = model_of([])
    index = numpy_helper.from_array(np.zeros(1, np.int64))
    model.graph.sparse_initializer.append(onnx.SparseTensorProto(values=value, indices=index, dims=[1 << 33]))
    assert "sparse tensor 's'" in refusal(directory, model)
    graph = helper.make_graph([], "innermost", [], [])
    for _ in range(33):
        graph = helper.make_graph([helper.make_node("If", [], [], then_branch=graph)], "g", [], [])
    assert "lie within each other" in refusal(directory, helper.make_model(graph))


def test_files_that_no_reader_takes_are_refused(directory: Path) -> None:
    path = directory / "model.onnx"
    with path.open("wb") as file:
        file.truncate(LARGEST + 1)
    with pytest.raises(ModelError, match="files of their own"):
        inspect(path, directory, "m")
    assert refusal(directory, b"") == "is empty"
    assert "ORT format" in refusal(directory, b"\x20\0\0\0ORTM" + bytes(100))
    for content in (b"nothing of the kind", b"\x08", b"\x08\x09", b"\x3a\x7f", b"\xff" * 64):
        assert "damaged" in refusal(directory, content)


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("sound")
    (directory / "w").write_bytes(WEIGHTS.tobytes())
    inner = helper.make_graph([], "inner", [], [], [external(location="w")])
    node = helper.make_node("If", ["c"], ["y"], then_branch=inner, else_branch=inner)
    model = model_of([node, helper.make_node("Gelu", ["x"], ["y"], domain="com.microsoft")], external(location="w"))
    (directory / "sound.onnx").write_bytes(model.SerializeToString())
    return directory


@given(data=st.data())
def test_damage_is_passed_or_refused(sound: Path, data: st.DataObject) -> None:
    content = bytearray((sound / "sound.onnx").read_bytes())
    for _ in range(data.draw(st.integers(0, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    refusal(sound, bytes(content[: data.draw(st.integers(1, len(content)))]))


@given(content=st.binary(max_size=300))
def test_noise_is_passed_or_refused(sound: Path, content: bytes) -> None:
    path = sound / "noise.onnx"
    path.write_bytes(content)
    with contextlib.suppress(ModelError):
        inspect(path, sound, "m")
