"""What a version must have before it is in production."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import graphs
import pytest
import signers
from signers import Signer

from sluice.config.settings import Models
from sluice.errors import NotApproved
from sluice.store import manifest, signing
from sluice.store.approval import Approval
from sluice.store.signing import Identity


@pytest.fixture
def ann(tmp_path: Path) -> Signer:
    return signers.signer(tmp_path / "keys", "ann")


@pytest.fixture
def version(tmp_path: Path) -> Path:
    return graphs.tagger(tmp_path / "models").parent


def rules(*approval: str, key: Path | None = None) -> Approval:
    return Approval(Models.model_validate({"approval": approval, "trusted_keys": [str(key)] if key else []}))


def evaluated(directory: Path, **changed: str) -> None:
    """As an evaluation writes it down."""
    metrics: Mapping[str, str] = {"digest": manifest.examine(directory).digest(), "verdict": "passed", **changed}
    manifest.seal(directory, metrics={f"evaluation.{key}": value for key, value in metrics.items()})


def test_nothing_is_asked_for_by_default(version: Path) -> None:
    rules().check(version)


def test_signed(version: Path, ann: Signer) -> None:
    rule = rules("signed", key=ann.public)
    assert rule.lacking(version) == "tagger/1 is not sealed and signed"
    manifest.seal(version)
    assert rule.lacking(version) == "tagger/1 is not signed"
    signing.sign(version, Identity(ann.key.read_bytes()))
    rule.check(version)
    (version / "model.onnx").write_bytes(b"other")
    with pytest.raises(NotApproved, match=r"tagger/1 cannot become production: .*model\.onnx is not as it was signed"):
        rule.check(version)


def test_evaluated(version: Path) -> None:
    rule = rules("evaluated")
    assert "it is not sealed" in rule.lacking(version)
    manifest.seal(version)
    assert "it was not evaluated; `sluice evaluate`" in rule.lacking(version)
    evaluated(version, verdict="failed")
    assert rule.lacking(version) == "its evaluation says 'failed', not 'passed'"
    evaluated(version)
    rule.check(version)
    (version / "labels.txt").write_text("cat\n")
    assert "labels.txt is not in the manifest" in rule.lacking(version)
    manifest.seal(version)
    assert "it was evaluated with other files" in rule.lacking(version)
    (version / "manifest.toml").write_text("manifest = 2\n")
    assert "manifest.toml: manifest: this server reads format 1" in rule.lacking(version)


def test_both(version: Path, ann: Signer) -> None:
    rule = rules("signed", "evaluated", key=ann.public)
    manifest.seal(version)
    lacking = rule.lacking(version)
    assert "is not signed; it was not evaluated" in lacking
    evaluated(version)
    signing.sign(version, Identity(ann.key.read_bytes()))
    rule.check(version)
