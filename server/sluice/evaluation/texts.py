"""Texts as a model's inputs: the tokenizer of a version's directory, and texts made of its own words."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np

from sluice.errors import ModelError
from sluice.spec import NUMPY_TYPES, ModelSpec, TensorSpec
from sluice.store.repository import VersionFiles

FILE = "tokenizer.json"
LONGEST = 512  # tokens where nothing says how many a model takes

Array = np.ndarray[Any, Any]

# What of an encoding each input takes that is known from tokenizers.
_PARTS = {
    "input_ids": "ids",
    "input_word_ids": "ids",
    "attention_mask": "attention_mask",
    "input_mask": "attention_mask",
    "token_type_ids": "type_ids",
    "segment_ids": "type_ids",
    "input_type_ids": "type_ids",
    "position_ids": "positions",
}
_PORT_NUMBER = re.compile(r":\d+$")  # TensorFlow's, as in input_ids:0
_MOST_WORDS = 20_000  # read of a vocabulary; the frequent ones come first in most
_SENSIBLE = 1_000_000  # a tokenizer that knows no limit writes 1e30
# A text's words come from a topic of its own so often, so that some texts are near each other as real ones are.
_TOPIC_SHARE, _TOPIC_WORDS, _TEXTS_OF_A_TOPIC = 0.4, 12, 6


class _Truncation(msgspec.Struct):
    max_length: int | None = None


class _Settings(msgspec.Struct):
    truncation: _Truncation | None = None


class _Configuration(msgspec.Struct):
    model_max_length: float | None = None


def takes_tokens(spec: ModelSpec) -> bool:
    """Whether a tokenizer makes its inputs."""
    return any(_part(tensor) == "ids" for tensor in spec.inputs)


def has_tokenizer(directory: Path) -> bool:
    return (directory / FILE).is_file()


def longest(files: VersionFiles) -> int:
    """The most tokens it takes: as its operator says, else as its tokenizer's files do."""
    if files.settings.max_length:
        return files.settings.max_length
    for name, kind in (("tokenizer_config.json", _Configuration), (FILE, _Settings)):
        try:
            said = msgspec.json.decode((files.directory / name).read_bytes(), type=kind)
        except (OSError, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            continue
        limit = said.truncation.max_length if isinstance(said, _Settings) and said.truncation else None
        limit = getattr(said, "model_max_length", limit)
        if limit is not None and 0 < limit <= _SENSIBLE:
            return int(limit)
    return LONGEST


class Tokenizer:
    """Makes one model's inputs of texts."""

    def __init__(self, files: VersionFiles, spec: ModelSpec) -> None:
        from tokenizers import Tokenizer as Reader  # an optional package

        path = files.directory / FILE
        if not path.is_file():
            raise ModelError(
                f"{files.model}/{files.version}: there is no {FILE}, which turns texts into {spec.inputs[0].name}; "
                f"put the tokenizer's file there, or give the model's inputs instead of texts"
            )
        try:
            self._reader = Reader.from_file(str(path))
        except Exception as error:  # tokenizers raises Exception itself
            raise ModelError(f"{files.model}/{files.version}/{FILE}: cannot be read: {error}") from error
        self._spec = spec
        fixed = [size for tensor in spec.inputs if _part(tensor) and (size := _fixed(tensor)) is not None]
        self.longest = min([longest(files), *fixed])
        self._reader.no_padding()
        self._reader.enable_truncation(self.longest)

    def inputs(self, text: str, pair: str | None = None) -> tuple[dict[str, Array], int]:
        """Every input of the model, with one row, and the length; ValueError if the text gives nothing to compute."""
        encoding = self._reader.encode(text, pair)
        length = len(encoding.ids)
        if length == 0:
            raise ValueError("the tokenizer makes no tokens of this text")
        return {tensor.name: self._input(tensor, encoding, length) for tensor in self._spec.inputs}, length

    def _input(self, tensor: TensorSpec, encoding: Any, length: int) -> Array:
        part = _part(tensor)
        axis = _token_axis(tensor)
        if not part or axis is None:
            if tensor.fill is None or any(size < 0 for size in _without_batch(tensor)):
                raise ValueError(f"no tokenizer makes input '{tensor.name}'; give the model's inputs instead of texts")
            shape = [1 if axis == tensor.batch_axis else size for axis, size in enumerate(tensor.shape)]
            return np.full(shape, tensor.fill, NUMPY_TYPES[tensor.datatype])
        values = list(range(length)) if part == "positions" else getattr(encoding, part)
        row = np.array(values, NUMPY_TYPES[tensor.datatype])
        size = _fixed(tensor)
        if size is not None and size > length:
            row = np.concatenate([row, np.full(size - length, tensor.pad, row.dtype)])
        shape = [1] * len(tensor.shape)
        shape[axis] = len(row)
        return row.reshape(shape)

    def spread(self, most: int) -> tuple[dict[str, Array], int]:
        """The inputs and length of so many tokens, from all over the vocabulary, with the last of it."""
        known = sorted(self._reader.get_vocab(with_added_tokens=True).values())
        count = min(most, self.longest, len(known))
        ids = [known[(number + 1) * len(known) // count - 1] for number in range(count)]
        encoding = SimpleNamespace(ids=ids, attention_mask=[1] * count, type_ids=[0] * count)
        return {tensor.name: self._input(tensor, encoding, count) for tensor in self._spec.inputs}, count

    def words(self) -> list[str]:
        """The words of its vocabulary, frequent ones first as far as it is sorted so."""
        vocabulary = sorted(self._reader.get_vocab(with_added_tokens=False).values())
        decoded = [self._reader.decode([number]).strip() for number in vocabulary[:_MOST_WORDS]]
        words = [word for word in decoded if len(word) > 1 and word.isalpha()]
        return words or [word for word in decoded if word] or ["a"]


def made_up(tokenizer: Tokenizer, lengths: Sequence[int], seed: int) -> list[str]:
    """A text of about so many tokens for each of the lengths."""
    random = np.random.default_rng((seed, 3))
    words = np.array(tokenizer.words(), dtype=object)
    frequency = 1.0 / (np.arange(len(words)) + 20.0)
    frequency /= frequency.sum()
    topics = [random.choice(words, _TOPIC_WORDS) for _ in range(1 + len(lengths) // _TEXTS_OF_A_TOPIC)]
    made = []
    for length in lengths:
        count = max(1, length - 2)  # a tokenizer's two marks
        topic = topics[random.integers(len(topics))]
        general, special = random.choice(words, count, p=frequency), random.choice(topic, count)
        made.append(" ".join(np.where(random.random(count) < _TOPIC_SHARE, special, general)))
    return made


def _part(tensor: TensorSpec) -> str:
    """What of an encoding it takes; "" = nothing."""
    return _PARTS.get(_PORT_NUMBER.sub("", tensor.name), "")


def is_mask(tensor: TensorSpec) -> bool:
    """Whether it says which tokens count."""
    return _part(tensor) == "attention_mask"


def _without_batch(tensor: TensorSpec) -> list[int]:
    return [size for axis, size in enumerate(tensor.shape) if axis != tensor.batch_axis]


def _token_axis(tensor: TensorSpec) -> int | None:
    """Where its tokens are: the sequence axis, else the only one that is not the batch."""
    if tensor.sequence_axis is not None:
        return tensor.sequence_axis
    others = [axis for axis, size in enumerate(tensor.shape) if axis != tensor.batch_axis and size != 1]
    return others[-1] if others else None


def _fixed(tensor: TensorSpec) -> int | None:
    """How many tokens it takes exactly; None = any number."""
    axis = _token_axis(tensor)
    return tensor.shape[axis] if axis is not None and tensor.shape[axis] >= 0 else None
