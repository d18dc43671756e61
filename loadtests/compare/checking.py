"""Asks a server that has been started until it answers, and checks that what it answers is what the model says."""

from __future__ import annotations

import http.client
import socket
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np

from loadtests.compare.contestants import Contestant, embedding, request, token_ids
from loadtests.compare.processes import ServerProcess
from sluice.bench.address import Address
from sluice.bench.server import SERVICE

LENGTHS = (5, 17, 40, 64, 128, 9, 30, 256)  # asked for at once, so that batches of mixed lengths form
_TOLERANCE = 1e-3  # of a unit vector's elements; padding changes the last bits only
_PAUSE = 0.25
_PATIENCE = 10.0

Embeddings = Mapping[int, "np.ndarray[Any, np.dtype[np.float32]]"]


class CheckError(Exception):
    """A server does not start, or answers wrongly."""


class RefusedError(CheckError):
    """It did not want the request; BentoML refuses until it has learned how fast it is."""


def expected(model: Path, lengths: Sequence[int] = LENGTHS) -> Embeddings:
    """Of the bare model, one text at a time."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    outputs = [port.name for port in session.get_outputs() if len(port.shape) == 2]
    found = {}
    for length in lengths:
        ids = token_ids(length).reshape(1, length)
        feed = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
        found[length] = session.run(outputs, feed)[0][0]
    return found


def wait_until_right(contestant: Contestant, server: ServerProcess, wanted: Embeddings) -> float:
    """Returns when every answer is right; the seconds that took."""
    address = server.how.address
    started = time.monotonic()
    first = min(wanted)
    while True:
        try:
            ask(contestant, address, first)
            break
        except (OSError, grpc.RpcError, http.client.HTTPException, CheckError) as error:
            if not server.running:
                raise CheckError(f"{contestant.name} has ended: {server.last_words()}") from error
            if time.monotonic() - started > server.how.patience:
                raise CheckError(f"{contestant.name} does not answer: {error}: {server.last_words()}") from error
            time.sleep(_PAUSE)
    seconds = time.monotonic() - started
    with ThreadPoolExecutor(len(wanted)) as pool:
        for length, answer in zip(
            wanted, pool.map(lambda each: _insist(contestant, address, each), wanted), strict=True
        ):
            found = embedding(contestant, answer)
            if found.shape != wanted[length].shape or not np.allclose(found, wanted[length], atol=_TOLERANCE):
                raise CheckError(f"{contestant.name} answers wrongly for a text of {length} tokens")
    return seconds


def _insist(contestant: Contestant, address: Address, length: int) -> bytes:
    """Ask until it is not refused."""
    end = time.monotonic() + _PATIENCE
    while True:
        try:
            return ask(contestant, address, length)
        except RefusedError:
            if time.monotonic() > end:
                raise
            time.sleep(_PAUSE)


def ask(contestant: Contestant, address: Address, length: int) -> bytes:
    """One request on a connection of its own."""
    body = request(contestant, address, length)
    if address.grpc:
        with grpc.insecure_channel(address.netloc, [("grpc.use_local_subchannel_pool", 1)]) as channel:
            answer: bytes = channel.unary_unary(f"{SERVICE}/ModelInfer")(body, timeout=_PATIENCE)
            return answer
    with socket.create_connection((address.host, address.port), _PATIENCE) as connection:
        connection.sendall(body)
        reply = http.client.HTTPResponse(connection)
        reply.begin()
        content = reply.read()
        if reply.status != 200:
            kind = RefusedError if reply.status in (429, 503) else CheckError
            raise kind(f"{contestant.name}: HTTP {reply.status}: {content[:200]!r}")
        return content
