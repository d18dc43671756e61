"""The document as one page of HTML, which needs nothing else: no script, no font, no other address."""

from __future__ import annotations

import html
import json
import re
from typing import Any

_STYLE = """
:root { color-scheme: light dark; --back: #fff; --text: #1c2024; --dim: #5c6670; --line: #d9dee3; --soft: #f4f6f8;
  --get: #0b6bcb; --post: #0a7d4f; }
@media (prefers-color-scheme: dark) { :root { --back: #15181b; --text: #e4e7ea; --dim: #9aa4ae; --line: #333a41;
  --soft: #1e2327; --get: #6cb4ff; --post: #4fd09a; } }
* { box-sizing: border-box; }
body { font: 15px/1.5 system-ui, sans-serif; background: var(--back); color: var(--text); max-width: 62rem;
  margin: 0 auto; padding: 2rem 1.25rem 4rem; overflow-wrap: break-word; }
a { color: var(--get); }
h1 { margin: 0; } h1 small { color: var(--dim); font-size: 1rem; font-weight: 400; }
h2 { margin: 2.5rem 0 0; font-size: 1.25rem; } h3 { margin: 1rem 0 .25rem; font-size: .9rem; }
h2 + p { margin: .1rem 0 .75rem; } .dim, h2 + p { color: var(--dim); }
nav { display: flex; flex-wrap: wrap; gap: .25rem 1.25rem; padding: .75rem 0; border-bottom: 1px solid var(--line); }
details { border: 1px solid var(--line); border-radius: 8px; margin: .4rem 0; }
details[open] { margin: .8rem 0; }
summary { cursor: pointer; padding: .45rem .8rem; display: flex; flex-wrap: wrap; gap: 0 .75rem; align-items: baseline;
  border-radius: 8px; list-style: none; }
summary::-webkit-details-marker { display: none; }
summary:hover, details[open] > summary { background: var(--soft); }
summary code { font-weight: 600; }
summary .dim { flex: 1 1 18rem; text-align: right; font-size: .9rem; }
.method { min-width: 2.6rem; font: 700 12px ui-monospace, monospace; }
.get { color: var(--get); } .post { color: var(--post); }
.inside { padding: 0 .8rem .8rem; }
pre { background: var(--soft); border: 1px solid var(--line); border-radius: 6px; padding: .6rem .8rem;
  margin: .25rem 0; white-space: pre-wrap; }
code, pre { font-family: ui-monospace, monospace; font-size: 13px; }
table { border-collapse: collapse; width: 100%; table-layout: fixed; }
td { text-align: left; padding: .25rem 1rem .25rem 0; vertical-align: top; border-top: 1px solid var(--line); }
tr:first-child td { border-top: 0; } td:first-child { width: 24%; } .kind { width: 25%; }
td.dim { width: 13%; font-size: .85rem; }
@media (max-width: 40rem) { body { padding: 1rem .75rem 3rem; } summary .dim { text-align: left; }
  td, td:first-child, .kind, td.dim { display: inline-block; width: auto; border: 0; padding-bottom: 0; }
  td:last-child { display: block; } tr { display: block; padding: .25rem 0; border-top: 1px solid var(--line); } }
"""


def page(document: dict[str, Any]) -> str:
    """Every operation by its tag, with its fields and a request to copy."""
    info = document["info"]
    title = _text(info["title"])
    parts = [
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>",
        "<meta name='viewport' content='width=device-width, initial-scale=1'>",
        f"<title>{title} API</title><style>{_STYLE}</style></head><body>",
        f"<h1>{title} <small>{_text(info['version'])}</small></h1><p>{_text(info['summary'])} ",
        "For programs, the same as <a href='/openapi.json'>OpenAPI 3.1</a>.</p><nav>",
        *(f"<a href='#{_anchor(tag['name'])}'>{_text(tag['name'])}</a>" for tag in document["tags"]),
        "</nav>",
        *(f"<p class='dim'>{_marked(one)}</p>" for one in info["description"].split("\n\n")),
    ]
    for tag in document["tags"]:
        parts.append(f"<h2 id='{_anchor(tag['name'])}'>{_text(tag['name'])}</h2><p>{_marked(tag['description'])}</p>")
        for path, methods in document["paths"].items():
            for method, operation in methods.items():
                if tag["name"] in operation["tags"]:
                    parts.append(_operation(document, path, method, operation))
    parts.append("</body></html>")
    return "".join(parts)


def _operation(document: dict[str, Any], path: str, method: str, operation: dict[str, Any]) -> str:
    parameters = operation.get("parameters", [])
    parts = [
        f"<details id='{operation['operationId']}'><summary><span class='method {method}'>{method.upper()}</span>",
        f"<code>{_text(path)}</code><span class='dim'>{_text(operation['summary'])}</span></summary>",
        f"<div class='inside'><pre>{_text(_command(path, method, operation))}</pre>",
    ]
    if parameters:
        rows = [(_mark(one), "string", one["in"], _marked(one["description"])) for one in parameters]
        parts.append(f"<h3>Address</h3>{_table(rows)}")
    body = operation.get("requestBody")
    if body is not None:
        parts.append(_fields("Body", body["content"]["application/json"]["schema"], document, is_sent=True))
    answers = operation["responses"]
    answer = answers.get("200", {}).get("content", {}).get("application/json")
    if answer is not None:
        parts.append(_fields("Answer", answer["schema"], document, answer.get("example")))
    others = [(status, one["description"]) for status, one in answers.items() if status not in ("200", "default")]
    if others:
        rows = [(status, "", "", _text(meaning)) for status, meaning in others]
        parts.append(f"<h3>Otherwise</h3>{_table(rows)}")
    parts.append("</div></details>")
    return "".join(parts)


def _command(path: str, method: str, operation: dict[str, Any]) -> str:
    """A request as one types it."""
    for one in operation.get("parameters", []):
        if one["in"] == "path":
            path = path.replace(f"{{{one['name']}}}", one["example"])
    address = f"curl -s http://127.0.0.1:8000{path}"
    if method == "get":
        return address
    if "requestBody" not in operation:
        return f"{address} -X {method.upper()}"
    quoted = _json(operation["requestBody"]["content"]["application/json"]["example"]).replace("'", "'\\''")
    return f"{address} -d '{quoted}'"


def _fields(
    title: str, schema: dict[str, Any], document: dict[str, Any], example: Any = None, is_sent: bool = False
) -> str:
    """The fields of a value and of all that it consists of, each kind once."""
    own, seen = _names(schema), set[str]()
    kind = "" if "$ref" in schema else f" <code>{_text(_kind(schema))}</code>"
    parts = [f"<h3>{title}{kind}</h3>"]
    if example is not None:
        parts.append(f"<pre>{_text(_json(example))}</pre>")
    while own:
        name = own.pop(0)
        if name in seen:
            continue
        seen.add(name)
        found = document["components"]["schemas"][name]
        required = set(found.get("required", ()))
        rows = []
        for field, one in found.get("properties", {}).items():
            if is_sent:
                told = "required" if field in required else _default(one)
            else:
                told = "" if field in required else "if any"
            rows.append((field, _kind(one), told, _marked(one.get("description", ""))))
            own += _names(one)
        if len(seen) > 1 or "$ref" not in schema:
            parts.append(f"<h3 class='dim'>{_text(name)}</h3>")
        if "description" in found:
            parts.append(f"<p class='dim'>{_marked(found['description'])}</p>")
        parts.append(_table(sorted(rows, key=lambda row: row[2] != "required")))
    return "".join(parts)


def _table(rows: list[tuple[str, str, str, str]]) -> str:
    """Name, kind, whether it is needed, and what it means, the last as HTML."""
    made = []
    for name, kind, told, meaning in rows:
        cells = f"<td><code>{_text(name)}</code></td>"
        if kind:
            cells += f"<td class='kind'><code>{_text(kind)}</code></td><td class='dim'>{_text(told)}</td>"
        made.append(f"<tr>{cells}<td>{meaning}</td></tr>")
    return f"<table>{''.join(made)}</table>"


def _mark(parameter: dict[str, Any]) -> str:
    return f"?{parameter['name']}" if parameter["in"] == "query" else f"{{{parameter['name']}}}"


def _default(kind: dict[str, Any]) -> str:
    value = kind.get("default")
    return "" if value in (None, "", [], {}) else f"else {json.dumps(value)}"


def _kind(schema: dict[str, Any]) -> str:
    """The type in few words."""
    if "$ref" in schema:
        return str(schema["$ref"].rpartition("/")[2])
    if "enum" in schema:
        return " | ".join(json.dumps(one) for one in schema["enum"])
    if "const" in schema:
        return json.dumps(schema["const"])
    if "anyOf" in schema:
        return " | ".join(one for one in map(_kind, schema["anyOf"]) if one != "null")
    if schema.get("type") == "array":
        return f"[{_kind(schema['items'])}]" if schema.get("items") else "[any]"
    kind = schema.get("type", "any")
    return " | ".join(kind) if isinstance(kind, list) else str(kind)


def _names(schema: Any) -> list[str]:
    """The kinds of objects that a value may have in it, in order."""
    if isinstance(schema, list):
        return [name for one in schema for name in _names(one)]
    if not isinstance(schema, dict):
        return []
    if "$ref" in schema:
        return [schema["$ref"].rpartition("/")[2]]
    return _names([schema[key] for key in ("anyOf", "items", "additionalProperties") if key in schema])


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _anchor(name: str) -> str:
    return name.lower().replace(" ", "-")


def _marked(text: str) -> str:
    """With what stands between backquotes as code."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", _text(text))


def _text(text: str) -> str:
    return html.escape(str(text))
