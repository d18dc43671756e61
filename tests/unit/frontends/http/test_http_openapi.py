"""The API's description: valid, whole, and true to its own examples."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, cast

import pytest
from http_fakes import running, wire
from jsonschema import Draft202012Validator
from openapi_spec_validator import OpenAPIV31SpecValidator

from sluice.frontends.http.api import routes
from sluice.frontends.http.openapi.document import document
from sluice.frontends.http.openapi.page import page
from sluice.frontends.services import Services

DOCUMENT = document()
ABOUT_ITSELF = {("GET", "/openapi.json"), ("GET", "/docs")}


def operations() -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in DOCUMENT["paths"].items():
        for method, operation in methods.items():
            yield method.upper(), path, operation


def fits(value: Any, schema: dict[str, Any]) -> None:
    Draft202012Validator({**schema, "components": DOCUMENT["components"]}).validate(value)


def test_it_is_valid() -> None:
    OpenAPIV31SpecValidator(DOCUMENT).validate()
    for schema in DOCUMENT["components"]["schemas"].values():
        Draft202012Validator.check_schema(schema)


def test_it_has_every_route_and_no_other() -> None:
    services = cast(Services, SimpleNamespace(tenant_header="tenant"))
    served = {(route.method, route.path) for route in routes(services)}
    assert {(method, path) for method, path, _ in operations()} == served - ABOUT_ITSELF


def test_every_body_and_most_answers_have_an_example_that_fits() -> None:
    without = []
    for method, path, operation in operations():
        contents = [
            response.get("content", {}) for status, response in operation["responses"].items() if status == "200"
        ]
        if "requestBody" in operation:
            contents.append(operation["requestBody"]["content"])
            assert "example" in operation["requestBody"]["content"]["application/json"]
        for content in contents:
            one = content.get("application/json", {})
            if "example" in one:
                fits(one["example"], one["schema"])
            elif one:
                without.append(f"{method} {path}")
    assert {one.rpartition("/")[2] for one in without} <= {"", "v2", "info", "stats", "config"}


def test_every_field_of_a_request_is_explained() -> None:
    for method, path, operation in operations():
        if "requestBody" in operation:
            schema = operation["requestBody"]["content"]["application/json"]["schema"]
            name = schema.get("$ref", "").rpartition("/")[2]
            for field, one in DOCUMENT["components"]["schemas"].get(name, {}).get("properties", {}).items():
                assert one.get("description"), f"{method} {path}: {field}"


def test_names_of_operations_and_tags_are_clear() -> None:
    names = [operation["operationId"] for _, _, operation in operations()]
    assert len(set(names)) == len(names)
    assert {tag for _, _, operation in operations() for tag in operation["tags"]} == {
        tag["name"] for tag in DOCUMENT["tags"]
    }


def test_the_page_shows_everything_and_needs_nothing() -> None:
    text = page(DOCUMENT)
    for _, path, operation in operations():
        assert path in text
        assert f"id='{operation['operationId']}'" in text
    for outside in ("http://", "https://", "<script", "<link", "@import", "url(", "src="):
        assert outside not in text.replace("http://127.0.0.1:8000", "")


async def test_both_are_served() -> None:
    async with running() as server, wire(server.port) as client:
        answer = await client.request("GET", "/openapi.json")
        assert (answer.status, answer.headers["content-type"], answer.json()) == (200, "application/json", DOCUMENT)
        answer = await client.request("GET", "/docs")
        assert (answer.status, answer.headers["content-type"]) == (200, "text/html; charset=utf-8")
        assert answer.headers["content-security-policy"].startswith("default-src 'none'")
        assert answer.body.decode() == page(DOCUMENT)


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        ("/v1/embeddings", "OPTIONS, POST"),
        ("/", "GET, HEAD, OPTIONS, POST"),
        ("/v2/models/echo/infer", "OPTIONS, POST"),
        ("/health", "GET, HEAD, OPTIONS"),
    ],
)
async def test_options_tells_what_is_possible(path: str, allowed: str) -> None:
    async with running() as server, wire(server.port) as client:
        answer = await client.request("OPTIONS", path)
        assert (answer.status, answer.headers["allow"], answer.body) == (200, allowed, b"")


OPENAI, TEI, RERANK, OTHER = "openai", "tei", "rerank", "other"


def form(error: Any) -> str:
    """Whose form this error has."""
    if isinstance(error["error"], dict):
        assert set(error["error"]) == {"message", "type", "param", "code"}
        return OPENAI
    assert isinstance(error["error"], str)
    if "detail" in error:
        assert error == dict.fromkeys(("error", "message", "detail"), error["error"])
        return RERANK
    assert set(error) <= {"error", "error_type"}
    return TEI if "error_type" in error else OTHER


PATHS = [
    ("/v1/embeddings", OPENAI),
    ("/embed", TEI),
    ("/models/echo", TEI),
    ("/v1/rerank", RERANK),
    ("/score", RERANK),
    ("/v1/inference", OTHER),
    ("/v2/models/echo/infer", OTHER),
    ("/v2/models/echo/aliases/production", OTHER),
]


@pytest.mark.parametrize(("path", "whose"), PATHS)
async def test_errors_look_as_the_api_s_clients_expect(path: str, whose: str) -> None:
    malformed = 422 if whose == TEI else 400
    async with running(max_message_bytes=2000) as server:
        for method, body, headers, status in (
            ("PUT", b"", {}, 405),
            ("POST", b"{", {}, malformed),
            ("POST", b"[]", {}, malformed),
            ("POST", b"\xff", {}, malformed),
            ("POST", b"{}", {"Content-Encoding": "br"}, malformed),
            ("POST", b" " * 2001, {}, 413),
        ):
            async with wire(server.port) as client:
                answer = await client.request(method, path, body, headers)
                assert (answer.status, form(answer.json())) == (status, whose), (method, body)


@pytest.mark.parametrize(("path", "whose"), [("/v1/completions", OPENAI), ("/v2/none", OTHER), ("/none", OTHER)])
async def test_nothing_there(path: str, whose: str) -> None:
    async with running() as server, wire(server.port) as client:
        answer = await client.request("POST", path)
        assert (answer.status, form(answer.json())) == (404, whose)
