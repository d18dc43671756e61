"""A process that tokenizes: many requests at a time as the server does it, beside the library's own batches.

Its argument is a `tokenizer.json`. Each line on standard input asks for one run; the answer is a line with CPU µs per
text. It ends when its input does.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

IN_FLIGHT = 64


def library(tokenizer: Any, texts: list[str], seconds: float) -> float:
    """Batches of as many as are in flight, and nothing done with what comes out."""
    return _cost(lambda: len(tokenizer.encode_batch(texts)), seconds)


def arrays(tokenizer: Any, texts: list[str], seconds: float) -> float:
    """The same in the library's faster way, with the tokens as arrays, which any server has to make of them."""
    import numpy as np

    def batch() -> int:
        return len([np.array(one.ids, np.int64) for one in tokenizer.encode_batch_fast(texts)])

    return _cost(batch, seconds)


def _cost(batch: Callable[[], int], seconds: float) -> float:
    batch()
    done, began, end = 0, time.process_time(), time.perf_counter() + seconds
    while time.perf_counter() < end:
        done += batch()
    return (time.process_time() - began) / done * 1e6


async def served(path: Path, texts: list[str], seconds: float) -> float:
    """As many requests as are in flight, each of one text, and each sent again as soon as it is answered."""
    from sluice.text.tokenizing import Tokenizer, Tokenizing

    tokenizer, tokenizing = Tokenizer(path), Tokenizing()
    done, end = 0, time.perf_counter() + seconds

    async def ask(text: str) -> None:
        nonlocal done
        while time.perf_counter() < end:
            await tokenizing.encode(tokenizer, [text])
            done += 1

    await tokenizing.encode(tokenizer, texts)
    began = time.process_time()
    await asyncio.gather(*(ask(text) for text in texts))
    used = time.process_time() - began
    tokenizing.close()
    return used / done * 1e6


def main(path: Path) -> None:
    import tokenizers
    import uvloop

    from loadtests.texts.words import Words

    plain = tokenizers.Tokenizer.from_file(str(path))
    plain.no_padding()
    plain.no_truncation()
    print(json.dumps({}), flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        texts = Words(path).texts([order["tokens"]] * IN_FLIGHT)
        seconds = order["seconds"]
        figures = {
            "library_cpu_us": library(plain, texts, seconds),
            "server_cpu_us": uvloop.run(served(path, texts, seconds)),
            "arrays_cpu_us": arrays(plain, texts, seconds),
        }
        print(json.dumps(figures), flush=True)


if __name__ == "__main__":
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # CPU is compared, and threads of the library would only add to it
    main(Path(sys.argv[1]))
