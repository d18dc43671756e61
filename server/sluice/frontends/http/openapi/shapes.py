"""The JSON that answers are made of, as types; the server writes it without them."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from sluice.frontends.http import schema

Json = dict[str, Any]


class Error(msgspec.Struct):
    """What is wrong, and where."""

    error: str


class OpenAIErrorBody(msgspec.Struct):
    message: str
    type: str
    param: str | None
    code: str | None


class OpenAIError(msgspec.Struct):
    error: OpenAIErrorBody


class RerankError(msgspec.Struct):
    """The same three times, where the clients of each API look for it."""

    error: str
    message: str
    detail: str


class TeiError(msgspec.Struct):
    error: str
    error_type: Literal["Validation", "Tokenizer", "Backend", "Overloaded", "Unhealthy"]


class Live(msgspec.Struct):
    live: bool


class Part(msgspec.Struct):
    kind: str
    name: str
    condition: str
    reason: str


class Ready(msgspec.Struct, omit_defaults=True):
    """`reasons` and what follows come with `?verbose`."""

    ready: bool
    reasons: list[str] = []
    version: str = ""
    pid: int = 0
    uptime: float = 0.0
    parts: list[Part] = []


class Started(msgspec.Struct):
    started: bool


class ServerMetadata(msgspec.Struct):
    name: str
    version: str
    extensions: list[str]


class TensorMetadata(msgspec.Struct):
    name: str
    datatype: str
    shape: list[int]


class ModelMetadata(msgspec.Struct, omit_defaults=True):
    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]
    properties: dict[str, str] = {}


class ModelReady(msgspec.Struct):
    name: str
    ready: bool


class Input(msgspec.Struct, omit_defaults=True):
    """`data` in row-major order, flat or nested; or `parameters.binary_data_size`, and the bytes behind the JSON."""

    name: str
    datatype: str
    shape: schema.Shape
    data: list[Any] = []
    parameters: dict[str, schema.JsonParameter] = {}


class InferRequest(msgspec.Struct, omit_defaults=True):
    inputs: list[Input]
    outputs: list[schema.OutputBody] = []
    id: str = ""
    parameters: dict[str, schema.JsonParameter] = {}


class Output(msgspec.Struct, omit_defaults=True):
    """`data` in row-major order, flat; it is not here where it follows as binary data or is in shared memory."""

    name: str
    datatype: str
    shape: list[int]
    data: list[Any] = []
    parameters: Json = {}


class Inference(msgspec.Struct, omit_defaults=True):
    model_name: str
    model_version: str
    outputs: list[Output]
    id: str = ""
    parameters: Json = {}


class Statistics(msgspec.Struct):
    model_stats: list[Json]


class IndexRow(msgspec.Struct):
    name: str
    version: str
    state: str
    reason: str


class Change(msgspec.Struct):
    """Who gave which alias to which version."""

    time: str
    by: str
    alias: str
    before: str
    after: str
    reason: str


class Aliases(msgspec.Struct):
    model: str
    aliases: dict[str, str]
    default: str
    history: list[Change]


class Region(msgspec.Struct):
    name: str
    key: str
    offset: int
    byte_size: int


class Usage(msgspec.Struct):
    prompt_tokens: int
    total_tokens: int


class Embedding(msgspec.Struct):
    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class Embeddings(msgspec.Struct):
    object: Literal["list"]
    data: list[Embedding]
    model: str
    usage: Usage


class Model(msgspec.Struct):
    id: str
    object: Literal["model"]
    created: int
    owned_by: str


class ModelList(msgspec.Struct):
    object: Literal["list"]
    data: list[Model]


class SparseValue(msgspec.Struct):
    index: int
    value: float


class Finding(msgspec.Struct, omit_defaults=True):
    """A class has a `label`. A named part of the text has what follows: an `entity_group`, if tokens were joined, else
    the `entity` and the `index` of one."""

    score: float
    label: str = ""
    word: str = ""
    start: int = 0
    end: int = 0
    entity_group: str = ""
    entity: str = ""
    index: int = 0


class Rank(msgspec.Struct, omit_defaults=True):
    index: int
    score: float
    text: str = ""


class Token(msgspec.Struct):
    id: int
    text: str
    special: bool
    start: int | None
    stop: int | None


class Pipeline(msgspec.Struct):
    inputs: Any
    parameters: Json = {}
    model: str = ""


class Info(msgspec.Struct):
    model_id: str
    model_sha: str | None
    model_dtype: str
    model_type: Json
    max_concurrent_requests: int
    max_input_length: int | None
    max_client_batch_size: int
    auto_truncate: bool
    prompts: list[str]
    version: str
    sha: str | None
    docker_label: str | None


class DocumentText(msgspec.Struct):
    text: str


class Relevance(msgspec.Struct, omit_defaults=True):
    index: int
    relevance_score: float
    document: DocumentText | None = None


class TotalTokens(msgspec.Struct):
    total_tokens: int


class Reranked(msgspec.Struct):
    id: str
    model: str
    results: list[Relevance]
    usage: TotalTokens
    meta: Json


class Score(msgspec.Struct):
    index: int
    object: Literal["score"]
    score: float


class Scores(msgspec.Struct):
    object: Literal["list"]
    model: str
    data: list[Score]
    usage: Usage


class Answered(msgspec.Struct):
    model_id: str
    model_version: str
    task: str
    output: Any
    usage: dict[str, int]
