"""Metadata, configuration, statistics, repository, shared memory and settings, through the Python client."""

from collections.abc import AsyncIterator, Iterator
from multiprocessing import shared_memory

import grpc
import pytest
import tritonclient.grpc.aio as triton
from grpc_stand_ins import Bench
from tritonclient.utils import InferenceServerException

from sluice import __version__, errors
from sluice.frontends.metadata import EXTENSIONS
from sluice.pb import inference_pb2 as pb


@pytest.fixture
async def client(bench: Bench) -> AsyncIterator[triton.InferenceServerClient]:
    async with triton.InferenceServerClient(bench.address) as client:
        yield client


async def code(call: object) -> grpc.StatusCode:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await call  # type: ignore[misc]
    result: grpc.StatusCode = raised.value.code()
    return result


async def test_readiness(bench: Bench, client: triton.InferenceServerClient) -> None:
    assert await client.is_server_live()
    assert await client.is_server_ready()
    assert await client.is_model_ready("echo", "3")
    assert not await client.is_model_ready("nothing")
    bench.parts.able, bench.parts.ready["echo", ""] = False, False
    assert not await client.is_server_ready()
    assert not await client.is_model_ready("echo")


async def test_server_metadata(client: triton.InferenceServerClient) -> None:
    metadata = await client.get_server_metadata()
    assert (metadata.name, metadata.version) == ("sluice", __version__)
    assert tuple(metadata.extensions) == EXTENSIONS


async def test_model_metadata(bench: Bench, client: triton.InferenceServerClient) -> None:
    metadata = await client.get_model_metadata("echo", as_json=True)
    assert metadata == {
        "name": "echo",
        "versions": ["2", "3"],
        "platform": "onnxruntime_onnx",
        "inputs": [{"name": "x", "datatype": "INT64", "shape": ["-1", "-1"]}],
        "outputs": [{"name": "y", "datatype": "FP32", "shape": ["-1", "384"]}],
    }
    message = pb.ModelMetadataRequest(name="echo").SerializeToString()
    reply = pb.ModelMetadataResponse.FromString(await bench.unary("ModelMetadata")(message))
    assert reply.properties == {"padding": "any"}
    with pytest.raises(InferenceServerException, match="unknown model"):
        await client.get_model_metadata("nothing")


async def test_model_configuration(client: triton.InferenceServerClient) -> None:
    config = (await client.get_model_config("echo")).config
    assert (config.name, config.max_batch_size, config.backend) == ("echo", 64, "onnxruntime")
    assert list(config.input[0].dims) == [-1]
    assert config.HasField("dynamic_batching")
    assert not config.HasField("sequence_batching")
    assert config.parameters["a"].string_value == "b"


async def test_statistics(client: triton.InferenceServerClient) -> None:
    (statistics,) = (await client.get_inference_statistics("echo")).model_stats
    assert (statistics.name, statistics.version, statistics.last_inference) == ("echo", "3", 7)
    assert (statistics.inference_count, statistics.execution_count) == (5, 2)
    assert (statistics.inference_stats.success.count, statistics.inference_stats.success.ns) == (4, 400)
    assert statistics.inference_stats.queue.ns == 100
    assert statistics.inference_stats.HasField("cache_miss")
    assert [(batch.batch_size, batch.compute_infer.ns) for batch in statistics.batch_stats] == [(1, 8), (4, 9)]


async def test_repository_index(bench: Bench, client: triton.InferenceServerClient) -> None:
    index = (await client.get_model_repository_index()).models
    assert [(row.name, row.version, row.state, row.reason) for row in index] == [
        ("echo", "3", "READY", ""),
        ("broken", "1", "UNAVAILABLE", "no such file"),
    ]
    message = pb.RepositoryIndexRequest(ready=True).SerializeToString()
    reply = pb.RepositoryIndexResponse.FromString(await bench.unary("RepositoryIndex")(message))
    assert [row.name for row in reply.models] == ["echo"]
    elsewhere = pb.RepositoryIndexRequest(repository_name="other").SerializeToString()
    assert await code(bench.unary("RepositoryIndex")(elsewhere)) is grpc.StatusCode.UNIMPLEMENTED


async def test_load_and_unload(bench: Bench, client: triton.InferenceServerClient) -> None:
    await client.load_model("echo")
    await client.load_model("echo", config="{}", files={"file:1/model.onnx": b"abc"})
    await client.unload_model("echo", unload_dependents=True)
    await client.unload_model("echo")
    assert bench.catalog.calls == [
        ("load", "echo", None, {}),
        ("load", "echo", "{}", {"1/model.onnx": b"abc"}),
        ("unload", "echo", True),
        ("unload", "echo", False),
    ]
    bench.catalog.error = errors.ModelError("model.onnx: cannot be read")
    with pytest.raises(InferenceServerException, match="cannot be read"):
        await client.load_model("echo")


async def test_unknown_or_mistyped_load_parameters(bench: Bench) -> None:
    for name, kind, value in [("config", "bool_param", True), ("file:x", "string_param", ""), ("x", "int64_param", 1)]:
        load = pb.RepositoryModelLoadRequest(model_name="echo")
        setattr(load.parameters[name], kind, value)
        call = bench.unary("RepositoryModelLoad")(load.SerializeToString())
        assert await code(call) is grpc.StatusCode.INVALID_ARGUMENT
    for name, kind, value in [("unload_dependents", "string_param", ""), ("x", "bool_param", True)]:
        unload = pb.RepositoryModelUnloadRequest(model_name="echo")
        setattr(unload.parameters[name], kind, value)
        call = bench.unary("RepositoryModelUnload")(unload.SerializeToString())
        assert await code(call) is grpc.StatusCode.INVALID_ARGUMENT
    assert bench.catalog.calls == []


@pytest.fixture
def memory() -> Iterator[shared_memory.SharedMemory]:
    memory = shared_memory.SharedMemory(create=True, size=4096)
    yield memory
    memory.close()
    memory.unlink()


async def test_system_shared_memory(client: triton.InferenceServerClient, memory: shared_memory.SharedMemory) -> None:
    await client.unregister_system_shared_memory()  # clients begin like this
    await client.register_system_shared_memory("r", memory.name, 1024, offset=64)
    (region,) = (await client.get_system_shared_memory_status()).regions.values()
    assert (region.name, region.key, region.offset, region.byte_size) == ("r", memory.name, 64, 1024)
    with pytest.raises(InferenceServerException, match="already registered"):
        await client.register_system_shared_memory("r", memory.name, 1024)
    with pytest.raises(InferenceServerException) as raised:
        await client.get_system_shared_memory_status("nothing")
    assert raised.value.status() == "StatusCode.NOT_FOUND"
    await client.unregister_system_shared_memory("r")
    assert not (await client.get_system_shared_memory_status()).regions


async def test_cuda_shared_memory(client: triton.InferenceServerClient) -> None:
    await client.unregister_cuda_shared_memory()
    assert not (await client.get_cuda_shared_memory_status()).regions
    with pytest.raises(InferenceServerException, match="CUDA shared memory is not supported on this server") as raised:
        await client.register_cuda_shared_memory("r", b"aGFuZGxl", 0, 1024)
    assert raised.value.status() == "StatusCode.UNIMPLEMENTED"


async def test_trace_settings(client: triton.InferenceServerClient) -> None:
    settings = (await client.get_trace_settings()).settings
    assert list(settings["trace_level"].value) == ["OFF"]
    changed = (await client.update_trace_settings("echo", {"trace_rate": "7", "trace_level": ["TIMESTAMPS"]})).settings
    assert list(changed["trace_rate"].value) == ["7"]
    assert list((await client.get_trace_settings()).settings["trace_rate"].value) == ["1000"]
    back = (await client.update_trace_settings("echo", {"trace_rate": None})).settings
    assert list(back["trace_rate"].value) == ["1000"]
    with pytest.raises(InferenceServerException) as raised:
        await client.get_trace_settings("nothing")
    assert raised.value.status() == "StatusCode.NOT_FOUND"
    with pytest.raises(InferenceServerException) as raised:
        await client.update_trace_settings(settings={"no_such": "1"})
    assert raised.value.status() == "StatusCode.INVALID_ARGUMENT"


async def test_log_settings(bench: Bench, client: triton.InferenceServerClient) -> None:
    settings = (await client.get_log_settings()).settings
    assert settings["log_error"].bool_param is True
    assert settings["log_verbose_level"].WhichOneof("parameter_choice") == "uint32_param"
    changed = (await client.update_log_settings({"log_verbose_level": 1})).settings
    assert changed["log_verbose_level"].uint32_param == 1
    await client.update_log_settings({"log_verbose_level": 0})
    with pytest.raises(InferenceServerException, match="no_such"):
        await client.update_log_settings({"no_such": True})
    empty = pb.LogSettingsRequest()
    empty.settings["log_info"].Clear()
    assert await code(bench.unary("LogSettings")(empty.SerializeToString())) is grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize("method", ["ModelMetadata", "TraceSetting", "RepositoryModelLoad"])
async def test_malformed_messages(bench: Bench, method: str) -> None:
    assert await code(bench.unary(method)(b"\xff")) is grpc.StatusCode.INVALID_ARGUMENT
