"""Thousands of damaged HTTP requests: each gets an answer, none is a 500, and the server goes on."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

import pytest
from fuzzed import MUTATIONS, Target, target
from http_damage import Request, damage, valid_requests
from wires import PATIENCE

AT_ONCE = 24
# Not served, not ready, and too late are answers; 505 is for another version of HTTP.
ALLOWED_5XX = {501, 503, 504, 505}


@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    with target(tmp_path_factory.mktemp("fuzz")) as one:
        yield one


class Answer(NamedTuple):
    status: int
    closes: bool
    body: bytes


class Client:
    """One connection at a time, kept as long as the exchange on it ended where both sides think it did."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def exchange(self, request: Request) -> Answer | None:
        """The answer; None if the server closed without one."""
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self._port, limit=1 << 20)
        reader, writer = self._streams
        answer = None
        try:
            writer.write(request.bytes())
            answer = await asyncio.wait_for(_read(reader, request), PATIENCE)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        if answer is None or answer.closes or not request.framed or request.method in ("CONNECT", "HEAD"):
            await self.close()
        return answer

    async def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


async def _read(reader: asyncio.StreamReader, request: Request) -> Answer:
    while True:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        status = int(head.split(" ", 2)[1])
        if status >= 200:
            break
    headers = dict(line.lower().split(": ", 1) for line in head.split("\r\n")[1:] if line)
    empty = request.method == "HEAD" or request.raw[:5] == b"HEAD "
    body = b"" if empty else await reader.readexactly(int(headers["content-length"]))
    return Answer(status, headers.get("connection") == "close", body)


async def test_requests(fuzzed: Target) -> None:
    """Every route, many connections at once."""
    port = int(fuzzed.server.netloc.rpartition(":")[2])
    key = fuzzed.memory.name
    again = Request("POST", "/v2/systemsharedmemory/region/fuzz/register", (), {"key": key, "byte_size": 4096})
    requests = damage(valid_requests(key), MUTATIONS, 20_240, again)
    codes: Counter[int] = Counter()
    wrong: list[str] = []

    async def work() -> None:
        client = Client(port)
        for request in requests:
            answer = await client.exchange(request)
            codes[answer.status if answer is not None else 0] += 1
            if answer is None or (answer.status >= 500 and answer.status not in ALLOWED_5XX):
                wrong.append(f"{answer}: {request.bytes()[:1500]!r}")
        await client.close()

    await asyncio.gather(*(work() for _ in range(AT_ONCE)))
    assert not wrong, "\n\n".join([str(len(wrong)), *wrong[:5]])
    assert sum(codes.values()) >= MUTATIONS
    assert codes[200] > MUTATIONS / 20  # damage that is too coarse would test the doorstep only
    fuzzed.check()
