"""Ray Serve's adapter: a fixed number of replicas, raw bodies, and @serve.batch when batching is on."""

import logging
import os
import signal
import threading

import ray
from embedder import BATCHING, PORT, WORKERS, Embedder, ids
from ray import serve
from starlette.requests import Request
from starlette.responses import Response

OCTETS = "application/octet-stream"
# A replica computes one batch at a time; it may have as many requests as make up that one and the next.
ONGOING = 2 * (BATCHING or {"rows": 1})["rows"]
FIXED = {"num_replicas": WORKERS, "max_ongoing_requests": ONGOING, "ray_actor_options": {"num_cpus": 1}}


@serve.deployment(**FIXED)
class Single:
    def __init__(self):
        self._embed = Embedder()

    async def __call__(self, request: Request):
        return Response(self._embed([ids(await request.body())])[0].tobytes(), media_type=OCTETS)


@serve.deployment(**FIXED)
class Batching:
    def __init__(self):
        self._embed = Embedder()
        self.embed.set_max_batch_size(BATCHING["rows"])
        self.embed.set_batch_wait_timeout_s(BATCHING["delay_ms"] / 1000)

    @serve.batch(max_batch_size=8, batch_wait_timeout_s=0.01)
    async def embed(self, texts):
        return [row.tobytes() for row in self._embed(texts)]

    async def __call__(self, request: Request):
        return Response(await self.embed(ids(await request.body())), media_type=OCTETS)


if __name__ == "__main__":
    ended = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ended.set())
    ray.init(
        address="local",
        num_cpus=WORKERS + 2,
        include_dashboard=False,
        logging_level=logging.WARNING,
        object_store_memory=128 << 20,
        _temp_dir=os.environ["COMPARE_TEMPORARY"],
    )
    serve.start(http_options={"host": "127.0.0.1", "port": PORT}, logging_config={"enable_access_log": False})
    serve.run((Single if BATCHING is None else Batching).bind(), route_prefix="/embed")
    ended.wait()
    serve.shutdown()
    ray.shutdown()
