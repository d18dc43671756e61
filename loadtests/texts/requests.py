"""What requests of texts cost the server, beside the same as tokens over the Open Inference Protocol."""

from __future__ import annotations

import contextlib
import statistics
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from loadtests.bodies import Body, http_binary_body, http_request, lengths
from loadtests.children import Child, Figures, Run, Target, child, measure, noting, whole_server
from loadtests.texts.words import CHEAP, TOKENIZER, Words, write_cheap

USUAL = 24  # tokens of a text, where all are alike
MOST = 128  # tokens of the longest, where they differ: who sends tokens pads to it
BATCH = 32  # texts of a large request
PROTOCOL = "HTTP"

# Texts of a request, and how many requests are in flight.
LOADS = ((1, 1), (1, 64), (BATCH, 8))

Texts = Sequence[str]
Make = Callable[[str, Texts], Body]


@dataclass(frozen=True, slots=True)
class Maker:
    """Makes requests for one model."""

    tokenizer: Any  # the library's
    typed: bool = False  # the model has `token_type_ids`

    def tokens(self, model: str, texts: Texts) -> Body:
        """What a client sends that tokenizes by itself; it has to pad as well."""
        ids = [one.ids for one in self.tokenizer.encode_batch(list(texts))]
        shape = (len(ids), max(map(len, ids)))
        arrays = {name: np.zeros(shape, np.int64) for name in ("input_ids", "attention_mask")}
        for row, one in enumerate(ids):
            arrays["input_ids"][row, : len(one)] = one
            arrays["attention_mask"][row, : len(one)] = 1
        if self.typed:
            arrays["token_type_ids"] = np.zeros(shape, np.int64)
        return http_binary_body(model, arrays)

    def text_tensor(self, model: str, texts: Texts) -> Body:
        sent = [{"name": "text", "datatype": "BYTES", "shape": [len(texts)], "data": texts}]
        body = orjson.dumps({"inputs": sent, "parameters": {"binary_data_output": True}})
        return Body(http_request(f"/v2/models/{model}/infer", body))

    @staticmethod
    def base64(model: str, texts: Texts) -> Body:
        return _embeddings(model, texts, "base64")

    @staticmethod
    def floats(model: str, texts: Texts) -> Body:
        return _embeddings(model, texts, "float")

    def ways(self) -> Mapping[str, Make]:
        return {
            "OIP binary, tokens": self.tokens,
            "OIP, text": self.text_tensor,
            "/v1/embeddings, base64": self.base64,
            "/v1/embeddings, float": self.floats,
        }


def _embeddings(model: str, texts: Texts, form: str) -> Body:
    body = orjson.dumps({"model": model, "input": texts, "encoding_format": form})
    return Body(http_request("/v1/embeddings", body))


def tokenizer_of(path: Path) -> Any:
    import tokenizers

    found = tokenizers.Tokenizer.from_file(str(path))
    found.no_padding()
    found.no_truncation()
    return found


def where(repository: Path, model: str, notes: list[str]) -> Path | None:
    """The demo model's tokenizer, which the cheap model uses as well."""
    found = sorted(repository.resolve().glob(f"{model}/*/{TOKENIZER}"))
    if not found:
        notes.append(f"no tokenizer of '{model}' in {repository}: what texts cost was not measured")
        return None
    return found[-1]


@contextlib.contextmanager
def cheap_repository(tokenizer: Path) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="sluice-texts-") as directory:
        repository = Path(directory) / "models"
        write_cheap(repository, tokenizer)
        yield repository


def costs(repository: Path, model: str, rounds: int, seconds: float, notes: list[str]) -> list[dict[str, Any]]:
    """Server CPU per request of each way of sending texts to a model that costs nothing, in interleaved rounds."""
    tokenizer = where(repository, model, notes)
    if tokenizer is None:
        return []
    maker, words = Maker(tokenizer_of(tokenizer)), Words(tokenizer)
    rows: dict[tuple[str, int, int], list[Figures]] = {}
    with contextlib.ExitStack() as stack, noting(notes, "texts: "):
        client = stack.enter_context(child("client"))
        target = stack.enter_context(whole_server(stack.enter_context(cheap_repository(tokenizer))))
        for _ in range(rounds):
            for texts, in_flight in LOADS:
                bodies = {
                    way: [make(CHEAP, words.texts([USUAL] * texts)) for _ in range(64)]
                    for way, make in maker.ways().items()
                }
                for way, sent in bodies.items():
                    figures = measure(client, target, Run(PROTOCOL, in_flight, seconds), sent)
                    rows.setdefault((way, texts, in_flight), []).append(figures)
    return _compared(rows)


def served(repository: Path, model: str, rounds: int, seconds: float, notes: list[str]) -> list[dict[str, Any]]:
    """The same with the demo model and texts of mixed lengths."""
    tokenizer = where(repository, model, notes)
    if tokenizer is None:
        return []
    maker, words = Maker(tokenizer_of(tokenizer), typed=True), Words(tokenizer)
    drawn = words.texts([min(length, MOST) for length in lengths(256)])
    rows: dict[tuple[str, int, int], list[Figures]] = {}
    with contextlib.ExitStack() as stack, noting(notes, f"{model}: "):
        client = stack.enter_context(child("client"))
        target = stack.enter_context(whole_server(repository.resolve()))
        for _ in range(rounds):
            for texts, in_flight in ((1, 64), (BATCH, 2)):
                for way, make in maker.ways().items():
                    sent = [make(model, drawn[at : at + texts]) for at in range(0, len(drawn), texts)]
                    window = 2 * seconds if texts > 1 else seconds
                    figures = measure(client, target, Run(PROTOCOL, in_flight, window), sent)
                    rows.setdefault((way, texts, in_flight), []).append(figures)
    return _compared(rows)


def _compared(rows: Mapping[tuple[str, int, int], list[Figures]]) -> list[dict[str, Any]]:
    """Medians, and the median of the rounds' ratios to the first way under the same load."""
    found = []
    for (way, texts, in_flight), measured in rows.items():
        base = next(value for key, value in rows.items() if key[1:] == (texts, in_flight))
        row: dict[str, Any] = {"way": way, "texts": texts, "in_flight": in_flight}
        for name in ("cpu_us", "requests_per_second", "p50_ms"):
            row[name] = statistics.median(one[name] for one in measured)
            pairs = zip(measured, base, strict=False)
            row[f"{name}_ratio"] = statistics.median(one[name] / other[name] for one, other in pairs)
        row["cpu_us_per_text"] = row["cpu_us"] / texts
        row["texts_per_second"] = row["requests_per_second"] * texts
        found.append(row)
    return sorted(found, key=lambda row: (row["texts"], row["in_flight"]))


USUAL_TITLE = f"Texts of {USUAL} tokens, a model that costs nothing"


def show(console: Console, rows: Sequence[Mapping[str, Any]], title: str = USUAL_TITLE) -> None:
    if not rows:
        return
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    for heading in ("", "texts", "in flight", "req/s", "ratio", "CPU µs", "ratio"):
        table.add_column(heading, justify="right" if heading else "left", no_wrap=True)
    for row in rows:
        table.add_row(
            row["way"],
            str(row["texts"]),
            str(row["in_flight"]),
            f"{row['requests_per_second']:,.0f}",
            f"x{row['requests_per_second_ratio']:.2f}",
            f"{row['cpu_us']:,.0f}",
            f"x{row['cpu_us_ratio']:.2f}",
        )
    console.print(table)


# Answers used again


@dataclass(frozen=True, slots=True)
class Case:
    """Traffic to one of two servers: one that keeps answers, and one that does not."""

    name: str
    keeps: bool
    bodies: list[Body]


def cached(repository: Path, model: str, rounds: int, seconds: float, notes: list[str]) -> list[dict[str, Any]]:
    """Hits, misses and requests in flight together, with the model that costs nothing and with the demo model."""
    tokenizer = where(repository, model, notes)
    if tokenizer is None:
        return []
    words = Words(tokenizer)
    few = [Maker.base64("MODEL", [words.text(USUAL)]) for _ in range(64)]
    many = [Maker.base64("MODEL", [words.text(USUAL)]) for _ in range(8192)]
    pairs = [body for body in many[:1024] for _ in range(8)]  # eight in a row are the same
    cases = [
        Case("no cache", False, many),
        Case("cache, all misses", True, many),
        Case("cache, all hits", True, few),
        Case("cache, 8 of each at once", True, pairs),
    ]
    found = []
    with contextlib.ExitStack() as stack:
        client = stack.enter_context(child("client"))
        cheap = stack.enter_context(cheap_repository(tokenizer))
        for name, place, length in ((CHEAP, cheap, seconds), (model, repository.resolve(), 3 * seconds)):
            with contextlib.ExitStack() as servers, noting(notes, f"{name}, cache: "):
                plain = servers.enter_context(whole_server(place))
                # Room for some hundreds of answers: what comes round after thousands is gone.
                keeping = servers.enter_context(whole_server(place, "--response-cache", str(1 << 20)))
                found += _cases(client, {False: plain, True: keeping}, name, cases, rounds, length)
    return found


def _cases(
    client: Child, targets: Mapping[bool, Target], model: str, cases: Sequence[Case], rounds: int, seconds: float
) -> list[dict[str, Any]]:  # fmt: skip
    rows: dict[tuple[str, int, int], list[Figures]] = {}
    for _ in range(rounds):
        for case in cases:
            bodies = [Body(_named(body.data, model)) for body in case.bodies]
            figures = measure(client, targets[case.keeps], Run(PROTOCOL, 64, seconds), bodies)
            rows.setdefault((case.name, 1, 64), []).append(figures)
    return [{"model": model} | row for row in _compared(rows)]


def _named(request: bytes, model: str) -> bytes:
    """The request with its model's name in the place that was kept for it."""
    _, _, body = request.partition(b"\r\n\r\n")
    return http_request("/v1/embeddings", body.replace(b'"MODEL"', b'"%b"' % model.encode(), 1))
