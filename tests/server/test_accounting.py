"""Everything that was asked gets exactly one outcome, and every answer is the right one, whatever dies meanwhile."""

import asyncio
import itertools
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import graphs
import numpy as np
import tritonclient.grpc as triton_grpc
import tritonclient.grpc.aio as aio_grpc
import tritonclient.http as triton_http
import tritonclient.http.aio as aio_http
from servers import Server, StartServer
from traffic import int64, until
from tritonclient.utils import InferenceServerException

from sluice.scheduler.blame import MOST_DEATHS

RAISES, KILLS = 666, 999
CLIENTS = 6  # on each protocol
DEATHS = 5  # by our hand
EVERY = 40  # requests one is guilty


class Books:
    """What was asked and what came of it."""

    def __init__(self) -> None:
        self.sent = 0
        self.outcomes: Counter[str] = Counter()
        self.errors: list[tuple[int, str]] = []
        self.killers = itertools.count(1)
        self.over = False

    def numbers(self) -> Iterator[tuple[int, ...]]:
        """Each request is another, so that none is refused for what another one did."""
        while not self.over:
            self.sent += 1
            number = 10_000 + self.sent
            if self.sent % EVERY == 0:
                yield (KILLS if next(self.killers) % 3 == 0 else RAISES, number)
            else:
                yield (number, number + 1)

    async def ask(self, client: Any, module: Any) -> None:
        for numbers in self.numbers():
            guilty = numbers[0] in (RAISES, KILLS)
            try:
                result = await client.infer("echo", int64(module, x=np.array([numbers])))
            except InferenceServerException as error:
                self.outcomes["told" if guilty else "blamed"] += 1
                self.errors.append((numbers[0], error.message()))
            else:
                right = not guilty and result.as_numpy("y").tolist() == [list(numbers)]
                self.outcomes["right" if right else "wrong"] += 1


async def run(server: Server, books: Books, meanwhile: Callable[[], None]) -> None:
    async with (
        aio_grpc.InferenceServerClient(server.grpc) as over_grpc,
        aio_http.InferenceServerClient(server.netloc, conn_limit=CLIENTS) as over_http,
    ):
        asking = [books.ask(over_grpc, triton_grpc) for _ in range(CLIENTS)]
        asking += [books.ask(over_http, triton_http) for _ in range(CLIENTS)]
        tasks = [asyncio.create_task(one) for one in asking]
        try:
            await asyncio.to_thread(meanwhile)
        finally:
            books.over = True
        async with asyncio.timeout(60):
            await asyncio.gather(*tasks)


def test_the_books_balance(start_server: StartServer, tmp_path: Path) -> None:
    repository = tmp_path / "models"
    graphs.python_echo(repository, more="target_latency = 60")
    server = start_server(repository, "--python-directory", str(repository))
    books = Books()

    def kill_workers() -> None:
        for _ in range(DEATHS):
            known = books.sent
            until(lambda known=known: books.sent > known + 2 * EVERY, "requests go on")  # type: ignore[misc]
            victim = server.workers()[0]
            victim.kill()
            until(lambda victim=victim: victim.pid not in {one.pid for one in server.workers()}, "it is replaced")  # type: ignore[misc]
            until(lambda: server.metric("sluice_workers", state="running") == 2, "all run")

    asyncio.run(run(server, books, kill_workers))
    assert sum(books.outcomes.values()) == books.sent
    assert books.outcomes["wrong"] == 0
    assert books.outcomes["blamed"] == 0, books.errors
    assert books.outcomes["told"] == books.sent // EVERY
    assert books.outcomes["right"] == books.sent - books.sent // EVERY
    killers = (books.sent // EVERY) // 3
    deaths = server.metric("sluice_worker_restarts_total")
    assert DEATHS <= deaths <= DEATHS + killers * MOST_DEATHS
    assert server.metric("nv_inference_pending_request_count", model="echo") == 0
