"""Triton's own HTTP clients, unmodified, against a running server."""

from __future__ import annotations

import asyncio
import uuid
from typing import Any

import numpy as np
import pytest
import tritonclient.http as triton
import tritonclient.http.aio as triton_aio
import tritonclient.utils.shared_memory as triton_memory
from http_fakes import running
from tritonclient.utils import InferenceServerException

ARRAYS: dict[str, np.ndarray[Any, Any]] = {
    "BOOL": np.array([[True, False]]),
    "UINT8": np.array([[0, 255]], "u1"),
    "UINT64": np.array([[0, 2**64 - 1]], "u8"),
    "INT64": np.array([[-(2**63), 2**63 - 1]], "i8"),
    "FP16": np.array([[1.5, -2]], "f2"),
    "FP32": np.array([[1.5, 3e38]], "f4"),
    "FP64": np.array([[0.1, 1e300]], "f8"),
    "BYTES": np.array([["text", "größer"]], object),
}


def tensor(datatype: str, binary: bool = True) -> triton.InferInput:
    array = ARRAYS[datatype]
    sent = triton.InferInput("x", list(array.shape), datatype)
    sent.set_data_from_numpy(array, binary_data=binary)
    return sent


def expected(datatype: str) -> np.ndarray[Any, Any]:
    array = ARRAYS[datatype]
    return np.array([[text.encode() for text in array[0]]], object) if datatype == "BYTES" else array


@pytest.mark.parametrize("datatype", sorted(ARRAYS))
@pytest.mark.parametrize("packed", [None, "gzip", "deflate"])
async def test_inference(datatype: str, packed: str | None) -> None:
    async with running() as server:

        def ask() -> None:
            with triton.InferenceServerClient(f"127.0.0.1:{server.port}") as client:
                result = client.infer(
                    "echo",
                    [tensor(datatype)],
                    request_id="id",
                    request_compression_algorithm=packed,
                    response_compression_algorithm=packed,
                )
                assert np.array_equal(result.as_numpy("x"), expected(datatype))
                assert result.get_response()["id"] == "id"
                if datatype != "FP16":
                    wanted = triton.InferRequestedOutput("x", binary_data=False)
                    result = client.infer("my model ä", [tensor(datatype, binary=False)], "3", [wanted])
                    got = result.as_numpy("x")
                    assert np.array_equal(got, ARRAYS[datatype])
                    assert result.get_response()["model_version"] == "3"

        await asyncio.to_thread(ask)
        assert server.engine.seen[0].parameters == {}


async def test_everything_else_the_client_can_do() -> None:
    async with running() as server:

        def ask() -> None:
            with triton.InferenceServerClient(f"127.0.0.1:{server.port}") as client:
                assert client.is_server_live()
                assert client.is_server_ready()
                assert client.is_model_ready("echo", "1")
                assert not client.is_model_ready("missing")
                assert client.get_server_metadata()["name"] == "sluice"
                assert client.get_model_metadata("echo", "1")["name"] == "echo"
                assert client.get_model_config("echo")["max_batch_size"] == 8
                assert client.get_inference_statistics()["model_stats"][0]["name"] == "echo"
                assert client.get_inference_statistics("echo", "1")["model_stats"][0]["version"] == "1"
                assert [row["name"] for row in client.get_model_repository_index()] == ["echo", "bad"]
                client.load_model("m", config="{}", files={"file:1/model.onnx": b"bytes"})
                client.unload_model("m", unload_dependents=True)
                assert client.update_trace_settings(settings={"trace_rate": "5"})["trace_rate"] == "5"
                assert client.get_trace_settings("echo")["trace_rate"] == "5"
                assert client.get_log_settings()["log_error"] is True
                assert client.get_system_shared_memory_status() == []
                client.unregister_system_shared_memory()
                client.unregister_cuda_shared_memory()
                assert client.get_cuda_shared_memory_status() == []
                with pytest.raises(InferenceServerException, match="not supported"):
                    client.register_cuda_shared_memory("r", b"handle", 0, 8)
                with pytest.raises(InferenceServerException, match="unknown model: 'missing'") as caught:
                    client.get_model_metadata("missing")
                assert caught.value.status() == "404"

        await asyncio.to_thread(ask)
        assert server.catalog.calls == [("load", "m", "{}", {"1/model.onnx": b"bytes"}), ("unload", "m", True)]


async def test_shared_memory_both_ways() -> None:
    async with running() as server:

        def ask() -> None:
            key = f"client-test-{uuid.uuid4().hex}"
            array = np.arange(6, dtype="f4").reshape(2, 3)
            memory = triton_memory.create_shared_memory_region("r", key, 2 * array.nbytes)
            try:
                triton_memory.set_shared_memory_region(memory, [array])
                with triton.InferenceServerClient(f"127.0.0.1:{server.port}") as client:
                    client.register_system_shared_memory("r", key, 2 * array.nbytes)
                    sent = triton.InferInput("x", [2, 3], "FP32")
                    sent.set_shared_memory("r", array.nbytes)
                    wanted = triton.InferRequestedOutput("x")
                    wanted.set_shared_memory("r", array.nbytes, offset=array.nbytes)
                    result = client.infer("echo", [sent], outputs=[wanted])
                    assert "parameters" not in result.get_output("x")
                    got = triton_memory.get_contents_as_numpy(memory, np.float32, [2, 3], offset=array.nbytes)
                    assert np.array_equal(got, array)
                    client.unregister_system_shared_memory("r")
                    del got
            finally:
                triton_memory.destroy_shared_memory_region(memory)

        await asyncio.to_thread(ask)


async def test_the_asyncio_client() -> None:
    async with running() as server, triton_aio.InferenceServerClient(f"127.0.0.1:{server.port}") as client:
        assert await client.is_server_ready()
        results = await asyncio.gather(*(client.infer("echo", [tensor("FP32")]) for _ in range(20)))
        assert all(np.array_equal(result.as_numpy("x"), ARRAYS["FP32"]) for result in results)
        result = await client.infer("echo", [tensor("BYTES")], response_compression_algorithm="gzip")
        assert np.array_equal(result.as_numpy("x"), expected("BYTES"))
