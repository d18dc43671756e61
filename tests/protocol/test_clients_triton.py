"""tritonclient, unmodified: every call of its four clients against a real server."""

from __future__ import annotations

import asyncio
import json
import queue
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import graphs
import ml_dtypes
import numpy as np
import pytest
import tritonclient.grpc.aio
import tritonclient.http.aio
from clients import MODULES, given, ids, open_client, wanted
from servers import Server, end, launch
from tritonclient.utils import InferenceServerException, triton_to_np_dtype
from wires import wait_until

NUMBERS = tuple(datatype for datatype in graphs.DATATYPES if datatype != "BYTES")
PROTOCOLS = ["http", "grpc"]


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("clients") / "models"
    graphs.tagger(root)
    graphs.tagger(root, "many", "1", factor=2)
    graphs.tagger(root, "many", "3", factor=4)
    (root / "many" / "model.toml").write_text('[versions]\npolicy = "all"\n')
    graphs.tagger(root, "spare")
    graphs.identity(root, "numbers", NUMBERS)
    graphs.identity(root, "texts", ("BYTES",))
    graphs.identity(root, "scores", ("FP32", "BF16"), ("batch", 4))
    (root / "scores" / "model.toml").write_text('[[output]]\nname = "OUTPUT0"\nlabels = ["a", "b", "c", "d"]\n')
    graphs.python_echo(root, gate=root.parent / "gate", more="max_batch_rows = 1\n")
    return root


@pytest.fixture(scope="module")
def server(repository: Path) -> Iterator[Server]:
    running = launch(repository, repository.parent / "log", "--python-directory", str(repository))
    yield running
    end(running)


@pytest.fixture(params=PROTOCOLS)
def protocol(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def client(server: Server, protocol: str) -> Iterator[Any]:
    with open_client(server, protocol) as opened:
        yield opened


def as_json(protocol: str) -> dict[str, bool]:
    """gRPC clients hand out messages unless asked otherwise."""
    return {"as_json": True} if protocol == "grpc" else {}


def made_up(datatype: str, shape: tuple[int, ...]) -> Any:
    """Values of a datatype that tell mistakes in byte order, sign and width apart."""
    count = int(np.prod(shape))
    if datatype == "BOOL":
        return (np.arange(count) % 3 == 0).reshape(shape)
    dtype = np.dtype(triton_to_np_dtype(datatype))
    if datatype in ("FP16", "BF16", "FP32", "FP64"):
        return np.linspace(-3.3, 1e4, count).astype(dtype).reshape(shape)
    limits = np.iinfo(dtype)
    return np.array([(limits.min, limits.max, 1, 2)[index % 4] for index in range(count)], dtype).reshape(shape)


# Questions about the server and its models.


def test_health(client: Any) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("tagger")
    assert client.is_model_ready("many", "3")
    assert not client.is_model_ready("many", "2")
    assert not client.is_model_ready("unknown")


def test_metadata(client: Any, protocol: str) -> None:
    about = client.get_server_metadata(**as_json(protocol))
    assert about["name"] == "sluice"
    assert {"binary_tensor_data", "classification", "system_shared_memory"} <= set(about["extensions"])
    model = client.get_model_metadata("many", **as_json(protocol))
    assert model["versions"] == ["1", "3"]
    assert model["platform"] == "onnxruntime_onnx"
    assert [tensor["name"] for tensor in model["inputs"]] == ["input_ids", "attention_mask"]


def test_configuration(client: Any, protocol: str) -> None:
    config = client.get_model_config("tagger", **as_json(protocol))
    config = config["config"] if protocol == "grpc" else config
    assert config["name"] == "tagger"
    assert config["max_batch_size"] == 64
    assert [tensor["data_type"] for tensor in config["input"]] == ["TYPE_INT64", "TYPE_INT64"]


def test_statistics(client: Any, protocol: str) -> None:
    def read() -> dict[str, Any]:
        (found,) = client.get_inference_statistics("spare", **as_json(protocol))["model_stats"]
        assert isinstance(found, dict)
        return found

    before = read()
    client.infer("spare", ids(protocol, [[1, 2], [3, 4]]))
    after = read()
    assert int(after["inference_count"]) - int(before.get("inference_count", 0)) == 2
    assert int(after["execution_count"]) - int(before.get("execution_count", 0)) == 1
    assert int(after["inference_stats"]["success"]["ns"]) > 0
    everything = client.get_inference_statistics(**as_json(protocol))["model_stats"]
    assert {"spare", "tagger", "many"} <= {found["name"] for found in everything}


def test_repository(client: Any, protocol: str, repository: Path) -> None:
    def states() -> dict[tuple[str, str], str]:
        index = client.get_model_repository_index(**as_json(protocol))
        return {
            (row["name"], row["version"]): row["state"] for row in (index["models"] if protocol == "grpc" else index)
        }

    assert states()["many", "1"] == states()["many", "3"] == "READY"
    client.unload_model("spare")
    assert states()["spare", "1"] == "UNAVAILABLE"
    assert not client.is_model_ready("spare")
    client.load_model("spare")
    assert client.is_model_ready("spare")
    client.load_model("spare", config=json.dumps({"max_batch_size": 5}))
    config = client.get_model_config("spare", **as_json(protocol))
    assert (config["config"] if protocol == "grpc" else config)["max_batch_size"] == 5
    client.load_model("spare")
    file = (repository / "tagger" / "1" / "model.onnx").read_bytes()
    client.load_model("brought", config="{}", files={"file:4/model.onnx": file})
    assert client.infer("brought", ids(protocol, [[5]])).as_numpy("total").item() == 10
    client.unload_model("brought", unload_dependents=True)
    with pytest.raises(InferenceServerException, match="unknown"):
        client.load_model("unknown")


def test_trace_settings(client: Any, protocol: str) -> None:
    def levels(settings: Any) -> Any:
        return settings["settings"]["trace_level"]["value"] if protocol == "grpc" else settings["trace_level"]

    changed = client.update_trace_settings(
        "tagger", {"trace_level": ["TIMESTAMPS"], "trace_rate": "7"}, **as_json(protocol)
    )
    assert levels(changed) == ["TIMESTAMPS"]
    assert levels(client.get_trace_settings("tagger", **as_json(protocol))) == ["TIMESTAMPS"]
    assert levels(client.get_trace_settings(**as_json(protocol))) == ["OFF"]
    cleared = client.update_trace_settings("tagger", {"trace_level": None, "trace_rate": None}, **as_json(protocol))
    assert levels(cleared) == ["OFF"]


def test_log_settings(client: Any, protocol: str) -> None:
    def level(settings: Any) -> Any:
        return (
            settings["settings"]["log_verbose_level"]["uint32_param"]
            if protocol == "grpc"
            else settings["log_verbose_level"]
        )

    before = level(client.get_log_settings(**as_json(protocol)))
    assert level(client.update_log_settings({"log_verbose_level": before + 1}, **as_json(protocol))) == before + 1
    assert level(client.update_log_settings({"log_verbose_level": before}, **as_json(protocol))) == before
    with pytest.raises(InferenceServerException, match="log_file"):
        client.update_log_settings({"log_file": "/tmp/anything"})


# Inference.


@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (2, 700)])
def test_every_number_comes_back(client: Any, protocol: str, shape: tuple[int, int]) -> None:
    arrays = {f"INPUT{index}": made_up(datatype, shape) for index, datatype in enumerate(NUMBERS)}
    result = client.infer("numbers", given(protocol, **arrays), request_id="mine")
    for index, sent in enumerate(arrays.values()):
        received = result.as_numpy(f"OUTPUT{index}")
        assert received.dtype == sent.dtype
        np.testing.assert_array_equal(received, sent)
    response = result.get_response()
    assert (response.id if protocol == "grpc" else response["id"]) == "mine"


def test_texts_come_back(client: Any, protocol: str) -> None:
    texts = np.array([[b"", "ünïcödé".encode()], [b"a\0b", b"x" * 100_000]], dtype=object)
    assert client.infer("texts", given(protocol, INPUT0=texts)).as_numpy("OUTPUT0").tolist() == texts.tolist()


@pytest.mark.parametrize("datatype", ["BOOL", "UINT64", "INT64", "INT8", "FP32", "FP64"])
def test_http_values_in_json(server: Server, datatype: str) -> None:
    """Inputs and outputs as JSON instead of binary data; integers beyond 2⁵³ stay what they are."""
    every = [made_up(one, (2, 3)) for one in NUMBERS]
    inputs = given("http", **{f"INPUT{index}": array for index, array in enumerate(every)})
    index = NUMBERS.index(datatype)
    inputs[index].set_data_from_numpy(every[index], binary_data=False)
    with open_client(server, "http") as client:
        result = client.infer("numbers", inputs, outputs=[wanted("http", f"OUTPUT{index}", binary_data=False)])
    np.testing.assert_array_equal(result.as_numpy(f"OUTPUT{index}"), every[index])


def test_http_texts_in_json(server: Server) -> None:
    (tensor,) = given("http", INPUT0=np.array([["ä", 'quoted "\n"']], dtype=object))
    tensor.set_data_from_numpy(np.array([["ä", 'quoted "\n"']], dtype=object), binary_data=False)
    with open_client(server, "http") as client:
        result = client.infer("texts", [tensor], outputs=[wanted("http", "OUTPUT0", binary_data=False)])
    assert result.as_numpy("OUTPUT0").tolist() == [["ä", 'quoted "\n"']]


@pytest.mark.parametrize("name", ["INPUT0", "INPUT1"])
def test_classification(client: Any, protocol: str, name: str) -> None:
    scores = np.array([[0.5, 3, -1, 2], [9, 8, 7, 6]])
    inputs = given(protocol, INPUT0=scores.astype(np.float32), INPUT1=scores.astype(ml_dtypes.bfloat16))
    output = name.replace("IN", "OUT")
    classes = client.infer("scores", inputs, outputs=[wanted(protocol, output, class_count=2)]).as_numpy(output)
    labels = iter((":b", ":d", ":a", ":b")) if name == "INPUT0" else iter([""] * 4)
    expected = [("3.000000:1", "2.000000:3"), ("9.000000:0", "8.000000:1")]
    assert classes.tolist() == [[(text + next(labels)).encode() for text in row] for row in expected]


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
def test_compression(client: Any, protocol: str, algorithm: str) -> None:
    inputs = ids(protocol, [list(range(2000))])
    options = {"compression_algorithm": algorithm}
    if protocol == "http":
        options = {"request_compression_algorithm": algorithm, "response_compression_algorithm": algorithm}
    assert client.infer("tagger", inputs, **options).as_numpy("tokens").tolist() == [list(range(0, 4000, 2))]


def test_versions(client: Any, protocol: str) -> None:
    for version, total in (("1", 2), ("3", 4), ("", 4)):
        assert client.infer("many", ids(protocol, [[1]]), version).as_numpy("total").item() == total
    with pytest.raises(InferenceServerException, match="version 2"):
        client.infer("many", ids(protocol, [[1]]), "2")


def test_reserved_and_own_parameters(client: Any, protocol: str) -> None:
    result = client.infer(
        "tagger", ids(protocol, [[1]]), priority=1, timeout=60_000_000, sequence_id=5, sequence_start=True,
        sequence_end=True, parameters={"flag": True, "number": 3, "text": "x", "share": 0.5},
    )  # fmt: skip
    assert result.as_numpy("total").item() == 2


def test_errors(client: Any, protocol: str) -> None:
    with pytest.raises(InferenceServerException, match="unknown model: 'unknown'") as caught:
        client.infer("unknown", ids(protocol, [[1]]))
    assert caught.value.status() == ("404" if protocol == "http" else "StatusCode.NOT_FOUND")
    with pytest.raises(InferenceServerException, match="missing: 'input_ids'"):
        client.infer("tagger", ids(protocol, [[1]])[1:])


# Many at once.


def test_http_async_infer(server: Server) -> None:
    client = MODULES["http"].InferenceServerClient(server.netloc, concurrency=8)
    with client:
        pending = [client.async_infer("tagger", ids("http", [[value] * (1 + value % 5)])) for value in range(40)]
        for value, one in enumerate(pending):
            assert one.get_result().as_numpy("total").item() == 2 * value * (1 + value % 5)


def test_grpc_async_infer(server: Server) -> None:
    answers: queue.Queue[tuple[Any, Any]] = queue.Queue()
    with open_client(server, "grpc") as client:
        for value in range(40):
            inputs = ids("grpc", [[value] * (1 + value % 5)])
            client.async_infer(
                "tagger", inputs, lambda result, error: answers.put((result, error)), request_id=str(value)
            )
        for _ in range(40):
            result, error = answers.get(timeout=60)
            assert error is None
            value = int(result.get_response().id)
            assert result.as_numpy("total").item() == 2 * value * (1 + value % 5)


def test_grpc_async_infer_can_be_cancelled(server: Server, repository: Path) -> None:
    """What waits behind a request that is being computed is cancelled and leaves the queue."""
    gate, answers = repository.parent / "gate", queue.Queue[tuple[Any, Any]]()

    def answered(result: Any, error: Any) -> None:
        answers.put((result, error))

    x = np.ones((1, 1), np.int64)
    with open_client(server, "grpc") as client:
        gate.touch()
        try:
            # Of unequal shapes, so that they share no batch: one for each of two workers, and three that wait.
            shapes = [np.ones((1, size), np.int64) for size in range(1, 6)]
            calls = [client.async_infer("echo", given("grpc", x=shape), answered) for shape in shapes]
            wait_until(lambda: server.metric("sluice_queue_length", model="echo") == 3, "both workers are held up")
            for call in calls:
                call.cancel()
            for _ in calls:
                _, error = answers.get(timeout=60)
                assert error.status() == "StatusCode.CANCELLED"
            wait_until(lambda: server.metric("sluice_queue_length", model="echo") == 0, "the queue is empty")
        finally:
            gate.unlink()
        assert client.infer("echo", given("grpc", x=x)).as_numpy("y").item() == 1


def test_grpc_stream(server: Server) -> None:
    """Answers and errors of one stream, matched by id."""
    answers: queue.Queue[tuple[Any, Any]] = queue.Queue()
    with open_client(server, "grpc") as client:
        client.start_stream(lambda result, error: answers.put((result, error)))
        for value in range(100):
            client.async_stream_infer("tagger", ids("grpc", [[value] * (1 + value % 7)]), request_id=str(value))
        client.async_stream_infer("unknown", ids("grpc", [[1]]), request_id="wrong")
        client.async_stream_infer("tagger", ids("grpc", [[1]]), request_id="100", enable_empty_final_response=True)
        client.stop_stream()
    received = [answers.get(timeout=60) for _ in range(102)]
    (error,) = [error for _, error in received if error is not None]
    assert "unknown model: 'unknown'" in error.message()
    totals = {int(one.get_response().id): one.as_numpy("total").item() for one, _ in received if one is not None}
    assert totals == {value: 2 * value * (1 + value % 7) for value in range(100)} | {100: 2}


async def test_grpc_aio(server: Server) -> None:
    async with tritonclient.grpc.aio.InferenceServerClient(server.grpc) as client:
        assert await client.is_server_ready()
        assert (await client.get_model_metadata("tagger", as_json=True))["name"] == "tagger"
        results = await asyncio.gather(*(client.infer("tagger", ids("grpc", [[n] * (1 + n % 5)])) for n in range(40)))
        assert [one.as_numpy("total").item() for one in results] == [2 * n * (1 + n % 5) for n in range(40)]
        with pytest.raises(InferenceServerException, match="unknown"):
            await client.infer("unknown", ids("grpc", [[1]]))


async def test_grpc_aio_stream(server: Server) -> None:
    async def requests() -> AsyncIterator[dict[str, Any]]:
        for value in range(30):
            yield {"model_name": "tagger", "inputs": ids("grpc", [[value]]), "request_id": str(value)}
        yield {"model_name": "unknown", "inputs": ids("grpc", [[1]])}

    totals, errors = {}, []
    async with tritonclient.grpc.aio.InferenceServerClient(server.grpc) as client:
        async for result, error in client.stream_infer(requests()):
            if error is not None:
                errors.append(error.message())
            else:
                totals[int(result.get_response().id)] = result.as_numpy("total").item()
    assert totals == {value: 2 * value for value in range(30)}
    assert ["unknown model" in error for error in errors] == [True]


async def test_http_aio(server: Server) -> None:
    async with tritonclient.http.aio.InferenceServerClient(server.netloc) as client:
        assert await client.is_server_ready()
        assert (await client.get_model_config("tagger"))["name"] == "tagger"
        results = await asyncio.gather(*(client.infer("tagger", ids("http", [[n] * (1 + n % 5)])) for n in range(40)))
        assert [one.as_numpy("total").item() for one in results] == [2 * n * (1 + n % 5) for n in range(40)]
        big = await client.infer("tagger", ids("http", [list(range(2000))]), response_compression_algorithm="gzip")
        assert big.as_numpy("tokens")[0, -1] == 3998
        with pytest.raises(InferenceServerException, match="unknown"):
            await client.infer("unknown", ids("http", [[1]]))
