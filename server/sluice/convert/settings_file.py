"""Writes what the graph cannot say about an imported model as `model.toml`."""

from __future__ import annotations

import json

from sluice.convert.conversion import Conversion


def settings_text(conversion: Conversion) -> str:
    architecture = conversion.architecture
    lines = [
        "# Written by `sluice import` and yours to edit: it is never written again.",
        f"max_length = {architecture.max_length}",
        "",
        *_table("input", "input_ids", f"pad = {architecture.pad}"),
        *_table("input", "attention_mask", "pad = 0", "fill = 1"),
    ]
    if architecture.takes_token_types:
        lines += _table("input", "token_type_ids", "pad = 0", "fill = 0")
    for name in conversion.on_request:
        lines += _table("output", name, "default = false")
    if conversion.labels:
        lines += _table("output", conversion.classes, f"labels = [{', '.join(map(_quote, conversion.labels))}]")
    return "\n".join(lines).rstrip("\n") + "\n"


def _table(kind: str, name: str, *settings: str) -> list[str]:
    return [f"[[{kind}]]", f"name = {_quote(name)}", *settings, ""]


def _quote(text: str) -> str:
    """JSON's strings are TOML's, but for one control character and unpaired surrogates."""
    whole = text.encode("utf-8", "replace").decode("utf-8")
    return json.dumps(whole, ensure_ascii=False).replace("\x7f", "\\u007f")
