"""Addresses are shown without what may be secret, also within texts."""

from pathlib import Path

import pytest

from sluice.errors import ModelError
from sluice.store.blobs import Cache
from sluice.store.origin import checked
from sluice.store.redaction import redacted, shown
from sluice.store.sources import Means, Wanted, pull


def test_what_may_be_secret_is_not_shown() -> None:
    assert shown("https://me:secret@host:1/a/b?key=secret#secret") == "https://host:1/a/b"
    assert shown("https://host/a@b") == "https://host/a@b"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("error: 'az://acct/x?sig=SECRET': is no address", "error: 'az://acct/x': is no address"),
        ("hf://me:SECRET@x/y?token=SECRET: is none; see https://host/a.", "hf://x/y: is none; see https://host/a."),
        ("x (S3://a/b#SECRET), and oci://a/b:1@sha256:00: no", "x (S3://a/b), and oci://a/b:1@sha256:00: no"),
        ("models/a/1: there is no file? #1", "models/a/1: there is no file? #1"),
    ],
)
def test_texts_are_left_but_for_what_may_be_secret(text: str, told: str) -> None:
    assert redacted(text) == told


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("az://acct/x?sv=1&sig=SECRET", "'az://acct/x': is no address"),
        ("s3://bucket/x?X-Amz-Signature=SECRET@", "'s3://bucket/x': is no address"),
        ("gs://key:SEC/RET@bucket/x?token=SECRET", "'gs://bucket/x': is no address"),
        ("oci://me:SECRET@x/y?token=SECRET", "oci://x/y: is no address"),
        ("mlflow://me:SECRET@x?token=SECRET", "mlflow://x: is no address"),
        ("http://me:SECRET@x/y?token=SECRET", "http://x/y: names and passwords"),
    ],
)
def test_a_wrong_address_is_repeated_without_its_secrets(source: str, told: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError) as caught:
        pull(source, Wanted(tmp_path / "models"), Means(Cache(tmp_path / "cache", 1 << 20)))
    assert told in caught.value.message
    assert "SEC" not in caught.value.message
    assert "RET" not in caught.value.message


def test_what_is_no_origin_is_repeated_without_its_secrets() -> None:
    with pytest.raises(ValueError, match="not 'https//host/x'"):
        checked("https//me:SECRET@host/x?sig=SECRET", "", "")
