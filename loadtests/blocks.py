"""A process that answers inference requests at once, as what the front ends are measured against, or as them alone.

`blocks` are the bare building blocks: grpc.aio with a bytes handler and uvicorn with a raw ASGI application, which
parse the request and write the reply as any server must, and do nothing else. `fronts` are the server's own front ends
over an engine that answers at once. Prints its ports as a line of JSON and ends when its input does.
"""

import asyncio
import contextlib
import json
import socket
import sys
from collections.abc import Awaitable, Callable, Coroutine, MutableMapping
from typing import Any, cast

import grpc
import numpy as np
import orjson
import uvicorn
import uvloop

from loadtests.bodies import FLOATS, IDENTITY
from sluice.pb import inference_pb2

OUTPUT = np.linspace(0, 1, FLOATS, dtype=np.float32)
OUTPUT_BYTES = OUTPUT.tobytes()

Ports = dict[str, int]
Message = MutableMapping[str, Any]


async def infer(request: bytes, context: grpc.aio.ServicerContext) -> bytes:
    """gRPC's share: parse, answer, serialize."""
    message = inference_pb2.ModelInferRequest.FromString(request)
    reply = inference_pb2.ModelInferResponse(model_name=message.model_name, model_version="1", id=message.id)
    reply.outputs.add(name="output", datatype="FP32", shape=(1, FLOATS))
    reply.raw_output_contents.append(OUTPUT_BYTES)
    return reply.SerializeToString()


async def application(
    scope: Message, receive: Callable[[], Awaitable[Message]], send: Callable[[Message], Awaitable[None]]
) -> None:
    """HTTP's share: parse JSON or the binary form's head, answer in the same form."""
    parts, more = [], True
    while more:
        event = await receive()
        parts.append(event.get("body", b""))
        more = event.get("more_body", False)
    body = b"".join(parts)
    headers = dict(scope["headers"])
    output: dict[str, Any] = {"name": "output", "datatype": "FP32", "shape": [1, FLOATS]}
    reply = {"model_name": IDENTITY, "model_version": "1", "outputs": [output]}
    answered = [(b"content-type", b"application/json")]
    if length := headers.get(b"inference-header-content-length"):
        orjson.loads(body[: int(length)])
        output["parameters"] = {"binary_data_size": len(OUTPUT_BYTES)}
        head = orjson.dumps(reply)
        answered = [
            (b"content-type", b"application/octet-stream"),
            (b"inference-header-content-length", str(len(head)).encode()),
        ]
        content = head + OUTPUT_BYTES
    else:
        for tensor in orjson.loads(body)["inputs"]:
            np.array(tensor["data"], dtype=np.int64)
        output["data"] = OUTPUT
        content = orjson.dumps(reply, option=orjson.OPT_SERIALIZE_NUMPY)
    answered.append((b"content-length", str(len(content)).encode()))
    await send({"type": "http.response.start", "status": 200, "headers": answered})
    await send({"type": "http.response.body", "body": content})


async def blocks() -> tuple[Ports, Callable[[], Coroutine[Any, Any, None]]]:
    grpc_server = grpc.aio.server()
    handlers = {"ModelInfer": grpc.unary_unary_rpc_method_handler(infer)}
    grpc_server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("inference.GRPCInferenceService", handlers),)
    )
    grpc_port = grpc_server.add_insecure_port("127.0.0.1:0")
    await grpc_server.start()
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(application, http="httptools", ws="none", lifespan="off", log_config=None, access_log=False)
    http_server = uvicorn.Server(config)
    serving = asyncio.create_task(http_server.serve(sockets=[listener]))

    async def stop() -> None:
        http_server.should_exit = True
        await serving
        await grpc_server.stop(0)

    return {"grpc": grpc_port, "http": listener.getsockname()[1]}, stop


class AnswersAtOnce:
    """Stands where the engine stands, and where the catalog and health are asked."""

    reading = contextlib.nullcontext()

    async def infer(self, request: Any) -> Any:
        from sluice.request import InferResponse, Tensor

        output = Tensor("output", "FP32", (1, FLOATS), OUTPUT_BYTES)
        return InferResponse(request.model, "1", request.id, (output,))

    def check_memory(self) -> None: ...

    def live(self) -> bool:
        return True

    started = ready = live

    def stopping(self) -> bool:
        return False

    def model_ready(self, name: str, version: str = "") -> bool:
        return True

    async def changed(self) -> None:
        await asyncio.Event().wait()


async def fronts() -> tuple[Ports, Callable[[], Coroutine[Any, Any, None]]]:
    from sluice.config.settings import Server
    from sluice.frontends.grpc.server import GrpcServer
    from sluice.frontends.http.server import HttpServer
    from sluice.frontends.regions import Regions
    from sluice.frontends.services import Services
    from sluice.telemetry.switches import Switches

    settings = Server(http_port=0, grpc_port=0)
    stub = cast(Any, AnswersAtOnce())
    services = Services(
        engine=stub, catalog=stub, health=stub, regions=Regions(enabled=True), switches=Switches(), limits=settings
    )
    servers: dict[str, GrpcServer | HttpServer] = {
        "grpc": GrpcServer(services, settings),
        "http": HttpServer(services, settings),
    }
    ports = {name: await server.start() for name, server in servers.items()}

    async def stop() -> None:
        for server in servers.values():
            server.stop_accepting()
            await server.close(0)

    return ports, stop


async def main(kind: str) -> None:
    ports, stop = await (blocks() if kind == "blocks" else fronts())
    print(json.dumps(ports), flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    await stop()


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1]))
