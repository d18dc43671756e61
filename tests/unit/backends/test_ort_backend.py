"""An onnxruntime session gives back what a giant batch took, and answers the same while it does."""

from pathlib import Path

import graphs
import numpy as np
import psutil
import pytest
from onnx import helper

from sluice.backends.base import Source
from sluice.backends.high_water import WINDOW
from sluice.backends.ort import OnnxRuntimeBackend

GIANT = 64 << 20  # bytes
SLACK = 16 << 20


@pytest.fixture
def sums(tmp_path: Path) -> Path:
    """INPUT0 [batch, n] -> OUTPUT0 = the sum of its exponentials [batch, 1]; the exponentials lie in the arena."""
    nodes = [
        helper.make_node("Exp", ["INPUT0"], ["first"]),
        helper.make_node("ReduceSum", ["first", "axis"], ["OUTPUT0"], keepdims=1),
    ]
    return graphs.save(
        tmp_path / "sums" / "1" / "model.onnx",
        nodes,
        [graphs.value("INPUT0", "FP32", ["batch", "n"])],
        [graphs.value("OUTPUT0", "FP32", ["batch", 1])],
        {"axis": np.array([1], np.int64)},
    )


def private() -> int:
    return int(psutil.Process().memory_full_info().uss)


def test_the_arena_gives_back_what_a_giant_took(sums: Path) -> None:
    backend = OnnxRuntimeBackend()
    backend.load(Source(sums, sums.parent, {}, "cpu", 1, None))
    giant, small = np.zeros((1, GIANT // 4), np.float32), np.zeros((2, 8), np.float32)
    backend.run({"INPUT0": small}, {"OUTPUT0": None})
    giant += 1  # touched before it is counted
    before = private()
    backend.run({"INPUT0": giant}, {"OUTPUT0": None})
    assert private() > before + GIANT - SLACK
    for _ in range(2 * WINDOW):
        (answer,) = backend.run({"INPUT0": small}, {"OUTPUT0": None}).values()
        assert answer.tolist() == [[8.0], [8.0]]
    assert private() < before + SLACK
    backend.close()


def test_strings_pass_while_the_arena_shrinks(tmp_path: Path) -> None:
    path = graphs.identity(tmp_path, datatypes=("BYTES",))
    backend = OnnxRuntimeBackend()
    backend.load(Source(path, path.parent, {}, "cpu", 1, None))
    for count in (WINDOW, *[1] * (2 * WINDOW)):
        texts = np.array([[b"text"] * count], dtype=object)
        assert backend.run({"INPUT0": texts}, {"OUTPUT0": None})["OUTPUT0"].tolist() == texts.tolist()
    backend.close()
    backend.close()
