"""Reads what a model's inputs are padded with from the `tokenizer.json` beside it."""

from pathlib import Path

import msgspec

_PAD_TOKENS = frozenset({"[PAD]", "<pad>", "<|pad|>", "<|padding|>"})


class _Padding(msgspec.Struct):
    pad_id: int = 0


class _Token(msgspec.Struct):
    id: int
    content: str


class _Tokenizer(msgspec.Struct):
    padding: _Padding | None = None
    added_tokens: list[_Token] = []


def pad_id(directory: Path) -> int:
    """The padding token's id: as the tokenizer pads, else the token that looks like it; 0 if neither can be read."""
    try:
        tokenizer = msgspec.json.decode((directory / "tokenizer.json").read_bytes(), type=_Tokenizer)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return 0
    found = [token.id for token in tokenizer.added_tokens if token.content in _PAD_TOKENS]
    return max(0, tokenizer.padding.pad_id if tokenizer.padding is not None else found[0] if found else 0)
