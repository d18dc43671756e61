"""LitServe's adapter: binary bodies, and its own batching when it is on."""

from typing import Annotated

import litserve
from embedder import BATCHING, PORT, WORKERS, Embedder, ids
from fastapi import Body, Response


class EmbedderApi(litserve.LitAPI):
    def setup(self, device):
        self._embed = Embedder()

    def decode_request(self, request: Annotated[bytes, Body(media_type="application/octet-stream")]):
        return ids(request)

    def predict(self, texts):
        if BATCHING is None:
            return self._embed([texts])[0].tobytes()
        return [row.tobytes() for row in self._embed(texts)]

    def encode_response(self, output):
        return Response(output, media_type="application/octet-stream")


class BatchingApi(EmbedderApi):
    def batch(self, inputs):
        return inputs  # of different lengths: a list, padded by predict

    def unbatch(self, output):
        return output


if __name__ == "__main__":
    if BATCHING is None:
        api = EmbedderApi()
    else:
        api = BatchingApi(max_batch_size=BATCHING["rows"], batch_timeout=BATCHING["delay_ms"] / 1000)
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=WORKERS, fast_queue=True)
    server.run(host="127.0.0.1", port=PORT, generate_client_file=False, log_level="warning", access_log=False)
