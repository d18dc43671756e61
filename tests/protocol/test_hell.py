"""Clients from hell: what they hold is bounded, what they started is forgotten, and good clients get right answers."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import socket
import struct
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import graphs
import grpc
import psutil
import pytest
from grpc import StatusCode
from loadtests.bodies import write_identity
from loadtests.hell import frames
from loadtests.hell.asking import ASK, GREEDY, LARGE_BATCHES, MESSAGE, right
from loadtests.hell.attacks import ATTACKS, INFER, Victim
from servers import Server, end, launch
from tritonclient.grpc import service_pb2 as pb
from wires import PATIENCE, Ask, Input, call, channel, connect, http_call, read_reply, wait_until

from sluice.frontends.grpc.sending import MOST_HELD
from sluice.frontends.grpc.server import MOST_STREAMS
from sluice.frontends.http.crowd import MOST_KEPT
from sluice.frontends.http.protocol import MOST_HEADERS, MOST_WAITING

PLACES = 40
LIMIT = 2 << 20
GROWTH = 600 << 20  # a hundred large requests in the queue and their replies; resets alone took 2 GiB in four seconds
HEAD = b"POST /v2/models/identity/infer HTTP/1.1\r\n"
ENHANCE_YOUR_CALM = 11
TCP_REPAIR = 19  # of Linux; the socket module does not name it


@dataclass
class Hell:
    """A server, the file that holds its only worker while it exists, and what it was like before."""

    server: Server
    gate: Path
    size: int
    descriptors: int

    @property
    def process(self) -> psutil.Process:
        return psutil.Process(self.server.process.pid)

    def grown(self) -> int:
        return int(self.process.memory_info().rss) - self.size

    def pending(self, model: str) -> int:
        return int(self.server.metric("nv_inference_pending_request_count", model=model))

    def good(self) -> None:
        """Whoever behaves is answered, on either protocol and a connection of its own."""
        reply = http_call(self.server, "GET", "/v2/health/live")
        assert reply.status == 200
        with connect(self.server) as connection:
            connection.sendall(ASK)
            assert read_reply(connection).status == 200
        with channel(self.server) as opened:
            assert right(opened.unary_unary(INFER)(MESSAGE, timeout=PATIENCE))

    def settled(self) -> None:
        """Nothing of what was begun is left, and the same worker is at work."""
        wait_until(lambda: not self.pending("identity") + self.pending("echo"), "nothing waits any more")
        wait_until(lambda: self.process.num_fds() <= self.descriptors + 5, "all connections are closed")
        assert self.server.metric("sluice_worker_restarts_total") == 0
        assert self.grown() < GROWTH
        output = self.server.output()
        assert "Traceback" not in output, output[-5000:]


@contextlib.contextmanager
def started(root: Path, *flags: str, **settings: str) -> Iterator[Hell]:
    models, gate = root / "models", root / "gate"
    write_identity(models)
    (models / "identity" / "model.toml").write_text(LARGE_BATCHES)
    graphs.python_echo(models, gate=gate)
    environment = {f"SLUICE_SERVER__{name.upper()}": value for name, value in settings.items()}
    options = ("--python-directory", str(models), "--workers", "1", "--max-message-bytes", str(LIMIT))
    server = launch(models, root / "log", *options, *flags, environment=environment)
    try:
        hell = Hell(server, gate, 0, 0)
        for _ in range(3):
            hell.good()
        hell.size, hell.descriptors = int(hell.process.memory_info().rss), hell.process.num_fds()
        yield hell
    finally:
        gate.unlink(missing_ok=True)
        end(server)


@pytest.fixture(scope="module")
def patient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hell]:
    """One that waits long, so that what is given up early is given up for want of room."""
    with started(tmp_path_factory.mktemp("patient"), body_timeout="600", header_timeout="600") as hell:
        yield hell


@pytest.fixture(scope="module")
def narrow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hell]:
    """One with few places."""
    with started(tmp_path_factory.mktemp("narrow"), max_connections=str(PLACES)) as hell:
        yield hell


@pytest.fixture
def hell(patient: Hell) -> Iterator[Hell]:
    patient.size = int(patient.process.memory_info().rss)
    yield patient
    patient.good()
    patient.settled()


@contextlib.contextmanager
def crowd(server: Server, count: int, port: str = "http") -> Iterator[list[socket.socket]]:
    """So many connections, all closed by a reset at the end."""
    address = server.netloc if port == "http" else server.grpc
    host, _, number = address.rpartition(":")
    with contextlib.ExitStack() as stack:
        opened = []
        for _ in range(count):
            one = stack.enter_context(socket.socket())
            one.settimeout(PATIENCE)
            one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            one.connect((host, int(number)))
            opened.append(one)
        yield opened


def closed(connection: socket.socket) -> bool:
    """The server has closed it, or did so just now."""
    connection.setblocking(False)
    try:
        while connection.recv(1 << 20):
            pass
    except BlockingIOError:
        return False
    except ConnectionError:
        pass
    return True


# Attacks


@contextlib.contextmanager
def under(name: str, server: Server) -> Iterator[Victim]:
    """The attack goes on while the block lasts."""
    http, grpc_port = (int(address.rpartition(":")[2]) for address in (server.netloc, server.grpc))
    victim = Victim(http, grpc_port, ASK, GREEDY, MESSAGE)
    loop, stop, failed = asyncio.new_event_loop(), asyncio.Event(), []

    async def attack() -> None:
        running, stopped = asyncio.create_task(ATTACKS[name].run(victim)), asyncio.create_task(stop.wait())
        await asyncio.wait({running, stopped}, return_when=asyncio.FIRST_COMPLETED)
        if running.done():
            failed.append(running.exception())
        for task in (running, stopped):
            task.cancel()
        await asyncio.gather(running, stopped, return_exceptions=True)

    def run() -> None:
        with contextlib.closing(loop):
            loop.run_until_complete(attack())

    thread = threading.Thread(target=run)
    thread.start()
    try:
        wait_until(lambda: victim.counts.get("connections", 0) > 0, "the attack has begun")
        yield victim
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()
    assert not failed, failed


@pytest.mark.parametrize("name", ATTACKS)
def test_good_clients_are_answered_during_an_attack(hell: Hell, name: str) -> None:
    with under(name, hell.server) as victim:
        for _ in range(8):
            hell.good()
    assert victim.counts["connections"]


# Places


def test_silent_connections_make_room(narrow: Hell) -> None:
    """The longest silent goes for the newcomer, be it idle or stuck in its headers."""
    with crowd(narrow.server, PLACES) as silent:
        for number, connection in enumerate(silent):
            connection.sendall(b"" if number % 2 else b"GET / HTTP/1.1\r\n")

        def let_in() -> bool:
            with connect(narrow.server) as newcomer:
                newcomer.sendall(ASK)
                return read_reply(newcomer).status == 200

        wait_until(let_in, "a newcomer has a place")
        wait_until(lambda: closed(silent[0]), "the first has lost its place")
        assert not closed(silent[-1])
    narrow.settled()


def test_who_is_at_work_keeps_its_place(narrow: Hell) -> None:
    """Requests that wait are no silence: it is the newcomer who is refused, with an answer that says so."""
    narrow.gate.touch()
    with crowd(narrow.server, PLACES) as busy:
        for connection in busy:
            connection.sendall(echo(7))
        # All but what computes is in the queue, so all have been heard.
        wait_until(lambda: narrow.pending("echo") >= PLACES - 2, "all wait")
        for _ in range(2 * PLACES):
            with connect(narrow.server) as newcomer:
                refusal = read_reply(newcomer)
                assert (refusal.status, refusal.headers["retry-after"]) == (503, "1")
                assert refusal.headers["connection"] == "close"
                assert f"{PLACES} connections" in refusal.json["error"]
        narrow.gate.unlink()
        assert [read_reply(connection).json["outputs"][0]["data"] for connection in busy] == [[7]] * PLACES
    narrow.settled()


def test_grpc_connections_beyond_the_most_are_closed(narrow: Hell) -> None:
    """Those that are there stay, and places become free again."""
    with crowd(narrow.server, PLACES, "grpc") as early, channel(narrow.server) as late:
        for connection in early:
            connection.sendall(frames.PREFACE + frames.settings())
            assert connection.recv(frames.HEAD_BYTES)  # the server's settings: it is in
        with pytest.raises(grpc.RpcError) as caught:
            late.unary_unary(INFER)(MESSAGE, timeout=PATIENCE)
        assert caught.value.code() is StatusCode.UNAVAILABLE
    narrow.settled()
    with channel(narrow.server) as opened:
        assert right(opened.unary_unary(INFER)(MESSAGE, timeout=PATIENCE, wait_for_ready=True))


# Memory


def test_answers_that_nobody_reads(hell: Hell) -> None:
    """More of them than may be kept: those who have not read for longest lose their connection, and ask again."""
    with under("http-unread", hell.server) as victim:
        wait_until(lambda: victim.counts["connections"] > 200, "a hundred had to go")
        hell.good()
        assert hell.grown() < GROWTH


def test_bodies_that_nobody_finishes(hell: Hell) -> None:
    """The oldest of them is told that its place is needed; the latest can still be finished."""
    size = LIMIT - 1000
    count = MOST_KEPT * LIMIT // (size - 1) + 4
    with crowd(hell.server, count) as slow:
        for connection in slow:
            connection.sendall(HEAD + b"Content-Length: %d\r\n\r\n" % size + b"{" * (size - 1))
        reply = read_reply(slow[0])
        assert (reply.status, reply.headers["retry-after"]) == (503, "1")
        assert "sent slowly" in reply.json["error"]
        hell.good()
        slow[-1].sendall(b"{")
        assert read_reply(slow[-1]).status == 400  # not JSON, but whole


def test_requests_sent_ahead_of_their_turn(hell: Hell) -> None:
    """A pipeline of large requests is read only as far as a few of them."""
    body, before = b" " * 200_000, hell.grown()
    hell.gate.touch()
    try:
        with crowd(hell.server, 20) as eager:
            for connection in eager:
                connection.sendall(echo(1))
            wait_until(lambda: hell.pending("echo") >= len(eager) - 2, "all wait")
            for connection in eager:
                connection.setblocking(False)
                with contextlib.suppress(BlockingIOError):
                    while True:
                        connection.send(HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body)
            assert http_call(hell.server, "GET", "/v2/health/live").status == 200
            assert hell.grown() - before < 50 << 20
    finally:
        hell.gate.unlink()


def echo(value: int) -> bytes:
    """A whole request to the model that the gate holds."""
    body = json.dumps({"inputs": [{"name": "x", "datatype": "INT64", "shape": [1, 1], "data": [value]}]}).encode()
    return b"POST /v2/models/echo/infer HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % len(body) + body


def test_grpc_replies_that_nobody_reads(hell: Hell) -> None:
    """Beyond what may be held, large replies become errors and small ones go on, until the deaf have left."""
    rows = LIMIT // (2 * 64 * 8) - 100
    greedy = pb.ModelInferRequest(model_name="identity")
    for name in ("first", "second"):
        greedy.inputs.add(name=name, datatype="INT64", shape=[rows, 64])
        greedy.raw_input_contents.append(bytes(rows * 64 * 8))
    asked = greedy.SerializeToString()
    with crowd(hell.server, MOST_HELD * LIMIT // (rows * 384 * 4), "grpc") as deaf:
        for connection in deaf:
            connection.sendall(frames.PREFACE + frames.settings(initial_window_size=0))
            connection.recv(frames.HEAD_BYTES)  # the server's settings: once agreed to, they let us send that much
            connection.sendall(frames.frame(frames.SETTINGS, frames.ACK))
            connection.sendall(frames.headers(1, frames.block(INFER)) + frames.message(1, asked))

        def refused() -> bool:
            with channel(hell.server) as opened:
                call = opened.unary_unary(INFER).future(asked, timeout=PATIENCE)
                answered = call.code() is StatusCode.OK
            assert answered or (call.code() is StatusCode.UNAVAILABLE and "do not read" in call.details())
            return not answered

        wait_until(refused, "there is no room for another large reply")
        hell.good()
    wait_until(lambda: not refused(), "there is room again")


# Headers and streams


def test_more_header_lines_than_anybody_needs(hell: Hell) -> None:
    with connect(hell.server) as connection:
        connection.sendall(b"GET /v2/health/live HTTP/1.1\r\n" + b"x: y\r\n" * MOST_HEADERS + b"\r\n")
        assert read_reply(connection).status == 200
        connection.sendall(b"GET /v2/health/live HTTP/1.1\r\n" + b"x: y\r\n" * (MOST_HEADERS + 1) + b"\r\n")
        reply = read_reply(connection)
    assert reply.status == 431
    assert f"{MOST_HEADERS} lines" in reply.json["error"]


def test_more_streams_than_one_connection_may_have(hell: Hell) -> None:
    """What is too much is reset at once; the others stay open."""
    opened = frames.block(INFER)
    with crowd(hell.server, 1, "grpc") as (connection,):
        connection.sendall(frames.PREFACE + frames.settings())
        for number in range(MOST_STREAMS + 10):
            connection.sendall(frames.headers(2 * number + 1, opened))
        refused = dict(resets(connection, 10))
    assert refused == {2 * number + 1: ENHANCE_YOUR_CALM for number in range(MOST_STREAMS, MOST_STREAMS + 10)}


def resets(connection: socket.socket, count: int) -> list[tuple[int, int]]:
    """The next streams that the server resets, and with which code."""
    found: list[tuple[int, int]] = []
    with connection.makefile("rb") as read:
        while len(found) < count:
            head = read.read(frames.HEAD_BYTES)
            payload = read.read(int.from_bytes(head[:3], "big"))
            if head[3] == frames.RST_STREAM:
                found.append((int.from_bytes(head[5:], "big"), int.from_bytes(payload, "big")))
            elif head[3] == frames.SETTINGS and not head[4] & frames.ACK:
                connection.sendall(frames.frame(frames.SETTINGS, frames.ACK))
    return found


def test_a_body_that_only_trickles(tmp_path: Path) -> None:
    """No silence is long, and yet it is given up: what comes is out of proportion to the time it takes."""
    with started(tmp_path, body_timeout="1") as impatient:
        with connect(impatient.server) as connection:
            connection.sendall(HEAD + b"Content-Length: 1000000\r\n\r\n")
            connection.settimeout(0.1)
            received = b""
            while b"\r\n\r\n" not in received:
                connection.sendall(b" ")
                with contextlib.suppress(TimeoutError):
                    received += connection.recv(1 << 16)
        assert received.startswith(b"HTTP/1.1 408")
        impatient.settled()


def vanish(connection: socket.socket) -> None:
    """Be gone without a word, as a machine whose plug was pulled: the other side is not told."""
    try:
        connection.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR, 1)
    except PermissionError:
        pytest.skip("only root can make a connection vanish")
    connection.close()


def test_clients_that_vanish_are_found_out(tmp_path: Path) -> None:
    """At every state of an HTTP connection, and while the answer is computed."""
    with started(tmp_path, body_timeout="1", header_timeout="1", keep_alive="1") as impatient:
        for sent in (b"", HEAD[:20], HEAD + b"Content-Length: 1000\r\n\r\n" + b" " * 10, ASK):
            for _ in range(5):
                connection = connect(impatient.server)
                connection.sendall(sent)
                if sent is ASK:
                    assert read_reply(connection).status == 200
                vanish(connection)
        impatient.gate.touch()
        waiting = connect(impatient.server)
        waiting.sendall(echo(1))
        wait_until(impatient.gate.with_suffix(".held").exists, "it is computed")
        vanish(waiting)
        impatient.gate.unlink()
        impatient.good()
        impatient.settled()


# Cancellation


def rows_computed(hell: Hell, model: str) -> int:
    reply = http_call(hell.server, "GET", f"/v2/models/{model}/stats")
    return int(reply.json["model_stats"][-1]["inference_count"])


def held(hell: Hell, pool: ThreadPoolExecutor) -> Future[Any]:
    """The only worker computes until the gate opens."""
    mark = hell.gate.with_suffix(".held")
    mark.unlink(missing_ok=True)
    hell.gate.touch()
    body = json.loads(echo(1).partition(b"\r\n\r\n")[2])
    answer = pool.submit(http_call, hell.server, "POST", "/v2/models/echo/infer", body)
    wait_until(mark.exists, "the worker is held")
    hell.server.metric("sluice_workers", state="running")  # by now its batch is overdue and nothing is staged behind it
    return answer


def test_nine_in_ten_give_up_and_only_the_tenth_is_computed(hell: Hell) -> None:
    """Over both protocols, by every way to leave, while the worker is busy: an exact account of what it computes."""
    count, chance = 100, random.Random(4)
    stay = {number for number in range(count) if number % 10 == 0}
    with ThreadPoolExecutor(1) as pool, contextlib.ExitStack() as stack:
        first = held(hell, pool)
        before = rows_computed(hell, "echo")
        lines = [stack.enter_context(connect(hell.server)) for _ in range(count)]
        opened = stack.enter_context(channel(hell.server))
        method = opened.unary_unary(INFER, pb.ModelInferRequest.SerializeToString, pb.ModelInferResponse.FromString)
        calls = []
        for number, line in enumerate(lines):
            line.sendall(echo(number))
            calls.append(method.future(ask(number).message(), timeout=PATIENCE))
        wait_until(lambda: hell.pending("echo") == 2 * count, "all wait")
        leaving = [number for number in range(count) if number not in stay]
        chance.shuffle(leaving)
        for number in leaving:
            if number % 2:
                lines[number].setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            lines[number].close()
            calls[number].cancel()
        wait_until(lambda: hell.pending("echo") == 2 * len(stay), "those who left are forgotten")
        hell.gate.unlink()
        assert first.result().status == 200
        for number in stay:
            answer = read_reply(lines[number]).json["outputs"][0]["data"]
            assert answer == [number]
            assert calls[number].result().raw_output_contents == [number.to_bytes(8, "little")]
    assert rows_computed(hell, "echo") - before == 2 * len(stay) + 1


def ask(value: int) -> Ask:
    return Ask("echo", (Input("x", "INT64", (1, 1), (value,)),))


def test_a_pipeline_that_is_closed_is_forgotten_whole(hell: Hell) -> None:
    """Requests that wait for their turn on a connection never reach a queue once it is gone."""
    with ThreadPoolExecutor(1) as pool:
        first = held(hell, pool)
        before = rows_computed(hell, "echo")
        with connect(hell.server) as line:
            line.sendall(echo(5) * (MOST_WAITING - 1))
            wait_until(lambda: hell.pending("echo") == 1, "the first of them waits")
        wait_until(lambda: hell.pending("echo") == 0, "the disconnect is seen")
        hell.gate.unlink()
        assert first.result().status == 200
    assert call(hell.server, "ModelInfer", ask(6).message()).raw_output_contents == [(6).to_bytes(8, "little")]
    assert rows_computed(hell, "echo") - before == 2


def test_a_storm_of_cancels_adds_up(hell: Hell) -> None:
    """Calls given up at random moments, before, during and after computing: each ends once, and is counted once."""
    chance, outcomes = random.Random(5), {"good": 0, "cancelled": 0}

    def totals() -> float:
        ended = hell.server.metric("sluice_request_failures_total", model="identity")
        stats = http_call(hell.server, "GET", "/v2/models/identity/stats").json["model_stats"][-1]["inference_stats"]
        return ended + float(stats["success"]["count"])

    async def storm() -> None:
        async with grpc.aio.insecure_channel(hell.server.grpc) as opened:
            method = opened.unary_unary(INFER)

            async def one() -> None:
                asked = method(MESSAGE, timeout=PATIENCE)
                leave = chance.random() < 0.9
                waits = asyncio.wait_for(asked, chance.random() * 0.02 if leave else None)
                try:
                    answer = await waits
                    assert right(answer)
                    outcomes["good"] += 1
                except (TimeoutError, asyncio.CancelledError):
                    outcomes["cancelled"] += 1

            for _ in range(40):
                await asyncio.gather(*(one() for _ in range(20)))

    before = totals()
    asyncio.run(storm())
    assert sum(outcomes.values()) == 800
    assert outcomes["good"] >= 80 - 40  # who stayed to the end was answered, about one in ten
    wait_until(lambda: hell.pending("identity") == 0, "nothing waits")
    assert outcomes["good"] <= totals() - before <= 800
