"""OpenAI's API, as far as it is about embeddings: `/v1/embeddings` and `/v1/models`."""

from __future__ import annotations

import base64
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from sluice.errors import InvalidRequest, RequestError, SluiceError, UnknownModel
from sluice.frontends import status
from sluice.frontends.http import body, schema
from sluice.frontends.http.reply import Reply, json_reply, with_retry
from sluice.frontends.http.routes import Route
from sluice.frontends.http.texts import Texts, answer, direction, prompted, texts_or_tokens
from sluice.request import Timeline
from sluice.text import answers
from sluice.text.joining import one_by_one

if TYPE_CHECKING:
    from sluice.frontends.http.exchange import Exchange
    from sluice.frontends.services import Services


class EmbeddingsBody(msgspec.Struct):
    input: str | list[str | int | list[int]]
    model: str = ""
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = None
    user: str | None = None
    prompt_name: str | None = None  # ours, beyond what OpenAI has
    truncate: bool | Literal["left", "right"] | None = None


EMBEDDINGS = msgspec.json.Decoder(EmbeddingsBody)


class OpenAI:
    """Endpoints as the client library `openai` and many others call them."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._texts = Texts(services)

    def routes(self) -> list[Route]:
        return [
            Route("POST", "/v1/embeddings", partial(_spoken, self.embeddings)),
            Route("GET", "/v1/models", partial(_spoken, self.models)),
            Route("GET", "/v1/models/{model}", partial(_spoken, self.model)),
        ]

    async def embeddings(self, exchange: Exchange) -> Reply:
        timeline = Timeline()
        services = self._services
        with services.engine.reading:
            services.engine.check_memory()
            wanted = schema.decode(EMBEDDINGS, await body.read(exchange, services.limits.max_message_bytes))
            texts = texts_or_tokens(wanted.input, "input")
            model = self._texts.model(wanted.model, "embedding")
            if wanted.dimensions is not None and wanted.dimensions < 1:
                raise InvalidRequest(f"dimensions: must be at least 1, not {wanted.dimensions}")
            if isinstance(texts[0], str):
                texts = prompted([one for one in texts if isinstance(one, str)], model[2], wanted.prompt_name)
        truncate = direction(wanted.truncate)
        response = await self._texts.ask(exchange, model, texts, at="input", timeline=timeline, truncate=truncate)
        is_text = wanted.encoding_format == "base64"
        value = {
            "object": "list",
            "data": await one_by_one(
                {
                    "object": "embedding",
                    "index": index,
                    "embedding": base64.b64encode(one.astype("<f4", copy=False).tobytes()).decode() if is_text else one,
                }
                for index, one in enumerate(answers.embeddings(response, dimensions=wanted.dimensions))
            ),
            "model": wanted.model or response.model,
            "usage": {"prompt_tokens": response.tokens, "total_tokens": response.tokens},
        }
        return await answer(exchange, response, value, timeline)

    async def models(self, exchange: Exchange) -> Reply:
        names = sorted({row.name for row in self._services.catalog.index(ready=True)})
        return json_reply({"object": "list", "data": [_model(name) for name in names]})

    async def model(self, exchange: Exchange) -> Reply:
        self._services.catalog.live(exchange.model)
        return json_reply(_model(exchange.model))


def _model(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 0, "owned_by": "sluice"}


async def _spoken(endpoint: Callable[[Exchange], Awaitable[Reply]], exchange: Exchange) -> Reply:
    """Errors as OpenAI's clients know them."""
    try:
        return await endpoint(exchange)
    except SluiceError as error:
        return with_retry(_error(error), error)


def _error(error: SluiceError) -> Reply:
    code = status.of(error).http
    kind = "invalid_request_error" if isinstance(error, RequestError) else "server_error"
    kind = "rate_limit_error" if code == 429 else kind
    names = {404: "model_not_found", 429: "rate_limit_exceeded"}
    field, separator, _ = error.message.partition(":")
    param = (
        field
        if separator and isinstance(error, InvalidRequest | UnknownModel) and field.replace("_", "").isalnum()
        else None
    )
    return json_reply(
        {"error": {"message": error.message, "type": kind, "param": param, "code": names.get(code)}}, code
    )
