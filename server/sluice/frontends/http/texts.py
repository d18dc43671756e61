"""What the text APIs have in common: which model is meant, its prompt, and from a body to the engine's answer."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from sluice.errors import InvalidRequest, TooLarge, UnknownModel
from sluice.frontends.http import body
from sluice.frontends.http.pieces import pieces
from sluice.frontends.http.reply import JSON, REQUEST_ID, Reply, mark_headers, request_id
from sluice.frontends.http.timeouts import deadline
from sluice.request import RequestedOutput, Timeline
from sluice.text.inputs import MOST_TEXTS, TextRequest, TextResponse
from sluice.text.joining import one_by_one
from sluice.text.profile import Truncation

if TYPE_CHECKING:
    from sluice.frontends.http.exchange import Exchange
    from sluice.frontends.services import Services
    from sluice.text.inputs import TextInput
    from sluice.text.tokenizing import Text


# As many as a text of the most characters can have; what is done with each would take others' time.
MOST_TOKENS = 1 << 20


class Texts:
    """Asks models about texts, on behalf of one API."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._tenant_header = services.tenant_header.encode()

    async def read(self, exchange: Exchange) -> bytes:
        """The body, unless memory is short; a client that cannot send one is counted."""
        services = self._services
        with services.engine.reading:
            services.engine.check_memory()
            return await body.read(exchange, services.limits.max_message_bytes)

    def model(self, named: str, *tasks: str) -> tuple[str, str, TextInput]:
        """The model a client names, as `name` or `name/version`, or the only one that does one of these tasks: its name
        and version, and what it does with texts."""
        catalog = self._services.catalog
        if not named:
            named = self._only(tasks)
        name, _, number = named.partition("/")
        text = catalog.route(name, number).version.text
        if text is None:
            why = "it has no tokenizer.json, or other inputs than tokens"
            raise InvalidRequest(f"model: '{named}' takes no texts: {why}")
        if tasks and text.profile.task not in tasks:
            able = " or ".join(tasks)
            raise InvalidRequest(f"model: '{named}' does {text.profile.task}, and this is for {able}")
        return name, number, text

    def able(self, *tasks: str) -> list[str]:
        """The models that are ready for one of these tasks; for any, if none is named."""
        found = []
        for row in self._services.catalog.index(ready=True):
            if row.name not in found:
                text = self._services.catalog.live(row.name, row.version).text
                if text is not None and (not tasks or text.profile.task in tasks):
                    found.append(row.name)
        return found

    def _only(self, tasks: Sequence[str]) -> str:
        found = self.able(*tasks)
        if len(found) == 1:
            return found[0]
        what = f"for {' or '.join(tasks)}" if tasks else "for texts"
        if not found:
            raise UnknownModel(f"no model {what} is ready")
        raise InvalidRequest(f"model: must be named, there are several {what}: {', '.join(found)}")

    async def ask(
        self,
        exchange: Exchange,
        model: tuple[str, str, TextInput],
        texts: Sequence[Text] | Sequence[Sequence[int]],
        *,
        at: str,
        timeline: Timeline,
        truncate: Truncation | None = None,
        offsets: bool = False,
        output: str = "",
    ) -> TextResponse:
        """The model's answer to each text; given up when the client goes away."""
        name, number, text = model
        wanted = output or (text.profile.output.name if text.profile.output is not None else "")
        if not wanted:
            raise InvalidRequest(f"model: '{name}' has no output that answers a text")
        direction = text.profile.direction(truncate)
        if direction is None and texts and isinstance(texts[0], list):
            with self._services.engine.reading:
                _check_lengths(texts, text, at)  # type: ignore[arg-type]
        request = TextRequest(
            model=name,
            version=number,
            inputs=(),
            outputs=(RequestedOutput(wanted),),
            id=exchange.headers.get(REQUEST_ID, b"").decode("latin-1"),
            tenant=self._services.tenant(exchange.headers.get(self._tenant_header, b"").decode("latin-1")),
            deadline=deadline(exchange.headers, timeline.received),
            timeline=timeline,
            texts=texts,
            truncate=direction,
            overlap=None if offsets or _asks_for_tokens(text, output) else text.profile.overlap,
            offsets=offsets,
            at=at,
        )
        exchange.cancel_on_disconnect = True
        return await self._services.engine.read(request)


def _asks_for_tokens(text: TextInput, output: str) -> bool:
    """Whether each token is to be answered, which of a text's windows some would be twice."""
    return bool(output) and len(text.spec.output_by_name[output].shape) == 3


def prompted(texts: Sequence[str], text: TextInput, name: str | None) -> list[str]:
    """The texts behind the prompt of this name, or behind the one that is meant if none is named."""
    prompt = text.prompt(name)
    return [prompt + one for one in texts] if prompt else list(texts)


def texts_or_tokens(given: str | list[str | int | list[int]], at: str) -> list[str] | list[list[int]]:
    """One or several texts, or the tokens of one or several; all of a kind."""
    if isinstance(given, str):
        return [given]
    if not given:
        raise InvalidRequest(f"{at}: is empty")
    if isinstance(given[0], int):
        return [tokens_of_one(given, at)]
    check_count(given, at)
    texts = [one for one in given if isinstance(one, str)]
    if len(texts) == len(given):
        return texts
    lists = [one for one in given if isinstance(one, list)]
    if len(lists) == len(given):
        check_tokens(sum(map(len, lists)), at)
        return lists
    raise InvalidRequest(f"{at}: {_MIXED}")


_MIXED = "expected a text, texts, tokens, or tokens of several texts, not a mixture"


def tokens_of_one(given: Sequence[object], at: str, mixed: str = _MIXED) -> list[int]:
    """The tokens of a single text; looked at only if there are not too many."""
    check_tokens(len(given), at)
    if set(map(type, given)) != {int}:
        raise InvalidRequest(f"{at}: {mixed}")
    return given  # type: ignore[return-value]


def check_tokens(count: int, at: str) -> None:
    if count > MOST_TOKENS:
        raise TooLarge(f"{at}: has {count} tokens, more than {MOST_TOKENS}")


def check_count(texts: Sequence[object], at: str) -> None:
    if not texts:
        raise InvalidRequest(f"{at}: is empty")
    if len(texts) > MOST_TEXTS:
        raise TooLarge(f"{at}: has {len(texts)} texts, more than {MOST_TEXTS}")


def _check_lengths(ids: Sequence[Sequence[int]], text: TextInput, at: str) -> None:
    """Too many tokens are refused before anybody looks at each."""
    longest = text.max_length
    for index, one in enumerate(ids):
        if longest is not None and len(one) > longest:
            raise InvalidRequest(
                f"{at}[{index}]: has {len(one)} tokens, and '{text.spec.name}' takes at most {longest}; "
                "shorten it, or ask for it to be truncated"
            )


async def answer(exchange: Exchange, response: TextResponse, value: Any, timeline: Timeline) -> Reply:
    """The reply with its value as JSON, arrays included, and what it cost."""
    headers = [JSON]
    if echo := request_id(exchange.headers.get(REQUEST_ID, b"").decode("latin-1")):
        headers.append(echo)
    headers += mark_headers(response.parameters)
    headers += costs(response, timeline)
    return Reply(200, headers, tuple(await one_by_one(pieces(value))))


def costs(response: TextResponse, timeline: Timeline) -> list[bytes]:
    """Header lines as Text Embeddings Inference gives them; times in milliseconds."""
    tokenized = max(0.0, timeline.queued - timeline.received) if timeline.queued else 0.0
    waited = max(0.0, timeline.assembled - timeline.queued) if timeline.assembled else 0.0
    values = (
        (b"x-compute-type", b"sluice"),
        (b"x-compute-tokens", b"%d" % response.tokens),
        (b"x-compute-characters", b"%d" % response.characters),
        (b"x-total-time", b"%d" % round((time.monotonic() - timeline.received) * 1000)),
        (b"x-tokenization-time", b"%d" % round(tokenized * 1000)),
        (b"x-queue-time", b"%d" % round(waited * 1000)),
        (b"x-inference-time", b"%d" % round(timeline.compute_seconds * 1000)),
    )
    return [b"%b: %b\r\n" % pair for pair in values]
