"""Versions come from object stores that run here, over connections that break and stall; none is ever half there."""

from __future__ import annotations

import hashlib
import os
import random
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import signers
from graphs import identity
from objectstores import BUCKET, SERVERS, ObjectStore, Proxy, missing
from shortdisk import short_disk

from sluice.errors import ModelError
from sluice.store import manifest, signing
from sluice.store.blobs import Cache
from sluice.store.download import Rules
from sluice.store.packing import pack
from sluice.store.placing import Placed
from sluice.store.sources import Means, Wanted, pull

QUICK = Rules(timeout=5, attempts=3, pause=0.001, part=50_000)
SECRETS = ("AKIDFORTESTS", "a-secret-of-tests", "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq")

# Azure's library leaves connections to be collected whose answers broke off.
BREAKS = pytest.mark.filterwarnings("ignore:Unclosed connection:ResourceWarning")


@pytest.fixture(scope="module", params=[scheme for scheme in SERVERS if not missing(scheme)])
def server(request: pytest.FixtureRequest) -> Iterator[tuple[str, str]]:
    """A scheme, and where its server is."""
    with SERVERS[request.param].server() as url:
        yield request.param, url


@pytest.fixture
def store(server: tuple[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[ObjectStore]:
    scheme, url = server
    for name in [*os.environ]:
        if name.lower().endswith("_proxy") or name.startswith(("AWS_", "AZURE_", "GOOGLE_", "STORAGE_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    with Proxy(url) as proxy:
        store = SERVERS[scheme].store(url, proxy)
        for name, value in store.environment().items():
            monkeypatch.setenv(name, value)
        yield store


@pytest.fixture
def means(tmp_path: Path) -> Means:
    return Means(Cache(tmp_path / "cache", 1 << 30), rules=QUICK)


@pytest.fixture
def wanted(tmp_path: Path) -> Wanted:
    return Wanted(tmp_path / "models")


@pytest.fixture
def version(tmp_path: Path) -> Path:
    """A sealed version with weights that nothing compresses, and a directory in it."""
    directory = identity(tmp_path / "origin", "small").parent
    (directory / "weights.bin").write_bytes(random.Random(1).randbytes(300_000))
    (directory / "texts").mkdir()
    (directory / "texts" / "labels ü+%20.txt").write_text("one\ntwo\n")
    (directory / "README.md").write_text("# small\n")
    manifest.seal(directory)
    return directory


@pytest.fixture
def package(version: Path, store: ObjectStore) -> bytes:
    content = pack(version, version.parent / "small.sluice").path.read_bytes()
    store.put("packages/small.sluice", content)
    return content


@pytest.fixture
def directory(version: Path, store: ObjectStore) -> str:
    """The version's directory as one of the store."""
    upload(version, store)
    return f"{store.scheme}://{BUCKET}/small/1"


def upload(version: Path, store: ObjectStore) -> None:
    for path in sorted(version.rglob("*")):
        if path.is_file():
            store.put(f"small/1/{path.relative_to(version).as_posix()}", path.read_bytes())


def check(done: Placed, wanted: Wanted, place: str = "small/1") -> None:
    assert done.directory == wanted.models / place
    manifest.verify(done.directory, done.manifest)
    assert manifest.read(done.directory) == done.manifest
    assert os.listdir(done.directory.parent) == [done.directory.name]


def nothing_is_there(wanted: Wanted) -> None:
    assert not wanted.models.exists()


def nothing_secret(means: Means, wanted: Wanted) -> None:
    for root in (means.cache.directory, wanted.models):
        for path in root.rglob("*"):
            if path.is_file():
                content = path.read_bytes()
                assert not any(secret.encode() in content for secret in SECRETS)


@pytest.mark.parametrize("scheme", SERVERS)
def test_there_is_a_server_to_test_with(scheme: str) -> None:
    if why := missing(scheme):
        pytest.skip(why)


# Single objects.


def test_a_package_is_downloaded_once(
    store: ObjectStore, package: bytes, version: Path, wanted: Wanted, means: Means
) -> None:  # fmt: skip
    steps: list[tuple[str, int, int]] = []
    source = f"{store.scheme}://{BUCKET}/packages/small.sluice"
    done = pull(source, wanted, replace(means, progress=lambda *step: steps.append(step)))
    check(done, wanted)
    assert done.manifest == manifest.read(version)
    assert ("download", len(package), len(package)) in steps
    read = len(store.proxy.stretches)
    assert read == -(-len(package) // QUICK.part)
    check(pull(source, replace(wanted, name="again"), means), wanted, "again/1")
    assert len(store.proxy.stretches) == read
    assert [blob.sources for blob in means.cache.blobs()] == [(source,)]
    assert means.cache.partials() == []
    nothing_secret(means, wanted)


def test_a_changed_object_is_downloaded_anew(
    store: ObjectStore, package: bytes, version: Path, wanted: Wanted, means: Means
) -> None:  # fmt: skip
    source = f"{store.scheme}://{BUCKET}/packages/small.sluice"
    pull(source, wanted, means)
    (version / "weights.bin").write_bytes(b"new")
    content = manifest.seal(version)
    store.put("packages/small.sluice", pack(version, version.parent / "new.sluice").path.read_bytes())
    assert pull(source, wanted, means).manifest == content


def test_a_bare_model_is_sealed(store: ObjectStore, version: Path, wanted: Wanted, means: Means) -> None:
    store.put("minilm.onnx", (version / "model.onnx").read_bytes())
    done = pull(f"{store.scheme}://{BUCKET}/minilm.onnx", wanted, means)
    check(done, wanted, "minilm/1")
    assert done.manifest.source == f"{store.scheme}://{BUCKET}/minilm.onnx"


def test_an_object_may_be_empty_and_is_no_model_then(store: ObjectStore, wanted: Wanted, means: Means) -> None:
    if store.scheme == "gs":
        pytest.skip("the emulator takes no empty objects")
    store.put("small.sluice", b"")
    with pytest.raises(ModelError, match=r"/small\.sluice: is neither a package nor an ONNX file"):
        pull(f"{store.scheme}://{BUCKET}/small.sluice", wanted, means)
    nothing_is_there(wanted)


def test_with_its_sha256_nobody_is_asked_again(
    store: ObjectStore, package: bytes, wanted: Wanted, means: Means
) -> None:  # fmt: skip
    source = f"{store.scheme}://{BUCKET}/packages/small.sluice#sha256={hashlib.sha256(package).hexdigest()}"
    pull(source, wanted, means)
    asked = len(store.proxy.requests)
    check(pull(source, replace(wanted, name="again"), means), wanted, "again/1")
    assert len(store.proxy.requests) == asked


def test_a_wrong_sha256_is_refused_and_not_kept(
    store: ObjectStore, package: bytes, wanted: Wanted, means: Means
) -> None:  # fmt: skip
    with pytest.raises(ModelError, match=f"sha256 is {hashlib.sha256(package).hexdigest()}, not {'0' * 64}"):
        pull(f"{store.scheme}://{BUCKET}/packages/small.sluice#sha256={'0' * 64}", wanted, means)
    nothing_is_there(wanted)
    assert means.cache.size() == 0


@BREAKS
@pytest.mark.parametrize("kind", ["cuts", "stalls"])
def test_a_broken_part_is_asked_for_again(
    kind: str, store: ObjectStore, package: bytes, wanted: Wanted, means: Means
) -> None:  # fmt: skip
    setattr(store.proxy, kind, [10_000, 0, 1])
    rules = replace(QUICK, timeout=1, attempts=6)
    check(pull(f"{store.scheme}://{BUCKET}/packages/small.sluice", wanted, replace(means, rules=rules)), wanted)
    asked = [where for _, where in store.proxy.stretches]
    assert len(asked) > len(set(asked))


@BREAKS
def test_the_next_pull_goes_on_where_the_last_one_gave_up(
    store: ObjectStore, package: bytes, wanted: Wanted, means: Means
) -> None:  # fmt: skip
    source = f"{store.scheme}://{BUCKET}/packages/small.sluice"
    alone = replace(means, rules=replace(QUICK, connections=1))

    def break_down(number: int) -> None:
        if number > 3:
            store.proxy.cuts = [0]

    store.proxy.before = break_down
    with pytest.raises(ModelError, match=r"/small\.sluice: .*; gave up after 3 attempts"):
        pull(source, wanted, alone)
    nothing_is_there(wanted)
    store.proxy.before = lambda number: None
    store.proxy.cuts = []
    asked = len(store.proxy.stretches)
    check(pull(source, wanted, alone), wanted)
    assert len(store.proxy.stretches) - asked == -(-len(package) // QUICK.part) - 3


def test_who_interrupts_a_download_need_not_wait_for_silent_connections(
    store: ObjectStore, package: bytes, wanted: Wanted, means: Means
) -> None:
    def interrupt(step: str, done: int, total: int) -> None:
        if done:
            raise KeyboardInterrupt

    store.proxy.stalls = [0, 0, 0]
    rules = replace(QUICK, timeout=600)
    with pytest.raises(KeyboardInterrupt):  # and not only after ten minutes
        pull(
            f"{store.scheme}://{BUCKET}/packages/small.sluice",
            wanted,
            replace(means, rules=rules, progress=interrupt),
        )
    store.proxy.stalls = []
    check(pull(f"{store.scheme}://{BUCKET}/packages/small.sluice", wanted, means), wanted)


def test_parts_of_two_states_are_never_joined(
    store: ObjectStore, package: bytes, version: Path, wanted: Wanted, means: Means
) -> None:  # fmt: skip
    (version / "weights.bin").write_bytes(random.Random(2).randbytes(300_000))
    content = manifest.seal(version)
    new = pack(version, version.parent / "new.sluice").path.read_bytes()

    def replace_it(number: int) -> None:
        if number == 3:
            store.put("packages/small.sluice", new)

    store.proxy.before = replace_it
    done = pull(f"{store.scheme}://{BUCKET}/packages/small.sluice", wanted, means)
    check(done, wanted)
    assert done.manifest == content


def test_an_object_that_always_changes_is_given_up(
    store: ObjectStore, package: bytes, wanted: Wanted, means: Means
) -> None:  # fmt: skip
    def change(number: int) -> None:
        store.put("packages/small.sluice", package + bytes(number))

    store.proxy.before = change
    with pytest.raises(ModelError, match="it changes while it is downloaded; try again later"):
        pull(f"{store.scheme}://{BUCKET}/packages/small.sluice", wanted, means)
    nothing_is_there(wanted)


def test_a_busy_store_is_asked_again(store: ObjectStore, package: bytes, wanted: Wanted, means: Means) -> None:
    store.proxy.statuses = [503, 500]
    rules = replace(QUICK, attempts=6)
    check(pull(f"{store.scheme}://{BUCKET}/packages/small.sluice", wanted, replace(means, rules=rules)), wanted)


def test_denied_access_is_final_and_says_where_credentials_come_from(
    store: ObjectStore, package: bytes, wanted: Wanted, means: Means
) -> None:  # fmt: skip
    store.proxy.statuses = [403] * 3
    with pytest.raises(ModelError, match=r"/small\.sluice: access is denied.*; they come from ") as caught:
        pull(f"{store.scheme}://{BUCKET}/packages/small.sluice", wanted, means)
    assert not any(secret in caught.value.message for secret in SECRETS)
    nothing_is_there(wanted)


def test_a_disk_that_is_too_small_is_said_before(
    store: ObjectStore, package: bytes, wanted: Wanted, means: Means
) -> None:  # fmt: skip
    if store.scheme == "gs":
        pytest.skip("says sizes in a text, not in a header")
    store.proxy.lie = 1 << 60
    with pytest.raises(ModelError, match="can be taken on the disk"):
        pull(f"{store.scheme}://{BUCKET}/packages/small.sluice", wanted, means)
    assert store.proxy.stretches == []


def test_offline_takes_what_the_cache_has(
    store: ObjectStore, package: bytes, directory: str, wanted: Wanted, means: Means
) -> None:  # fmt: skip
    offline = replace(means, offline=True)
    for source in (f"{store.scheme}://{BUCKET}/packages/small.sluice", directory):
        with pytest.raises(ModelError, match="is not in the cache, and nothing shall be downloaded"):
            pull(source, wanted, offline)
        assert store.proxy.requests == []
    pull(f"{store.scheme}://{BUCKET}/packages/small.sluice", wanted, means)
    pull(directory, replace(wanted, name="tree"), means)
    asked = len(store.proxy.requests)
    check(pull(f"{store.scheme}://{BUCKET}/packages/small.sluice", replace(wanted, name="a"), offline), wanted, "a/1")
    check(pull(directory, replace(wanted, name="b"), offline), wanted, "b/1")
    check(pull(f"{directory}/", replace(wanted, name="c"), offline), wanted, "c/1")
    assert len(store.proxy.requests) == asked


# Directories.


def test_a_sealed_directory_comes_as_it_is(
    store: ObjectStore, directory: str, version: Path, wanted: Wanted, means: Means
) -> None:  # fmt: skip
    steps: list[tuple[str, int, int]] = []
    done = pull(directory, wanted, replace(means, progress=lambda *step: steps.append(step)))
    check(done, wanted)
    assert done.manifest == manifest.read(version)
    assert (done.directory / "README.md").read_text() == "# small\n"
    downloads = [step for step in steps if step[0] == "download"]
    assert downloads[-1][1] == downloads[-1][2]
    read = len(store.proxy.stretches)
    assert pull(f"{directory}/", wanted, means) == replace(done, is_new=False)
    assert len(store.proxy.stretches) == read  # not even the manifest, which did not change
    assert means.cache.partials() == []
    nothing_secret(means, wanted)


def test_a_signature_that_was_made_later_is_brought_alone(
    store: ObjectStore, directory: str, version: Path, wanted: Wanted, means: Means, tmp_path: Path
) -> None:  # fmt: skip
    done = pull(directory, wanted, means)
    ann = signers.signer(tmp_path / "keys", "ann")
    text = signing.sign(version, signing.Identity(ann.key.read_bytes())).text
    upload(version, store)
    asked = len(store.proxy.stretches)
    assert "the signature that came with it" in pull(directory, wanted, means).note
    assert (done.directory / "model.sig").read_bytes() == text
    assert {name for name, _ in store.proxy.stretches[asked:]} <= {"manifest.toml", "model.sig"}


def test_an_unsealed_directory_is_sealed_and_found_again(
    store: ObjectStore, directory: str, wanted: Wanted, means: Means
) -> None:  # fmt: skip
    store.remove("small/1/manifest.toml")
    done = pull(directory, wanted, means)
    check(done, wanted)
    assert done.manifest.source == f"{directory}/"
    assert not pull(directory, wanted, means).is_new


def test_what_the_cache_has_is_not_downloaded_again(
    store: ObjectStore, directory: str, version: Path, wanted: Wanted, means: Means
) -> None:  # fmt: skip
    pull(directory, wanted, means)
    asked = len(store.proxy.stretches)
    (version / "texts" / "more.txt").write_text("three\n")
    manifest.seal(version)
    upload(version, store)
    assert pull(directory, wanted, means).directory == wanted.models / "small/2"
    brought = {name for name, _ in store.proxy.stretches[asked:]}
    # The card is not sealed: it is brought again if the store gave it another time, of which it counts the seconds.
    assert brought - {"README.md"} == {"manifest.toml", "more.txt"}


@pytest.mark.parametrize("kind", ["missing", "more", "longer"])
def test_a_directory_that_cannot_be_what_its_manifest_says_is_not_downloaded(
    kind: str, store: ObjectStore, directory: str, wanted: Wanted, means: Means
) -> None:  # fmt: skip
    if kind == "missing":
        store.remove("small/1/weights.bin")
    store.put("small/1/other.bin" if kind == "more" else "small/1/model.onnx", b"x" * 10) if kind != "missing" else None
    why = {"missing": "weights.bin is missing", "more": "other.bin is not in the manifest", "longer": "is changed"}[
        kind
    ]
    with pytest.raises(ModelError, match=f"/small/1/ is not what its manifest says: .*{why}"):
        pull(directory, wanted, means)
    assert {name for name, _ in store.proxy.stretches} == {"manifest.toml"}
    nothing_is_there(wanted)


def test_a_tampered_file_is_found(store: ObjectStore, directory: str, wanted: Wanted, means: Means) -> None:
    store.put("small/1/weights.bin", random.Random(3).randbytes(300_000))
    with pytest.raises(ModelError, match=r"/small/1/weights\.bin: the file's sha256 is "):
        pull(directory, wanted, means)
    nothing_is_there(wanted)


def test_a_directory_that_changes_while_it_is_downloaded_is_refused(
    store: ObjectStore, directory: str, wanted: Wanted, means: Means
) -> None:  # fmt: skip
    store.remove("small/1/manifest.toml")

    def add(number: int) -> None:
        store.put("small/1/more.txt", b"more")

    store.proxy.before = add
    with pytest.raises(ModelError, match="/small/1/: it changes while it is downloaded"):
        pull(directory, wanted, means)
    nothing_is_there(wanted)


@BREAKS
def test_a_broken_directory_goes_on_where_it_was(
    store: ObjectStore, directory: str, wanted: Wanted, means: Means
) -> None:  # fmt: skip
    def break_down(number: int) -> None:
        if number > 4:
            store.proxy.cuts = [0]

    store.proxy.before = break_down
    with pytest.raises(ModelError, match="gave up after 3 attempts"):
        pull(directory, wanted, means)
    nothing_is_there(wanted)
    brought = sum(1 for _ in store.proxy.stretches)
    store.proxy.before, store.proxy.cuts = lambda number: None, []
    check(pull(directory, wanted, means), wanted)
    assert brought > 4


def test_a_disk_that_is_full_for_a_moment_leaves_no_hole(
    store: ObjectStore, package: bytes, wanted: Wanted, means: Means
) -> None:  # fmt: skip
    source = f"{store.scheme}://{BUCKET}/packages/small.sluice"
    with short_disk() as limit:
        filling = replace(means, progress=lambda *_: limit(len(package) - 10))  # once the file is there, but empty
        with pytest.raises(ModelError, match="cannot be written to the cache: File too large"):
            pull(source, wanted, filling)
    nothing_is_there(wanted)
    check(pull(source, wanted, means), wanted)


@pytest.mark.parametrize("kind", ["parts of an object", "objects of a directory"])
def test_several_are_read_at_a_time(
    kind: str, store: ObjectStore, package: bytes, directory: str, wanted: Wanted, means: Means
) -> None:  # fmt: skip
    both = threading.Barrier(2, timeout=30)
    first = 1 if kind == "parts of an object" else 2  # after the manifest

    def meet(number: int) -> None:
        if number in (first, first + 1):
            both.wait()

    store.proxy.before = meet
    source = f"{store.scheme}://{BUCKET}/packages/small.sluice" if first == 1 else directory
    check(pull(source, wanted, means), wanted)


def test_two_pulls_of_one_directory_share_a_download(
    store: ObjectStore, directory: str, wanted: Wanted, means: Means
) -> None:  # fmt: skip
    with ThreadPoolExecutor(3) as pool:
        tasks = [pool.submit(pull, directory, replace(wanted, name=name), means) for name in "abc"]
        assert all(task.result().is_new for task in tasks)
    asked = store.proxy.stretches
    assert len(asked) == len(set(asked))
    assert sorted(os.listdir(wanted.models)) == ["a", "b", "c"]


def test_a_pull_that_is_killed_leaves_no_version_and_is_continued(
    store: ObjectStore, directory: str, wanted: Wanted, means: Means
) -> None:  # fmt: skip
    reached = threading.Event()

    def hold(number: int) -> None:
        if number == 5:
            store.proxy.stalls = [0] * 10
            reached.set()

    store.proxy.before = hold
    command = [sys.executable, "-m", "sluice.cli.main", "pull", directory, "--repository", str(wanted.models)]
    environment = os.environ | {"SLUICE_CACHE": str(means.cache.directory)}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert reached.wait(60)
        process.kill()
    nothing_is_there(wanted)
    store.proxy.before, store.proxy.stalls = lambda number: None, []
    asked = len(store.proxy.stretches)
    check(pull(directory, wanted, means), wanted)
    assert len(store.proxy.stretches) > asked
    assert "manifest.toml" not in {name for name, _ in store.proxy.stretches[asked:]}


def test_marks_of_directories_are_no_files(store: ObjectStore, directory: str, wanted: Wanted, means: Means) -> None:
    if store.scheme != "s3":
        pytest.skip("the emulators have none such")
    store.put("small/1/", b"")
    store.put("small/1/texts/", b"")
    check(pull(directory, wanted, means), wanted)


def test_a_name_that_no_version_can_have_is_refused(store: ObjectStore, wanted: Wanted, means: Means) -> None:
    if store.scheme == "az":
        pytest.skip("takes a backslash for a slash")
    store.put("bad/1/model.onnx", b"x")
    store.put("bad/1/with\\slash", b"x")
    with pytest.raises(ModelError, match="without control characters and backslashes"):
        pull(f"{store.scheme}://{BUCKET}/bad/1", wanted, means)
    nothing_is_there(wanted)


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("nowhere/1", "/nowhere/1: there is no such object, and none below it"),
        ("nowhere/1/", "/nowhere/1/: there is nothing|there is no such object"),
        ("small", "there is no model.onnx or model.py"),
        ("hf/1", "`sluice import DIRECTORY --name NAME` converts"),
    ],
)
def test_what_is_no_version_is_said(
    name: str, why: str, store: ObjectStore, directory: str, wanted: Wanted, means: Means
) -> None:  # fmt: skip
    store.put("hf/1/config.json", b"{}")
    with pytest.raises(ModelError, match=why):
        pull(f"{store.scheme}://{BUCKET}/{name}", wanted, means)
    nothing_is_there(wanted)


def test_a_directory_has_no_sha256(store: ObjectStore, directory: str, wanted: Wanted, means: Means) -> None:
    with pytest.raises(ModelError, match="/small/1: is a directory, not a file"):
        pull(f"{directory}#sha256={'0' * 64}", wanted, means)
    nothing_is_there(wanted)


@pytest.mark.parametrize("name", ["nowhere/small.sluice", "nowhere/1/"])
def test_a_bucket_that_is_not_there_is_said(name: str, store: ObjectStore, wanted: Wanted, means: Means) -> None:
    with pytest.raises(ModelError, match=rf"{store.scheme}://no-such-bucket.*: there is no"):
        pull(f"{store.scheme}://no-such-bucket/{name}", wanted, means)
    nothing_is_there(wanted)


def test_nobody_there(store: ObjectStore, wanted: Wanted, means: Means, monkeypatch: pytest.MonkeyPatch) -> None:
    with Proxy(store.proxy.url) as gone:
        store.proxy = gone
    for name, value in store.environment().items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ModelError, match=r"small\.sluice: .*; gave up after 3 attempts"):
        pull(f"{store.scheme}://{BUCKET}/packages/small.sluice", wanted, means)


# Addresses.


@pytest.mark.parametrize(
    ("source", "why"),
    [
        ("s3://", "is no address, as s3://BUCKET/NAME"),
        ("S3://", "is no address, as s3://BUCKET/NAME"),
        ("s3:///x", "is no address"),
        ("gs://bucket/a?generation=1", "is no address, as gs://BUCKET/NAME"),
        ("az://account/\x00", "is no address, as az://CONTAINER/NAME"),
        ("s3://bucket//x", "is no address"),
        ("s3://key:secret@bucket/x", "names and passwords do not belong into addresses"),
        ("s3://bucket/x#sha1=12", "after # stands"),
        (f"s3://bucket/x/#sha256={'0' * 64}", "is what a file should be"),
    ],
)
def test_what_is_no_address_is_said(source: str, why: str, wanted: Wanted, means: Means) -> None:
    with pytest.raises(ModelError, match=why) as caught:
        pull(source, wanted, means)
    assert "secret" not in caught.value.message
    nothing_is_there(wanted)


@pytest.mark.parametrize(("scheme", "package"), [("s3", "s3fs"), ("gs", "gcsfs"), ("az", "adlfs")])
def test_a_missing_package_is_named(
    scheme: str, package: str, wanted: Wanted, means: Means, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    for name in (package, f"{package}.core"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ModelError, match=rf"'{package}', which is not installed; pip install 'sluice\[{scheme}\]'"):
        pull(f"{scheme}://bucket/small.sluice", wanted, means)


def test_azure_needs_an_account(wanted: Wanted, means: Means, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("adlfs")
    for name in [name for name in os.environ if name.startswith("AZURE_")]:
        monkeypatch.delenv(name)
    with pytest.raises(ModelError, match="set AZURE_STORAGE_ACCOUNT_NAME or AZURE_STORAGE_CONNECTION_STRING"):
        pull("az://models/small.sluice", wanted, means)
