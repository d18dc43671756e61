"""`sluice seal`: writes down what a version is, with the sha256 of its files, and its card."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from sluice.cli.console import CommandError
from sluice.cli.places import version_directory
from sluice.store.reading import did_you_mean

_TEXTS = ("name", "version", "task", "tokenizer", "source", "licence")
_METRICS = "metrics."


def seal(
    target: Annotated[str, typer.Argument(metavar="NAME|PATH", help="A model, NAME/N, or a version's directory.")],
    said: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="What to say of it; metrics.NAME=… for a metric. Repeatable."),
    ] = None,
    repository: Annotated[Path, typer.Option("--repository", "-r", help="Directory of models.")] = Path("models"),
) -> None:
    """Write a version's manifest.toml and README.md; from then on it is served only as it is now."""
    from sluice.encryption.keys import Keys
    from sluice.store import card, manifest  # which need numpy, and other commands do not

    directory = version_directory(target, repository)
    settings, metrics = _parse(said or [])
    if metrics:
        old = manifest.read(directory)
        settings["metrics"] = _merged(dict(old.metrics) if old else {}, metrics)
    sealed = manifest.seal(directory, Keys.given(os.environ), **settings)
    card.write(directory, sealed)
    print(f"{directory} is {sealed.name} {sealed.version}, {len(sealed.files)} files, {sealed.digest()}")


def _parse(said: Sequence[str]) -> tuple[dict[str, Any], dict[str, float | str]]:
    settings: dict[str, Any] = {}
    metrics: dict[str, float | str] = {}
    for each in said:
        key, equals, value = each.partition("=")
        if not equals:
            raise CommandError(f"--set {each}: must be KEY=VALUE")
        if key in _TEXTS:
            settings[key] = value
        elif key.startswith(_METRICS) and key != _METRICS:
            metrics[key.removeprefix(_METRICS)] = _number(value)
        else:
            raise CommandError(f"--set {each}: {did_you_mean(key, (*_TEXTS, _METRICS + 'NAME'))}")
    return settings, metrics


def _merged(old: dict[str, float | str], new: dict[str, float | str]) -> dict[str, float | str]:
    """An empty value takes a metric away."""
    return {name: value for name, value in (old | new).items() if value != ""}


def _number(text: str) -> float | str:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
