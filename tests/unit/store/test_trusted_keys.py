"""Whose signature counts for which version, and what becomes of those without one."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import graphs
import pytest
import signers
from signers import Signer

from sluice.config.settings import Models
from sluice.errors import ConfigError, ModelError
from sluice.store import manifest, signing
from sluice.store.signing import Identity
from sluice.store.trust import Trust


@pytest.fixture
def ann(tmp_path: Path) -> Signer:
    return signers.signer(tmp_path / "keys", "ann")


def trust(*keys: str, signatures: str = "require") -> Trust:
    return Trust(Models.model_validate({"signatures": signatures, "trusted_keys": keys}))


def version(repository: Path, name: str = "tagger", signer: Signer | None = None, source: str = "") -> Path:
    directory = graphs.tagger(repository, name).parent
    manifest.seal(directory, source=source)
    if signer is not None:
        signing.sign(directory, Identity(signer.key.read_bytes()))
    return directory


@pytest.mark.parametrize(
    ("model", "source", "expected"),
    [
        ("minilm", "", ["minilm.pem", "second.pem"]),
        ("minilm", "hf://acme/minilm@1f", ["minilm.pem", "second.pem"]),
        ("other", "", ["all.pem"]),
        ("minilm2", "", ["all.pem"]),
        ("other", "hf://sentence/other@1f", ["hub.pem"]),
        ("other", "hf://acme/other", ["acme.pem"]),
        ("other", "hf://acme2/other", ["hub.pem"]),
        ("other", "https://models.example.com/other.sluice", ["web.pem"]),
        ("other", "https://models.example.com.evil.net/other.sluice", ["all.pem"]),
        ("other", "/mnt/share/other/2", ["share.pem"]),
        ("other", "/mnt/shared/other/2", ["all.pem"]),
    ],
)
def test_the_most_specific_keys_count_and_only_those(model: str, source: str, expected: list[str]) -> None:
    told = trust(
        "all.pem",
        "minilm=minilm.pem",
        "minilm = second.pem",
        "hf://=hub.pem",
        "hf://acme/=acme.pem",
        "https://models.example.com=web.pem",
        "/mnt/share=share.pem",
    )
    assert told.keys_for(model, source) == [Path(name) for name in expected]


def test_another_model_s_key_counts_for_nothing_else(tmp_path: Path, ann: Signer) -> None:
    mine, other = version(tmp_path, "mine", ann), version(tmp_path, "other", ann)
    told = trust(f"mine={ann.public}")
    assert told.verify(mine, manifest.read(mine)).by == ann.public
    with pytest.raises(ModelError, match="who is not trusted; trusted here are none"):
        told.check(other, manifest.read(other))


def test_a_source_s_key(tmp_path: Path, ann: Signer) -> None:
    bob = signers.signer(tmp_path / "keys", "bob")
    told = trust(f"hf://={ann.public}", str(bob.public))
    pulled = version(tmp_path, "pulled", ann, "hf://acme/model@1f")
    told.check(pulled, manifest.read(pulled))
    own = version(tmp_path, "own", ann)
    with pytest.raises(ModelError, match="who is not trusted"):
        told.check(own, manifest.read(own))


def test_what_becomes_of_a_version_without_a_signature(
    tmp_path: Path, ann: Signer, caplog: pytest.LogCaptureFixture
) -> None:
    directory = version(tmp_path)
    said = manifest.read(directory)
    with pytest.raises(ModelError, match="tagger/1 is not signed"):
        trust(str(ann.public)).check(directory, said)
    with pytest.raises(ModelError, match="tagger/1 is not sealed and signed"):
        trust(str(ann.public)).check(directory, None)
    trust(str(ann.public), signatures="off").check(directory, said)
    assert not caplog.records
    trust(str(ann.public), signatures="warn").check(directory, said)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "tagger/1 is not signed; it is served all the same" in record.message


def test_who_signed_is_in_the_log(tmp_path: Path, ann: Signer, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "sluice")
    directory = version(tmp_path, signer=ann)
    trust(str(ann.public)).check(directory, manifest.read(directory))
    assert f"tagger/1 is signed by key sha256:{signing.trusted_key(ann.public).fingerprint}" in caplog.text


def test_a_key_is_read_anew_each_time(tmp_path: Path, ann: Signer) -> None:
    directory = version(tmp_path, signer=ann)
    told = trust(str(ann.public))
    told.check(directory, manifest.read(directory))
    ann.public.write_bytes(signers.signer(tmp_path / "keys", "bob").public.read_bytes())
    with pytest.raises(ModelError, match="who is not trusted"):
        told.check(directory, manifest.read(directory))
    ann.public.unlink()
    with pytest.raises(ModelError, match=r"ann\.pub: cannot be read"):
        told.check(directory, manifest.read(directory))


def test_keys_that_cannot_be_used_stop_the_start(tmp_path: Path, ann: Signer) -> None:
    trust(str(ann.public)).prepare()
    trust("nowhere.pem", signatures="off").prepare()
    with pytest.raises(ConfigError, match=r"models\.trusted_keys: nowhere\.pem: cannot be read"):
        trust(str(ann.public), "hf://=nowhere.pem").prepare()


@pytest.mark.parametrize("package", ["model_signing", "OpenSSL"])
def test_what_is_not_installed_is_named(
    tmp_path: Path, ann: Signer, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = version(tmp_path, signer=ann)
    for name in [name for name in sys.modules if name.partition(".")[0] in (package, "model_signing")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    told = trust(str(ann.public))
    with pytest.raises(ConfigError, match=rf"models\.signatures: the package '{package}', .*'sluice\[sign\]'"):
        told.prepare()
    with pytest.raises(
        ModelError, match=rf"the package '{package}', .* is not installed: pip install 'sluice\[sign\]'"
    ):
        told.check(directory, manifest.read(directory))
