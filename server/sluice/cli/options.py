"""One flag for every setting, made from the settings model, so that flags and settings cannot differ."""

import functools
import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from sluice.cli.console import CommandError
from sluice.config.fields import Field, fields
from sluice.config.settings import Settings
from sluice.config.sources import FILE_VARIABLE, Loaded, load
from sluice.errors import ConfigError

ConfigFile = Annotated[
    Path | None,
    typer.Option(
        "--config",
        metavar="FILE",
        envvar=FILE_VARIABLE,
        help="TOML file with settings; sluice.toml in the working directory if there is one.",
        show_default=False,
    ),
]
LoadedSettings = Loaded[Settings]
Json = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")]
_SHORT = {"models.repository": "-r"}


class Command(TyperCommand):
    """A command whose help names no type for flags, which take no value."""

    def get_params(self, ctx: Any) -> list[Any]:
        return _without_types(super().get_params(ctx))


class Group(TyperGroup):
    """The same for a command that has others below it."""

    def get_params(self, ctx: Any) -> list[Any]:
        return _without_types(super().get_params(ctx))


def _without_types(options: list[Any]) -> list[Any]:
    for option in options:
        if getattr(option, "is_flag", False):
            option.metavar = ""
    return options


def with_settings(command: Callable[..., None], sections: Sequence[str]) -> Callable[..., None]:
    """The command with a flag for each setting of these sections, and `--config`; it is called with what was loaded.

    A section may also be a single setting, as "models.repository".
    """
    chosen = {_parameter_name(field): field for field in fields(Settings) if {field.section, field.name} & {*sections}}

    @functools.wraps(command)
    def wrapper(config: Path | None = None, **values: Any) -> None:
        flags = {field.name: values.pop(name) for name, field in chosen.items()}
        given = {name: value for name, value in flags.items() if value not in (None, [], ())}
        command(loaded=_load(config, given), **values)

    own = [each for each in inspect.signature(command).parameters.values() if each.name != "loaded"]
    config = inspect.Parameter("config", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=ConfigFile)
    generated = [_parameter(name, field) for name, field in chosen.items()]
    signature = inspect.Signature(
        [each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in own] + [config] + generated
    )
    wrapper.__signature__ = signature  # type: ignore[attr-defined]
    wrapper.__annotations__ = {each.name: each.annotation for each in signature.parameters.values()}
    return wrapper


def settings_here() -> Settings:
    """What the configuration file and the environment say, for commands that have no flags for settings."""
    return _load(None, {}).settings


def _load(config: Path | None, flags: Mapping[str, Any]) -> LoadedSettings:
    try:
        return load(config, os.environ, flags)
    except ConfigError as error:
        raise CommandError(error.message, "`sluice config --reference` lists every setting") from error


def _parameter_name(field: Field) -> str:
    return f"{field.section}__{field.key}"


def _parameter(name: str, field: Field) -> inspect.Parameter:
    spellings = [f"{field.flag}/--no-{field.flag.removeprefix('--')}" if field.is_switch else field.flag]
    if field.name in _SHORT:
        spellings.append(_SHORT[field.name])
    option = typer.Option(
        *spellings,
        # the backslash keeps rich from taking the bracket for markup
        help=f"{field.description}{' Repeatable.' if field.is_list else ''} \\[default: {field.default_text}]",
        rich_help_panel=f"Settings: {field.section}",
        show_default=False,
    )
    annotation = field.annotation if field.is_list else field.annotation | None
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[annotation, option]
    )
