"""Reads `model.toml`: every key has a row in a table below, and anything else is an error that says where it stands."""

import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from sluice.config.toml import parse
from sluice.errors import ModelError
from sluice.spec import DATATYPES
from sluice.store import origin
from sluice.store.origin import Origin
from sluice.store.reading import backend, complaint, did_you_mean, read_labels, read_text, relative
from sluice.store.settings import Said, TextSettings, VersionPolicy, WarmUp, WarmUpInput

Fields = Mapping[str, Callable[[Any], Any]]

_DECODE_PLACE = re.compile(r" \((?:at line (\d+), column \d+|at end of document)\)$")
_HEADER = re.compile(r"^\s*\[\[?\s*([\w.\"'-]+)\s*\]\]?")


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError(f"must be a text, not {value!r}")
    return value


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"must be true or false, not {value!r}")
    return value


def _whole(value: Any, least: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ValueError(f"must be a whole number of at least {least}, not {value!r}")
    return value


def _number(value: Any) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise ValueError(f"must be a number, not {value!r}")
    return value


def _positive(value: Any) -> float:
    if not _number(value) >= 0:
        raise ValueError(f"must be a number of at least 0, not {value!r}")
    return float(value)


def _choice(value: Any, choices: Sequence[str]) -> str:
    if value not in choices:
        raise ValueError(f"must be one of {', '.join(sorted(choices))}, not {value!r}")
    return str(value)


def _list(value: Any, element: Callable[[Any], Any]) -> tuple[Any, ...]:
    if not isinstance(value, list):
        raise ValueError(f"must be a list, not {value!r}")
    return tuple(element(item) for item in value)


def _version(value: Any) -> str:
    text = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
    if not isinstance(text, str) or not re.fullmatch("[1-9][0-9]*", text):
        raise ValueError(f"must be a list of version numbers, not {value!r}")
    return text


def _number_of_version(value: Any) -> str:
    try:
        return _version(value)
    except ValueError:
        raise ValueError(f"must be a version's number, not {value!r}") from None


def _sha256(value: Any) -> str:
    if not isinstance(value, str) or not re.fullmatch("[0-9a-fA-F]{64}", value):
        raise ValueError(f"must be 64 hexadecimal digits, not {value!r}")
    return value.lower()


def _fallback(value: Any) -> str:
    if not isinstance(value, str) or not re.fullmatch("[^/.][^/]*(/[1-9][0-9]*)?", value):
        raise ValueError(f'must be the name of a model, or "name/version", not {value!r}')
    return value


def _labels(value: Any, directory: Path) -> tuple[str, ...]:
    if isinstance(value, str):
        return read_labels(directory, value)
    if not isinstance(value, list) or not all(isinstance(label, str) for label in value):
        raise ValueError(f"must be a list of texts or the name of a file of them, not {value!r}")
    return tuple(value)


def _parameters(value: Any) -> dict[str, str]:
    if not isinstance(value, dict):
        raise ValueError(f"must be a table, not {value!r}")
    result = {}
    for key, item in value.items():
        if not isinstance(item, str | int | float):
            raise ValueError(f"'{key}' must be a text, a number or true or false, not {item!r}")
        result[key] = str(item).lower() if isinstance(item, bool) else str(item)
    return result


def _prompts(value: Any) -> dict[str, str]:
    if not isinstance(value, dict) or not all(isinstance(prompt, str) for prompt in value.values()):
        raise ValueError(f"must be a table of texts, not {value!r}")
    return value


_MODEL: Fields = {
    "backend": lambda value: backend(_text(value)),
    "filename": lambda value: relative(_text(value)),
    "target_latency": _positive,
    "max_batch_rows": partial(_whole, least=0),
    "max_batch_tokens": partial(_whole, least=1),
    "max_queue": partial(_whole, least=1),
    "queue_timeout": _positive,
    "priority_levels": partial(_whole, least=1),
    "default_priority": partial(_whole, least=1),
    "instances": partial(_whole, least=0),
    "gpus": partial(_list, element=partial(_whole, least=0)),
    "padding": partial(_choice, choices=("any", "equal", "never")),
    "tolerance": _positive,
    "max_length": partial(_whole, least=1),
    "warm_lengths": partial(_list, element=partial(_whole, least=1)),
    "fallback": _fallback,
    "parameters": _parameters,
}
_TABLES = ("source", "versions", "input", "output", "text", "warm_up")
_TENSOR: Fields = {
    "name": _text,
    "datatype": partial(_choice, choices=tuple(DATATYPES)),
    "shape": partial(_list, element=partial(_whole, least=-1)),
    "batch_axis": partial(_whole, least=-1),
    "sequence_axis": partial(_whole, least=-1),
}
_INPUT: Fields = {**_TENSOR, "pad": _number, "fill": _number}
_OUTPUT: Fields = {**_TENSOR, "default": _flag}
_SOURCE: Fields = {
    "from": _text,
    "sha256": _sha256,
    "version": _number_of_version,
}
_VERSIONS: Fields = {
    "policy": partial(_choice, choices=("latest", "all", "specific")),
    "count": partial(_whole, least=1),
    "versions": partial(_list, element=_version),
}
_TEXT: Fields = {
    "task": partial(_choice, choices=("embedding", "classification", "token-classification", "rerank", "sparse")),
    "output": _text,
    "pooling": partial(_choice, choices=("mean", "cls", "max", "last")),
    "normalize": _flag,
    "activation": partial(_choice, choices=("softmax", "sigmoid", "none")),
    "max_length": partial(_whole, least=1),
    "truncate": partial(_choice, choices=("error", "left", "right")),
    "overlap": partial(_whole, least=0),
    "prompts": _prompts,
    "default_prompt": _text,
}
_WARM_UP_INPUT: Fields = {
    "name": _text,
    "datatype": partial(_choice, choices=tuple(DATATYPES)),
    "shape": partial(_list, element=partial(_whole, least=0)),
    "source": partial(_choice, choices=("zero", "random", "file")),
    "file": lambda value: relative(_text(value)),
}
_WARM_UP: Fields = {
    "name": _text,
    "rows": partial(_whole, least=1),
    "repeat": partial(_whole, least=1),
}

KEYS: Mapping[str, frozenset[str]] = {
    "": frozenset(_MODEL),
    "source": frozenset(_SOURCE),
    "versions": frozenset(_VERSIONS),
    "input": frozenset(_INPUT),
    "output": frozenset({*_OUTPUT, "labels"}),
    "text": frozenset(_TEXT),
    "warm_up": frozenset({*_WARM_UP, "input"}),
    "warm_up.input": frozenset(_WARM_UP_INPUT),
}
"""Every key by its table; "" = before the first."""


def read(path: Path) -> Said:
    """What `model.toml` says; ModelError names file, line and field of the first thing wrong."""
    file = f"{path.parent.name}/{path.name}"
    text = read_text(path, file)
    try:
        document = parse(text)
    except tomllib.TOMLDecodeError as error:
        place = _DECODE_PLACE.search(str(error))
        line = int(place[1]) if place and place[1] else text.count("\n") + 1
        raise complaint(file, line, "", f"not valid TOML: {_DECODE_PLACE.sub('', str(error))}") from error
    except ValueError as error:
        raise complaint(file, None, "", str(error)) from error
    return _Document(file, text, path.parent).read(document)


@dataclass(frozen=True, slots=True)
class _Document:
    file: str
    text: str
    directory: Path  # the model's, to which label files are relative

    def read(self, document: Mapping[str, Any]) -> Said:
        plain = {key: value for key, value in document.items() if key not in _TABLES}
        said: Said = self._convert(plain, _MODEL, "")
        if "source" in document:
            said["origin"] = self._origin(document["source"])
        if "versions" in document:
            said["version_policy"] = self._policy(document["versions"])
        if "text" in document:
            said["text"] = TextSettings(**self._convert(document["text"], _TEXT, "text"))
        for table, fields in (("input", _INPUT), ("output", self._output_fields())):
            if table in document:
                said[f"{table}s"] = self._tensors(document[table], table, fields)
        if "warm_up" in document:
            said["warm_up"] = tuple(
                self._warm_up(entry, index) for index, entry in self._entries(document["warm_up"], "warm_up")
            )
        return said

    def _output_fields(self) -> Fields:
        return {**_OUTPUT, "labels": partial(_labels, directory=self.directory)}

    def _convert(self, table: Any, fields: Fields, name: str, index: int = 0) -> dict[str, Any]:
        if not isinstance(table, dict):
            raise self._error(name, index, "", f"must be a table, not {table!r}")
        result = {}
        for key, value in table.items():
            if key not in fields:
                raise self._error(name, index, key, f"unknown key; {_unknown(key, fields, name)}")
            try:
                result[key] = fields[key](value)
            except ValueError as error:
                raise self._error(name, index, key, str(error)) from error
        return result

    def _entries(self, value: Any, name: str) -> list[tuple[int, Any]]:
        if not isinstance(value, list):
            raise self._error(name, 0, "", f"must be written as [[{name}]]")
        return list(enumerate(value))

    def _required(self, table: Mapping[str, Any], keys: Sequence[str], name: str, index: int) -> None:
        for key in keys:
            if key not in table:
                raise self._error(name, index, key, "is missing")

    def _tensors(self, value: Any, name: str, fields: Fields) -> dict[str, dict[str, Any]]:
        tensors: dict[str, dict[str, Any]] = {}
        for index, entry in self._entries(value, name):
            tensor = self._convert(entry, fields, name, index)
            self._required(tensor, ("name",), name, index)
            tensor_name = tensor.pop("name")
            if tensor_name in tensors:
                raise self._error(name, index, "name", f"'{tensor_name}' is described twice")
            if "shape" in tensor:
                tensor["reshape_batch"] = False
            tensors[tensor_name] = tensor
        return tensors

    def _origin(self, value: Any) -> Origin:
        table = self._convert(value, _SOURCE, "source")
        self._required(table, ("from",), "source", 0)
        try:
            return origin.checked(table["from"], table.get("sha256", ""), table.get("version", ""))
        except ValueError as error:
            raise self._error("source", 0, "from", str(error)) from error

    def _policy(self, value: Any) -> VersionPolicy:
        table = self._convert(value, _VERSIONS, "versions")
        kind = table.get("policy", "specific" if "versions" in table else "latest")
        if (kind == "specific") != bool(table.get("versions")):
            raise self._error("versions", 0, "versions", 'a list of versions and policy = "specific" belong together')
        if "count" in table and kind != "latest":
            raise self._error("versions", 0, "count", 'belongs to policy = "latest" only')
        return VersionPolicy(kind, table.get("count", 1), table.get("versions", ()))

    def _warm_up(self, entry: Any, index: int) -> WarmUp:
        inputs = partial(_list, element=partial(self._warm_up_input, index=index))
        fields: Fields = {**_WARM_UP, "input": inputs}
        table = self._convert(entry, fields, "warm_up", index)
        self._required(table, ("input",), "warm_up", index)
        name = table.get("name", f"warm_up {index + 1}")
        return WarmUp(name, table["input"], table.get("rows", 1), table.get("repeat", 1))

    def _warm_up_input(self, entry: Any, index: int) -> WarmUpInput:
        table = self._convert(entry, _WARM_UP_INPUT, "warm_up", index)
        self._required(table, ("name", "datatype", "shape"), "warm_up", index)
        if "file" in table:
            table.setdefault("source", "file")
        if (table.get("source") == "file") != ("file" in table):
            raise self._error("warm_up", index, "file", 'a file and source = "file" belong together')
        return WarmUpInput(**table)

    def _error(self, table: str, index: int, key: str, why: str) -> ModelError:
        field = ".".join(part for part in (table, key) if part)
        return complaint(self.file, _line(self.text, table, index, key), field, why)


def _unknown(key: str, fields: Fields, table: str) -> str:
    if key == "name" and table in ("", "source"):
        return "a model's name is that of its directory"
    return did_you_mean(key, [*fields, *(_TABLES if not table else ())])


def _line(text: str, table: str, index: int, key: str) -> int | None:
    """Where `key` stands in the index-th `table` ("" = before the first); else where that table itself begins."""
    current, seen, found = "", -1, None
    sought = _assigned(key)
    whole = _assigned(table)  # a table may also be written as a value
    for number, line in enumerate(text.splitlines(), 1):
        header = _HEADER.match(line)
        if header:
            current = header[1]
            if current == table:
                seen += 1
                found = number if seen == index else found
            elif not table and current.split(".")[0].strip("\"'") == key:
                return number  # an unknown key that is a table
        elif not current and table and whole.match(line):
            found = number
        inside = (not table and not current) or (seen == index and current.split(".")[0] == table)
        if key and inside and sought.match(line):
            return number
    return found


def _assigned(key: str) -> re.Pattern[str]:
    return re.compile(rf"^\s*[\"']?{re.escape(key)}[\"']?\s*[=.]")
