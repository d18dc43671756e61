from collections.abc import AsyncIterator

import pytest
from grpc_stand_ins import Bench, running


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    async with running() as bench:
        yield bench
