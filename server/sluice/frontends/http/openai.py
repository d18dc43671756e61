"""OpenAI's API, as far as it is about embeddings: `/v1/embeddings` and `/v1/models`."""

from __future__ import annotations

import base64
import re
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from sluice.errors import InvalidRequest, SluiceError, UnknownModel
from sluice.frontends import status
from sluice.frontends.http import body, schema
from sluice.frontends.http.reply import Reply, json_reply, with_retry
from sluice.frontends.http.routes import Route
from sluice.frontends.http.texts import Texts, answer, prompted, texts_or_tokens
from sluice.request import Timeline
from sluice.text import answers
from sluice.text.joining import one_by_one
from sluice.text.profile import Truncation

if TYPE_CHECKING:
    from sluice.frontends.http.exchange import Exchange
    from sluice.frontends.services import Services


class EmbeddingsBody(msgspec.Struct):
    input: str | list[str | int | list[int]]
    model: str = ""
    encoding_format: Literal["float", "base64"] | None = "float"
    dimensions: int | None = None
    user: str | None = None
    prompt_name: str | None = None  # ours, beyond what OpenAI has
    truncate: Truncation | None = None


# What a message is about, as `input[3]: …`.
_FIELD = re.compile(r"(\w+)[\w.\[\]]*: ")

EMBEDDINGS = msgspec.json.Decoder(EmbeddingsBody)


class OpenAI:
    """Endpoints as the client library `openai` and many others call them."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._texts = Texts(services)

    def routes(self) -> list[Route]:
        return [
            Route("POST", "/v1/embeddings", self.embeddings, error_reply),
            Route("GET", "/v1/models", self.models, error_reply),
            Route("GET", "/v1/models/{model}", self.model, error_reply),
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
        response = await self._texts.ask(
            exchange, model, texts, at="input", timeline=timeline, truncate=wanted.truncate
        )
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
        name, _, number = exchange.model.partition("/")
        self._services.catalog.live(name, number)
        return json_reply(_model(exchange.model))


def _model(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 0, "owned_by": "sluice"}


def error_reply(error: SluiceError) -> Reply:
    """Errors as OpenAI's clients know them."""
    code = status.of(error).http
    kind = "invalid_request_error" if code < 500 else "server_error"
    kind = "rate_limit_error" if code == 429 else kind
    name = "model_not_found" if isinstance(error, UnknownModel) else None
    name = "rate_limit_exceeded" if code == 429 else name
    field = _FIELD.match(error.message) if isinstance(error, InvalidRequest) else None
    param = field[1] if field is not None else None
    if isinstance(error, UnknownModel):
        param = "model"
    said = {"message": error.message, "type": kind, "param": param, "code": name}
    return with_retry(json_reply({"error": said}, code), error)
