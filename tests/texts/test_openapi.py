"""The API as it is described, asked of a real server: what it says fits, and nothing that is sent breaks it."""

from __future__ import annotations

import copy
import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import hypothesis
import pytest
import requests
import schemathesis
from jsonschema import Draft202012Validator
from schemathesis.core.failures import FailureGroup
from schemathesis.specs.openapi import checks
from servers import Server

from sluice.frontends.http.openapi.document import document

DOCUMENT = document()
MODELS = ["embedder", "classifier", "ner", "reranker", "splade"]
# What the examples call them: models that everybody knows, or that do such a thing.
OF_TASK = {"minilm": "embedder", "reranker": "reranker"}
ALONE = {"/embed_sparse": "splade", "/predict": "ner", "/rerank": "reranker", "/tokenize": "embedder", "/decode": "ner"}
# Not to be done to the models that the other tests need.
DRASTIC = ("/load", "/unload")
# Something else must be there before.
MISSING = {
    "/v2/systemsharedmemory/region/{region}/status",
    "/v2/systemsharedmemory/region/{region}/register",
    "/v2/models/{model}/aliases/{alias}",
}

OPERATIONS = [
    pytest.param(method, path, id=f"{method.upper()} {path}")
    for path, methods in DOCUMENT["paths"].items()
    for method in methods
]


def fits(value: Any, schema: dict[str, Any]) -> None:
    Draft202012Validator({**schema, "components": DOCUMENT["components"]}).validate(value)


def address(path: str) -> str:
    """The path of an example, with the names that this server knows."""
    for one in DOCUMENT["paths"][path].values():
        for parameter in one.get("parameters", []):
            if parameter["in"] == "path":
                name = OF_TASK.get(parameter["example"], parameter["example"])
                path = path.replace(f"{{{parameter['name']}}}", name)
    return path


def example(path: str, operation: dict[str, Any]) -> Any:
    if "requestBody" not in operation:
        return None
    body = copy.deepcopy(operation["requestBody"]["content"]["application/json"]["example"])
    for field in ("model", "model_id"):
        if field in body:
            body[field] = OF_TASK[body[field]]
    if path == "/":
        body["model"] = "embedder"
    elif path in ALONE:
        body["model"] = ALONE[path]
    return body


@pytest.mark.parametrize(("method", "path"), OPERATIONS)
def test_examples_are_answered_as_is_said(server: Server, method: str, path: str) -> None:
    if path.endswith(DRASTIC):
        pytest.skip("would take a model from the others")
    operation = DOCUMENT["paths"][path][method]
    asked = address(path) + ("?model=embedder" if path == "/info" else "")
    status, found = server.request(method.upper(), asked, example(path, operation))
    responses = operation["responses"]
    answer = responses.get(str(status), responses["default"])
    if status == 501:
        assert "200" not in responses
    elif path in MISSING:
        assert status in (200, 400, 404)
    else:
        assert status == 200, found
    if "content" in answer:
        fits(found, answer["content"]["application/json"]["schema"])
    else:
        assert found is None


@pytest.mark.parametrize("model", MODELS)
def test_every_model_answers_as_is_said(server: Server, model: str) -> None:
    """Where the answer's form depends on what the model does."""
    given = [["red", "cat"]] if model == "reranker" else ["red cat", "New York"]
    asked: dict[str, dict[str, Any]] = {
        "/v1/inference": {"model_id": model, "input": given},
        f"/models/{model}": {"inputs": "red cat in New York"},
    }
    if model in ("classifier", "ner", "reranker"):
        asked["/predict"] = {"model": model, "inputs": [["Anna"], ["New York lives in Berlin"]]}
    if model in ("classifier", "embedder", "reranker"):
        asked["/v1/score"] = {"model": model, "text_1": "red", "text_2": ["red", "cat"]}
    for path, body in asked.items():
        status, found = server.request("POST", path, body)
        assert status == 200, (path, found)
        said = "/models/{model}" if path.startswith("/models") else path
        responses = DOCUMENT["paths"][said]["post"]["responses"]
        fits(found, responses["200"]["content"]["application/json"]["schema"])
    for path in (f"/info?model={model}", f"/v2/models/{model}", f"/v2/models/{model}/aliases", f"/v1/models/{model}"):
        status, found = server.request("GET", path)
        said = path.partition("?")[0].replace(model, "{model}")
        responses = DOCUMENT["paths"][said]["get"]["responses"]
        assert status == 200
        fits(found, responses["200"]["content"]["application/json"]["schema"])


@pytest.mark.parametrize(
    ("path", "model"),
    [("/v1/embeddings", "a" * 300), ("/embed", "\0"), ("/v1/rerank", "../../etc"), ("/v1/inference", "embedder/x/y")],
)
def test_strange_names_are_unknown(server: Server, path: str, model: str) -> None:
    body = {"input": "a", "inputs": "a", "query": "a", "documents": ["a"], "model": model, "model_id": model}
    status, found = server.request("POST", path, body)
    assert status in (400, 404, 422), found


def test_head_and_options(server: Server) -> None:
    def headers(method: str, path: str) -> Any:
        with urllib.request.urlopen(urllib.request.Request(f"{server.http}{path}", method=method), timeout=30) as reply:
            assert reply.read() == b"" or method == "GET"
            return reply.headers

    for path in ("/v1/models", "/docs", "/info?model=embedder"):
        got, head = headers("GET", path), headers("HEAD", path)
        assert (head["content-length"], head["content-type"]) == (got["content-length"], got["content-type"])
    assert headers("OPTIONS", "/v1/models")["allow"] == "GET, HEAD, OPTIONS"
    with pytest.raises(urllib.error.HTTPError) as refused:
        headers("PUT", "/embed")
    with refused.value as error:
        assert (error.code, error.headers["allow"]) == (405, "OPTIONS, POST")
        assert json.load(error)["error_type"] == "Validation"


def known_to_the_generator() -> dict[str, Any]:
    """The document with the names of this server's models where names are asked for, so that requests get further than
    to an unknown one."""
    made = copy.deepcopy(DOCUMENT)
    for path, methods in made["paths"].items():
        for operation in methods.values():
            for one in operation.get("parameters", []):
                one.pop("example", None)
                if one["name"] == "model":
                    one["schema"] = {"enum": ["none", "a/b"] if path.endswith(DRASTIC) else [*MODELS, "none"]}
                elif one["name"] == "version":
                    one["schema"] = {"enum": ["1", "2", "production", "0" * 30]}
    for kind in made["components"]["schemas"].values():
        for name, one in kind.get("properties", {}).items():
            if name in ("model", "model_id") and one.get("type") == "string":
                one["enum"] = ["embedder", "classifier", "ner", "reranker", "splade", "embedder/1", "none", ""]
    return made


GENERATED = schemathesis.openapi.from_dict(known_to_the_generator())
CHECKS = [
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_schema_conformance,
    checks.unsupported_method,
]


@pytest.fixture(scope="module")
def session() -> Iterator[requests.Session]:
    with requests.Session() as session:
        yield session


def sent() -> Iterator[Any]:
    """Requests that fit, and those that do not, where something can be wrong with them."""
    for path, methods in DOCUMENT["paths"].items():
        for method, operation in methods.items():
            in_query = any(one["in"] == "query" for one in operation.get("parameters", []))
            for mode in schemathesis.GenerationMode:
                if mode is schemathesis.GenerationMode.POSITIVE or "requestBody" in operation or in_query:
                    yield pytest.param(method, path, mode, id=f"{method.upper()} {path} {mode.value}")


@pytest.mark.parametrize(("method", "path", "mode"), list(sent()))
def test_nothing_that_is_sent_breaks_it(
    server: Server, session: requests.Session, method: str, path: str, mode: schemathesis.GenerationMode
) -> None:
    operation = GENERATED[path][method.upper()]
    is_said = DOCUMENT["paths"][path][method]["responses"]

    @hypothesis.settings(
        max_examples=10,
        derandomize=True,
        database=None,
        phases=[hypothesis.Phase.generate],
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(case=operation.as_strategy(generation_mode=mode))
    def ask(case: schemathesis.Case[Any]) -> None:
        response = case.call(base_url=server.http, session=session, timeout=30)
        assert response.status_code != 500, response.text
        if response.status_code > 500:
            assert str(response.status_code) in is_said, response.text
        try:
            case.validate_response(response, checks=CHECKS)
        except FailureGroup as failures:
            raise AssertionError([str(one) for one in failures.exceptions]) from None

    ask()


def test_it_serves_as_before(server: Server) -> None:
    status, found = server.request("GET", "/v2/health/ready?verbose")
    assert (status, found["reasons"]) == (200, [])
    assert server.request("POST", "/embed", {"inputs": "red"})[0] == 200
