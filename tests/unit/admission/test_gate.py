"""A gate holds up whoever comes while it is shut, within bounds, and sends everybody on when it opens."""

import asyncio
import time

import pytest

from sluice.admission.gate import Gate
from sluice.errors import DeadlineExceeded, Moved, QueueFull, QueueTimeout


async def test_who_waits_goes_on_when_it_opens() -> None:
    gate = Gate(2)
    gate.close()
    waiting = [asyncio.create_task(gate.wait("m", None, None)) for _ in range(2)]
    await asyncio.sleep(0)
    assert gate.waiting == 2
    with pytest.raises(QueueFull, match="2 requests wait for 'm'"):
        await gate.wait("m", None, None)
    gate.open()
    assert [type(outcome) for outcome in await asyncio.gather(*waiting, return_exceptions=True)] == [Moved, Moved]
    assert (gate.shut, gate.waiting) == (False, 0)
    await gate.wait("m", None, None)


async def test_it_can_be_shut_again() -> None:
    gate = Gate(1)
    for _ in range(2):
        gate.close()
        gate.close()
        waiting = asyncio.create_task(gate.wait("m", None, None))
        await asyncio.sleep(0)
        gate.open()
        with pytest.raises(Moved):
            await waiting


async def test_nobody_waits_beyond_what_the_client_or_the_queue_allows() -> None:
    gate = Gate(4)
    gate.close()
    now = time.monotonic()
    with pytest.raises(DeadlineExceeded):
        await gate.wait("m", now, 60.0)
    with pytest.raises(QueueTimeout):
        await gate.wait("m", now + 60, 0.001)
    assert gate.waiting == 0


async def test_who_goes_away_leaves_room() -> None:
    gate = Gate(1)
    gate.close()
    waiting = asyncio.create_task(gate.wait("m", None, None))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    assert gate.waiting == 0
