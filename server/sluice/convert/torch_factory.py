"""A Python function that makes a module of PyTorch, as a thing to be imported.

It returns the module and examples of what it takes, `(module, {"input_ids": tensor, …})`, and if not all but the first
axis are of fixed size, also which are free: `{"x": {0: "batch", 1: "time"}}`.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

from sluice.convert.making import Made, Progress, first_line
from sluice.convert.said_inputs import Dims, SaidInput
from sluice.convert.torch_export import Program, export, flat, usual_dims, varied, with_said
from sluice.convert.torch_program import copy_tokenizer, write_exported
from sluice.errors import ModelError

_RETURNS = "must return (module, examples), or (module, examples, names of free axes)"


@dataclass(frozen=True)
class Factory:
    """`module` is a file, or the name of a module that can be imported from here."""

    module: str
    function: str
    inputs: tuple[SaidInput, ...] = ()
    tokenizer: Path | None = None
    files: tuple[Path, ...] = ()  # nobody knows what code reads

    @property
    def place(self) -> Path:
        path = Path(self.module)
        return path if path.is_file() else Path(f"{self.module.replace('.', '/')}.py")

    @property
    def said(self) -> tuple[str, ...]:
        return (self.function, *map(str, self.inputs))

    def make(self, staging: Path, progress: Progress) -> Made:
        before = list(sys.path)
        try:
            return self._make(staging, progress)
        finally:
            sys.path[:] = before

    def _make(self, staging: Path, progress: Progress) -> Made:
        import torch  # noqa: F401 - that it is missing is clearer said by us than by somebody's file

        progress("load", 0, 1)
        given = self._called()
        progress("load", 1, 1)
        program, module = self._program(given)
        program = varied(with_said(program, self.inputs))
        settings = write_exported(export(program, module), program, staging, progress)
        copy_tokenizer(self.tokenizer, staging)
        return Made(settings=settings)

    def _called(self) -> Any:
        shown = f"{self.module}:{self.function}"
        try:
            function = getattr(self._module(), self.function, None)
        except Exception as error:  # whatever the file raises
            raise ModelError(f"{shown}: cannot be read: {type(error).__name__}: {first_line(error)}") from error
        if not callable(function):
            raise ModelError(f"{shown}: there is no function of this name")
        try:
            return function()
        except Exception as error:
            raise ModelError(f"{shown}: it raised {type(error).__name__}: {first_line(error)}") from error

    def _module(self) -> ModuleType:
        """From its file, beside which its own imports are looked for, or by its name."""
        path = Path(self.module)
        if not path.is_file():
            sys.path.insert(0, str(Path.cwd()))
            return importlib.import_module(self.module)
        sys.path.insert(0, str(path.resolve().parent))
        name = f"imported_{path.stem}"  # not that of a module which others mean
        spec = importlib.util.spec_from_file_location(name, path)
        if spec is None or spec.loader is None:
            raise ModelError(f"{path}: is not a Python file")
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
        return module

    def _program(self, given: Any) -> tuple[Program, Any]:
        """The program, and a module of torch that does the same."""
        import torch

        shown = f"{self.module}:{self.function}"
        if not isinstance(given, tuple) or len(given) not in (2, 3) or not isinstance(given[0], torch.nn.Module):
            raise ModelError(f"{shown}: {_RETURNS}, and returned {_told(given)}")
        module, examples = given[0].eval(), given[1]
        by_name = isinstance(examples, Mapping)
        if isinstance(examples, torch.Tensor):
            examples = (examples,)
        names = list(examples) if by_name else _parameters(module, len(examples))
        tensors = tuple(examples.values()) if by_name else tuple(examples)
        for name, tensor in zip(names, tensors, strict=True):
            if not isinstance(tensor, torch.Tensor):
                raise ModelError(f"{shown}: example '{name}' is {type(tensor).__name__}, and must be a tensor")
        free = given[2] if len(given) == 3 else {}
        dims = tuple(self._dims(name, tensor, free) for name, tensor in zip(names, tensors, strict=True))

        def call(inner: Any, *given: Any) -> Any:
            return inner(**dict(zip(names, given, strict=True))) if by_name else inner(*given)

        program = Program(partial(call, module), tuple(names), tensors, dims)
        return program, flat(module, call)

    def _dims(self, name: str, tensor: Any, free: Any) -> Dims:
        if not isinstance(free, Mapping) or name not in free:
            return usual_dims(name, tensor.shape)
        named = free[name]
        dims: list[int | str] = list(tensor.shape)
        for axis, size in named.items():
            if not isinstance(axis, int) or not 0 <= axis < len(dims) or not isinstance(size, str):
                raise ModelError(
                    f"{self.module}:{self.function}: free axes of '{name}': {axis!r}: {size!r} is no axis of "
                    f"{list(tensor.shape)} with the name of its size"
                )
            dims[axis] = size
        return tuple(dims)


def _parameters(module: Any, count: int) -> list[str]:
    """The names of the module's first parameters."""
    known = [
        name
        for name, each in inspect.signature(module.forward).parameters.items()
        if each.kind in (each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD)
    ]
    return known[:count] if len(known) >= count else [f"input_{number}" for number in range(count)]


def _told(given: Any) -> str:
    if isinstance(given, tuple):
        return f"({', '.join(type(each).__name__ for each in given)})"
    return type(given).__name__
