"""Texts of so many tokens, made of a tokenizer's own words, and models that read them."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from loadtests.bodies import FLOATS

CHEAP = "cheap"
TOKENIZER = "tokenizer.json"


class Words:
    """Draws texts, the same on every run."""

    def __init__(self, tokenizer: Path, seed: int = 7) -> None:
        vocabulary = json.loads(tokenizer.read_text("utf-8"))["model"]["vocab"]
        self._words = sorted(word for word in vocabulary if word.isascii() and word.isalpha() and word.islower())
        self._chance = random.Random(seed)

    def text(self, tokens: int) -> str:
        """One that its model sees as so many tokens, the first and the last of which are special."""
        return " ".join(self._chance.choices(self._words, k=max(1, tokens - 2)))

    def texts(self, lengths: Sequence[int]) -> list[str]:
        return [self.text(length) for length in lengths]


def write_cheap(repository: Path, tokenizer: Path) -> None:
    """A model that reads texts and computes next to nothing: float32[384] for each, of the sum of its tokens."""
    import numpy as np
    from onnx import TensorProto, checker, helper, numpy_helper, save

    inputs = [
        helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "sequence"])
        for name in ("input_ids", "attention_mask")
    ]
    output = helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["batch", FLOATS])
    table = np.linspace(0.5, 1.5, FLOATS, dtype=np.float32)[None]
    constants: dict[str, Any] = {"along": np.array([1], np.int64), "table": table}
    nodes = [
        helper.make_node("Mul", ["input_ids", "attention_mask"], ["tokens"]),
        helper.make_node("ReduceSum", ["tokens", "along"], ["sum"], keepdims=1),
        helper.make_node("Cast", ["sum"], ["number"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["number", "table"], ["embedding"]),
    ]
    tables = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, CHEAP, inputs, [output], tables)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    checker.check_model(model)
    directory = repository / CHEAP / "1"
    directory.mkdir(parents=True)
    save(model, str(directory / "model.onnx"))
    shutil.copy(tokenizer, directory / TOKENIZER)
    (repository / CHEAP / "model.toml").write_text("max_length = 512\n")
