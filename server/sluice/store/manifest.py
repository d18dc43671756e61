"""A version's manifest, `<model>/<version>/manifest.toml`: what it is, where it came from, and the sha256 of its files.

`seal` writes it, once the directory is as it shall be; `verify` says whether it still is. See docs/manifest.md.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import os
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar

from sluice import __version__
from sluice.config.toml import encode
from sluice.errors import ModelError, system_reason
from sluice.spec import DATATYPES, Port
from sluice.store import onnx_file
from sluice.store.contents import MANIFEST, Hashes, files_of, name_of_file, staged
from sluice.store.reading import complaint, did_you_mean, read_text

FORMAT = 1
TASKS = ("embedding", "classification", "token-classification", "rerank", "other")
RELATIONS = ("quantized from", "converted from", "delta of", "fine-tuned from", "derived from")

# Semantic versioning 2.0.0, without its rule on leading zeros after the dash.
SEMANTIC = re.compile(r"(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)(-[0-9A-Za-z.-]+)?(\+[0-9A-Za-z.-]+)?", re.ASCII)
_NAME = re.compile(r"\w[\w.+@:=~ -]*(?<! )")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_DISTRIBUTIONS = {"onnxruntime": ("onnxruntime", "onnxruntime-gpu"), "onnx": ("onnx",)}
_FORMATS = {".onnx": "onnx", ".py": "python"}
_COMPLAINTS = 5  # named in one error

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class FileEntry:
    path: str  # below the version's directory, with /
    sha256: str
    size: int


@dataclass(frozen=True, slots=True)
class Model:
    """What the model file tells."""

    format: str  # onnx or python
    opsets: Mapping[str, int] = field(default_factory=dict)
    ir_version: int | None = None
    parameters: int | None = None  # how many numbers it was trained to
    producer: str = ""


@dataclass(frozen=True, slots=True)
class Parent:
    """A version that this one was made from."""

    relation: str
    name: str
    version: str
    digest: str = ""  # "" = not known


@dataclass(frozen=True, slots=True)
class Manifest:
    name: str
    version: str  # semantic
    created: datetime
    created_by: str
    model: Model
    files: tuple[FileEntry, ...]
    task: str = ""
    tokenizer: str = ""
    source: str = ""
    licence: str = ""
    runtime: Mapping[str, str] = field(default_factory=dict)
    parents: tuple[Parent, ...] = ()
    metrics: Mapping[str, float | str] = field(default_factory=dict)
    inputs: tuple[Port, ...] = ()
    outputs: tuple[Port, ...] = ()

    def digest(self) -> str:
        """One name for all the files, whichever directory they lie in."""
        lines = sorted(f"{entry.sha256}  {entry.size}  {entry.path}\n" for entry in self.files)
        return f"sha256:{hashlib.sha256(''.join(lines).encode()).hexdigest()}"

    def file(self, path: str) -> FileEntry | None:
        return next((entry for entry in self.files if entry.path == path), None)


def read(directory: Path) -> Manifest | None:
    """The directory's manifest; None if there is none, ModelError if it is wrong."""
    path = directory / MANIFEST
    if not os.path.lexists(path):
        return None
    shown = f"{_shown(directory)}/{MANIFEST}"
    return parse(read_text(path, shown), shown)


def parse(text: str, shown: str = MANIFEST) -> Manifest:
    """The manifest that `text` is; ModelError names the key of the first thing wrong."""
    try:
        document = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise complaint(shown, None, "", f"not valid TOML: {error}") from error
    try:
        return _manifest(document)
    except _Wrong as error:
        raise complaint(shown, None, error.key, str(error)) from error


def write(directory: Path, manifest: Manifest) -> None:
    """Whole or not at all."""
    path = directory / MANIFEST
    text = dump(manifest)
    parse(text, f"{_shown(directory)}/{MANIFEST}")  # what is written can be read
    write_text(path, text)


def write_text(path: Path, text: str) -> None:
    """Write a file of a version's directory whole or not at all."""
    temporary = staged(path)
    try:
        with temporary.open("w", encoding="utf-8", newline="\n") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        _sync(path.parent)
    except (OSError, UnicodeEncodeError) as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        why = system_reason(error) if isinstance(error, OSError) else "is not UTF-8 text"
        raise ModelError(f"{_shown(path.parent)}/{path.name}: cannot be written: {why}") from error


def seal(directory: Path, **said: Any) -> Manifest:
    """Hash every file, read what the model file tells, and write it down.

    `said` are fields of a manifest by name; what it does not say is kept from the manifest that is there.
    """
    unknown = next((key for key in said if key not in SAID), None)
    if unknown is not None:
        raise ModelError(f"{unknown}: is nothing that can be said of a version; {did_you_mean(unknown, SAID)}")
    if not directory.is_dir():
        raise ModelError(f"{directory}: is not a directory")
    names = files_of(directory)
    graph = model_file(directory, names)
    hashes = Hashes().of(directory, names)
    files = tuple(FileEntry(name, *hashes[name]) for name in names)
    model, inputs, outputs = _told(directory / graph)
    sealed = Manifest(
        **_kept(directory, names) | said,
        created=datetime.now(UTC).replace(microsecond=0),
        created_by=f"sluice {__version__}",
        model=model,
        runtime=runtime(),
        inputs=inputs,
        outputs=outputs,
        files=files,
    )
    old = read(directory)
    if old is not None and old.digest() == sealed.digest():  # the same files, of which more is known
        sealed = replace(sealed, created=old.created, created_by=old.created_by, runtime=old.runtime)
    write(directory, sealed)
    return sealed


def verify(directory: Path, manifest: Manifest, hashes: Hashes | None = None) -> None:
    """ModelError unless the files are those of the manifest, all of them and no others.

    `hashes` remembers what was read, so that a file that did not change since is not read again.
    """
    names = set(files_of(directory))
    expected = {entry.path: entry for entry in manifest.files}
    wrong = [(path, "is missing") for path in expected if path not in names]
    wrong += [(name, "is not in the manifest") for name in sorted(names - expected.keys())]
    if not wrong:
        wrong = [(path, why) for path, why in _sizes(directory, expected).items() if why]
    if not wrong:
        found = (hashes or Hashes()).of(directory, expected)
        wrong = [(path, why) for path, entry in expected.items() if (why := _changed(found[path], entry))]
    if wrong:
        texts = [f"{path} {why}" for path, why in sorted(wrong)[:_COMPLAINTS]]
        more = f"; and {len(wrong) - _COMPLAINTS} more" if len(wrong) > _COMPLAINTS else ""
        raise ModelError(f"{_shown(directory)} is not what its manifest says: {'; '.join(texts)}{more}")


def _sizes(directory: Path, expected: Mapping[str, FileEntry]) -> dict[str, str]:
    """What is wrong with each file's size, which is cheap to know."""
    wrong = {}
    for path, entry in expected.items():
        try:
            size = (directory / path).stat().st_size
        except OSError as error:
            wrong[path] = f"cannot be read: {system_reason(error)}"
            continue
        wrong[path] = f"is changed: it has {size} bytes, not {entry.size}" if size != entry.size else ""
    return wrong


def _changed(found: tuple[str, int], entry: FileEntry) -> str:
    if found == (entry.sha256, entry.size):
        return ""
    return f"is changed: its sha256 is {found[0]}, not {entry.sha256}"


def model_file(directory: Path, names: list[str]) -> str:
    """The model among a version's files: the usual one, else the only one that could be."""
    for usual in ("model.onnx", "model.onnx/model.onnx", "model.py"):
        if usual in names:
            return usual
    graphs = [name for name in names if "/" not in name and name.endswith(".onnx")]
    scripts = [name for name in names if "/" not in name and name.endswith(".py")]
    for found in (graphs, scripts):
        if len(found) == 1:
            return found[0]
    there = f"it holds {', '.join(names[:5])}" if names else "it is empty"
    raise ModelError(f"{_shown(directory)}: there is no model.onnx or model.py; {there}")


def runtime() -> dict[str, str]:
    """The versions of what makes and runs models here."""
    found = {"sluice": __version__}
    for name, distributions in _DISTRIBUTIONS.items():
        for distribution in distributions:
            with contextlib.suppress(metadata.PackageNotFoundError):
                found.setdefault(name, metadata.version(distribution))
    return found


def _told(path: Path) -> tuple[Model, tuple[Port, ...], tuple[Port, ...]]:
    kind = _FORMATS[path.suffix]
    if kind != "onnx":
        return Model(kind), (), ()
    told = onnx_file.read(path)
    return Model(kind, told.opsets, told.ir_version, told.parameters, told.producer), told.inputs, told.outputs


# What the author may say; all else is found out.
SAID = ("name", "version", "task", "tokenizer", "source", "licence", "parents", "metrics")


def _kept(directory: Path, names: list[str]) -> dict[str, Any]:
    """What was said before; else what the directory's place suggests."""
    old = read(directory)
    if old is not None:
        return {key: getattr(old, key) for key in SAID}
    place = directory.resolve()
    return {
        "name": place.parent.name,
        "version": f"{place.name}.0.0" if place.name.isascii() and place.name.isdigit() else "1.0.0",
        "tokenizer": "tokenizer.json" if "tokenizer.json" in names else "",
    }


def _shown(directory: Path) -> str:
    return "/".join(directory.absolute().parts[-2:])


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


# Writing.


def dump(manifest: Manifest) -> str:
    """The manifest as TOML; the same manifest is always the same text."""
    model = manifest.model
    lines = [
        f"manifest = {FORMAT}",
        *_pairs({"name": manifest.name, "version": manifest.version}),
        f"created = {manifest.created.astimezone(UTC).strftime('%Y-%m-%dT%H:%M:%SZ')}",
        *_pairs({"created_by": manifest.created_by}),
        *_pairs({key: getattr(manifest, key) for key in ("task", "tokenizer", "source", "licence")}),
        *_pairs({"digest": manifest.digest()}),
        "",
        "[model]",
        *_pairs({"format": model.format, "opsets": model.opsets, "ir_version": model.ir_version}),
        *_pairs({"parameters": model.parameters, "producer": model.producer}),
    ]
    for name, table in (("runtime", manifest.runtime), ("metrics", manifest.metrics)):
        if table:
            lines += ["", f"[{name}]", *(f"{_key(key)} = {encode(table[key])}" for key in sorted(table))]
    for parent in manifest.parents:
        keys = ("relation", "name", "version", "digest")
        lines += ["", "[[parents]]", *_pairs({key: getattr(parent, key) for key in keys})]
    for side, ports in (("inputs", manifest.inputs), ("outputs", manifest.outputs)):
        for port in ports:
            lines += ["", f"[[signature.{side}]]", f"name = {encode(port.name)}"]
            lines += [f"datatype = {encode(port.datatype)}", f"shape = {encode(shape(port))}"]
    for entry in sorted(manifest.files, key=lambda entry: entry.path):
        lines += ["", f"[files.{encode(entry.path)}]", f"sha256 = {encode(entry.sha256)}", f"size = {entry.size}"]
    return "\n".join(lines) + "\n"


def shape(port: Port) -> list[int | str]:
    """The dimensions as a manifest writes them; "?" = any size."""
    return ["?" if dim is None else dim for dim in port.dims]


def _pairs(table: Mapping[str, Any]) -> list[str]:
    """A line for each value that there is."""
    lines = []
    for key, value in table.items():
        if isinstance(value, Mapping):
            pairs = ", ".join(f"{_key(each)} = {encode(value[each])}" for each in sorted(value))
            lines += [f"{key} = {{ {pairs} }}"] if value else []
        elif value not in ("", None):
            lines.append(f"{key} = {encode(value)}")
    return lines


def _key(text: str) -> str:
    return text if re.fullmatch("[A-Za-z0-9_-]+", text) else encode(text)


# Reading.


class _Wrong(ValueError):
    """What is wrong with the value of a key."""

    def __init__(self, key: str, why: str) -> None:
        super().__init__(why)
        self.key = key


def _text(value: Any, pattern: re.Pattern[str] | None = None) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError(f"must be a text, not {value!r}")
    if pattern is not None and not pattern.fullmatch(value):
        raise ValueError(f"{value!r} does not look like one")
    return value


def _choice(value: Any, choices: tuple[str, ...]) -> str:
    if value not in choices:
        raise ValueError(f"must be one of {', '.join(choices)}, not {value!r}")
    return str(value)


def _whole(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError(f"must be a whole number of at least 0, not {value!r}")
    return value


def _time(value: Any) -> datetime:
    if not isinstance(value, datetime) or value.tzinfo is None:
        raise ValueError(f"must be a time with its zone, as 2026-01-31T12:00:00Z, not {value!r}")
    return value


def _table(value: Any, element: Callable[[Any], _T]) -> dict[str, _T]:
    if not isinstance(value, dict):
        raise ValueError(f"must be a table, not {value!r}")
    result = {}
    for key, item in value.items():
        try:
            result[key] = element(item)
        except ValueError as error:
            raise ValueError(f"'{key}' {error}") from error
    return result


def _metric(value: Any) -> float | str:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError(f"must be a number or a text, not {value!r}")
    if not isinstance(value, str) and not math.isfinite(value):
        raise ValueError(f"must be a finite number, not {value!r}")
    return value


def _same(value: Any) -> Any:
    return value


def _dims(value: Any) -> tuple[int | str, ...]:
    if not isinstance(value, list):
        raise ValueError(f"must be a list, not {value!r}")
    for item in value:
        if isinstance(item, bool) or not isinstance(item, int | str) or (isinstance(item, int) and item < 0):
            raise ValueError(f"must be of sizes and names, not {item!r}")
    return tuple(value)


_Readers = Mapping[str, Callable[[Any], Any]]

_MODEL: _Readers = {
    "format": partial(_choice, choices=tuple(_FORMATS.values())),
    "opsets": partial(_table, element=_whole),
    "ir_version": _whole,
    "parameters": _whole,
    "producer": _text,
}
_PARENT: _Readers = {
    "relation": partial(_choice, choices=RELATIONS),
    "name": partial(_text, pattern=_NAME),
    "version": partial(_text, pattern=SEMANTIC),
    "digest": partial(_text, pattern=_DIGEST),
}
_PORT: _Readers = {
    "name": _text,
    "datatype": partial(_choice, choices=(*sorted(DATATYPES), onnx_file.OTHER)),
    "shape": _dims,
}
_FILE: _Readers = {"sha256": partial(_text, pattern=_SHA256), "size": _whole}
_TOP: _Readers = {
    "name": partial(_text, pattern=_NAME),
    "version": partial(_text, pattern=SEMANTIC),
    "created": _time,
    "created_by": _text,
    "task": partial(_choice, choices=TASKS),
    "tokenizer": lambda value: name_of_file(_text(value)),
    "source": _text,
    "licence": _text,
    "digest": partial(_text, pattern=_DIGEST),
    "runtime": partial(_table, element=_text),
    "metrics": partial(_table, element=_metric),
}
_TABLES = ("manifest", "model", "parents", "signature", "files")


def _manifest(document: dict[str, Any]) -> Manifest:
    if "manifest" not in document:
        raise _Wrong("manifest", "is missing")
    number = document["manifest"]
    if number != FORMAT or isinstance(number, bool):
        raise _Wrong(
            "manifest", f"this server reads format {FORMAT}, not {number!r}; another version of Sluice wrote it"
        )
    plain = {key: value for key, value in document.items() if key not in _TABLES}
    top = _convert(plain, _TOP, "", ("name", "version", "created", "created_by", "digest"), _TABLES)
    model = Model(**_convert(document.get("model"), _MODEL, "model", ("format",)))
    parents = _each(document.get("parents", []), _PARENT, "parents", ("relation", "name", "version"))
    signature = _convert(document.get("signature", {}), {"inputs": _same, "outputs": _same}, "signature", ())
    inputs, outputs = (_ports(signature.get(side, []), f"signature.{side}") for side in ("inputs", "outputs"))
    digest = top.pop("digest")
    files = _files(document.get("files"))
    made_of = tuple(Parent(**each) for each in parents)
    manifest = Manifest(**top, model=model, files=files, parents=made_of, inputs=inputs, outputs=outputs)
    if manifest.digest() != digest:
        raise _Wrong("digest", f"is not that of [files], which is {manifest.digest()}")
    if manifest.tokenizer and manifest.file(manifest.tokenizer) is None:
        raise _Wrong("tokenizer", f"'{manifest.tokenizer}' is not among the files")
    return manifest


def _ports(value: Any, name: str) -> tuple[Port, ...]:
    tables = _each(value, _PORT, name, tuple(_PORT))
    return tuple(Port(table["name"], table["datatype"], table["shape"]) for table in tables)


def _files(value: Any) -> tuple[FileEntry, ...]:
    if not isinstance(value, dict) or not value:
        raise _Wrong("files", "must be a table of files")
    entries = []
    for name, table in value.items():
        try:
            name_of_file(name)
        except ValueError as error:
            raise _Wrong("files", str(error)) from error
        entries.append(FileEntry(name, **_convert(table, _FILE, f'files."{name}"', tuple(_FILE))))
    return tuple(sorted(entries, key=lambda entry: entry.path))


def _each(value: Any, readers: _Readers, name: str, required: tuple[str, ...]) -> list[dict[str, Any]]:
    if not isinstance(value, list):
        raise _Wrong(name, f"must be written as [[{name}]]")
    return [_convert(table, readers, name, required) for table in value]


def _convert(
    table: Any, readers: _Readers, name: str, required: tuple[str, ...], others: tuple[str, ...] = ()
) -> dict[str, Any]:
    if not isinstance(table, dict):
        raise _Wrong(name, "is missing" if table is None else f"must be a table, not {table!r}")
    result = {}
    for key, value in table.items():
        place = f"{name}.{key}" if name else key
        if key not in readers:
            raise _Wrong(place, f"unknown key; {did_you_mean(key, [*readers, *others])}")
        try:
            result[key] = readers[key](value)
        except (ValueError, TypeError) as error:
            raise _Wrong(place, str(error)) from error
    for key in required:
        if key not in result:
            raise _Wrong(f"{name}.{key}" if name else key, "is missing")
    return result
