"""A process that sends requests in a closed loop, and reads the CPU time of the process that answers them.

Each line on standard input is a JSON object that describes one run; the answer is a line with its figures. It ends when
its input does.
"""

import asyncio
import base64
import itertools
import json
import re
import statistics
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, cast

import grpc
import psutil
import uvloop

METHOD = "/inference.GRPCInferenceService/ModelInfer"
_CONTENT_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


class FailedRunError(Exception):
    """The server answered something else than a success."""


@dataclass(slots=True)
class Traffic:
    """The requests of one run: what to send next, and what was answered so far."""

    bodies: Iterator[tuple[bytes, int]]
    answered: int = 0
    tokens: int = 0
    seconds: list[float] = field(default_factory=list)
    stopping: bool = False
    failure: asyncio.Future[None] = field(default_factory=lambda: asyncio.get_running_loop().create_future())

    def record(self, tokens: int, started: float) -> None:
        self.answered += 1
        self.tokens += tokens
        self.seconds.append(time.perf_counter() - started)

    def fail(self, message: str) -> None:
        if not self.stopping and not self.failure.done():
            self.failure.set_exception(FailedRunError(message))


class HttpConnection(asyncio.Protocol):
    """One request after another on a connection that is kept."""

    def __init__(self, traffic: Traffic) -> None:
        self._traffic = traffic
        self._received = bytearray()
        self._tokens = 0
        self._started = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by class
        self._send()

    def connection_lost(self, exc: Exception | None) -> None:
        self._traffic.fail(f"the server closed the connection: {exc}")

    def data_received(self, data: bytes) -> None:
        self._received += data
        head = self._received.find(b"\r\n\r\n")
        if head < 0:
            return
        length = _CONTENT_LENGTH.search(self._received, 0, head + 2)
        if length is None or not self._received.startswith(b"HTTP/1.1 200"):
            self._traffic.fail(bytes(self._received[:400]).decode(errors="replace"))
        elif len(self._received) >= head + 4 + int(length[1]):
            self._received.clear()
            self._traffic.record(self._tokens, self._started)
            self._send()

    def _send(self) -> None:
        if self._traffic.stopping:
            self._transport.close()
            return
        body, self._tokens = next(self._traffic.bodies)
        self._started = time.perf_counter()
        self._transport.write(body)


async def over_http(port: int, traffic: Traffic) -> None:
    await asyncio.get_running_loop().create_connection(lambda: HttpConnection(traffic), "127.0.0.1", port)


async def over_grpc(call: Any, traffic: Traffic) -> None:
    """One request after another on a channel that others use too."""
    while not traffic.stopping:
        body, tokens = next(traffic.bodies)
        started = time.perf_counter()
        try:
            await call(body)
        except grpc.aio.AioRpcError as error:
            traffic.fail(f"{error.code()}: {error.details()}")
            return
        traffic.record(tokens, started)


async def run(order: dict[str, Any]) -> dict[str, Any]:
    """One run: warm up, count what is answered and the CPU it takes in the window, stop."""
    bodies = [(base64.b64decode(body), tokens) for body, tokens in order["bodies"]]
    traffic = Traffic(itertools.cycle(bodies))
    async with grpc.aio.insecure_channel(f"127.0.0.1:{order['port']}") as channel:
        if order["protocol"] == "gRPC":
            senders = [over_grpc(channel.unary_unary(METHOD), traffic) for _ in range(order["in_flight"])]
        else:
            senders = [over_http(order["port"], traffic) for _ in range(order["in_flight"])]
        tasks = [asyncio.create_task(sender) for sender in senders]
        try:
            await _pass_time(order["warm_seconds"], traffic)
            return await _measure(psutil.Process(order["pid"]), order["seconds"], traffic)
        finally:
            traffic.stopping = True
            await asyncio.gather(*tasks, return_exceptions=True)


async def _measure(server: psutil.Process, seconds: float, traffic: Traffic) -> dict[str, Any]:
    traffic.seconds.clear()
    answered, tokens, cpu, started = traffic.answered, traffic.tokens, _cpu_seconds(server), time.perf_counter()
    await _pass_time(seconds, traffic)
    elapsed, cpu = time.perf_counter() - started, _cpu_seconds(server) - cpu
    requests = traffic.answered - answered
    if not requests:
        raise FailedRunError("no request was answered in time")
    return {
        "requests_per_second": requests / elapsed,
        "tokens_per_second": (traffic.tokens - tokens) / elapsed,
        "cpu_us": cpu / requests * 1e6,
        "p50_ms": statistics.median(traffic.seconds) * 1e3,
    }


async def _pass_time(seconds: float, traffic: Traffic) -> None:
    """The window's length, or less when a request fails."""
    done, _ = await asyncio.wait([traffic.failure], timeout=seconds)
    for failure in done:
        failure.result()


def _cpu_seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


async def main() -> None:
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        try:
            answer = await run(json.loads(line))
        except (FailedRunError, OSError, psutil.Error) as error:
            answer = {"error": str(error)}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    uvloop.run(main())
