"""Keys and certificates of people who sign models in tests, each in files as openssl writes them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

PEM = serialization.Encoding.PEM


@dataclass(frozen=True)
class Signer:
    """Somebody with a private key, and whoever certified that."""

    name: str
    secret: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate
    key: Path  # the private key
    public: Path
    certified: Path  # the certificate


def signer(
    directory: Path,
    name: str,
    issuer: Signer | None = None,
    *,
    authority: bool = False,
    usage: bool | None = True,
    purpose: x509.ObjectIdentifier | None = ExtendedKeyUsageOID.CODE_SIGNING,
    certifies_for: x509.ObjectIdentifier | None = None,
    expired: bool = False,
    curve: ec.EllipticCurve | None = None,
) -> Signer:
    """Make a key and a certificate for it, by the issuer or by itself."""
    secret = ec.generate_private_key(curve or ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    begin = datetime.now(UTC) - timedelta(days=20)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.certificate.subject if issuer else subject)
        .public_key(secret.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin + timedelta(days=1 if issuer else 0))
        .not_valid_after(begin + timedelta(days=10 if expired else 1000))
        .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
    )
    if usage is not None:
        builder = builder.add_extension(_usage(signs=usage and not authority, certifies=authority), critical=True)
    if authority:
        purpose = certifies_for
    if purpose is not None:
        builder = builder.add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
    certificate = builder.sign(issuer.secret if issuer else secret, hashes.SHA256())
    kinds = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    return Signer(
        name,
        secret,
        certificate,
        key=write(directory / f"{name}.key", secret.private_bytes(PEM, *kinds)),
        public=write(directory / f"{name}.pub", public(secret)),
        certified=write(directory / f"{name}.crt", certificate.public_bytes(PEM)),
    )


def locked(directory: Path, signer: Signer, password: str) -> Path:
    """The private key with a password."""
    how = serialization.BestAvailableEncryption(password.encode())
    content = signer.secret.private_bytes(PEM, serialization.PrivateFormat.PKCS8, how)
    return write(directory / f"{signer.name}.locked", content)


def bundle(path: Path, signers: Iterable[Signer]) -> Path:
    """Their certificates in one file."""
    return write(path, b"".join(one.certificate.public_bytes(PEM) for one in signers))


def public(secret: ec.EllipticCurvePrivateKey) -> bytes:
    return secret.public_key().public_bytes(PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def write(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def _usage(signs: bool, certifies: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=signs,
        key_cert_sign=certifies,
        crl_sign=certifies,
        content_commitment=False,
        key_encipherment=not signs and not certifies,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
