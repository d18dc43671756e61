"""Requests made up from what a server says about its model, as the bytes that travel."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import numpy as np
import orjson

from sluice.bench.traffic import BenchError
from sluice.pb import inference_pb2
from sluice.request import Tensor, encode_bytes
from sluice.spec import BYTES, NUMPY_TYPES

_BINARY_ONLY = ("FP16", "BF16")


@dataclass(frozen=True, slots=True)
class Input:
    """A model's input as its server describes it; -1 is any size."""

    name: str
    datatype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Making:
    """How values are made up: rows of each request, the range of token ids, shapes given by the user."""

    rows: int = 1
    ids: tuple[int, int] = (1000, 20000)
    shapes: Mapping[str, tuple[int | None, ...]] | None = None  # None in a shape: the request's length


def tensors(inputs: Sequence[Input], length: int, making: Making) -> tuple[Tensor, ...]:
    """The inputs of one request of this length; the same length always gives the same values."""
    random = np.random.default_rng((7, length))
    made = []
    for each in inputs:
        shape = _shape(each, length, making)
        made.append(Tensor(each.name, each.datatype, shape, _values(each, shape, making, random)))
    return tuple(made)


def _shape(port: Input, length: int, making: Making) -> tuple[int, ...]:
    """A leading -1 is the batch, every other one the sequence; a sole axis can only be the batch."""
    if given := (making.shapes or {}).get(port.name):
        return tuple(length if size is None else size for size in given)
    first = making.rows if port.shape[:1] == (-1,) else port.shape[0] if port.shape else 0
    return tuple(first if axis == 0 else length if size < 0 else size for axis, size in enumerate(port.shape))


def _values(port: Input, shape: tuple[int, ...], making: Making, random: np.random.Generator) -> bytes:
    count = math.prod(shape)
    if port.datatype == BYTES:
        return encode_bytes([b"the water turns the wheel"] * count)
    if port.datatype == "BF16":  # the upper half of an FP32
        return (random.standard_normal(count).astype("<f4").view("<u4") >> 16).astype("<u2").tobytes()
    if port.datatype not in NUMPY_TYPES:
        raise BenchError(f"the server's input '{port.name}' has the unknown datatype '{port.datatype}'")
    dtype = NUMPY_TYPES[port.datatype]
    if dtype.kind == "f":
        return random.standard_normal(count).astype(dtype).tobytes()
    name = port.name.lower()
    if dtype.kind == "b" or "mask" in name:
        return np.ones(count, dtype).tobytes()
    if "type" in name or "segment" in name:
        return np.zeros(count, dtype).tobytes()
    if "position" in name:
        return np.broadcast_to(np.arange(shape[-1], dtype=dtype), shape).tobytes()
    low, high = making.ids
    most = int(np.iinfo(dtype).max)
    return random.integers(min(low, most), min(high, most + 1), count).astype(dtype).tobytes()


def grpc_message(model: str, version: str, inputs: Sequence[Tensor]) -> bytes:
    message = inference_pb2.ModelInferRequest(model_name=model, model_version=version)
    for tensor in inputs:
        message.inputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
        message.raw_input_contents.append(bytes(tensor.data))
    return message.SerializeToString()


def http_binary(inputs: Sequence[Tensor]) -> tuple[bytes, dict[str, str]]:
    """A body whose tensors follow its JSON, and the headers it needs."""
    described = [{**_head(tensor), "parameters": {"binary_data_size": len(tensor.data)}} for tensor in inputs]
    head = orjson.dumps({"inputs": described, "parameters": {"binary_data_output": True}})
    headers = {"Content-Type": "application/octet-stream", "Inference-Header-Content-Length": str(len(head))}
    return head + b"".join(tensor.data for tensor in inputs), headers


def http_json(inputs: Sequence[Tensor]) -> tuple[bytes, dict[str, str]]:
    """A body that is JSON alone, and the headers it needs."""
    described = []
    for tensor in inputs:
        if tensor.datatype in _BINARY_ONLY:
            raise BenchError(f"input '{tensor.name}' is {tensor.datatype}, which JSON cannot carry: send it binary")
        elements: list[Any] = tensor.array().ravel().tolist()
        if tensor.datatype == BYTES:
            elements = [element.decode() for element in elements]
        described.append({**_head(tensor), "data": elements})
    return orjson.dumps({"inputs": described}), {"Content-Type": "application/json"}


def _head(tensor: Tensor) -> dict[str, Any]:
    return {"name": tensor.name, "datatype": tensor.datatype, "shape": tensor.shape}


def http_request(host: str, path: str, body: bytes, headers: Mapping[str, str]) -> bytes:
    """A whole HTTP/1.1 request, ready to be written."""
    lines = [f"POST {path} HTTP/1.1", f"Host: {host}", f"Content-Length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join((*lines, "", "")).encode("latin-1") + body


def infer_path(model: str, version: str = "") -> str:
    return f"{model_path(model, version)}/infer"


def model_path(model: str, version: str = "") -> str:
    path = f"/v2/models/{quote(model, safe='')}"
    return f"{path}/versions/{quote(version, safe='')}" if version else path
