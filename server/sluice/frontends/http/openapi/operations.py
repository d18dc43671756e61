"""What each route takes and gives, in the order in which people read it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from sluice.frontends.http import openai, rerank, schema
from sluice.frontends.http import tei_bodies as tei
from sluice.frontends.http.openapi import shapes

OPENAI, TEI, RERANK, SIMPLE = "OpenAI", "Text Embeddings Inference", "Rerank and score", "One call for any text model"
OIP, HEALTH, REPOSITORY, MEMORY, SETTINGS = (
    "Open Inference Protocol",
    "Health",
    "Models and versions",
    "Shared memory",
    "Trace and log settings",
)
TAGS = {
    OPENAI: "For the client library `openai` and all that speak its language.",
    TEI: "For Hugging Face's clients, and frameworks that know their server. The model is the one that the path, the "
    "body or `?model=` names, or the only one that does such a thing.",
    RERANK: "For clients of Cohere, Jina and vLLM.",
    SIMPLE: "The model's task decides what comes back.",
    OIP: "For tritonclient, KServe and all that speak version 2 of the protocol. What names no version goes to the one "
    "in production.",
    HEALTH: "For load balancers and orchestrators.",
    REPOSITORY: "For operators.",
    MEMORY: "Tensors that need not travel, between processes of one machine.",
    SETTINGS: "Changed while serving.",
}


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
    gives: Any = None  # an example of an answer
    statuses: tuple[int, ...] = (200,)  # that bring the answer
    errors: tuple[int, ...] = ()  # that clients should expect
    query: dict[str, str] = field(default_factory=dict)  # what may stand behind the path, and what it means
    binary: bool = False  # tensors may follow the JSON, both ways
    optional: bool = False  # an empty body is an empty object


# What may happen to a request that is computed; Text Embeddings Inference has codes of its own for some of it.
_COMPUTING = (400, 404, 413, 422, 429, 500, 503, 504)
_TEI_COMPUTING = (404, 413, 422, 424, 429, 503, 504)

_TEXT, _OTHER = "A sluice lets water through.", "The mill stands still."
_DOCUMENTS = ["A gate in a weir.", "A dog."]


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
    usage = {"prompt_tokens": 9, "total_tokens": 9}
    one = {"object": "embedding", "index": 0, "embedding": [0.0213, -0.0637, 0.0491]}
    model = {"id": "minilm", "object": "model", "created": 0, "owned_by": "sluice"}
    yield Operation(
        "POST",
        "/v1/embeddings",
        OPENAI,
        "Embeddings of texts or tokens.",
        shapes.Embeddings,
        openai.EmbeddingsBody,
        {"model": "minilm", "input": [_TEXT]},
        {"object": "list", "data": [one], "model": "minilm", "usage": usage},
        errors=_COMPUTING,
    )
    summary = "The models that are ready."
    yield Operation("GET", "/v1/models", OPENAI, summary, shapes.ModelList, gives={"object": "list", "data": [model]})
    summary = "One model, if it is ready."
    yield Operation("GET", "/v1/models/{model}", OPENAI, summary, shapes.Model, gives=model, errors=(404, 503))


def _tei() -> Iterator[Operation]:
    def post(path: str, summary: str, answer: Any, body: Any, example: Any, gives: Any) -> Operation:
        named = {} if "{model}" in path else {"model": "The model, where the body names none."}
        return Operation("POST", path, TEI, summary, answer, body, example, gives, errors=_TEI_COMPUTING, query=named)

    texts = {"inputs": [_TEXT, _OTHER]}
    vectors = [[0.0213, -0.0637, 0.0491], [0.0117, 0.0352, -0.0208]]
    sparse = [{"index": 2300, "value": 1.62}, {"index": 2943, "value": 0.71}]
    person = {"entity_group": "PER", "score": 0.998, "word": "Anna", "start": 0, "end": 4}
    token = {"id": 7592, "text": "hello", "special": False, "start": 0, "stop": 5}
    sentence = {"inputs": {"source_sentence": "Water rises.", "sentences": ["The pond fills.", "A dog barks."]}}
    query = {"query": "What is a sluice?", "texts": _DOCUMENTS}
    ranks = [{"index": 0, "score": 0.981}, {"index": 1, "score": 0.002}]
    whatever = list[float | shapes.Json | list[float | shapes.Json]]
    predicted = list[shapes.Finding | list[shapes.Finding]]
    yield post("/embed", "Embeddings, one for each text.", list[list[float]], tei.EmbedBody, texts, vectors)
    summary = "The vectors of every token of each text, if the model gives them."
    yield post("/embed_all", summary, list[list[list[float]]], tei.EmbedBody, {"inputs": _TEXT}, [vectors])
    summary = "Weights over the vocabulary, of a sparse model."
    yield post("/embed_sparse", summary, list[list[shapes.SparseValue]], tei.EmbedBody, {"inputs": _TEXT}, [sparse])
    summary = "Classes of texts or pairs, the best first; or the named parts of texts, if the model finds those."
    yield post("/predict", summary, predicted, tei.PredictBody, {"inputs": "Anna lives in Berlin."}, [person])
    summary = "Texts in the order in which they fit a query."
    yield post("/rerank", summary, list[shapes.Rank], tei.RerankBody, query, ranks)
    summary = "The cosines of one sentence with others."
    yield post("/similarity", summary, list[float], tei.SimilarityBody, sentence, [0.612, 0.034])
    summary = "The tokens of texts."
    yield post("/tokenize", summary, list[list[shapes.Token]], tei.TokenizeBody, {"inputs": "hello"}, [[token]])
    summary = "The text of tokens, or of each list of them."
    yield post("/decode", summary, list[str], tei.DecodeBody, {"ids": [101, 7592, 102]}, ["hello"])
    summary = "About the model."
    yield Operation("GET", "/info", TEI, summary, shapes.Info, errors=(404, 422, 503), query={"model": "Which one."})
    summary = "Whether the server is ready; there is no body."
    for path in ("/health", "/ping"):
        yield Operation("GET", path, TEI, summary, None, statuses=(200, 503))
    summary = "What the model is for, in the form of transformers' pipelines."
    for path in ("/", "/models/{model}", "/models/{model}/pipeline/{task}"):
        yield post(path, summary, whatever, shapes.Pipeline, {"inputs": _TEXT}, vectors[:1])


def _rerank() -> Iterator[Operation]:
    ranked = {
        "id": "rerank-4f1c",
        "model": "reranker",
        "results": [{"index": 0, "relevance_score": 0.981}, {"index": 1, "relevance_score": 0.002}],
        "usage": {"total_tokens": 27},
        "meta": {"api_version": {"version": "2"}, "billed_units": {"search_units": 1}},
    }
    scored = {
        "object": "list",
        "model": "reranker",
        "data": [{"index": 0, "object": "score", "score": 0.981}, {"index": 1, "object": "score", "score": 0.002}],
        "usage": {"prompt_tokens": 27, "total_tokens": 27},
    }
    example = {"model": "reranker", "query": "What is a sluice?", "documents": _DOCUMENTS}
    for path in ("/v1/rerank", "/v2/rerank"):
        summary = "Documents in the order in which they fit a query."
        yield Operation(
            "POST", path, RERANK, summary, shapes.Reranked, rerank.DocumentsBody, example, ranked, errors=_COMPUTING
        )
    pair = {"model": "reranker", "text_1": "What is a sluice?", "text_2": _DOCUMENTS}
    for path in ("/score", "/v1/score"):
        summary = "How well the texts of each pair go together; cosines, if the model embeds."
        yield Operation("POST", path, RERANK, summary, shapes.Scores, rerank.ScoreBody, pair, scored, errors=_COMPUTING)
    answered = {
        "model_id": "minilm",
        "model_version": "1",
        "task": "embedding",
        "output": [0.0213, -0.0637, 0.0491],
        "usage": {"tokens": 9},
    }
    yield Operation(
        "POST",
        "/v1/inference",
        SIMPLE,
        "The model's answer to a text, a pair, or each of several.",
        shapes.Answered,
        rerank.InferenceBody,
        {"model_id": "minilm", "input": _TEXT},
        answered,
        errors=_COMPUTING,
    )


def _oip() -> Iterator[Operation]:
    tensor = {"name": "text", "datatype": "BYTES", "shape": [1], "data": [_TEXT]}
    output = {"name": "embedding", "datatype": "FP32", "shape": [1, 3], "data": [0.0213, -0.0637, 0.0491]}
    inferred = {"model_name": "minilm", "model_version": "1", "outputs": [output]}
    metadata = {
        "name": "minilm",
        "versions": ["1"],
        "platform": "onnxruntime_onnx",
        "inputs": [{"name": "input_ids", "datatype": "INT64", "shape": [-1, -1]}],
        "outputs": [{"name": "embedding", "datatype": "FP32", "shape": [-1, 384]}],
    }
    about = Operation("GET", "/v2", OIP, "About the server.", shapes.ServerMetadata)
    yield about
    yield replace(about, path="/")
    yield Operation("GET", "/v2/models/stats", OIP, "What all versions counted.", shapes.Statistics)
    for path in ("/v2/models/{model}", "/v2/models/{model}/versions/{version}"):
        yield Operation(
            "POST",
            f"{path}/infer",
            OIP,
            "Compute a model's outputs, of its own tensors or of texts.",
            shapes.Inference,
            shapes.InferRequest,
            {"inputs": [tensor]},
            inferred,
            errors=tuple(sorted((*_COMPUTING, 501))),
            binary=True,
        )
        unready = (404, 503)
        summary = "What the model takes and gives."
        yield Operation("GET", path, OIP, summary, shapes.ModelMetadata, gives=metadata, errors=unready)
        ready = {"name": "minilm", "ready": True}
        summary = "Whether it answers."
        yield Operation(
            "GET", f"{path}/ready", OIP, summary, shapes.ModelReady, gives=ready, statuses=(200, 503), errors=(404,)
        )
        summary = "Its configuration, in Triton's form."
        yield Operation("GET", f"{path}/config", OIP, summary, shapes.Json, errors=unready)
        yield Operation("GET", f"{path}/stats", OIP, "What it counted.", shapes.Statistics, errors=unready)


def _health() -> Iterator[Operation]:
    both = (200, 503)
    verbose = {"verbose": "Adds the reasons, and the condition of every part; needs no value."}
    summary = "Whether the server turns; if not, restart it."
    yield Operation("GET", "/v2/health/live", HEALTH, summary, shapes.Live, gives={"live": True}, statuses=both)
    summary = "Whether it can answer; if not, send requests elsewhere."
    yield Operation(
        "GET", "/v2/health/ready", HEALTH, summary, shapes.Ready, gives={"ready": True}, statuses=both, query=verbose
    )
    summary = "Whether its start is over."
    yield Operation(
        "GET", "/v2/health/started", HEALTH, summary, shapes.Started, gives={"started": True}, statuses=both
    )


def _repository() -> Iterator[Operation]:
    change = {
        "time": "2026-01-02T03:04:05+00:00",
        "by": "ann",
        "alias": "production",
        "before": "1",
        "after": "2",
        "reason": "faster",
    }
    row = {"name": "minilm", "version": "2", "state": "READY", "reason": ""}
    for base in ("/v2/repository", "/v2/repository/{repository}"):
        summary = "Every known version and its state."
        yield Operation(
            "POST",
            f"{base}/index",
            REPOSITORY,
            summary,
            list[shapes.IndexRow],
            schema.IndexBody,
            {"ready": False},
            [row],
            optional=True,
        )
        verbs: tuple[tuple[str, str, Any], ...] = (
            ("load", "Load a model, or its versions anew.", schema.LoadBody),
            ("unload", "Unload a model, once what it was asked is answered.", schema.UnloadBody),
        )
        for verb, summary, body in verbs:
            path = f"{base}/models/{{model}}/{verb}"
            errors = (400, 404, 501, 503)
            yield Operation("POST", path, REPOSITORY, summary, shapes.Json, body, {}, {}, errors=errors, optional=True)
    yield Operation(
        "GET",
        "/v2/models/{model}/aliases",
        REPOSITORY,
        "What its versions are called, and who said so.",
        shapes.Aliases,
        gives={"model": "minilm", "aliases": {"production": "2"}, "default": "2", "history": [change]},
        errors=(404,),
    )
    yield Operation(
        "POST",
        "/v2/models/{model}/aliases/{alias}",
        REPOSITORY,
        "Give the alias to a version; `production` is what answers where none is named.",
        shapes.Change,
        schema.PromoteBody,
        {"version": "2", "by": "ann", "reason": "faster"},
        change,
        errors=(400, 403, 404, 503),
    )
    yield Operation(
        "DELETE",
        "/v2/models/{model}/aliases/{alias}",
        REPOSITORY,
        "Take the alias away; the version stays.",
        shapes.Change,
        schema.RemoveAliasBody,
        {"by": "ann", "reason": "not needed"},
        change | {"after": ""},
        optional=True,
        errors=(400, 404),
    )


def _memory() -> Iterator[Operation]:
    region = {"name": "mine", "key": "/mine", "offset": 0, "byte_size": 4096}
    for kind, word in (("system", "System"), ("cuda", "CUDA")):
        for path, several in (("", "All"), ("/region/{region}", "One of the")):
            base = f"/v2/{kind}sharedmemory{path}"
            missing = (404,) if path and kind == "system" else ()
            summary = f"{several} {word} regions that are known."
            gives = [region] if kind == "system" else []
            yield Operation("GET", f"{base}/status", MEMORY, summary, list[shapes.Region], gives=gives, errors=missing)
            summary = f"Forget {'one' if path else 'all'} of them; there need not be any."
            yield Operation(
                "POST", f"{base}/unregister", MEMORY, summary, shapes.Json, shapes.Json, {}, {}, optional=True
            )
    yield Operation(
        "POST",
        "/v2/systemsharedmemory/region/{region}/register",
        MEMORY,
        "Make a region known.",
        shapes.Json,
        schema.RegionBody,
        {"key": "/mine", "byte_size": 4096},
        {},
        errors=(400, 501),
    )
    yield Operation(
        "POST",
        "/v2/cudasharedmemory/region/{region}/register",
        MEMORY,
        "Refused: CUDA regions are not supported.",
        None,
        shapes.Json,
        {},
        statuses=(),
        errors=(501,),
        optional=True,
    )


def _settings() -> Iterator[Operation]:
    level = {"log_verbose_level": 1}
    log = {
        "log_file": "",
        "log_info": True,
        "log_warning": True,
        "log_error": True,
        "log_verbose_level": 1,
        "log_format": "default",
    }
    yield Operation("GET", "/v2/logging", SETTINGS, "What is logged.", shapes.Json, gives=log)
    summary = "Change what is logged."
    yield Operation(
        "POST", "/v2/logging", SETTINGS, summary, shapes.Json, shapes.Json, level, log, errors=(400, 501), optional=True
    )
    rate = {"trace_rate": "1000"}
    trace = {
        "trace_file": "",
        "trace_level": ["OFF"],
        "trace_rate": "1000",
        "trace_count": "-1",
        "log_frequency": "0",
        "trace_mode": "triton",
    }
    for path, errors in (("/v2/trace/setting", ()), ("/v2/models/{model}/trace/setting", (404,))):
        yield Operation("GET", path, SETTINGS, "What is traced.", shapes.Json, gives=trace, errors=errors)
        summary = "Change what is traced."
        refused = tuple(sorted((400, 501, *errors)))
        yield Operation(
            "POST", path, SETTINGS, summary, shapes.Json, shapes.Json, rate, trace, errors=refused, optional=True
        )
