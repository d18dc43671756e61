"""The models that are served, and questions to them whose answers are known."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from loadtests.chaos import whim
from sluice.request import Tensor

Array = np.ndarray[Any, Any]
Answer = Mapping[str, Array]

DEMO = Path("models/minilm")
TOLERANCE = 1e-3
_LONGEST_TEXT = 96
_TEXTS = 24


@dataclass(frozen=True, slots=True)
class Question:
    """One request, and what is wrong with an answer to it ("" = nothing) by the version that gave it."""

    model: str
    inputs: tuple[Tensor, ...]
    check: Callable[[Answer, str], str]
    serial: int = 0
    guilty: bool = False


def int64(name: str, values: Array) -> Tensor:
    return Tensor(name, "INT64", values.shape, np.ascontiguousarray(values, np.int64).tobytes())


# The tagger: every answer tells which row it belongs to and which version gave it.


def write_tagger(repository: Path, name: str, version: int) -> None:
    """input_ids [batch, sequence] -> tokens = ids × (version + 1), total = their masked sum."""
    nodes = [
        helper.make_node("Mul", ["input_ids", "factor"], ["tokens"]),
        helper.make_node("Mul", ["tokens", "attention_mask"], ["masked"]),
        helper.make_node("ReduceSum", ["masked", "axis"], ["total"], keepdims=1),
    ]
    shape = ["batch", "sequence"]
    inputs = [helper.make_tensor_value_info(one, TensorProto.INT64, shape) for one in ("input_ids", "attention_mask")]
    outputs = [
        helper.make_tensor_value_info("tokens", TensorProto.INT64, shape),
        helper.make_tensor_value_info("total", TensorProto.INT64, ["batch", 1]),
    ]
    constants = [
        numpy_helper.from_array(np.array(version + 1, np.int64), "factor"),
        numpy_helper.from_array(np.array([1], np.int64), "axis"),
    ]
    graph = helper.make_graph(nodes, name, inputs, outputs, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    # Beside its place first: a version appears whole or not at all.
    beside = repository.parent / f"{name}-{version}"
    beside.mkdir()
    onnx.save(model, str(beside / "model.onnx"))
    (repository / name).mkdir(exist_ok=True)
    beside.rename(repository / name / str(version))


def tagger(chance: random.Random, model: str) -> Question:
    rows, length = chance.randint(1, 3), chance.randint(1, 40)
    ids = np.array([[chance.randrange(1 << 40) for _ in range(length)] for _ in range(rows)], np.int64)
    mask = np.array([[chance.randint(0, 1) for _ in range(length)] for _ in range(rows)], np.int64)

    def check(answer: Answer, version: str) -> str:
        factor = int(version) + 1
        if not np.array_equal(answer["tokens"], ids * factor):
            return f"tokens of version {version} are not this request's"
        if not np.array_equal(answer["total"], (ids * mask * factor).sum(axis=1, keepdims=True)):
            return f"the total of version {version} is not this request's"
        return ""

    return Question(model, (int64("input_ids", ids), int64("attention_mask", mask)), check)


# The whim: a Python model that does what it is told.


def write_whim(repository: Path, armed: Path, witness: Path) -> None:
    directory = repository / "whim"
    (directory / "1").mkdir(parents=True)
    shutil.copy(whim.__file__, directory / "1" / "model.py")
    port = 'datatype = "INT64"\nshape = [-1, -1]\nbatch_axis = 0\n'
    (directory / "model.toml").write_text(
        f'[[input]]\nname = "x"\n{port}[[output]]\nname = "y"\n{port}'
        f'[parameters]\narmed = "{armed}"\nwitness = "{witness}"\n'
    )


def ask_whim(chance: random.Random, serial: int, order: str = "fine", copies: int = 0) -> Question:
    """One row. A guilty one's bytes tell nothing but its serial, so that one sent again is the same request."""
    values = [chance.randrange(1 << 40) for _ in range(5)] if order == "fine" else [0] * 5
    x = np.array([[whim.MARK, serial, whim.ORDERS.index(order), *values]], np.int64)

    def check(answer: Answer, version: str) -> str:
        return "" if np.array_equal(answer["y"], x * 3 + 1) else "y is not this request's"

    return Question("whim", (int64("x", x),), check, serial, order != "fine")


# The demo model: a real encoder, whose answers onnxruntime gave before, without any server.


class Texts:
    """Token ids that stand for texts, and their embeddings."""

    def __init__(self, source: Path = DEMO) -> None:
        if not (source / "1" / "model.onnx").exists():
            raise SystemExit(f"there is no demo model in {source}: make models/minilm/1/model.onnx")
        self._source = source
        chance = np.random.default_rng(11)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        session = onnxruntime.InferenceSession(str(source / "1" / "model.onnx"), options)
        self._known: list[tuple[tuple[Tensor, ...], dict[str, Array]]] = []
        names = [port.name for port in session.get_outputs() if len(port.shape) == 2]
        for _ in range(_TEXTS):
            length = int(np.clip(chance.lognormal(np.log(24), 0.8), 3, _LONGEST_TEXT))
            ids = chance.integers(1000, 20000, (1, length), np.int64)
            feeds = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
            feeds = {port.name: feeds[port.name] for port in session.get_inputs()}
            truth = dict(zip(names, session.run(names, feeds), strict=True))
            self._known.append((tuple(int64(name, values) for name, values in feeds.items()), truth))

    def write(self, repository: Path) -> None:
        shutil.copytree(self._source, repository / "minilm")

    def ask(self, chance: random.Random) -> Question:
        inputs, truth = chance.choice(self._known)

        def check(answer: Answer, version: str) -> str:
            for name, values in answer.items():
                if name not in truth or not np.allclose(values, truth[name], rtol=TOLERANCE, atol=TOLERANCE):
                    return f"{name} is not this text's"
            return "" if answer else "no output"

        return Question("minilm", inputs, check)
