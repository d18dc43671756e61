"""Can one version stand in for another? Only if whoever asks the one cannot tell by the form of the answer."""

from __future__ import annotations

from collections.abc import Sequence

from sluice.admission.validation import Rules
from sluice.spec import ModelSpec, TensorSpec

# The reply's parameter, header and metadata key that says who answered instead.
PARAMETER = "sluice_fallback"


def difference(wanted: tuple[ModelSpec, Rules], other: tuple[ModelSpec, Rules]) -> str:
    """Why requests that fit the one do not all fit the other, or get answers of another form; empty if they do."""
    (spec, rules), (other_spec, other_rules) = wanted, other
    return (
        _tensors("input", spec.inputs, other_spec.inputs)
        or _tensors("output", spec.outputs, other_spec.outputs)
        or _sizes(spec, other_spec)
        or _lengths(rules, other_rules)
    )


def _tensors(kind: str, wanted: Sequence[TensorSpec], other: Sequence[TensorSpec]) -> str:
    """Their order does not matter: requests and replies name them."""
    there = {tensor.name: tensor for tensor in other}
    for tensor in wanted:
        match = there.pop(tensor.name, None)
        if match is None:
            return f"it has no {kind} '{tensor.name}'"
        if _form(match) != _form(tensor):
            return f"its {kind} '{tensor.name}' is {_form(match)}, not {_form(tensor)}"
        if tensor.fill is not None and match.fill is None:
            return f"its {kind} '{tensor.name}' may not be left out"
        if tensor.default != match.default:
            return f"its {kind} '{tensor.name}' {'comes' if match.default else 'does not come'} unasked"
        if tensor.labels != match.labels:
            return f"its {kind} '{tensor.name}' has other labels"
    if there:
        return f"it has another {kind}, '{min(there)}'"
    return ""


def _form(tensor: TensorSpec) -> str:
    return f"{tensor.datatype} {list(tensor.shape)}"


def _sizes(spec: ModelSpec, other: ModelSpec) -> str:
    if spec.batched != other.batched:
        return f"it has {'a' if other.batched else 'no'} batch axis"
    if other.max_batch_rows < spec.max_batch_rows:
        return f"it takes {other.max_batch_rows} rows at most, not {spec.max_batch_rows}"
    return ""


def _lengths(rules: Rules, other: Rules) -> str:
    if other.max_length is not None and (rules.max_length is None or other.max_length < rules.max_length):
        wanted = "any" if rules.max_length is None else rules.max_length
        return f"it takes lengths of {other.max_length} at most, not {wanted}"
    return ""
