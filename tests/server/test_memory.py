"""A worker's memory stays within a bound of what it was when warm, whatever shapes come, and giants leave nothing."""

import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import graphs
import numpy as np
import pytest
import tritonclient.http as triton_http
from onnx import TensorProto, helper
from servers import Server, end, launch
from traffic import int64

BOUND = 64 << 20  # bytes above what the worker has when warm; what the README promises
SLOTS = 4 << 20  # bytes of both slots of a worker after ordinary batches
TOKENS = 256
LONGEST = 512
ROWS = 64
BATCHES = 1000
GIANT = (12, LONGEST)  # its attention scores alone are 96 MiB
FORGOTTEN = 4 * 32 + 8  # batches after which a giant's memory is back: two windows of each of the two slots

SIZE, HEADS = 64, 8


def encoder(repository: Path) -> None:
    """input_ids, attention_mask -> states [batch, sequence, 64], embedding [batch, 64]: one layer of a transformer."""
    weights = np.random.default_rng(0)

    def matrix(*shape: int) -> np.ndarray[Any, Any]:
        return (weights.standard_normal(shape) / 8).astype(np.float32)

    constants: dict[str, np.ndarray[Any, Any]] = {name: matrix(SIZE, SIZE) for name in ("query", "key", "value")}
    constants |= {"table": matrix(100, SIZE), "widen": matrix(SIZE, 4 * SIZE), "narrow": matrix(4 * SIZE, SIZE)}
    constants |= {"heads": np.array([0, 0, HEADS, SIZE // HEADS]), "whole": np.array([0, 0, SIZE])}
    constants |= {
        "one": np.array(1, np.float32),
        "far": np.array(-1e4, np.float32),
        "axes": np.array([1, 2]),
        "first": np.array(0),
    }
    make = helper.make_node
    nodes = [
        make("Gather", ["table", "input_ids"], ["embedded"]),
        make("Cast", ["attention_mask"], ["mask"], to=TensorProto.FLOAT),
        make("Sub", ["one", "mask"], ["hidden"]),
        make("Mul", ["hidden", "far"], ["bias"]),
        make("Unsqueeze", ["bias", "axes"], ["wide_bias"]),
    ]
    for name, order in (("query", (0, 2, 1, 3)), ("key", (0, 2, 3, 1)), ("value", (0, 2, 1, 3))):
        nodes += [
            make("MatMul", ["embedded", name], [f"{name}s"]),
            make("Reshape", [f"{name}s", "heads"], [f"{name}_heads"]),
            make("Transpose", [f"{name}_heads"], [f"{name}_turned"], perm=order),
        ]
    nodes += [
        make("MatMul", ["query_turned", "key_turned"], ["scores"]),
        make("Add", ["scores", "wide_bias"], ["masked"]),
        make("Softmax", ["masked"], ["attention"]),
        make("MatMul", ["attention", "value_turned"], ["context"]),
        make("Transpose", ["context"], ["context_turned"], perm=(0, 2, 1, 3)),
        make("Reshape", ["context_turned", "whole"], ["attended"]),
        make("MatMul", ["attended", "widen"], ["wide"]),
        make("Relu", ["wide"], ["positive"]),
        make("MatMul", ["positive", "narrow"], ["states"]),
        make("Gather", ["states", "first"], ["embedding"], axis=1),
    ]
    inputs = [graphs.value(name, "INT64", ["batch", "sequence"]) for name in ("input_ids", "attention_mask")]
    outputs = [
        graphs.value("states", "FP32", ["batch", "sequence", SIZE]),
        graphs.value("embedding", "FP32", ["batch", SIZE]),
    ]
    graphs.save(repository / "encoder" / "1" / "model.onnx", nodes, inputs, outputs, constants)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    repository = tmp_path_factory.mktemp("models")
    encoder(repository)
    log = tmp_path_factory.mktemp("log") / "server.log"
    server = launch(repository, log, "--workers", "1", "--max-batch-tokens", str(TOKENS))
    yield server
    end(server)


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[Any]:
    # One request at a time, so that each is a batch of just its own shape.
    with triton_http.InferenceServerClient(server.netloc, network_timeout=60.0) as client:
        yield client


def private(server: Server) -> int:
    """Bytes that only the worker has: neither shared libraries nor slots."""
    (worker,) = server.workers()
    return int(worker.memory_full_info().uss)


def slots(server: Server) -> int:
    """Bytes that the slots really take, which both the server and the worker see."""
    total = 0
    for link in Path(f"/proc/{server.process.pid}/fd").iterdir():
        try:
            if "memfd:sluice-" in os.readlink(link):
                total += 512 * link.stat().st_blocks
        except FileNotFoundError:
            continue  # closed in the meantime
    return total


def infer(client: Any, rows: int, length: int) -> None:
    ids = np.full((rows, length), 7, np.int64)
    states = client.infer("encoder", int64(triton_http, input_ids=ids, attention_mask=np.ones_like(ids)))
    assert states.as_numpy("states").shape == (rows, length, SIZE)


def ordinary(client: Any, count: int, seed: int) -> None:
    """Random shapes within a batch's limit; texts longer than that come alone."""
    chance = random.Random(seed)
    for _ in range(count):
        length = chance.randint(1, LONGEST)
        infer(client, chance.randint(1, min(ROWS, max(1, TOKENS // length))), length)


def test_random_shapes_stay_within_the_bound(server: Server, client: Any) -> None:
    warm = private(server)
    ordinary(client, BATCHES, seed=1)
    assert private(server) < warm + BOUND
    assert slots(server) < SLOTS


def test_the_memory_of_a_giant_is_given_back(server: Server, client: Any) -> None:
    ordinary(client, 1, seed=2)
    warm = private(server)
    infer(client, *GIANT)
    # Held at first, or this would show nothing.
    assert private(server) > warm + BOUND
    assert slots(server) > SIZE * 4 * GIANT[0] * GIANT[1]
    ordinary(client, FORGOTTEN, seed=3)
    assert private(server) < warm + BOUND
    assert slots(server) < SLOTS


def test_the_answers_after_giving_back_are_whole(server: Server, client: Any) -> None:
    """Pages given back come again as zeros, which no batch may take for its own data."""
    ids: np.ndarray[Any, Any] = np.arange(2 * LONGEST, dtype=np.int64).reshape(2, LONGEST) % 100
    inputs = int64(triton_http, input_ids=ids, attention_mask=np.ones_like(ids))
    expected = client.infer("encoder", inputs).as_numpy("states")
    infer(client, *GIANT)
    ordinary(client, FORGOTTEN, seed=4)
    np.testing.assert_allclose(client.infer("encoder", inputs).as_numpy("states"), expected, rtol=1e-4, atol=1e-5)
