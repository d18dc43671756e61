"""Versions come from paths and from a real web server that breaks, lies, stalls and moves; none is ever half there."""

import base64
import hashlib
import os
import random
import shutil
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from time import monotonic

import onnx
import pytest
from graphs import identity
from shortdisk import short_disk
from website import Site

from sluice.errors import ModelError
from sluice.store import download, manifest
from sluice.store.blobs import Cache
from sluice.store.download import Rules
from sluice.store.packing import pack
from sluice.store.placing import Placed
from sluice.store.sources import Means, Wanted, pull

QUICK = Rules(timeout=5, attempts=4, pause=0.001)


@pytest.fixture(autouse=True)
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [*os.environ]:
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))


@pytest.fixture
def site() -> Iterator[Site]:
    with Site() as site:
        yield site


@pytest.fixture
def means(tmp_path: Path) -> Means:
    return Means(Cache(tmp_path / "cache", 1 << 30), rules=QUICK)


@pytest.fixture
def wanted(tmp_path: Path) -> Wanted:
    return Wanted(tmp_path / "models")


@pytest.fixture
def version(tmp_path: Path) -> Path:
    """A sealed version with weights that nothing compresses."""
    directory = identity(tmp_path / "origin", "small").parent
    (directory / "weights.bin").write_bytes(random.Random(1).randbytes(300_000))
    manifest.seal(directory)
    return directory


@pytest.fixture
def package(version: Path, site: Site) -> bytes:
    path = pack(version, version.parent / "small.sluice").path
    site.files["/small.sluice"] = path.read_bytes()
    return site.files["/small.sluice"]


def check(done: Placed, wanted: Wanted, place: str = "small/1") -> None:
    assert done.directory == wanted.models / place
    manifest.verify(done.directory, done.manifest)
    assert manifest.read(done.directory) == done.manifest
    assert os.listdir(done.directory.parent) == [done.directory.name]


def nothing_is_there(wanted: Wanted) -> None:
    assert not wanted.models.exists() or not [*wanted.models.iterdir()]


# From paths.


def test_a_sealed_directory_is_copied_as_it_is(version: Path, wanted: Wanted, means: Means) -> None:
    done = pull(str(version), wanted, means)
    check(done, wanted)
    assert done.manifest == manifest.read(version)
    assert pull(str(version), wanted, means) == replace(done, is_new=False)


def test_a_directory_that_is_not_what_its_manifest_says_is_refused(
    version: Path, wanted: Wanted, means: Means
) -> None:  # fmt: skip
    (version / "weights.bin").write_bytes(b"changed")
    with pytest.raises(ModelError, match=r"weights\.bin is changed"):
        pull(str(version), wanted, means)
    nothing_is_there(wanted)


def test_an_unsealed_directory_is_sealed_and_found_again(version: Path, wanted: Wanted, means: Means) -> None:
    (version / "manifest.toml").unlink()
    done = pull(str(version), replace(wanted, name="other", number="7"), means)
    check(done, wanted, "other/7")
    assert (done.manifest.name, done.manifest.version) == ("other", "7.0.0")
    assert done.manifest.source == str(version)
    assert not pull(str(version), replace(wanted, name="other"), means).is_new
    assert pull(str(version), wanted, means).directory == wanted.models / "small/1"


def test_a_package_and_a_model_file_are_taken(version: Path, wanted: Wanted, means: Means, package: bytes) -> None:
    check(pull(str(version.parent / "small.sluice"), wanted, means), wanted)
    done = pull(str(version / "model.onnx"), replace(wanted, name="bare"), means)
    check(done, wanted, "bare/1")
    assert [entry.path for entry in done.manifest.files] == ["model.onnx"]
    with pytest.raises(ModelError, match="say --name"):
        pull(str(version / "model.onnx"), wanted, means)


@pytest.mark.parametrize("name", ["../x", "a/b", "/x", "x.tmp", ".x"])
def test_a_name_is_one_of_a_model(name: str, version: Path, wanted: Wanted, means: Means, package: bytes) -> None:
    for source in (version, version / "model.onnx", version.parent / "small.sluice"):
        with pytest.raises(ModelError, match="a model cannot be called"):
            pull(str(source), replace(wanted, name=name), means)
    nothing_is_there(wanted)


def test_an_existing_version_is_not_replaced(version: Path, wanted: Wanted, means: Means) -> None:
    first = pull(str(version), wanted, means)
    (version / "weights.bin").write_bytes(b"new")
    manifest.seal(version)
    with pytest.raises(ModelError, match="it exists and is another version"):
        pull(str(version), replace(wanted, number="1"), means)
    check(first, wanted)
    assert pull(str(version), wanted, means).directory == wanted.models / "small/2"


@pytest.mark.parametrize(
    ("source", "why"),
    [
        ("nowhere", "there is no such file"),
        (".", "there is no model.onnx"),
        ("ftp://host/file", "versions come from"),
        ("https://user:secret@host/x", "belong into ~/.netrc"),
        ("https://host/x#sha1=12", "after # stands"),
        ("https://host/a b", "is no address"),
        ("https:///x", "names no host"),
        ("https://host:port/x", "is no address"),
    ],
)
def test_what_is_no_source_is_said(
    source: str, why: str, wanted: Wanted, means: Means, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(ModelError, match=why) as caught:
        pull(source, wanted, means)
    assert "secret" not in caught.value.message
    nothing_is_there(wanted)


def test_a_hugging_face_directory_is_for_import(tmp_path: Path, wanted: Wanted, means: Means) -> None:
    (tmp_path / "bert").mkdir()
    (tmp_path / "bert/config.json").write_text("{}")
    with pytest.raises(ModelError, match="sluice import"):
        pull(str(tmp_path / "bert"), wanted, means)


# From the web.


def test_a_package_is_downloaded_once(site: Site, package: bytes, wanted: Wanted, means: Means) -> None:
    steps: list[tuple[str, int, int]] = []
    url = f"{site.url}/small.sluice?signature=secret"
    done = pull(url, wanted, replace(means, progress=lambda *step: steps.append(step)))
    check(done, wanted)
    assert ("download", len(package), len(package)) in steps
    again = pull(url, replace(wanted, name="again"), means)
    check(again, wanted, "again/1")
    assert site.requests[-1][1]["If-None-Match"] == '"one"'
    assert len(site.requests) == 2
    told = [path.read_bytes() for path in (means.cache.directory / "addresses").iterdir()]
    assert told
    assert not any(b"secret" in text for text in told)
    assert [blob.sources for blob in means.cache.blobs()] == [(f"{site.url}/small.sluice",)]
    assert means.cache.partials() == []


def test_a_changed_file_is_downloaded_anew(
    site: Site, package: bytes, version: Path, wanted: Wanted, means: Means
) -> None:  # fmt: skip
    pull(f"{site.url}/small.sluice", wanted, means)
    (version / "weights.bin").write_bytes(b"new")
    content = manifest.seal(version)
    site.files["/small.sluice"] = pack(version, version.parent / "new.sluice").path.read_bytes()
    site.tag = '"two"'
    assert pull(f"{site.url}/small.sluice", wanted, means).manifest == content


def test_with_its_sha256_the_server_is_not_asked_again(
    site: Site, package: bytes, wanted: Wanted, means: Means
) -> None:  # fmt: skip
    url = f"{site.url}/small.sluice#sha256={hashlib.sha256(package).hexdigest()}"
    pull(url, wanted, means)
    check(pull(url, replace(wanted, name="again"), means), wanted, "again/1")
    assert len(site.requests) == 1


def test_a_wrong_sha256_is_refused_and_not_kept(site: Site, package: bytes, wanted: Wanted, means: Means) -> None:
    with pytest.raises(ModelError, match=f"sha256 is {hashlib.sha256(package).hexdigest()}, not {'0' * 64}"):
        pull(f"{site.url}/small.sluice#sha256={'0' * 64}", wanted, means)
    nothing_is_there(wanted)
    assert means.cache.size() == 0


def test_offline_takes_what_the_cache_has(site: Site, package: bytes, wanted: Wanted, means: Means) -> None:
    offline = replace(means, offline=True)
    with pytest.raises(ModelError, match="is not in the cache"):
        pull(f"{site.url}/small.sluice", wanted, offline)
    pull(f"{site.url}/small.sluice", wanted, means)
    asked = len(site.requests)
    check(pull(f"{site.url}/small.sluice", replace(wanted, name="again"), offline), wanted, "again/1")
    assert len(site.requests) == asked


def test_a_damaged_blob_is_downloaded_anew(site: Site, package: bytes, wanted: Wanted, means: Means) -> None:
    pull(f"{site.url}/small.sluice", wanted, means)
    blob = next((means.cache.directory / "blobs").iterdir())
    blob.chmod(0o644)
    blob.write_bytes(package[:-1] + b"!")
    check(pull(f"{site.url}/small.sluice", replace(wanted, name="again"), means), wanted, "again/1")
    assert "If-None-Match" not in site.requests[-1][1]


def test_a_damaged_package_is_not_believed_the_next_time(
    site: Site, package: bytes, wanted: Wanted, means: Means
) -> None:  # fmt: skip
    site.files["/small.sluice"] = package[:200_000] + b"!" + package[200_001:]
    with pytest.raises(ModelError, match=r"^http.*/small\.sluice: weights\.bin is damaged"):
        pull(f"{site.url}/small.sluice", wanted, means)
    nothing_is_there(wanted)
    site.files["/small.sluice"] = package
    check(pull(f"{site.url}/small.sluice", wanted, means), wanted)


@pytest.mark.parametrize("kind", ["cuts", "stalls"])
def test_a_broken_download_goes_on_where_it_was(
    kind: str, site: Site, package: bytes, wanted: Wanted, means: Means
) -> None:  # fmt: skip
    setattr(site, kind, [100_000, 0, 50_000, 1])
    rules = replace(QUICK, timeout=0.2) if kind == "stalls" else QUICK
    check(pull(f"{site.url}/small.sluice", wanted, replace(means, rules=rules)), wanted)
    last = len(package) - 1
    assert site.ranges == [f"bytes={start}-{last}" for start in (100_000, 100_000, 150_000, 150_001)]
    assert all(headers.get("If-Range") == '"one"' for _, headers in site.requests[1:])


def test_the_next_pull_goes_on_where_the_last_one_gave_up(
    site: Site, package: bytes, wanted: Wanted, means: Means
) -> None:  # fmt: skip
    site.cuts = [100_000, 0, 0, 0]
    with pytest.raises(ModelError, match=r"the connection ended \d+ bytes early; gave up after 4 attempts"):
        pull(f"{site.url}/small.sluice", wanted, means)
    nothing_is_there(wanted)
    asked = len(site.requests)
    check(pull(f"{site.url}/small.sluice", wanted, means), wanted)
    assert [headers["Range"] for _, headers in site.requests[asked:]] == [f"bytes=100000-{len(package) - 1}"]


@pytest.mark.parametrize("reason", ["no ranges", "no tag"])
def test_without_ranges_it_begins_anew(
    reason: str, site: Site, package: bytes, wanted: Wanted, means: Means
) -> None:  # fmt: skip
    site.has_ranges = reason != "no ranges"
    site.tag = '"one"' if reason == "no ranges" else ""
    site.cuts = [100_000, 200_000]
    check(pull(f"{site.url}/small.sluice", wanted, means), wanted)
    assert len(site.requests) == 3


def test_parts_of_two_states_are_never_joined(site: Site, package: bytes, wanted: Wanted, means: Means) -> None:
    site.cuts = [100_000, 0, 0, 0]
    with pytest.raises(ModelError, match="gave up"):
        pull(f"{site.url}/small.sluice", wanted, means)
    site.tag = '"two"'  # and the server ignores what it is asked on the state before
    site.files["/small.sluice"] = package
    check(pull(f"{site.url}/small.sluice", wanted, means), wanted)


@pytest.mark.parametrize("breaks", [False, True])
def test_a_large_file_comes_over_several_connections(
    breaks: bool, site: Site, package: bytes, wanted: Wanted, means: Means
) -> None:  # fmt: skip
    site.cuts = [10, 20, 30, 40, 50] if breaks else []
    rules = replace(QUICK, parallel_from=100_000)
    check(pull(f"{site.url}/small.sluice", wanted, replace(means, rules=rules)), wanted)
    assert len(site.requests) == (9 if breaks else 4)
    starts = {int(asked.removeprefix("bytes=").split("-")[0]) for asked in site.ranges}
    assert {len(package) * part // 4 for part in (1, 2, 3)} <= starts


def test_a_large_file_whose_parts_fail_is_given_up_as_a_whole(
    site: Site, package: bytes, wanted: Wanted, means: Means
) -> None:  # fmt: skip
    site.cuts = [0] * 100
    with pytest.raises(ModelError, match="gave up after 4 attempts"):
        pull(f"{site.url}/small.sluice", wanted, replace(means, rules=replace(QUICK, parallel_from=100_000)))
    nothing_is_there(wanted)
    assert threading.active_count() < 10


def test_who_interrupts_a_download_need_not_wait_for_silent_connections(
    site: Site, package: bytes, wanted: Wanted, means: Means
) -> None:
    def interrupt(step: str, done: int, total: int) -> None:
        if done == 240:  # all four are silent now
            raise KeyboardInterrupt

    site.stalls = [60] * 4
    rules = replace(QUICK, timeout=60, parallel_from=100_000)
    began = monotonic()
    with pytest.raises(KeyboardInterrupt):
        pull(f"{site.url}/small.sluice", wanted, replace(means, rules=rules, progress=interrupt))
    assert monotonic() - began < 20  # of the 30 and 60 that server and client would wait
    check(pull(f"{site.url}/small.sluice", wanted, means), wanted)


def test_a_server_that_lies_about_the_length_is_given_up(
    site: Site, package: bytes, wanted: Wanted, means: Means
) -> None:  # fmt: skip
    site.lie = 10
    with pytest.raises(ModelError, match=r"bytes early|the file changes while"):
        pull(f"{site.url}/small.sluice", wanted, means)
    site.lie = -10
    with pytest.raises(ModelError, match=r"/small\.sluice: "):
        pull(f"{site.url}/small.sluice?short", wanted, means)
    site.says_length = False
    with pytest.raises(ModelError, match="does not say how long"):
        pull(f"{site.url}/small.sluice?new", wanted, means)
    nothing_is_there(wanted)


def test_a_busy_server_is_asked_again(site: Site, package: bytes, wanted: Wanted, means: Means) -> None:
    site.statuses = [(503, {"Retry-After": "0"}), (429, {}), (502, {})]
    check(pull(f"{site.url}/small.sluice", wanted, means), wanted)
    assert len(site.requests) == 4


@pytest.mark.parametrize("code", [400, 403, 404, 410, 501])
def test_a_refusal_is_final(code: int, site: Site, package: bytes, wanted: Wanted, means: Means) -> None:
    site.statuses = [(code, {})]
    with pytest.raises(ModelError, match=rf"/small\.sluice: the server says {code}") as caught:
        pull(f"{site.url}/small.sluice?token=secret", wanted, means)
    assert "secret" not in caught.value.message
    assert len(site.requests) == 1
    nothing_is_there(wanted)


def test_nobody_there(wanted: Wanted, means: Means) -> None:
    with Site() as gone:
        url = gone.url
    with pytest.raises(ModelError, match="Connection refused; gave up after 4 attempts"):
        pull(f"{url}/small.sluice", wanted, means)


def test_a_redirect_to_what_is_no_address_is_said(site: Site, wanted: Wanted, means: Means) -> None:
    site.moved["/small.sluice"] = "https://[::1/t?key=s3cret"
    with pytest.raises(ModelError, match=r"/small\.sluice: is redirected to what is no address$"):
        pull(f"{site.url}/small.sluice", wanted, means)


def test_redirects_are_followed_to_http_only(site: Site, package: bytes, wanted: Wanted, means: Means) -> None:
    with Site() as other:
        other.files = site.files
        site.moved = {"/a": "/b", "/b": f"{other.url}/small.sluice", "/file": "file:///etc/passwd", "/x": "/x"}
        check(pull(f"{site.url}/a", wanted, means), wanted)
        assert len(other.requests) == 1
    for name in ("file", "x"):
        with pytest.raises(ModelError, match=f"/{name}: the server says 302 Found, and leads nowhere"):
            pull(f"{site.url}/{name}", wanted, means)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="makes its certificate with openssl")
def test_servers_must_be_trusted_and_never_lead_out_of_tls(
    site: Site, package: bytes, wanted: Wanted, means: Means, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
            *("-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"),
            *("-keyout", str(key), "-out", str(certificate)),
        ],
        check=True,
        capture_output=True,
    )
    with Site((certificate, key)) as secure:
        secure.files = site.files
        secure.moved = {"/out": f"{site.url}/small.sluice", "/on": "/small.sluice"}
        with pytest.raises(ModelError, match="the server's certificate is not trusted"):
            pull(f"{secure.url}/small.sluice", wanted, means)
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        check(pull(f"{secure.url}/on", wanted, means), wanted)
        with pytest.raises(ModelError, match="/out: is redirected from https to http"):
            pull(f"{secure.url}/out", wanted, means)
    assert site.requests == []


def test_a_password_comes_from_netrc_and_goes_to_its_host_only(
    site: Site, package: bytes, wanted: Wanted, means: Means, tmp_path: Path
) -> None:  # fmt: skip
    site.password = base64.b64encode(b"me:secret").decode()
    with pytest.raises(
        ModelError, match=r"401 Unauthorized; a name and password for the host are taken from ~/\.netrc"
    ):
        pull(f"{site.url}/small.sluice", wanted, means)
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login me password secret\n")
    (tmp_path / "netrc").chmod(0o600)
    check(pull(f"{site.url}/small.sluice", wanted, means), wanted)
    with Site() as other:
        other.files = site.files
        site.moved = {"/moved": f"{other.url.replace('127.0.0.1', 'localhost')}/small.sluice"}
        pull(f"{site.url}/moved", replace(wanted, name="moved"), means)
        assert "Authorization" not in other.requests[0][1]
    (tmp_path / "netrc").write_text("machine secret secret")
    with pytest.raises(ModelError, match="cannot be read as a netrc file") as caught:
        pull(f"{site.url}/small.sluice", wanted, means)
    assert "secret" not in caught.value.message


def test_the_proxy_of_the_environment_is_used(
    site: Site, package: bytes, wanted: Wanted, means: Means, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    monkeypatch.setenv("http_proxy", site.url)
    check(pull("http://models.invalid/small.sluice", wanted, means), wanted)
    assert site.requests[0][0] == "http://models.invalid/small.sluice"


def test_a_bare_model_is_sealed(site: Site, version: Path, wanted: Wanted, means: Means) -> None:
    site.files["/minilm.onnx"] = (version / "model.onnx").read_bytes()
    done = pull(f"{site.url}/minilm.onnx?key=secret", wanted, means)
    check(done, wanted, "minilm/1")
    assert done.manifest.source == f"{site.url}/minilm.onnx"
    assert done.manifest.files[0].sha256 == hashlib.sha256(site.files["/minilm.onnx"]).hexdigest()
    onnx.load(done.directory / "model.onnx")
    assert (done.directory / "model.onnx").stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize("name", ["page", "page.sluice", "page.onnx"])
def test_a_page_is_no_model(name: str, site: Site, wanted: Wanted, means: Means) -> None:
    site.files[f"/{name}"] = b"<html>Please log in</html>"
    with pytest.raises(ModelError):
        pull(f"{site.url}/{name}", wanted, means)
    nothing_is_there(wanted)


def test_a_disk_that_is_too_small_is_said_before(
    site: Site, package: bytes, wanted: Wanted, means: Means
) -> None:  # fmt: skip
    site.lie = 1 << 60
    with pytest.raises(ModelError, match="can be taken on the disk"):
        pull(f"{site.url}/small.sluice", wanted, means)


def test_a_disk_that_is_full_for_a_moment_leaves_no_hole(site: Site, tmp_path: Path) -> None:
    site.files["/x"] = random.Random(1).randbytes(3 << 20)
    most = 0

    def progress(step: str, done: int, total: int) -> None:
        nonlocal most
        most = most or done + 1001
        limit(None if done > most else most)

    with short_disk() as limit:
        with pytest.raises(ModelError, match="cannot be written: File too large"):
            download.download(f"{site.url}/x", tmp_path, rules=QUICK, progress=progress)
        limit(None)
        done = download.download(f"{site.url}/x", tmp_path, rules=QUICK)
    assert done is not None
    assert done.path.read_bytes() == site.files["/x"]


def test_two_pulls_of_one_address_share_a_download(site: Site, package: bytes, wanted: Wanted, means: Means) -> None:
    errors: list[BaseException] = []

    def one(name: str) -> None:
        try:
            pull(f"{site.url}/small.sluice", replace(wanted, name=name), means)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=one, args=(name,)) for name in "abc"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert sum("If-None-Match" not in headers for _, headers in site.requests) == 1
    assert sorted(os.listdir(wanted.models)) == ["a", "b", "c"]
