"""What is asked of the server under attack, and what must come back."""

from __future__ import annotations

import numpy as np

from loadtests.bodies import FLOATS, IDENTITY, WIDTH, identity_bodies
from sluice.pb import inference_pb2

_GREEDY_ROWS = 1024  # an answer of 1.5 MB

# What a model's folder says so that it takes the greedy request.
LARGE_BATCHES = f"max_batch_rows = {_GREEDY_ROWS * 2}\n"

ASK = identity_bodies()["HTTP binary"].data
MESSAGE = identity_bodies()["gRPC"].data
ANSWER = np.tile(2 * np.arange(WIDTH, dtype=np.float32), FLOATS // WIDTH).tobytes()


def _greedy() -> bytes:
    rows = np.ones((_GREEDY_ROWS, WIDTH), np.int64)
    inputs = ",".join(
        f'{{"name":"{name}","datatype":"INT64","shape":[{_GREEDY_ROWS},{WIDTH}],'
        f'"parameters":{{"binary_data_size":{rows.nbytes}}}}}'
        for name in ("first", "second")
    )
    head = f'{{"inputs":[{inputs}],"parameters":{{"binary_data_output":true}}}}'.encode()
    body = head + rows.tobytes() * 2
    lines = f"POST /v2/models/{IDENTITY}/infer HTTP/1.1\r\nInference-Header-Content-Length: {len(head)}\r\n"
    return f"{lines}Content-Length: {len(body)}\r\n\r\n".encode() + body


GREEDY = _greedy()


def right(reply: bytes) -> bool:
    """Whether a gRPC reply is the answer to MESSAGE."""
    found = inference_pb2.ModelInferResponse.FromString(reply)
    return list(found.raw_output_contents) == [ANSWER]
