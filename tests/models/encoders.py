"""Small models that take texts: a tokenizer of a hundred words, and graphs that look each word up in a table."""

from pathlib import Path
from typing import Any

import graphs
import numpy as np
from onnx import TensorProto, helper

MARKS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
WORDS = tuple(first + second for first in "bdfgklmnprst" for second in ("a", "e", "i", "o", "u", "an", "en", "on"))[:95]
VOCABULARY = (*MARKS, *WORDS)
WIDTH = 8

Array = np.ndarray[Any, Any]


def tokenizer(directory: Path, marks: bool = True) -> Path:
    """A word is a token, between two marks."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    made = Tokenizer(models.WordLevel({word: number for number, word in enumerate(VOCABULARY)}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.add_special_tokens(list(MARKS))
    if marks:
        made.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
        )
    made.enable_padding(length=16)  # as many are saved; nobody wants it here
    made.enable_truncation(64)
    made.save(str(directory / "tokenizer.json"))
    return directory


def table(noise: float = 0.0) -> Array:
    """The words' vectors, the same ones each time but for noise."""
    words = np.random.default_rng(0).standard_normal((len(VOCABULARY), WIDTH))
    return (words + noise * np.random.default_rng(1).standard_normal(words.shape)).astype(np.float32)


def encoder(
    repository: Path, version: str = "1", vectors: Array | None = None, classes: int = 0, name: str = "words"
) -> Path:
    """input_ids, attention_mask [batch, sequence] -> the mean vector of the words as `embedding` [batch, 8], or scores
    made of it as `logits` [batch, classes]. Padding changes nothing. Returns the version's directory."""
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["vectors"], axis=0),
        helper.make_node("Cast", ["attention_mask"], ["mask"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["mask", "last"], ["wide"]),
        helper.make_node("Mul", ["vectors", "wide"], ["kept"]),
        helper.make_node("ReduceSum", ["kept", "middle"], ["sum"], keepdims=0),
        helper.make_node("ReduceSum", ["mask", "middle"], ["count"], keepdims=1),
        helper.make_node("Div", ["sum", "count"], ["embedding"]),
    ]
    constants: dict[str, Array] = {
        "table": table() if vectors is None else vectors,
        "last": np.array([2], np.int64),
        "middle": np.array([1], np.int64),
    }
    outputs = [graphs.value("embedding", "FP32", ["batch", WIDTH])]
    if classes:
        nodes.append(helper.make_node("MatMul", ["embedding", "head"], ["logits"]))
        constants["head"] = np.random.default_rng(2).standard_normal((WIDTH, classes)).astype(np.float32)
        outputs = [graphs.value("logits", "FP32", ["batch", classes])]
    inputs = [graphs.value(one, "INT64", ["batch", "sequence"]) for one in ("input_ids", "attention_mask")]
    path = graphs.save(repository / name / version / "model.onnx", nodes, inputs, outputs, constants)
    return tokenizer(path.parent)


def spoiled(word: str, value: float = float("nan")) -> Array:
    """A table in which one word's vector is no number."""
    vectors = table()
    vectors[VOCABULARY.index(word)] = value
    return vectors
