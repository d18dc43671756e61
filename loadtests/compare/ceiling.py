"""A process that runs the bare model on its share of a mix: one thread, sorted by length, batched without padding.

Arguments: the model file, which of how many such processes it is. It first prints how long the model alone takes at a
few lengths. Each line on standard input then names a mix and a number of texts; the answer is a line with the rate of
this process. It ends when its input does.
"""

from __future__ import annotations

import json
import sys
import time
from itertools import groupby
from typing import Any

import numpy as np
import onnxruntime

from loadtests.compare.traces import representative
from sluice.bench.traffic import mix

TOKENS = 256  # in one batch; more gains nothing on the processors this was tried on
ALONE = (8, 16, 32, 64, 128, 256, 384, 512)
_TIMES = 5

Feed = dict[str, "np.ndarray[Any, np.dtype[np.int64]]"]


def batches(lengths: list[int], tokens: int = TOKENS) -> list[tuple[int, int]]:
    """(rows, length) of batches of equal lengths, none of more tokens than that unless one text alone has more."""
    found = []
    for length, same in groupby(sorted(lengths)):
        left = len(list(same))
        most = max(1, tokens // length)
        while left:
            found.append((min(most, left), length))
            left -= found[-1][0]
    return found


def dealt(every: list[tuple[int, int]], number: int, processes: int) -> list[tuple[int, int]]:
    """One process's share: dealt from the largest down, back and forth, so that shares are alike."""
    ordered = sorted(every, key=lambda batch: (batch[0] * batch[1], batch), reverse=True)
    return [
        batch
        for place, batch in enumerate(ordered)
        if (place % processes if place // processes % 2 == 0 else processes - 1 - place % processes) == number
    ]


def _feed(rows: int, length: int) -> Feed:
    ids = np.random.default_rng(length).integers(1000, 20000, (rows, length), dtype=np.int64)
    return {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}


def main(path: str, number: int, processes: int) -> None:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    outputs = [port.name for port in session.get_outputs() if len(port.shape) == 2]

    def seconds(feed: Feed) -> float:
        started = time.perf_counter()
        session.run(outputs, feed)
        return time.perf_counter() - started

    alone = [] if number else [(length, min(seconds(_feed(1, length)) for _ in range(_TIMES))) for length in ALONE]
    print(json.dumps({"alone": alone}), flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        share = dealt(batches(representative(mix(order["mix"]), order["texts"], seed=1)), number, processes)
        np.random.default_rng(1).shuffle(share)
        feeds = {batch: _feed(*batch) for batch in set(map(tuple, share))}
        started = time.perf_counter()
        for batch in share:
            session.run(outputs, feeds[tuple(batch)])
        elapsed = time.perf_counter() - started
        print(json.dumps({"rate": sum(rows for rows, _ in share) / elapsed}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
