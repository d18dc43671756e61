"""Does a request fit its version? Everything a model could choke on is refused here, with the name of what is wrong."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from dataclasses import dataclass

from sluice.errors import InvalidRequest
from sluice.request import InferRequest, Parameter, Tensor, decode_bytes
from sluice.scheduler.entry import Work
from sluice.spec import BYTES, DATATYPES, NUMPY_TYPES, ModelSpec, Padding, TensorSpec

# Parameters of Triton's that ask for nothing this server would do differently.
_HARMLESS = frozenset({"triton_enable_empty_final_response", "triton_final_response"})


@dataclass(frozen=True, slots=True)
class Rules:
    """What a version's settings say about requests, beside its spec."""

    priority_levels: int
    default_priority: int
    max_length: int | None


def check(request: InferRequest, spec: ModelSpec, rules: Rules) -> Work:
    """The request as work for the scheduler; raises InvalidRequest."""
    inputs = _arranged(request, spec)
    rows, length = _sizes(inputs, spec)
    if rules.max_length is not None and length > rules.max_length and spec.has_sequence:
        raise InvalidRequest(f"length {length} is beyond the longest that '{spec.name}' takes, {rules.max_length}")
    return Work(
        request=request,
        inputs=inputs,
        outputs=_outputs(request, spec),
        rows=rows,
        length=length,
        group=_group(inputs, spec, length),
        size=sum(memoryview(tensor.data).nbytes for tensor in request.inputs),
        priority=_priority(request.parameters, rules),
        queue_timeout=_queue_timeout(request.parameters),
    )


def _arranged(request: InferRequest, spec: ModelSpec) -> tuple[Tensor | None, ...]:
    """The inputs in the order of the spec, each checked by itself."""
    given: dict[str, Tensor] = {}
    for tensor in request.inputs:
        expected = spec.input_by_name.get(tensor.name)
        if expected is None:
            raise InvalidRequest(f"unexpected inference input '{tensor.name}' for model '{spec.name}'")
        if tensor.name in given:
            raise InvalidRequest(f"input '{tensor.name}' is given twice")
        _check_tensor(tensor, expected, spec)
        given[tensor.name] = tensor
    missing = [tensor.name for tensor in spec.inputs if tensor.name not in given and tensor.fill is None]
    if missing:
        names = ", ".join(f"'{name}'" for name in missing)
        raise InvalidRequest(
            f"expected {len(spec.inputs)} inputs but got {len(given)} inputs for model '{spec.name}'; missing: {names}"
        )
    return tuple(given.get(tensor.name) for tensor in spec.inputs)


def _check_tensor(tensor: Tensor, expected: TensorSpec, spec: ModelSpec) -> None:
    if tensor.datatype not in DATATYPES:
        raise InvalidRequest(f"input '{tensor.name}' has the unknown datatype '{tensor.datatype}'")
    if tensor.datatype != expected.datatype:
        raise InvalidRequest(
            f"inference input '{tensor.name}' data-type is '{tensor.datatype}', but model '{spec.name}' expects "
            f"'{expected.datatype}'"
        )
    if len(tensor.shape) != len(expected.shape) or any(
        size < 0 or wanted not in (-1, size) for size, wanted in zip(tensor.shape, expected.shape, strict=False)
    ):
        raise InvalidRequest(
            f"unexpected shape for input '{tensor.name}' for model '{spec.name}'. "
            f"Expected {list(expected.shape)}, got {list(tensor.shape)}"
        )
    elements = math.prod(tensor.shape)
    if tensor.datatype == BYTES:
        found = len(decode_bytes(tensor.data, tensor.name))
        if found != elements:
            raise InvalidRequest(f"input '{tensor.name}' has {found} elements, but its shape says {elements}")
    else:
        size = elements * NUMPY_TYPES[tensor.datatype].itemsize
        if memoryview(tensor.data).nbytes != size:
            raise InvalidRequest(
                f"input '{tensor.name}' has {memoryview(tensor.data).nbytes} bytes of data, but its shape "
                f"{list(tensor.shape)} and datatype {tensor.datatype} need {size}"
            )


def _sizes(inputs: tuple[Tensor | None, ...], spec: ModelSpec) -> tuple[int, int]:
    """Rows and length, the same in every input that has them."""
    rows = _common(inputs, spec, "batch size", [tensor.batch_axis for tensor in spec.inputs])
    length = _common(inputs, spec, "sequence length", [tensor.sequence_axis for tensor in spec.inputs])
    if spec.batched and rows > spec.max_batch_rows:
        raise InvalidRequest(
            f"inference request batch-size must be <= {spec.max_batch_rows} for '{spec.name}', got {rows}"
        )
    return rows, length


def _common(inputs: tuple[Tensor | None, ...], spec: ModelSpec, what: str, axes: list[int | None]) -> int:
    first: Tensor | None = None
    common = 1
    for tensor, axis in zip(inputs, axes, strict=True):
        if tensor is None or axis is None:
            continue
        size = tensor.shape[axis]
        if size == 0:
            raise InvalidRequest(f"input '{tensor.name}' has {what} 0")
        if first is None:
            first, common = tensor, size
        elif size != common:
            raise InvalidRequest(
                f"input '{tensor.name}' has {what} {size}, but input '{first.name}' has {common} "
                f"(model '{spec.name}' needs them equal)"
            )
    return common


def _outputs(request: InferRequest, spec: ModelSpec) -> tuple[str, ...]:
    if not request.outputs:
        return tuple(output.name for output in spec.outputs if output.default)
    names = tuple(output.name for output in request.outputs)
    for name in names:
        if name not in spec.output_by_name:
            raise InvalidRequest(f"unexpected inference output '{name}' for model '{spec.name}'")
    if len(set(names)) < len(names):
        raise InvalidRequest("an output is requested twice: " + ", ".join(f"'{name}'" for name in names))
    return names


def _group(inputs: tuple[Tensor | None, ...], spec: ModelSpec, length: int) -> Hashable:
    """Entries can share a batch when all sizes agree that padding cannot make agree."""
    fixed = [length if spec.padding is Padding.EQUAL else -1]
    for tensor, expected in zip(inputs, spec.inputs, strict=True):
        if tensor is not None:
            own = (expected.batch_axis, expected.sequence_axis)
            fixed.extend(
                tensor.shape[axis] for axis, size in enumerate(expected.shape) if size == -1 and axis not in own
            )
    return tuple(fixed)


def _priority(parameters: Mapping[str, Parameter], rules: Rules) -> float:
    """From -1, the most urgent level, over 0, the usual one, to 1."""
    for name in parameters:
        if name.startswith("triton_") and name not in _HARMLESS:
            raise InvalidRequest(f"parameter '{name}' is reserved and not known to this server")
    _check_sequence(parameters)
    level = _integer(parameters, "priority")
    if level == 0 or level > rules.priority_levels:
        level = rules.default_priority
    levels = (
        rules.default_priority - 1 if level < rules.default_priority else rules.priority_levels - rules.default_priority
    )
    return (level - rules.default_priority) / max(1, levels)


def _queue_timeout(parameters: Mapping[str, Parameter]) -> float | None:
    microseconds = _integer(parameters, "timeout")
    return microseconds / 1e6 if microseconds else None


def _integer(parameters: Mapping[str, Parameter], name: str) -> int:
    value = parameters.get(name, 0)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 1 << 64:
        raise InvalidRequest(f"parameter '{name}' must be an integer from 0 to {2**64 - 1}, got {value!r:.40}")
    return value


def _check_sequence(parameters: Mapping[str, Parameter]) -> None:
    """Sequence parameters mean nothing to stateless models, but must be what they claim to be."""
    identity = parameters.get("sequence_id", 0)
    if isinstance(identity, bool) or not isinstance(identity, int | str):
        raise InvalidRequest("parameter 'sequence_id' must be an integer or a string")
    for name in ("sequence_start", "sequence_end"):
        if not isinstance(parameters.get(name, False), bool):
            raise InvalidRequest(f"parameter '{name}' must be a boolean")
