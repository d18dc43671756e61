"""The whole HTTP map: every route's answer, every error's status, headers in and out."""

from __future__ import annotations

import base64
import gzip
import json
import os
import threading
import time
import uuid
import zlib
from pathlib import Path
from typing import Any

import pytest
from http_fakes import CHANGE, VECTOR, Running, infer_body, running, wire

from sluice import __version__, errors
from sluice.frontends import status
from sluice.frontends.http import body, encoding
from sluice.frontends.http.encoding import WORTH_COMPRESSING
from sluice.frontends.metadata import EXTENSIONS
from sluice.request import Tensor
from sluice.spec import TensorSpec

INFER = "/v2/models/echo/infer"


async def get(server: Running, path: str) -> tuple[int, Any]:
    async with wire(server.port) as client:
        answer = await client.request("GET", path)
        assert answer.headers["content-type"] == "application/json"
        return answer.status, answer.json()


async def post(server: Running, path: str, body: Any = b"") -> tuple[int, Any]:
    async with wire(server.port) as client:
        answer = await client.request("POST", path, body if isinstance(body, bytes) else json.dumps(body).encode())
        assert answer.headers["content-type"] == "application/json"
        return answer.status, answer.json()


# Health and metadata


async def test_health() -> None:
    async with running() as server:
        assert await get(server, "/v2/health/live") == (200, {"live": True})
        assert await get(server, "/v2/health/ready") == (200, {"ready": True})
        assert await get(server, "/v2/health/started") == (200, {"started": True})
        assert await get(server, "/v2/models/echo/ready") == (200, {"name": "echo", "ready": True})
        assert await get(server, "/v2/models/echo/versions/1/ready") == (200, {"name": "echo", "ready": True})
        server.health.is_ready = server.health.is_started = server.health.is_live = False
        assert await get(server, "/v2/health/live") == (503, {"live": False})
        assert await get(server, "/v2/health/ready") == (503, {"ready": False})
        assert await get(server, "/v2/health/started") == (503, {"started": False})
        assert await get(server, "/v2/models/echo/ready") == (503, {"name": "echo", "ready": False})
        assert (await get(server, "/v2/models/missing/ready"))[0] == 404


@pytest.mark.parametrize("query", ["verbose", "verbose=1", "verbose=true", "x=1&verbose"])
async def test_health_tells_of_every_part_when_asked(query: str) -> None:
    async with running() as server:
        status, told = await get(server, f"/v2/health/ready?{query}")
        assert (status, told["ready"], told["reasons"]) == (200, True, [])
        assert (told["version"], told["pid"], told["uptime"]) == (__version__, os.getpid(), 1.5)
        assert told["parts"] == [
            {"kind": "memory", "name": "server", "condition": "ok", "reason": ""},
            {"kind": "model", "name": "echo/1", "condition": "failed", "reason": "it is broken"},
        ]
        server.health.is_ready = False
        status, told = await get(server, f"/v2/health/ready?{query}")
        assert (status, told["ready"], told["reasons"]) == (503, False, ["model echo/1: it is broken"])


@pytest.mark.parametrize("query", ["", "verbose=0", "verbose=false", "verbosely", "x=verbose"])
async def test_health_is_short_otherwise(query: str) -> None:
    async with running() as server:
        assert await get(server, f"/v2/health/ready?{query}") == (200, {"ready": True})


async def test_a_body_is_not_read_while_memory_is_short() -> None:
    async with running() as server, wire(server.port) as client:
        server.engine.short_of_memory = "97 % of it is used"
        head = (
            "POST /v2/models/echo/infer HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 50000000\r\n\r\n"
        )
        await client.send(head.encode())
        answer = await client.answer()
        assert (answer.status, answer.json()) == (503, {"error": "97 % of it is used"})
        assert answer.headers["retry-after"] == "1"


@pytest.mark.parametrize("path", ["/", "/v2", "/v2/", "/v2?x=1"])
async def test_server_metadata(path: str) -> None:
    async with running() as server:
        code, body = await get(server, path)
        assert (code, body["name"], body["extensions"]) == (200, "sluice", list(EXTENSIONS))
        assert body["version"]


async def test_model_metadata() -> None:
    async with running() as server:
        code, body = await get(server, "/v2/models/org%2Fm%C3%B6del/versions/1")
        tensor = {"name": "x", "datatype": "FP32", "shape": [-1, -1]}
        assert (code, body["name"], body["versions"]) == (200, "org/mödel", ["1"])
        assert body["inputs"] == body["outputs"] == [tensor]
        assert await get(server, "/v2/models/echo/config") == (200, {"name": "echo", "max_batch_size": 8})
        missing = {"error": "Request for unknown model: 'missing' is not found"}
        assert await get(server, "/v2/models/missing") == (404, missing)
        assert await get(server, "/v2/models/missing/config") == (404, missing)


@pytest.mark.parametrize(
    "path", ["/v2/models/stats", "/v2/models/echo/stats", "/v2/models/echo/versions/1/stats", "/v2/models/stats/stats"]
)
async def test_statistics_are_numbers_throughout(path: str) -> None:
    async with running() as server:
        code, body = await get(server, path)
        (entry,) = body["model_stats"]
        assert code == 200
        assert entry["version"] == "1"
        assert entry["inference_stats"]["success"] == {"count": 1, "ns": 500_000_000}
        names = {"success", "fail", "queue", "compute_input", "compute_infer", "compute_output"}
        assert set(entry["inference_stats"]) == names | {"cache_hit", "cache_miss"}
        for duration in entry["inference_stats"].values():
            assert all(type(value) is int for value in duration.values())
        assert all(type(entry[name]) is int for name in ("last_inference", "inference_count", "execution_count"))
        assert (entry["batch_stats"], entry["memory_usage"], entry["response_stats"]) == ([], [], {})


# Inference


async def test_headers_of_an_inference() -> None:
    async with running() as server, wire(server.port) as client:
        before = time.monotonic()
        answer = await client.request(
            "POST", INFER, infer_body(), {"X-Request-Timeout-Ms": "1500", "X-Request-Id": "r1"}
        )
        after = time.monotonic()
        assert answer.headers["x-request-id"] == "r1"
        assert answer.headers["x-queue-time-ms"] == "1.500"
        assert answer.headers["x-compute-time-ms"] == "2.000"
        assert "id" not in answer.json()
        (seen,) = server.engine.seen
        assert seen.id == "r1"
        assert seen.deadline is not None
        assert before + 1.5 <= seen.deadline <= after + 1.5
        assert seen.deadline == pytest.approx(seen.timeline.received + 1.5)


async def test_the_body_has_the_last_word_on_the_id() -> None:
    async with running() as server, wire(server.port) as client:
        answer = await client.request("POST", INFER, infer_body(id="b"), {"X-Request-Id": "h"})
        assert (answer.json()["id"], answer.headers["x-request-id"]) == ("b", "b")
        for odd in ("line\r\nX-Injected: yes", "ö", "x" * 300):  # nothing for a header
            answer = await client.request("POST", INFER, infer_body(id=odd))
            assert (answer.json()["id"], answer.headers.get("x-request-id")) == (odd, None)
            assert "x-injected" not in answer.headers


async def test_errors_give_the_id_back() -> None:
    async with running() as server, wire(server.port) as client:
        sent = {"X-Request-Id": "r1"}
        for method, path, body, status in (
            ("POST", INFER, b"{", 400),
            ("GET", "/nowhere", b"", 404),
            ("DELETE", "/v2", b"", 405),
        ):
            answer = await client.request(method, path, body, sent)
            assert (answer.status, answer.headers.get("x-request-id")) == (status, "r1")
        for odd in ("x" * 300, "ö"):
            answer = await client.request("GET", "/nowhere", b"", {"X-Request-Id": odd})
            assert (answer.status, answer.headers.get("x-request-id")) == (404, None)


async def test_a_header_names_the_tenant() -> None:
    async with running() as server, wire(server.port) as client:
        for headers in ({"X-Tenant": "gold"}, {}):
            assert (await client.request("POST", INFER, infer_body(), headers)).status == 200
        assert [seen.tenant for seen in server.engine.seen] == ["gold", ""]
        answer = await client.request("POST", INFER, infer_body(), {"X-Tenant": "g" * 129})
        assert (answer.status, answer.json()) == (400, {"error": "x-tenant: longer than 128 characters"})


async def test_the_earliest_deadline_counts() -> None:
    async with running() as server, wire(server.port) as client:
        headers = {"X-Request-Timeout-Ms": "1e3", "x-envoy-expected-rq-timeout-ms": "250"}
        assert (await client.request("POST", INFER, infer_body(), headers)).status == 200
        (seen,) = server.engine.seen
        assert seen.deadline == pytest.approx(seen.timeline.received + 0.25)


@pytest.mark.parametrize("value", ["soon", "-1", "nan", "inf", "", "1e99"])
async def test_deadlines_that_are_none(value: str) -> None:
    async with running() as server, wire(server.port) as client:
        answer = await client.request("POST", INFER, infer_body(), {"X-Request-Timeout-Ms": value})
        assert (answer.status, answer.json()) == (
            400,
            {"error": "x-request-timeout-ms: expected a number of milliseconds"},
        )


@pytest.mark.parametrize("value", ["-1", "x", "1.5", "", "9" * 30])
async def test_json_lengths_that_are_none(value: str) -> None:
    async with running() as server, wire(server.port) as client:
        answer = await client.request("POST", INFER, infer_body(), {"Inference-Header-Content-Length": value})
        assert answer.status == 400
        assert answer.json()["error"].startswith("Inference-Header-Content-Length: ")


async def test_a_json_length_may_span_the_whole_body() -> None:
    body = infer_body()
    async with running() as server, wire(server.port) as client:
        answer = await client.request("POST", INFER, body, {"Inference-Header-Content-Length": str(len(body))})
        assert (answer.status, answer.json()["outputs"][0]["data"]) == (200, [1, 2, 3])


async def test_a_raw_body() -> None:
    async with running() as server, wire(server.port) as client:
        data = VECTOR.tobytes()
        answer = await client.request("POST", INFER, data, {"Inference-Header-Content-Length": "0"})
        length = int(answer.headers["inference-header-content-length"])
        (output,) = json.loads(answer.body[:length])["outputs"]
        assert (output["shape"], output["parameters"]) == ([1, 384], {"binary_data_size": len(data)})
        assert answer.body[length:] == data
        server.catalog.inputs += (TensorSpec("y", "FP32", (1,)),)
        answer = await client.request("POST", INFER, data, {"Inference-Header-Content-Length": "0"})
        assert answer.status == 400


@pytest.mark.parametrize("name", ["gzip", "deflate"])
async def test_compression_both_ways(name: str) -> None:
    pack = gzip.compress if name == "gzip" else zlib.compress
    unpack = gzip.decompress if name == "gzip" else zlib.decompress
    size = 20_000
    text = json.dumps(
        {
            "inputs": [{"name": "x", "datatype": "UINT8", "shape": [size], "parameters": {"binary_data_size": size}}],
            "parameters": {"binary_data_output": True},
        }
    ).encode()
    headers = {
        "Content-Encoding": name,
        "Accept-Encoding": name,
        "Inference-Header-Content-Length": str(len(text)),
    }
    data = bytes(range(250)) * (size // 250)
    async with running() as server, wire(server.port) as client:
        answer = await client.request("POST", INFER, pack(text + data), headers)
        assert answer.headers["content-encoding"] == name
        assert len(answer.body) < size
        plain = unpack(answer.body)
        length = int(answer.headers["inference-header-content-length"])
        assert json.loads(plain[:length])["outputs"][0]["parameters"] == {"binary_data_size": size}
        assert plain[length:] == data


async def test_only_what_is_worth_it_and_wanted_is_compressed() -> None:
    async with running() as server, wire(server.port) as client:
        small = await client.request("POST", INFER, infer_body(), {"Accept-Encoding": "gzip"})
        assert len(small.body) < WORTH_COMPRESSING
        assert "content-encoding" not in small.headers
        server.engine.outputs = (Tensor("y", "FP32", (384,), VECTOR.tobytes()),)
        plain = await client.request("POST", INFER, infer_body())
        refused = await client.request("POST", INFER, infer_body(), {"Accept-Encoding": "gzip;q=0, br"})
        wanted = await client.request("POST", INFER, infer_body(), {"Accept-Encoding": "br, gzip"})
        assert plain.body == refused.body == gzip.decompress(wanted.body)
        assert (wanted.headers["content-encoding"], wanted.headers["vary"]) == ("gzip", "accept-encoding")


async def test_bombs() -> None:
    async with running(max_message_bytes=1 << 20) as server, wire(server.port) as client:
        for size in (4 << 20, 64 << 20):
            body = gzip.compress(bytes(size))
            answer = await client.request("POST", INFER, body, {"Content-Encoding": "gzip"})
            assert (answer.status, answer.json()["error"]) == (
                413,
                "the body is over the limit of 1048576 bytes when decompressed",
            )
        answer = await client.request("POST", INFER, b"{}", {"Content-Encoding": "br"})
        assert answer.status == 400


async def test_what_becomes_large_is_inflated_beside_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    inline: list[int] = []

    def inflate(data: bytes, encodings: str, limit: int) -> bytes:
        if threading.current_thread() is threading.main_thread():
            inline.append(limit)
        return encoding.inflate(data, encodings, limit)

    monkeypatch.setattr(body, "inflate", inflate)
    text = infer_body() + b" " * (4 << 20)
    async with running() as server, wire(server.port) as client:
        headers = {"Content-Encoding": "gzip, gzip"}
        packed = gzip.compress(gzip.compress(text))
        assert len(packed) < body.INFLATE_INLINE
        assert (await client.request("POST", INFER, packed, headers)).status == 200
    assert inline == [body.INFLATED_INLINE]


# Errors


@pytest.mark.parametrize("kind", list(status.TABLE), ids=lambda kind: kind.__name__)
async def test_every_error_has_its_status(kind: type[errors.SluiceError]) -> None:
    async with running() as server, wire(server.port) as client:
        server.engine.error = kind("what went wrong", retry_after=0.2)
        answer = await client.request("POST", INFER, infer_body())
        assert (answer.status, answer.json()) == (status.TABLE[kind].http, {"error": "what went wrong"})
        assert answer.headers["retry-after"] == "1"
        server.engine.error = kind("again")
        assert "retry-after" not in (await client.request("POST", INFER, infer_body())).headers


async def test_unknown_routes_and_wrong_methods() -> None:
    async with running() as server, wire(server.port) as client:
        answer = await client.request("GET", "/v2/nothing")
        assert (answer.status, answer.json()) == (404, {"error": "nothing is served at '/v2/nothing'"})
        answer = await client.request("GET", INFER)
        assert (answer.status, answer.headers["allow"]) == (405, "OPTIONS, POST")
        assert "only POST" in answer.json()["error"]
        answer = await client.request("DELETE", "/v2/logging")
        assert (answer.status, answer.headers["allow"]) == (405, "GET, HEAD, OPTIONS, POST")
        answer = await client.request("GET", "/v2/models/%ff")
        assert answer.status == 400
        answer = await client.request("HEAD", "/v2")
        assert (answer.status, answer.body) == (200, b"")
        assert int(answer.headers["content-length"]) > 0
        assert (await client.request("GET", "/v2/health/live")).status == 200


# Repository


@pytest.mark.parametrize("path", ["/v2/repository/index", "/v2/repository/main/index"])
async def test_index(path: str) -> None:
    echo = {"name": "echo", "version": "1", "state": "READY", "reason": ""}
    bad = {"name": "bad", "version": "1", "state": "UNAVAILABLE", "reason": "broken file"}
    async with running() as server:
        assert await post(server, path) == (200, [echo, bad])
        assert await post(server, path, {"ready": False}) == (200, [echo, bad])
        assert await post(server, path, {"ready": True}) == (200, [echo])
        assert await post(server, path, {"ready": 1}) == (400, {"error": "ready: expected bool, got int"})


async def test_aliases() -> None:
    async with running() as server:
        told = {"time": CHANGE.time, "by": "ann", "alias": "production", "before": "1", "after": "2"}
        assert await get(server, "/v2/models/a%2Fb/aliases") == (
            200,
            {
                "model": "a/b",
                "aliases": {"production": "2"},
                "default": "2",
                "history": [{**told, "reason": "it is better"}],
            },
        )
        path = "/v2/models/a%2Fb/aliases/production"
        sent = {"version": "2", "by": "ann", "reason": "why not"}
        assert await post(server, path, sent) == (200, {**told, "reason": "it is better"})
        async with wire(server.port) as client:
            answer = await client.request("POST", path, b'{"version": 2, "by": "ann"}', {"Sluice-By": "bob"})
            assert answer.status == 200
            for content, headers in (b'{"by": "ann", "reason": "done"}', {}), (b"", {"Sluice-By": "bob"}):
                assert (await client.request("DELETE", path, content, headers)).status == 200
            assert (await client.request("DELETE", path, b'{"version": "2"}')).status == 400
        assert server.catalog.calls == [
            ("promote", "a/b", "production", "2", "ann", "why not"),
            ("promote", "a/b", "production", "2", "bob", ""),
            ("remove_alias", "a/b", "production", "ann", "done"),
            ("remove_alias", "a/b", "production", "bob", ""),
        ]
        for body, named in ({}, "version"), ({"version": []}, "version"), ({"version": "2", "why": ""}, "why"):
            status, answered = await post(server, path, body)
            assert status == 400
            assert named in answered["error"]
        assert (await post(server, "/v2/models/missing/aliases/production", sent))[0] == 404
        assert (await get(server, "/v2/models/missing/aliases"))[0] == 404


async def test_load_and_unload() -> None:
    async with running() as server:
        path = "/v2/repository/models/a%2Fb"
        content = b"\x00model"
        parameters = {"config": "{}", "file:1/model.onnx": base64.b64encode(content).decode()}
        assert await post(server, f"{path}/load") == (200, {})
        assert await post(server, f"{path}/load", {"parameters": parameters}) == (200, {})
        assert await post(server, f"{path}/unload") == (200, {})
        assert await post(server, f"{path}/unload", {"parameters": {"unload_dependents": True}}) == (200, {})
        assert server.catalog.calls == [
            ("load", "a/b", None, {}),
            ("load", "a/b", "{}", {"1/model.onnx": content}),
            ("unload", "a/b", False),
            ("unload", "a/b", True),
        ]
        server.catalog.error = errors.ModelError("1/model.onnx: truncated")
        assert await post(server, f"{path}/load") == (400, {"error": "1/model.onnx: truncated"})
        assert (await post(server, "/v2/repository/models/missing/unload"))[0] == 404


@pytest.mark.parametrize(
    ("action", "body", "error"),
    [
        ("load", {"parameters": {"config": {}}}, "parameters[...]: expected bool | int | float | str, got object"),
        ("load", {"parameters": {"config": 1}}, "parameters.config: expected str"),
        ("load", {"parameters": {"file:x": "no base64!"}}, "parameters.file:x: not base64"),
        ("load", {"parameters": {"file:x": "ö"}}, "parameters.file:x: not base64"),
        ("load", {"parameters": {"speed": 1}}, "parameters.speed: unknown; config and file:<path> are possible"),
        ("load", [], "the body: expected object, got array"),
        ("unload", {"parameters": {"unload_dependents": "no"}}, "parameters.unload_dependents: expected bool, got str"),
    ],
)
async def test_what_is_wrong_with_a_load_is_named(action: str, body: Any, error: str) -> None:
    async with running() as server:
        assert await post(server, f"/v2/repository/models/m/{action}", body) == (400, {"error": error})
        assert server.catalog.calls == []


# Shared memory


async def test_system_shared_memory() -> None:
    key = f"endpoint-test-{uuid.uuid4().hex}"
    path = Path("/dev/shm") / key
    path.write_bytes(bytes(64))
    try:
        async with running() as server:
            url = "/v2/systemsharedmemory"
            assert await post(server, f"{url}/unregister") == (200, {})
            assert await post(server, f"{url}/region/r/register", {"key": f"/{key}", "byte_size": 64}) == (200, {})
            region = {"name": "r", "key": f"/{key}", "offset": 0, "byte_size": 64}
            assert await get(server, f"{url}/status") == (200, [region])
            assert await get(server, f"{url}/region/r/status") == (200, [region])
            assert (await get(server, f"{url}/region/other/status"))[0] == 404
            assert (await post(server, f"{url}/region/r/register", {"key": key, "byte_size": 64}))[0] == 400
            assert await post(server, f"{url}/region/s/register", {"key": key}) == (
                400,
                {"error": "the body: object missing required field byte_size"},
            )
            assert await post(server, f"{url}/region/s/register", {"key": key, "byte_size": -1}) == (
                400,
                {"error": "byte_size: expected int >= 0"},
            )
            assert await post(server, f"{url}/region/r/unregister") == (200, {})
            assert await get(server, f"{url}/status") == (200, [])
    finally:
        path.unlink()


async def test_cuda_shared_memory_is_refused_clearly() -> None:
    async with running() as server:
        url = "/v2/cudasharedmemory"
        body = {"raw_handle": {"b64": "AAAA"}, "device_id": 0, "byte_size": 8}
        assert await get(server, f"{url}/status") == (200, [])
        assert await get(server, f"{url}/region/r/status") == (200, [])
        code, answer = await post(server, f"{url}/region/r/register", body)
        assert (code, answer) == (501, {"error": "CUDA shared memory is not supported; use system shared memory"})
        assert await post(server, f"{url}/region/r/unregister") == (200, {})
        assert await post(server, f"{url}/unregister") == (200, {})


# Trace and log settings


async def test_trace_settings() -> None:
    async with running() as server:
        code, before = await get(server, "/v2/trace/setting")
        assert (code, before["trace_level"], before["trace_rate"]) == (200, ["OFF"], "1000")
        changes = {"trace_level": ["TIMESTAMPS"], "trace_rate": "10", "log_frequency": 0}
        code, after = await post(server, "/v2/models/echo/trace/setting", changes)
        assert (code, after["trace_level"], after["trace_rate"]) == (200, ["TIMESTAMPS"], "10")
        assert await get(server, "/v2/models/echo/trace/setting") == (200, after)
        assert await get(server, "/v2/trace/setting") == (200, before)
        assert (await post(server, "/v2/models/echo/trace/setting", {"trace_rate": None}))[1]["trace_rate"] == "1000"
        assert (await post(server, "/v2/trace/setting", {"trace_rate": "often"}))[0] == 400
        assert (await post(server, "/v2/trace/setting", {"trace_rate": {}}))[0] == 400
        assert (await get(server, "/v2/models/missing/trace/setting"))[0] == 404


async def test_log_settings() -> None:
    async with running() as server:
        code, before = await get(server, "/v2/logging")
        assert (code, before["log_error"]) == (200, True)
        assert (await post(server, "/v2/logging", {"log_nothing": True}))[0] == 400
        assert await post(server, "/v2/logging", {"log_error": None}) == (
            400,
            {"error": "[...]: expected bool | int | str, got null"},
        )
        assert await post(server, "/v2/logging", {}) == (200, before)
