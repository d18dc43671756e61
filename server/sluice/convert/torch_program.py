"""Programs of PyTorch as things to be imported: those of torch.export (.pt2) and of TorchScript (.pt).

Reading either can run code, so nobody gets here without having allowed it.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sluice.convert import torch_export
from sluice.convert.making import MODEL, Made, Progress, first_line, save
from sluice.convert.said_inputs import EXAMPLE, Dims, SaidInput
from sluice.convert.torch_check import Bounds, check
from sluice.convert.torch_export import BATCH, SEQUENCE, TOKENIZED, Program, output_names, quiet
from sluice.errors import ModelError

TOKENIZER = "tokenizer.json"


@dataclass(frozen=True)
class Exported:
    """What torch.export.save wrote."""

    path: Path
    inputs: tuple[SaidInput, ...] = ()
    tokenizer: Path | None = None

    @property
    def place(self) -> Path:
        return self.path

    @property
    def files(self) -> tuple[Path, ...]:
        return (self.path, *([self.tokenizer] if self.tokenizer else []))

    @property
    def said(self) -> tuple[str, ...]:
        return tuple(map(str, self.inputs))

    def make(self, staging: Path, progress: Progress) -> Made:
        import torch

        progress("load", 0, 1)
        try:
            with quiet():
                exported = torch.export.load(self.path)
        except Exception as error:  # whatever a damaged file is the reason of
            raise ModelError(f"{self.path}: is not readable as an exported program: {first_line(error)}") from error
        progress("load", 1, 1)
        program = torch_export.with_said(_program_of(exported), self.inputs)
        write_exported(exported, program, staging, progress)
        copy_tokenizer(self.tokenizer, staging)
        return Made()


@dataclass(frozen=True)
class Scripted:
    """What torch.jit.save wrote. It does not say what it takes."""

    path: Path
    inputs: tuple[SaidInput, ...] = ()
    tokenizer: Path | None = None

    @property
    def place(self) -> Path:
        return self.path

    @property
    def files(self) -> tuple[Path, ...]:
        return (self.path, *([self.tokenizer] if self.tokenizer else []))

    @property
    def said(self) -> tuple[str, ...]:
        return tuple(map(str, self.inputs))

    def make(self, staging: Path, progress: Progress) -> Made:
        import torch

        if not self.inputs:
            raise ModelError(f"{self.path}: does not say what it takes; say {EXAMPLE} for each of its inputs")
        progress("load", 0, 1)
        try:
            with quiet():
                module = torch.jit.load(str(self.path), map_location="cpu").eval()
        except Exception as error:
            raise ModelError(f"{self.path}: is not readable as TorchScript: {first_line(error)}") from error
        progress("load", 1, 1)
        program = torch_export.varied(_drawn(module, self.inputs))
        progress("export", 0, 1)
        outputs = output_names(_first_answer(program), program.names)
        flat = torch_export.flat(module, lambda inner, *tensors: inner(*tensors))
        model = torch_export.graph_of_script(flat, program, outputs)
        progress("export", 1, 1)
        _write(model, program, {}, staging, progress)
        copy_tokenizer(self.tokenizer, staging)
        return Made()


def write_exported(exported: Any, program: Program, staging: Path, progress: Progress) -> None:
    """The graph of an exported program, compared with what the program itself gives."""
    progress("export", 0, 1)
    outputs = output_names(_first_answer(program), program.names)
    model = torch_export.graph_of_export(exported, program, outputs)
    progress("export", 1, 1)
    _write(model, program, torch_export.bounds_of(exported, program), staging, progress)


def _write(model: Any, program: Program, bounds: Bounds, staging: Path, progress: Progress) -> None:
    save(model, staging)
    progress("check", 0, 1)
    check(program, staging / MODEL, bounds)
    progress("check", 1, 1)


def _first_answer(program: Program) -> Any:
    import torch

    try:
        with torch.no_grad(), quiet():
            return program.call(*program.examples)
    except Exception as error:  # whatever the program raises
        raise ModelError(f"the program does not run with its examples: {first_line(error)}") from error


def copy_tokenizer(path: Path | None, staging: Path) -> None:
    if path is not None:
        shutil.copyfile(path, staging / TOKENIZER)


def _program_of(exported: Any) -> Program:
    """With the examples that were saved, and names for the sizes that are free."""
    import torch
    from torch.utils import _pytree

    nodes = torch_export.placeholders(exported)
    given = exported.example_inputs
    saved = None if given is None else _pytree.tree_leaves(given)
    examples, dims = [], []
    for number, node in enumerate(nodes):
        value = node.meta.get("val")
        if not isinstance(value, torch.Tensor):
            raise ModelError(f"its input '{node.name}' is no tensor, and cannot be given by a request")
        if saved is None or len(saved) != len(nodes):
            raise ModelError("it was saved without the examples it was exported with; save it with them")
        examples.append(saved[number])
        dims.append(_dims(node.name, value.shape))
    module = exported.module()

    def call(*tensors: Any) -> Any:
        args, kwargs = _pytree.tree_unflatten(list(tensors), exported.call_spec.in_spec)
        return module(*args, **kwargs)

    return Program(call, tuple(node.name for node in nodes), tuple(examples), _named(dims))


def _dims(name: str, shape: Any) -> Dims:
    """Sizes as torch calls them, but the usual names where they are plain."""
    dims: list[int | str] = [size if isinstance(size, int) else str(size) for size in shape]
    if name in TOKENIZED and len(dims) == 2 and isinstance(dims[1], str) and dims[1].isidentifier():
        dims[1] = f"{SEQUENCE}:{dims[1]}"
    return tuple(dims)


def _named(dims: list[Dims]) -> tuple[Dims, ...]:
    """The size that all inputs have first is the batch; those of tokens' second axes are the sequence."""
    firsts = {each[0] for each in dims if each}
    first = firsts.pop() if len(firsts) == 1 else None
    names: dict[int | str, str] = {}
    if isinstance(first, str) and first.isidentifier():
        names[first] = BATCH
    sequences = {str(dim).partition(":")[2] for each in dims for dim in each if str(dim).startswith(f"{SEQUENCE}:")}
    if len(sequences) == 1:
        names[sequences.pop()] = SEQUENCE
    plain = [[str(dim).partition(":")[2] if isinstance(dim, str) and ":" in dim else dim for dim in each] for each in dims]
    return tuple(tuple(names.get(dim, dim) for dim in each) for each in plain)


def _drawn(module: Any, inputs: Sequence[SaidInput]) -> Program:
    """Made-up examples: numbers around 0, and whole ones from 0 to 9, which every vocabulary has."""
    import torch

    known = torch_export.dtypes()
    random = torch.Generator().manual_seed(13)
    examples = []
    for said in inputs:
        dtype = known.get(said.datatype)
        if dtype is None:
            raise ModelError(f"--input: {said.name}: torch has no {said.datatype} that could be compared")
        shape = [dim if isinstance(dim, int) else 4 for dim in said.dims]
        drawn = torch.randn(shape, generator=random) if dtype.is_floating_point else torch.randint(0, 10, shape, generator=random)  # fmt: skip
        examples.append((drawn > 4 if dtype == torch.bool else drawn).to(dtype))
    return Program(module, tuple(said.name for said in inputs), tuple(examples), tuple(said.dims for said in inputs))
