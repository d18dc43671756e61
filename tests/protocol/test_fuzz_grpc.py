"""Thousands of damaged gRPC messages: each gets an answer, none an internal error, and the server goes on."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import grpc
import pytest
from fuzzed import ASKS, MUTATIONS, NEEDED, Target, target
from google.protobuf.message import DecodeError
from grpc import StatusCode
from mutations import Mutator
from tritonclient.grpc import service_pb2 as pb
from wires import PATIENCE, SERVICE

AT_ONCE = 48
FORBIDDEN = {StatusCode.INTERNAL, StatusCode.UNKNOWN, StatusCode.DATA_LOSS, StatusCode.DEADLINE_EXCEEDED}
STREAMED = 1000


@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    with target(tmp_path_factory.mktemp("fuzz")) as one:
        yield one


def valid_messages(fuzzed: Target) -> list[tuple[str, Any]]:
    """Every unary method with something valid to say; what could take models away names the one nobody needs."""
    typed = pb.ModelInferRequest(model_name="numbers")
    contents = ("bool", "uint", "uint", "uint", "uint64", "int", "int", "int", "int64", "fp32", "fp64")
    for tensor, kind in zip(ASKS[3].message().inputs, contents, strict=True):
        getattr(tensor.contents, f"{kind}_contents").extend([1, 0])
        typed.inputs.append(tensor)
    halves = pb.ModelInferRequest(model_name="halves", raw_input_contents=[bytes(4), bytes(4)])
    for index, datatype in enumerate(("FP16", "BF16")):
        halves.inputs.add(name=f"INPUT{index}", datatype=datatype, shape=[1, 2])
    in_memory = ASKS[0].message()
    del in_memory.raw_input_contents[0]
    in_memory.inputs[0].parameters["shared_memory_region"].string_param = "fuzz"
    in_memory.inputs[0].parameters["shared_memory_byte_size"].int64_param = 48
    key = fuzzed.memory.name
    setting = pb.LogSettingsRequest.SettingValue(uint32_param=0)
    levels = pb.TraceSettingRequest.SettingValue(value=["TIMESTAMPS"])
    infer = [*(ask.message() for ask in ASKS), typed, halves, in_memory]
    return [
        *(("ModelInfer", message) for message in infer * 4),
        ("ServerLive", pb.ServerLiveRequest()),
        ("ServerReady", pb.ServerReadyRequest()),
        ("ServerMetadata", pb.ServerMetadataRequest()),
        ("ModelReady", pb.ModelReadyRequest(name="tagger", version="1")),
        ("ModelMetadata", pb.ModelMetadataRequest(name="tagger", version="1")),
        ("ModelConfig", pb.ModelConfigRequest(name="tagger", version="1")),
        ("ModelStatistics", pb.ModelStatisticsRequest(name="tagger", version="1")),
        ("RepositoryIndex", pb.RepositoryIndexRequest(ready=True)),
        ("RepositoryModelLoad", pb.RepositoryModelLoadRequest(
            model_name="spare",
            parameters={"config": pb.ModelRepositoryParameter(string_param='{"max_batch_size": 8}')})),
        ("RepositoryModelUnload", pb.RepositoryModelUnloadRequest(
            model_name="spare", parameters={"unload_dependents": pb.ModelRepositoryParameter(bool_param=True)})),
        ("SystemSharedMemoryStatus", pb.SystemSharedMemoryStatusRequest(name="fuzz")),
        ("SystemSharedMemoryRegister",
         pb.SystemSharedMemoryRegisterRequest(name="more", key=key, byte_size=64, offset=8)),
        ("SystemSharedMemoryUnregister", pb.SystemSharedMemoryUnregisterRequest(name="more")),
        ("CudaSharedMemoryStatus", pb.CudaSharedMemoryStatusRequest(name="fuzz")),
        ("CudaSharedMemoryRegister", pb.CudaSharedMemoryRegisterRequest(name="cuda", raw_handle=b"abc", byte_size=8)),
        ("CudaSharedMemoryUnregister", pb.CudaSharedMemoryUnregisterRequest(name="cuda")),
        ("TraceSetting", pb.TraceSettingRequest(model_name="spare", settings={"trace_level": levels})),
        ("LogSettings", pb.LogSettingsRequest(settings={"log_verbose_level": setting})),
    ]  # fmt: skip


@dataclass(frozen=True)
class Damaged:
    """One call of the run."""

    method: str
    data: bytes

    def meaning(self) -> Any:
        try:
            return getattr(pb, f"{self.method}Request").FromString(self.data)
        except DecodeError:
            return None

    def changes(self) -> str:
        """The model that this would load or unload."""
        meaning = self.meaning() if self.method.startswith("RepositoryModel") else None
        return meaning.model_name if meaning is not None else ""

    def __str__(self) -> str:
        return f"{self.method} {self.data[:400]!r} ({str(self.meaning())[:800]})"


def damage(valid: list[tuple[str, Any]], count: int, again: Damaged) -> Iterator[Damaged]:
    """Half of them wounded in their bytes, half changed field by field; now and then `again` as it is."""
    mutator = Mutator(20_240)
    serialized = [message.SerializeToString() for _, message in valid]
    while count:
        index = mutator.random.randrange(len(valid))
        method, message = valid[index]
        data = (
            mutator.changed_message(message) if message.DESCRIPTOR.fields and mutator.often(0.5) else serialized[index]
        )
        if data is serialized[index] or mutator.often(0.1):
            data = mutator.wounded(data)
        case = Damaged(method, data)
        if case.changes() not in NEEDED:
            count -= 1
            yield case
        if count % 100 == 0:
            yield again  # mutations may have taken it away


def registration(fuzzed: Target) -> Damaged:
    message = pb.SystemSharedMemoryRegisterRequest(name="fuzz", key=fuzzed.memory.name, byte_size=4096)
    return Damaged("SystemSharedMemoryRegister", message.SerializeToString())


async def test_unary_methods(fuzzed: Target) -> None:
    """Every unary method, many at once."""
    cases = damage(valid_messages(fuzzed), MUTATIONS, registration(fuzzed))
    codes: Counter[StatusCode] = Counter()
    wrong: list[str] = []

    async def work(channel: Any) -> None:
        for case in cases:
            try:
                await channel.unary_unary(f"/{SERVICE}/{case.method}")(case.data, timeout=PATIENCE)
                codes[StatusCode.OK] += 1
            except grpc.aio.AioRpcError as error:
                codes[error.code()] += 1
                if error.code() in FORBIDDEN:
                    wrong.append(f"{error.code()}: {error.details()}: {case}")

    async with grpc.aio.insecure_channel(fuzzed.server.grpc) as channel:
        await asyncio.gather(*(work(channel) for _ in range(AT_ONCE)))
    assert not wrong, "\n\n".join([str(len(wrong)), *wrong[:5]])
    assert sum(codes.values()) >= MUTATIONS
    assert codes[StatusCode.OK] > MUTATIONS / 20  # damage that is too coarse would test the doorstep only
    fuzzed.check()


async def test_stream(fuzzed: Target) -> None:
    """Each damaged message of a stream is answered in the stream, which stays open."""
    infer = [(method, message) for method, message in valid_messages(fuzzed) if method == "ModelInfer"]
    cases = damage(infer, STREAMED, Damaged("ModelInfer", ASKS[0].message().SerializeToString()))
    sent = [case.data for case in cases]
    async with grpc.aio.insecure_channel(fuzzed.server.grpc) as channel:
        stream = channel.stream_stream(f"/{SERVICE}/ModelStreamInfer", None, pb.ModelStreamInferResponse.FromString)
        replies = [reply async for reply in stream(iter(sent), timeout=PATIENCE)]
    assert len(replies) == len(sent)
    assert not [reply for reply in replies if "internal" in reply.error_message]
    fuzzed.check()
