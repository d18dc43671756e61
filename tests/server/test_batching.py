"""Rows are never mixed: whatever shares a batch, each request gets its own answer, and exactly one."""

import asyncio
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import graphs
import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.grpc.aio as aio_grpc
import tritonclient.http as triton_http
import tritonclient.http.aio as aio_http
from servers import Server, end, launch
from traffic import Array, Gate, Tagged, echo, executions, int64, pending, statistics, until
from tritonclient.utils import InferenceServerException

MODELS = Path(__file__).parents[2] / "models"
REQUESTS = 300  # on each protocol
WORKERS = 2


@pytest.fixture(scope="module")
def gate(tmp_path_factory: pytest.TempPathFactory) -> Gate:
    return Gate(tmp_path_factory.mktemp("gate") / "gate")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, gate: Gate) -> Iterator[Server]:
    repository = tmp_path_factory.mktemp("models")
    graphs.tagger(repository)
    # A flood of requests is what these tests are made of: none shall be refused for coming too late.
    (repository / "tagger" / "model.toml").write_text("target_latency = 60\n")
    graphs.unmasked_mean(repository)
    graphs.scaled_by_batch(repository)
    graphs.lookup(repository, rows=100)
    graphs.python_echo(repository, gate=gate.path)
    log = tmp_path_factory.mktemp("log") / "server.log"
    server = launch(repository, log, "--python-directory", str(repository), "--workers", str(WORKERS))
    yield server
    end(server)


class Crowd:
    """Clients on both protocols, each request in a task of its own; some are cancelled on the way."""

    def __init__(self, server: Server, seed: int) -> None:
        self.server = server
        self.random = random.Random(seed)
        self.answered = self.cancelled = 0

    async def _ask(self, client: Any, module: Any, tagged: Tagged) -> None:
        inputs = int64(module, input_ids=tagged.ids, attention_mask=tagged.mask)
        result = await client.infer("tagger", inputs, priority=tagged.priority)
        tagged.check(result.as_numpy("tokens"), result.as_numpy("total"))

    async def _run(self, client: Any, module: Any) -> None:
        tasks = [asyncio.create_task(self._ask(client, module, Tagged.random(self.random))) for _ in range(REQUESTS)]
        for victim in self.random.sample(tasks, REQUESTS // 8):
            # Some before they are sent, some queued, some running: another answer comes in between.
            if self.random.random() < 0.7:
                await asyncio.wait(self.random.sample(tasks, 1))
            if victim.cancel():
                self.cancelled += 1
        results = await asyncio.gather(*tasks, return_exceptions=True)
        failures = [one for one in results if one is not None and not isinstance(one, asyncio.CancelledError)]
        assert not failures, failures[:3]
        self.answered += results.count(None)

    async def run(self) -> None:
        async with (
            aio_grpc.InferenceServerClient(self.server.grpc) as grpc_client,
            aio_http.InferenceServerClient(self.server.netloc, conn_limit=100) as http_client,
        ):
            await asyncio.gather(self._run(grpc_client, triton_grpc), self._run(http_client, triton_http))


@pytest.mark.parametrize("seed", [1, 2])
def test_every_answer_is_the_requests_own(server: Server, seed: int) -> None:
    before = statistics(server, "tagger")
    crowd = Crowd(server, seed)
    asyncio.run(crowd.run())
    assert crowd.answered + crowd.cancelled >= 2 * REQUESTS
    assert crowd.answered > REQUESTS
    until(lambda: pending(server, "tagger") == 0, "nothing is left in the queue")
    after = statistics(server, "tagger")
    # Cancelled requests may have been answered at the same moment, but none of the others counts twice.
    succeeded = after["inference_stats"]["success"]["count"] - before["inference_stats"]["success"]["count"]
    assert crowd.answered <= succeeded <= crowd.answered + crowd.cancelled


def together(server: Server, gate: Gate, model: str, requests: list[dict[str, Array]]) -> list[Any]:
    """The answers, or errors, of requests that all waited at the same time."""

    async def ask(client: Any, arrays: dict[str, Array]) -> Any:
        try:
            return await client.infer(model, int64(triton_grpc, **arrays))
        except InferenceServerException as error:
            return error

    async def ask_all() -> list[Any]:
        async with aio_grpc.InferenceServerClient(server.grpc) as client:
            tasks = [asyncio.create_task(ask(client, arrays)) for arrays in requests]
            await asyncio.to_thread(until, lambda: pending(server, model) == len(requests), "all are queued")
            gate.open()
            return await asyncio.gather(*tasks)

    with gate.holding(server, WORKERS):
        return asyncio.run(ask_all())


def test_batches_form_from_what_waits(server: Server, gate: Gate) -> None:
    generator = random.Random(0)
    tagged = [Tagged.random(generator, longest=8) for _ in range(40)]
    before = statistics(server, "tagger")
    answers = together(server, gate, "tagger", [{"input_ids": one.ids, "attention_mask": one.mask} for one in tagged])
    for one, answer in zip(tagged, answers, strict=True):
        one.check(answer.as_numpy("tokens"), answer.as_numpy("total"))
    after = statistics(server, "tagger")
    assert after["inference_stats"]["success"]["count"] - before["inference_stats"]["success"]["count"] == 40
    assert after["execution_count"] - before["execution_count"] <= 20
    assert sum(batch["compute_infer"]["count"] for batch in after["batch_stats"]) == after["execution_count"]


def test_a_model_that_sees_its_padding_is_never_padded(server: Server, gate: Gate) -> None:
    generator = np.random.default_rng(0)
    requests = [{"input_ids": generator.integers(0, 1000, (1, length))} for length in [3, 4, 5, 6] * 10]
    before = executions(server, "unmasked")
    answers = together(server, gate, "unmasked", requests)
    for asked, answer in zip(requests, answers, strict=True):
        np.testing.assert_array_equal(
            answer.as_numpy("mean"), asked["input_ids"].astype(np.float32).mean(axis=1, keepdims=True)
        )
    assert 4 <= executions(server, "unmasked") - before < len(requests)


def test_a_model_whose_rows_mingle_runs_one_by_one(server: Server) -> None:
    async def ask_all() -> None:
        async with aio_grpc.InferenceServerClient(server.grpc) as client:
            arrays = [np.arange(1, 5, dtype=np.float32).reshape(1, 4) * number for number in range(1, 30)]
            tasks = []
            for array in arrays:
                tensor = triton_grpc.InferInput("x", [1, 4], "FP32")
                tensor.set_data_from_numpy(array)
                tasks.append(asyncio.create_task(client.infer("mingled", [tensor])))
            for result in await asyncio.gather(*tasks):
                np.testing.assert_allclose(result.as_numpy("y"), [[0.25, 0.5, 0.75, 1]])

    before = executions(server, "mingled")
    asyncio.run(ask_all())
    assert executions(server, "mingled") - before == 29


def test_a_token_beyond_the_vocabulary_fails_alone(server: Server, gate: Gate) -> None:
    ones = np.ones((1, 3), np.int64)
    requests = [{"input_ids": ones * number, "attention_mask": ones} for number in range(12)]
    requests[5]["input_ids"] = ones * 100
    alone = together(server, gate, "lookup", requests[4:5])[0].as_numpy("embedding")
    before = statistics(server, "lookup")["inference_stats"]
    answers = together(server, gate, "lookup", requests)
    guilty = answers.pop(5)
    assert isinstance(guilty, InferenceServerException)
    assert guilty.status() == "StatusCode.INVALID_ARGUMENT"
    assert "the model refuses this input" in guilty.message()
    for answer in answers:
        assert answer.as_numpy("embedding").shape == (1, 8)
    np.testing.assert_array_equal(answers[4].as_numpy("embedding"), alone)
    after = statistics(server, "lookup")["inference_stats"]
    assert after["success"]["count"] - before["success"]["count"] == 11
    assert after["fail"]["count"] - before["fail"]["count"] == 1


def test_a_request_that_makes_the_model_raise_fails_alone(server: Server, gate: Gate) -> None:
    requests = [{"x": np.array([[number]], np.int64)} for number in (1, 2, 666, 3)]
    answers = together(server, gate, "echo", requests)
    guilty = answers.pop(2)
    assert isinstance(guilty, InferenceServerException)
    assert guilty.status() == "StatusCode.INTERNAL"
    assert "the number of the beast" in guilty.message()
    assert [answer.as_numpy("y").tolist() for answer in answers] == [[[1]], [[2]], [[3]]]
    assert echo(server, 666)[0] == 500


@pytest.fixture(scope="module")
def minilm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    if not (MODELS / "minilm" / "1" / "model.onnx").exists():
        pytest.skip("the demo model is not prepared: `make serve` or `sluice import demo` does it")
    server = launch(MODELS, tmp_path_factory.mktemp("log") / "server.log", "--load", "minilm", "--workers", "1")
    yield server
    end(server)


def test_a_real_encoder_answers_the_same_alone_and_in_a_batch(minilm: Server) -> None:
    generator = np.random.default_rng(0)
    requests = [generator.integers(1000, 2000, (1 + number % 2, 4 + number % 13)) for number in range(40)]

    async def ask_all(at_once: int) -> list[Array]:
        async with aio_grpc.InferenceServerClient(minilm.grpc) as client:
            limit = asyncio.Semaphore(at_once)

            async def ask(ids: Array) -> Array:
                async with limit:
                    result = await client.infer("minilm", int64(triton_grpc, input_ids=ids))
                    (name,) = [output.name for output in result.get_response().outputs]
                    found: Array = result.as_numpy(name)
                    return found

            return list(await asyncio.gather(*(ask(ids) for ids in requests)))

    alone = asyncio.run(ask_all(1))
    before = executions(minilm, "minilm")
    batched = asyncio.run(ask_all(len(requests)))
    assert executions(minilm, "minilm") - before < len(requests)
    for one, other in zip(alone, batched, strict=True):
        assert one.shape == other.shape
        np.testing.assert_allclose(one, other, atol=1e-5)
