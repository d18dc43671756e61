"""Every method that is not inference: questions about the server and its models, and changes to what it holds."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import TYPE_CHECKING, Any

from google.protobuf import json_format

from sluice.errors import InvalidRequest, UnknownModel, Unsupported
from sluice.frontends import metadata
from sluice.frontends.grpc.call import Methods, Unary, decoded
from sluice.frontends.grpc.servicer import SERVICE
from sluice.pb import inference_pb2 as pb
from sluice.pb.model_config_pb2 import ModelConfig
from sluice.pb.pool import POOL

if TYPE_CHECKING:
    from sluice.frontends.services import Services
    from sluice.telemetry.statistics import Duration, ModelStatistics

_FILE = "file:"


class Admin:
    """Answers from `services`; each method turns one message into one other."""

    def __init__(self, services: Services) -> None:
        self._services = services

    def methods(self) -> Methods:
        methods: Iterable[tuple[type[Any], Callable[[Any], Awaitable[Any]]]] = (
            (pb.ServerLiveRequest, self.server_live),
            (pb.ServerReadyRequest, self.server_ready),
            (pb.ModelReadyRequest, self.model_ready),
            (pb.ServerMetadataRequest, self.server_metadata),
            (pb.ModelMetadataRequest, self.model_metadata),
            (pb.ModelConfigRequest, self.model_config),
            (pb.ModelStatisticsRequest, self.model_statistics),
            (pb.RepositoryIndexRequest, self.repository_index),
            (pb.RepositoryModelLoadRequest, self.load),
            (pb.RepositoryModelUnloadRequest, self.unload),
            (pb.SystemSharedMemoryStatusRequest, self.region_status),
            (pb.SystemSharedMemoryRegisterRequest, self.register_region),
            (pb.SystemSharedMemoryUnregisterRequest, self.unregister_region),
            (pb.CudaSharedMemoryStatusRequest, self.cuda_status),
            (pb.CudaSharedMemoryRegisterRequest, self.register_cuda),
            (pb.CudaSharedMemoryUnregisterRequest, self.unregister_cuda),
            (pb.TraceSettingRequest, self.trace_setting),
            (pb.LogSettingsRequest, self.log_settings),
        )
        unary: dict[str, Unary] = {}
        for request, method in methods:
            name = request.DESCRIPTOR.name.removesuffix("Request")
            unary[f"/{SERVICE}/{name}"] = decoded(request, method)
        return Methods(unary=unary)

    async def server_live(self, request: pb.ServerLiveRequest) -> pb.ServerLiveResponse:
        return pb.ServerLiveResponse(live=self._services.health.live())

    async def server_ready(self, request: pb.ServerReadyRequest) -> pb.ServerReadyResponse:
        return pb.ServerReadyResponse(ready=self._services.health.ready())

    async def model_ready(self, request: pb.ModelReadyRequest) -> pb.ModelReadyResponse:
        """Clients take an unknown model for one that is not ready, not for an error."""
        try:
            ready = self._services.health.model_ready(request.name, request.version)
        except UnknownModel:
            ready = False
        return pb.ModelReadyResponse(ready=ready)

    async def server_metadata(self, request: pb.ServerMetadataRequest) -> pb.ServerMetadataResponse:
        return pb.ServerMetadataResponse(**metadata.server_metadata(self._services.limits))

    async def model_metadata(self, request: pb.ModelMetadataRequest) -> pb.ModelMetadataResponse:
        described = self._services.catalog.metadata(request.name, request.version)
        return pb.ModelMetadataResponse(**metadata.model_metadata(described))

    async def model_config(self, request: pb.ModelConfigRequest) -> pb.ModelConfigResponse:
        configuration = self._services.catalog.configuration(request.name, request.version)
        return pb.ModelConfigResponse(config=json_format.ParseDict(configuration, ModelConfig(), descriptor_pool=POOL))

    async def model_statistics(self, request: pb.ModelStatisticsRequest) -> pb.ModelStatisticsResponse:
        statistics = self._services.catalog.statistics(request.name, request.version)
        return pb.ModelStatisticsResponse(model_stats=map(_statistics, statistics))

    async def repository_index(self, request: pb.RepositoryIndexRequest) -> pb.RepositoryIndexResponse:
        _check_repository(request.repository_name)
        rows = self._services.catalog.index(request.ready)
        return pb.RepositoryIndexResponse(
            models=[
                pb.RepositoryIndexResponse.ModelIndex(
                    name=row.name, version=row.version, state=row.state, reason=row.reason
                )
                for row in rows
            ]
        )

    async def load(self, request: pb.RepositoryModelLoadRequest) -> pb.RepositoryModelLoadResponse:
        _check_repository(request.repository_name)
        config: str | None = None
        files: dict[str, bytes] = {}
        for name, parameter in request.parameters.items():
            if name == "config":
                config = _parameter(name, parameter, "string_param")
            elif name.startswith(_FILE):
                files[name.removeprefix(_FILE)] = _parameter(name, parameter, "bytes_param")
            else:
                raise InvalidRequest(f"unknown load parameter '{name}'; there are 'config' and 'file:<path>'")
        await self._services.catalog.load(request.model_name, config, files)
        return pb.RepositoryModelLoadResponse()

    async def unload(self, request: pb.RepositoryModelUnloadRequest) -> pb.RepositoryModelUnloadResponse:
        _check_repository(request.repository_name)
        dependents = False
        for name, parameter in request.parameters.items():
            if name != "unload_dependents":
                raise InvalidRequest(f"unknown unload parameter '{name}'; there is 'unload_dependents'")
            dependents = _parameter(name, parameter, "bool_param")
        await self._services.catalog.unload(request.model_name, dependents)
        return pb.RepositoryModelUnloadResponse()

    async def region_status(self, request: pb.SystemSharedMemoryStatusRequest) -> pb.SystemSharedMemoryStatusResponse:
        response = pb.SystemSharedMemoryStatusResponse()
        for region in self._services.regions.status(request.name):
            status = response.regions[region.name]
            status.name, status.key = region.name, region.key
            status.offset, status.byte_size = region.offset, region.byte_size
        return response

    async def register_region(
        self, request: pb.SystemSharedMemoryRegisterRequest
    ) -> pb.SystemSharedMemoryRegisterResponse:
        self._services.regions.register(request.name, request.key, request.offset, request.byte_size)
        return pb.SystemSharedMemoryRegisterResponse()

    async def unregister_region(
        self, request: pb.SystemSharedMemoryUnregisterRequest
    ) -> pb.SystemSharedMemoryUnregisterResponse:
        self._services.regions.unregister(request.name)
        return pb.SystemSharedMemoryUnregisterResponse()

    async def cuda_status(self, request: pb.CudaSharedMemoryStatusRequest) -> pb.CudaSharedMemoryStatusResponse:
        return pb.CudaSharedMemoryStatusResponse()

    async def register_cuda(self, request: pb.CudaSharedMemoryRegisterRequest) -> pb.CudaSharedMemoryRegisterResponse:
        raise Unsupported("CUDA shared memory is not supported on this server")

    async def unregister_cuda(
        self, request: pb.CudaSharedMemoryUnregisterRequest
    ) -> pb.CudaSharedMemoryUnregisterResponse:
        """No error: perf_analyzer begins by unregistering whatever there may be."""
        return pb.CudaSharedMemoryUnregisterResponse()

    async def trace_setting(self, request: pb.TraceSettingRequest) -> pb.TraceSettingResponse:
        if request.model_name:
            self._services.health.model_ready(request.model_name)  # raises if there is no such model
        switches = self._services.switches
        changes = {name: list(setting.value) or None for name, setting in request.settings.items()}
        settings = switches.update_trace(changes, request.model_name) if changes else switches.trace(request.model_name)
        response = pb.TraceSettingResponse()
        for name, values in settings.items():
            response.settings[name].value.extend(values)
        return response

    async def log_settings(self, request: pb.LogSettingsRequest) -> pb.LogSettingsResponse:
        changes: dict[str, bool | int | str] = {}
        for name, setting in request.settings.items():
            kind = setting.WhichOneof("parameter_choice")
            if kind is None:
                raise InvalidRequest(f"log setting '{name}' has no value")
            changes[name] = getattr(setting, kind)
        switches = self._services.switches
        response = pb.LogSettingsResponse()
        for name, value in (switches.update_log(changes) if changes else switches.log()).items():
            if isinstance(value, bool):
                response.settings[name].bool_param = value
            elif isinstance(value, int):
                response.settings[name].uint32_param = value
            else:
                response.settings[name].string_param = value
        return response


def _check_repository(name: str) -> None:
    if name:
        raise Unsupported(f"repository_name '{name}': this server has one repository, which needs no name")


def _parameter(name: str, parameter: pb.ModelRepositoryParameter, kind: str) -> Any:
    if parameter.WhichOneof("parameter_choice") != kind:
        raise InvalidRequest(f"parameter '{name}' must be given as {kind}")
    return getattr(parameter, kind)


def _statistics(statistics: ModelStatistics) -> pb.ModelStatistics:
    return pb.ModelStatistics(
        name=statistics.name,
        version=statistics.version,
        last_inference=statistics.last_inference_ms,
        inference_count=statistics.inference_count,
        execution_count=statistics.execution_count,
        inference_stats=pb.InferStatistics(
            success=_duration(statistics.success),
            fail=_duration(statistics.fail),
            queue=_duration(statistics.queue),
            compute_input=_duration(statistics.compute_input),
            compute_infer=_duration(statistics.compute_infer),
            compute_output=_duration(statistics.compute_output),
            cache_hit=_duration(statistics.cache_hit),
            cache_miss=_duration(statistics.cache_miss),
        ),
        batch_stats=[
            pb.InferBatchStatistics(
                batch_size=batch.batch_size,
                compute_input=_duration(batch.compute_input),
                compute_infer=_duration(batch.compute_infer),
                compute_output=_duration(batch.compute_output),
            )
            for _, batch in sorted(statistics.batches.items())
        ],
    )


def _duration(duration: Duration) -> pb.StatisticDuration:
    return pb.StatisticDuration(count=duration.count, ns=duration.ns)
