"""Signatures of versions: what they are over, who is believed, and that nothing can be changed after them."""

from __future__ import annotations

import base64
import contextlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import graphs
import pytest
import signers
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID
from hypothesis import given
from hypothesis import strategies as st
from signers import Signer

from sluice.errors import ModelError
from sluice.store import manifest, signatures, signing
from sluice.store.contents import Hashes
from sluice.store.manifest import seal
from sluice.store.signatures import Signature
from sluice.store.signing import Identity, TrustedKey, trusted_key


@pytest.fixture
def ann(tmp_path: Path) -> Signer:
    return signers.signer(tmp_path / "keys", "ann")


@pytest.fixture
def mallory(tmp_path: Path) -> Signer:
    return signers.signer(tmp_path / "keys", "mallory")


@pytest.fixture
def version(tmp_path: Path) -> Path:
    """A sealed version with files in directories."""
    directory = graphs.tagger(tmp_path / "models").parent
    (directory / "more" / "texts").mkdir(parents=True)
    (directory / "more" / "texts" / "labels.txt").write_text("cat\ndog\n")
    (directory / "README.md").write_text("# tagger\n")
    seal(directory)
    return directory


def sign(directory: Path, signer: Signer, **more: Any) -> Signature:
    return signing.sign(directory, Identity(signer.key.read_bytes(), **more))


def verify(directory: Path, *trusted: Path) -> TrustedKey:
    signature = signatures.read(directory)
    assert signature is not None
    return signing.verify(signature, signatures.content(directory, Hashes()), [trusted_key(path) for path in trusted])


def refused(directory: Path, *trusted: Path) -> str:
    with pytest.raises(ModelError) as caught:
        verify(directory, *trusted)
    return caught.value.message


def edit(directory: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change the signature's file."""
    path = directory / "model.sig"
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


# With keys.


def test_it_is_over_every_file_but_the_card_and_itself(version: Path, ann: Signer) -> None:
    signature = sign(version, ann)
    assert set(signature.digests) == {"manifest.toml", "model.onnx", "more/texts/labels.txt"}
    assert signature.signer.startswith("key sha256:")
    assert verify(version, ann.public).path == ann.public
    assert sorted(path.name for path in version.iterdir()) == [
        "README.md",
        "manifest.toml",
        "model.onnx",
        "model.sig",
        "more",
    ]
    (version / "README.md").write_text("# Another story\n")
    verify(version, ann.public)
    seal(version)  # which changes nothing
    verify(version, ann.public)
    assert not signatures.outdated(version)


@pytest.mark.parametrize("curve", [ec.SECP256R1(), ec.SECP384R1(), ec.SECP521R1()], ids=lambda curve: str(curve.name))
def test_curves(tmp_path: Path, version: Path, curve: ec.EllipticCurve) -> None:
    somebody = signers.signer(tmp_path, "somebody", curve=curve)
    sign(version, somebody)
    verify(version, somebody.public)


@pytest.mark.parametrize("name", ["model.onnx", "more/texts/labels.txt", "manifest.toml"])
def test_no_file_can_be_changed(version: Path, ann: Signer, name: str) -> None:
    sign(version, ann)
    content = (version / name).read_bytes()
    for changed in (content[:-1], content[:-1] + bytes([content[-1] ^ 1]), content + b"\n", b""):
        (version / name).write_bytes(changed)
        assert f"tagger/1/model.sig: {name} is not as it was signed" in refused(version, ann.public)
    (version / name).write_bytes(content)
    verify(version, ann.public)


def test_no_file_can_be_added_or_taken_away(version: Path, ann: Signer) -> None:
    sign(version, ann)
    (version / "more" / "code.py").write_text("pass")
    assert refused(version, ann.public) == "tagger/1/model.sig: more/code.py is not signed"
    (version / "more" / "code.py").rename(version / "more" / "texts" / "labels.txt")
    (version / "model.onnx").unlink()
    assert refused(version, ann.public) == (
        "tagger/1/model.sig: model.onnx is missing; more/texts/labels.txt is not as it was signed"
    )


def test_the_manifest_cannot_be_written_anew(version: Path, ann: Signer) -> None:
    sign(version, ann)
    (version / "more" / "texts" / "labels.txt").write_text("dog\ncat\n")
    seal(version)
    assert signatures.outdated(version)
    assert "manifest.toml is not as it was signed" in refused(version, ann.public)
    sign(version, ann)
    verify(version, ann.public)


def test_the_signature_cannot_be_changed(version: Path, ann: Signer) -> None:
    sign(version, ann)
    good = (version / "model.sig").read_text()

    def other_files(document: dict[str, Any]) -> None:
        payload = json.loads(base64.b64decode(document["dsseEnvelope"]["payload"]))
        payload["predicate"]["resources"][1]["digest"] = "0" * 64
        document["dsseEnvelope"]["payload"] = base64.b64encode(json.dumps(payload).encode()).decode()

    def other_bits(document: dict[str, Any]) -> None:
        bits = bytearray(base64.b64decode(document["dsseEnvelope"]["signatures"][0]["sig"]))
        bits[-1] ^= 1
        document["dsseEnvelope"]["signatures"][0]["sig"] = base64.b64encode(bits).decode()

    def no_bits(document: dict[str, Any]) -> None:
        document["dsseEnvelope"]["signatures"] = []

    for change in (other_files, other_bits, no_bits):
        edit(version, change)
        assert "tagger/1/model.sig: is not what key sha256:" in refused(version, ann.public)
        (version / "model.sig").write_text(good)
    verify(version, ann.public)


def test_nobody_is_believed_who_is_not_trusted(version: Path, ann: Signer, mallory: Signer) -> None:
    sign(version, mallory)
    assert f"who is not trusted; trusted here are {ann.public}" in refused(version, ann.public)
    assert "trusted here are none" in refused(version)
    assert verify(version, ann.public, mallory.public).path == mallory.public

    # Nor under another's name.
    hint = trusted_key(ann.public).fingerprint
    edit(version, lambda document: document["verificationMaterial"]["publicKey"].update(hint=hint))
    assert f"is not what key sha256:{hint} signed" in refused(version, ann.public)
    assert "who is not trusted" in refused(version, mallory.public)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "is no signature of a model"),
        ("{}", "is no signature of a model"),
        ("[" * 100_000, "is no signature of a model"),
        ('{"verificationMaterial": {}, "dsseEnvelope": {"payload": "e30="}}', "is no signature of a model"),
        ('{"verificationMaterial": {}, "dsseEnvelope": {"payload": "???"}}', "is no signature of a model"),
    ],
)
def test_what_is_no_signature(version: Path, ann: Signer, text: str, reason: str) -> None:
    (version / "model.sig").write_text(text)
    assert f"tagger/1/model.sig: {reason}" in refused(version, ann.public)


@given(data=st.data())
def test_whatever_lies_there_is_refused_or_says_the_same(data: st.DataObject, signed: tuple[bytes, Path]) -> None:
    text, public = signed
    begin = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(begin, min(len(text), begin + 40)))
    damaged = text[:begin] + data.draw(st.binary(max_size=40)) + text[end:]
    good = signatures.parse(text, "model.sig")
    other = {**good.digests, "model.onnx": "0" * 64}
    with contextlib.suppress(ModelError):
        signature = signatures.parse(damaged, "model.sig")
        signing.verify(signature, good.digests, [trusted_key(public)])
    with pytest.raises(ModelError):
        signing.verify(signatures.parse(damaged, "model.sig"), other, [trusted_key(public)])


@pytest.fixture(scope="module")
def signed(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, Path]:
    """A signature, and the key that it was made with."""
    place = tmp_path_factory.mktemp("signed")
    directory = graphs.tagger(place).parent
    seal(directory)
    ann = signers.signer(place / ".keys", "ann")
    return sign(directory, ann).text, ann.public


def test_files_that_nobody_should_wait_for_or_read(version: Path, ann: Signer) -> None:
    path = version / "model.sig"
    os.mkfifo(path)
    with pytest.raises(ModelError, match=r"tagger/1/model\.sig: is not a file"):
        signatures.read(version)
    path.unlink()
    path.write_bytes(b" " * (5 << 20))
    with pytest.raises(ModelError, match=r"tagger/1/model\.sig: has more than 4 MiB"):
        signatures.read(version)


# With certificates.


@pytest.fixture
def root(tmp_path: Path) -> Signer:
    return signers.signer(tmp_path / "keys", "root", authority=True)


def certified(directory: Path, signer: Signer, *chain: Signer) -> Signature:
    links = b"".join(one.certified.read_bytes() for one in chain)
    return sign(directory, signer, certificate=signer.certified.read_bytes(), chain=links)


def test_a_certificate_of_a_trusted_authority(tmp_path: Path, version: Path, root: Signer, mallory: Signer) -> None:
    team = signers.signer(tmp_path / "keys", "team", root, authority=True)
    ann = signers.signer(tmp_path / "keys", "ann", team)
    assert certified(version, ann, team).signer == "CN=ann, certified by CN=team"
    assert verify(version, root.certified).path == root.certified
    assert verify(version, mallory.public, mallory.certified, root.certified).path == root.certified
    for others in ([], [mallory.certified], [ann.public]):
        assert "is by CN=ann, certified by CN=team, who is not trusted" in refused(version, *others)

    (version / "model.onnx").write_bytes(b"other")
    assert "model.onnx is not as it was signed" in refused(version, root.certified)


def test_the_chain_may_be_in_the_certificates_file(tmp_path: Path, version: Path, root: Signer) -> None:
    team = signers.signer(tmp_path / "keys", "team", root, authority=True)
    ann = signers.signer(tmp_path / "keys", "ann", team)
    certified(version, ann)
    assert "who is not trusted" in refused(version, root.certified)
    both = signers.bundle(tmp_path / "both.crt", [ann, team])
    sign(version, ann, certificate=both.read_bytes())
    verify(version, root.certified)


def test_who_certifies_must_be_allowed_to(tmp_path: Path, version: Path, root: Signer) -> None:
    ann = signers.signer(tmp_path / "keys", "ann", root)
    bob = signers.signer(tmp_path / "keys", "bob", ann)
    certified(version, bob, ann)
    assert "who is not trusted" in refused(version, root.certified)


@pytest.mark.parametrize(
    ("made", "why"),
    [
        ({"usage": False}, "has not the key usage digitalSignature"),
        ({"usage": None}, "does not say that its key usage is digitalSignature"),
        ({"purpose": ExtendedKeyUsageOID.SERVER_AUTH}, "is for other purposes than codeSigning"),
        ({"purpose": None}, ""),
    ],
)
def test_a_certificate_must_be_for_signing(
    tmp_path: Path, version: Path, root: Signer, made: dict[str, Any], why: str
) -> None:
    certified(version, signers.signer(tmp_path / "keys", "clerk", root, **made))
    if why:
        assert f"the certificate of CN=clerk, certified by CN=root {why}" in refused(version, root.certified)
    else:
        verify(version, root.certified)


@pytest.mark.parametrize(
    ("purpose", "fit"),
    [
        (ExtendedKeyUsageOID.SERVER_AUTH, False),
        (ExtendedKeyUsageOID.CODE_SIGNING, True),
        (ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE, True),
    ],
)
def test_who_certifies_web_servers_cannot_certify_signers(
    tmp_path: Path, version: Path, purpose: x509.ObjectIdentifier, fit: bool
) -> None:
    root = signers.signer(tmp_path / "keys", "root", authority=True, certifies_for=ExtendedKeyUsageOID.SERVER_AUTH)
    team = signers.signer(tmp_path / "keys", "team", root, authority=True, certifies_for=purpose)
    ann = signers.signer(tmp_path / "keys", "ann", team)
    certified(version, ann, team, root)  # what a root says of itself is its holder's, who trusts it
    if fit:
        verify(version, root.certified)
    else:
        why = "an authority's certificate in the chain of CN=ann, certified by CN=team is for other purposes"
        assert why in refused(version, root.certified)


def spoil(directory: Path, old: bytes, new: bytes) -> None:
    """Change the signer's certificate."""

    def change(document: dict[str, Any]) -> None:
        own = document["verificationMaterial"]["x509CertificateChain"]["certificates"][0]
        changed = base64.b64decode(own["rawBytes"]).replace(old, new)
        own["rawBytes"] = base64.b64encode(changed).decode()

    edit(directory, change)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"\x55\x1d\x13", b"\x55\x1d\x0f"),  # an extension twice
        (b"\x55\x1d\x25", b"\x55\x1d\x11"),  # one that is of another kind
        (b"bobby", b"bo\xffby"),
        (b"root", b"r\xffot"),
        (b"\xa0\x03\x02\x01\x02", b"\xa0\x03\x02\x01\x09"),  # a version of the format that there is not
    ],
    ids=["twice", "kind", "subject", "issuer", "version"],
)
def test_a_malformed_certificate_is_refused(
    tmp_path: Path, version: Path, root: Signer, old: bytes, new: bytes
) -> None:
    certified(version, signers.signer(tmp_path / "keys", "bobby", root))
    spoil(version, old, new)
    assert "tagger/1/model.sig: its certificate cannot be read: " in refused(version, root.certified)


def test_what_others_wrote_is_no_line_of_the_log(version: Path, ann: Signer) -> None:
    sign(version, ann)
    edit(version, lambda document: document.update({"x\n2026-01-01 INFO all is signed\x1b[31m": 1}))
    reason = refused(version, ann.public)
    assert reason.endswith(" signed: it has not the form of a signature")
    assert reason.isprintable()
    (version / "manifest.toml").write_text('"a\\n2026-01-01 INFO all is well\\u001b[31m" = 1\nmanifest = 1\n')
    with pytest.raises(ModelError) as caught:
        manifest.read(version)
    assert caught.value.message.isprintable()


def test_a_signature_outlives_its_certificate(tmp_path: Path, version: Path, root: Signer) -> None:
    certified(version, signers.signer(tmp_path / "keys", "ann", root, expired=True))
    verify(version, root.certified)


def test_a_certificate_of_another_key(version: Path, ann: Signer, mallory: Signer) -> None:
    with pytest.raises(ModelError, match="does not match"):
        sign(version, mallory, certificate=ann.certified.read_bytes(), shown="mallory.key")
    assert not (version / "model.sig").exists()


# What to sign with, and whom to trust.


def test_a_key_with_a_password(tmp_path: Path, version: Path, ann: Signer, root: Signer) -> None:
    identity = Identity(signers.locked(tmp_path, ann, "open sesame").read_bytes(), shown="ann.locked")
    assert identity.is_locked
    for wrong in (identity, identity.unlocked_with("open barley")):
        with pytest.raises(ModelError, match=r"ann\.locked: "):
            signing.sign(version, wrong)
    signing.sign(version, identity.unlocked_with("open sesame"))
    verify(version, ann.public)


def test_keys_that_cannot_sign(version: Path, ann: Signer) -> None:
    kinds = signers.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    for key in (rsa.generate_private_key(65537, 2048), ed25519.Ed25519PrivateKey.generate()):
        with pytest.raises(ModelError, match="is not of the kind that signs models"):
            signing.sign(version, Identity(key.private_bytes(*kinds)))
    for text in (b"", ann.public.read_bytes(), b"-----BEGIN PRIVATE KEY-----"):
        with pytest.raises(ModelError, match="it is no private key in PEM"):
            signing.sign(version, Identity(text))


def test_only_what_is_sealed_and_as_it_was_is_signed(version: Path, ann: Signer) -> None:
    (version / "model.onnx").write_bytes(b"other")
    with pytest.raises(ModelError, match=r"model\.onnx is changed"):
        sign(version, ann)
    (version / "manifest.toml").unlink()
    with pytest.raises(ModelError, match="`sluice seal"):
        sign(version, ann)
    assert not (version / "model.sig").exists()


def test_keys_that_cannot_be_trusted(tmp_path: Path, ann: Signer, mallory: Signer) -> None:
    both = ann.public.read_bytes() + mallory.public.read_bytes()
    key = rsa.generate_private_key(65537, 2048).public_key()
    other = key.public_bytes(signers.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    for content, reason in (
        (b"", "is neither a public key nor a certificate in PEM"),
        (b"-----BEGIN CERTIFICATE-----\nMII\n-----END CERTIFICATE-----\n", "is no certificate in PEM"),
        (ann.key.read_bytes(), "is a private key, which belongs to its signer alone"),
        (both, "has more than one key; put each in a file of its own"),
        (other, "is not of the kind that signs models"),
    ):
        path = signers.write(tmp_path / "trusted.pem", content)
        with pytest.raises(ModelError, match=reason):
            trusted_key(path)
    with pytest.raises(ModelError, match=r"nowhere\.pem: cannot be read: No such file"):
        trusted_key(tmp_path / "nowhere.pem")


# With others' tools.


def test_the_package_itself_verifies_what_we_sign(version: Path, ann: Signer) -> None:
    from model_signing import verifying

    sign(version, ann)
    config = verifying.Config().use_elliptic_key_verifier(public_key=ann.public)
    config.verify(version, version / "model.sig")
    (version / "model.onnx").write_bytes(b"other")
    with pytest.raises(ValueError, match=r"model\.onnx|mismatch"):
        config.verify(version, version / "model.sig")


def test_we_verify_what_the_package_itself_signs(version: Path, ann: Signer) -> None:
    from model_signing import hashing
    from model_signing import signing as library

    files = hashing.Config().set_ignored_paths(paths=[version / "model.sig"])
    signer = library.Config().use_elliptic_key_signer(private_key=ann.key).set_hashing_config(files)
    signer.sign(version, version / "model.sig")
    verify(version, ann.public)
    (version / "README.md").write_text("# Another story\n")  # which is signed here
    assert "README.md is not as it was signed" in refused(version, ann.public)

    # What is left out of it is not signed, whatever the signer thought of it.
    signer.set_hashing_config(
        hashing.Config().set_ignored_paths(paths=[version / "model.sig", version / "model.onnx"])
    ).sign(version, version / "model.sig")
    assert refused(version, ann.public) == "tagger/1/model.sig: model.onnx is not signed"

    signer.set_hashing_config(
        hashing.Config().use_shard_serialization().set_ignored_paths(paths=[version / "model.sig"])
    ).sign(version, version / "model.sig")
    assert "is over shards by their sha256" in refused(version, ann.public)
