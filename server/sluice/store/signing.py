"""Signs versions, and says whether a signature holds, by the OpenSSF's package model-signing.

A signature is over every file of a version's directory and its manifest, but not over the card and itself. The package
decides whether it holds, on the sha256 that we have from each file. See docs/trust.md.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sluice.errors import ModelError
from sluice.store import manifest
from sluice.store.contents import CARD, SIGNATURE, Hashes
from sluice.store.manifest import write_text
from sluice.store.package import sealed
from sluice.store.reading import printable
from sluice.store.signatures import Signature, content, difference, must_be_over, packages, parse, read_bytes, shown

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec

_LONGEST = 200  # letters of what others say, in messages
_CURVES = ("secp256r1", "secp384r1", "secp521r1")
# How a signature says what it is over, for the tools of others.
_KIND = {"method": "files", "hash_type": "sha256", "allow_symlinks": True, "ignore_paths": [CARD, SIGNATURE]}


@dataclass(frozen=True)
class TrustedKey:
    """A file of somebody who may sign: a public key, or certificates of authorities."""

    path: Path
    text: bytes
    fingerprint: str  # of the key; "" for certificates


def trusted_key(path: Path) -> TrustedKey:
    """ModelError if the file has neither one public key nor certificates."""
    text = read_bytes(path, str(path))
    if b"-----BEGIN CERTIFICATE-----" in text:
        _certificates(text, path)
        return TrustedKey(path, text, "")
    if b"PRIVATE KEY-----" in text:
        raise ModelError(f"{path}: is a private key, which belongs to its signer alone; name its public key here")
    if text.count(b"-----BEGIN") > 1:
        raise ModelError(f"{path}: has more than one key; put each in a file of its own")
    with packages():
        from cryptography.hazmat.primitives import serialization

        try:
            key = serialization.load_pem_public_key(text)
        except Exception as error:  # by whatever it is that it cannot be
            raise ModelError(f"{path}: is neither a public key nor a certificate in PEM") from error
        return TrustedKey(path, text, _fingerprint(_on_a_curve(key, path)))


def import_packages() -> None:
    """ModelError if one that signatures need is not installed."""
    with packages():
        import model_signing.verifying  # noqa: F401


# Verifying.


def verify(signature: Signature, found: Mapping[str, str], keys: Sequence[TrustedKey]) -> TrustedKey:
    """The trusted key or authority by which it holds, over exactly the files `found`, which are given by their
    sha256; ModelError if there is none."""
    found = must_be_over(signature, found)
    by_certificate = bool(signature.certificates)
    able = [key for key in keys if by_certificate == (not key.fingerprint)]
    if by_certificate:
        _must_be_for_signing(signature, able)
    if signature.hint:
        able = [key for key in able if key.fingerprint == signature.hint]
    reason = ""
    for key in able:
        with packages():
            reached, failure = _try(signature, found, key)
        if failure is None:
            return key
        if reached:  # it is authentic, but of other files
            raise ModelError(f"{signature.shown}: {difference(signature.digests, found) or printable(str(failure))}")
        reason = _why(failure)
    if by_certificate or not able:
        names = ", ".join(str(key.path) for key in keys) or "none"
        raise ModelError(
            f"{signature.shown}: is by {signature.signer}, who is not trusted{reason}; trusted here are {names}"
        )
    raise ModelError(f"{signature.shown}: is not what {signature.signer} signed{reason}")


def _must_be_for_signing(signature: Signature, trusted: Sequence[TrustedKey]) -> None:
    """ModelError unless the signer's certificate, and those between it and a trusted one, are for signing models:
    whoever certifies web servers as well does not mean them."""
    from cryptography import x509
    from cryptography.x509.oid import ExtendedKeyUsageOID

    fit = {ExtendedKeyUsageOID.CODE_SIGNING, ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE}
    roots = [root for key in trusted for root in _certificates(key.text, key.path)]
    own, *between = signature.chain()
    with signature.parsing():
        try:
            usage = own.extensions.get_extension_for_class(x509.KeyUsage).value
            why = "" if usage.digital_signature else "has not the key usage digitalSignature"
        except x509.ExtensionNotFound:
            why = "does not say that its key usage is digitalSignature"
        if why:
            raise ModelError(f"{signature.shown}: the certificate of {signature.signer} {why}")
        for certificate in (own, *(one for one in between if one not in roots)):
            try:
                purposes = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
            except x509.ExtensionNotFound:
                continue
            if not fit & {*purposes}:
                whose = "the certificate" if certificate is own else "an authority's certificate in the chain"
                raise ModelError(
                    f"{signature.shown}: {whose} of {signature.signer} is for other purposes than codeSigning"
                )


def _why(failure: Exception) -> str:
    """What the packages say of it goes on for lines, with whatever stands in the file."""
    kind = type(failure)
    if kind.__module__.partition(".")[0] in ("pydantic", "pydantic_core"):
        return ": it has not the form of a signature"
    return f": {printable(f'{kind.__name__}: {failure}'.strip(': '))[:_LONGEST]}"


def _try(signature: Signature, found: Mapping[str, str], key: TrustedKey) -> tuple[bool, Exception | None]:
    """Whether the signature is authentic, and why it does not hold; None if it does."""
    from model_signing import verifying

    files = _Files(found)
    with _held(signature.text) as text, _held(key.text) as trusted:
        try:
            config = verifying.Config().set_hashing_config(files)
            if signature.certificates:
                config.use_certificate_verifier(certificate_chain=[trusted])
            else:
                config.use_elliptic_key_verifier(public_key=trusted)
            config.verify(Path("/"), text)
        except Exception as error:  # of four packages, and all of them mean no
            return files.asked, error
    if not files.asked:
        return False, ValueError("the files were not compared")
    return True, None


# Signing.


@dataclass(frozen=True)
class Identity:
    """What to sign with, each as PEM: a private key, and if others shall know it by a certificate, that with those
    between it and its authority's."""

    key: bytes
    certificate: bytes = b""
    chain: bytes = b""
    password: bytes | None = None
    shown: str = "the key"  # its file, for messages

    @property
    def is_locked(self) -> bool:
        return b"ENCRYPTED" in self.key

    def unlocked_with(self, password: str) -> Identity:
        return replace(self, password=password.encode())


def sign(directory: Path, identity: Identity) -> Signature:
    """Sign a sealed version, whose files must be those of its manifest."""
    said = sealed(directory)
    hashes = Hashes()
    manifest.verify(directory, said, hashes)
    found = {name: sha256 for name, sha256 in content(directory, hashes).items() if name != CARD}
    with packages():
        text = _signed(found, identity, f"{said.name}-{said.version}")
    signature = parse(text, shown(directory))
    if signature.digests != found:
        raise ModelError(f"{signature.shown}: {difference(signature.digests, found)}")
    write_text(directory / SIGNATURE, text.decode())
    return signature


def _signed(found: Mapping[str, str], identity: Identity, name: str) -> bytes:
    from model_signing import signing

    certificates = _certificates(identity.certificate, "the certificate") if identity.certificate else []
    own, others = certificates[:1], certificates[1:]
    others += _certificates(identity.chain, "the chain") if identity.chain else []
    config = signing.Config().set_hashing_config(_Files(found, name))
    links = _pem(others) or _pem(own)  # it takes no empty chain
    with ExitStack() as stack:
        private, certificate, chain, text = (
            stack.enter_context(_held(one)) for one in (_unlocked(identity), _pem(own), links, b"")
        )
        try:
            if not own:
                config.use_elliptic_key_signer(private_key=private)
            else:
                config.use_certificate_signer(
                    private_key=private, signing_certificate=certificate, certificate_chain=[chain]
                )
            config.sign(Path("/"), text)
        except ValueError as error:
            raise ModelError(f"{identity.shown}: {error}") from error
        return text.read_bytes()


def _unlocked(identity: Identity) -> bytes:
    """The private key without its password, for memory only."""
    from cryptography.hazmat.primitives import serialization

    try:
        key = serialization.load_pem_private_key(identity.key, identity.password)
    except TypeError as error:
        raise ModelError(f"{identity.shown}: it has a password, or none is asked for: {error}") from error
    except Exception as error:
        why = "its password is another" if identity.is_locked else "it is no private key in PEM"
        raise ModelError(f"{identity.shown}: {why}") from error
    _on_a_curve(key.public_key(), identity.shown)
    kind = serialization.PrivateFormat.PKCS8
    return key.private_bytes(serialization.Encoding.PEM, kind, serialization.NoEncryption())


# What both need.


class _Files:
    """What model-signing asks for a model's files and their hashes: we know them, so that it need not read them."""

    def __init__(self, found: Mapping[str, str], name: str = "") -> None:
        self.asked = False  # which is after it found the signature authentic
        self._found = found
        self._name = name

    def hash(self, *arguments: object, **options: object) -> Any:
        from model_signing import manifest as library

        self.asked = True
        kind = library.SerializationType.from_args(_KIND)
        digests = {name: library.hashing.Digest("sha256", bytes.fromhex(known)) for name, known in self._found.items()}
        return library.Manifest(self._name, [kind.new_item(*item) for item in digests.items()], kind)

    def add_ignored_paths(self, **options: object) -> None:
        """A signature may not leave out what we ask for, whatever it says."""


@contextmanager
def _held(text: bytes) -> Iterator[Path]:
    """A file in memory: what was read once is what is used, and a key without its password is on no disk."""
    descriptor = os.memfd_create("sluice", os.MFD_CLOEXEC)
    try:
        with os.fdopen(descriptor, "r+b", closefd=False) as file:
            file.write(text)
        yield Path(f"/proc/self/fd/{descriptor}")
    finally:
        os.close(descriptor)


def _fingerprint(key: ec.EllipticCurvePublicKey) -> str:
    """As model-signing names a key in what was signed with it."""
    from cryptography.hazmat.primitives import serialization

    pem = key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(pem).hexdigest()


def _on_a_curve(key: object, where: Path | str) -> ec.EllipticCurvePublicKey:
    from cryptography.hazmat.primitives.asymmetric import ec

    if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name not in _CURVES:
        raise ModelError(f"{where}: is not of the kind that signs models, on a curve P-256, P-384 or P-521")
    return key


def _certificates(text: bytes, where: Path | str) -> list[x509.Certificate]:
    with packages():
        from cryptography import x509

        try:
            return x509.load_pem_x509_certificates(text)
        except Exception as error:  # by whatever it is that it cannot be
            raise ModelError(f"{where}: is no certificate in PEM: {printable(str(error))[:_LONGEST]}") from error


def _pem(certificates: Sequence[x509.Certificate]) -> bytes:
    from cryptography.hazmat.primitives import serialization

    return b"".join(one.public_bytes(serialization.Encoding.PEM) for one in certificates)
