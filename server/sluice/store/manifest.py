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
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

from sluice import __version__
from sluice.config import toml
from sluice.config.toml import encode
from sluice.encryption.container import CIPHER
from sluice.encryption.keys import NO_KEYS, Keys
from sluice.errors import ModelError, system_reason
from sluice.spec import DATATYPES, Port
from sluice.store import disk, encrypted, onnx_file, tables
from sluice.store.contents import MANIFEST, Hashes, files_of, name_of_file, staged
from sluice.store.reading import complaint, did_you_mean, read_text

FORMAT = 1
TASKS = ("embedding", "classification", "token-classification", "rerank", "other")
# Semantic versioning 2.0.0, without its rule on leading zeros after the dash.
SEMANTIC = re.compile(r"(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)(-[0-9A-Za-z.-]+)?(\+[0-9A-Za-z.-]+)?", re.ASCII)
_NAME = re.compile(r"\w[\w.+@:=~ -]*(?<! )")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_KEY_ID = re.compile(r"[0-9a-f]{16}")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_DISTRIBUTIONS = {"onnxruntime": ("onnxruntime", "onnxruntime-gpu"), "onnx": ("onnx",)}
_FORMATS = {".onnx": "onnx", ".py": "python"}
_COMPLAINTS = 5  # named in one error


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
    encryption: str = ""  # "" = none; what else it tells is of the file as it was before
    key_id: str = ""


@dataclass(frozen=True, slots=True)
class Parent:
    """A version that this one was made from."""

    relation: str  # "quantized from", "converted from", "delta of", …
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
    if not path.is_file():  # a pipe would be waited for
        raise complaint(shown, None, "", "is not a file")
    return parse(read_text(path, shown), shown)


def parse(text: str, shown: str = MANIFEST) -> Manifest:
    """The manifest that `text` is; ModelError names the key of the first thing wrong."""
    try:
        document = toml.parse(text)
    except ValueError as error:
        raise complaint(shown, None, "", f"not valid TOML: {error}") from error
    try:
        return _manifest(document)
    except tables.Wrong as error:
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
        disk.sync(path.parent)
    except (OSError, UnicodeEncodeError) as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        why = system_reason(error) if isinstance(error, OSError) else "is not UTF-8 text"
        raise ModelError(f"{_shown(path.parent)}/{path.name}: cannot be written: {why}") from error


def seal(directory: Path, keys: Keys = NO_KEYS, /, **said: Any) -> Manifest:
    """Hash every file, read what the model file tells, and write it down.

    `said` are fields of a manifest by name; what it does not say is kept from the manifest that is there.
    """
    manifest = examine(directory, keys, **said)
    write(directory, manifest)
    return manifest


def examine(directory: Path, keys: Keys = NO_KEYS, /, **said: Any) -> Manifest:
    """The manifest that `seal` would write. Of an encrypted model without its key it says what the last one said, or
    little."""
    unknown = next((key for key in said if key not in SAID), None)
    if unknown is not None:
        raise ModelError(f"{unknown}: is nothing that can be said of a version; {did_you_mean(unknown, SAID)}")
    if not directory.is_dir():
        raise ModelError(f"{directory}: is not a directory")
    names = files_of(directory)
    graph = model_file(directory, names)
    hashes = Hashes().of(directory, names)
    old = read(directory)
    model, inputs, outputs = _told(directory, graph, keys)
    if old is not None and model.key_id and not inputs and old.file(graph) == FileEntry(graph, *hashes[graph]):
        model, inputs, outputs = old.model, old.inputs, old.outputs
    manifest = Manifest(
        **(_suggested(directory, names) if old is None else {key: getattr(old, key) for key in SAID}) | said,
        created=datetime.now(UTC).replace(microsecond=0),
        created_by=f"sluice {__version__}",
        model=model,
        runtime=runtime(),
        inputs=inputs,
        outputs=outputs,
        files=tuple(FileEntry(name, *hashes[name]) for name in names),
    )
    if old is not None and old.digest() == manifest.digest():  # the same files, of which more is known
        return replace(manifest, created=old.created, created_by=old.created_by, runtime=old.runtime)
    return manifest


def verify(directory: Path, manifest: Manifest, hashes: Hashes | None = None) -> None:
    """ModelError unless the files are those of the manifest, all of them and no others.

    `hashes` remembers what was read, so that a file that did not change since is not read again.
    """
    names = set(files_of(directory))
    expected = {entry.path: entry for entry in manifest.files}
    wrong = [(path, "is missing") for path in expected if path not in names]
    wrong += [(name, "is not in the manifest") for name in sorted(names - expected.keys())]
    wrong += [(path, why) for path in expected.keys() & names if (why := _resized(directory, expected[path]))]
    if not wrong:
        found = (hashes or Hashes()).of(directory, expected)
        wrong = [(path, why) for path, entry in expected.items() if (why := _changed(found[path], entry))]
    if wrong:
        texts = [f"{path} {why}" for path, why in sorted(wrong)[:_COMPLAINTS]]
        more = f"; and {len(wrong) - _COMPLAINTS} more" if len(wrong) > _COMPLAINTS else ""
        raise ModelError(f"{_shown(directory)} is not what its manifest says: {'; '.join(texts)}{more}")


def _resized(directory: Path, entry: FileEntry) -> str:
    """What is wrong with its size, which is cheap to know."""
    try:
        size = (directory / entry.path).stat().st_size
    except OSError as error:
        return f"cannot be read: {system_reason(error)}"
    return f"is changed: it has {size} bytes, not {entry.size}" if size != entry.size else ""


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


def _told(directory: Path, graph: str, keys: Keys) -> tuple[Model, tuple[Port, ...], tuple[Port, ...]]:
    path = directory / graph
    kind = _FORMATS[path.suffix]
    if kind != "onnx":
        return Model(kind), (), ()
    told, header = encrypted.told(path, directory, keys)
    lock = (CIPHER, header.key_id) if header else ("", "")
    if told is None:
        return Model(kind, encryption=lock[0], key_id=lock[1]), (), ()
    model = Model(kind, told.opsets, told.ir_version, told.parameters, told.producer, *lock)
    return model, told.inputs, told.outputs


# What the author may say; all else is found out.
SAID = ("name", "version", "task", "tokenizer", "source", "licence", "parents", "metrics")


def _suggested(directory: Path, names: list[str]) -> dict[str, Any]:
    """What the directory's place says."""
    place = directory.resolve()
    return {
        "name": place.parent.name,
        "version": f"{place.name}.0.0" if place.name.isascii() and place.name.isdigit() else "1.0.0",
        "tokenizer": "tokenizer.json" if "tokenizer.json" in names else "",
    }


def _shown(directory: Path) -> str:
    return "/".join(directory.absolute().parts[-2:])


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
        *_pairs({key: getattr(model, key) for key in ("parameters", "producer", "encryption", "key_id")}),
    ]
    for name, table in (("runtime", manifest.runtime), ("metrics", manifest.metrics)):
        if table:
            lines += ["", f"[{name}]", *(f"{_key(key)} = {_value(table[key])}" for key in sorted(table))]
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


def plain(manifest: Manifest) -> dict[str, Any]:
    """The manifest as the tables that are written."""
    return tomllib.loads(dump(manifest))


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


def _value(value: float | str) -> str:
    return encode(value) if isinstance(value, str) or math.isfinite(value) else str(value)


def _key(text: str) -> str:
    return text if re.fullmatch("[A-Za-z0-9_-]+", text) else encode(text)


# Reading.


def _metric(value: Any) -> float | str:
    if isinstance(value, str):
        return tables.text(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"must be a number or a text, not {value!r}")
    if not math.isfinite(value):
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
    return tuple(tables.text(item) if isinstance(item, str) else item for item in value)


_MODEL: tables.Readers = {
    "format": partial(tables.choice, choices=tuple(_FORMATS.values())),
    "opsets": partial(tables.table, element=tables.whole),
    "ir_version": tables.whole,
    "parameters": tables.whole,
    "producer": tables.text,
    "encryption": partial(tables.choice, choices=(CIPHER,)),
    "key_id": partial(tables.text, pattern=_KEY_ID, like="16 letters of 0-9 and a-f"),
}
_PARENT: tables.Readers = {
    "relation": tables.text,
    "name": partial(tables.text, pattern=_NAME, like="a model's name"),
    "version": partial(tables.text, pattern=SEMANTIC, like="1.2.0"),
    "digest": partial(tables.text, pattern=_DIGEST, like="sha256:…"),
}
_PORT: tables.Readers = {
    "name": tables.text,
    "datatype": partial(tables.choice, choices=(*sorted(DATATYPES), onnx_file.OTHER)),
    "shape": _dims,
}
_FILE: tables.Readers = {
    "sha256": partial(tables.text, pattern=_SHA256, like="64 letters of 0-9 and a-f"),
    "size": tables.whole,
}
_TOP: tables.Readers = {
    "name": partial(tables.text, pattern=_NAME, like="a model's name"),
    "version": partial(tables.text, pattern=SEMANTIC, like="1.2.0"),
    "created": tables.time,
    "created_by": tables.text,
    "task": partial(tables.choice, choices=TASKS),
    "tokenizer": lambda value: name_of_file(tables.text(value)),
    "source": tables.text,
    "licence": tables.text,
    "digest": partial(tables.text, pattern=_DIGEST, like="sha256:…"),
    "runtime": partial(tables.table, element=tables.text),
    "metrics": partial(tables.table, element=_metric),
}
_TABLES = ("manifest", "model", "parents", "signature", "files")


def _manifest(document: dict[str, Any]) -> Manifest:
    if "manifest" not in document:
        raise tables.Wrong("manifest", "is missing")
    number = document["manifest"]
    if number != FORMAT or isinstance(number, bool):
        raise tables.Wrong(
            "manifest", f"this server reads format {FORMAT}, not {number!r}; another version of Sluice wrote it"
        )
    plain = {key: value for key, value in document.items() if key not in _TABLES}
    top = tables.convert(plain, _TOP, "", ("name", "version", "created", "created_by", "digest"), _TABLES)
    model = Model(**tables.convert(document.get("model"), _MODEL, "model", ("format",)))
    parents = tables.each(document.get("parents", []), _PARENT, "parents", ("relation", "name", "version"))
    signature = tables.convert(document.get("signature", {}), {"inputs": _same, "outputs": _same}, "signature", ())
    inputs, outputs = (_ports(signature.get(side, []), f"signature.{side}") for side in ("inputs", "outputs"))
    digest = top.pop("digest")
    files = _files(document.get("files"))
    made_of = tuple(Parent(**parent) for parent in parents)
    manifest = Manifest(**top, model=model, files=files, parents=made_of, inputs=inputs, outputs=outputs)
    if manifest.digest() != digest:
        raise tables.Wrong("digest", f"is not that of [files], which is {manifest.digest()}")
    if manifest.tokenizer and manifest.file(manifest.tokenizer) is None:
        raise tables.Wrong("tokenizer", f"'{manifest.tokenizer}' is not among the files")
    return manifest


def _ports(value: Any, name: str) -> tuple[Port, ...]:
    ports = tables.each(value, _PORT, name, tuple(_PORT))
    return tuple(Port(port["name"], port["datatype"], port["shape"]) for port in ports)


def _files(value: Any) -> tuple[FileEntry, ...]:
    if not isinstance(value, dict) or not value:
        raise tables.Wrong("files", "must be a table of files")
    entries = []
    for name, table in value.items():
        try:
            name_of_file(name)
        except ValueError as error:
            raise tables.Wrong("files", str(error)) from error
        entries.append(FileEntry(name, **tables.convert(table, _FILE, f'files."{name}"', tuple(_FILE))))
    return tuple(sorted(entries, key=lambda entry: entry.path))
