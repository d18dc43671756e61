"""`sluice models` and `sluice infer` against a small HTTP server that speaks the few routes they use."""

import json
import struct
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import StringIO
from pathlib import Path
from socket import create_server
from typing import Any

import pytest

from sluice.cli.main import main
from sluice.cli.tensors import decode, encode
from sluice.request import encode_bytes

METADATA = {
    "name": "m",
    "versions": ["1"],
    "platform": "test",
    "inputs": [
        {"name": "ids", "datatype": "INT64", "shape": [-1, -1]},
        {"name": "text", "datatype": "BYTES", "shape": [-1, 1]},
        {"name": "half", "datatype": "FP16", "shape": [-1, 2]},
    ],
    "outputs": [{"name": "out", "datatype": "FP32", "shape": [-1, 4]}],
}
ANSWER = {
    "model_name": "m",
    "model_version": "1",
    "outputs": [{"name": "out", "datatype": "FP32", "shape": [1, 4], "data": [0.25, 0.5, 0.75, 1]}],
}


@dataclass
class Received:
    method: str
    path: str
    headers: dict[str, str]
    body: bytes


@dataclass
class Stage:
    """What the server was sent, and what it answers: status, extra headers, body."""

    url: str
    received: list[Received] = field(default_factory=list)
    answers: dict[str, tuple[int, dict[str, str], bytes]] = field(default_factory=dict)

    def answer(self, path: str, document: Any, status: int = 200) -> None:
        self.answers[path] = (status, {}, json.dumps(document).encode())

    def sent(self) -> Any:
        return json.loads(self.received[-1].body)


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    class Handler(BaseHTTPRequestHandler):
        def _serve(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            play.received.append(Received(self.command, self.path, dict(self.headers), body))
            status, headers, content = play.answers.get(self.path, (404, {}, b'{"error": "nothing here"}'))
            self.send_response(status)
            for name, value in {"Content-Length": str(len(content)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = _serve  # noqa: N815 - the base class looks for these names

        def log_message(self, *arguments: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    play = Stage(f"http://127.0.0.1:{server.server_port}")
    play.answer("/v2/models/m", METADATA)
    play.answer("/v2/models/m/infer", ANSWER)
    play.answer(
        "/v2/repository/index",
        [
            {"name": "m", "version": "1", "state": "READY", "reason": ""},
            {"name": "bad", "version": "", "state": "UNAVAILABLE", "reason": "no version directory"},
        ],
    )
    monkeypatch.setenv("SLUICE_URL", play.url)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield play
    server.shutdown()
    thread.join()
    server.server_close()


Captured = pytest.CaptureFixture[str]


def test_list_shows_states_and_reasons(stage: Stage, capsys: Captured) -> None:
    assert main(["models", "list"]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["m", "1", "READY"] in rows
    assert ["bad", "UNAVAILABLE", "no", "version", "directory"] in rows
    assert stage.sent() == {"ready": False}


def test_list_in_json(stage: Stage, capsys: Captured) -> None:
    assert main(["models", "list", "--ready", "--json", "--url", stage.url.removeprefix("http://")]) == 0
    assert [row["name"] for row in json.loads(capsys.readouterr().out)] == ["m", "bad"]
    assert stage.sent() == {"ready": True}


def test_load_sends_the_configuration_as_it_is(stage: Stage, capsys: Captured, tmp_path: Path) -> None:
    stage.answer("/v2/repository/models/m/load", {})
    config = tmp_path / "config.json"
    config.write_text('{"max_batch_size": 4}', encoding="utf-8")
    assert main(["models", "load", "m", "--config-file", str(config), "--json"]) == 0
    assert json.loads(stage.received[0].body) == {"parameters": {"config": '{"max_batch_size": 4}'}}
    assert [row["name"] for row in json.loads(capsys.readouterr().out)] == ["m"]


def test_an_empty_answer_to_load_is_fine_and_names_are_quoted(stage: Stage, capsys: Captured) -> None:
    stage.answers["/v2/repository/models/a%2Fb/load"] = (200, {}, b"")
    assert main(["models", "load", "a/b"]) == 0
    assert json.loads(stage.received[0].body) == {"parameters": {}}
    assert capsys.readouterr().out == "no models\n"


def test_unload(stage: Stage, capsys: Captured) -> None:
    stage.answer("/v2/repository/models/m/unload", {})
    assert main(["models", "unload", "m", "--dependents"]) == 0
    assert json.loads(stage.received[0].body) == {"parameters": {"unload_dependents": True}}


def test_infer_takes_datatypes_from_the_server_and_adds_the_batch_axis(stage: Stage, capsys: Captured) -> None:
    assert main(["infer", "m", "--input", "ids=[1, 2, 3]", "--input", "text=hello = world"]) == 0
    assert stage.sent() == {
        "inputs": [
            {"name": "ids", "datatype": "INT64", "shape": [1, 3], "data": [1, 2, 3]},
            {"name": "text", "datatype": "BYTES", "shape": [1, 1], "data": ["hello = world"]},
        ]
    }
    assert capsys.readouterr().out == "out  FP32  [1, 4]\n[[0.25, 0.5 , 0.75, 1.  ]]\n"


def test_infer_in_json_asks_for_the_outputs_named(stage: Stage, capsys: Captured) -> None:
    assert main(["infer", "m", "-i", "ids=[[1], [2]]", "-o", "out", "--json"]) == 0
    assert stage.sent()["inputs"][0]["shape"] == [2, 1]
    assert stage.sent()["outputs"] == [{"name": "out", "parameters": {"binary_data": False}}]
    assert json.loads(capsys.readouterr().out) == ANSWER


def test_infer_addresses_a_version(stage: Stage, capsys: Captured) -> None:
    stage.answer("/v2/models/m/versions/3", METADATA)
    stage.answer("/v2/models/m/versions/3/infer", ANSWER)
    assert main(["infer", "m", "--version", "3", "-i", "ids=1"]) == 0
    assert stage.sent()["inputs"][0]["shape"] == [1, 1]


def test_infer_sends_and_reads_half_precision_in_binary(stage: Stage, capsys: Captured) -> None:
    stage.answer("/v2/models/m", {**METADATA, "outputs": [{"name": "out", "datatype": "FP16", "shape": [-1, 2]}]})
    head = json.dumps(
        {
            "model_name": "m",
            "outputs": [
                {"name": "out", "datatype": "FP16", "shape": [1, 2], "parameters": {"binary_data_size": 4}},
                {"name": "bf", "datatype": "BF16", "shape": [1], "parameters": {"binary_data_size": 2, "kept": 1}},
                {"name": "words", "datatype": "BYTES", "shape": [2], "parameters": {"binary_data_size": 10}},
            ],
        }
    ).encode()
    binary = struct.pack("<2e", 0.5, -2.0) + b"\x80\x3f" + encode_bytes([b"a", b"b"])
    stage.answers["/v2/models/m/infer"] = (200, {"Inference-Header-Content-Length": str(len(head))}, head + binary)
    assert main(["infer", "m", "-i", "half=[1.5, 2]", "--json"]) == 0
    outputs = json.loads(capsys.readouterr().out)["outputs"]
    assert [output["data"] for output in outputs] == [[0.5, -2.0], [1.0], ["a", "b"]]
    assert [output.get("parameters") for output in outputs] == [None, {"kept": 1}, None]
    sent = stage.received[-1]
    end = int(sent.headers["Inference-Header-Content-Length"])
    assert json.loads(sent.body[:end]) == {
        "inputs": [{"name": "half", "datatype": "FP16", "shape": [1, 2], "parameters": {"binary_data_size": 4}}],
        "parameters": {"binary_data_output": True},
    }
    assert sent.body[end:] == struct.pack("<2e", 1.5, 2)


def test_infer_sends_a_whole_request(stage: Stage, capsys: Captured, tmp_path: Path, monkeypatch: Any) -> None:
    request = {"id": "7", "inputs": []}
    (tmp_path / "request.json").write_text(json.dumps(request), encoding="utf-8")
    assert main(["infer", "m", "--file", str(tmp_path / "request.json")]) == 0
    assert stage.sent() == request
    monkeypatch.setattr("sys.stdin", StringIO(json.dumps({"id": "8"})))
    assert main(["infer", "m", "--file", "-"]) == 0
    assert stage.sent() == {"id": "8"}


@pytest.mark.parametrize(
    ("arguments", "code", "error", "hint"),
    [
        (["m"], 1, "error: 'm' needs inputs", "hint: give them with --input NAME=VALUE: ids (INT64 [-1, -1]), "),
        (["m", "-i", "ids"], 2, "error: Invalid value for --input: 'ids' is not of the form NAME=VALUE", "hint: "),
        (["m", "-i", "idz=1"], 1, "error: 'm' has no input 'idz'", "hint: it takes ids (INT64 [-1, -1]), "),
        (["m", "-i", "ids=[1"], 1, "error: --input ids: not JSON: ", "hint: such as --input 'ids=[[1, 2, 3]]'"),
        (["m", "-i", "ids=[[1], [2, 3]]"], 1, "error: --input ids: its rows differ in length", "hint: "),
        (["m", "-i", 'half=[1, "x"]'], 1, "error: --input half: FP16 takes numbers", None),
        (["other", "-i", "ids=1"], 1, "error: nothing here (HTTP 404)", "hint: `sluice models list` shows"),
    ],
)
def test_what_infer_refuses(
    arguments: list[str], code: int, error: str, hint: str | None, stage: Stage, capsys: Captured
) -> None:
    assert main(["infer", *arguments]) == code
    printed = capsys.readouterr()
    lines = printed.err.splitlines()
    assert printed.out == ""
    assert lines[0].startswith(error)
    assert len(lines) == (1 if hint is None else 2)
    assert hint is None or lines[1].startswith(hint)


def test_a_request_file_that_is_none(stage: Stage, capsys: Captured, tmp_path: Path) -> None:
    path = tmp_path / "request.json"
    for content, message in ((b"[]", "a request is a JSON object"), (b"{", "not JSON"), (b"\xff", "not JSON")):
        path.write_bytes(content)
        assert main(["infer", "m", "--file", str(path)]) == 1
        assert f"error: {path}: {message}" in capsys.readouterr().err
    assert not stage.received


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"{}", b'{"outputs": [{}]}', b'{"outputs": [{"name": 1, "datatype": "FP32"}]}']
)
def test_an_answer_that_is_none(body: bytes, stage: Stage, capsys: Captured) -> None:
    stage.answers["/v2/models/m/infer"] = (200, {}, body)
    assert main(["infer", "m", "-i", "ids=1"]) == 1
    assert capsys.readouterr().err.startswith("error: the server's answer is no inference response")


@pytest.mark.parametrize("body", [b"", b"{}", b'{"name": "m"}', b"[]"])
def test_metadata_that_is_none(body: bytes, stage: Stage, capsys: Captured) -> None:
    stage.answers["/v2/models/m"] = (200, {}, body)
    assert main(["infer", "m", "-i", "ids=1"]) == 1
    assert capsys.readouterr().err.startswith("error: the server's metadata")


@pytest.mark.parametrize(
    ("status", "body", "error"),
    [
        (503, b'{"error": "not ready"}', "error: not ready (HTTP 503)"),
        (500, b"oops", "error: oops (HTTP 500)"),
        (500, b"", "error: Internal Server Error (HTTP 500)"),
        (200, b"<html>", "answered something that is not JSON"),
        (200, b"{}", "error: the server's index is no list"),
    ],
)
def test_what_the_server_refuses_is_repeated(
    status: int, body: bytes, error: str, stage: Stage, capsys: Captured
) -> None:
    stage.answers["/v2/repository/index"] = (status, {}, body)
    assert main(["models", "list"]) == 1
    assert error in capsys.readouterr().err.splitlines()[0]


def test_a_server_that_is_not_there(capsys: Captured) -> None:
    with create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    assert main(["models", "list", "--url", url]) == 1
    assert capsys.readouterr().err.splitlines() == [
        f"error: no server at {url} (connection refused)",
        "hint: start one with `sluice serve`, or give its address with --url",
    ]


def test_a_server_that_never_answers(capsys: Captured) -> None:
    with create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        assert main(["models", "list", "--url", url, "--timeout", "0.05"]) == 1
    assert "did not answer within 0.05 s" in capsys.readouterr().err


def test_a_server_that_speaks_something_else(capsys: Captured) -> None:
    def answer(listener: Any) -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(65536)
            connection.sendall(b"\x00\x00\x12\x04 nonsense\n")

    with create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=answer, args=(listener,))
        thread.start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        assert main(["models", "list", "--url", url]) == 1
        thread.join()
    assert "does not speak HTTP" in capsys.readouterr().err


@pytest.mark.parametrize("url", ["ftp://x", "http://", "http://x:port", "http://x:99999"])
def test_an_address_that_is_none(url: str, capsys: Captured) -> None:
    assert main(["models", "list", "--url", url]) == 1
    assert capsys.readouterr().err.startswith(f"error: --url: '{url}'")


@pytest.mark.parametrize(
    ("value", "bits"), [(1.0, 0x3F80), (-2.0, 0xC000), (0.0, 0), (1.00390625, 0x3F80), (1.01171875, 0x3F82)]
)
def test_bf16_rounds_to_the_nearest_even(value: float, bits: int) -> None:
    encoded = encode("x", json.dumps([value]), {"datatype": "BF16", "shape": [-1]})
    assert encoded.binary == struct.pack("<H", bits)


def test_half_precision_overflows_to_infinity_and_back() -> None:
    encoded = encode("x", "[1e6]", {"datatype": "FP16", "shape": [-1]})
    output = {"name": "y", "datatype": "FP16", "shape": [1], "parameters": {"binary_data_size": 2}}
    assert decode([output], encoded.binary)[0]["data"] == [float("inf")]


def test_long_outputs_are_shortened(stage: Stage, capsys: Captured) -> None:
    answer = {"outputs": [{"name": "out", "datatype": "FP32", "shape": [1, 384], "data": [0.125] * 384}]}
    stage.answer("/v2/models/m/infer", answer)
    assert main(["infer", "m", "-i", "ids=1"]) == 0
    assert capsys.readouterr().out == "out  FP32  [1, 384]\n[[0.125, 0.125, 0.125, ..., 0.125, 0.125, 0.125]]\n"


HEALTH = {
    "ready": True,
    "reasons": [],
    "version": "1.2.3",
    "pid": 4711,
    "uptime": 93784.5,
    "parts": [
        {"kind": "worker", "name": "cpu:0", "condition": "ok", "reason": ""},
        {"kind": "disk", "name": "repository", "condition": "degraded", "reason": "/models: 3.0 MiB free"},
    ],
}


def test_status_of_a_server_that_is_ready(stage: Stage, capsys: Captured) -> None:
    stage.answer("/v2/health/ready?verbose", HEALTH)
    assert main(["status"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == [f"{stage.url} is live and ready", "version 1.2.3, process 4711, up 1 d 2 h"]
    rows = [line.split() for line in lines]
    assert ["worker", "cpu:0", "ok"] in rows
    assert ["disk", "repository", "degraded", "/models:", "3.0", "MiB", "free"] in rows


def test_status_of_a_server_that_is_not_ready(stage: Stage, capsys: Captured) -> None:
    told = {**HEALTH, "ready": False, "reasons": ["memory server: 97 %", "model m/1: nobody holds it"]}
    stage.answer("/v2/health/ready?verbose", told, status=503)
    assert main(["status"]) == 1
    assert capsys.readouterr().out.splitlines()[:3] == [
        f"{stage.url} is live and not ready",
        "  memory server: 97 %",
        "  model m/1: nobody holds it",
    ]
    assert main(["status", "--json"]) == 1
    assert json.loads(capsys.readouterr().out) == {"live": True, **told}


@pytest.mark.parametrize("uptime", [0.4, 59, 3600.0, 86399, None])
def test_status_says_how_long_it_has_been_up(uptime: float | None, stage: Stage, capsys: Captured) -> None:
    stage.answer("/v2/health/ready?verbose", {**HEALTH, "uptime": uptime})
    assert main(["status"]) == 0
    words = {0.4: "0 s", 59: "59 s", 3600.0: "1 h 0 s", 86399: "23 h 59 min", None: "?"}
    assert capsys.readouterr().out.splitlines()[1].endswith(f"up {words[uptime]}")


@pytest.mark.parametrize(
    ("status", "body", "error"),
    [
        (404, b'{"error": "nothing here"}', "nothing here (HTTP 404)"),
        (200, b'{"ready": true}', "does not tell how it is"),
        (503, b"<html>bad gateway</html>", "answered something that is not JSON"),
    ],
)
def test_status_of_what_is_no_server_of_ours(
    status: int, body: bytes, error: str, stage: Stage, capsys: Captured
) -> None:
    stage.answers["/v2/health/ready?verbose"] = (status, {}, body)
    assert main(["status"]) == 2
    assert error in capsys.readouterr().err.splitlines()[0]


def test_status_of_a_server_that_is_not_there(capsys: Captured) -> None:
    with create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    assert main(["status", "--url", url]) == 2
    assert capsys.readouterr().err.startswith(f"error: no server at {url}")
