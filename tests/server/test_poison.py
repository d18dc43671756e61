"""Requests that fail, kill or overfill what computes them: they are found among others, fail alone, and those that kill
are not computed again for a while."""

import asyncio
from pathlib import Path
from typing import Any

import graphs
import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.grpc.aio as aio_grpc
from servers import Server, StartServer
from traffic import Gate, echo, executions, int64, pending, until
from tritonclient.utils import InferenceServerException

KILLER, RAISER = 999, 666  # of graphs.python_echo
MOST_DEATHS, DEATHS_ALONE = 4, 2  # that one request may cost, as is written in scheduler/blame.py
# A model whose device has memory for so many rows.
ROOM = 4
HOG = 777  # takes more room than there is
SMALL_DEVICE = f"""
    def run(self, inputs):
        x = inputs["x"]
        if len(x) > {ROOM} or (x == {HOG}).any():
            raise RuntimeError("CUDA out of memory. Tried to allocate 20.00 MiB")
        return {{"y": x}}
"""

ENDLESS = 555
HANGS = f"""
    def run(self, inputs):
        while (inputs["x"] == {ENDLESS}).any():
            time.sleep(1)
        return {{"y": inputs["x"]}}
"""


@pytest.fixture
def gate(tmp_path: Path) -> Gate:
    return Gate(tmp_path / "gate")


@pytest.fixture
def repository(tmp_path: Path, gate: Gate) -> Path:
    repository = tmp_path / "models"
    graphs.tagger(repository)
    graphs.python_echo(repository, gate=gate.path)
    return repository


@pytest.fixture
def server(repository: Path, start_server: StartServer) -> Server:
    return start_server(repository, "--python-directory", str(repository), "--workers", "1")


def restarts(server: Server) -> int:
    return int(server.metric("sluice_worker_restarts_total"))


def failures(server: Server, reason: str, model: str = "echo") -> int:
    return int(server.metric("sluice_request_failures_total", model=model, reason=reason))


async def ask_all(server: Server, numbers: list[int], model: str, gate: Gate | None = None) -> list[Any]:
    """The answers, or errors, of requests sent at the same time; the gate opens when all wait behind it."""

    async def ask(client: Any, number: int) -> Any:
        try:
            answer = await client.infer(model, int64(triton_grpc, x=np.array([[number]])))
        except InferenceServerException as error:
            return error
        return int(answer.as_numpy("y")[0, 0])

    async with aio_grpc.InferenceServerClient(server.grpc) as client:
        tasks = [asyncio.create_task(ask(client, number)) for number in numbers]
        if gate is not None:
            await asyncio.to_thread(until, lambda: pending(server, model) == len(numbers), "all are queued")
            gate.open()
        return await asyncio.gather(*tasks)


def together(server: Server, gate: Gate, numbers: list[int], model: str = "echo") -> list[Any]:
    """The answers, or errors, of requests that wait for the only worker at the same time."""
    with gate.holding(server):
        return asyncio.run(ask_all(server, numbers, model, gate))


def all_but(numbers: list[int], guilty: int, answers: list[Any]) -> InferenceServerException:
    """The innocent have their own answers; the error of the guilty one."""
    at = numbers.index(guilty)
    assert [*answers[:at], *answers[at + 1 :]] == [*numbers[:at], *numbers[at + 1 :]]
    assert isinstance(answers[at], InferenceServerException)
    return answers[at]


def test_a_killer_among_others_fails_alone_and_is_then_refused(server: Server, gate: Gate) -> None:
    numbers = [*range(1, 8), KILLER, *range(8, 16)]
    error = all_but(numbers, KILLER, together(server, gate, numbers))
    assert error.status() == "StatusCode.INTERNAL"
    assert f"{DEATHS_ALONE} of them while they computed nothing else" in error.message()
    deaths = restarts(server)
    assert DEATHS_ALONE <= deaths <= MOST_DEATHS
    # Sent again it costs nothing, whoever sends it and however.
    for _ in range(3):
        status, body = echo(server, KILLER)
        assert status == 422
        assert "killed workers lately; it is not computed again for" in body["error"]
    with triton_grpc.InferenceServerClient(server.grpc) as client:
        with pytest.raises(InferenceServerException, match="not computed again") as caught:
            client.infer("echo", int64(triton_grpc, x=np.array([[KILLER]])), request_id="another")
        assert caught.value.status() == "StatusCode.FAILED_PRECONDITION"
        # What is not the very same is another request.
        with pytest.raises(InferenceServerException, match="given up after 2 workers died under it"):
            client.infer("echo", int64(triton_grpc, x=np.array([[KILLER, 1]])))
    assert failures(server, "quarantined") == 4
    assert restarts(server) == deaths + DEATHS_ALONE
    assert echo(server, 5)[1]["outputs"][0]["data"] == [5]


def test_a_model_loaded_anew_takes_what_killed_the_old(server: Server, repository: Path) -> None:
    assert echo(server, KILLER)[0] == 500
    assert echo(server, KILLER)[0] == 422
    until(lambda: server.metric("sluice_workers", state="running") == 1, "the worker is replaced")
    model = repository / "echo" / "1" / "model.py"
    model.write_text(model.read_text().replace(f"x == {KILLER}", "x == 998"))
    assert server.request("POST", "/v2/repository/models/echo/load", {})[0] == 200
    assert echo(server, KILLER)[0] == 200


def test_without_quarantine_every_time_counts(repository: Path, start_server: StartServer) -> None:
    flags = ("--python-directory", str(repository), "--workers", "1", "--quarantine", "0")
    server = start_server(repository, *flags)
    for times in (1, 2):
        assert echo(server, KILLER)[0] == 500
        assert restarts(server) == times * DEATHS_ALONE


def test_what_raises_is_found_by_halves_and_costs_no_worker(server: Server, gate: Gate) -> None:
    numbers = [*range(1, 8), RAISER, *range(8, 16)]
    before = executions(server, "echo")
    error = all_but(numbers, RAISER, together(server, gate, numbers))
    assert "the number of the beast" in error.message()
    # Beside those that hold the worker up: 8, 4, 2 and 1 of the innocent, side by side with ever fewer suspects.
    assert executions(server, "echo") - before <= 5 + 4 + 4
    assert echo(server, RAISER)[0] == 500  # it harms nobody but itself, and is computed as often as it is sent
    assert restarts(server) == 0
    assert failures(server, "model_failed") == 2


def test_batches_beyond_the_devices_memory_are_split(repository: Path, start_server: StartServer, gate: Gate) -> None:
    """Those of the very first batches, before the server has learned what fits."""
    model = graphs.python_echo(repository, "small", gate=gate.path) / "1" / "model.py"
    model.write_text(model.read_text() + SMALL_DEVICE)
    server = start_server(repository, "--python-directory", str(repository), "--workers", "1")
    numbers = [*range(1, 8), HOG, *range(8, 16)]
    error = all_but(numbers, HOG, together(server, gate, numbers, model="small"))
    assert "out of memory" in error.message()
    assert failures(server, "device_memory", "small") == 1
    assert restarts(server) == 0


def test_a_request_that_hangs_among_others_fails_alone(repository: Path, start_server: StartServer) -> None:
    model = graphs.python_echo(repository, "slow") / "1" / "model.py"
    model.write_text(model.read_text() + HANGS)
    flags = ("--python-directory", str(repository), "--workers", "1", "--compute-timeout", "2")
    server = start_server(repository, *flags)
    numbers = [*range(1, 8), ENDLESS, *range(8, 16)]
    error = all_but(numbers, ENDLESS, asyncio.run(ask_all(server, numbers, "slow")))
    assert f"{DEATHS_ALONE} of them while they computed nothing else" in error.message()
    assert failures(server, "hung", "slow") == 1
    assert restarts(server) <= MOST_DEATHS
    assert echo(server, ENDLESS, model="slow")[0] == 422
