"""Reads what a command line says of inputs, for sources that do not tell: `ids=INT64[batch,sequence]`."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from sluice.errors import ConfigError
from sluice.spec import NUMPY_TYPES

EXAMPLE = "--input input_ids=INT64[batch,sequence]"
_INPUT = re.compile(r"([A-Za-z_][\w.]*)=(\w+)\[([^\[\]]*)\]", re.ASCII)
_NAME = re.compile(r"[A-Za-z_]\w*", re.ASCII)

Dims = tuple[int | str, ...]


@dataclass(frozen=True, slots=True)
class SaidInput:
    name: str
    datatype: str
    dims: Dims  # a size, or the name of any size

    def __str__(self) -> str:
        return f"{self.name}={self.datatype}[{','.join(map(str, self.dims))}]"


def parse(texts: Iterable[str]) -> tuple[SaidInput, ...]:
    """ConfigError names the one that makes no sense."""
    found = [_one(text) for text in texts]
    names = [each.name for each in found]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice:
        raise ConfigError(f"--input: '{twice}' is said twice")
    return tuple(found)


def _one(text: str) -> SaidInput:
    parts = _INPUT.fullmatch(text.replace(" ", ""))
    if parts is None:
        raise ConfigError(f"--input: {text!r} is not NAME=DATATYPE[sizes], as in {EXAMPLE}")
    name, datatype, sizes = parts.groups()
    if datatype not in NUMPY_TYPES:
        raise ConfigError(f"--input: {name}: {datatype!r} is no datatype; there are {', '.join(NUMPY_TYPES)}")
    return SaidInput(name, datatype, tuple(_dim(name, size) for size in sizes.split(",")) if sizes else ())


def _dim(name: str, text: str) -> int | str:
    if text.isascii() and text.isdigit() and int(text) > 0:
        return int(text)
    if not _NAME.fullmatch(text):
        raise ConfigError(f"--input: {name}: {text!r} is neither a size from 1 nor the name of any size")
    return text
