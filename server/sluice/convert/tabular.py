"""What models of plain rows of numbers have in common: one input `x`, outputs with names of ours, and a comparison."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from sluice.convert import making, rows
from sluice.errors import ModelError

INPUT = "x"
OPSET = 18  # and 3 of ai.onnx.ml: what onnxruntime 1.20 and the converters both have had for long
ML_OPSET = 3
TOLERANCE = 1e-4  # of the largest value
_AGREEING = 0.99  # of the rows: next to a threshold, 32 bits decide otherwise than 64

Array = np.ndarray[Any, Any]


def finish(model: Any, names: Mapping[str, str]) -> None:
    """Give outputs their names, and the first axis of everything that of the batch."""
    names = {**{name: f"{name}_inside" for name in names.values()}, **names}  # what had such a name before
    for node in model.graph.node:
        for side in (node.input, node.output):
            for place, name in enumerate(side):
                side[place] = names.get(name, name)
    for value in model.graph.output:
        value.name = names.get(value.name, value.name)
    for value in (*model.graph.input, *model.graph.output):
        dims = value.type.tensor_type.shape.dim
        if dims:
            dims[0].dim_param = "batch"
    versions: dict[str, int] = {}
    for each in model.opset_import:  # converters name some twice
        versions[each.domain] = max(each.version, versions.get(each.domain, 0))
    del model.opset_import[:]
    for domain, version in versions.items():
        model.opset_import.add(domain=domain, version=version)


def publish(model: Any, wanted: Mapping[str, Array], given: Array, staging: Path) -> None:
    """Save the graph; ModelError unless it gives for these rows what the original gives."""
    session = making.start(model.SerializeToString())
    try:
        found = dict(zip(wanted, session.run(list(wanted), {INPUT: given}), strict=True))
    except Exception as error:  # onnxruntime's errors have no common base of their own
        raise ModelError(f"the converted model does not run: {making.first_line(error)}") from error
    for name, right in wanted.items():
        share = _agreement(np.asarray(right), found[name])
        if share < _AGREEING:
            raise ModelError(
                f"output {name} of the converted model is that of the original for {share:.1%} of rows only"
            )
    for value in model.graph.output:  # converters are not always right about these
        for dim, size in list(zip(value.type.tensor_type.shape.dim, found[value.name].shape, strict=True))[1:]:
            dim.dim_value = size
    making.save(model, staging)
    making.start(staging / making.MODEL)


def _agreement(right: Array, ours: Array) -> float:
    """The share of rows that are alike."""
    if len(right) != len(ours):
        return 0.0
    right, ours = right.reshape(len(right), -1), ours.reshape(len(ours), -1)
    if right.shape[1] == 1 and ours.shape[1] == 2:  # of two classes, the second one's score tells both
        ours = ours[:, 1:]
    if right.shape != ours.shape:
        return 0.0
    if right.dtype.kind != "f":
        return float((right.astype(str) == ours.astype(str)).all(axis=1).mean())
    bound = TOLERANCE * max(1.0, float(np.abs(right[np.isfinite(right)]).max(initial=0)))
    return float(np.isclose(right, ours, rtol=0, atol=bound, equal_nan=True).all(axis=1).mean())


def draw(model: Any, features: int, missing: bool = False) -> Array:
    return rows.drawn(model, features, missing)


@contextmanager
def quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def asked(predict: Callable[[Array], dict[str, Array]], given: Array) -> dict[str, Array]:
    """What the original gives for these rows."""
    try:
        with quiet():
            return predict(given)
    except Exception as error:  # whatever it raises
        raise ModelError(f"the original itself does not take rows of numbers: {making.first_line(error)}") from error


def outputs(model: Any) -> Sequence[str]:
    return [value.name for value in model.graph.output]
