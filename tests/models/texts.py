"""Tiny models that read texts, and whose answers can be checked by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import graphs
import numpy as np
import onnx
import tokenizers
from onnx import TensorProto, helper

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
WORDS = ["red", "green", "blue", "cat", "dog", "Anna", "Berlin", "lives", "in", "New", "York", "."]
VOCABULARY = [*SPECIAL, *WORDS]
LABELS = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]

# Each token's vector: which of the first three colours it is, and 1.
TABLE = np.array([[float(word == colour) for colour in WORDS[:3]] + [1.0] for word in VOCABULARY], np.float32)


def tokenizer(directory: Path) -> tokenizers.Tokenizer:
    """Words of the vocabulary, [CLS] and [SEP] around them; written beside a model."""
    numbers = {word: index for index, word in enumerate(VOCABULARY)}
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel(numbers, unk_token="[UNK]"))
    made.add_special_tokens(SPECIAL)
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    made.post_processor = tokenizers.processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "tokenizer.json").write_text(made.to_str())
    return made


def _nodes(*more: onnx.NodeProto) -> list[onnx.NodeProto]:
    """From tokens to their vectors, those of padding zero, and what follows."""
    return [
        helper.make_node("Gather", ["table", "input_ids"], ["vectors"]),
        helper.make_node("Cast", ["attention_mask"], ["ones"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["ones", "last"], ["mask"]),
        helper.make_node("Mul", ["vectors", "mask"], ["states"]),
        *more,
    ]


def _save(
    repository: Path, name: str, nodes: list[onnx.NodeProto], outputs: list[onnx.ValueInfoProto], settings: str,
    types: bool = False, **constants: Any,
) -> Path:  # fmt: skip
    names = ["input_ids", "attention_mask", *(["token_type_ids"] if types else [])]
    inputs = [graphs.value(one, "INT64", ["batch", "sequence"]) for one in names]
    tables: dict[str, Any] = {
        "table": TABLE,
        "last": np.array([2], np.int64),
        "axis": np.array([1], np.int64),
    } | constants
    used = {name for node in nodes for name in node.input}
    graphs.save(
        repository / name / "1" / "model.onnx",
        nodes,
        inputs,
        outputs,
        {key: value for key, value in tables.items() if key in used},
    )
    tokenizer(repository / name / "1")
    (repository / name / "model.toml").write_text(settings)
    return repository / name


def embedder(repository: Path, name: str = "embedder", settings: str = "max_length = 16\n") -> Path:
    """The mean of the tokens' vectors, and all of them."""
    nodes = _nodes(
        helper.make_node("ReduceSum", ["states", "axis"], ["total"], keepdims=0),
        helper.make_node("ReduceSum", ["mask", "axis"], ["count"], keepdims=0),
        helper.make_node("Div", ["total", "count"], ["embedding"]),
        helper.make_node("Identity", ["states"], ["token_embeddings"]),
    )
    outputs = [
        graphs.value("embedding", "FP32", ["batch", 4]),
        graphs.value("token_embeddings", "FP32", ["batch", "sequence", 4]),
    ]
    plain = '\n[[output]]\nname = "token_embeddings"\ndefault = false\n'
    return _save(repository, name, nodes, outputs, settings + plain)


def vector(text: str) -> np.ndarray[Any, Any]:
    """What the embedder says, unnormalised."""
    numbers = [VOCABULARY.index(word) if word in VOCABULARY else 1 for word in text.split()]
    return np.asarray(TABLE[[2, *numbers, 3]].mean(axis=0))


def classifier(repository: Path, name: str = "classifier") -> Path:
    """How many words of each colour there are."""
    nodes = _nodes(
        helper.make_node("ReduceSum", ["states", "axis"], ["total"], keepdims=0),
        helper.make_node("Gather", ["total", "colours"], ["logits"], axis=1),
    )
    outputs = [graphs.value("logits", "FP32", ["batch", 3])]
    settings = '[[output]]\nname = "logits"\nlabels = ["red", "green", "blue"]\n'
    return _save(repository, name, nodes, outputs, settings, colours=np.array([0, 1, 2], np.int64))


def tagger(repository: Path, name: str = "ner") -> Path:
    """Names of people and places."""
    meaning = {"Anna": "B-PER", "Berlin": "B-LOC", "New": "B-LOC", "York": "I-LOC"}
    table = np.array([[8.0 * (meaning.get(word, "O") == label) for label in LABELS] for word in VOCABULARY], np.float32)
    nodes = _nodes(helper.make_node("Identity", ["states"], ["logits"]))
    outputs = [graphs.value("logits", "FP32", ["batch", "sequence", len(LABELS)])]
    settings = f'[[output]]\nname = "logits"\nlabels = {LABELS}\n'.replace("'", '"')
    return _save(repository, name, nodes, outputs, settings, table=table)


def reranker(repository: Path, name: str = "reranker") -> Path:
    """How red the second text is."""
    nodes = _nodes(
        helper.make_node("Cast", ["token_type_ids"], ["types"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["types", "last"], ["second"]),
        helper.make_node("Mul", ["states", "second"], ["own"]),
        helper.make_node("ReduceSum", ["own", "axis"], ["total"], keepdims=0),
        helper.make_node("Gather", ["total", "red"], ["logits"], axis=1),
    )
    outputs = [graphs.value("logits", "FP32", ["batch", 1])]
    settings = '[text]\ntask = "rerank"\n'
    return _save(repository, name, nodes, outputs, settings, types=True, red=np.array([0], np.int64))


def splade(repository: Path, name: str = "splade", table: Any = None) -> Path:
    """For each token, itself, or its row of the table."""
    table = np.eye(len(VOCABULARY), dtype=np.float32) * 2 - 1 if table is None else table
    nodes = _nodes(helper.make_node("Identity", ["states"], ["logits"]))
    outputs = [graphs.value("logits", "FP32", ["batch", "sequence", table.shape[1]])]
    return _save(repository, name, nodes, outputs, '[text]\ntask = "sparse"\n', table=table)


_READER = """
class Model:
    def load(self, directory, parameters): ...

    def run(self, inputs):
        if (inputs["input_ids"] == 8).any():
            raise RuntimeError("no dogs")
        return {"count": inputs["attention_mask"].sum(axis=1, keepdims=True)}
"""


def reader(repository: Path, name: str = "reader", more: str = "") -> Path:
    """How many tokens there are, one text at a time; it raises for a dog."""
    directory = repository / name
    tokenizer(directory / "1")
    (directory / "1" / "model.py").write_text(_READER)
    inputs = "".join(
        f'[[input]]\nname = "{one}"\ndatatype = "INT64"\nshape = [-1, -1]\nbatch_axis = 0\nsequence_axis = 1\n'
        for one in ("input_ids", "attention_mask")
    )
    output = '[[output]]\nname = "count"\ndatatype = "INT64"\nshape = [-1, 1]\nbatch_axis = 0\n'
    (directory / "model.toml").write_text(f"max_batch_rows = 1\n{more}{inputs}{output}")
    return directory


def all_of_them(repository: Path) -> Path:
    for make in (embedder, classifier, tagger, reranker, splade):
        make(repository)
    return repository
