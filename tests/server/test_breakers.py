"""A version that fails is refused at once, or answered for by its fallback, until it works again: both protocols."""

import http.client
import json
from pathlib import Path
from typing import Any

import graphs
import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http
from breakable import breakable
from servers import Server, StartServer
from traffic import echo, executions, int64, until

from sluice.pb.inference_pb2 import ModelInferRequest, ModelInferResponse

BROKEN, FINE = 1, 10  # what the model asked for and its fallback multiply with
ENOUGH = 20  # failures that open a circuit


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    return tmp_path / "broken"


def start(start_server: StartServer, tmp_path: Path, broken: Path, more: str = "") -> Server:
    repository = tmp_path / "models"
    breakable(repository, "main", broken, BROKEN, more)
    breakable(repository, "spare", tmp_path / "never", FINE)
    return start_server(repository, "--python-directory", str(repository))


def open_circuit(server: Server, broken: Path) -> None:
    """Break it, and ask until nothing is tried any more."""
    broken.touch()
    until(lambda: (echo(server, 1, model="main"), state(server) != 0)[1], "the circuit opens")


def state(server: Server) -> int:
    return int(server.metric("sluice_breaker_state", model="main"))


def failures(server: Server, reason: str) -> int:
    return int(server.metric("sluice_request_failures_total", model="main", version="1", reason=reason))


def exchange(server: Server, method: str, path: str, body: Any = None) -> tuple[int, dict[str, str], Any]:
    """Status, headers and JSON of one HTTP request."""
    connection = http.client.HTTPConnection(server.netloc, timeout=30)
    connection.request(method, path, json.dumps(body) if body is not None else None)
    reply = connection.getresponse()
    content = reply.read()
    connection.close()
    return reply.status, {name.lower(): value for name, value in reply.getheaders()}, json.loads(content)


def body(**parameters: Any) -> dict[str, Any]:
    return {
        "inputs": [{"name": "x", "datatype": "INT64", "shape": [1, 1], "data": [3]}],
        **({"parameters": parameters} if parameters else {}),
    }


def call_grpc(server: Server) -> tuple[ModelInferResponse, dict[str, str]]:
    """A reply and its trailing metadata."""
    message = ModelInferRequest(model_name="main")
    message.inputs.add(name="x", datatype="INT64", shape=[1, 1])
    message.raw_input_contents.append(np.array([3], "<i8").tobytes())
    with grpc.insecure_channel(server.grpc, [("grpc.enable_retries", 0)]) as channel:
        method = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        reply, call = method.with_call(message.SerializeToString(), timeout=30)
    return ModelInferResponse.FromString(reply), dict(call.trailing_metadata())


def test_an_open_circuit_refuses_at_once_and_closes_by_itself(
    start_server: StartServer, tmp_path: Path, broken: Path
) -> None:
    server = start(start_server, tmp_path, broken)
    assert state(server) == 0
    open_circuit(server, broken)
    assert failures(server, "model_failed") >= ENOUGH
    computed = executions(server, "main")

    status, headers, reply = exchange(server, "POST", "/v2/models/main/infer", body())
    assert status == 503
    assert int(headers["retry-after"]) >= 1
    assert reply["error"].startswith("'main' version 1 failed too often to be tried now")
    assert "it is broken" in reply["error"]
    with pytest.raises(grpc.RpcError) as refused:
        call_grpc(server)
    assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
    assert int(dict(refused.value.trailing_metadata())["grpc-retry-pushback-ms"]) >= 0
    assert failures(server, "circuit_open") >= 2

    # Its model and the server say so; the other model goes on.
    assert server.request("GET", "/v2/models/main/ready")[0] == 503
    assert server.request("GET", "/v2/health/ready")[0] == 503
    rows = {row["name"]: row for row in server.request("POST", "/v2/repository/index", {})[1]}
    assert "circuit is" in rows["main"]["reason"]
    assert server.request("GET", "/v2/models/main")[1]["properties"]["circuit"] in ("open", "half_open")
    assert echo(server, 1, model="spare")[1]["outputs"][0]["data"] == [FINE]

    until(
        lambda: "probe failed" in server.request("GET", "/v2/models/main")[1]["properties"]["circuit_reason"], "probe"
    )
    broken.unlink()
    until(lambda: state(server) == 0, "a probe closes it")
    assert executions(server, "main") == computed, "no client's request was tried meanwhile"
    assert echo(server, 3, model="main")[1]["outputs"][0]["data"] == [3 * BROKEN]
    assert server.request("GET", "/v2/health/ready")[0] == 200
    assert server.metric("sluice_breaker_opened_total", model="main") == 1


def test_bad_requests_do_not_take_a_version_from_the_others(start_server: StartServer, tmp_path: Path) -> None:
    """Half of all that is asked fails by its sender's fault: a probe says that the version is well."""
    repository = tmp_path / "models"
    graphs.python_echo(repository)
    server = start_server(repository, "--python-directory", str(repository))
    for _ in range(3 * ENOUGH):
        assert echo(server, 666)[0] == 500
        assert echo(server, 7)[0] == 200
    assert server.metric("sluice_breaker_opened_total", model="echo") == 0
    assert "computes well, but" in server.output()


def test_a_fallback_answers_and_the_reply_says_so(start_server: StartServer, tmp_path: Path, broken: Path) -> None:
    server = start(start_server, tmp_path, broken, more='fallback = "spare"')
    status, headers, reply = exchange(server, "POST", "/v2/models/main/infer", body())
    assert (status, "sluice-fallback" in headers, "parameters" in reply) == (200, False, False)
    assert "sluice-fallback" not in call_grpc(server)[1]
    open_circuit(server, broken)

    # The default body, binary data, gRPC, a stream: each is marked in its own way, and all by a parameter.
    _, headers, reply = exchange(server, "POST", "/v2/models/main/infer", body())
    assert headers["sluice-fallback"] == "spare/1"
    assert reply["parameters"] == {"sluice_fallback": "spare/1"}
    assert (reply["model_name"], reply["model_version"]) == ("main", "1")
    assert reply["outputs"][0]["data"] == [3 * FINE]

    x = np.array([[3]], np.int64)
    with triton_http.InferenceServerClient(server.netloc) as client:
        result = client.infer("main", int64(triton_http, x=x), model_version="1")
        assert result.as_numpy("y").tolist() == [[3 * FINE]]
        assert result.get_response()["parameters"] == {"sluice_fallback": "spare/1"}

    message, trailers = call_grpc(server)
    assert trailers["sluice-fallback"] == "spare/1"
    assert message.parameters["sluice_fallback"].string_param == "spare/1"
    answers: list[Any] = []
    with triton_grpc.InferenceServerClient(server.grpc) as client:
        client.start_stream(lambda result, error: answers.append((result, error)))
        client.async_stream_infer("main", int64(triton_grpc, x=x))
        client.stop_stream()
    [(result, error)] = answers
    assert error is None
    assert result.as_numpy("y").tolist() == [[3 * FINE]]
    assert result.get_response().parameters["sluice_fallback"].string_param == "spare/1"

    assert server.metric("sluice_fallback_requests_total", model="main", version="1", fallback="spare/1") >= 4
    assert server.request("GET", "/v2/models/main/ready")[0] == 200
    assert server.request("GET", "/v2/health/ready")[0] == 200
    broken.unlink()
    until(lambda: state(server) == 0, "a probe closes it")
    assert exchange(server, "POST", "/v2/models/main/infer", body())[2]["outputs"][0]["data"] == [3 * BROKEN]


def test_a_version_that_no_worker_can_load_again_is_answered_for(
    start_server: StartServer, tmp_path: Path, broken: Path
) -> None:
    server = start(start_server, tmp_path, broken, more='fallback = "spare/1"')
    (tmp_path / "models" / "main" / "1").rename(tmp_path / "moved")
    for worker in server.workers():
        worker.kill()
    until(lambda: "sluice-fallback" in exchange(server, "POST", "/v2/models/main/infer", body())[1], "it stands in")
    assert exchange(server, "POST", "/v2/models/main/infer", body())[2]["outputs"][0]["data"] == [3 * FINE]
    rows = {row["name"]: row for row in server.request("POST", "/v2/repository/index", {})[1]}
    assert rows["main"]["state"] == "UNAVAILABLE"
    assert server.request("GET", "/v2/models/main/ready")[0] == 200
