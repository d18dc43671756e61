"""BentoML's adapter: a batchable API in JSON, or raw bodies through a mounted application.

A batchable API takes what its input types describe, which a raw body is not; without batching the mounted application
is the cheaper way.
"""

from __future__ import annotations

import bentoml
import numpy as np
from embedder import BATCHING, WORKERS, Embedder, ids
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response
from starlette.routing import Route

SETTINGS = {"workers": WORKERS, "threads": 1, "traffic": {"timeout": 30}, "logging": {"access": {"enabled": False}}}


if BATCHING is not None:

    @bentoml.service(**SETTINGS)
    class EmbedderService:
        def __init__(self) -> None:
            self._embed = Embedder()

        @bentoml.api(
            route="/embed", batchable=True, max_batch_size=BATCHING["rows"], max_latency_ms=BATCHING["latency_ms"]
        )
        def embed(self, texts: list[list[int]]) -> np.ndarray:
            return self._embed(texts)

else:

    async def _embed(request):
        service = bentoml.get_current_service()
        async with service.turn:  # one thread computes, as with the API's own `threads`
            rows = await run_in_threadpool(service.embedder, [ids(await request.body())])
        return Response(rows.tobytes(), media_type="application/octet-stream")

    @bentoml.service(**SETTINGS)
    @bentoml.asgi_app(Starlette(routes=[Route("/embed", _embed, methods=["POST"])]), path="/")
    class EmbedderService:
        def __init__(self) -> None:
            import asyncio

            self.embedder = Embedder()
            self.turn = asyncio.Semaphore(1)
