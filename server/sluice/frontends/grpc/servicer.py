"""The inference methods: one request and its answer, or many over one stream."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from sluice.errors import InvalidRequest, Stopping
from sluice.frontends.grpc import codec
from sluice.frontends.grpc.call import Call, Methods, Send
from sluice.frontends.grpc.failure import failure
from sluice.frontends.grpc.streams import Streams
from sluice.frontends.marks import marks

if TYPE_CHECKING:
    from sluice.frontends.services import Services

SERVICE = "inference.GRPCInferenceService"
INFER = f"/{SERVICE}/ModelInfer"
STREAM_INFER = f"/{SERVICE}/ModelStreamInfer"

REQUEST_ID = "x-request-id"
MAX_METADATA = 256

# Requests of one stream that are worked on at once; beyond it the stream is not read, which holds its client back.
MAX_IN_FLIGHT = 64


class Servicer:
    """Answers ModelInfer and ModelStreamInfer."""

    def __init__(self, services: Services, streams: Streams) -> None:
        self._services = services
        self._streams = streams

    def methods(self) -> Methods:
        return Methods(unary={INFER: self.infer}, duplex_streams={STREAM_INFER: self.stream_infer})

    async def infer(self, call: Call, message: bytes) -> bytes:
        """One request, one answer; its id may come as metadata.

        Metadata ahead of a reply costs an eighth of the whole call, so the id goes back that way only to those who sent
        it so, and with errors, which have no message to carry it.
        """
        received = time.monotonic()
        with self._services.engine.reading:
            parsed = codec.parse(message)
            id_in_metadata = call.value(REQUEST_ID)
            id = parsed.message.id or id_in_metadata
            if _sendable(id):
                call.reply_metadata = ((REQUEST_ID, id),)
            decoded = codec.decode(parsed, self._services.regions)
            tenant = self._services.tenant(call.value(self._services.tenant_header))
        request = decoded.request
        request.id = id
        request.tenant = tenant
        request.deadline = call.deadline
        request.timeline.received = received
        response = await self._services.engine.infer(request)
        reply = codec.encode(response, decoded.places, self._services.regions)
        if response.parameters:
            call.trailers = tuple(mark for mark in marks(response.parameters) if _sendable(mark[1]))
        if not id_in_metadata:
            call.reply_metadata = ()
        return reply

    async def stream_infer(self, call: Call, messages: AsyncIterator[bytes], send: Send) -> None:
        """Many requests at once, answered as they are ready. The call ends when the client has no more to ask."""
        stream = InferStream(self._services, call, send)
        stopping: Stopping | None = None
        try:
            async with asyncio.TaskGroup() as answers:
                try:
                    await self._streams.wait(stream.read(messages, answers))
                except Stopping as error:
                    stopping = error  # raised once what was read is answered
        except ExceptionGroup as group:
            raise group.exceptions[0] from None
        if stopping is not None:
            raise stopping


class InferStream:
    """One ModelStreamInfer call."""

    def __init__(self, services: Services, call: Call, send: Send) -> None:
        self._services = services
        self._call = call
        self._send = send
        self._slots = asyncio.Semaphore(MAX_IN_FLIGHT)
        self._tenant = services.tenant(call.value(services.tenant_header))
        # By default an error is an answer like any other; clients can ask that the first one ends the call instead.
        self._errors_end_the_call = call.value("triton_grpc_error").lower() == "true"

    async def read(self, messages: AsyncIterator[bytes], answers: asyncio.TaskGroup) -> None:
        """Starts a task for each message, as many at once as there are slots; ends when the client half-closes."""
        await self._slots.acquire()
        async for message in messages:
            answers.create_task(self._answer(message))
            await self._slots.acquire()

    async def _answer(self, message: bytes) -> None:
        reply = await self._reply(message)
        await self._send(reply)
        self._slots.release()  # only now: a client that does not read its answers is not read either

    async def _reply(self, message: bytes) -> bytes:
        received = time.monotonic()
        parsed: codec.Parsed | None = None
        try:
            with self._services.engine.reading:
                parsed = codec.parse(message)
                decoded = codec.decode(parsed, self._services.regions)
                request = decoded.request
                final = _wants_final_mark(request.parameters.get("triton_enable_empty_final_response", False))
            request.tenant = self._tenant
            request.deadline = self._call.deadline
            request.timeline.received = received
            response = await self._services.engine.infer(request)
            return codec.encode(response, decoded.places, self._services.regions, streamed=True, final=final)
        except Exception as error:
            if self._errors_end_the_call:
                raise
            text = failure(error, STREAM_INFER).text
            model, id = (parsed.message.model_name, parsed.message.id) if parsed is not None else ("", "")
            return codec.encode_stream_error(text, model, id)


def _sendable(value: str) -> bool:
    """Whether metadata can hold it."""
    return 0 < len(value) <= MAX_METADATA and value.isascii() and value.isprintable()


def _wants_final_mark(value: object) -> bool:
    if not isinstance(value, bool):
        raise InvalidRequest("parameter 'triton_enable_empty_final_response' must be a bool")
    return value
