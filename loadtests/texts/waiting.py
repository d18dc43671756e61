"""How long the server's event loop keeps others waiting while it has much to do with texts."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from loadtests.bodies import http_request, lengths
from loadtests.children import Child, MeasuringError, child, noting
from loadtests.texts.requests import cheap_repository, where
from loadtests.texts.words import CHEAP, Words

IN_FLIGHT = 64
MANY = 2048  # texts of the large request
GOAL_MS = 2.0

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Load:
    """What is sent, each request again as soon as it is answered."""

    name: str
    small: int = 0  # requests of one text in flight
    many: bool = False  # one of many texts as well


LOADS = (
    Load("nothing"),
    Load("64 of one text", IN_FLIGHT),
    Load(f"1 of {MANY} texts", 0, True),
    Load("both", IN_FLIGHT, True),
)


def waits(repository: Path, model: str, rounds: int, seconds: float, notes: list[str]) -> list[dict[str, Any]]:
    """Quantiles of how late the metronome is heard under each load, by the server and by an idle loop beside it."""
    tokenizer = where(repository, model, notes)
    if tokenizer is None:
        return []
    words, drawn = Words(tokenizer), lengths(MANY)
    small = [_request("MODEL", [text]) for text in words.texts([min(length, 256) for length in drawn[:256]])]
    many = _request("MODEL", words.texts([min(length, 256) for length in drawn]))
    found = []
    with contextlib.ExitStack() as stack:
        cheap = stack.enter_context(cheap_repository(tokenizer))
        for name, place in ((CHEAP, cheap), (model, repository.resolve())):
            with noting(notes, f"{name}, waiting: "), _listeners(place) as (server, idle, port):
                heard: dict[Load, tuple[Heard, Heard]] = {load: (Heard(), Heard()) for load in LOADS}
                answers: dict[Load, list[int]] = {load: [0, 0] for load in LOADS}
                for _ in range(rounds):
                    for load in LOADS:
                        requests = [_of(name, one) for one in small], _of(name, many)
                        counts = asyncio.run(_send(port, load, *requests, seconds, lambda: _forget(server, idle)))
                        answers[load] = [a + b for a, b in zip(answers[load], counts, strict=True)]
                        for one, listener in zip(heard[load], (server, idle), strict=True):
                            one.add(listener.ask({}), seconds)
                found += [
                    {"model": name, "load": load.name, "answered": answers[load][0], "refused": answers[load][1]}
                    | {"server": heard[load][0].told(), "idle": heard[load][1].told()}
                    for load in LOADS
                ]
    return found


class Heard:
    """What a listener noted in all rounds."""

    def __init__(self) -> None:
        self._late: list[float] = []
        self._used: list[float] = []
        self._seconds = 0.0

    def add(self, noted: Mapping[str, Any], seconds: float) -> None:
        self._late += noted["late"]
        self._used += noted["used"]
        self._seconds += seconds

    def told(self) -> dict[str, float]:
        """Milliseconds."""
        late = sorted(self._late)
        return {
            "p50_ms": _quantile(late, 0.5),
            "p99_ms": _quantile(late, 0.99),
            "p999_ms": _quantile(late, 0.999),
            "most_ms": _quantile(late, 1),
            "blocked_p999_ms": self._blocked(0.001) * 1e3,
            "blocked_most_ms": max(self._used) * 1e3,
        }

    def _blocked(self, share: float) -> float:
        """How long whoever comes waits at most for the callback that runs, but for this share of all moments."""
        beyond = before = 0.0  # seconds beyond the callback's length, in those that are longer
        ordered = sorted(self._used, reverse=True)
        for count, (seconds, shorter) in enumerate(zip(ordered, [*ordered[1:], 0.0], strict=True), 1):
            before, beyond = beyond, beyond + count * (seconds - shorter)
            if beyond >= share * self._seconds:
                return seconds - (share * self._seconds - before) / count
        return 0.0


def _quantile(ordered: Sequence[float], share: float) -> float:
    if not ordered:
        raise MeasuringError("no beat was heard")
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] * 1e3


@contextlib.contextmanager
def _listeners(repository: Path) -> Iterator[tuple[Child, Child, int]]:
    with (
        child("texts.attention", "served", str(repository)) as server,
        child("texts.attention", "idle") as idle,
    ):
        ports, other = server.hear(), idle.hear()
        with child("texts.attention", "beat", str(ports["beat"]), str(other["beat"])):
            yield server, idle, ports["http"]


def _forget(*listeners: Child) -> None:
    """What was noted so far."""
    for one in listeners:
        one.ask({})


def _request(model: str, texts: Sequence[str]) -> bytes:
    return orjson.dumps({"model": model, "input": texts, "encoding_format": "float", "truncate": True})


def _of(model: str, body: bytes) -> bytes:
    return http_request("/v1/embeddings", body.replace(b'"MODEL"', b'"%b"' % model.encode(), 1))


async def _send(
    port: int, load: Load, small: list[bytes], many: bytes, seconds: float, begun: Callable[[], None]
) -> list[int]:  # fmt: skip
    """Send for a while; how many were answered, and how many refused."""
    counts = [0, 0]
    senders = [_again(port, small[at :: load.small], counts) for at in range(load.small)]
    senders += [_again(port, [many], counts)] if load.many else []
    tasks = [asyncio.create_task(sender) for sender in senders]
    try:
        await _pass_time(0.5, tasks)
        await asyncio.to_thread(begun)
        counts[:] = [0, 0]
        await _pass_time(seconds, tasks)
        return list(counts)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _pass_time(seconds: float, tasks: Sequence[asyncio.Task[None]]) -> None:
    """That long, or less when a sender fails."""
    if not tasks:
        await asyncio.sleep(seconds)
        return
    done, _ = await asyncio.wait(tasks, timeout=seconds, return_when=asyncio.FIRST_EXCEPTION)
    for task in done:
        task.result()


async def _again(port: int, bodies: Sequence[bytes], counts: list[int]) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 20)
    try:
        while True:
            for body in bodies:
                writer.write(body)
                head = await reader.readuntil(b"\r\n\r\n")
                length = _LENGTH.search(head)
                if length is None:
                    raise MeasuringError(f"no answer: {head[:200]!r}")
                answer = await reader.readexactly(int(length[1]))
                status = int(head[9:12])
                if status not in (200, 429, 503):
                    raise MeasuringError(f"{status}: {answer[:200]!r}")
                counts[status != 200] += 1
                if status != 200:
                    await asyncio.sleep(0.05)
    finally:
        writer.close()


def show(console: Console, rows: Sequence[Mapping[str, Any]]) -> None:
    if not rows:
        return
    title = (
        f"How late the event loop hears, and the CPU of the callback that blocks it, ms (goal: {GOAL_MS:g} at 99.9 %)"
    )
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    figures = ("50 %", "99 %", "99.9 %", "most")
    own, beside = ("blocked 99.9 %", "most"), ("idle 99 %", "99.9 %", "most")
    for heading in ("", "in flight", "answered", "refused", *figures, *own, *beside):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        server, idle = row["server"], row["idle"]
        names = ("p50_ms", "p99_ms", "p999_ms", "most_ms", "blocked_p999_ms", "blocked_most_ms")
        told = [f"{server[name]:.2f}" for name in names] + [f"{idle[name]:.2f}" for name in names[1:4]]
        table.add_row(row["model"], row["load"], str(row["answered"]), str(row["refused"]), *told)
    console.print(table)
