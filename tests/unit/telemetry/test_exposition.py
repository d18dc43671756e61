"""The metrics port over real sockets."""

import asyncio
import gzip
from collections.abc import AsyncIterator, Iterable

import pytest
import uvloop
from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse
from prometheus_client.registry import Collector

from sluice.errors import ConfigError
from sluice.telemetry import exposition
from sluice.telemetry.exposition import MetricsServer
from sluice.telemetry.metrics import Metrics


@pytest.fixture
async def port() -> AsyncIterator[int]:
    server = MetricsServer(Metrics().registry, "127.0.0.1", 0)
    yield await server.start()
    await server.close()


async def exchange(port: int, sent: bytes) -> tuple[int, dict[str, str], bytes]:
    """Everything the server answers until it closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(sent)
    received = await reader.read()
    writer.close()
    await writer.wait_closed()
    head, _, body = received.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in lines)
    return int(first.split(" ")[1]), headers, body


async def get(port: int, path: str = "/metrics", **headers: str) -> tuple[int, dict[str, str], bytes]:
    lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
    return await exchange(port, f"GET {path} HTTP/1.1\r\nHost: x\r\n{lines}\r\n".encode())


async def test_text_format(port: int) -> None:
    status, headers, body = await get(port)

    assert status == 200
    assert headers["content-type"].startswith("text/plain; version=0.0.4")
    assert int(headers["content-length"]) == len(body)
    assert "sluice_build_info" in {family.name for family in parse(body.decode())}


async def test_openmetrics_by_accept(port: int) -> None:
    accept = "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3"
    status, headers, body = await get(port, accept=accept)

    assert status == 200
    assert headers["content-type"].startswith("application/openmetrics-text")
    families = parse_openmetrics(body.decode())  # type: ignore[no-untyped-call]
    assert "sluice_build_info" in {family.name for family in families}


async def test_gzip_when_accepted(port: int) -> None:
    _, headers, body = await get(port, accept_encoding="gzip, deflate")

    assert headers["content-encoding"] == "gzip"
    assert b"sluice_build_info" in gzip.decompress(body)


async def test_query_is_ignored_and_root_points_to_metrics(port: int) -> None:
    assert (await get(port, "/metrics?debug=1"))[0] == 200
    status, _, body = await get(port, "/")
    assert (status, b"/metrics" in body) == (200, True)


async def test_head_has_no_body(port: int) -> None:
    status, headers, body = await exchange(port, b"HEAD /metrics HTTP/1.1\r\n\r\n")

    assert (status, body) == (200, b"")
    assert int(headers["content-length"]) > 0


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"GET /nothing HTTP/1.1\r\n\r\n", 404),
        (b"POST /metrics HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}", 405),
        (b"nonsense\r\n\r\n", 400),
        (b"GET /metrics SPDY/1\r\n\r\n", 400),
        (b"\xff\xfe\x00 \x00 \x00\r\n\r\n", 400),
        (b"GET /metrics HTTP/1.1\r\nAccept: application/openmetrics-text; version=x.y\r\n\r\n", 200),
        (b"GET /metrics HTTP/1.1\r\nAccept: application/openmetrics-text; version=1.0.0.x\r\n\r\n", 200),
        (b"GET /metrics HTTP/1.1\r\nno colon\r\n\r\n", 200),
    ],
)
async def test_odd_requests(port: int, sent: bytes, status: int) -> None:
    assert (await exchange(port, sent))[0] == status
    assert (await get(port))[0] == 200


async def test_huge_headers_are_refused(port: int) -> None:
    status, _, _ = await get(port, filler="x" * exposition.HEADER_LIMIT)

    assert status == 431


async def test_a_slow_client_is_closed(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exposition, "READ_TIMEOUT", 0.05)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /metr")

    with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
        await reader.readexactly(1)
    writer.close()


async def test_a_flood_of_idle_connections_is_bounded(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exposition, "MOST_CONNECTIONS", 2)
    idle = [await asyncio.open_connection("127.0.0.1", port) for _ in range(3)]

    with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
        await idle[2][0].readexactly(1)
    for _, writer in idle:
        writer.close()


class Broken(Collector):
    def collect(self) -> Iterable[Metric]:
        raise RuntimeError("no")


async def test_a_broken_collector_is_an_error_reply() -> None:
    registry = CollectorRegistry()
    registry.register(Broken())
    server = MetricsServer(registry, "127.0.0.1", 0)
    port = await server.start()

    assert (await get(port))[0] == 500
    await server.close()


async def test_a_taken_port_names_the_setting(port: int) -> None:
    with pytest.raises(ConfigError) as error:
        await MetricsServer(CollectorRegistry(), "127.0.0.1", port).start()
    place = f"127.0.0.1:{port}"
    assert error.value.message == f"server.metrics_port: cannot listen on {place}: Address already in use"


async def test_close_ends_open_connections_and_may_be_repeated() -> None:
    server = MetricsServer(CollectorRegistry(), "127.0.0.1", 0)
    await server.close()
    port = await server.start()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    assert (await get(port, "/"))[0] == 200  # by now the first connection was accepted

    await server.close()
    await server.close()

    with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
        await reader.readexactly(1)
    writer.close()
    with pytest.raises(OSError):
        await asyncio.open_connection("127.0.0.1", port)


def test_it_works_on_the_servers_own_event_loop() -> None:
    async def scrape() -> None:
        server = MetricsServer(Metrics().registry, "127.0.0.1", 0)
        port = await server.start()
        assert (await get(port))[0] == 200
        await server.close()

    uvloop.run(scrape())
