"""ModelStreamInfer: many requests at once, errors that answer only their own, ends of every kind."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc.aio as triton
from grpc_stand_ins import Bench

from sluice import errors
from sluice.frontends.grpc import servicer
from sluice.pb.inference_pb2 import ModelInferRequest, ModelStreamInferResponse


def request(id: str, model: str = "echo", **parameters: bool) -> bytes:
    message = ModelInferRequest(model_name=model, id=id)
    message.inputs.add(name="x", datatype="UINT8", shape=[2])
    message.raw_input_contents.append(b"ab")
    for name, value in parameters.items():
        message.parameters[name].bool_param = value
    return message.SerializeToString()


async def answer(stream: Any) -> ModelStreamInferResponse:
    return ModelStreamInferResponse.FromString(await stream.read())


async def test_answers_overtake_each_other(bench: Bench) -> None:
    bench.engine.held.add("first")
    stream = bench.stream()
    await stream.write(request("first"))
    await stream.write(request("second"))
    reply = await answer(stream)
    assert reply.infer_response.id == "second"
    assert list(reply.infer_response.raw_output_contents) == [b"ab"]
    await stream.done_writing()
    bench.engine.gate.set()
    assert (await answer(stream)).infer_response.id == "first"
    assert await stream.read() is grpc.aio.EOF
    assert await stream.code() is grpc.StatusCode.OK


async def test_all_of_a_stream_is_its_tenants(bench: Bench) -> None:
    stream = bench.stream(metadata=(("x-tenant", "gold"),))
    for name in ("first", "second"):
        await stream.write(request(name))
        await answer(stream)
    await stream.done_writing()
    assert [seen.tenant for seen in bench.engine.requests] == ["gold", "gold"]


async def test_an_error_answers_its_own_request(bench: Bench) -> None:
    stream = bench.stream()
    await stream.write(request("bad", "unknown"))
    reply = await answer(stream)
    assert reply.error_message == "Request for unknown model: 'unknown' is not found"
    assert (reply.infer_response.id, reply.infer_response.model_name) == ("bad", "unknown")
    await stream.write(b"\xff\xff")
    assert (await answer(stream)).error_message == "the message is not a valid ModelInferRequest"
    await stream.write(request("good"))
    assert (await answer(stream)).infer_response.id == "good"
    await stream.done_writing()
    assert await stream.code() is grpc.StatusCode.OK


async def test_bugs_are_not_shown(bench: Bench) -> None:
    bench.engine.error = ValueError("secret")
    stream = bench.stream()
    await stream.write(request("r"))
    assert (await answer(stream)).error_message == "internal error"
    stream.cancel()


async def test_errors_end_the_call_if_the_client_asks_for_it(bench: Bench) -> None:
    bench.engine.held.add("slow")
    stream = bench.stream(metadata=(("triton_grpc_error", "true"),))
    await stream.write(request("good"))
    assert (await answer(stream)).infer_response.id == "good"
    await stream.write(request("slow"))
    await stream.write(request("bad", "unknown"))
    assert await asyncio.wait_for(stream.code(), 10) is grpc.StatusCode.NOT_FOUND
    assert await stream.details() == "Request for unknown model: 'unknown' is not found"
    await asyncio.wait_for(bench.engine.cancelled.acquire(), 10)


async def test_overload_that_ends_the_call_forbids_a_retry(bench: Bench) -> None:
    bench.engine.error = errors.QueueFull("Exceeds maximum queue size")
    stream = bench.stream(metadata=(("triton_grpc_error", "true"),))
    await stream.write(request("r"))
    assert await asyncio.wait_for(stream.code(), 10) is grpc.StatusCode.UNAVAILABLE
    assert dict(await stream.trailing_metadata())["grpc-retry-pushback-ms"] == "-1"


async def test_final_marks(bench: Bench) -> None:
    stream = bench.stream()
    await stream.write(request("a", triton_enable_empty_final_response=True))
    assert (await answer(stream)).infer_response.parameters["triton_final_response"].bool_param is True
    await stream.write(request("b", triton_enable_empty_final_response=False))
    assert "triton_final_response" not in (await answer(stream)).infer_response.parameters
    stream.cancel()


async def test_no_more_at_once_than_there_are_slots(bench: Bench) -> None:
    count = servicer.MAX_IN_FLIGHT + 20
    bench.engine.held.update(str(number) for number in range(count))
    stream = bench.stream()
    for number in range(count):
        await stream.write(request(str(number)))
    await stream.done_writing()
    for _ in range(servicer.MAX_IN_FLIGHT):
        await bench.engine.arrived.acquire()
    await bench.unary("ServerLive")(b"")  # a round trip, in which any further request would have arrived
    assert len(bench.engine.requests) == servicer.MAX_IN_FLIGHT
    bench.engine.gate.set()
    ids = {(await answer(stream)).infer_response.id for _ in range(count)}
    assert len(ids) == count
    assert await stream.read() is grpc.aio.EOF


async def test_a_cancel_cancels_all(bench: Bench) -> None:
    bench.engine.held.update("abc")
    stream = bench.stream()
    for id in "abc":
        await stream.write(request(id))
        await bench.engine.arrived.acquire()
    stream.cancel()
    for _ in "abc":
        await asyncio.wait_for(bench.engine.cancelled.acquire(), 10)


async def test_a_stopping_server_answers_what_it_read_and_ends_the_stream(bench: Bench) -> None:
    bench.engine.held.add("slow")
    stream, idle = bench.stream(), bench.stream()
    await stream.write(request("slow"))
    await bench.engine.arrived.acquire()
    await idle.write(request("quick"))
    assert (await answer(idle)).infer_response.id == "quick"
    bench.server.stop_accepting()
    assert await asyncio.wait_for(idle.code(), 10) is grpc.StatusCode.UNAVAILABLE
    bench.engine.gate.set()
    assert (await answer(stream)).infer_response.id == "slow"
    assert await stream.code() is grpc.StatusCode.UNAVAILABLE
    await asyncio.wait_for(bench.server.close(60), 10)


async def test_the_python_client(bench: Bench) -> None:
    x = triton.InferInput("x", [3], "FP32")
    x.set_data_from_numpy(np.array([1, 2, 3], dtype=np.float32))

    async def requests() -> AsyncIterator[dict[str, Any]]:
        for number in range(10):
            model = "unknown" if number == 5 else "echo"
            yield {"model_name": model, "inputs": [x], "request_id": str(number)}

    seen, failed = set(), 0
    async with triton.InferenceServerClient(bench.address) as client:
        async for result, error in client.stream_infer(requests()):
            if error is not None:
                failed += 1
            else:
                seen.add(result.get_response().id)
                assert result.as_numpy("x").tolist() == [1, 2, 3]
    assert failed == 1
    assert seen == {str(number) for number in range(10)} - {"5"}


@pytest.mark.parametrize("abrupt", [False, True])
async def test_a_client_that_leaves_without_a_word(
    bench: Bench, abrupt: bool, caplog: pytest.LogCaptureFixture
) -> None:
    bench.engine.held.add("slow")
    channel = grpc.aio.insecure_channel(bench.address)
    stream = channel.stream_stream("/inference.GRPCInferenceService/ModelStreamInfer")()
    await stream.write(request("slow"))
    await bench.engine.arrived.acquire()
    if not abrupt:
        await stream.done_writing()
    await channel.close(None)
    await asyncio.wait_for(bench.engine.cancelled.acquire(), 10)
    assert not [record for record in caplog.records if record.levelname == "ERROR"]
