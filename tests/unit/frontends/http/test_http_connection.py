"""Connections over real sockets: what a client may not do, what it never loses, and how connections end."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import logging
import socket

import pytest
from http_fakes import Running, Wire, infer_body, running, wire

from sluice.config.settings import Server
from sluice.errors import ConfigError
from sluice.frontends.http.protocol import MOST_BUFFERED, MOST_PIPELINED, SMALL_REMAINDER
from sluice.frontends.http.server import HttpServer

PATH = "/v2/models/echo/infer"
LIVE = b"GET /v2/health/live HTTP/1.1\r\nHost: t\r\n\r\n"


def post(body: bytes, *headers: str) -> bytes:
    lines = [f"POST {PATH} HTTP/1.1", "Host: t", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + body


async def refused(client: Wire, status: int, text: str) -> None:
    """The error comes as JSON, and the connection ends in good order."""
    answer = await client.answer()
    assert answer.status == status
    assert text in answer.json()["error"]
    assert answer.headers["connection"] == "close"
    assert await client.ended()


async def still_serving(server: Running) -> None:
    async with wire(server.port) as client:
        assert (await client.request("GET", "/v2/health/live")).status == 200


# Listening


async def test_a_taken_port_is_named() -> None:
    async with running() as server:
        taken = Server(http_port=server.port)
        with pytest.raises(ConfigError) as error:
            await HttpServer(server.services, taken).start()
        place = f"127.0.0.1:{server.port}"
        assert error.value.message == f"server.http_port: cannot listen on {place}: Address already in use"


async def test_a_host_that_is_none_is_named() -> None:
    async with running() as server:
        with pytest.raises(ConfigError, match=r"cannot listen on 192\.0\.2\.1:0"):
            await HttpServer(server.services, Server(host="192.0.2.1", http_port=0)).start()


async def test_closing_twice_and_unstarted_is_fine() -> None:
    async with running() as server:
        unstarted = HttpServer(server.services, server.services.limits)
        unstarted.stop_accepting()
        await unstarted.close(0)
        await server.server.close(1)
        await server.server.close(1)


# Ordinary exchanges


async def test_an_ordinary_client_keeps_its_connection() -> None:
    async with running() as server:

        def ask() -> list[int]:
            connection = http.client.HTTPConnection("127.0.0.1", server.port)
            statuses = []
            for _ in range(3):
                connection.request("POST", PATH, infer_body())
                answer = connection.getresponse()
                assert json.loads(answer.read())["outputs"][0]["data"] == [1, 2, 3]
                assert answer.headers["Date"]
                statuses.append(answer.status)
                assert connection.sock is not None
            connection.close()
            return statuses

        assert await asyncio.to_thread(ask) == [200, 200, 200]


async def test_a_request_may_come_byte_by_byte() -> None:
    async with running() as server, wire(server.port) as client:
        for byte in post(infer_body(id="slow")):
            client.writer.write(bytes([byte]))
            await asyncio.sleep(0)
        assert (await client.answer()).json()["id"] == "slow"


async def test_chunked_bodies_and_their_trailers() -> None:
    body = infer_body(id="chunked")
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(body[at : at + 7]), body[at : at + 7]) for at in range(0, len(body), 7))
    head = f"POST {PATH} HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
    async with running() as server, wire(server.port) as client:
        await client.send(head + chunks + b"0\r\nX-Request-Id: trailer\r\n\r\n" + LIVE)
        answer = await client.answer()
        assert answer.json()["id"] == "chunked"
        assert (await client.answer()).status == 200


async def test_large_bodies_are_received_whole() -> None:
    size = 3 << 20
    text = json.dumps(
        {
            "inputs": [
                {"name": "x", "datatype": "UINT8", "shape": [size], "parameters": {"binary_data_size": size}},
            ],
            "parameters": {"binary_data_output": True},
        }
    ).encode()
    data = bytes(range(256)) * (size // 256)
    async with running() as server, wire(server.port) as client:
        headers = {"Inference-Header-Content-Length": str(len(text))}
        answer = await client.request("POST", PATH, text + data, headers)
        assert answer.body[int(answer.headers["inference-header-content-length"]) :] == data


async def test_expect_continue() -> None:
    body = infer_body()
    async with running() as server, wire(server.port) as client:
        head, _, _ = post(body, "Expect: 100-continue").partition(b"\r\n\r\n")
        await client.send(head + b"\r\n\r\n")
        assert await client.reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        await client.send(body)
        assert (await client.answer()).status == 200


async def test_http_1_0_clients() -> None:
    async with running() as server:
        async with wire(server.port) as client:
            await client.send(b"GET /v2/health/live HTTP/1.0\r\n\r\n")
            assert (await client.answer()).headers["connection"] == "close"
            assert await client.ended()
        async with wire(server.port) as client:
            for _ in range(2):
                await client.send(b"GET /v2/health/live HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
                assert (await client.answer()).headers["connection"] == "keep-alive"


async def test_a_client_may_ask_to_close() -> None:
    async with running() as server, wire(server.port) as client:
        answer = await client.request("GET", "/v2/health/live", headers={"Connection": "close"})
        assert answer.headers["connection"] == "close"
        assert await client.ended()


@pytest.mark.parametrize("framing", ["length", "chunked"])
async def test_an_offer_of_http2_is_ignored_without_losing_the_body(framing: str) -> None:
    body = infer_body(id="h2c")
    upgrade = "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n"
    if framing == "length":
        head, sent = f"Content-Length: {len(body)}\r\n", body
    else:
        head, sent = "Transfer-Encoding: chunked\r\n", b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
    request = f"POST {PATH} HTTP/1.1\r\nHost: t\r\n{upgrade}{head}\r\n".encode() + sent
    async with running() as server, wire(server.port) as client:
        for cut in (len(request), len(request) - 20, request.index(b"\r\n\r\n") + 4, 30):
            await client.send(request[:cut])
            await client.send(request[cut:])
            assert (await client.answer()).json()["id"] == "h2c"
        await client.send(f"GET /v2/health/live HTTP/1.1\r\nHost: t\r\n{upgrade}\r\n".encode() + LIVE)
        assert [(await client.answer()).status for _ in range(2)] == [200, 200]


# Pipelining


async def test_pipelined_requests_are_answered_in_order() -> None:
    async with running() as server, wire(server.port) as client:
        await client.send(b"".join(post(infer_body(id=str(index))) for index in range(100)))
        assert [(await client.answer()).json()["id"] for _ in range(100)] == [str(index) for index in range(100)]


async def test_too_many_pipelined_requests_close_after_the_last_one_taken() -> None:
    async with running() as server, wire(server.port) as client:
        server.engine.held = asyncio.Event()
        await client.send(post(infer_body()))
        await server.engine.arrived.wait()
        server.engine.held.set()
        await client.send(LIVE * (MOST_PIPELINED + 50))
        answers = [await client.answer()]
        while answers[-1].headers.get("connection") != "close" and len(answers) < MOST_PIPELINED + 51:
            answers.append(await client.answer())
        assert all(answer.status == 200 for answer in answers)
        await still_serving(server)


async def test_an_error_does_not_disturb_the_requests_around_it() -> None:
    async with running() as server, wire(server.port) as client:
        await client.send(post(infer_body()) + post(b"{") + post(infer_body()))
        assert [(await client.answer()).status for _ in range(3)] == [200, 400, 200]


async def test_what_was_understood_is_answered_before_a_malformed_request_closes() -> None:
    async with running() as server, wire(server.port) as client:
        server.engine.held = asyncio.Event()
        await client.send(post(infer_body(id="good")) + b"NONSENSE\r\n\r\n")
        await server.engine.arrived.wait()
        server.engine.held.set()
        answer = await client.answer()
        assert answer.json()["id"] == "good"
        assert answer.headers["connection"] == "close"
        assert await client.ended()


# Malformed and oversized


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"NONSENSE / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /\xff HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nno colon\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: 99999999999999999999999\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"CONNECT nowhere:80 HTTP/1.1\r\n\r\n",
    ],
)
async def test_malformed_requests(request_bytes: bytes) -> None:
    async with running() as server:
        async with wire(server.port) as client:
            await client.send(request_bytes)
            await refused(client, 400, "malformed HTTP request")
        await still_serving(server)


async def test_a_malformed_chunk_fails_its_own_request() -> None:
    async with running() as server, wire(server.port) as client:
        await client.send(f"POST {PATH} HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n".encode())
        await client.send(b"zzz\r\n")
        await refused(client, 400, "malformed HTTP request")
        assert server.engine.seen == []


@pytest.mark.parametrize("pieces", [1, 2, 50])
async def test_oversized_headers(pieces: int) -> None:
    head = b"GET /v2/health/live HTTP/1.1\r\nX-Long: " + b"x" * 20_000 + b"\r\n\r\n"
    async with running(max_header_bytes=8192) as server:
        async with wire(server.port) as client:
            step = len(head) // pieces + 1
            with contextlib.suppress(ConnectionError):
                for at in range(0, len(head), step):
                    await client.send(head[at : at + step])
            await refused(client, 431, "over the limit of 8192 bytes")
        async with wire(server.port) as client:
            await client.send(b"GET /" + b"a" * 8192 + b" HTTP/1.1\r\n\r\n")
            await refused(client, 431, "over the limit of 8192 bytes")
        await still_serving(server)


async def test_headers_without_end_are_cut_off() -> None:
    async with running(max_header_bytes=8192) as server, wire(server.port) as client:
        await client.send(b"GET / HTTP/1.1\r\nX-Endless: ")
        for _ in range(10):
            await client.send(b"x" * 1000)
        await refused(client, 431, "over the limit")


async def test_trailers_without_end_are_cut_off() -> None:
    async with running(max_header_bytes=2048) as server, wire(server.port) as client:
        await client.send(
            f"POST {PATH} HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n{{\r\n0\r\nX-Endless: ".encode()
        )
        with contextlib.suppress(ConnectionError):
            for _ in range(20):
                await client.send(b"x" * 1000)
                await asyncio.sleep(0)
        await refused(client, 400, "mostly framing")


async def test_a_body_announced_too_large_is_refused_unread() -> None:
    async with running(max_message_bytes=1024) as server:
        async with wire(server.port) as client:
            await client.send(f"POST {PATH} HTTP/1.1\r\nContent-Length: 100000\r\n\r\n".encode())
            await refused(client, 413, "a body of 100000 bytes is over the limit of 1024")
        async with wire(server.port) as client:
            await client.send(f"POST {PATH} HTTP/1.1\r\nContent-Length: 2000\r\nExpect: 100-continue\r\n\r\n".encode())
            await refused(client, 413, "a body of 2000 bytes")
        await still_serving(server)


async def test_a_client_that_sends_its_oversized_body_anyway_reads_the_refusal() -> None:
    async with running(max_message_bytes=1024) as server, wire(server.port) as client:
        await client.send(post(bytes(4 << 20)))
        await refused(client, 413, "over the limit of 1024")


async def test_a_chunked_body_is_refused_when_it_gets_too_large() -> None:
    async with running(max_message_bytes=1024) as server, wire(server.port) as client:
        await client.send(f"POST {PATH} HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n".encode())
        for _ in range(20):
            await client.send(b"64\r\n" + bytes(100) + b"\r\n")
        await refused(client, 413, "over the limit of 1024")


async def test_unread_small_bodies_do_not_cost_the_connection() -> None:
    async with running() as server, wire(server.port) as client:
        await client.send(b"POST /nowhere HTTP/1.1\r\nContent-Length: 1000\r\n\r\n")
        answer = await client.answer()
        assert answer.status == 404
        assert "connection" not in answer.headers
        await client.send(bytes(1000))
        assert (await client.request("GET", "/v2/health/live")).status == 200


async def test_an_unread_body_that_filled_the_buffer_does_not_stall_the_connection() -> None:
    size = MOST_BUFFERED + SMALL_REMAINDER
    async with running() as server, wire(server.port) as client:
        server.engine.held = asyncio.Event()
        await client.send(post(infer_body()))
        await server.engine.arrived.wait()
        await client.send(f"POST /nowhere HTTP/1.1\r\nContent-Length: {size}\r\n\r\n".encode() + bytes(size - 1))
        await still_serving(server)
        server.engine.held.set()
        assert [(await client.answer()).status for _ in range(2)] == [200, 404]
        await client.send(b"\0" + LIVE)
        assert (await client.answer()).status == 200


# Slow clients


async def test_slow_headers() -> None:
    async with running(header_timeout=0.05) as server:
        async with wire(server.port) as client:
            await client.send(b"GET / HTTP/1.1\r\nX-Slow: ")
            await refused(client, 408, "headers took longer than 0.05 s")
        async with wire(server.port) as client:  # a kept connection is no better
            assert (await client.request("GET", "/v2/health/live")).status == 200
            await client.send(b"G")
            await refused(client, 408, "headers took longer")


async def test_a_body_that_stands_still() -> None:
    async with running(body_timeout=0.05) as server:
        async with wire(server.port) as client:
            await client.send(f"POST {PATH} HTTP/1.1\r\nContent-Length: 100\r\n\r\nhalf".encode())
            await refused(client, 408, "stood still for 0.05 s")
        async with wire(server.port) as client:
            await client.send(f"POST {PATH} HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n".encode())
            await refused(client, 408, "stood still for 0.05 s")
        assert server.engine.seen == []


async def test_idle_connections_are_closed() -> None:
    async with running(keep_alive=0.05) as server:
        async with wire(server.port) as client:
            assert await client.ended()
        async with wire(server.port) as client:
            assert (await client.request("GET", "/v2/health/live")).status == 200
            assert await client.ended()


async def test_a_long_inference_is_no_slow_client() -> None:
    async with running(keep_alive=0.02, header_timeout=0.02, body_timeout=0.02) as server, wire(server.port) as client:
        server.engine.held = asyncio.Event()
        await client.send(post(infer_body()))
        await server.engine.arrived.wait()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(server.engine.cancelled.wait(), 0.1)
        server.engine.held.set()
        assert (await client.answer()).status == 200


async def test_a_client_that_does_not_read_its_answer_is_dropped() -> None:
    size = 16 << 20
    text = json.dumps(
        {
            "inputs": [{"name": "x", "datatype": "UINT8", "shape": [size], "parameters": {"binary_data_size": size}}],
            "parameters": {"binary_data_output": True},
        }
    ).encode()
    async with running(body_timeout=0.1) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port, limit=1024)
        writer.write(post(text + bytes(size), f"Inference-Header-Content-Length: {len(text)}"))
        await writer.drain()
        await server.engine.arrived.wait()
        await asyncio.wait_for(server.server.close(grace=60), 10)  # it would wait for the answer to be taken
        with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
            await reader.readexactly(size)
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


# Clients that leave


async def test_a_client_that_leaves_during_inference_cancels_it() -> None:
    async with running() as server:
        async with wire(server.port) as client:
            server.engine.held = asyncio.Event()
            await client.send(post(infer_body()))
            await server.engine.arrived.wait()
        await asyncio.wait_for(server.engine.cancelled.wait(), 10)


async def test_a_client_that_leaves_cancels_what_it_pipelined_too() -> None:
    async with running() as server:
        async with wire(server.port) as client:
            server.engine.held = asyncio.Event()
            await client.send(post(infer_body()) * 3)
            await server.engine.arrived.wait()
        await asyncio.wait_for(server.engine.cancelled.wait(), 10)
        await still_serving(server)
        assert len(server.engine.seen) == 1


async def test_a_client_that_leaves_during_its_body_is_forgotten(caplog: pytest.LogCaptureFixture) -> None:
    async with running() as server:
        async with wire(server.port) as client:
            await client.send(f"POST {PATH} HTTP/1.1\r\nContent-Length: 100\r\n\r\nhalf".encode())
        await still_serving(server)
        assert server.engine.seen == []
    assert caplog.records == []


class Panic(BaseException):
    """What panics of libraries are: no Exception."""


@pytest.mark.parametrize("error", [ZeroDivisionError("secret detail"), Panic("secret detail")])
async def test_an_unexpected_error_is_one_500_and_one_log_line(
    error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:  # fmt: skip
    async with running() as server, wire(server.port) as client:
        server.engine.error = error
        answer = await client.request("POST", PATH, infer_body())
        assert (answer.status, answer.json()) == (500, {"error": "internal error"})
        server.engine.error = None
        assert (await client.request("POST", PATH, infer_body())).status == 200
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert record.exc_info is not None


# Stopping


async def test_after_stop_accepting_open_connections_get_one_more_answer() -> None:
    async with running() as server, wire(server.port) as idle, wire(server.port) as busy:
        assert (await idle.request("GET", "/v2/health/live")).status == 200
        server.engine.held = asyncio.Event()
        await busy.send(post(infer_body(id="busy")))
        await server.engine.arrived.wait()

        server.server.stop_accepting()
        server.server.stop_accepting()
        with pytest.raises(OSError):
            await asyncio.open_connection("127.0.0.1", server.port)
        answer = await idle.request("GET", "/v2/health/live")
        assert (answer.status, answer.headers["connection"]) == (200, "close")
        assert await idle.ended()

        server.engine.held.set()
        answer = await busy.answer()
        assert (answer.json()["id"], answer.headers["connection"]) == ("busy", "close")
        assert await busy.ended()


async def test_while_the_server_is_stopping_clients_are_sent_elsewhere() -> None:
    async with running() as server, wire(server.port) as client:
        server.health.is_stopping = True
        assert (await client.request("GET", "/v2/health/live")).headers["connection"] == "close"
        assert await client.ended()
        await still_serving(server)


async def test_pipelined_requests_survive_stopping() -> None:
    async with running() as server, wire(server.port) as client:
        server.engine.held = asyncio.Event()
        await client.send(b"".join(post(infer_body(id=str(index))) for index in range(5)))
        await server.engine.arrived.wait()
        closing = asyncio.create_task(server.server.close(30))
        server.engine.held.set()
        answers = [await client.answer() for _ in range(5)]
        assert [answer.json()["id"] for answer in answers] == ["0", "1", "2", "3", "4"]
        assert [answer.headers.get("connection") for answer in answers] == [None] * 4 + ["close"]
        await closing


async def test_connections_waiting_to_be_accepted_are_served() -> None:
    async with running() as server:
        clients = []
        for _ in range(20):  # the loop does not turn here: the kernel completes these handshakes
            client = socket.create_connection(("127.0.0.1", server.port))
            client.sendall(LIVE)
            clients.append(client)
        closing = asyncio.create_task(server.server.close(30))

        def answers() -> list[bytes]:
            found = []
            for client in clients:
                with client:
                    found.append(client.makefile("rb").read())
            return found

        assert all(answer.startswith(b"HTTP/1.1 200") for answer in await asyncio.to_thread(answers))
        await closing


async def test_close_waits_for_what_was_received() -> None:
    async with running() as server, wire(server.port) as client:
        server.engine.held = asyncio.Event()
        await client.send(post(infer_body()))
        await server.engine.arrived.wait()
        closing = asyncio.create_task(server.server.close(30))
        await asyncio.sleep(0)
        assert not closing.done()
        server.engine.held.set()
        assert (await client.answer()).status == 200
        await closing


async def test_a_half_received_request_is_finished_before_closing() -> None:
    request = post(infer_body(id="half"))
    for cut in (10, len(request) - 10):
        async with running() as server, wire(server.port) as client:
            await client.send(request[:cut])
            await still_serving(server)  # by now the first half has been read
            closing = asyncio.create_task(server.server.close(30))
            await asyncio.sleep(0)
            await client.send(request[cut:])
            answer = await client.answer()
            assert (answer.json()["id"], answer.headers["connection"]) == ("half", "close")
            await closing


async def test_when_the_grace_is_over_every_request_still_gets_an_answer() -> None:
    async with running() as server, wire(server.port) as client, wire(server.port) as idle:
        assert (await idle.request("GET", "/v2/health/live")).status == 200
        server.engine.held = asyncio.Event()
        await client.send(post(infer_body()))
        await server.engine.arrived.wait()
        await server.server.close(grace=0.05)
        await refused(client, 503, "the server is stopping")
        assert await idle.ended()


async def test_busy_clients_lose_nothing_when_the_server_closes() -> None:
    """Twenty clients ask without pause while the server stops: only answers, the last with `Connection: close`."""
    async with running() as server:
        asked = asyncio.Semaphore(0)

        async def ask() -> int:
            async with wire(server.port) as client:
                count = 0
                while True:
                    answer = await client.request("POST", PATH, infer_body())
                    assert answer.status == 200
                    count += 1
                    asked.release()
                    if answer.headers.get("connection") == "close":
                        assert await client.ended()
                        return count

        clients = [asyncio.create_task(ask()) for _ in range(20)]
        for _ in range(200):
            await asked.acquire()
        await server.server.close(30)
        assert sum(await asyncio.gather(*clients)) >= 200
