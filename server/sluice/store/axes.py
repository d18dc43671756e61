"""Finds a version's batch and sequence axes, padding and optional inputs in its graph; what operators say comes first.

The law. A wrong guess may cost speed, never a wrong answer: what is not clearly an axis of either kind has to be equal
between the requests of a batch, and the probe at warm-up checks what was guessed here. A fixed size is a fixed size. In
a graph one symbol is one size, so equal symbols decide before the looks of a name (`symbols.py`) do.

| axis             | is found where                                                                                   |
|------------------|--------------------------------------------------------------------------------------------------|
| input, batch     | axis 0 of every input is of any size; the symbols agree or are automatic, do not look like a     |
|                  | sequence and stand on no other axis of the graph; and every output has a batch axis              |
| output, batch    | axis 0, if its symbol is the inputs', automatic, or looks like a batch                           |
| first sequence   | the first input with an axis whose symbol looks like a sequence, or that is known from           |
|                  | tokenizers and whose second of two axes is of any size                                           |
| other inputs     | the axis of the same symbol or meaning; on those known from tokenizers also an automatic one     |
| output, sequence | the one axis of the same symbol or meaning                                                       |

An input with the sequence on two axes would have to be padded along both: such a model has no sequence axis.
"""

import logging
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sluice.errors import ModelError
from sluice.spec import BYTES, NUMPY_TYPES, ModelSpec, Padding, Port, Signature, TensorSpec
from sluice.store import tokenizer
from sluice.store.repository import VersionFiles
from sluice.store.settings import ModelSettings, TensorSettings
from sluice.store.symbols import Dim, automatic, described, looks_like_batch, looks_like_sequence, meaning, shown

_log = logging.getLogger(__name__)


# Inputs known from tokenizers, and what stands for each when a client leaves it out; None = it has to be sent.
_TOKENIZED: dict[str, float | None] = {
    "input_ids": None,
    "input_word_ids": None,
    "attention_mask": 1,
    "input_mask": 1,
    "token_type_ids": 0,
    "segment_ids": 0,
    "input_type_ids": 0,
    "position_ids": None,
}
_IDS_NAMES = frozenset({"input_ids", "input_word_ids"})
_PORT_NUMBER = re.compile(r":\d+$")  # TensorFlow's, as in input_ids:0


@dataclass(frozen=True, slots=True)
class _Tensor:
    """One input or output: what the graph has, narrowed by what the operator says."""

    side: str
    port: Port
    said: TensorSettings
    dims: tuple[Dim, ...]

    def __str__(self) -> str:
        return f"{self.side} '{self.port.name}'"

    @property
    def known_as(self) -> str:
        return _PORT_NUMBER.sub("", self.port.name)

    @property
    def tokenized(self) -> bool:
        return self.known_as in _TOKENIZED

    @property
    def usual_fill(self) -> float | None:
        return _TOKENIZED.get(self.known_as)

    @property
    def batch_axis(self) -> int | None:
        """Where the batch is if the model has one; None = the operator says that this tensor has none."""
        axis = self.said.batch_axis
        return None if axis == -1 else axis or 0


def build_spec(files: VersionFiles, signature: Signature, max_rows: int) -> ModelSpec:
    """The spec of one version; `max_rows` is the server's limit, which a model's own overrides. ModelError says why."""
    settings = files.settings
    inputs = _tensors("input", signature.inputs, settings.inputs, settings)
    outputs = _tensors("output", signature.outputs, settings.outputs, settings)
    rows = _max_rows(files, inputs, outputs, max_rows)
    batch = [tensor.batch_axis if rows else None for tensor in (*inputs, *outputs)]
    sequence = _sequence_axes(inputs, outputs, batch)
    axes = list(zip(batch, sequence, strict=True))
    pad_id = tokenizer.pad_id(files.directory) if any(tensor.known_as in _IDS_NAMES for tensor in inputs) else 0
    spec = ModelSpec(
        name=files.model,
        version=files.version,
        platform=signature.platform,
        backend=files.backend,
        inputs=_input_specs(inputs, axes[: len(inputs)], pad_id),
        outputs=tuple(_output_spec(*pair) for pair in zip(outputs, axes[len(inputs) :], strict=True)),
        max_batch_rows=rows,
        padding=Padding(settings.padding) if settings.padding else Padding.ANY,
    )
    for output in spec.outputs:
        _check_labels(spec, output)
    if not any(output.default for output in spec.outputs):
        raise ModelError(
            f"{files.model}: every output is said to be `default = false`, so that a request would get none"
        )
    return spec


def signature_from_settings(settings: ModelSettings) -> Signature:
    """The signature of a model whose file does not tell: its inputs and outputs exactly as described."""
    inputs = tuple(_port("input", said, settings) for said in settings.inputs)
    outputs = tuple(_port("output", said, settings) for said in settings.outputs)
    for side, ports in (("input", inputs), ("output", outputs)):
        if not ports:
            raise ModelError(
                f"{settings.name}: a Python model's file does not tell its {side}s: describe each in model.toml "
                f"as [[{side}]] with name, datatype and shape"
            )
    return Signature("python", inputs, outputs)


def _port(side: str, said: TensorSettings, settings: ModelSettings) -> Port:
    shape = _full_shape(said, settings)
    if said.datatype is None or shape is None:
        missing = "datatype" if said.datatype is None else "shape"
        raise ModelError(f"{settings.name}: {side} '{said.name}': {missing} is missing; a Python file does not tell it")
    symbols = {said.batch_axis: "batch", said.sequence_axis: "sequence"}
    if said.reshape_batch and settings.max_batch_rows:
        symbols[0] = "batch"
    return Port(
        said.name, said.datatype, tuple(symbols.get(axis) if size == -1 else size for axis, size in enumerate(shape))
    )


def _full_shape(said: TensorSettings, settings: ModelSettings) -> tuple[int, ...] | None:
    if said.shape is not None and said.reshape_batch and settings.max_batch_rows:
        return (-1, *said.shape)
    return said.shape


# What the graph has and what is said about it.


def _tensors(
    side: str, ports: tuple[Port, ...], said: tuple[TensorSettings, ...], settings: ModelSettings
) -> list[_Tensor]:
    by_name = {one.name: one for one in said}
    unknown = sorted(by_name.keys() - {port.name for port in ports})
    if unknown:
        raise ModelError(
            f"{settings.name}: there is no {side} '{unknown[0]}' in the model; its {side}s are {described(ports)}"
        )
    return [_tensor(side, port, by_name.get(port.name, TensorSettings(port.name)), settings) for port in ports]


def _tensor(side: str, port: Port, said: TensorSettings, settings: ModelSettings) -> _Tensor:
    where = f"{settings.name}: {side} '{port.name}'"
    if said.datatype not in (None, port.datatype):
        raise ModelError(f"{where}: is said to be {said.datatype}, but is {port.datatype} in the model")
    dims = _narrowed(where, side, port, said, _full_shape(said, settings))
    for field, axis in (("batch_axis", said.batch_axis), ("sequence_axis", said.sequence_axis)):
        if axis is not None and axis >= len(dims):
            raise ModelError(f"{where}: {field} {axis} is not an axis of {shown(dims)}")
    if said.sequence_axis is not None and said.sequence_axis >= 0:
        if isinstance(dims[said.sequence_axis], int):
            raise ModelError(f"{where}: sequence_axis {said.sequence_axis} has a fixed size in {shown(dims)}")
        if said.sequence_axis == said.batch_axis:
            raise ModelError(f"{where}: sequence_axis and batch_axis are both {said.batch_axis}")
    return _Tensor(side, port, said, dims)


def _narrowed(
    where: str, side: str, port: Port, said: TensorSettings, shape: tuple[int, ...] | None
) -> tuple[Dim, ...]:
    """The graph's dimensions, with sizes that are said in place of those it leaves open."""
    if shape is None:
        return port.dims
    if not port.dims:  # nothing is known about it in the graph
        return tuple(None if size == -1 else size for size in shape)
    fits = len(shape) == len(port.dims)
    dims: list[Dim] = []
    for axis, (size, dim) in enumerate(zip(shape, port.dims, strict=False)):
        # Exporters like to write the batch of their example into the outputs; `batch_axis` says that it is one.
        stale = side == "output" and said.batch_axis == axis and size == -1
        fits = fits and (not isinstance(dim, int) or size == dim or stale)
        dims.append(dim if size == -1 else size)
    if not fits:
        prefix = ", with the batch axis," if said.reshape_batch and len(shape) > len(said.shape or ()) else ""
        asked = shown(tuple(None if size == -1 else size for size in shape))
        raise ModelError(f"{where}: its shape is said to be {asked}{prefix} but is {shown(port.dims)} in the model")
    return tuple(dims)


# The batch axis.


def _max_rows(files: VersionFiles, inputs: list[_Tensor], outputs: list[_Tensor], limit: int) -> int:
    """Most rows of a batch; 0 = the model has no batch axis."""
    wanted = files.settings.max_batch_rows
    if wanted == 0:
        return 0
    certain = wanted is not None or any((tensor.said.batch_axis or -1) >= 0 for tensor in inputs)
    obstacle = _fixed_inputs(inputs) or _fixed_outputs(outputs)
    if not certain:
        obstacle = obstacle or _unclear_inputs(inputs, outputs) or _unclear_outputs(inputs, outputs)
    if not obstacle:
        return wanted or limit
    if certain:
        raise ModelError(f"{files.model}: max_batch_rows: the model cannot batch: {obstacle}; say max_batch_rows = 0")
    _log.info("model '%s' version %s is served one request at a time: %s", files.model, files.version, obstacle)
    return 0


def _batch_dim(tensor: _Tensor) -> Dim:
    """The size of the batch axis; 1 where there is none, which is as fixed."""
    return tensor.dims[tensor.batch_axis] if tensor.batch_axis is not None and tensor.dims else 1


def _fixed_inputs(inputs: list[_Tensor]) -> str:
    if not inputs:
        return "it has no inputs"
    fixed = next((tensor for tensor in inputs if isinstance(_batch_dim(tensor), int)), None)
    return f"{fixed} {shown(fixed.dims)} has no batch axis of any size" if fixed else ""


def _fixed_outputs(outputs: list[_Tensor]) -> str:
    for tensor in outputs:
        if tensor.said.batch_axis is None and isinstance(_batch_dim(tensor), int):
            return (
                f"{tensor} {shown(tensor.dims)} has no batch axis of any size "
                "(if it has one all the same, name it as its batch_axis; -1 if it is the same for all rows)"
            )
    return ""


def _unclear_inputs(inputs: list[_Tensor], outputs: list[_Tensor]) -> str:
    names = {dim for dim in map(_batch_dim, inputs) if not automatic(dim)}
    if len(names) > 1:
        return f"the first axes of its inputs have different names: {', '.join(sorted(map(str, names)))}"
    for dim in filter(looks_like_sequence, names):
        return f"the first axis '{dim}' looks like a sequence"
    symbols = {dim for dim in map(_batch_dim, inputs) if isinstance(dim, str) and dim not in ("", "?")}
    for tensor in (*inputs, *outputs):
        elsewhere = {dim for axis, dim in enumerate(tensor.dims) if axis != tensor.batch_axis and isinstance(dim, str)}
        if symbols & elsewhere:
            return f"{tensor} {shown(tensor.dims)} has the first axis's size on another axis, which mixes rows"
    return ""


def _unclear_outputs(inputs: list[_Tensor], outputs: list[_Tensor]) -> str:
    symbols = {_batch_dim(tensor) for tensor in inputs}
    for tensor in outputs:
        dim = _batch_dim(tensor)
        if tensor.said.batch_axis is None and not (dim in symbols or automatic(dim) or looks_like_batch(dim)):
            return f"the first axis of {tensor} {shown(tensor.dims)} is not the inputs'"
    return ""


# The sequence axis.


def _sequence_axes(inputs: list[_Tensor], outputs: list[_Tensor], batch: Sequence[int | None]) -> list[int | None]:
    """The sequence axis of every input, then of every output."""
    pairs = list(zip((*inputs, *outputs), batch, strict=True))
    of_inputs, of_outputs = pairs[: len(inputs)], pairs[len(inputs) :]
    first = _first_sequence(of_inputs)
    symbols: set[Dim] = {first} if first else set()
    words = meaning(first)
    repeated = any(len(_alike(tensor, axis, symbols, words)) > 1 for tensor, axis in of_inputs)
    if first is None or repeated:
        return [_said_or(tensor, batch_axis, []) for tensor, batch_axis in pairs]
    axes: list[int | None] = []
    for tensor, batch_axis in of_inputs:
        alike = _alike(tensor, batch_axis, symbols, words)
        if not alike and _joins(tensor, batch_axis, first):
            alike = [1]
        axes.append(_said_or(tensor, batch_axis, alike))
    symbols = {tensor.dims[axis] for (tensor, _), axis in zip(of_inputs, axes, strict=True) if axis is not None}
    for tensor, batch_axis in of_outputs:
        axes.append(_said_or(tensor, batch_axis, _alike(tensor, batch_axis, symbols, words)))
    return axes


def _first_sequence(inputs: list[tuple[_Tensor, int | None]]) -> str | None:
    """The symbol of the model's sequence: as said, else the first input's; "" = nameless, None = there is none."""
    for tensor, _ in inputs:
        axis = tensor.said.sequence_axis
        if axis is not None and axis >= 0:
            return str(tensor.dims[axis] or "")
    for tensor, batch_axis in inputs:
        if tensor.said.sequence_axis is None:
            for axis in range(len(tensor.dims)):
                dim = tensor.dims[axis]
                tokens = axis == 1 and _second_is_open(tensor, batch_axis)
                if axis != batch_axis and (looks_like_sequence(dim) or tokens):
                    return str(dim or "")
    return None


def _second_is_open(tensor: _Tensor, batch_axis: int | None) -> bool:
    """Known from tokenizers, with two axes, the second of any size."""
    return tensor.tokenized and len(tensor.dims) == 2 and batch_axis != 1 and not isinstance(tensor.dims[1], int)


def _alike(tensor: _Tensor, batch_axis: int | None, symbols: set[Dim], words: frozenset[str]) -> list[int]:
    return [
        axis
        for axis, dim in enumerate(tensor.dims)
        if axis != batch_axis and isinstance(dim, str) and dim and (dim in symbols or (words and meaning(dim) == words))
    ]


def _joins(tensor: _Tensor, batch_axis: int | None, first: str) -> bool:
    """A tokenizer's output whose second axis has no name against the first one's, or the first one has none."""
    if not _second_is_open(tensor, batch_axis):
        return False
    return automatic(tensor.dims[1]) or (automatic(first) and looks_like_sequence(tensor.dims[1]))


def _said_or(tensor: _Tensor, batch_axis: int | None, found: list[int]) -> int | None:
    said = tensor.said.sequence_axis
    if said is None:
        return found[0] if len(found) == 1 else None
    if said >= 0 and said == batch_axis:
        raise ModelError(f"{tensor}: sequence_axis {said} is its batch axis; say another batch_axis")
    return said if said >= 0 else None


# The specs of inputs and outputs.

_Axes = tuple[int | None, int | None]


def _shape(tensor: _Tensor, batch_axis: int | None) -> tuple[int, ...]:
    return tuple(dim if isinstance(dim, int) and axis != batch_axis else -1 for axis, dim in enumerate(tensor.dims))


def _output_spec(tensor: _Tensor, axes: _Axes) -> TensorSpec:
    return TensorSpec(
        tensor.port.name,
        tensor.port.datatype,
        _shape(tensor, axes[0]),
        *axes,
        default=tensor.said.default is not False,
        labels=tensor.said.labels,
    )


def _check_labels(spec: ModelSpec, output: TensorSpec) -> None:
    """Labels name a row's elements; Triton's repositories may lawfully name some only, so this is no error."""
    axes = [size for axis, size in enumerate(output.shape) if axis != output.batch_axis]
    if output.labels and -1 not in axes and math.prod(axes) != len(output.labels):
        _log.warning(
            "model '%s' version %s: output '%s' has %d labels for the %d elements of a row",
            *(spec.name, spec.version, output.name, len(output.labels), math.prod(axes)),
        )


def _input_specs(inputs: list[_Tensor], axes: list[_Axes], pad_id: int) -> tuple[TensorSpec, ...]:
    specs = []
    for index, tensor in enumerate(inputs):
        fill = tensor.said.fill
        if fill is None and _ids_beside(inputs, axes, index):
            fill = tensor.usual_fill
        if fill is not None:
            obstacle = _cannot_fill(inputs, axes, index)
            if obstacle and tensor.said.fill is not None:
                raise ModelError(f"{tensor}: fill: {obstacle}")
            fill = None if obstacle else _element(tensor, "fill", fill)
        pad = tensor.said.pad
        if pad is None:
            pad = pad_id if tensor.known_as in _IDS_NAMES else 0
        if tensor.port.datatype != BYTES or tensor.said.pad is not None:
            pad = _element(tensor, "pad", pad)
        shape = _shape(tensor, axes[index][0])
        specs.append(TensorSpec(tensor.port.name, tensor.port.datatype, shape, *axes[index], pad=pad, fill=fill))
    return tuple(specs)


def _ids_beside(inputs: list[_Tensor], axes: list[_Axes], index: int) -> bool:
    """There is a tokenizer's input of the same axes that clients have to send."""
    return any(
        other.known_as in _IDS_NAMES and other.said.fill is None and axes[at] == axes[index]
        for at, other in enumerate(inputs)
        if at != index
    )


def _cannot_fill(inputs: list[_Tensor], axes: list[_Axes], index: int) -> str:
    """Why the shape of an input that is left out would not be known from the others; "" if it is."""
    tensor, (batch_axis, sequence_axis) = inputs[index], axes[index]
    if any(not isinstance(dim, int) and axis not in axes[index] for axis, dim in enumerate(tensor.dims)):
        return f"the shape {shown(tensor.dims)} has sizes that no other input tells"
    sent = [axes[at] for at, other in enumerate(inputs) if at != index and _must_be_sent(other)]
    if batch_axis is not None and not sent:
        return "no other input is required, which would tell the number of rows"
    if sequence_axis is not None and all(axis is None for _, axis in sent):
        return "no other required input has a sequence axis, which would tell the length"
    return ""


def _must_be_sent(tensor: _Tensor) -> bool:
    return tensor.said.fill is None and tensor.usual_fill is None


def _element(tensor: _Tensor, field: str, value: float) -> float:
    """`value` as the tensor's elements hold it: BF16 are their 16 bits."""
    datatype = tensor.port.datatype
    if datatype == BYTES:
        raise ModelError(f"{tensor}: {field}: BYTES have no such value; they are empty where nothing was sent")
    if datatype == "BF16":
        return float(np.float32(value).view(np.uint32) >> np.uint32(16))
    dtype = NUMPY_TYPES[datatype]
    if dtype.kind == "f":
        return value
    least, most = (0, 1) if dtype.kind == "b" else (np.iinfo(dtype).min, np.iinfo(dtype).max)
    if not (value == value and least <= value <= most and value == int(value)):
        raise ModelError(f"{tensor}: {field}: {value} is not a value of {datatype}")
    return int(value)
