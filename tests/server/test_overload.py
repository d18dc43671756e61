"""More than can be answered in time: what cannot is refused, all else is answered, nobody waits in vain."""

import asyncio
import contextlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import graphs
import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
from servers import Server, end, launch
from traffic import Gate, echo, int64, pending, until
from tritonclient.grpc import aio as aio_grpc
from tritonclient.utils import InferenceServerException

FLOOD = 2000


@pytest.fixture(scope="module")
def gate(tmp_path_factory: pytest.TempPathFactory) -> Gate:
    return Gate(tmp_path_factory.mktemp("gate") / "gate")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, gate: Gate) -> Iterator[Server]:
    repository = tmp_path_factory.mktemp("models")
    graphs.python_echo(repository, gate=gate.path, more='target_latency = 0.05\npadding = "never"\nmax_queue = 100000')
    log = tmp_path_factory.mktemp("log") / "server.log"
    server = launch(repository, log, "--python-directory", str(repository), "--workers", "1")
    for _ in range(40):
        assert echo(server, 1)[0] == 200
    yield server
    end(server)


def refusals(server: Server) -> float:
    return server.metric("sluice_request_failures_total", model="echo", version="1", reason="overloaded")


async def flood(server: Server, gate: Gate) -> list[object]:
    """Everything at once while the only worker is held, then the gate opens: each answer, or its error."""

    async def ask(client: aio_grpc.InferenceServerClient, number: int) -> object:
        given = int64(triton_grpc, x=np.array([[number]]))
        try:
            answer = await client.infer("echo", given)
        except InferenceServerException as error:
            return error
        return int(answer.as_numpy("y")[0, 0])

    own = [("grpc.use_local_subchannel_pool", 1)]  # a connection each: one takes only so many calls at a time
    async with contextlib.AsyncExitStack() as opened:
        clients = [aio_grpc.InferenceServerClient(server.grpc, channel_args=own) for _ in range(FLOOD // 200)]
        for client in clients:
            await opened.enter_async_context(client)
        asked = enumerate(range(1000, 1000 + FLOOD))
        tasks = [asyncio.create_task(ask(clients[index % len(clients)], number)) for index, number in asked]
        await asyncio.to_thread(until, lambda: pending(server, "echo") + refusals(server) >= FLOOD, "all have arrived")
        gate.open()
        return list(await asyncio.wait_for(asyncio.gather(*tasks), 60))


def test_everything_gets_one_answer_and_what_is_too_much_is_said_to_be(server: Server, gate: Gate) -> None:
    with gate.holding(server):
        answers = asyncio.run(flood(server, gate))
    errors = [answer for answer in answers if isinstance(answer, InferenceServerException)]
    values = [answer for answer in answers if isinstance(answer, int)]
    assert len(errors) + len(values) == FLOOD
    assert all(answer in (number, error_of(answer)) for number, answer in enumerate(answers, 1000))
    assert Counter(error.status() for error in errors) == {"StatusCode.RESOURCE_EXHAUSTED": len(errors)}
    assert all("'echo' is overloaded" in error.message() for error in errors)
    until(lambda: pending(server, "echo") == 0, "nothing is left")
    assert refusals(server) == len(errors)


def error_of(answer: object) -> object:
    return answer if isinstance(answer, InferenceServerException) else None


def test_what_was_learned_is_known_at_the_next_start(tmp_path: Path) -> None:
    repository = tmp_path / "models"
    graphs.lookup(repository)
    kept = repository / "lookup" / ".learned" / "1-cpu.json"
    for start, said in enumerate(("", "is known from before", "learning anew")):
        log = tmp_path / f"log{start}"
        if said == "learning anew":
            kept.write_text("{}}")
        server = launch(repository, log)
        assert server.metric("sluice_target_latency_seconds", model="lookup", version="1") == pytest.approx(0.1)
        end(server)
        assert kept.read_text().startswith("{")
        assert said in log.read_text()
