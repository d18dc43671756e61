"""The models and request bodies that the bench sends, the same for every server it measures."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from sluice.pb import inference_pb2

IDENTITY = "identity"
WIDTH = 64  # elements of each of the identity model's two inputs
FLOATS = 384  # elements of its output: an embedding's size

# Lengths of real short texts: lognormal, median 24, 95th percentile 124.
MEDIAN_LENGTH = 24
P95_LENGTH = 124
MOST_LENGTH = 512

Arrays = Mapping[str, "np.ndarray[Any, np.dtype[np.int64]]"]


@dataclass(frozen=True, slots=True)
class Body:
    """One request's bytes: a gRPC message, or a whole HTTP request with its head."""

    data: bytes
    tokens: int = 0


def write_identity(repository: Path) -> None:
    """A model that costs next to nothing: two int64[64] in, float32[384] out, per row."""
    from onnx import TensorProto, checker, helper, save

    inputs = [helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", WIDTH]) for name in ("first", "second")]
    output = helper.make_tensor_value_info("output", TensorProto.FLOAT, ["batch", FLOATS])
    nodes = [
        helper.make_node("Add", ["first", "second"], ["sum"]),
        helper.make_node("Cast", ["sum"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("Concat", ["floats"] * (FLOATS // WIDTH), ["output"], axis=1),
    ]
    graph = helper.make_graph(nodes, IDENTITY, inputs, [output])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    checker.check_model(model)
    directory = repository / IDENTITY / "1"
    directory.mkdir(parents=True)
    save(model, str(directory / "model.onnx"))


def identity_bodies() -> dict[str, Body]:
    """One request to the identity model for each way of sending it."""
    row = np.arange(WIDTH, dtype=np.int64).reshape(1, WIDTH)
    arrays = {"first": row, "second": row}
    return {
        "gRPC": grpc_body(IDENTITY, arrays),
        "HTTP JSON": _http_json_body(IDENTITY, arrays),
        "HTTP binary": http_binary_body(IDENTITY, arrays),
    }


def grpc_body(model: str, arrays: Arrays, tokens: int = 0) -> Body:
    message = inference_pb2.ModelInferRequest(model_name=model)
    for name, array in arrays.items():
        message.inputs.add(name=name, datatype="INT64", shape=array.shape)
        message.raw_input_contents.append(array.tobytes())
    return Body(message.SerializeToString(), tokens)


def _http_json_body(model: str, arrays: Arrays) -> Body:
    inputs = [
        {"name": name, "datatype": "INT64", "shape": array.shape, "data": array.ravel().tolist()}
        for name, array in arrays.items()
    ]
    return Body(_http_request(model, orjson.dumps({"inputs": inputs}), "Content-Type: application/json"))


def http_binary_body(model: str, arrays: Arrays) -> Body:
    inputs = [
        {
            "name": name,
            "datatype": "INT64",
            "shape": array.shape,
            "parameters": {"binary_data_size": array.nbytes},
        }
        for name, array in arrays.items()
    ]
    head = orjson.dumps({"inputs": inputs, "parameters": {"binary_data_output": True}})
    body = head + b"".join(array.tobytes() for array in arrays.values())
    header = f"Content-Type: application/octet-stream\r\nInference-Header-Content-Length: {len(head)}"
    return Body(_http_request(model, body, header))


def _http_request(model: str, body: bytes, header: str) -> bytes:
    return http_request(f"/v2/models/{model}/infer", body, header)


def http_request(path: str, body: bytes, header: str = "Content-Type: application/json") -> bytes:
    head = f"POST {path} HTTP/1.1\r\nHost: bench\r\n{header}\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def lengths(count: int, seed: int = 7) -> list[int]:
    """Sequence lengths of the demo traffic, the same on every run."""
    spread = math.log(P95_LENGTH / MEDIAN_LENGTH) / 1.6449  # the 95th percentile lies 1.6449 deviations up
    drawn = np.random.default_rng(seed).lognormal(math.log(MEDIAN_LENGTH), spread, count)
    return [int(length) for length in np.clip(drawn, 3, MOST_LENGTH)]


def text_inputs(names: list[str], length: int) -> dict[str, np.ndarray[Any, np.dtype[np.int64]]]:
    """A text of this many tokens as a tokenizer would give it, for the inputs the model has."""
    values = {
        "input_ids": np.random.default_rng(length).integers(1000, 20000, (1, length), dtype=np.int64),
        "attention_mask": np.ones((1, length), dtype=np.int64),
        "token_type_ids": np.zeros((1, length), dtype=np.int64),
    }
    return {name: values[name] for name in names}
