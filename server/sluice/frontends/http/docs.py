"""The API's description, for programs at `/openapi.json` and for people at `/docs`."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

import orjson

from sluice.frontends.http.openapi.document import document
from sluice.frontends.http.openapi.page import page
from sluice.frontends.http.reply import JSON, Reply
from sluice.frontends.http.routes import Route

if TYPE_CHECKING:
    from sluice.frontends.http.exchange import Exchange
    from sluice.frontends.services import Services

_HTML = b"content-type: text/html; charset=utf-8\r\n"
_ALONE = b"content-security-policy: default-src 'none'; style-src 'unsafe-inline'\r\n"


class Docs:
    """Made when first asked for."""

    def __init__(self, services: Services) -> None:
        pass

    def routes(self) -> list[Route]:
        return [Route("GET", "/openapi.json", self.openapi), Route("GET", "/docs", self.docs)]

    async def openapi(self, exchange: Exchange) -> Reply:
        return Reply(200, [JSON], (self._openapi,))

    async def docs(self, exchange: Exchange) -> Reply:
        return Reply(200, [_HTML, _ALONE], (self._page,))

    @cached_property
    def _openapi(self) -> bytes:
        return orjson.dumps(document())

    @cached_property
    def _page(self) -> bytes:
        return page(document()).encode()
