"""The processes that send: each follows its share of a schedule and says afterwards what became of every request."""

from __future__ import annotations

import asyncio
import gc
import multiprocessing
import os
import signal
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess

import uvloop

from sluice.bench.samples import Sample
from sluice.bench.senders import Wire, sender
from sluice.bench.traffic import BenchError

Plan = Sequence[tuple[float, int]]  # when to send, in seconds from the start, and which length

_LEAD = 0.2  # seconds between handing out the plans and the first request
_GRACE = 30.0  # seconds beyond everything planned before a generator counts as hung
_PRIORITY = -10
_BREATH = 16  # requests sent in a row before answers are looked at again


@dataclass(frozen=True, slots=True)
class _Order:
    wire: Wire
    plan: Plan
    start: float  # monotonic seconds, which every process of a machine shares


class Generators:
    """A fixed number of sending processes; one sends a few thousand requests a second."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._processes: list[BaseProcess] = []
        self._pipes: list[Connection] = []

    def start(self) -> None:
        context = multiprocessing.get_context("spawn")
        for _ in range(self._count):
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(theirs,), daemon=True, name="sluice-bench")
            process.start()
            theirs.close()
            self._processes.append(process)
            self._pipes.append(ours)
        for pipe in self._pipes:
            self._hear(pipe, _GRACE)

    def pids(self) -> list[int]:
        return [process.pid for process in self._processes if process.pid is not None]

    def run(self, wire: Wire, plan: Plan) -> list[Sample]:
        """Send all of it; returns when every request has its outcome."""
        start = time.monotonic() + _LEAD
        shares = [plan[number :: self._count] for number in range(self._count)]
        for pipe, share in zip(self._pipes, shares, strict=True):
            try:
                pipe.send(_Order(wire, share, start))
            except OSError as error:
                raise BenchError("a generating process has ended") from error
        longest = _LEAD + (plan[-1][0] if plan else 0) + wire.patience + _GRACE
        return [sample for pipe in self._pipes for sample in self._hear(pipe, longest)]

    def _hear(self, pipe: Connection, seconds: float) -> list[Sample]:
        try:
            if not pipe.poll(seconds):
                raise BenchError(f"a generating process did not answer within {seconds:.0f} s")
            answer: list[Sample] | str = pipe.recv()
        except (EOFError, OSError) as error:
            raise BenchError("a generating process has ended") from error
        if isinstance(answer, str):
            raise BenchError(answer)
        return answer

    def close(self) -> None:
        for pipe in self._pipes:
            pipe.close()
        for process in self._processes:
            process.terminate()
            process.join()
            process.close()
        self._pipes, self._processes = [], []


def _serve(pipe: Connection) -> None:
    """A generating process: an order, its samples, the next order, until the pipe closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the interrupt is for the parent, which ends us
    with suppress(PermissionError):  # where it is allowed, go before a server that takes every core
        os.setpriority(os.PRIO_PROCESS, 0, _PRIORITY)
    pipe.send([])
    while True:
        try:
            order: _Order = pipe.recv()
        except (EOFError, OSError):  # the parent is gone
            return
        try:
            answer: list[Sample] | str = uvloop.run(follow(order.wire, order.plan, order.start))
        except Exception as error:  # the parent reports it, whatever it is
            answer = f"{type(error).__name__}: {error}"
        pipe.send(answer)


async def follow(wire: Wire, plan: Plan, start: float) -> list[Sample]:
    """Send a plan's requests at their times, whatever became of those before."""
    samples = [Sample(due, length) for due, length in plan]
    sending = sender(wire)
    gc.collect()
    gc.disable()  # its pauses would look like the server's
    try:
        await sending.open()
        for number, sample in enumerate(samples):
            due = start + sample.due
            if (wait := due - time.monotonic()) > 0:
                await asyncio.sleep(wait)
            sample.late = max(0.0, time.monotonic() - due)
            sending.send(sample, due)
            if number % _BREATH == 0:
                await asyncio.sleep(0)
        await sending.drained()
    finally:
        gc.enable()
        await sending.close()
    return samples
