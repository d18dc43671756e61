"""The API of Text Embeddings Inference, which Hugging Face's clients and many frameworks call."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import numpy as np

from sluice import __version__
from sluice.errors import (
    DeadlineExceeded,
    InvalidRequest,
    Overloaded,
    QueueFull,
    RequestError,
    SluiceError,
    TooLarge,
    UnknownThing,
)
from sluice.frontends import status
from sluice.frontends.http import schema
from sluice.frontends.http import tei_bodies as bodies
from sluice.frontends.http.pieces import pieces_of_each
from sluice.frontends.http.reply import JSON, Reply, json_reply, with_retry
from sluice.frontends.http.routes import Route
from sluice.frontends.http.tei_bodies import Asked, EmbedBody, PipelineBody, PredictBody, SimilarityBody
from sluice.frontends.http.texts import (
    Texts,
    answer,
    check_count,
    check_tokens,
    prompted,
    texts_or_tokens,
    tokens_of_one,
)
from sluice.frontends.http.timeouts import deadline
from sluice.request import Timeline
from sluice.text import answers, heads
from sluice.text.inputs import MOST_TEXTS
from sluice.text.joining import one_by_one
from sluice.text.tokenizing import Options

if TYPE_CHECKING:
    from sluice.frontends.http.exchange import Exchange
    from sluice.frontends.services import Services
    from sluice.text.heads import Aggregation
    from sluice.text.inputs import TextInput, TextResponse
    from sluice.text.tokenizing import Text


class TextEmbeddingsInference:
    """Its endpoints. The model is the one that the body or the path names, or the only one for the task."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._texts = Texts(services)

    def routes(self) -> list[Route]:
        endpoints = {
            "embed": self.embed,
            "embed_all": self.embed_all,
            "embed_sparse": self.embed_sparse,
            "predict": self.predict,
            "rerank": self.rerank,
            "similarity": self.similarity,
            "tokenize": self.tokenize,
            "decode": self.decode,
        }
        routes = [Route("POST", f"/{name}", endpoint, error_reply) for name, endpoint in endpoints.items()]
        return [
            *routes,
            Route("GET", "/info", self.info, error_reply),
            Route("GET", "/health", self.health, error_reply),
            Route("GET", "/ping", self.health, error_reply),
            Route("POST", "/", self.whatever, error_reply),
            Route("POST", "/models/{model}", self.whatever, error_reply),
            Route("POST", "/models/{model}/pipeline/{task}", self.whatever, error_reply),
        ]

    async def embed(self, exchange: Exchange) -> Reply:
        timeline = Timeline()
        wanted = schema.decode(bodies.EMBED, await self._texts.read(exchange))
        response = await self._embedded(exchange, wanted, timeline, "embedding")
        vectors = await one_by_one(answers.embeddings(response, wanted.normalize, wanted.dimensions))
        return await answer(exchange, response, vectors, timeline)

    async def embed_all(self, exchange: Exchange) -> Reply:
        """The vector of each token, if the model gives them."""
        timeline = Timeline()
        wanted = schema.decode(bodies.EMBED, await self._texts.read(exchange))
        response = await self._embedded(exchange, wanted, timeline, "embedding", per_token=True)
        return await answer(exchange, response, await one_by_one(answers.states(response)), timeline)

    async def embed_sparse(self, exchange: Exchange) -> Reply:
        timeline = Timeline()
        wanted = schema.decode(bodies.EMBED, await self._texts.read(exchange))
        response = await self._embedded(exchange, wanted, timeline, "sparse")
        return await answer(exchange, response, await _weights(response), timeline)

    async def _embedded(
        self, exchange: Exchange, wanted: EmbedBody, timeline: Timeline, task: str, per_token: bool = False
    ) -> TextResponse:  # fmt: skip
        texts = texts_or_tokens(wanted.inputs, "inputs")
        model = self._model(exchange, wanted.model, task)
        if wanted.dimensions is not None and wanted.dimensions < 1:
            raise InvalidRequest(f"dimensions: must be at least 1, not {wanted.dimensions}")
        if isinstance(texts[0], str):
            texts = prompted([one for one in texts if isinstance(one, str)], model[2], wanted.prompt_name)
        output = _per_token(model[2]) if per_token else ""
        return await self._texts.ask(
            exchange, model, texts, at="inputs", timeline=timeline, truncate=wanted.direction, output=output
        )

    async def predict(self, exchange: Exchange) -> Reply:
        """Classes of texts or pairs; named parts of texts, if that is what the model finds."""
        timeline = Timeline()
        wanted = schema.decode(bodies.PREDICT, await self._texts.read(exchange))
        single, texts = _texts_or_pairs(wanted.inputs)
        model = self._model(exchange, wanted.model, "classification", "token-classification", "rerank")
        if model[2].profile.task == "token-classification":
            return await self._spans(exchange, model, wanted, single, texts, timeline)
        raw = model[2].profile.raw if wanted.raw_scores else ""
        response = await self._texts.ask(
            exchange, model, texts, at="inputs", timeline=timeline, truncate=wanted.direction, output=raw
        )
        found = await one_by_one(
            [{"score": one.score, "label": one.label} for one in each]
            for each in answers.classes(response, "none" if wanted.raw_scores else None)
        )
        return await answer(exchange, response, found[0] if single else found, timeline)

    async def _spans(
        self,
        exchange: Exchange,
        model: tuple[str, str, TextInput],
        wanted: PredictBody,
        single: bool,
        texts: list[Text],
        timeline: Timeline,
    ) -> Reply:
        plain = [one for one in texts if isinstance(one, str)]
        if len(plain) < len(texts):
            raise InvalidRequest("inputs: pairs cannot be tagged; send texts")
        response = await self._texts.ask(
            exchange, model, plain, at="inputs", timeline=timeline, truncate=wanted.direction, offsets=True
        )
        aggregation: Aggregation = wanted.aggregation_strategy
        found = await one_by_one([span(one) for one in each] for each in answers.spans(response, plain, aggregation))
        return await answer(exchange, response, found[0] if single else found, timeline)

    async def rerank(self, exchange: Exchange) -> Reply:
        timeline = Timeline()
        wanted = schema.decode(bodies.RERANK, await self._texts.read(exchange))
        check_count(wanted.texts, "texts")
        model = self._model(exchange, wanted.model, "rerank", "classification")
        pairs = [(wanted.query, one) for one in wanted.texts]
        raw = model[2].profile.raw if wanted.raw_scores else ""
        response = await self._texts.ask(
            exchange, model, pairs, at="texts", timeline=timeline, truncate=wanted.direction, output=raw
        )
        scores = await one_by_one(answers.scores(response, "none" if wanted.raw_scores else None))
        ranks: list[dict[str, Any]] = [
            {"index": index, "score": scores[index]} | ({"text": wanted.texts[index]} if wanted.return_text else {})
            for index in best_first(scores)
        ]
        return await answer(exchange, response, ranks, timeline)

    async def similarity(self, exchange: Exchange) -> Reply:
        timeline = Timeline()
        wanted = schema.decode(bodies.SIMILARITY, await self._texts.read(exchange))
        return await self._similarity(exchange, wanted, timeline)

    async def _similarity(self, exchange: Exchange, wanted: SimilarityBody, timeline: Timeline) -> Reply:
        parameters = wanted.parameters or bodies.SimilarityParameters()
        check_count(wanted.inputs.sentences, "inputs.sentences")
        model = self._model(exchange, wanted.model, "embedding")
        texts = prompted([wanted.inputs.source_sentence, *wanted.inputs.sentences], model[2], parameters.prompt_name)
        asked = Asked(truncate=parameters.truncate, truncation_direction=parameters.truncation_direction)
        response = await self._texts.ask(
            exchange, model, texts, at="inputs", timeline=timeline, truncate=asked.direction
        )
        vectors = answers.embeddings(response, normalise=True)
        source = next(vectors)
        return await answer(
            exchange, response, await one_by_one(float(np.dot(source, one)) for one in vectors), timeline
        )

    async def tokenize(self, exchange: Exchange) -> Reply:
        received = time.monotonic()
        wanted = schema.decode(bodies.TOKENIZE, await self._texts.read(exchange))
        _, _, text = self._model(exchange, wanted.model)
        texts = [wanted.inputs] if isinstance(wanted.inputs, str) else wanted.inputs
        check_count(texts, "inputs")
        texts = prompted(texts, text, wanted.prompt_name) if wanted.prompt_name else texts
        exchange.cancel_on_disconnect = True
        encoded = await self._services.engine.tokens(
            text,
            texts,
            Options(special=wanted.add_special_tokens, offsets=True),
            "inputs",
            deadline(exchange.headers, received),
        )
        made = [
            await one_by_one(
                {
                    "id": int(number),
                    "text": text.tokenizer.token(int(number)) if special else one[start:stop],
                    "special": special,
                    "start": None if special else start,
                    "stop": None if special else stop,
                }
                for number, (start, stop), special in zip(each.ids, each.offsets, each.special, strict=True)
            )
            for one, each in zip(texts, encoded, strict=True)
        ]
        return Reply(200, [JSON], tuple(await one_by_one(pieces_of_each(made))))

    async def decode(self, exchange: Exchange) -> Reply:
        received = time.monotonic()
        wanted = schema.decode(bodies.DECODE, await self._texts.read(exchange))
        _, _, text = self._model(exchange, wanted.model)
        if not wanted.ids:
            raise InvalidRequest("ids: is empty")
        mixed = "expected tokens, or tokens of several texts, not a mixture"
        lists = [one for one in wanted.ids[: MOST_TEXTS + 1] if isinstance(one, list)]
        if not lists:
            lists = [tokens_of_one(wanted.ids, "ids", mixed)]
        else:
            check_count(wanted.ids, "ids")
            if len(lists) < len(wanted.ids):
                raise InvalidRequest(f"ids: {mixed}")
            check_tokens(sum(map(len, lists)), "ids")
        exchange.cancel_on_disconnect = True
        until = deadline(exchange.headers, received)
        return json_reply(await self._services.engine.decoded(text, lists, wanted.skip_special_tokens, until))

    async def info(self, exchange: Exchange) -> Reply:
        """About the only model that takes texts, or the one that `?model=` names."""
        name, _, text = self._model(exchange, "")
        profile = text.profile
        limits = self._services.limits
        kinds = {"embedding": "embedding", "rerank": "reranker", "sparse": "embedding"}
        labels = {label: index for index, label in enumerate(profile.labels)}
        told: dict[str, Any] = {"pooling": profile.pooling or "none"} if profile.task == "embedding" else {}
        if labels:
            told = {"id2label": {str(index): label for label, index in labels.items()}, "label2id": labels}
        return json_reply(
            {
                "model_id": name,
                "model_sha": None,
                "model_dtype": profile.output.datatype.lower() if profile.output is not None else "",
                "model_type": {kinds.get(profile.task, "classifier"): told},
                "max_concurrent_requests": limits.max_connections,
                "max_input_length": text.max_length,
                "max_client_batch_size": MOST_TEXTS,
                "auto_truncate": profile.truncate is not None,
                "prompts": sorted(profile.prompts),
                "version": __version__,
                "sha": None,
                "docker_label": None,
            }
        )

    async def health(self, exchange: Exchange) -> Reply:
        ready = self._services.health.ready()
        return Reply(200 if ready else 503, [], ())

    async def whatever(self, exchange: Exchange) -> Reply:
        """What the model is for, as Hugging Face's clients ask when they are given an address."""
        timeline = Timeline()
        content = await self._texts.read(exchange)
        wanted = schema.decode(bodies.WHATEVER, content)
        if exchange.path.get("task") == "sentence-similarity" or wanted.compares:
            return await self._similarity(exchange, schema.decode(bodies.SIMILARITY, content), timeline)
        _, _, text = self._model(exchange, wanted.model)
        if text.profile.task in ("embedding", "sparse"):
            asked = schema.decode(bodies.EMBED, content)
            response = await self._embedded(exchange, asked, timeline, text.profile.task)
            if text.profile.task == "sparse":
                return await answer(exchange, response, await _weights(response), timeline)
            vectors = await one_by_one(answers.embeddings(response, asked.normalize, asked.dimensions))
            return await answer(exchange, response, vectors, timeline)
        return await self._pipeline(exchange, schema.decode(bodies.PIPELINE, content), timeline)

    async def _pipeline(self, exchange: Exchange, wanted: PipelineBody, timeline: Timeline) -> Reply:
        """Classes as transformers' pipelines give them: a list of them for each text, also for a single one."""
        parameters = wanted.parameters or bodies.PipelineParameters()
        if parameters.top_k is not None and parameters.top_k < 1:
            raise InvalidRequest(f"parameters.top_k: must be at least 1, not {parameters.top_k}")
        single, texts = _texts_or_pairs(wanted.inputs)
        model = self._model(exchange, wanted.model, "classification", "token-classification", "rerank")
        if model[2].profile.task == "token-classification":
            wanted.aggregation_strategy = parameters.aggregation_strategy
            return await self._spans(exchange, model, wanted, single, texts, timeline)
        response = await self._texts.ask(
            exchange, model, texts, at="inputs", timeline=timeline, truncate=model[2].profile.truncate or "right"
        )
        found = answers.classes(response, parameters.function_to_apply)
        value = await one_by_one(
            [{"score": one.score, "label": one.label} for one in each[: parameters.top_k]] for each in found
        )
        return await answer(exchange, response, value, timeline)

    def _model(self, exchange: Exchange, named: str, *tasks: str) -> tuple[str, str, TextInput]:
        return self._texts.model(exchange.model or named or exchange.asked("model"), *tasks)


def span(one: heads.Span) -> dict[str, Any]:
    """As transformers' pipelines give it."""
    kind = {"entity_group": one.label} if one.index is None else {"entity": one.label, "index": one.index}
    return kind | {"score": one.score, "word": one.word, "start": one.start, "end": one.end}


async def _weights(response: TextResponse) -> list[list[dict[str, Any]]]:
    """Sparse vectors."""
    return [
        await one_by_one(
            {"index": index, "value": value} for index, value in zip(*(one.tolist() for one in each), strict=True)
        )
        async for each in answers.sparse_in_turn(response)
    ]


def best_first(scores: list[float]) -> list[int]:
    return sorted(range(len(scores)), key=lambda index: -scores[index])


def _per_token(text: TextInput) -> str:
    """The output with a vector for each token."""
    own = text.profile.output
    found = [one for one in text.spec.outputs if len(one.shape) == 3 and one.datatype.startswith("FP")]
    if own is not None and len(own.shape) == 3:
        return own.name
    if not found:
        raise InvalidRequest(f"model: '{text.spec.name}' gives no vectors of tokens")
    return found[0].name


def _texts_or_pairs(given: str | list[str | list[str]]) -> tuple[bool, list[Text]]:
    """Whether it is one text or pair, and it or them. A list of two texts is a pair; a list of lists is a batch."""
    if isinstance(given, str):
        return True, [given]
    if not given:
        raise InvalidRequest("inputs: is empty")
    plain = [one for one in given if isinstance(one, str)]
    if len(plain) == len(given):
        if len(plain) > 2:
            raise InvalidRequest("inputs: a list of texts is one text or a pair; several are lists of one text each")
        return True, [(plain[0], plain[1])] if len(plain) == 2 else [plain[0]]
    check_count(given, "inputs")
    texts: list[Text] = []
    for index, one in enumerate(given):
        if isinstance(one, str) or len(one) not in (1, 2):
            raise InvalidRequest(f"inputs[{index}]: expected a list of one text, or of the two of a pair")
        texts.append((one[0], one[1]) if len(one) == 2 else one[0])
    if len({isinstance(one, str) for one in texts}) > 1:
        raise InvalidRequest("inputs: expected texts or pairs, not a mixture")
    return False, texts


def error_reply(error: SluiceError) -> Reply:
    """Errors as its clients know them."""
    code, kind = _code(error)
    return with_retry(json_reply({"error": error.message, "error_type": kind}, code), error)


def _code(error: SluiceError) -> tuple[int, str]:
    usual = status.of(error).http
    match error:
        case Overloaded() | QueueFull():
            return 429, "Overloaded"
        case TooLarge():
            return 413, "Validation"
        case UnknownThing() | DeadlineExceeded():
            return usual, "Backend"
        case InvalidRequest():
            return 422, "Tokenizer" if "tokenized" in error.message else "Validation"
        case RequestError():
            return usual, "Validation"
    return (424 if usual == 500 else usual), "Unhealthy" if usual == 503 else "Backend"
