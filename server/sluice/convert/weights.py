"""Reads weights from safetensors files, one tensor at a time, widened to 32 bits."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from sluice.errors import ModelError

FLOATS = ("F32", "F16", "BF16", "F64")
# Checkpoints converted from TensorFlow kept its names for the two parameters of a layer norm.
OLD_NAMES = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}


class Weights:
    """Every tensor of a model, whichever of its files holds it. A context manager: files close at the end."""

    def __init__(self, files: Iterable[Path]) -> None:
        self._files = tuple(files)
        self._stack = ExitStack()
        self._holders: dict[str, Any] = {}
        self.prefix = ""

    def __enter__(self) -> Weights:
        for path in self._files:
            try:
                holder = self._stack.enter_context(safe_open(path, framework="np"))
            except (SafetensorError, OSError) as error:
                self._stack.close()
                raise ModelError(f"{path.name}: not a readable safetensors file: {error}") from error
            self._holders.update(dict.fromkeys(holder.keys(), holder))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._holders.clear()
        self._stack.close()

    def find_prefix(self, landmark: str) -> None:
        """Let the names asked for from here on start where this one was found ("bert." in a model with a head)."""
        found = [name.removesuffix(landmark) for name in self._holders if f".{name}".endswith(f".{landmark}")]
        if len(found) != 1:
            problem = "has no" if not found else "has more than one"
            raise ModelError(f"{self._where()}: {problem} weight named {landmark}")
        self.prefix = found[0]

    def __contains__(self, name: str) -> bool:
        return self._stored_name(name) is not None

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._holder(name).get_slice(self._stored_name(name)).get_shape())

    def take(self, name: str, shape: tuple[int, ...]) -> np.ndarray[Any, np.dtype[np.float32]]:
        """One tensor of exactly this shape; names of a head's weights are looked up without the prefix."""
        holder, stored = self._holder(name), self._stored_name(name)
        part = holder.get_slice(stored)
        if part.get_dtype() not in FLOATS:
            raise ModelError(f"{self._where()}: {stored} is {part.get_dtype()}, expected one of {', '.join(FLOATS)}")
        if tuple(part.get_shape()) != shape:
            raise ModelError(f"{self._where()}: {stored} has shape {part.get_shape()}, expected {list(shape)}")
        array: np.ndarray[Any, np.dtype[np.float32]] = holder.get_tensor(stored).astype(np.float32, copy=False)
        return array

    def _holder(self, name: str) -> Any:
        stored = self._stored_name(name)
        if stored is None:
            raise ModelError(f"{self._where()}: has no weight named {self.prefix}{name}")
        return self._holders[stored]

    def _stored_name(self, name: str) -> str | None:
        names = [name]
        names += [name.replace(new, old) for new, old in OLD_NAMES.items() if name.endswith(new)]
        return next((p + n for n in names for p in (self.prefix, "") if p + n in self._holders), None)

    def _where(self) -> str:
        return self._files[0].name if len(self._files) == 1 else f"{self._files[0].parent.name}/*.safetensors"
