"""Writes what the graph cannot say about an imported model as `model.toml`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sluice.convert.architecture import Architecture
    from sluice.convert.conversion import Outputs

HEADING = "# Written by `sluice import` and yours to edit: it is never written again."


def settings_text(architecture: Architecture, outputs: Outputs) -> str:
    lines = [
        HEADING,
        f"max_length = {architecture.max_length}",
        "",
        *_table("input", "input_ids", f"pad = {architecture.pad}"),
        *_table("input", "attention_mask", "pad = 0", "fill = 1"),
    ]
    if architecture.takes_token_types:
        lines += _table("input", "token_type_ids", "pad = 0", "fill = 0")
    for name in outputs.on_request:
        lines += _table("output", name, "default = false")
    if outputs.labels:
        lines += labels_table(outputs.classes, outputs.labels)
    return text_of(lines)


def labels_table(output: str, labels: tuple[str, ...]) -> list[str]:
    return _table("output", output, f"labels = [{', '.join(map(quote, labels))}]")


def text_of(lines: list[str]) -> str:
    return "\n".join(lines).rstrip("\n") + "\n"


def _table(kind: str, name: str, *settings: str) -> list[str]:
    return [f"[[{kind}]]", f"name = {quote(name)}", *settings, ""]


def quote(text: str) -> str:
    """JSON's strings are TOML's, but for one control character and unpaired surrogates."""
    whole = text.encode("utf-8", "replace").decode("utf-8")
    return json.dumps(whole, ensure_ascii=False).replace("\x7f", "\\u007f")
