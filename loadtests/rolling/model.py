"""A model whose every answer can be checked: it triples."""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

NAME = "triple"
FACTOR = 3


def write(repository: Path, version: int = 1, edition: int = 0, name: str = NAME) -> Path:
    """x [batch, sequence] INT64 -> y = 3 x. Each edition is another file, and answers the same."""
    ports = [helper.make_tensor_value_info(one, TensorProto.INT64, ["batch", "sequence"]) for one in ("x", "y")]
    factor = numpy_helper.from_array(np.array(FACTOR, np.int64), "factor")
    node = helper.make_node("Mul", ["x", "factor"], ["y"])
    graph = helper.make_graph([node], f"edition-{edition}", ports[:1], ports[1:], [factor])
    path = repository / name / str(version) / "model.onnx"
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_suffix(".fresh")
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), str(fresh))
    fresh.rename(path)  # whoever reads it meanwhile sees one edition or the other
    return path
