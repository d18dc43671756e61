"""Paths to endpoints: quoting, precedence, and what is served nowhere."""

from __future__ import annotations

import pytest

from sluice.errors import InvalidRequest, UnknownThing
from sluice.frontends.http.exchange import Exchange
from sluice.frontends.http.reply import Reply, json_reply
from sluice.frontends.http.routes import Route, Routes, WrongMethod


async def endpoint(exchange: Exchange) -> Reply:
    return json_reply({})


async def statistics(exchange: Exchange) -> Reply:
    return json_reply({})


ROUTES = Routes(
    [
        Route("GET", "/", endpoint),
        Route("GET", "/v2/models/stats", statistics),
        Route("GET", "/v2/models/{model}", endpoint),
        Route("POST", "/v2/models/{model}", endpoint),
        Route("POST", "/v2/models/{model}/infer", endpoint),
        Route("POST", "/v2/models/{model}/versions/{version}/infer", endpoint),
    ]
)


@pytest.mark.parametrize(
    ("method", "path", "named"),
    [
        ("GET", b"/", {}),
        ("GET", b"/v2/models/m", {"model": "m"}),
        ("HEAD", b"/v2/models/m", {"model": "m"}),
        ("GET", b"/v2/models/m/", {"model": "m"}),
        ("POST", b"/v2/models/stats/infer", {"model": "stats"}),
        ("POST", b"/v2/models/org%2Fmodel%20%C3%A4/infer", {"model": "org/model ä"}),
        ("POST", b"/v2/models/m/versions/12/infer", {"model": "m", "version": "12"}),
        ("POST", b"/v2/models/m/versions/production/infer", {"model": "m", "version": "production"}),
    ],
)
def test_found(method: str, path: bytes, named: dict[str, str]) -> None:
    route, found = ROUTES.find(method, path)
    assert (route.endpoint, found) == (endpoint, named)


def test_literals_win() -> None:
    route, named = ROUTES.find("GET", b"/v2/models/stats")
    assert (route.endpoint, named) == (statistics, {})


@pytest.mark.parametrize(
    "path",
    [
        b"/v3",
        b"/v2",
        b"/v2/models",
        b"/v2/models//infer",
        b"/v2/models/m/versions/1one/infer",
        b"/v2/models/m/versions/-one/infer",
        b"/v2/models/m/versions/o%2Fne/infer",
        b"/v2/models/m/versions/\xb2/infer",
        b"/v2/models/m/versions//infer",
        b"/v2/models/m/infer/more",
        b"*",
    ],
)
def test_served_nowhere(path: bytes) -> None:
    with pytest.raises(UnknownThing, match="nothing is served at"):
        ROUTES.find("POST", path)


def test_other_methods_are_named() -> None:
    with pytest.raises(WrongMethod, match="PUT is not possible at '/v2/models/m', only GET, POST") as caught:
        ROUTES.find("PUT", b"/v2/models/m")
    assert caught.value.allowed == ("GET", "HEAD", "OPTIONS", "POST")


def test_broken_quoting() -> None:
    with pytest.raises(InvalidRequest, match="UTF-8"):
        ROUTES.find("GET", b"/v2/models/%ff")
