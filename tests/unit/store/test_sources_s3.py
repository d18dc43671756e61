"""Where an S3 store is, and who asks it, is found as Amazon's own tools find it."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from graphs import identity
from objectstores import BUCKET, S3, Proxy, missing, s3_server

from sluice.errors import ModelError
from sluice.store.blobs import Cache
from sluice.store.download import Rules
from sluice.store.sources import Means, Wanted, pull

SOURCE = f"s3://{BUCKET}/small.onnx"
pytestmark = pytest.mark.skipif(bool(missing("s3")), reason=missing("s3"))


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with s3_server() as url:
        yield url


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [*os.environ]:
        if name.lower().endswith("_proxy") or name.startswith("AWS_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


@pytest.fixture
def store(server: str, tmp_path: Path) -> Iterator[S3]:
    with Proxy(server) as proxy:
        store = S3(server, proxy)
        store.put("small.onnx", identity(tmp_path / "origin").read_bytes())
        yield store


@pytest.fixture
def means(tmp_path: Path) -> Means:
    return Means(Cache(tmp_path / "cache", 1 << 30), rules=Rules(timeout=5, attempts=2, pause=0.001))


@pytest.fixture
def wanted(tmp_path: Path) -> Wanted:
    return Wanted(tmp_path / "models")


def signers(store: S3) -> set[str]:
    """The keys that requests were signed with; "" = nobody signed."""
    said = [headers.get("Authorization", "") for _, _, headers in store.proxy.requests]
    return {text.partition("Credential=")[2].partition("/")[0] for text in said}


@pytest.mark.parametrize("name", ["AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"])
def test_the_environment_says_it(
    name: str, store: S3, wanted: Wanted, means: Means, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    monkeypatch.setenv(name, store.proxy.url)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDONE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    assert pull(SOURCE, wanted, means).is_new
    assert signers(store) == {"AKIDONE"}


@pytest.mark.parametrize("profile", ["", "other"])
def test_the_usual_files_say_it(
    profile: str, store: S3, wanted: Wanted, means: Means, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / ".aws").mkdir()
    heads = ("default", "default") if not profile else (f"profile {profile}", profile)
    (tmp_path / ".aws/config").write_text(f"[{heads[0]}]\nregion = eu-west-1\nendpoint_url = {store.proxy.url}\n")
    (tmp_path / ".aws/credentials").write_text(
        f"[{heads[1]}]\naws_access_key_id = AKIDTWO\naws_secret_access_key = secret\n"
    )
    if profile:
        monkeypatch.setenv("AWS_PROFILE", profile)
    assert pull(SOURCE, wanted, means).is_new
    assert signers(store) == {"AKIDTWO"}


def test_without_credentials_it_is_asked_as_anybody_may(
    store: S3, wanted: Wanted, means: Means, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    monkeypatch.setenv("AWS_ENDPOINT_URL", store.proxy.url)
    with pytest.raises(ModelError, match=r"access is denied.*and no credentials were found; they come from AWS_ACCESS"):
        pull(SOURCE, wanted, means)
    store.put("small.onnx", identity(means.cache.directory).read_bytes(), "public-read")
    assert pull(SOURCE, wanted, means).is_new
    assert signers(store) == {""}


@pytest.mark.parametrize(
    ("name", "value"),
    [("AWS_PROFILE", "nobody"), ("AWS_ACCESS_KEY_ID", "half")],
)
def test_credentials_that_make_no_sense_are_an_error(
    name: str, value: str, store: S3, wanted: Wanted, means: Means, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", store.proxy.url)
    monkeypatch.setenv(name, value)
    with pytest.raises(ModelError, match=r"small\.onnx: cannot be read: (ProfileNotFound|PartialCredentialsError)"):
        pull(SOURCE, wanted, means)


def test_a_host_that_is_not_there_is_said(wanted: Wanted, means: Means, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://store.invalid:9000")
    with pytest.raises(ModelError, match=r"small\.onnx: there is no host of the store's name|gave up after 2 attempts"):
        pull(SOURCE, wanted, means)


def test_the_proxy_of_the_environment_is_used(
    store: S3, wanted: Wanted, means: Means, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDONE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("http_proxy", store.proxy.url)
    assert pull(SOURCE, wanted, means).is_new
    assert {path.partition("/small")[0] for _, path, _ in store.proxy.requests} == {"http://127.0.0.1:9/models"}


@pytest.mark.skipif(shutil.which("openssl") is None, reason="makes its certificate with openssl")
def test_stores_must_be_trusted(
    server: str, store: S3, wanted: Wanted, means: Means, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    certificate = self_signed(tmp_path)
    with Proxy(server, certificate) as secure:
        monkeypatch.setenv("AWS_ENDPOINT_URL", secure.url)
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDONE")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        with pytest.raises(ModelError, match=r"small\.onnx: the store's certificate is not trusted"):
            pull(SOURCE, wanted, means)
        monkeypatch.setenv("AWS_CA_BUNDLE", str(certificate[0]))
        assert pull(SOURCE, wanted, means).is_new


def self_signed(place: Path) -> tuple[Path, Path]:
    """A certificate for localhost, and its key."""
    certificate, key = place / "certificate.pem", place / "key.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
            *("-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"),
            *("-keyout", str(key), "-out", str(certificate)),
        ],
        check=True,
        capture_output=True,
    )
    return certificate, key
