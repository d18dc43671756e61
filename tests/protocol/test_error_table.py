"""Every error a client can provoke, from one table of cases, over both protocols: the code and the text."""

from __future__ import annotations

import asyncio
import contextlib
import re
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import graphs
import grpc
import pytest
from error_cases import CASES, GOOD, MESSAGE_LIMIT, Both, Case, echo
from grpc import StatusCode
from servers import Server, StartServer, end, launch
from tritonclient.grpc import service_pb2 as pb
from wires import PATIENCE, Ask, call, channel, connect, http_call, method_of, wait_until

from sluice import errors
from sluice.frontends import status

# The table's other rows: bugs of ours, mistakes of operators, and what only one protocol or nobody can receive.
ELSEWHERE = {
    errors.InternalError: "a bug; the fuzz tests see that there is none",
    errors.ConfigError: "stops the start",
    errors.Cancelled: "nobody is left to receive it: see test_cancelled_work_leaves_the_queue",
    errors.Stopping: "see test_stopping",
    errors.Quarantined: "see test_poison.py",
    errors.ShortOfMemory: "see test_memory_pressure.py",
    errors.CircuitOpen: "see test_breakers.py",
    errors.TooSlow: "HTTP only: see test_nasty_http.py",
    errors.Overloaded: "see test_overload.py",
    errors.NotApproved: "see test_signed.py",
    errors.WorkerLost: "see test_a_request_that_kills_its_workers",
}


class Bench:
    """A server, and the gate that its model `echo` stops at."""

    def __init__(self, server: Server, gate: Path) -> None:
        self.server = server
        self._gate = gate

    @contextlib.contextmanager
    def busy(self) -> Iterator[None]:
        """The only worker is held up by a request and computes nothing else."""
        held = self._gate.with_suffix(".held")
        wait_until(self.ready, "the worker is back")  # its warm-up would stop at the gate too
        self._gate.touch()
        with ThreadPoolExecutor(1) as pool:
            try:
                answer = pool.submit(call, self.server, "ModelInfer", echo(1).message())
                wait_until(held.exists, "a batch stands at the gate")
                # While it is answered the batch that is held becomes overdue: nothing is staged behind it.
                self.waiting()
                yield
            finally:
                self._gate.unlink()
            answer.result()
            held.unlink()
        for _ in range(4):  # lest the server come to expect batches that take so long
            call(self.server, "ModelInfer", echo(1).message())

    @contextlib.contextmanager
    def full(self) -> Iterator[None]:
        """As `busy`, and the queue has no room left."""
        with ThreadPoolExecutor(1) as pool, self.busy():
            answer = pool.submit(call, self.server, "ModelInfer", echo(2).message())
            wait_until(lambda: self.waiting() == 1, "a request waits in the queue")
            yield
        answer.result()

    def ready(self) -> bool:
        return http_call(self.server, "GET", "/v2/health/ready").status == 200

    def cancelled(self) -> float:
        return self.server.metric("sluice_request_failures_total", model="echo", reason="cancelled")

    def waiting(self) -> float:
        return self.server.metric("nv_inference_pending_request_count", model="echo")


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    root = tmp_path_factory.mktemp("errors")
    repository, gate = root / "models", root / "gate"
    graphs.tagger(repository)
    graphs.tagger(repository, "retired")
    graphs.identity(repository, "texts", ("BYTES",))
    graphs.python_echo(repository, gate=gate, more="max_queue = 1\nmax_batch_rows = 1\n")
    (repository / "broken" / "1").mkdir(parents=True)
    (repository / "broken" / "1" / "model.onnx").write_bytes(b"not a model")
    server = launch(
        repository, root / "log", "--python-directory", str(repository), "--workers", "1",
        "--max-message-bytes", str(MESSAGE_LIMIT),
    )  # fmt: skip
    call(server, "RepositoryModelUnload", pb.RepositoryModelUnloadRequest(model_name="retired"))
    yield Bench(server, gate)
    end(server)


def over_http(server: Server, ask: Ask | Both) -> tuple[int, str]:
    if isinstance(ask, Both):
        reply = http_call(server, *ask.http)
    else:
        reply = http_call(server, "POST", ask.path(), ask.json(), ask.headers())
    assert set(reply.json) == {"error"}
    return reply.status, reply.json["error"]


def over_grpc(server: Server, ask: Ask | Both) -> tuple[StatusCode, str]:
    method, message = ask.grpc if isinstance(ask, Both) else ("ModelInfer", ask.message())
    own = ask.timeout if isinstance(ask, Ask) else None
    with pytest.raises(grpc.RpcError) as caught:
        call(server, method, message, PATIENCE if own is None else own)
    return caught.value.code(), caught.value.details()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_error(bench: Bench, case: Case, protocol: str) -> None:
    expected = status.TABLE[case.error]
    code: int | StatusCode
    with getattr(bench, case.during)() if case.during else contextlib.nullcontext():
        if protocol == "http":
            code, text = over_http(bench.server, case.ask)
            assert code == expected.http, text
        else:
            code, text = over_grpc(bench.server, case.ask)
            assert code is expected.grpc, text
    assert re.search(case.text, text)


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_a_request_that_kills_its_workers(start_server: StartServer, tmp_path: Path, protocol: str) -> None:
    """It is tried again after each death, and given up before it has killed for ever."""
    graphs.python_echo(tmp_path / "models")
    server = start_server(tmp_path / "models", "--python-directory", str(tmp_path / "models"))
    code, text = over_http(server, echo(999)) if protocol == "http" else over_grpc(server, echo(999))
    assert code in status.TABLE[errors.WorkerLost]
    assert "died" in text
    assert call(server, "ModelInfer", echo(5).message()).raw_output_contents == [b"\5" + bytes(7)]


def test_every_row_is_provoked() -> None:
    assert {case.error for case in CASES} | {errors.NotAllowed, *ELSEWHERE} == set(status.TABLE)


def test_no_case_did_harm(bench: Bench) -> None:
    """After all of them the server answers as before."""
    reply = http_call(bench.server, "POST", GOOD.path(), GOOD.json())
    assert reply.json["outputs"][1]["data"] == [12]
    assert call(bench.server, "ModelInfer", GOOD.message()).outputs[1].name == "total"


def test_wrong_method_is_405_with_those_that_are_allowed(bench: Bench) -> None:
    reply = http_call(bench.server, "GET", "/v2/models/tagger/infer")
    assert reply.status == 405
    assert reply.headers["allow"] == "OPTIONS, POST"
    assert "GET" in reply.json["error"]


def test_unknown_grpc_method_is_unimplemented(bench: Bench) -> None:
    with channel(bench.server) as opened, pytest.raises(grpc.RpcError) as caught:
        opened.unary_unary("/inference.GRPCInferenceService/ModelPredict")(b"")
    assert caught.value.code() is StatusCode.UNIMPLEMENTED


def test_unknown_path_is_404(bench: Bench) -> None:
    assert http_call(bench.server, "GET", "/v3").status == 404


async def test_cancelled_work_leaves_the_queue(bench: Bench) -> None:
    """A gRPC cancel and a closed HTTP connection free the only place in the queue; both count as cancelled."""
    before = bench.cancelled()
    with bench.busy():
        async with grpc.aio.insecure_channel(bench.server.grpc) as opened:
            waiting = method_of(opened, "ModelInfer")(echo(4).message())
            await asyncio.to_thread(wait_until, lambda: bench.waiting() == 1, "the gRPC request waits")
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            assert await waiting.code() is StatusCode.CANCELLED
            await asyncio.to_thread(wait_until, lambda: bench.waiting() == 0, "it left the queue")
        connection = connect(bench.server)
        body = b'{"inputs":[{"name":"x","datatype":"INT64","shape":[1,1],"data":[4]}]}'
        connection.sendall(b"POST /v2/models/echo/infer HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        await asyncio.to_thread(wait_until, lambda: bench.waiting() == 1, "the HTTP request waits")
        connection.close()
        await asyncio.to_thread(wait_until, lambda: bench.waiting() == 0, "it left the queue")
    assert bench.cancelled() == before + 2


def test_stopping(start_server: StartServer, tmp_path: Path) -> None:
    """While it stops the server is alive, not ready, serves what comes; what is not finished in time gets 503."""
    gate = tmp_path / "gate"
    graphs.python_echo(tmp_path / "models", gate=gate)
    flags = "--python-directory", str(tmp_path / "models"), "--workers", "1", "--drain-timeout", "0.2"
    server = start_server(tmp_path / "models", *flags, "--lame-duck", "3")
    gate.touch()
    body = echo(1).json()
    with ThreadPoolExecutor(2) as pool, channel(server) as opened:
        over_http = pool.submit(http_call, server, "POST", "/v2/models/echo/infer", body)
        over_grpc = pool.submit(method_of(opened, "ModelInfer"), echo(2).message())
        wait_until(gate.with_suffix(".held").exists, "a batch stands at the gate")
        assert http_call(server, "GET", "/v2/health/ready").status == 200
        server.process.send_signal(signal.SIGTERM)
        wait_until(lambda: http_call(server, "GET", "/v2/health/ready").status == 503, "it says it is not ready")
        assert http_call(server, "GET", "/v2/models/echo/ready").status == 503
        assert http_call(server, "GET", "/v2/health/live").json == {"live": True}
        assert not method_of(opened, "ServerReady")(pb.ServerReadyRequest()).ready
        assert not method_of(opened, "ModelReady")(pb.ModelReadyRequest(name="echo")).ready
        assert method_of(opened, "ServerLive")(pb.ServerLiveRequest()).live
        given_up = over_http.result()
        assert given_up.status == 503
        assert "stopping" in given_up.json["error"]
        with pytest.raises(grpc.RpcError) as caught:
            over_grpc.result()
        assert caught.value.code() is StatusCode.UNAVAILABLE
    gate.unlink()
    assert server.process.wait(60) == 0
