"""`sluice sign`, and who signed in `sluice verify`, `sluice models show` and `sluice promote`, as they are typed."""

import json
from pathlib import Path

import graphs
import pytest
import signers
from signers import Signer

from sluice.cli.main import main
from sluice.store import manifest

Captured = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def ann(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Signer:
    """Somebody who can sign, and two versions of a sealed model in ./models."""
    monkeypatch.chdir(tmp_path)
    for number, factor in (("1", 2), ("2", 3)):
        manifest.seal(graphs.tagger(Path("models"), version=number, factor=factor).parent)
    return signers.signer(Path("keys"), "ann")


def printed(capsys: Captured, *arguments: str) -> str:
    assert main(arguments) == 0, capsys.readouterr().err
    return capsys.readouterr().out


def refused(capsys: Captured, *arguments: str) -> str:
    assert main(arguments) == 1
    return capsys.readouterr().err


def test_a_version_is_signed_and_verified(capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "signed: no\n" in printed(capsys, "verify", "tagger/1")
    assert "is not signed" in refused(capsys, "verify", "tagger/1", "--trusted-key", "keys/ann.pub")
    out = printed(capsys, "sign", "tagger/1", "--key", "keys/ann.key")
    assert out.startswith("models/tagger/1 is signed by key sha256:")
    assert out.endswith(", 2 files\n")
    out = printed(capsys, "verify", "tagger/1")
    assert "signed: says that it is by key sha256:" in out
    assert "models.trusted_keys names no key to tell by" in out
    out = printed(capsys, "verify", "tagger/1", "--trusted-key", "keys/ann.pub")
    assert "whole and unchanged" in out
    assert "signed: by key sha256:" in out
    assert "(keys/ann.pub)\n" in out
    monkeypatch.chdir("models/tagger/1")
    assert "(../../../keys/ann.pub)" in printed(capsys, "verify", ".", "--trusted-key", "tagger=../../../keys/ann.pub")
    monkeypatch.chdir("../../..")
    signers.signer(Path("keys"), "bob")
    assert "who is not trusted" in refused(capsys, "verify", "tagger/1", "--trusted-key", "keys/bob.pub")
    assert "trusted here are none" in refused(
        capsys, "verify", "tagger/1", "--trusted-key", "other=keys/ann.pub", "--signatures", "require"
    )
    assert "tagger/2 is not signed" in refused(
        capsys, "verify", "tagger/2", "--trusted-key", "keys/ann.pub", "--signatures", "require"
    )


def test_what_was_changed_after_signing_is_told_without_a_key(capsys: Captured) -> None:
    printed(capsys, "sign", "tagger/1", "--key", "keys/ann.key")
    assert main(["seal", "tagger/1", "--set", "metrics.cosine=0.998"]) == 0
    assert "note: its signature is of what was sealed before; `sluice sign` it anew" in capsys.readouterr().err
    assert "manifest.toml is not as it was signed" in refused(capsys, "verify", "tagger/1")
    printed(capsys, "sign", "tagger/1", "--key", "keys/ann.key")
    printed(capsys, "verify", "tagger/1")
    assert main(["seal", "tagger/1"]) == 0
    assert capsys.readouterr().err == ""


def test_show_says_who_signed(capsys: Captured) -> None:
    def signature(name: str) -> str:
        return str(json.loads(printed(capsys, "models", "show", name, "--json"))["signed"])

    printed(capsys, "sign", "tagger/1", "--key", "keys/ann.key")
    assert signature("tagger/2") == "no"
    assert signature("tagger/1").startswith("says that it is by key sha256:")
    Path("sluice.toml").write_text('[models]\ntrusted_keys = ["keys/ann.pub"]\n')
    assert signature("tagger/1").endswith("(keys/ann.pub)")
    rows = [line.split() for line in printed(capsys, "models", "show", "tagger/1").splitlines()]
    assert ["signed", "by", "key"] in [row[:3] for row in rows]
    Path("models/tagger/1/model.onnx").write_bytes(b"other")
    assert signature("tagger/1") == "does not hold: tagger/1/model.sig: model.onnx is not as it was signed"


def test_a_signature_travels_with_its_version(capsys: Captured) -> None:
    printed(capsys, "sign", "tagger/1", "--key", "keys/ann.key")
    printed(capsys, "pack", "tagger/1")
    key = ("--trusted-key", "keys/ann.pub", "--signatures", "require")
    assert "(keys/ann.pub)\n" in printed(capsys, "verify", "tagger-1.0.0.sluice", *key)
    printed(capsys, "unpack", "tagger-1.0.0.sluice", "-r", "there")
    printed(capsys, "pull", "models/tagger/1", "-r", "copied")
    for repository in ("there", "copied"):
        assert "(keys/ann.pub)\n" in printed(capsys, "verify", "tagger", "-r", repository, *key)
    printed(capsys, "pack", "tagger/2")
    assert "tagger-2.0.0.sluice is not signed" in refused(capsys, "verify", "tagger-2.0.0.sluice", *key)
    printed(capsys, "pack", "tagger/1", "--against", "tagger/2", "-o", "delta")
    assert "(keys/ann.pub)\n" in printed(capsys, "verify", "delta", *key)


def test_certificates_and_passwords(capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    root = signers.signer(Path("keys"), "root", authority=True)
    team = signers.signer(Path("keys"), "team", root, authority=True)
    bob = signers.signer(Path("keys"), "bob", team)
    signers.locked(Path("keys"), bob, "open sesame")
    Path("password").write_text("open sesame\n")
    certified = ("--certificate", "keys/bob.crt", "--chain", "keys/team.crt")
    out = printed(capsys, "sign", "tagger/1", "--key", "keys/bob.locked", "--password-file", "password", *certified)
    assert "is signed by CN=bob, certified by CN=team" in out
    out = printed(capsys, "verify", "tagger/1", "--trusted-key", "tagger=keys/root.crt")
    assert "signed: by CN=bob, certified by CN=team (keys/root.crt)\n" in out
    monkeypatch.setattr("getpass.getpass", lambda prompt, stream=None: "open barley")
    assert "keys/bob.locked: its password is another" in refused(capsys, "sign", "tagger/2", "--key", "keys/bob.locked")


def test_what_cannot_be_is_said(capsys: Captured) -> None:
    for arguments, reason in (
        (("tagger/1", "--key", "keys/nobody.key"), "keys/nobody.key: No such file"),
        (("tagger/1", "--key", "keys/ann.pub"), "keys/ann.pub: it is no private key in PEM"),
        (("tagger/1", "--key", "keys/ann.key", "--chain", "keys/ann.crt"), "name that with --certificate"),
        (("nothing", "--key", "keys/ann.key"), "nothing: there is neither such a model"),
    ):
        assert reason in refused(capsys, "sign", *arguments)
    graphs.tagger(Path("models"), "open")
    assert "`sluice seal models/open/1` writes one" in refused(capsys, "sign", "open", "--key", "keys/ann.key")


def test_production_is_for_what_is_approved(capsys: Captured) -> None:
    Path("sluice.toml").write_text('[models]\napproval = ["signed"]\ntrusted_keys = ["keys/ann.pub"]\n')
    here = ("--repository", "models")
    said = refused(capsys, "promote", "tagger", "1", *here)
    assert said == "error: tagger/1 cannot become production: tagger/1 is not signed (models.approval)\n"
    printed(capsys, "promote", "tagger", "2", "--alias", "staging", *here)
    assert "tagger/2 cannot become production" in refused(capsys, "promote", "tagger", "staging", *here)
    printed(capsys, "sign", "tagger/1", "--key", "keys/ann.key")
    assert printed(capsys, "promote", "tagger", "1", *here) == "production of tagger is version 1 now\n"
    printed(capsys, "sign", "tagger/2", "--key", "keys/ann.key")
    printed(capsys, "promote", "tagger", "2", *here)
    Path("models/tagger/1/model.sig").unlink()
    assert "tagger/1 is not signed" in refused(capsys, "rollback", "tagger", *here)
    assert "'tagger' has no version 9; there are 1, 2" in refused(capsys, "promote", "tagger", "9", *here)
