"""Brings a version from a container registry, `oci://REGISTRY/REPOSITORY[:TAG][@DIGEST]`, where it is an OCI artifact.

Its layers are a package, or the files of a version under the names that their annotations say, as `oras push` writes
them. Each lies in the cache under its sha256, which the manifest says.
"""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from sluice.errors import ModelError, system_reason
from sluice.store import bundle, unpacking
from sluice.store.blobs import Address, key_of
from sluice.store.bundle import Bundle
from sluice.store.download import Rules
from sluice.store.package import Progress
from sluice.store.placing import Placed
from sluice.store.redaction import shown
from sluice.store.registryclient import INDEX_TYPES, MANIFEST_TYPES, Accept, Registry

if TYPE_CHECKING:
    from sluice.store.sources import Means, Wanted

_SOURCE = re.compile(
    r"oci://(?P<host>[A-Za-z0-9.-]+(?::\d+)?|\[[0-9a-fA-F:]+\](?::\d+)?)"
    r"/(?P<repository>[a-z0-9]+(?:[._/-]+[a-z0-9]+)*)"
    r"(?::(?P<tag>\w[\w.-]{0,127}))?(?:@(?P<digest>sha256:[0-9a-f]{64}))?",
    re.ASCII,
)
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_TITLE = "org.opencontainers.image.title"
_UNPACK = "io.deis.oras.content.unpack"
_LICENCES = "org.opencontainers.image.licenses"
_ABOUT = "org.opencontainers.image.description"
_LARGEST_MANIFEST = 4 << 20  # bytes, as registries have it
_MOST_LAYERS = 10_000
_ZIP = b"PK\x03\x04"
_PACKAGE = re.compile(r".+\.(sluice|zip)", re.IGNORECASE)
_PACKAGE_TYPE = re.compile(r"application/(?:.*[.+-])?(sluice|zip)\b.*")


@dataclass(frozen=True)
class _Address:
    host: str
    repository: str
    tag: str
    digest: str  # "" = what the tag stands for

    @property
    def shown(self) -> str:
        tag = f":{self.tag}" if self.tag else ""
        return f"oci://{self.host}/{self.repository}{tag}{f'@{self.digest}' if self.digest else ''}"

    @property
    def usual(self) -> str:
        return self.repository.rpartition("/")[2]


class _Descriptor(msgspec.Struct):
    digest: str
    size: int
    media_type: str = msgspec.field(default="", name="mediaType")
    annotations: dict[str, str] | None = None

    @property
    def title(self) -> str:
        return (self.annotations or {}).get(_TITLE, "")

    @property
    def is_archive(self) -> bool:
        """Of a directory, or of a container's files. `oras` calls plain files archives as well, but names them."""
        unpacked = (self.annotations or {}).get(_UNPACK) == "true"
        return unpacked or (not self.title and re.search(r"\btar\b", self.media_type) is not None)

    @property
    def may_be_package(self) -> bool:
        """As far as its name and kind tell. Its first bytes do not: other programs' models are zip files as well."""
        return not self.title or bool(_PACKAGE.fullmatch(self.title) or _PACKAGE_TYPE.fullmatch(self.media_type))


class _Manifest(msgspec.Struct):
    media_type: str = msgspec.field(default="", name="mediaType")
    layers: list[_Descriptor] | None = None
    manifests: list[_Descriptor] | None = None
    annotations: dict[str, str] | None = None


def pull(source: str, wanted: Wanted, means: Means) -> Placed:
    """Bring the version at `source`; ModelError if it is not there, not whole, or not what it should be."""
    address = _address(source)
    artifact = _Artifact(address, means)
    with _clear_errors(means), ExitStack() as held:
        digest, told = artifact.manifest(held)
        exact = replace(address, digest=digest)
        _check(told, exact)
        layers = told.layers or []
        if (there := bundle.found(wanted, address.usual, exact.shown)) is not None:
            return there
        if len(layers) == 1:
            (path,) = artifact.files(layers, held)
            if layers[0].may_be_package and _is_zip(path):
                return _unpacked(path, exact, wanted, means.progress)
            return bundle.place(_bundle(exact, told, [path]), wanted, means.progress)
        return bundle.place(_bundle(exact, told, artifact.files(layers, held)), wanted, means.progress)


def _address(source: str) -> _Address:
    found = _SOURCE.fullmatch(source)
    if found is None:
        raise ModelError(
            f"{shown(source)}: is no address in a registry, as oci://REGISTRY/REPOSITORY:TAG or …@sha256: and 64 digits"
        )
    tag = found["tag"] or ("" if found["digest"] else "latest")
    return _Address(found["host"].lower(), found["repository"], tag, found["digest"] or "")


def _check(told: _Manifest, address: _Address) -> None:
    """Refuse what is no version before any of it is brought."""
    layers = told.layers or []
    if not layers:
        raise ModelError(f"{address.shown}: has no files")
    if len(layers) > _MOST_LAYERS:
        raise ModelError(f"{address.shown}: has {len(layers)} files, and {_MOST_LAYERS} are the most")
    for layer in layers:
        if not _DIGEST.fullmatch(layer.digest) or layer.size < 0:
            raise ModelError(f"{address.shown}: names a file by {layer.digest[:80]!r}, which is no sha256")
        if layer.is_archive:
            what = f"{layer.title!r} is" if layer.title else "its layers are"
            hint = "push the files one by one, or as a package of `sluice pack`"
            raise ModelError(f"{address.shown}: {what} an archive, as in a container's image; {hint}")
    titles = [layer.title for layer in layers]
    if len(layers) > 1 and ("" in titles or len({*titles}) < len(titles)):
        raise ModelError(f"{address.shown}: its files must each have a name of their own ({_TITLE})")
    bundle.check({*filter(None, titles)}, address.shown)


def _bundle(address: _Address, told: _Manifest, paths: list[Path]) -> Bundle:
    layers = told.layers or []
    titles = [layer.title or f"{address.usual}.onnx" for layer in layers]
    notes = told.annotations or {}
    said = {"source": address.shown}
    licence = " ".join(notes.get(_LICENCES, "").split())
    if licence.isprintable() and licence:
        said["licence"] = licence[:200]
    files = dict(zip(titles, paths, strict=True))
    return Bundle(files, address.shown, address.usual, said, notes.get(_ABOUT, "")[:10_000])


def _is_zip(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(_ZIP)) == _ZIP


def _unpacked(path: Path, address: _Address, wanted: Wanted, progress: Progress) -> Placed:
    try:
        return unpacking.unpack(path, wanted.models, wanted.number, progress, wanted.name)
    except ModelError as error:  # which is of the file in the cache
        raise ModelError(error.message.replace(str(path), address.shown)) from error


class _Artifact:
    """What an address stands for, from the cache as far as it is there."""

    def __init__(self, address: _Address, means: Means) -> None:
        self._address = address
        self._means = means
        self._registry = Registry(address.host, address.repository, means.rules or Rules())

    def manifest(self, held: ExitStack) -> tuple[str, _Manifest]:
        """The digest of the manifest, and what it says."""
        cache, address = self._means.cache, self._address
        key = key_of(address.shown)
        digest = address.digest
        if not digest and self._means.offline:
            known = cache.address(key)
            digest = f"sha256:{known.sha256}" if known is not None else ""
        path = held.enter_context(cache.using(digest.removeprefix("sha256:"))) if digest else None
        if path is None:
            if self._means.offline:
                raise self._offline()
            path, digest = self._asked(key, digest, held)
        told = self._parsed(path)
        if told.manifests is None:
            return digest, told
        if len(told.manifests) != 1 or told.layers is not None:
            raise ModelError(f"{address.shown}: is {len(told.manifests)} of which one must be chosen; say its digest")
        inner, size = told.manifests[0].digest, told.manifests[0].size
        if not _DIGEST.fullmatch(inner):
            raise ModelError(f"{address.shown}: names a manifest by {inner[:80]!r}, which is no sha256")
        self._must_be_short(size)
        path = self._blob(inner, size, held, lambda place, _, accept: self._registry.manifest(inner, place, accept))
        told = self._parsed(path)
        if told.manifests is not None:
            raise ModelError(f"{address.shown}: is a list in a list")
        return inner, told

    def _asked(self, key: str, digest: str, held: ExitStack) -> tuple[Path, str]:
        """The manifest as the registry has it."""
        address, cache = self._address, self._means.cache
        with cache.partial(key) as place:

            def accept(size: int) -> None:
                if size > _LARGEST_MANIFEST:
                    shutil.rmtree(place)
                    self._must_be_short(size)

            brought = self._registry.manifest(digest or address.tag, place, accept)
            found = hashlib.sha256(brought.read_bytes()).hexdigest()
            if digest and digest != f"sha256:{found}":
                shutil.rmtree(place)
                raise ModelError(f"{address.shown}: the registry gives a manifest whose sha256 is {found}")
            path = held.enter_context(cache.adopt(brought, found))
            shutil.rmtree(place)
        cache.note(key, Address(address.shown, "", found))
        return path, f"sha256:{found}"

    def files(self, layers: list[_Descriptor], held: ExitStack) -> list[Path]:
        """The layers in their order; each of them is brought once, however often it is there."""
        sizes = {layer.digest: layer.size for layer in layers}
        total = sum(sizes.values())
        before = 0

        def bring(place: Path, digest: str, accept: Accept) -> Path:
            def report(step: str, done: int, _: int) -> None:
                self._means.progress(step, before + done, max(total, before + done))

            return self._registry.blob(digest, place, report, accept)

        paths = {}
        for digest, size in sizes.items():
            paths[digest] = self._blob(digest, size, held, bring)
            before += size
        return [paths[layer.digest] for layer in layers]

    def _blob(self, digest: str, size: int, held: ExitStack, bring: Callable[[Path, str, Accept], Path]) -> Path:
        """It, in the cache for as long as it is held; brought unless it is there."""
        sha256 = digest.removeprefix("sha256:")
        cache, shown = self._means.cache, self._address.shown
        with cache.partial(sha256) as place:

            def accept(found: int) -> None:
                if found != size:
                    shutil.rmtree(place)  # if it was begun
                    raise ModelError(f"{shown}: a file has {found} bytes, not {size} as its manifest says")

            path = held.enter_context(cache.using(sha256))
            if path is None:
                if self._means.offline:
                    shutil.rmtree(place)
                    raise self._offline()
                path = held.enter_context(cache.adopt(self._right(bring(place, digest, accept), sha256), sha256))
            accept(path.stat().st_size)
            shutil.rmtree(place)
        cache.note(key_of(f"{shown}#{sha256}"), Address(shown, "", sha256))
        return path

    def _must_be_short(self, size: int) -> None:
        if size > _LARGEST_MANIFEST:
            raise ModelError(f"{self._address.shown}: its manifest has more than {_LARGEST_MANIFEST} bytes")

    def _right(self, path: Path, sha256: str) -> Path:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != sha256:
            shutil.rmtree(path.parent)
            raise ModelError(f"{self._address.shown}: a file's sha256 is {found}, not {sha256}; it is not kept")
        return path

    def _parsed(self, path: Path) -> _Manifest:
        self._must_be_short(path.stat().st_size)
        try:
            told = msgspec.json.decode(path.read_bytes(), type=_Manifest)
        except msgspec.MsgspecError as error:
            raise ModelError(f"{self._address.shown}: its manifest is none of OCI: {error}") from error
        if told.media_type not in ("", *MANIFEST_TYPES, *INDEX_TYPES):
            raise ModelError(f"{self._address.shown}: is of a kind that is not known here: {told.media_type!r}")
        return told

    def _offline(self) -> ModelError:
        return ModelError(f"{self._address.shown}: is not in the cache, and nothing shall be downloaded")


@contextmanager
def _clear_errors(means: Means) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        place = error.filename or means.cache.directory
        raise ModelError(f"{place}: cannot be written or read: {system_reason(error)}") from error
