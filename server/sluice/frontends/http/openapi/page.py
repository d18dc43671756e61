"""The document as one page of HTML, which needs nothing else: no script, no font, no other address."""

from __future__ import annotations

import html
import json
from typing import Any

_STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8881; --mark: #0a7; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 0 auto; padding: 1.5rem; }
h1 { margin-bottom: 0; } h2 { margin-top: 2.5rem; border-bottom: 1px solid var(--line); }
nav a { margin-right: 1rem; white-space: nowrap; }
details { border: 1px solid var(--line); border-radius: 6px; margin: .5rem 0; padding: .4rem .8rem; }
summary { cursor: pointer; } summary code { font-weight: 600; }
.method { display: inline-block; min-width: 3.2rem; color: var(--mark); font: 600 13px ui-monospace, monospace; }
.what { opacity: .8; margin-left: .5rem; }
pre { background: var(--soft); padding: .7rem; overflow-x: auto; border-radius: 6px; }
code, pre { font-family: ui-monospace, monospace; font-size: 13px; }
table { border-collapse: collapse; } td, th { text-align: left; padding: .15rem 1rem .15rem 0; vertical-align: top; }
"""


def page(document: dict[str, Any]) -> str:
    """Every operation by its tag, with its fields and a request to copy."""
    info = document["info"]
    parts = [
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>",
        "<meta name='viewport' content='width=device-width, initial-scale=1'>",
        f"<title>{_text(info['title'])} API</title><style>{_STYLE}</style></head><body>",
        f"<h1>{_text(info['title'])}</h1><p>{_text(info['summary'])} Version {_text(info['version'])}. ",
        "The same as <a href='/openapi.json'>OpenAPI 3.1</a>.</p><nav>",
        *(f"<a href='#{_anchor(tag['name'])}'>{_text(tag['name'])}</a>" for tag in document["tags"]),
        "</nav>",
    ]
    for tag in document["tags"]:
        parts.append(f"<h2 id='{_anchor(tag['name'])}'>{_text(tag['name'])}</h2>")
        for path, methods in document["paths"].items():
            for method, operation in methods.items():
                if tag["name"] in operation["tags"]:
                    parts.append(_operation(document, path, method, operation))
    parts.append("</body></html>")
    return "".join(parts)


def _operation(document: dict[str, Any], path: str, method: str, operation: dict[str, Any]) -> str:
    parts = [
        f"<details id='{operation['operationId']}'><summary><span class='method'>{method.upper()}</span> ",
        f"<code>{_text(path)}</code><span class='what'>{_text(operation['summary'])}</span></summary>",
    ]
    query = [one for one in operation.get("parameters", []) if one["in"] == "query"]
    if query:
        rows = "".join(
            f"<tr><td><code>?{_text(one['name'])}</code></td><td>{_text(one['description'])}</td></tr>" for one in query
        )
        parts.append(f"<table>{rows}</table>")
    body = operation.get("requestBody")
    if body is not None:
        content = body["content"]["application/json"]
        parts.append(_fields("Body", _resolved(document, content["schema"]), document))
        example = json.dumps(content["example"], ensure_ascii=False)
        quoted = example.replace("'", "'\\''")
        parts.append(f"<pre>curl -s http://127.0.0.1:8000{_text(path)} -d '{_text(quoted)}'</pre>")
    elif method == "get":
        parts.append(f"<pre>curl -s http://127.0.0.1:8000{_text(path)}</pre>")
    answer = operation["responses"]["200"].get("content", {}).get("application/json")
    if answer is not None:
        parts.append(_fields("Answer", _resolved(document, answer["schema"]), document))
    parts.append("</details>")
    return "".join(parts)


def _fields(title: str, schema: dict[str, Any], document: dict[str, Any]) -> str:
    several = schema.get("type") == "array"
    if several:
        schema = _resolved(document, schema.get("items", {}))
    properties = schema.get("properties")
    if not properties:
        return f"<p>{title}: {'a list of ' if several else ''}<code>{_text(_kind(schema))}</code></p>"
    required = set(schema.get("required", ()))
    rows = "".join(
        f"<tr><td><code>{_text(name)}</code></td><td><code>{_text(_kind(kind))}</code></td>"
        f"<td>{'required' if name in required else _default(kind)}</td></tr>"
        for name, kind in properties.items()
    )
    return f"<p>{title}{': a list of' if several else ''}</p><table>{rows}</table>"


def _default(kind: dict[str, Any]) -> str:
    if kind.get("default") in (None, "", [], {}):
        return ""
    return f"default <code>{_text(json.dumps(kind['default']))}</code>"


def _kind(schema: dict[str, Any]) -> str:
    """The type in few words."""
    if "$ref" in schema:
        return str(schema["$ref"].rpartition("/")[2])
    if "enum" in schema:
        return " | ".join(json.dumps(one) for one in schema["enum"])
    if "const" in schema:
        return json.dumps(schema["const"])
    if "anyOf" in schema:
        return " | ".join(map(_kind, schema["anyOf"]))
    if schema.get("type") == "array":
        return f"[{_kind(schema['items'])}]" if schema.get("items") else "[]"
    kind = schema.get("type", "any")
    return " | ".join(kind) if isinstance(kind, list) else str(kind)


def _resolved(document: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    if "$ref" in schema:
        found: dict[str, Any] = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
        return found
    return schema


def _anchor(name: str) -> str:
    return name.lower().replace(" ", "-")


def _text(text: str) -> str:
    return html.escape(str(text))
