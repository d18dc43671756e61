"""Large replies that nobody reads: only so much is held, and not for ever."""

from __future__ import annotations

import asyncio
import contextlib
import threading

import grpc
import pytest
from grpc_stand_ins import Bench, running
from loadtests.hell import frames

from sluice.errors import ShortOfMemory
from sluice.frontends.grpc.sending import MOST_HELD, SMALL, Sending
from sluice.pb.inference_pb2 import ModelInferRequest

LARGE = 256 << 10  # of less than 64 KiB grpc thinks that it has left
INFER = "/inference.GRPCInferenceService/ModelInfer"
PATIENCE = 30.0


class Held:
    """Replies that lie at a `Sending` of which all are as large as is allowed."""

    def __init__(self) -> None:
        self.now = 0.0
        self.cut: list[str] = []
        self.lets = threading.Event()
        self.lets.set()
        self.sending = Sending(LARGE, PATIENCE, self._cut, clock=lambda: self.now)
        self.stack = contextlib.ExitStack()

    def _cut(self, peer: str) -> None:
        self.lets.wait()
        self.cut.append(peer)

    def add(self, peer: str, size: int = LARGE) -> None:
        self.stack.enter_context(self.sending.part(size, lambda: peer))

    def refuse(self) -> None:
        with pytest.raises(ShortOfMemory, match="do not read their replies"):
            self.add("newcomer")


async def cutting_is_over() -> None:
    """The threads that were sent have ended, and the loop has heard of it."""
    await asyncio.get_running_loop().shutdown_default_executor()


async def test_only_so_much_is_held() -> None:
    held = Held()
    for number in range(MOST_HELD):
        held.add(str(number))
    held.refuse()
    held.add("small", SMALL)
    held.stack.close()
    assert held.sending.held == 0
    held.add("alone", 2 * MOST_HELD * LARGE)


async def test_the_oldest_goes_when_it_is_too_old_and_others_need_the_room() -> None:
    held = Held()
    for number in range(MOST_HELD):
        held.add(str(number))
        held.now += 1.0
    held.now = PATIENCE - 0.1
    held.refuse()
    assert held.cut == []
    held.now = PATIENCE
    held.lets.clear()
    for _ in range(3):
        held.refuse()
    held.lets.set()
    await cutting_is_over()
    assert held.cut == ["0"]  # once


async def test_a_client_that_shuts_its_window_keeps_others_from_their_replies_for_a_while_only() -> None:
    message = ModelInferRequest(model_name="echo")
    message.inputs.add(name="x", datatype="UINT8", shape=[LARGE])
    message.raw_input_contents.append(bytes(LARGE))
    asked = message.SerializeToString()
    async with (
        running(max_message_bytes=LARGE + SMALL, body_timeout=0.05) as bench,
        contextlib.AsyncExitStack() as stack,
    ):
        deaf = [await shut_out(bench, stack, asked) for _ in range(MOST_HELD * (LARGE + SMALL) // LARGE)]
        refusals = 0
        async with asyncio.timeout(60):
            while not await answered(bench, asked):
                refusals += 1
        assert refusals > 0
        await asyncio.wait({asyncio.create_task(ended(reader)) for reader in deaf}, return_when="FIRST_COMPLETED")


async def shut_out(bench: Bench, stack: contextlib.AsyncExitStack, asked: bytes) -> asyncio.StreamReader:
    """A connection with one call whose reply cannot leave, once it is ready."""
    reader, writer = await asyncio.open_connection("127.0.0.1", bench.port)
    stack.push_async_callback(dropped, writer)
    writer.write(frames.PREFACE + frames.settings(initial_window_size=0))
    await reader.readexactly(frames.HEAD_BYTES)  # the server's settings: once agreed to, they let us send that much
    writer.write(frames.frame(frames.SETTINGS, frames.ACK))
    writer.write(frames.headers(1, frames.block(INFER)) + frames.message(1, asked))
    await bench.engine.arrived.acquire()
    return reader


async def dropped(writer: asyncio.StreamWriter) -> None:
    writer.transport.abort()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()


async def answered(bench: Bench, asked: bytes) -> bool:
    code: grpc.StatusCode = await bench.unary("ModelInfer")(asked).code()
    assert code in (grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE)
    return code is grpc.StatusCode.OK


async def ended(reader: asyncio.StreamReader) -> None:
    with contextlib.suppress(ConnectionError):
        while await reader.read(1 << 16):
            pass
