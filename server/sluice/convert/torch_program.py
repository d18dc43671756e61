"""Programs of PyTorch as things to be imported: those of torch.export (.pt2) and of TorchScript (.pt).

Reading either can run code, so nobody gets here without having allowed it.
"""

from __future__ import annotations

import shutil
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sluice.convert import torch_export
from sluice.convert.making import MODEL, Made, Progress, first_line, save
from sluice.convert.said_inputs import EXAMPLE, Dims, SaidInput
from sluice.convert.settings_file import HEADING, text_of
from sluice.convert.torch_check import Bounds, check
from sluice.convert.torch_export import BATCH, SEQUENCE, TOKENIZED, Program, output_names, quiet
from sluice.errors import ModelError

TOKENIZER = "tokenizer.json"


@dataclass(frozen=True)
class _Saved:
    """A file of a program, and what is said of it."""

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


@dataclass(frozen=True)
class Exported(_Saved):
    """What torch.export.save wrote."""

    def make(self, staging: Path, progress: Progress) -> Made:
        import torch

        progress("load", 0, 1)
        _must_be_sound(self.path)
        try:
            with quiet():
                exported = torch.export.load(self.path)
        except Exception as error:  # whatever a damaged file is the reason of
            raise ModelError(f"{self.path}: is not readable as an exported program: {first_line(error)}") from error
        progress("load", 1, 1)
        program = torch_export.with_said(_program_of(exported), self.inputs)
        settings = write_exported(exported, program, staging, progress)
        copy_tokenizer(self.tokenizer, staging)
        return Made(settings=settings)


@dataclass(frozen=True)
class Scripted(_Saved):
    """What torch.jit.save wrote. It does not say what it takes."""

    def make(self, staging: Path, progress: Progress) -> Made:
        import torch

        if not self.inputs:
            raise ModelError(f"{self.path}: does not say what it takes; say {EXAMPLE} for each of its inputs")
        progress("load", 0, 1)
        _must_be_sound(self.path)
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


def write_exported(exported: Any, program: Program, staging: Path, progress: Progress) -> str:
    """The graph of an exported program, compared with what the program itself gives; returns its settings."""
    progress("export", 0, 1)
    outputs = output_names(_first_answer(program), program.names)
    model = torch_export.graph_of_export(exported, program, outputs)
    progress("export", 1, 1)
    bounds = torch_export.bounds_of(exported, program)
    _write(model, program, bounds, staging, progress)
    return _settings(bounds)


def _settings(bounds: Bounds) -> str:
    """How long a sequence may be, if that is limited; the graph does not say it."""
    lengths = [most for name, (_, most) in bounds.items() if name != BATCH]
    if len(lengths) != 1 or lengths[0] >= torch_export.LARGEST:
        return ""
    return text_of([HEADING, f"max_length = {lengths[0]}"])


def _write(model: Any, program: Program, bounds: Bounds, staging: Path, progress: Progress) -> None:
    save(model, staging)
    progress("check", 0, 1)
    check(program, staging / MODEL, bounds)
    progress("check", 1, 1)


def _must_be_sound(path: Path) -> None:
    """Torch does not look whether what it reads is what was written; the archive's own sums tell."""
    try:
        with zipfile.ZipFile(path) as archive:
            broken = archive.testzip()
    except (OSError, ValueError, EOFError, zlib.error, zipfile.BadZipFile, NotImplementedError) as error:
        raise ModelError(f"{path}: is damaged: {first_line(error)}") from error
    if broken is not None:
        raise ModelError(f"{path}: is damaged: {broken} is not what was written")


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
    if saved is None or len(saved) != len(nodes):
        raise ModelError("it was saved without the examples it was exported with; save it with them")
    values = [node.meta.get("val") for node in nodes]
    for node, value in zip(nodes, values, strict=True):
        if not isinstance(value, torch.Tensor):
            raise ModelError(f"its input '{node.name}' is no tensor, and cannot be given by a request")
    module = exported.module()

    def call(*tensors: Any) -> Any:
        args, kwargs = _pytree.tree_unflatten(list(tensors), exported.call_spec.in_spec)
        return module(*args, **kwargs)

    names = tuple(node.name for node in nodes)
    return Program(call, names, tuple(saved), _dims(names, [value.shape for value in values]))


def _dims(names: Sequence[str], shapes: Sequence[Any]) -> tuple[Dims, ...]:
    """Sizes as torch calls them, but the batch that all inputs have first, and the sequence of what tokenizers give."""
    found = [tuple(size if isinstance(size, int) else str(size) for size in shape) for shape in shapes]
    seconds = {dims[1] for name, dims in zip(names, found, strict=True) if name in TOKENIZED and len(dims) == 2}
    firsts = {dims[0] for dims in found if dims}
    usual: dict[int | str, str] = {}
    for symbols, name in ((seconds, SEQUENCE), (firsts, BATCH)):
        symbol = symbols.pop() if len(symbols) == 1 else 0
        if isinstance(symbol, str) and symbol.isidentifier():
            usual[symbol] = name
    return tuple(tuple(usual.get(dim, dim) for dim in dims) for dims in found)


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
        if dtype.is_floating_point:
            examples.append(torch.randn(shape, generator=random).to(dtype))
        else:
            drawn = torch.randint(0, 10, shape, generator=random)
            examples.append((drawn > 4 if dtype == torch.bool else drawn).to(dtype))
    return Program(module, tuple(said.name for said in inputs), tuple(examples), tuple(said.dims for said in inputs))
