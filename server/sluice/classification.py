"""Turns an output of scores into its best classes, as the protocol's classification extension wants them."""

from __future__ import annotations

from typing import Any

import numpy as np

from sluice.errors import InvalidRequest
from sluice.request import InferRequest, Tensor, encode_bytes
from sluice.spec import BYTES, ModelSpec, TensorSpec


def apply(request: InferRequest, spec: ModelSpec, outputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """The outputs, with those whose request asks for classes replaced by theirs."""
    if not any(wanted.classification for wanted in request.outputs):
        return outputs
    return tuple(
        classes(tensor, spec.output_by_name[tensor.name], wanted.classification, spec.batched)
        if wanted.classification
        else tensor
        for wanted, tensor in zip(request.outputs, outputs, strict=True)
    )


def classes(tensor: Tensor, spec: TensorSpec, count: int, batched: bool) -> Tensor:
    """BYTES `value:index[:label]` of the `count` largest elements of each row, largest first."""
    if tensor.datatype == BYTES:
        raise InvalidRequest(f"output '{tensor.name}' is of BYTES, which cannot be classified")
    scores: np.ndarray[Any, Any] = tensor.array()
    if tensor.datatype == "BF16":
        scores = (scores.astype(np.uint32) << 16).view(np.float32)
    rows = scores.reshape(scores.shape[0] if batched and scores.ndim > 1 else 1, -1)
    count = min(count, rows.shape[1])
    texts: list[bytes] = []
    for row in rows:
        # Stable on the negated order, so that of equal scores the lower index comes first; NaN comes last.
        best = np.argsort(-row.astype(np.float64), kind="stable")[:count]
        texts.extend(_text(row[index], int(index), spec.labels) for index in best)
    shape = (rows.shape[0], count) if batched else (count,)
    return Tensor(tensor.name, BYTES, shape, encode_bytes(texts))


def _text(score: Any, index: int, labels: tuple[str, ...]) -> bytes:
    value = f"{float(score):f}" if np.issubdtype(type(score), np.floating) else str(int(score))
    label = f":{labels[index]}" if index < len(labels) else ""
    return f"{value}:{index}{label}".encode()
