"""What each route takes and gives, in the order in which people read it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from sluice.frontends.http import openai, rerank, schema, tei
from sluice.frontends.http.openapi import shapes

OPENAI, TEI, RERANK, SIMPLE = "OpenAI", "Text Embeddings Inference", "Rerank and score", "One call for any text model"
OIP, HEALTH, REPOSITORY, MEMORY, SETTINGS = (
    "Open Inference Protocol",
    "Health",
    "Models and versions",
    "Shared memory",
    "Trace and log settings",
)


@dataclass(frozen=True)
class Operation:
    """One method of one path."""

    method: str
    path: str
    tag: str
    summary: str
    answer: Any
    body: Any = None
    example: Any = None  # of a body
    statuses: tuple[int, ...] = (200,)  # that bring the answer
    query: dict[str, str] = field(default_factory=dict)  # what may stand behind the path, and what it means
    binary: bool = False  # tensors may follow the JSON, both ways
    optional: bool = False  # an empty body is an empty object


def operations() -> Iterator[Operation]:
    yield from _openai()
    yield from _tei()
    yield from _rerank()
    yield from _oip()
    yield from _health()
    yield from _repository()
    yield from _memory()
    yield from _settings()


def _openai() -> Iterator[Operation]:
    example = {"model": "minilm", "input": ["A sluice lets water through.", "The mill stands still."]}
    yield Operation(
        "POST",
        "/v1/embeddings",
        OPENAI,
        "Embeddings of texts or tokens.",
        shapes.Embeddings,
        openai.EmbeddingsBody,
        example,
    )
    yield Operation("GET", "/v1/models", OPENAI, "The models that are ready.", shapes.ModelList)
    yield Operation("GET", "/v1/models/{model}", OPENAI, "One model that is ready.", shapes.Model)


_MODEL = {"model": "The model, where the body names none and several could be meant."}


def _tei() -> Iterator[Operation]:
    def post(path: str, summary: str, answer: Any, body: Any, example: Any) -> Operation:
        return Operation("POST", path, TEI, summary, answer, body, example, query=_MODEL)

    texts = {"inputs": ["A sluice lets water through.", "The mill stands still."]}
    sentence = {"inputs": {"source_sentence": "Water rises.", "sentences": ["The pond fills.", "A dog barks."]}}
    yield post("/embed", "Embeddings, one for each text.", list[list[float]], tei.EmbedBody, texts)
    yield post("/embed_all", "Embeddings, one for each token.", list[list[list[float]]], tei.EmbedBody, texts)
    yield post("/embed_sparse", "Weights over the vocabulary.", list[list[shapes.SparseValue]], tei.EmbedBody, texts)
    yield post(
        "/predict",
        "Classes of texts or pairs, or the named parts of texts.",
        list[Any],
        tei.PredictBody,
        {"inputs": "Anna lives in Berlin."},
    )
    yield post(
        "/rerank",
        "Texts in the order in which they fit a query.",
        list[shapes.Rank],
        tei.RerankBody,
        {"query": "What is a sluice?", "texts": ["A gate in a weir.", "A dog."]},
    )
    yield post("/similarity", "Cosines of one sentence with others.", list[float], tei.SimilarityBody, sentence)
    yield post("/tokenize", "Tokens of texts.", list[list[shapes.Token]], tei.TokenizeBody, texts)
    yield post("/decode", "Texts of tokens.", list[str], tei.DecodeBody, {"ids": [101, 7592, 102]})
    yield Operation("GET", "/info", TEI, "About the model.", shapes.Info, query=_MODEL)
    yield Operation("GET", "/health", TEI, "Whether the server is ready; there is no body.", None, statuses=(200, 503))
    whatever = "What the model is for, in the form of transformers' pipelines."
    for path in ("/", "/models/{model}", "/models/{model}/pipeline/{task}"):
        yield Operation("POST", path, TEI, whatever, list[Any], shapes.Json, {"inputs": "A sluice lets water through."})


def _rerank() -> Iterator[Operation]:
    example = {"model": "reranker", "query": "What is a sluice?", "documents": ["A gate in a weir.", "A dog."]}
    for path in ("/v1/rerank", "/v2/rerank"):
        summary = "Documents in the order in which they fit a query."
        yield Operation("POST", path, RERANK, summary, shapes.Reranked, rerank.RerankBody, example)
    pair = {"text_1": "What is a sluice?", "text_2": ["A gate in a weir.", "A dog."]}
    for path in ("/score", "/v1/score"):
        summary = "How well texts go together."
        yield Operation("POST", path, RERANK, summary, shapes.Scores, rerank.ScoreBody, pair)
    yield Operation(
        "POST",
        "/v1/inference",
        SIMPLE,
        "The model's answer by its task.",
        shapes.Answered,
        rerank.InferenceBody,
        {"model_id": "minilm", "input": "A sluice lets water through."},
    )


def _oip() -> Iterator[Operation]:
    tensor = {"name": "input_ids", "datatype": "INT64", "shape": [1, 4], "data": [101, 7592, 2088, 102]}
    yield Operation("GET", "/v2", OIP, "About the server.", shapes.ServerMetadata)
    yield Operation("GET", "/", OIP, "About the server.", shapes.ServerMetadata)
    yield Operation("GET", "/v2/models/stats", OIP, "What all versions counted.", shapes.Statistics)
    for path in _models():
        yield Operation(
            "POST",
            f"{path}/infer",
            OIP,
            "Infer.",
            shapes.Inference,
            shapes.InferRequest,
            {"inputs": [tensor]},
            binary=True,
        )
        yield Operation("GET", path, OIP, "What the model takes and gives.", shapes.ModelMetadata)
        yield Operation("GET", f"{path}/ready", OIP, "Whether it answers.", shapes.ModelReady, statuses=(200, 503))
        yield Operation("GET", f"{path}/config", OIP, "Its configuration, in Triton's form.", shapes.Json)
        yield Operation("GET", f"{path}/stats", OIP, "What it counted.", shapes.Statistics)


def _models() -> tuple[str, str]:
    return "/v2/models/{model}", "/v2/models/{model}/versions/{version}"


def _health() -> Iterator[Operation]:
    both = (200, 503)
    verbose = {"verbose": "Adds the reasons, and the condition of every part."}
    yield Operation("GET", "/v2/health/live", HEALTH, "Whether the server turns.", shapes.Live, statuses=both)
    yield Operation(
        "GET", "/v2/health/ready", HEALTH, "Whether it can answer.", shapes.Ready, statuses=both, query=verbose
    )
    yield Operation("GET", "/v2/health/started", HEALTH, "Whether its start is over.", shapes.Started, statuses=both)


def _repository() -> Iterator[Operation]:
    for base in ("/v2/repository", "/v2/repository/{repository}"):
        yield Operation(
            "POST",
            f"{base}/index",
            REPOSITORY,
            "Every known version and its state.",
            list[shapes.IndexRow],
            schema.IndexBody,
            {"ready": False},
            optional=True,
        )
        for verb, body in (("load", schema.LoadBody), ("unload", schema.UnloadBody)):
            summary = f"{verb.capitalize()} a model."
            path = f"{base}/models/{{model}}/{verb}"
            yield Operation("POST", path, REPOSITORY, summary, shapes.Json, body, {}, optional=True)
    yield Operation("GET", "/v2/models/{model}/aliases", REPOSITORY, "What its versions are called.", shapes.Aliases)
    yield Operation(
        "POST",
        "/v2/models/{model}/aliases/{alias}",
        REPOSITORY,
        "Give the alias to a version.",
        shapes.Change,
        schema.PromoteBody,
        {"version": "2", "reason": "faster"},
    )


def _memory() -> Iterator[Operation]:
    for kind, word in (("system", "System"), ("cuda", "CUDA")):
        base = f"/v2/{kind}sharedmemory"
        for path in (base, f"{base}/region/{{region}}"):
            yield Operation("GET", f"{path}/status", MEMORY, f"{word} regions.", list[shapes.Region])
            yield Operation(
                "POST", f"{path}/unregister", MEMORY, "Forget them.", shapes.Json, shapes.Json, {}, optional=True
            )
    yield Operation(
        "POST",
        "/v2/systemsharedmemory/region/{region}/register",
        MEMORY,
        "Make a region known.",
        shapes.Json,
        schema.RegionBody,
        {"key": "/mine", "byte_size": 4096},
    )
    yield Operation(
        "POST",
        "/v2/cudasharedmemory/region/{region}/register",
        MEMORY,
        "Refused: CUDA regions are not supported.",
        shapes.Json,
        shapes.Json,
        {},
        optional=True,
    )


def _settings() -> Iterator[Operation]:
    yield Operation("GET", "/v2/logging", SETTINGS, "What is logged.", shapes.Json)
    yield Operation(
        "POST", "/v2/logging", SETTINGS, "Change it.", shapes.Json, shapes.Json, {"log_verbose_level": 1}, optional=True
    )
    for path in ("/v2/trace/setting", "/v2/models/{model}/trace/setting"):
        yield Operation("GET", path, SETTINGS, "What is traced.", shapes.Json)
        yield Operation(
            "POST", path, SETTINGS, "Change it.", shapes.Json, shapes.Json, {"trace_rate": "1000"}, optional=True
        )
