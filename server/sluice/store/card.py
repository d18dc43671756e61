"""A version's card, its `README.md`: what is known, between two markers, in the middle of what its author writes.

The part between the markers is made anew from the manifest each time; what stands outside of them stays.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import UTC
from pathlib import Path

from sluice.errors import ModelError
from sluice.spec import Port
from sluice.store.contents import CARD
from sluice.store.manifest import Manifest, shape, write_text
from sluice.store.reading import read_text

BEGIN = "<!-- sluice: begin. Made from manifest.toml by `sluice seal`; write above or below. -->"
END = "<!-- sluice: end -->"


def write(directory: Path, manifest: Manifest) -> None:
    """Make the card, or bring the one that is there up to date."""
    path = directory / CARD
    place = f"{directory.name}/{CARD}"
    old = read_text(path, place) if os.path.lexists(path) else f"# {_plain(manifest.name)}\n"
    write_text(path, _replaced(old, _known(manifest), place))


def _replaced(text: str, known: str, place: str) -> str:
    if text.count(BEGIN) > 1 or text.count(BEGIN) != text.count(END):
        raise ModelError(f"{place}: its lines '{BEGIN}' and '{END}' must be there once each, or not at all")
    part = f"{BEGIN}\n{known}{END}"
    if BEGIN not in text:
        return f"{text.rstrip()}\n\n{part}\n"
    before, rest = text.split(BEGIN)
    if END not in rest:
        raise ModelError(f"{place}: the line '{END}' stands before '{BEGIN}'")
    return before + part + rest.split(END)[1]


def _known(manifest: Manifest) -> str:
    model = manifest.model
    contents = f"{sum(entry.size for entry in manifest.files):,} bytes in {len(manifest.files)} files"
    about = [
        ("version", manifest.version),
        ("task", manifest.task),
        *((parent.relation, f"{parent.name} {parent.version}") for parent in manifest.parents),
        ("source", manifest.source),
        ("licence", manifest.licence),
        ("format", " ".join([model.format, *(f"{domain} {opset}" for domain, opset in sorted(model.opsets.items()))])),
        ("encryption", f"{model.encryption}, key {model.key_id}" if model.encryption else ""),
        ("parameters", "" if model.parameters is None else f"{model.parameters:,}"),
        ("contents", contents),
        ("tokenizer", manifest.tokenizer),
        ("made", f"{manifest.created.astimezone(UTC):%Y-%m-%d} by {manifest.created_by}"),
        ("with", ", ".join(f"{name} {version}" for name, version in sorted(manifest.runtime.items()))),
        ("digest", manifest.digest()),
    ]
    parts = [_table(("", ""), [row for row in about if row[1]])]
    for heading, ports in (("Inputs", manifest.inputs), ("Outputs", manifest.outputs)):
        if ports:
            parts += [f"## {heading}\n", _table(("name", "datatype", "shape"), [_port(port) for port in ports])]
    if manifest.metrics:
        rows = [(name, str(manifest.metrics[name])) for name in sorted(manifest.metrics)]
        parts += ["## Metrics\n", _table(("metric", "value"), rows)]
    return "\n".join(parts)


def _port(port: Port) -> tuple[str, str, str]:
    return port.name, port.datatype, ", ".join(map(str, shape(port)))


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [headings, ["---"] * len(headings), *([_plain(cell) for cell in row] for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _plain(text: str) -> str:
    """Text that Markdown shows as it is, in one line."""
    line = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;")
    return "".join(f"\\{letter}" if letter in "\\`*_[]|#" else letter for letter in line)
