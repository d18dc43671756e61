"""Makes the OpenAPI document of the operations."""

from __future__ import annotations

import re
from typing import Any

import msgspec

from sluice import __version__
from sluice.frontends.http.openapi import operations, shapes
from sluice.frontends.http.openapi.operations import Operation

_REF = "#/components/schemas/{name}"
_DEFAULT_STATUS = {operations.OPENAI: shapes.OpenAIError, operations.TEI: shapes.TeiError}


def document() -> dict[str, Any]:
    """All of it; made once."""
    every = list(operations.operations())
    types = [kind for one in every for kind in (one.body, one.answer) if kind is not None]
    types += [shapes.Error, shapes.OpenAIError, shapes.TeiError]
    schemas, components = msgspec.json.schema_components(types, ref_template=_REF)
    by_type = {repr(kind): schema for kind, schema in zip(types, schemas, strict=True)}
    paths: dict[str, dict[str, Any]] = {}
    for one in every:
        paths.setdefault(one.path, {})[one.method.lower()] = _operation(one, by_type)
    tags = list(dict.fromkeys(one.tag for one in every))
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Sluice",
            "version": __version__,
            "summary": "An inference server for models whose inputs differ in length.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "tags": [{"name": tag} for tag in tags],
        "paths": paths,
        "components": {"schemas": components},
    }


def _operation(one: Operation, by_type: dict[str, Any]) -> dict[str, Any]:
    error = by_type[repr(_DEFAULT_STATUS.get(one.tag, shapes.Error))]
    answer = _content(one.answer, by_type, one.binary) if one.answer is not None else {}
    made: dict[str, Any] = {
        "operationId": _name(one),
        "tags": [one.tag],
        "summary": one.summary,
        "responses": {
            **{
                str(status): {"description": _DESCRIBED.get(status, "The answer."), **answer} for status in one.statuses
            },
            "default": {"description": "What is wrong.", "content": {"application/json": {"schema": error}}},
        },
    }
    parameters = [_path_parameter(name) for name in re.findall(r"\{(\w+)\}", one.path)]
    parameters += [
        {"name": name, "in": "query", "description": meaning, "schema": {"type": "string"}}
        for name, meaning in one.query.items()
    ]
    if parameters:
        made["parameters"] = parameters
    if one.body is not None:
        content = _content(one.body, by_type, one.binary)
        content["content"]["application/json"]["example"] = one.example
        made["requestBody"] = {"required": not one.optional, **content}
    return made


_DESCRIBED = {503: "Not now."}


def _content(kind: Any, by_type: dict[str, Any], binary: bool) -> dict[str, Any]:
    content: dict[str, Any] = {"application/json": {"schema": by_type[repr(kind)]}}
    if binary:
        content["application/octet-stream"] = {
            "schema": {
                "type": "string",
                "format": "binary",
                "description": "JSON of the length that Inference-Header-Content-Length says, then the tensors' bytes.",
            }
        }
    return {"content": content}


def _path_parameter(name: str) -> dict[str, Any]:
    kind: dict[str, Any] = {"type": "string", "minLength": 1}
    if name == "version":
        kind = {
            "type": "string",
            "pattern": "^([0-9]+|[A-Za-z][A-Za-z0-9_.-]*)$",
            "description": "A number or an alias.",
        }
    return {"name": name, "in": "path", "required": True, "schema": kind}


def _name(one: Operation) -> str:
    words = re.sub(r"[^A-Za-z0-9]+", "_", one.path).strip("_") or "root"
    return f"{one.method.lower()}_{words}"
