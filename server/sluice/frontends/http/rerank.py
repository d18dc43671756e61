"""Reranking and scoring as Cohere, Jina and vLLM do it, and the one simple call for any model that reads texts."""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from sluice.errors import InvalidRequest, SluiceError
from sluice.frontends import status
from sluice.frontends.http import schema
from sluice.frontends.http.reply import REQUEST_ID, Reply, json_reply, with_retry
from sluice.frontends.http.routes import Route
from sluice.frontends.http.tei import best_first, span
from sluice.frontends.http.texts import Texts, answer, check_count, prompted
from sluice.request import Timeline
from sluice.text import answers
from sluice.text.joining import one_by_one
from sluice.text.profile import Truncation
from sluice.text.tokenizing import Text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sluice.frontends.http.exchange import Exchange
    from sluice.frontends.services import Services
    from sluice.text.inputs import TextInput, TextResponse


class Document(msgspec.Struct):
    text: str


class DocumentsBody(msgspec.Struct):
    query: str | Document
    documents: list[str | Document]
    model: str = ""
    top_n: int | None = None
    return_documents: bool | None = False
    max_tokens_per_doc: int | None = None


class ScoreBody(msgspec.Struct):
    text_1: str | list[str]
    text_2: str | list[str]
    model: str = ""
    truncate_prompt_tokens: int | None = None


class Pair(msgspec.Struct):
    text: str
    text_pair: str | None = None


class InferenceParameters(msgspec.Struct):
    truncate: Truncation | None = None
    prompt_name: str | None = None
    dimensions: int | None = None
    normalize: bool | None = None
    raw_scores: bool = False
    aggregation_strategy: Literal["none", "simple", "first", "average", "max"] = "simple"


class InferenceBody(msgspec.Struct):
    model_id: str
    input: str | Pair | list[str | Pair | list[str]]
    parameters: InferenceParameters | None = None


_RERANK = msgspec.json.Decoder(DocumentsBody)
_SCORE = msgspec.json.Decoder(ScoreBody)
_INFERENCE = msgspec.json.Decoder(InferenceBody)


class Rerank:
    """`/v1/rerank`, `/v2/rerank`, `/score` and `/v1/inference`."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._texts = Texts(services)

    def routes(self) -> list[Route]:
        return [
            Route("POST", "/v1/rerank", partial(self.rerank, "1"), error_reply),
            Route("POST", "/v2/rerank", partial(self.rerank, "2"), error_reply),
            Route("POST", "/score", self.score, error_reply),
            Route("POST", "/v1/score", self.score, error_reply),
            Route("POST", "/v1/inference", self.inference),
        ]

    async def rerank(self, api: str, exchange: Exchange) -> Reply:
        timeline = Timeline()
        wanted = schema.decode(_RERANK, await self._texts.read(exchange))
        documents = [one if isinstance(one, str) else one.text for one in wanted.documents]
        query = wanted.query if isinstance(wanted.query, str) else wanted.query.text
        response, scores = await self._ranked(exchange, wanted.model, query, documents, timeline)
        results: list[dict[str, Any]] = [
            {"index": index, "relevance_score": scores[index]}
            | ({"document": {"text": documents[index]}} if wanted.return_documents else {})
            for index in best_first(scores)
        ]
        if wanted.top_n is not None:
            if wanted.top_n < 1:
                raise InvalidRequest(f"top_n: must be at least 1, not {wanted.top_n}")
            results = results[: wanted.top_n]
        value = {
            "id": exchange.headers.get(REQUEST_ID, b"").decode("latin-1") or f"rerank-{uuid.uuid4().hex}",
            "model": wanted.model or response.model,
            "results": results,
            "usage": {"total_tokens": response.tokens},
            "meta": {"api_version": {"version": api}, "billed_units": {"search_units": 1}},
        }
        return await answer(exchange, response, value, timeline)

    async def _ranked(
        self, exchange: Exchange, named: str, query: str, documents: Sequence[str], timeline: Timeline
    ) -> tuple[TextResponse, list[float]]:  # fmt: skip
        check_count(documents, "documents")
        model = self._texts.model(named, "rerank", "classification")
        pairs: list[Text] = [(query, one) for one in documents]
        # Documents are cut unless the operator says otherwise: Cohere and Jina do so.
        response = await self._texts.ask(
            exchange, model, pairs, at="documents", timeline=timeline, truncate=model[2].profile.truncate or "right"
        )
        return response, await one_by_one(answers.scores(response))

    async def score(self, exchange: Exchange) -> Reply:
        """Each text of the first list with that of the second; a single first text with each of the second."""
        timeline = Timeline()
        wanted = schema.decode(_SCORE, await self._texts.read(exchange))
        first = [wanted.text_1] if isinstance(wanted.text_1, str) else wanted.text_1
        second = [wanted.text_2] if isinstance(wanted.text_2, str) else wanted.text_2
        check_count(first, "text_1")
        check_count(second, "text_2")
        if len(first) == 1:
            first = first * len(second)
        if len(first) != len(second):
            raise InvalidRequest(f"text_2: has {len(second)} texts, but text_1 has {len(first)}")
        model = self._texts.model(wanted.model, "rerank", "classification", "embedding")
        if model[2].profile.task == "embedding":
            response, scores = await self._similar(exchange, model, (first, second), timeline, _cut(wanted))
        else:
            pairs: list[Text] = list(zip(first, second, strict=True))
            response = await self._texts.ask(
                exchange, model, pairs, at="text_2", timeline=timeline, truncate=_cut(wanted)
            )
            scores = await one_by_one(answers.scores(response))
        value = {
            "object": "list",
            "model": wanted.model or response.model,
            "data": [{"index": index, "object": "score", "score": one} for index, one in enumerate(scores)],
            "usage": {"prompt_tokens": response.tokens, "total_tokens": response.tokens},
        }
        return await answer(exchange, response, value, timeline)

    async def _similar(
        self,
        exchange: Exchange,
        model: tuple[str, str, TextInput],
        pairs: tuple[Sequence[str], Sequence[str]],
        timeline: Timeline,
        truncate: Literal["right"] | None,
    ) -> tuple[TextResponse, list[float]]:
        """The cosines of two lists' embeddings."""
        first, second = pairs
        different = list(dict.fromkeys([*first, *second]))
        texts = prompted(different, model[2], None)
        response = await self._texts.ask(exchange, model, texts, at="text", timeline=timeline, truncate=truncate)
        vectors = dict(zip(different, await one_by_one(answers.embeddings(response, normalise=True)), strict=True))
        both = zip(first, second, strict=True)
        return response, await one_by_one(float(vectors[one] @ vectors[other]) for one, other in both)

    async def inference(self, exchange: Exchange) -> Reply:
        """Any model that reads texts, answering by its task."""
        timeline = Timeline()
        wanted = schema.decode(_INFERENCE, await self._texts.read(exchange))
        model = self._texts.model(wanted.model_id)
        profile = model[2].profile
        single = not isinstance(wanted.input, list)
        texts = _any_texts(wanted.input if isinstance(wanted.input, list) else [wanted.input])
        parameters = wanted.parameters or InferenceParameters()
        wrong = parameters.dimensions
        if wrong is not None and wrong < 1:
            raise InvalidRequest(f"parameters.dimensions: must be at least 1, not {wrong}")
        tagging = profile.task == "token-classification"
        plain = [one for one in texts if isinstance(one, str)]
        if tagging and len(plain) < len(texts):
            raise InvalidRequest("input: pairs cannot be tagged; send texts")
        if profile.task == "rerank" and plain:
            raise InvalidRequest(f"input: '{wanted.model_id}' says how well two texts go together; send pairs")
        if profile.task in ("embedding", "sparse") and len(plain) == len(texts):
            texts = [*prompted(plain, model[2], parameters.prompt_name)]
        response = await self._texts.ask(
            exchange,
            model,
            texts,
            at="input",
            timeline=timeline,
            truncate=parameters.truncate,
            offsets=tagging,
        )
        if profile.task == "sparse":
            sparse = answers.sparse_in_turn(response)
            output: list[Any] = [{"indices": each[0], "values": each[1]} async for each in sparse]
        else:
            output = await one_by_one(self._answers(response, texts, profile.task, parameters))
        value = {
            "model_id": wanted.model_id,
            "model_version": response.version,
            "task": profile.task,
            "output": output[0] if single else output,
            "usage": {"tokens": response.tokens},
        }
        return await answer(exchange, response, value, timeline)

    @staticmethod
    def _answers(
        response: TextResponse, texts: Sequence[Text], task: str, parameters: InferenceParameters
    ) -> Iterable[Any]:
        activation: Literal["none"] | None = "none" if parameters.raw_scores else None
        match task:
            case "embedding":
                return answers.embeddings(response, parameters.normalize, parameters.dimensions)
            case "classification":
                return (
                    [{"label": one.label, "score": one.score} for one in each]
                    for each in answers.classes(response, activation)
                )
            case "token-classification":
                plain = [one for one in texts if isinstance(one, str)]
                found = answers.spans(response, plain, parameters.aggregation_strategy)
                return ([span(one) for one in each] for each in found)
            case "rerank":
                return answers.scores(response, activation)
        return (part[0].array()[0] for part in response.parts)


def error_reply(error: SluiceError) -> Reply:
    """Errors where Cohere's clients look for them, and Jina's, and everybody else's."""
    told = dict.fromkeys(("error", "message", "detail"), error.message)
    return with_retry(json_reply(told, status.of(error).http), error)


def _cut(wanted: ScoreBody) -> Literal["right"] | None:
    """Whether long texts are cut, always to what the model reads."""
    return "right" if wanted.truncate_prompt_tokens is not None else None


def _any_texts(items: Sequence[str | Pair | list[str]]) -> list[Text]:
    """Texts, or pairs as `{"text": …, "text_pair": …}` or `[…, …]`."""
    check_count(items, "input")
    texts: list[Text] = []
    for index, item in enumerate(items):
        match item:
            case str():
                texts.append(item)
            case [one, other]:
                texts.append((one, other))
            case Pair(text=one, text_pair=second):
                texts.append(one if second is None else (one, second))
            case _:
                raise InvalidRequest(f"input[{index}]: expected a text, or a pair of texts")
    if len({isinstance(one, str) for one in texts}) > 1:
        raise InvalidRequest("input: expected texts or pairs, not a mixture")
    return texts
