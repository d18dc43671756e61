"""The services beside inference: health as load balancers ask for it, reflection as grpcurl does."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import graphs
import grpc
import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from grpc_reflection.v1alpha.reflection_pb2 import ServerReflectionRequest, ServerReflectionResponse
from servers import Server, end, launch
from tritonclient.grpc import service_pb2 as pb
from wires import SERVICE, call, channel

from sluice.pb.health_pb2 import HealthCheckRequest, HealthCheckResponse

SERVING, NOT_SERVING, UNKNOWN = 1, 2, 3


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    root = tmp_path_factory.mktemp("services")
    graphs.tagger(root / "models")
    graphs.tagger(root / "models", "spare")
    running = launch(root / "models", root / "log")
    yield running
    end(running)


@pytest.mark.parametrize("service", ["", SERVICE, "tagger", "tagger/1"])
def test_check(server: Server, service: str) -> None:
    with channel(server) as opened:
        check = opened.unary_unary(
            "/grpc.health.v1.Health/Check", HealthCheckRequest.SerializeToString, HealthCheckResponse.FromString
        )
        assert check(HealthCheckRequest(service=service)).status == SERVING


def test_check_of_an_unknown_service(server: Server) -> None:
    with channel(server) as opened, pytest.raises(grpc.RpcError) as caught:
        opened.unary_unary("/grpc.health.v1.Health/Check", HealthCheckRequest.SerializeToString)(
            HealthCheckRequest(service="unknown")
        )
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


async def test_watch_tells_each_change(server: Server) -> None:
    """A model's way out and back, and a service that is unknown so far."""

    async def change(method: str, message: object) -> None:
        await asyncio.to_thread(call, server, method, message)

    async with grpc.aio.insecure_channel(server.grpc) as opened:
        watch = opened.unary_stream(
            "/grpc.health.v1.Health/Watch", HealthCheckRequest.SerializeToString, HealthCheckResponse.FromString
        )
        unknown = watch(HealthCheckRequest(service="unknown"))
        assert (await unknown.read()).status == UNKNOWN
        spare = watch(HealthCheckRequest(service="spare"))
        assert (await spare.read()).status == SERVING
        await change("RepositoryModelUnload", pb.RepositoryModelUnloadRequest(model_name="spare"))
        assert (await spare.read()).status == NOT_SERVING
        await change("RepositoryModelLoad", pb.RepositoryModelLoadRequest(model_name="spare"))
        assert (await spare.read()).status == SERVING
        for call_ in (unknown, spare):
            call_.cancel()


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
def test_reflection(server: Server, version: str) -> None:
    """The services by name, then the file with every method and message of inference."""
    asked = [
        ServerReflectionRequest(list_services="*"),
        ServerReflectionRequest(file_containing_symbol=SERVICE),
        ServerReflectionRequest(file_containing_symbol="no.such.Thing"),
    ]
    with channel(server) as opened:
        info = opened.stream_stream(
            f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
            ServerReflectionRequest.SerializeToString,
            ServerReflectionResponse.FromString,
        )
        services, file, missing = info(iter(asked))
    assert {one.name for one in services.list_services_response.service} >= {SERVICE, "grpc.health.v1.Health"}
    files = [FileDescriptorProto.FromString(one) for one in file.file_descriptor_response.file_descriptor_proto]
    methods = {method.name for one in files for service in one.service for method in service.method}
    assert len(methods) == 20
    assert "ModelStreamInfer" in methods
    assert missing.error_response.error_code == grpc.StatusCode.NOT_FOUND.value[0]
