"""Methods of the waist as grpc's handlers: contexts become calls, errors become statuses, cancels stay cancels."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import grpc

from sluice.errors import Cancelled, InternalError
from sluice.frontends.grpc.call import Call, DuplexStream, Methods, ServerStream, Unary
from sluice.frontends.grpc.failure import failure
from sluice.frontends.grpc.sending import Sending

# grpc has no types: a context is a grpc.aio.ServicerContext.
Context = Any


class Handlers(grpc.GenericRpcHandler):  # type: ignore[misc]
    """Looks a method up by its full name; messages pass as bytes."""

    def __init__(self, methods: Methods, sending: Sending) -> None:
        self._handlers = {
            **{name: _unary(name, method, sending) for name, method in methods.unary.items()},
            **{
                name: grpc.unary_stream_rpc_method_handler(_streaming(name, method, sending))
                for name, method in methods.server_streams.items()
            },
            **{
                name: grpc.stream_stream_rpc_method_handler(_streaming(name, method, sending))
                for name, method in methods.duplex_streams.items()
            },
        }

    def service(self, handler_call_details: Any) -> grpc.RpcMethodHandler | None:
        return self._handlers.get(handler_call_details.method)


def _unary(name: str, method: Unary, sending: Sending) -> grpc.RpcMethodHandler:
    async def handle(message: bytes, context: Context) -> bytes:
        call = _call(context)
        try:
            reply = await method(call, message)
            sending.last(len(reply), context.peer)
        except asyncio.CancelledError:
            return await _cancelled(name, call, context)
        except Exception as error:
            return await _abort(error, name, call, context)
        if call.reply_metadata:
            await context.send_initial_metadata(call.reply_metadata)
        if call.trailers:
            context.set_trailing_metadata(call.trailers)
        return reply

    return grpc.unary_unary_rpc_method_handler(handle)


def _streaming(
    name: str, method: ServerStream | DuplexStream, sending: Sending
) -> Callable[[Any, Context], Awaitable[None]]:
    async def handle(asked: Any, context: Context) -> None:
        call = _call(context)
        turn = asyncio.Lock()  # grpc takes one message at a time

        async def send(reply: bytes) -> None:
            with sending.part(len(reply), context.peer):
                async with turn:
                    await _write(reply, context)

        try:
            await method(call, asked, send)
        except asyncio.CancelledError:
            await _cancelled(name, call, context)
        except Exception as error:
            await _abort(error, name, call, context)

    return handle


def _call(context: Context) -> Call:
    remaining = context.time_remaining()
    deadline = None if remaining is None else time.monotonic() + remaining
    return Call(context.invocation_metadata(), deadline)


async def _write(reply: bytes, context: Context) -> None:
    try:
        await context.write(reply)
    except Exception as error:
        raise Cancelled("the client went away") from error


async def _cancelled(name: str, call: Call, context: Context) -> bytes:
    """Lets the client's cancel pass. Any other would leave the call without a status, and its client waiting."""
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError
    return await _abort(InternalError("the request was dropped"), name, call, context)


async def _abort(error: Exception, name: str, call: Call, context: Context) -> bytes:
    """Ends the call with the error's status; never returns."""
    code, text, trailers = failure(error, name)
    if call.reply_metadata:
        await context.send_initial_metadata(call.reply_metadata)
    await context.abort(code, text, trailers)
    raise AssertionError("unreachable")
