"""A version's signature, `model.sig`, as it lies there: who is said to have signed what.

None of it is to be believed before `signing.verify` said so. The format is the OpenSSF's; see docs/trust.md.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from sluice.errors import ModelError, SluiceError, system_reason
from sluice.store.contents import CARD, MANIFEST, SIGNATURE, Hashes, files_of
from sluice.store.package import LARGEST_TEXT
from sluice.store.reading import printable

if TYPE_CHECKING:
    from cryptography import x509

_COMPLAINTS = 5  # named in one error
_LONGEST = 200  # letters of what a signature says, in messages
_FINGERPRINT = re.compile(r"[0-9a-f]{64}")
_EXTRA = {"model_signing", "cryptography", "OpenSSL", "certifi", "sigstore"}

# What of a bundle and the statement in it we read ourselves.


class _PublicKey(msgspec.Struct):
    hint: str = ""  # the sha256 of the key as PEM


class _Certificate(msgspec.Struct, rename="camel"):
    raw_bytes: bytes


class _Chain(msgspec.Struct):
    certificates: list[_Certificate]


class _Material(msgspec.Struct):
    publicKey: _PublicKey | None = None  # noqa: N815
    x509CertificateChain: _Chain | None = None  # noqa: N815


class _Envelope(msgspec.Struct):
    payload: bytes


class _Bundle(msgspec.Struct):
    verificationMaterial: _Material  # noqa: N815
    dsseEnvelope: _Envelope  # noqa: N815


class _Resource(msgspec.Struct):
    name: str
    digest: str


class _Serialization(msgspec.Struct):
    method: str
    hash_type: str


class _Predicate(msgspec.Struct):
    serialization: _Serialization
    resources: list[_Resource]


class _Statement(msgspec.Struct):
    predicate: _Predicate


@dataclass(frozen=True)
class Signature:
    """A signature as it lies there. None of it is to be believed until it was verified."""

    text: bytes
    shown: str  # its file, for messages
    hint: str  # of the public key that it was made with; "" = with a certificate
    certificates: tuple[bytes, ...]  # the signer's and those between it and its authority's; none = made with a key
    digests: Mapping[str, str]  # the sha256 of each file that it is over

    @property
    def signer(self) -> str:
        """Who is said to have signed."""
        if not self.certificates:
            return f"key sha256:{self.hint}"
        with self.parsing():
            own = self.chain()[0]
            subject, issuer = (name.rfc4514_string() for name in (own.subject, own.issuer))
        return _short(f"{subject or 'a certificate without a subject'}, certified by {issuer}")

    def chain(self) -> list[x509.Certificate]:
        """The certificates, the signer's first."""
        with packages():
            from cryptography import x509

        with self.parsing():
            return [x509.load_der_x509_certificate(one) for one in self.certificates]

    @contextmanager
    def parsing(self) -> Iterator[None]:
        """Certificates are read as they are asked, and fail at what they like with what they like."""
        try:
            yield
        except SluiceError:
            raise
        except Exception as error:
            why = _short(f"{type(error).__name__}: {error}")
            raise ModelError(f"{self.shown}: its certificate cannot be read: {why}") from error


def read(directory: Path) -> Signature | None:
    """The signature of a version's directory; None if it has none, ModelError if that is no signature."""
    path, place = directory / SIGNATURE, shown(directory)
    if not os.path.lexists(path):
        return None
    if not path.is_file():  # a pipe would be waited for
        raise ModelError(f"{place}: is not a file")
    return parse(read_bytes(path, place), place)


def parse(text: bytes, place: str) -> Signature:
    """ModelError if it is no signature, or not one that is over single files by their sha256."""
    try:
        bundle = msgspec.json.decode(text, type=_Bundle)
        predicate = msgspec.json.decode(bundle.dsseEnvelope.payload, type=_Statement).predicate
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise ModelError(f"{place}: is no signature of a model: {_short(str(error))}") from error
    material = bundle.verificationMaterial
    chain = material.x509CertificateChain.certificates if material.x509CertificateChain else []
    hint = material.publicKey.hint if material.publicKey and not chain else ""
    if not chain and not _FINGERPRINT.fullmatch(hint):
        raise ModelError(
            f"{place}: names neither a key by its sha256 nor a certificate; sign it anew with one of these"
        )
    if (predicate.serialization.method, predicate.serialization.hash_type) != ("files", "sha256"):
        kind = f"{predicate.serialization.method} by their {predicate.serialization.hash_type}"
        raise ModelError(f"{place}: is over {_short(kind)}, and not over files by their sha256; sign it anew")
    return Signature(
        text,
        place,
        hint,
        tuple(certificate.raw_bytes for certificate in chain),
        {resource.name: resource.digest for resource in predicate.resources},
    )


def content(directory: Path, hashes: Hashes) -> dict[str, str]:
    """The sha256 of everything in a version's directory but its signature."""
    names = files_of(directory) + [name for name in (MANIFEST, CARD) if (directory / name).is_file()]
    return {name: sha256 for name, (sha256, _) in hashes.of(directory, names).items()}


def outdated(directory: Path) -> bool:
    """Whether its signature is over another manifest, as of a version that was sealed anew."""
    try:
        signature = read(directory)
        text = read_bytes(directory / MANIFEST, MANIFEST)
    except ModelError:
        return True
    return signature is not None and signature.digests.get(MANIFEST) != hashlib.sha256(text).hexdigest()


def compare(signature: Signature, found: Mapping[str, str]) -> None:
    """ModelError if the signature is over other files than these, whoever made it."""
    if wrong := difference(signature.digests, must_be_over(signature, found)):
        raise ModelError(f"{signature.shown}: {wrong}")


def must_be_over(signature: Signature, found: Mapping[str, str]) -> Mapping[str, str]:
    """What of it must be signed: all but the card, which may be."""
    return {name: sha256 for name, sha256 in found.items() if name != CARD or CARD in signature.digests}


def difference(signed: Mapping[str, str], found: Mapping[str, str]) -> str:
    wrong = [(name, "is missing") for name in signed.keys() - found.keys()]
    wrong += [(name, "is not signed") for name in found.keys() - signed.keys()]
    wrong += [(name, "is not as it was signed") for name in signed.keys() & found.keys() if signed[name] != found[name]]
    more = f"; and {len(wrong) - _COMPLAINTS} more" if len(wrong) > _COMPLAINTS else ""
    return "; ".join(f"{_short(name)} {why}" for name, why in sorted(wrong)[:_COMPLAINTS]) + more


@contextmanager
def packages() -> Iterator[None]:
    """A missing one of those that signatures need is an ordinary error."""
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in _EXTRA:
            raise
        why = "which signatures need, is not installed: pip install 'sluice[sign]'"
        raise ModelError(f"the package '{package}', {why}") from error


def shown(directory: Path) -> str:
    return "/".join((*directory.absolute().parts[-2:], SIGNATURE))


def _short(text: str) -> str:
    return printable(text[:_LONGEST])


def read_bytes(path: Path, place: str) -> bytes:
    try:
        if path.stat().st_size > LARGEST_TEXT:
            raise ModelError(f"{place}: has more than 4 MiB")
        return path.read_bytes()
    except OSError as error:
        raise ModelError(f"{place}: cannot be read: {system_reason(error)}") from error
