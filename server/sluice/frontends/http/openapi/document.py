"""Makes the OpenAPI document of the operations."""

from __future__ import annotations

import re
from typing import Any

import msgspec

from sluice import __version__
from sluice.frontends.http.openapi import operations, shapes
from sluice.frontends.http.openapi.meanings import explain
from sluice.frontends.http.openapi.operations import Operation

_REF = "#/components/schemas/{name}"
_ERRORS = {
    operations.OPENAI: shapes.OpenAIError,
    operations.TEI: shapes.TeiError,
    operations.RERANK: shapes.RerankError,
}

_DESCRIPTION = (
    "Bodies are JSON, whatever their content type says, and may be compressed (`content-encoding`), as may answers. "
    "`HEAD` answers as `GET` does, without the body.\n\n"
    "With each request may come `x-request-id`, which comes back; `x-request-timeout-ms`, after which nobody waits for "
    "the answer any more; and the tenant's header. Errors that may pass (429, 503) say in `retry-after` after how many "
    "seconds.\n\n"
    "Answers of the text APIs have `x-compute-tokens`, `x-compute-characters`, and in milliseconds `x-total-time`, "
    "`x-tokenization-time`, `x-queue-time` and `x-inference-time`. `sluice-fallback` names the version that answered "
    "instead of the one asked for, and `sluice-cache` says whether an answer was there already."
)

_STATUSES = {
    400: "Malformed, or it does not fit the model.",
    403: "What the operator asks of such a version is not fulfilled.",
    404: "There is no such model, version, or whatever else was named.",
    413: "Too large, or too many texts.",
    422: "This very request failed or killed workers lately; it is not to be sent again.",
    424: "The model failed.",
    429: "It cannot be answered in time, with what waits already.",
    500: "The model failed.",
    501: "Well formed, but not something this server does.",
    503: "Not now.",
    504: "The request's own deadline passed.",
}
_TEI_STATUSES = {422: "Malformed, or it does not fit the model."}

# What named parts of paths are, and what they may be called in an example.
_PARTS: dict[str, tuple[str, str]] = {
    "model": ("A model's name.", "minilm"),
    "version": ("A number or an alias.", "1"),
    "alias": ("The alias.", "production"),
    "repository": ("Any name: there is one repository.", "main"),
    "region": ("The region's name.", "mine"),
    "task": ("What a pipeline is for; only `sentence-similarity` makes a difference.", "feature-extraction"),
}


def document() -> dict[str, Any]:
    """All of it; made once."""
    every = list(operations.operations())
    types = [kind for one in every for kind in (one.body, one.answer) if kind is not None]
    types += [shapes.Error, *_ERRORS.values()]
    schemas, components = msgspec.json.schema_components(types, ref_template=_REF)
    by_type = {repr(kind): schema for kind, schema in zip(types, schemas, strict=True)}
    explain(components, _reached([by_type[repr(one.body)] for one in every if one.body is not None], components))
    paths: dict[str, dict[str, Any]] = {}
    for one in every:
        paths.setdefault(one.path, {})[one.method.lower()] = _operation(one, by_type)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Sluice",
            "version": __version__,
            "summary": "An inference server for models whose inputs differ in length.",
            "description": _DESCRIPTION,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "tags": [{"name": name, "description": meaning} for name, meaning in operations.TAGS.items()],
        "paths": paths,
        "components": {"schemas": components},
    }


def _reached(schemas: list[Any], components: dict[str, Any]) -> set[str]:
    """The names of all components that these schemas consist of."""
    found: set[str] = set()
    while schemas:
        one = schemas.pop()
        if isinstance(one, list):
            schemas.extend(one)
        elif isinstance(one, dict):
            name = str(one.get("$ref", "")).rpartition("/")[2]
            if name and name not in found:
                found.add(name)
                schemas.append(components[name])
            schemas.extend(one.values())
    return found


def _operation(one: Operation, by_type: dict[str, Any]) -> dict[str, Any]:
    error = {"content": {"application/json": {"schema": by_type[repr(_ERRORS.get(one.tag, shapes.Error))]}}}
    described = _STATUSES | (_TEI_STATUSES if one.tag == operations.TEI else {})
    answers = {
        status: {"description": described.get(status, "The answer."), **_answer(one, by_type)}
        for status in one.statuses
    }
    failures = {status: {"description": described[status], **error} for status in one.errors}
    responses = {str(status): value for status, value in sorted((answers | failures).items())}
    made: dict[str, Any] = {
        "operationId": _name(one),
        "tags": [one.tag],
        "summary": one.summary,
        "responses": {**responses, "default": {"description": "What is wrong.", **error}},
    }
    parameters = [_path_parameter(name) for name in re.findall(r"\{(\w+)\}", one.path)]
    parameters += [
        {"name": name, "in": "query", "description": meaning, "schema": {"type": "string"}}
        for name, meaning in one.query.items()
    ]
    if parameters:
        made["parameters"] = parameters
    if one.body is not None:
        content = _content(by_type[repr(one.body)], one.example, one.binary)
        made["requestBody"] = {"required": not one.optional, "content": content}
    return made


def _answer(one: Operation, by_type: dict[str, Any]) -> dict[str, Any]:
    if one.answer is None:
        return {}
    return {"content": _content(by_type[repr(one.answer)], one.gives, one.binary)}


def _content(schema: dict[str, Any], example: Any, binary: bool) -> dict[str, Any]:
    content: dict[str, Any] = {"application/json": {"schema": schema}}
    if example is not None:
        content["application/json"]["example"] = example
    if binary:
        content["application/octet-stream"] = {
            "schema": {
                "type": "string",
                "format": "binary",
                "description": "JSON of the length that Inference-Header-Content-Length says, then the tensors' bytes.",
            }
        }
    return content


def _path_parameter(name: str) -> dict[str, Any]:
    meaning, example = _PARTS[name]
    kind: dict[str, Any] = {"type": "string", "minLength": 1}
    if name == "version":
        kind["pattern"] = "^([0-9]+|[A-Za-z][A-Za-z0-9_.-]*)$"
    return {"name": name, "in": "path", "required": True, "description": meaning, "example": example, "schema": kind}


def _name(one: Operation) -> str:
    words = re.sub(r"[^A-Za-z0-9]+", "_", one.path).strip("_") or "root"
    return f"{one.method.lower()}_{words}"
