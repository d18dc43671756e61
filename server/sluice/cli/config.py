"""`sluice config`: the effective configuration, and where each value came from."""

from itertools import groupby
from typing import Annotated, Any

import typer

from sluice.cli.console import print_json
from sluice.cli.options import Json, LoadedSettings
from sluice.config import toml
from sluice.config.sources import Shown


def config(
    loaded: LoadedSettings,
    as_json: Json = False,
    reference: Annotated[
        bool, typer.Option("--reference", help="Print the reference of all settings in Markdown.")
    ] = False,
) -> None:
    """Print the effective configuration with the origin of every value; secrets are masked."""
    if reference:
        from sluice.config.reference import reference as markdown

        print(markdown(), end="")
    elif as_json:
        print_json(_tree(loaded))
    else:
        _print_toml(loaded)


def _tree(loaded: LoadedSettings) -> dict[str, dict[str, Any]]:
    tree: dict[str, dict[str, Any]] = {}
    for shown in loaded.shown():
        tree.setdefault(shown.field.section, {})[shown.field.key] = {"value": shown.value, "origin": shown.origin}
    return tree


def _print_toml(loaded: LoadedSettings) -> None:
    """As a configuration file that could be used as it is."""
    lines = [(shown, _assignment(shown)) for shown in loaded.shown()]
    width = min(60, max(len(text) for _, text in lines))
    for index, (section, members) in enumerate(groupby(lines, key=lambda line: line[0].field.section)):
        print(("\n" if index else "") + f"[{section}]")
        for shown, text in members:
            print(f"{text:<{width}}  # {shown.origin}")


def _assignment(shown: Shown) -> str:
    if shown.value is None:
        return f"# {shown.field.key} is not set"
    return f"{shown.field.key} = {toml.encode(shown.value)}"
