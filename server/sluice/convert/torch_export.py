"""A program of PyTorch with examples of what it takes, and the ONNX graph that is made of it.

Torch is imported where it is used: only those who import such programs have it.
"""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from sluice.convert.making import first_line
from sluice.convert.said_inputs import Dims, SaidInput
from sluice.errors import ModelError

# Inputs known from tokenizers: their second axis is the sequence.
TOKENIZED = frozenset(
    {"input_ids", "attention_mask", "token_type_ids", "position_ids", "input_mask", "segment_ids", "input_word_ids"}
)
BATCH, SEQUENCE = "batch", "sequence"
LARGEST = 1 << 16  # of a size that may be tried


@dataclass(frozen=True)
class Program:
    """`call` takes the examples in this order, and gives one tensor, or several in whatever they are packed."""

    call: Callable[..., Any]
    names: tuple[str, ...]
    examples: tuple[Any, ...]
    dims: tuple[Dims, ...]  # of each input: a size, or the name of any size

    @property
    def sizes(self) -> dict[str, int]:
        """What each named size is in the examples."""
        found: dict[str, int] = {}
        for dims, example in zip(self.dims, self.examples, strict=True):
            found |= {dim: size for dim, size in zip(dims, example.shape, strict=True) if isinstance(dim, str)}
        return found

    def resized(self, sizes: Mapping[str, int]) -> Program:
        """With examples of these sizes, which repeat the rows and columns that are there."""
        pairs = zip(self.dims, self.examples, strict=True)
        return replace(self, examples=tuple(_resized(example, dims, sizes) for dims, example in pairs))


def _resized(example: Any, dims: Dims, sizes: Mapping[str, int]) -> Any:
    import torch

    for axis, dim in enumerate(dims):
        if isinstance(dim, str) and sizes.get(dim, example.shape[axis]) != example.shape[axis]:
            example = example.index_select(axis, torch.arange(sizes[dim]) % example.shape[axis])
    return example.contiguous()


def usual_dims(name: str, shape: Sequence[int]) -> Dims:
    """The first axis is the batch, and the second of what tokenizers give the sequence."""
    dims: list[int | str] = list(shape)
    if dims:
        dims[0] = BATCH
    if name in TOKENIZED and len(dims) == 2:
        dims[1] = SEQUENCE
    return tuple(dims)


def with_said(program: Program, said: Sequence[SaidInput]) -> Program:
    """What the command line says of inputs comes first; ModelError if it does not fit the examples."""
    by_name = {each.name: each for each in said}
    unknown = next((name for name in by_name if name not in program.names), None)
    if unknown:
        raise ModelError(f"--input: there is no input '{unknown}'; there are {', '.join(program.names)}")
    dims = []
    for name, example, usual in zip(program.names, program.examples, program.dims, strict=True):
        one = by_name.get(name)
        if one is not None and not _fits(one, example):
            raise ModelError(f"--input: {one} does not fit the example, which is {list(example.shape)} {example.dtype}")
        dims.append(one.dims if one else usual)
    return replace(program, dims=tuple(dims))


def _fits(said: SaidInput, example: Any) -> bool:
    pairs = zip(said.dims, example.shape, strict=False)
    alike = all(isinstance(dim, str) or dim == size for dim, size in pairs)
    return said.datatype == datatype_of(example.dtype) and len(said.dims) == example.dim() and alike


def datatype_of(dtype: Any) -> str:
    """The protocol's name; "" = it has none."""
    return next((name for name, each in dtypes().items() if each == dtype), "")


def dtypes() -> dict[str, Any]:
    import torch

    return {
        "BOOL": torch.bool, "UINT8": torch.uint8, "INT8": torch.int8, "INT16": torch.int16, "INT32": torch.int32,
        "INT64": torch.int64, "FP16": torch.float16, "FP32": torch.float32, "FP64": torch.float64,
    }  # fmt: skip


def varied(program: Program) -> Program:
    """No two named sizes alike and none of them 1, or the exporter takes one for the other, or for fixed."""
    taken: set[int] = {dim for dims in program.dims for dim in dims if isinstance(dim, int)}
    sizes: dict[str, int] = {}
    for name, size in program.sizes.items():
        size = max(size, 2)
        while size in sizes.values() or (size in taken and size < 64):
            size += 1
        sizes[name] = size
    return program.resized(sizes)


def leaves(given: Any) -> tuple[Any, ...]:
    """The tensors, whatever they are packed in."""
    import torch
    from torch.utils import _pytree

    return tuple(leaf for leaf in _pytree.tree_leaves(given) if isinstance(leaf, torch.Tensor))


def flat(module: Any, call: Callable[..., Any]) -> Any:
    """A module that gives a plain tuple of tensors; `call` is how `module`, which is part of it, is called."""
    import torch

    class Flat(torch.nn.Module):  # type: ignore[misc, unused-ignore]
        def __init__(self) -> None:
            super().__init__()
            self.inner = module

        def forward(self, *tensors: Any) -> Any:
            return leaves(call(self.inner, *tensors))

    return Flat().eval()


def output_names(given: Any, taken: Sequence[str]) -> list[str]:
    """A name for each tensor: its key or number in what it is packed in."""
    import torch
    from torch.utils import _pytree

    leaves = [pair for pair in _pytree.tree_flatten_with_path(given)[0] if isinstance(pair[1], torch.Tensor)]
    names: list[str] = []
    for path, _ in leaves:
        parts = [str(getattr(key, "key", getattr(key, "idx", getattr(key, "name", key)))) for key in path]
        name = "_".join("".join(c if c.isalnum() or c == "_" else "_" for c in part) for part in parts)
        name = f"output_{name}" if name.isdigit() else name or "output"
        while name in names or name in taken:
            name += "_output"
        names.append(name)
    if not names:
        raise ModelError("the program gives no tensor")
    return names


@contextmanager
def quiet() -> Iterator[None]:
    """Exporters talk much, and of what only their authors can change."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        before = logging.root.manager.disable
        logging.disable(logging.ERROR)
        try:
            yield
        finally:
            logging.disable(before)


def failed(error: BaseException) -> ModelError:
    while error.__cause__ is not None:  # exporters wrap what went wrong in advice on how to report it to them
        error = error.__cause__
    return ModelError(f"torch cannot export the program: {type(error).__name__}: {first_line(error)}")


def rename_sizes(model: Any, names: Sequence[str], dims: Sequence[Dims]) -> None:
    """Write the names of sizes into the graph, in place of those that the exporter invented."""
    known: dict[str, str] = {}
    said = dict(zip(names, dims, strict=True))
    for value in model.graph.input:
        for axis, dim in enumerate(value.type.tensor_type.shape.dim):
            name = said[value.name][axis]
            if isinstance(name, str):
                known[dim.dim_param] = name
    for value in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param in known:
                dim.dim_param = known[dim.dim_param]


def export(program: Program, module: Any) -> Any:
    """What torch.export makes of a module that takes the program's inputs in their order."""
    import torch

    free = tuple(
        {axis: torch.export.Dim.DYNAMIC for axis, dim in enumerate(dims) if isinstance(dim, str)}
        for dims in program.dims
    )
    try:
        with quiet(), torch.no_grad():
            return torch.export.export(module, program.examples, dynamic_shapes={"tensors": free}, strict=False)
    except Exception as error:  # exporters raise most anything
        raise failed(error) from error


def graph_of_export(exported: Any, program: Program, outputs: Sequence[str]) -> Any:
    """The graph of an exported program."""
    import onnxscript  # noqa: F401 - the exporter needs it, and says so less clearly
    import torch

    try:
        with quiet():
            names = {"input_names": list(program.names), "output_names": list(outputs)}
            made = torch.onnx.export(exported, dynamo=True, verbose=False, **names)
            model = made.model_proto
    except Exception as error:
        raise failed(error) from error
    rename_sizes(model, program.names, program.dims)
    return model


def graph_of_script(module: Any, program: Program, outputs: Sequence[str]) -> Any:
    """The graph of a TorchScript module, by the older exporter, which alone takes them as they are."""
    import onnx
    import torch

    file = io.BytesIO()
    free = {
        name: {axis: dim for axis, dim in enumerate(dims) if isinstance(dim, str)}
        for name, dims in zip(program.names, program.dims, strict=True)
    }
    free |= {name: dims for name, dims in zip(outputs, _free_outputs(program), strict=True) if dims}
    try:
        with quiet(), torch.no_grad():
            traced = torch.jit.trace(module, program.examples, check_trace=False)
            names = {"input_names": list(program.names), "output_names": list(outputs)}
            torch.onnx.export(
                traced, program.examples, file, dynamo=False, dynamic_axes=free, opset_version=18, **names
            )
    except Exception as error:
        raise failed(error) from error
    return onnx.load_from_string(file.getvalue())


def _free_outputs(program: Program) -> list[dict[int, str]]:
    """Which axes of each output have a named size: those that change with it."""
    before = leaves(program.call(*program.examples))
    found: list[dict[int, str]] = [{} for _ in before]
    for name, size in program.sizes.items():
        after = leaves(program.call(*program.resized({name: size + 1}).examples))
        for axes, old, new in zip(found, before, after, strict=True):
            for axis, (was, now) in enumerate(zip(old.shape, new.shape, strict=True)):
                if was != now:
                    axes[axis] = name if (was, now) == (size, size + 1) else f"{name}_{axis}"
    return found


def bounds_of(exported: Any, program: Program) -> dict[str, tuple[int, int]]:
    """The least and the largest that each named size may be, as torch found out."""
    known = {
        str(symbol): (_whole(each.lower), _whole(each.upper)) for symbol, each in exported.range_constraints.items()
    }
    found: dict[str, tuple[int, int]] = {}
    for node, dims in zip(placeholders(exported), program.dims, strict=True):
        for size, name in zip(node.meta["val"].shape, dims, strict=True):
            if isinstance(name, str) and str(size) in known:
                least, most = known[str(size)]
                before = found.get(name, (1, LARGEST))
                found[name] = max(before[0], 1 if least <= 2 else least), min(before[1], most)  # 2 is torch's own guess
    return found


def _whole(bound: Any) -> int:
    """Torch's bounds can be infinite, in a way of its own that compares but is no number."""
    return LARGEST if bool(bound > LARGEST) else int(bound)


def placeholders(exported: Any) -> list[Any]:
    """The nodes of the graph that stand for what the user gives."""
    names = exported.graph_signature.user_inputs
    return [node for node in exported.graph.nodes if node.op == "placeholder" and node.name in names]
