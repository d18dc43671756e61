"""Reads the configuration: defaults, then a TOML file, then the environment, then flags, each stronger than the last.

Every value remembers where it came from, and every complaint names the line, variable or flag it is about.
Relative paths, wherever they were written, are relative to the working directory.
"""

import json
import os
import re
import reprlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Generic, TypeVar

from pydantic import ValidationError

from sluice.config import toml
from sluice.config.fields import PREFIX, Field, fields
from sluice.config.settings import ONE_SOURCE, UNSHOWN, Section, Settings
from sluice.errors import ConfigError

DEFAULT_FILE = Path("sluice.toml")  # read from the working directory when it is there
FILE_VARIABLE = "SLUICE_CONFIG"
# Ours, but not settings of the server.
OTHER_VARIABLES = frozenset({FILE_VARIABLE, "SLUICE_URL", "SLUICE_CACHE", "SLUICE_CACHE_LIMIT", "SLUICE_MODEL_KEY"})
# Kubernetes describes every service of a namespace to its pods in variables such as SLUICE_PORT_8000_TCP_ADDR;
# a service called "sluice" must not stop the server. A bare …_PORT is one of them only if its value is an address.
_KUBERNETES = re.compile(r"_SERVICE_HOST$|_SERVICE_PORT(_[A-Z0-9_]+)?$|_PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?$")
_KUBERNETES_ADDRESS = re.compile(r"(tcp|udp|sctp)://")

SettingsT = TypeVar("SettingsT", bound=Section)


@dataclass(frozen=True, slots=True)
class Shown:
    """One setting for people to read: its value (masked if secret) in plain types, and where it came from."""

    field: Field
    value: Any
    origin: str


@dataclass(frozen=True, slots=True)
class Loaded(Generic[SettingsT]):
    settings: SettingsT
    origins: Mapping[str, str]  # section.key → "default", "sluice.toml:12", "SLUICE_SERVER__HOST" or "--host"
    file: Path | None  # the file that was read

    def shown(self) -> Iterator[Shown]:
        """Every setting in order, fit for printing."""
        for field in fields(type(self.settings)):
            value = field.shown(getattr(getattr(self.settings, field.section), field.key))
            yield Shown(field, _plain(value), self.origins[field.name])


@dataclass(frozen=True, slots=True)
class _Given:
    """A value as one source gave it."""

    field: Field
    value: Any
    origin: str


@dataclass(frozen=True, slots=True)
class _Layer:
    """What one source said; `strict` where its values have types of their own, as in TOML."""

    given: list[_Given]
    problems: list[str]
    strict: bool = False


def load(path: Path | None, environment: Mapping[str, str], flags: Mapping[str, Any]) -> Loaded[Settings]:
    """The server's settings; `flags` maps section.key to the value given on the command line."""
    return load_as(Settings, path, environment, flags)


def load_as(
    model: type[SettingsT], path: Path | None, environment: Mapping[str, str], flags: Mapping[str, Any]
) -> Loaded[SettingsT]:
    """As `load`, for any model made of sections."""
    known = {field.name: field for field in fields(model)}
    file = _choose_file(path, environment)
    layers = (
        _from_file(file, known) if file else _Layer([], []),
        _from_environment(environment, known),
        _from_flags(flags, known),
    )
    origins = dict.fromkeys(known, "default")
    merged: dict[str, dict[str, Any]] = {}
    problems: list[str] = []
    for layer in layers:
        problems += layer.problems or _merge(model, layer, merged)
        origins.update({each.field.name: each.origin for each in layer.given})
    if problems:
        raise ConfigError("\n".join(problems))
    try:
        return Loaded(model.model_validate(merged), origins, file)
    except ValidationError as error:
        raise ConfigError("\n".join(_conflicts(error, origins))) from error


def _choose_file(path: Path | None, environment: Mapping[str, str]) -> Path | None:
    if path is not None:
        return path
    if named := environment.get(FILE_VARIABLE):
        return Path(named)
    return DEFAULT_FILE if os.path.lexists(DEFAULT_FILE) else None


def _from_file(path: Path, known: Mapping[str, Field]) -> _Layer:
    text = _read(path)
    try:
        document = toml.parse(text)
    except ValueError as error:
        raise ConfigError(_syntax_error(path, text, str(error))) from error
    lines = toml.key_lines(text)
    layer = _Layer([], [], strict=True)
    sections = {field.section for field in known.values()}
    for section, content in document.items():
        place = f"{path}:{lines[(section,)]}"
        if section not in sections:
            layer.problems.append(f"{place}: there is no section [{section}]{_section_hint(section, known)}")
        elif not isinstance(content, dict):
            layer.problems.append(f"{place}: {section} is a section: write [{section}] and its settings below it")
        else:
            for key, value in content.items():
                place, name = f"{path}:{lines[section, key]}", f"{section}.{key}"
                if name in known:
                    layer.given.append(_Given(known[name], value, place))
                else:
                    layer.problems.append(f"{place}: there is no setting {name}{_key_hint(section, key, known)}")
    return layer


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: there is no such configuration file") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 text (byte {error.start})") from error
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error


def _syntax_error(path: Path, text: str, message: str) -> str:
    place = re.search(r" \(at (?:line (\d+), column (\d+)|end of document)\)$", message)
    if place is None:
        return f"{path}: {message}"
    message = message[: place.start()]
    if place[1]:
        return f"{path}:{place[1]}: {message} (column {place[2]})"
    return f"{path}:{len(text.splitlines()) or 1}: {message} (at the end of the file)"


def _from_environment(environment: Mapping[str, str], known: Mapping[str, Field]) -> _Layer:
    by_variable = {field.variable: field for field in known.values()}
    layer = _Layer([], [])
    for variable, text in sorted(environment.items()):
        if variable in by_variable:
            field = by_variable[variable]
            try:
                value = _list(text) if field.is_list else text
            except ValueError as error:
                layer.problems.append(f"{variable}: {field.name} is no valid JSON list: {error}")
            else:
                layer.given.append(_Given(field, value, variable))
        elif variable.startswith(PREFIX) and variable not in OTHER_VARIABLES and not _is_kubernetes(variable, text):
            hint = _did_you_mean(variable, [*by_variable, *OTHER_VARIABLES])
            layer.problems.append(f"{variable}: there is no setting of that name{hint}")
    return layer


def _is_kubernetes(variable: str, value: str) -> bool:
    if variable.endswith("_PORT") and not variable.endswith("_SERVICE_PORT"):
        return _KUBERNETES_ADDRESS.match(value) is not None or _KUBERNETES.search(variable) is not None
    return _KUBERNETES.search(variable) is not None


def _list(text: str) -> Any:
    """A list in JSON, or elements separated by commas."""
    if text.lstrip().startswith("["):
        return json.loads(text)
    return [item for item in (part.strip() for part in text.split(",")) if item]


def _from_flags(flags: Mapping[str, Any], known: Mapping[str, Field]) -> _Layer:
    layer = _Layer([], [])
    for name, value in flags.items():
        if name in known:
            layer.given.append(_Given(known[name], value, known[name].flag))
        else:
            layer.problems.append(f"{name}: there is no setting of that name{_did_you_mean(name, list(known))}")
    return layer


def _merge(model: type[Section], layer: _Layer, merged: dict[str, dict[str, Any]]) -> list[str]:
    """Puts the layer's values over those of weaker layers; returns what is wrong with them.

    Each layer is checked on its own, so that a bad value is found even where a stronger source hides it.
    """
    tree: dict[str, dict[str, Any]] = {}
    for each in layer.given:
        tree.setdefault(each.field.section, {})[each.field.key] = each.value
    try:
        if layer.strict:  # as JSON, because there a path is a string, even to a strict reader
            checked = model.model_validate_json(json.dumps(tree, default=str), strict=True, context=ONE_SOURCE)
        else:
            checked = model.model_validate(tree, context=ONE_SOURCE)
    except ValidationError as error:
        return _complaints(error, layer.given)
    for each in layer.given:
        section = getattr(checked, each.field.section)
        merged.setdefault(each.field.section, {})[each.field.key] = getattr(section, each.field.key)
    return []


def _complaints(error: ValidationError, given: Sequence[_Given]) -> list[str]:
    by_location: dict[tuple[int | str, ...], _Given] = {(each.field.section, each.field.key): each for each in given}
    complaints = []
    for detail in error.errors(include_url=False):
        each = by_location.get(detail["loc"][:2])
        message = detail["msg"].split(", unable to")[0].removeprefix("Value error, ")
        message = re.sub(r"^\w+ should ", "must ", message)
        if each is None:
            complaints.append(f"{'.'.join(map(str, detail['loc']))}: {message}")
        elif each.field.secret or detail["type"] == UNSHOWN:
            complaints.append(f"{each.origin}: {each.field.name} {message}")
        else:
            complaints.append(f"{each.origin}: {each.field.name} {message}, not {_quoted(detail['input'])}")
    return complaints


def _quoted(value: Any) -> str:
    return toml.encode(value) if isinstance(value, bool) else reprlib.repr(value)


def _conflicts(error: ValidationError, origins: Mapping[str, str]) -> list[str]:
    """What is wrong with settings that are good one by one, with the places of those that somebody gave."""
    complaints = []
    for detail in error.errors(include_url=False):
        section, keys = detail["loc"][0], detail.get("ctx", {}).get("keys", ())
        places = [origins[f"{section}.{key}"] for key in keys]
        given = ", ".join(place for place in places if place != "default")
        complaints.append(f"{given}: {detail['msg']}" if given else detail["msg"])
    return complaints


def _section_hint(section: str, known: Mapping[str, Field]) -> str:
    for field in known.values():
        if field.key == section:
            return f"; {section} belongs in [{field.section}]"
    return _did_you_mean(section, sorted({field.section for field in known.values()}))


def _key_hint(section: str, key: str, known: Mapping[str, Field]) -> str:
    for field in known.values():
        if field.key == key:
            return f"; {key} belongs in [{field.section}]"
    return _did_you_mean(key, [field.key for field in known.values() if field.section == section])


def _did_you_mean(word: str, possibilities: Sequence[str]) -> str:
    close = get_close_matches(word, possibilities, n=1)
    return f"; did you mean {close[0]}?" if close else ""


def _plain(value: Any) -> Any:
    """In the types that JSON and TOML have."""
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, os.PathLike) else value
