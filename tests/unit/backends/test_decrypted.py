"""Encrypted versions in onnxruntime: they answer as before, and what cannot be decrypted is refused with the reason."""

import gc
import os
from pathlib import Path

import graphs
import numpy as np
import psutil
import pytest
from onnx import TensorProto, helper, numpy_helper

from sluice.backends.base import Array, Source
from sluice.backends.ort import OnnxRuntimeBackend
from sluice.encryption.keys import Keys
from sluice.errors import ModelError
from sluice.store import graph_inspection
from sluice.store.encrypting import encrypt

KEYS = Keys("11" * 32)
INPUTS = {"input_ids": np.array([[1, 2, 3]]), "attention_mask": np.ones((1, 3), np.int64)}


def encrypted(path: Path) -> Source:
    """The version that the model's file belongs to, encrypted."""
    directory = encrypt(path.parent, path.parents[2], KEYS).placed.directory
    inspected = graph_inspection.inspect(directory / path.name, directory, path.name, KEYS)
    assert inspected.secret
    return Source(directory / path.name, directory, {}, "cpu", 1, None, inspected.secret, inspected.externals)


def plain(path: Path) -> Source:
    return Source(path, path.parent, {}, "cpu", 1, None)


def answer(source: Source) -> Array:
    backend = OnnxRuntimeBackend()
    signature = backend.load(source)
    assert [port.name for port in signature.inputs] == list(INPUTS)
    (found,) = backend.run(INPUTS, {"embedding": None}).values()
    backend.close()
    return found


def test_it_answers_as_before(tmp_path: Path) -> None:
    path = graphs.lookup(tmp_path)
    assert np.array_equal(answer(encrypted(path)), answer(plain(path)))


@pytest.mark.parametrize("location", ["weights.bin", "data/weights.bin"])
def test_weights_in_files_of_their_own_are_decrypted_too(tmp_path: Path, location: str) -> None:
    path = graphs.weights_apart(graphs.lookup(tmp_path), location)
    assert np.array_equal(answer(encrypted(path)), answer(plain(path)))


def test_so_are_those_of_graphs_within_the_graph(tmp_path: Path) -> None:
    """onnxruntime itself does not look for those in files in memory."""
    table = np.random.default_rng(0).standard_normal((100, 16)).astype(np.float32)
    branches = [
        helper.make_graph(
            [helper.make_node("Gather", [name, "input_ids"], [f"{name}_rows"])],
            name,
            [],
            [graphs.value(f"{name}_rows", "FP32", ["batch", "sequence", 16])],
            [numpy_helper.from_array(table * factor, name)],
        )
        for name, factor in (("one", 1), ("other", 2))
    ]
    nodes = [
        helper.make_node("ReduceMax", ["attention_mask"], ["most"], keepdims=0),
        helper.make_node("Cast", ["most"], ["is_one"], to=TensorProto.BOOL),
        helper.make_node("If", ["is_one"], ["embedding"], then_branch=branches[0], else_branch=branches[1]),
    ]
    ids = [graphs.value(name, "INT64", ["batch", "sequence"]) for name in INPUTS]
    outputs = [graphs.value("embedding", "FP32", ["batch", "sequence", 16])]
    path = graphs.save(tmp_path / "m" / "1" / "model.onnx", nodes, ids, outputs)
    graphs.weights_apart(path)
    assert (path.parent / "weights.bin").stat().st_size >= 2 * table.nbytes
    assert np.array_equal(answer(encrypted(path)), answer(plain(path)))


def test_what_cannot_be_decrypted_is_refused(tmp_path: Path) -> None:
    source = encrypted(graphs.weights_apart(graphs.lookup(tmp_path)))
    graph, weights = source.path, source.directory / "weights.bin"
    sound = {path: path.read_bytes() for path in (graph, weights)}
    for path, change, why in (
        (graph, lambda data: data[:-1] + b"x", "model.onnx: is damaged or was tampered with"),
        (graph, lambda data: data[:-1], "model.onnx: is encrypted, and cut short"),
        (graph, lambda data: b"no model", "model.onnx: is not encrypted any more"),
        (weights, lambda data: data[:-1] + b"x", "weights.bin: is damaged or was tampered with"),
        (weights, lambda data: data[:40], "weights.bin: is encrypted, and cut short"),
        (weights, lambda data: sound[graph], "weights.bin: was encrypted as 'model.onnx'"),
    ):
        path.write_bytes(change(sound[path]))
        with pytest.raises(ModelError) as error:
            OnnxRuntimeBackend().load(source)
        assert error.value.message.startswith(why)
        path.write_bytes(sound[path])
    weights.unlink()
    with pytest.raises(ModelError, match=r"weights\.bin: cannot be read: No such file"):
        OnnxRuntimeBackend().load(source)


def test_what_onnxruntime_says_of_it_names_the_file(tmp_path: Path) -> None:
    nodes = [helper.make_node("Gather", ["table", "input_ids"], ["y"])]
    ids = [graphs.value("input_ids", "INT64", ["batch"])]
    path = graphs.save(
        tmp_path / "m" / "1" / "model.onnx", nodes, ids, [graphs.value("y", "FP32", [None, 2])],
        {"table": np.ones((3, 2), np.float32)},
    )  # fmt: skip
    path.write_bytes(path.read_bytes().replace(b"Gather", b"Father"))
    with pytest.raises(ModelError) as error:
        OnnxRuntimeBackend().load(encrypted(path))
    assert error.value.message.startswith("onnxruntime cannot load model.onnx: ")
    assert "/proc" not in error.value.message


def test_nothing_of_it_stays_behind(tmp_path: Path) -> None:
    """Neither descriptors nor a second copy of the weights, which here are 32 MiB."""
    for path in (
        graphs.lookup(tmp_path, "one", rows=1 << 20),
        graphs.weights_apart(graphs.lookup(tmp_path, "two", rows=1 << 20)),
    ):
        source = encrypted(path)
        before, descriptors = psutil.Process().memory_full_info().uss, os.listdir("/proc/self/fd")
        backend = OnnxRuntimeBackend()
        backend.load(source)
        gc.collect()
        assert psutil.Process().memory_full_info().uss < before + (48 << 20)
        assert len(os.listdir("/proc/self/fd")) <= len(descriptors)
        assert not [line for line in Path("/proc/self/maps").read_text().splitlines() if "sluice-model" in line]
        backend.close()
