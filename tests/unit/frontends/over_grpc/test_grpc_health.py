"""grpc.health.v1 and reflection, as probes and grpcurl use them."""

import asyncio
from typing import Any

import grpc
import pytest
from google.protobuf import descriptor_pb2
from grpc_reflection.v1alpha.reflection_pb2 import ServerReflectionRequest, ServerReflectionResponse
from grpc_stand_ins import Bench

from sluice.pb.health_pb2 import HealthCheckRequest, HealthCheckResponse

HEALTH = "grpc.health.v1.Health"
Status = HealthCheckResponse.ServingStatus


async def check(bench: Bench, service: str) -> int:
    message = HealthCheckRequest(service=service).SerializeToString()
    return HealthCheckResponse.FromString(await bench.unary("Check", HEALTH)(message)).status


def watch(bench: Bench, service: str) -> Any:
    method = bench.channel.unary_stream(f"/{HEALTH}/Watch")
    return method(HealthCheckRequest(service=service).SerializeToString())


async def status(call: Any) -> int:
    return HealthCheckResponse.FromString(await asyncio.wait_for(call.read(), 10)).status


@pytest.mark.parametrize("service", ["", "inference.GRPCInferenceService", "echo", "echo/3"])
async def test_check(bench: Bench, service: str) -> None:
    assert await check(bench, service) == Status.SERVING
    bench.parts.able = False
    bench.parts.ready = dict.fromkeys(bench.parts.ready, False)
    assert await check(bench, service) == Status.NOT_SERVING


@pytest.mark.parametrize("service", ["nothing", "echo/9"])
async def test_check_of_an_unknown_service(bench: Bench, service: str) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await check(bench, service)
    assert raised.value.code() is grpc.StatusCode.NOT_FOUND


async def test_malformed_checks(bench: Bench) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await bench.unary("Check", HEALTH)(b"\xff")
    assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    call = bench.channel.unary_stream(f"/{HEALTH}/Watch")(b"\xff")
    assert await asyncio.wait_for(call.code(), 10) is grpc.StatusCode.INVALID_ARGUMENT


async def test_watch_tells_changes_only(bench: Bench) -> None:
    call = watch(bench, "")
    assert await status(call) == Status.SERVING
    bench.health.notify()  # nothing has changed
    bench.parts.able = False
    bench.health.notify()
    assert await status(call) == Status.NOT_SERVING
    bench.parts.able = True
    bench.health.notify()
    assert await status(call) == Status.SERVING
    bench.health.mark_stopping()
    assert await status(call) == Status.NOT_SERVING
    call.cancel()


async def test_watch_waits_for_a_model_to_appear(bench: Bench) -> None:
    call = watch(bench, "new")
    assert await status(call) == Status.SERVICE_UNKNOWN
    bench.parts.ready["new", ""] = False
    bench.health.notify()
    assert await status(call) == Status.NOT_SERVING
    bench.parts.ready["new", ""] = True
    bench.health.notify()
    assert await status(call) == Status.SERVING
    call.cancel()


async def test_watchers_do_not_hold_up_the_stop(bench: Bench) -> None:
    calls = [watch(bench, "") for _ in range(3)]
    for call in calls:
        assert await status(call) == Status.SERVING
    await asyncio.wait_for(bench.server.close(60), 10)
    for call in calls:
        assert await call.code() is grpc.StatusCode.UNAVAILABLE


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
async def test_reflection(bench: Bench, version: str) -> None:
    call = bench.channel.stream_stream(f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo")()

    async def ask(**question: str) -> ServerReflectionResponse:
        await call.write(ServerReflectionRequest(**question).SerializeToString())
        return ServerReflectionResponse.FromString(await call.read())

    listed = (await ask(list_services="")).list_services_response.service
    assert [service.name for service in listed] == [HEALTH, "inference.GRPCInferenceService"]
    answer = await ask(file_containing_symbol="inference.GRPCInferenceService")
    files = map(descriptor_pb2.FileDescriptorProto.FromString, answer.file_descriptor_response.file_descriptor_proto)
    assert {file.name for file in files} == {"inference.proto", "model_config.proto"}
    assert (await ask(file_by_filename="health.proto")).HasField("file_descriptor_response")
    assert (await ask(file_containing_symbol="no.Such")).error_response.error_code == grpc.StatusCode.NOT_FOUND.value[0]
    await call.write(b"\xff")
    assert await call.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_idle_reflection_does_not_hold_up_the_stop(bench: Bench) -> None:
    call = bench.channel.stream_stream("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo")()
    await call.write(ServerReflectionRequest(list_services="").SerializeToString())
    await call.read()
    await asyncio.wait_for(bench.server.close(60), 10)
    assert await call.code() is grpc.StatusCode.UNAVAILABLE
