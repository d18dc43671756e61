"""ModelInfer through a real server: answers, errors, limits, cancels, start and stop."""

import asyncio
import gzip
import logging
import socket
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc.aio as triton
from grpc_stand_ins import Bench, running
from tritonclient.utils import InferenceServerException

from sluice import errors
from sluice.frontends import status
from sluice.pb.inference_pb2 import ModelInferRequest, ModelInferResponse


def request(id: str = "", model: str = "echo", data: bytes = bytes(8)) -> bytes:
    message = ModelInferRequest(model_name=model, id=id)
    message.inputs.add(name="x", datatype="UINT8", shape=[len(data)])
    message.raw_input_contents.append(data)
    return message.SerializeToString()


def metadata(pairs: Any) -> dict[str, Any]:
    return dict(pairs)


async def failing(call: Any) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await call
    return raised.value


async def test_an_answer(bench: Bench) -> None:
    reply = ModelInferResponse.FromString(await bench.infer(request("r1", data=b"abcdefgh")))
    assert (reply.model_name, reply.model_version, reply.id) == ("echo", "3", "r1")
    assert list(reply.raw_output_contents) == [b"abcdefgh"]
    assert bench.engine.requests[0].deadline is None


@pytest.mark.parametrize(("name", "told"), [("spare/1", True), ("größer/1", False), ("a\nb/1", False)])
async def test_trailers_say_who_answered_instead_if_they_can(bench: Bench, name: str, told: bool) -> None:
    bench.engine.parameters["sluice_fallback"] = name
    call = bench.unary("ModelInfer")(request())
    reply = ModelInferResponse.FromString(await call)
    assert reply.parameters["sluice_fallback"].string_param == name
    assert metadata(await call.trailing_metadata()) == ({"sluice-fallback": name} if told else {})


async def test_metadata_names_the_tenant(bench: Bench) -> None:
    await bench.infer(request("r1", data=b"abcdefgh"), metadata=(("x-tenant", "gold"),))
    await bench.infer(request("r2", data=b"abcdefgh"))
    assert [seen.tenant for seen in bench.engine.requests] == ["gold", ""]
    error = await failing(bench.infer(request("r3", data=b"abcdefgh"), metadata=(("x-tenant", "g" * 129),)))
    assert (error.code(), error.details()) == (
        grpc.StatusCode.INVALID_ARGUMENT,
        "x-tenant: longer than 128 characters",
    )


async def test_the_python_client(bench: Bench) -> None:
    async with triton.InferenceServerClient(bench.address) as client:
        x = triton.InferInput("x", [2, 3], "INT64")
        x.set_data_from_numpy(np.arange(6, dtype=np.int64).reshape(2, 3))
        words = triton.InferInput("words", [2], "BYTES")
        words.set_data_from_numpy(np.array([b"a", b"bc"], dtype=object))
        outputs = [triton.InferRequestedOutput("words"), triton.InferRequestedOutput("x", class_count=2)]
        result = await client.infer("echo", [x, words], outputs=outputs, request_id="7", parameters={"note": "n"})
        assert result.as_numpy("x").tolist() == [[0, 1, 2], [3, 4, 5]]
        assert result.as_numpy("words").tolist() == [b"a", b"bc"]
        assert result.get_response().id == "7"
    (seen,) = bench.engine.requests
    assert [(output.name, output.classification) for output in seen.outputs] == [("words", 0), ("x", 2)]
    assert seen.parameters["note"] == "n"


async def test_the_id_comes_back_as_metadata_to_those_who_use_that(bench: Bench) -> None:
    call = bench.unary("ModelInfer")(request("r1"))
    assert ModelInferResponse.FromString(await call).id == "r1"
    assert "x-request-id" not in metadata(await call.initial_metadata())
    call = bench.unary("ModelInfer")(request("r1"), metadata=(("x-request-id", "other"),))
    assert metadata(await call.initial_metadata())["x-request-id"] == "r1"
    assert ModelInferResponse.FromString(await call).id == "r1"


async def test_an_id_from_metadata(bench: Bench) -> None:
    call = bench.unary("ModelInfer")(request(), metadata=(("x-request-id", "proxy-1"),))
    assert ModelInferResponse.FromString(await call).id == "proxy-1"
    assert metadata(await call.initial_metadata())["x-request-id"] == "proxy-1"


@pytest.mark.parametrize("id", ["ümlaut", "new\nline", "x" * 5000])
async def test_ids_that_no_header_can_carry(bench: Bench, id: str) -> None:
    call = bench.unary("ModelInfer")(request(id), metadata=(("x-request-id", "other"),))
    assert ModelInferResponse.FromString(await call).id == id
    assert "x-request-id" not in metadata(await call.initial_metadata())


async def test_an_error_carries_the_id_too(bench: Bench) -> None:
    call = bench.unary("ModelInfer")(request("r1", "unknown"))
    error = await failing(call)
    assert error.code() is grpc.StatusCode.NOT_FOUND
    assert error.details() == "Request for unknown model: 'unknown' is not found"
    assert metadata(await call.initial_metadata())["x-request-id"] == "r1"


@pytest.mark.parametrize("kind", sorted(status.TABLE, key=str))
async def test_every_error_of_the_table(bench: Bench, kind: type[errors.SluiceError]) -> None:
    bench.engine.error = kind("what happened")
    error = await failing(bench.infer(request()))
    assert (error.code(), error.details()) == (status.TABLE[kind].grpc, "what happened")
    trailers = metadata(error.trailing_metadata())
    expected = "-1" if error.code() is grpc.StatusCode.UNAVAILABLE else None
    assert trailers.get("grpc-retry-pushback-ms") == expected


async def test_when_to_try_again(bench: Bench) -> None:
    bench.engine.error = errors.QueueFull("full", retry_after=1.25)
    error = await failing(bench.infer(request()))
    assert metadata(error.trailing_metadata())["grpc-retry-pushback-ms"] == "1250"


@pytest.mark.parametrize("text", ["x" * 100_000, "é" * 100_000, "a\n\0b"])
async def test_texts_of_any_kind(bench: Bench, text: str) -> None:
    bench.engine.error = errors.InvalidRequest(text)
    error = await failing(bench.infer(request()))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert error.details().startswith(text[:900])


async def test_a_bug_is_logged_once_and_not_shown(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    bench.engine.error = ValueError("secret")
    error = await failing(bench.infer(request()))
    assert (error.code(), error.details()) == (grpc.StatusCode.INTERNAL, "internal error")
    (record,) = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert record.exc_info is not None
    assert "secret" in str(record.exc_info[1])


async def test_a_cancel_that_nobody_asked_for_is_answered(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    bench.engine.error = asyncio.CancelledError()  # type: ignore[assignment]
    error = await failing(bench.infer(request(), timeout=10))
    assert error.code() is grpc.StatusCode.INTERNAL


@pytest.mark.parametrize("message", [b"\xff", b"\x2a\x05\x0a", b"\x0a\x02\xff\xff", b"\x2a\x00" * 20_000])
async def test_malformed_messages(bench: Bench, message: bytes) -> None:
    assert (await failing(bench.infer(message))).code() is grpc.StatusCode.INVALID_ARGUMENT
    await bench.infer(request())


async def test_unknown_methods(bench: Bench) -> None:
    assert (await failing(bench.unary("Nothing")(b""))).code() is grpc.StatusCode.UNIMPLEMENTED


async def test_deadline_reaches_the_engine_and_ends_the_wait(bench: Bench) -> None:
    bench.engine.held.add("slow")
    error = await failing(bench.infer(request("slow"), timeout=0.3))
    assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    (seen,) = bench.engine.requests
    assert seen.deadline is not None
    assert 0 < seen.deadline - seen.timeline.received < 1
    await asyncio.wait_for(bench.engine.cancelled.acquire(), 10)


async def test_a_clients_cancel_reaches_the_engine(bench: Bench) -> None:
    bench.engine.held.add("slow")
    call = bench.unary("ModelInfer")(request("slow"))
    await bench.engine.arrived.acquire()
    call.cancel()
    await asyncio.wait_for(bench.engine.cancelled.acquire(), 10)


async def test_message_limit_before_and_after_decompression() -> None:
    async with running(max_message_bytes=100_000) as bench:
        await bench.infer(request(data=bytes(99_000)))
        error = await failing(bench.infer(request(data=bytes(101_000))))
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        bomb = request(data=bytes(20_000_000))
        assert len(gzip.compress(bomb)) < 100_000
        error = await failing(bench.infer(bomb, compression=grpc.Compression.Gzip))
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        await bench.infer(request(data=bytes(99_000)), compression=grpc.Compression.Gzip)


async def test_header_limit() -> None:
    async with running(max_header_bytes=20_000) as bench:
        await bench.infer(request(), metadata=(("big", "x" * 15_000),))
        error = await failing(bench.infer(request(), metadata=(("big", "x" * 30_000),)))
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        await bench.infer(request())


async def test_large_answers() -> None:
    async with running() as bench:
        data = bytes(30_000_000)
        reply = ModelInferResponse.FromString(await bench.infer(request(data=data)))
        assert len(reply.raw_output_contents[0]) == len(data)


async def test_a_taken_port_is_the_operators_error() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(errors.ConfigError) as error:
            async with running(grpc_port=port):
                pass
        message = f"server.grpc_port: cannot listen on 127.0.0.1:{port}: Address already in use"
        assert error.value.message == message


async def test_a_host_that_is_none_is_named() -> None:
    with pytest.raises(errors.ConfigError, match=r"^server\.grpc_port: cannot listen on 192\.0\.2\.1:0: Cannot assign"):
        async with running(host="192.0.2.1"):
            pass


async def test_two_servers_never_share_a_port(bench: Bench) -> None:
    with pytest.raises(errors.ConfigError, match=str(bench.port)):
        async with running(grpc_port=bench.port):
            pass


async def test_stopping_finishes_what_was_accepted(bench: Bench) -> None:
    bench.engine.held.add("slow")
    call = bench.unary("ModelInfer")(request("slow"))
    await bench.engine.arrived.acquire()
    bench.server.stop_accepting()
    bench.server.stop_accepting()
    async with grpc.aio.insecure_channel(bench.address) as late:
        method = late.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        assert (await failing(method(request()))).code() is grpc.StatusCode.UNAVAILABLE
    bench.engine.gate.set()
    assert ModelInferResponse.FromString(await call).id == "slow"
    await asyncio.wait_for(bench.server.close(60), 10)
    await bench.server.close(60)


async def test_closing_cancels_what_takes_too_long(bench: Bench) -> None:
    bench.engine.held.add("slow")
    call = asyncio.ensure_future(bench.infer(request("slow")))
    await bench.engine.arrived.acquire()
    await asyncio.wait_for(bench.server.close(0.01), 10)
    await bench.engine.cancelled.acquire()
    assert (await failing(call)).code() in (grpc.StatusCode.CANCELLED, grpc.StatusCode.UNAVAILABLE)


async def test_whatever_reached_the_engine_is_answered_when_the_server_stops_under_load(bench: Bench) -> None:
    """Calls that race with the stop are refused unseen; grpc says CANCELLED for those that it had read already."""
    codes: list[Any] = []

    async def client() -> None:
        while True:
            try:
                await bench.infer(request(data=bytes(100)))
                codes.append(grpc.StatusCode.OK)
            except grpc.aio.AioRpcError as error:
                codes.append(error.code())
                return

    clients = [asyncio.create_task(client()) for _ in range(20)]
    for _ in range(200):
        await bench.engine.arrived.acquire()
    bench.server.stop_accepting()
    await asyncio.wait_for(asyncio.gather(*clients), 30)
    await asyncio.wait_for(bench.server.close(30), 30)
    assert codes.count(grpc.StatusCode.OK) == len(bench.engine.requests)
    assert set(codes) <= {grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED}


async def test_client_errors_as_the_client_shows_them(bench: Bench) -> None:
    async with triton.InferenceServerClient(bench.address) as client:
        x = triton.InferInput("x", [2], "FP32")
        x.set_data_from_numpy(np.zeros(2, dtype=np.float32))
        with pytest.raises(InferenceServerException, match="unknown model") as raised:
            await client.infer("unknown", [x])
        assert raised.value.status() == "StatusCode.NOT_FOUND"
