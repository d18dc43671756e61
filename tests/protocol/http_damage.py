"""Valid HTTP requests and what can be done to them: their JSON, their bytes, headers, paths, methods and framing."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from fuzzed import ASKS, HALVES, NEEDED
from mutations import INTEGERS, TEXTS, Mutator

LENGTH = "Inference-Header-Content-Length"
METHODS = ("GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS", "TRACE", "BREW", "get", "", "CONNECT", "PRI")
SEGMENTS = (
    *TEXTS,
    "%2e%2e",
    "%2F",
    "%00",
    "%ff",
    "%",
    "%zz",
    "..",
    "",
    "versions",
    "infer",
    "ready",
    "config",
    "stats",
)
HEADERS: tuple[tuple[str, tuple[Any, ...]], ...] = (
    (LENGTH, (*INTEGERS, "", "x", "1e3", "0x10", "+5", " 5", "5, 5", "9" * 400)),
    ("Content-Encoding", ("gzip", "deflate", "br", "gzip, gzip", "identity", "x-gzip", ",,,", "GZIP", "zstd", "\xff")),
    ("Accept-Encoding", ("gzip", "deflate;q=x", "*;q=0", "gzip;q=-1", ";;;", "br", "q=", "identity;q=0", "\xff")),
    ("X-Request-Timeout-Ms", (*INTEGERS, "", "nan", "inf", "-inf", "1e400", "x", "1_000")),
    ("X-Envoy-Expected-Rq-Timeout-Ms", (0, -1, 100_000, "x")),
    ("X-Request-Id", ("", "x" * 300, "\t", "ü", '"', "id")),
    ("Connection", ("close", "keep-alive", "upgrade", "close, upgrade", "Content-Length")),
    ("Upgrade", ("websocket", "h2c", "")),
    ("Expect", ("100-continue", "200-ok")),
    ("Content-Type", ("text/plain", "application/octet-stream", "")),
    ("Host", ("", "x:y:z", "[::1")),
    ("Range", ("bytes=0-1",)),
)
# These decide where the request ends: what is true of them afterwards is for the server to find out.
FRAMING: tuple[tuple[str, tuple[Any, ...]], ...] = (
    ("Content-Length", (*INTEGERS, "", "x", "1e3", "5, 5", "9" * 400)),
    ("Transfer-Encoding", ("chunked", "gzip", "gzip, chunked", "chunked, chunked", "identity", "x")),
)


@dataclass(frozen=True)
class Request:
    """A request before it becomes bytes; `framed` = a client knows where the answer to it ends the exchange."""

    method: str
    path: str
    headers: tuple[tuple[str, Any], ...] = ()
    json: Any = None
    body: bytes = b""
    framed: bool = True
    raw: bytes = field(default=b"", compare=False)  # sent instead of all the rest

    def text(self) -> bytes:
        return b"" if self.json is None else json.dumps(self.json).encode()

    def bytes(self) -> bytes:
        if self.raw:
            return self.raw
        head = [f"{self.method} {self.path} HTTP/1.1", *(f"{name}: {value}" for name, value in self.headers)]
        if self.framed:
            head.append(f"Content-Length: {len(self.body)}")
        return "\r\n".join([*head, "", ""]).encode("utf-8", errors="surrogatepass") + self.body


def filled(request: Request) -> Request:
    """With its JSON as the body."""
    return replace(request, body=request.text()) if request.json is not None else request


def valid_requests(key: str) -> list[Request]:
    """Every route with something valid to say; what could take models away names the one nobody needs."""
    posts: list[tuple[str, Any]] = [
        ("/v2/repository/index", {"ready": True}),
        ("/v2/repository/models/spare/load", {"parameters": {"config": '{"max_batch_size": 8}'}}),
        ("/v2/repository/models/spare/load", {"parameters": {"config": "{}", "file:1/model.onnx": "AAAA"}}),
        ("/v2/repository/models/spare/unload", {"parameters": {"unload_dependents": True}}),
        ("/v2/systemsharedmemory/region/more/register", {"key": key, "offset": 8, "byte_size": 64}),
        ("/v2/systemsharedmemory/region/more/unregister", {}),
        ("/v2/cudasharedmemory/region/r/register", {"raw_handle": {"b64": "AA"}, "device_id": 0, "byte_size": 8}),
        ("/v2/logging", {"log_verbose_level": 0, "log_info": True}),
        ("/v2/models/spare/trace/setting", {"trace_level": ["OFF"], "trace_rate": "1000"}),
    ]
    paths = (
        "", "/v2", "/v2/health/live", "/v2/health/ready", "/v2/models/tagger", "/v2/models/tagger/versions/1/ready",
        "/v2/models/tagger/config", "/v2/models/stats", "/v2/logging", "/v2/trace/setting", "/v2/models/tagger/stats",
        "/v2/systemsharedmemory/status", "/v2/cudasharedmemory/status",
    )  # fmt: skip
    infer = [Request("POST", ask.path(), (), ask.json()) for ask in ASKS]
    return [
        *(infer + list(_binary_requests())) * 4,
        *(Request("POST", path, (), body) for path, body in posts),
        *(Request("GET", path or "/") for path in paths),
    ]


def _binary_requests() -> Iterator[Request]:
    """Inferences whose tensors follow the JSON, plain and compressed, and one without JSON."""
    halves = [bytes(4), b"\x00\x3c\x80\x3f"]
    names = [(f"INPUT{index}", datatype, (1, 2)) for index, datatype in enumerate(HALVES)]
    yield _binary("halves", names, halves, "")
    for encoding in ("", "gzip", "deflate"):
        for ask in (ASKS[0], ASKS[3], ASKS[4]):
            described = [(one.name, one.datatype, one.shape) for one in ask.inputs]
            yield _binary(ask.model, described, [one.raw() for one in ask.inputs], encoding)
    yield Request("POST", "/v2/models/texts/infer", ((LENGTH, 0),), None, b"hello")


def _binary(model: str, described: list[tuple[str, str, Any]], data: list[bytes], encoding: str) -> Request:
    inputs = [
        {"name": name, "datatype": datatype, "shape": shape, "parameters": {"binary_data_size": len(raw)}}
        for (name, datatype, shape), raw in zip(described, data, strict=True)
    ]
    text = json.dumps({"inputs": inputs, "parameters": {"binary_data_output": True}}).encode()
    headers: tuple[tuple[str, Any], ...] = ((LENGTH, len(text)),)
    body = b"".join([text, *data])
    if encoding:
        headers += (("Content-Encoding", encoding), ("Accept-Encoding", encoding))
        body = zlib.compress(body, wbits=31 if encoding == "gzip" else 15)
    return Request("POST", f"/v2/models/{model}/infer", headers, None, body)


def damage(valid: list[Request], count: int, seed: int, again: Request) -> Iterator[Request]:
    """Random damage to random requests; now and then `again` as it is."""
    mutator = Mutator(seed)
    while count:
        damaged = _damaged(mutator, mutator.random.choice(valid))
        if not any(f"/{name}/{verb}load" in damaged.path for name in NEEDED for verb in ("", "un")):
            count -= 1
            yield damaged
        if count % 100 == 0:
            yield filled(again)


def _damaged(mutator: Mutator, request: Request) -> Request:
    kind = mutator.random.choices(
        ("json", "body", "header", "path", "method", "framing", "raw"), (40, 15, 15, 12, 5, 3, 3)
    )
    request = filled(request)
    match kind[0]:
        case "json" if request.json is not None:
            return replace(request, body=mutator.changed_json(request.json))
        case "json" | "body":
            return replace(request, body=mutator.wounded(request.body))
        case "header":
            name, values = mutator.random.choice(HEADERS)
            kept = tuple(header for header in request.headers if header[0] != name or mutator.often(0.2))
            return replace(request, headers=(*kept, (name, mutator.random.choice(values))))
        case "path":
            return replace(request, path=_path(mutator, request.path))
        case "method":
            return replace(request, method=mutator.random.choice(METHODS))
        case "framing":
            name, values = mutator.random.choice(FRAMING)
            own = (("Content-Length", len(request.body)),) if mutator.often(0.5) else ()
            headers = (*request.headers, *own, (name, mutator.random.choice(values)))
            return replace(request, headers=headers, framed=False)
    return replace(request, raw=mutator.wounded(request.bytes()) or b"\0", framed=False)


def _path(mutator: Mutator, path: str) -> str:
    segments = path.split("/")
    at = mutator.random.randrange(len(segments) + 1)
    match mutator.random.randrange(4):
        case 0:
            segments.insert(at, mutator.random.choice(SEGMENTS))
        case 1:
            del segments[at : at + 1]
        case 2 if at < len(segments):
            segments[at] = mutator.random.choice(SEGMENTS)
        case _:
            return path + mutator.random.choice(("?", "?a=b", "?" + "q" * 3000, "#x", "//", "/..", ";x"))
    return "/".join(segments)
