"""Versions come from a container registry: whole, compared with their digests, and never what is no version."""

import base64
import hashlib
import json
import os
import random
import stat
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from graphs import identity
from website import Site

from sluice.errors import ModelError
from sluice.store import manifest
from sluice.store.blobs import Cache
from sluice.store.download import Rules
from sluice.store.packing import pack
from sluice.store.placing import Placed
from sluice.store.registrylogin import Login, login
from sluice.store.sources import Means, Wanted, pull

QUICK = Rules(timeout=5, attempts=3, pause=0.001)
TITLE = "org.opencontainers.image.title"
IMAGE = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
SECRET = base64.b64encode(b"anna:s3cret").decode()


@pytest.fixture(autouse=True)
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in [*os.environ]:
        if name.lower().endswith("_proxy") or name in ("REGISTRY_AUTH_FILE", "XDG_RUNTIME_DIR", "XDG_CONFIG_HOME"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))
    return tmp_path


@pytest.fixture
def site() -> Iterator[Site]:
    with Site() as site:
        site.files["/v2/"] = b"{}"
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
    (directory / "weights").mkdir()
    (directory / "weights" / "a.bin").write_bytes(random.Random(1).randbytes(300_000))
    manifest.seal(directory)
    return directory


def digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def layer(site: Site, content: bytes, title: str = "", **other: Any) -> dict[str, Any]:
    site.files[f"/v2/models/small/blobs/{digest(content)}"] = content
    annotations = {TITLE: title} if title else {}
    told = {"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": digest(content), "size": len(content)}
    return told | {"annotations": annotations | other.pop("annotations", {})} | other


def push(site: Site, tag: str, layers: Any, **other: Any) -> str:
    """The digest of the artifact that has these layers."""
    told = {"schemaVersion": 2, "mediaType": IMAGE, "layers": layers, **other}
    return put(site, tag, json.dumps(told).encode())


def put(site: Site, tag: str, content: bytes) -> str:
    site.files[f"/v2/models/small/manifests/{tag}"] = content
    site.files[f"/v2/models/small/manifests/{digest(content)}"] = content
    return digest(content)


def files_of(site: Site, directory: Path) -> list[dict[str, Any]]:
    paths = sorted(path for path in directory.rglob("*") if path.is_file())
    return [layer(site, path.read_bytes(), path.relative_to(directory).as_posix()) for path in paths]


def address(site: Site, reference: str = ":1.0") -> str:
    return f"oci://{site.url.removeprefix('http://')}/models/small{reference}"


def asked(site: Site) -> list[str]:
    return [path.rpartition("/")[0].rpartition("/")[2] for path, _ in site.requests]


def nothing_is_there(wanted: Wanted) -> None:
    assert not wanted.models.exists() or not [*wanted.models.iterdir()]


def check(done: Placed, wanted: Wanted, place: str = "small/1") -> None:
    assert done.directory == wanted.models / place
    manifest.verify(done.directory, done.manifest)
    assert manifest.read(done.directory) == done.manifest
    assert os.listdir(done.directory.parent) == [done.directory.name]


def test_a_sealed_version_comes_as_it_is(version: Path, site: Site, wanted: Wanted, means: Means) -> None:
    push(site, "1.0", files_of(site, version))
    done = pull(address(site), wanted, means)
    check(done, wanted)
    assert done.manifest == manifest.read(version)
    assert pull(address(site), wanted, means) == replace(done, is_new=False)
    assert asked(site).count("blobs") == 3  # which the cache had at the second time
    check(pull(address(site), replace(wanted, name="other", number="7"), means), wanted, "other/7")


def test_a_sealed_version_must_be_what_it_says(version: Path, site: Site, wanted: Wanted, means: Means) -> None:
    for name, content in (("weights/a.bin", b"changed"), ("more.txt", b"more")):
        (version / name).write_bytes(content)
        push(site, "1.0", files_of(site, version))
        with pytest.raises(ModelError, match=f"^oci://.*/models/small.* is not what its manifest says: .*{name} is"):
            pull(address(site), wanted, means)
    nothing_is_there(wanted)


def test_a_package_is_unpacked(version: Path, site: Site, wanted: Wanted, means: Means) -> None:
    package = pack(version, version.parent / "small.sluice").path.read_bytes()
    push(site, "latest", [layer(site, package, "small-1.0.0.sluice")])
    check(pull(address(site, ""), wanted, means), wanted)
    push(site, "bad", [layer(site, package[:-9], "small-1.0.0.sluice")])
    with pytest.raises(ModelError, match="oci://") as caught:
        pull(address(site, ":bad"), replace(wanted, name="bad"), means)
    assert str(means.cache.directory) not in caught.value.message


@pytest.mark.parametrize(
    ("title", "kind", "is_package"),
    [
        ("small.sluice", "application/octet-stream", True),
        ("small.ZIP", "application/octet-stream", True),
        ("small-1.0.0", "application/zip", True),
        ("small-1.0.0", "application/vnd.sluice.package", True),
        ("", "application/octet-stream", True),
        ("model.pt", "application/vnd.oci.image.layer.v1.tar", False),
        ("model.pt", "application/gzip", False),
    ],
)
def test_a_package_is_called_one(
    title: str, kind: str, is_package: bool, version: Path, site: Site, wanted: Wanted, means: Means
) -> None:
    package = pack(version, version.parent / "small.sluice").path.read_bytes()
    push(site, "1.0", [layer(site, package, title, mediaType=kind)])
    if is_package:
        check(pull(address(site), wanted, means), wanted)
    else:
        with pytest.raises(ModelError, match=r"there is no model\.onnx"):
            pull(address(site), wanted, means)
        nothing_is_there(wanted)


def test_files_without_a_manifest_are_sealed(version: Path, site: Site, wanted: Wanted, means: Means) -> None:
    (version / "manifest.toml").unlink()
    (version / "model.onnx").rename(version / "net.onnx")
    notes = {
        "org.opencontainers.image.licenses": "Apache-2.0",
        "org.opencontainers.image.description": "For *short* texts.",
    }
    exact = push(site, "1.0", files_of(site, version), annotations=notes)
    done = pull(address(site), wanted, means)
    check(done, wanted)
    assert (done.directory / "model.onnx").is_file()
    assert done.manifest.source == address(site, f":1.0@{exact}")
    assert done.manifest.licence == "Apache-2.0"
    assert "For *short* texts." in (done.directory / "README.md").read_text()
    seen = len(site.requests)
    assert not pull(done.manifest.source, wanted, means).is_new
    assert len(site.requests) == seen  # the cache has the manifest, and the repository the version


def test_one_graph_without_a_name_is_called_as_its_repository(
    version: Path, site: Site, wanted: Wanted, means: Means
) -> None:  # fmt: skip
    content = (version / "model.onnx").read_bytes()
    told = layer(site, content, mediaType="application/octet-stream")
    inner = push(site, "inner", [told])
    size = len(site.files[f"/v2/models/small/manifests/{inner}"])
    listed = {"mediaType": IMAGE, "digest": inner, "size": size}
    put(site, "1.0", json.dumps({"mediaType": INDEX, "manifests": [listed]}).encode())
    done = pull(address(site), wanted, means)
    check(done, wanted)
    assert done.manifest.source == address(site, f":1.0@{inner}")


def test_a_tag_moves_and_a_digest_does_not(version: Path, site: Site, wanted: Wanted, means: Means) -> None:
    first = push(site, "1.0", files_of(site, version))
    check(pull(address(site), wanted, means), wanted)
    (version / "weights" / "a.bin").write_bytes(b"new")
    manifest.seal(version)
    push(site, "1.0", files_of(site, version))
    assert pull(address(site), wanted, means).directory == wanted.models / "small/2"
    assert pull(address(site, f"@{first}"), wanted, means).directory == wanted.models / "small/1"


def test_what_was_pulled_is_there_without_a_network(version: Path, site: Site, wanted: Wanted, means: Means) -> None:
    exact = push(site, "1.0", files_of(site, version))
    offline = replace(means, offline=True)
    with pytest.raises(ModelError, match="is not in the cache, and nothing shall be downloaded"):
        pull(address(site), wanted, offline)
    pull(address(site), wanted, means)
    seen = len(site.requests)
    for number, reference in (("2", ":1.0"), ("3", f"@{exact}")):
        check(pull(address(site, reference), replace(wanted, name=f"n{number}", number=number), offline), wanted,
              f"n{number}/{number}")  # fmt: skip
    assert len(site.requests) == seen
    for path in (means.cache.directory / "blobs").iterdir():
        if path.stat().st_size == 300_000:
            path.unlink()
    with pytest.raises(ModelError, match="is not in the cache"):
        pull(address(site), replace(wanted, name="x"), offline)


def test_a_download_goes_on_where_it_was_broken_off(version: Path, site: Site, wanted: Wanted, means: Means) -> None:
    package = pack(version, version.parent / "small.sluice").path.read_bytes()
    push(site, "1.0", [layer(site, package, "small.sluice")])
    site.cuts = [10, 1 << 20, 100_000, 150_000]  # of the answers to all requests
    check(pull(address(site), wanted, means), wanted)
    assert any(each.startswith("bytes=100000-") for each in site.ranges)


def wrong(version: Path, site: Site, what: str) -> str:
    """Push something that is no version."""
    content = (version / "model.onnx").read_bytes()
    good = layer(site, content, "model.onnx")
    other = layer(site, b"other", "other.txt")
    made: dict[str, Any] = {
        "no files": [],
        "a digest of another kind": [good | {"digest": "sha512:12"}],
        "a container's image": [layer(site, b"x", mediaType="application/vnd.oci.image.layer.v1.tar+gzip")],
        "a directory": [good, layer(site, b"x", "weights", annotations={"io.deis.oras.content.unpack": "true"})],
        "nameless": [good, layer(site, b"x", mediaType="application/octet-stream")],
        "twice": [good, layer(site, b"x", "model.onnx")],
        "outside": [good, layer(site, b"x", "../x")],
        "absolute": [good, layer(site, b"x", "/etc/x")],
        "in a file": [good, other, layer(site, b"x", "other.txt/x")],
        "another size": [good, other | {"size": 4}],
        "not there": [good, other | {"digest": digest(b"nowhere")}],
        "no model": [other, layer(site, b"x", "x.txt")],
        "a pickle": [layer(site, b"\x80\x04.", "weights.pkl")],
    }
    if what in made:
        return push(site, "1.0", made[what])
    inner = {"mediaType": IMAGE, "digest": digest(b"x"), "size": 1}
    lists: dict[str, bytes] = {
        "no JSON": b"<html>",
        "no table": b"[1]",
        "a stranger": json.dumps({"mediaType": "text/x", "layers": [good]}).encode(),
        "several": json.dumps({"mediaType": INDEX, "manifests": [inner, inner]}).encode(),
        "a bad list": json.dumps({"mediaType": INDEX, "manifests": [inner | {"digest": "x"}]}).encode(),
        "large": b" " * ((4 << 20) + 1),
    }
    nested = put(site, "inner", lists["several"])
    within = inner | {"digest": nested, "size": len(lists["several"])}
    lists["a list in a list"] = json.dumps({"mediaType": INDEX, "manifests": [within]}).encode()
    lists["another size within"] = json.dumps({"mediaType": INDEX, "manifests": [within | {"size": 3}]}).encode()
    lists["large within"] = json.dumps({"mediaType": INDEX, "manifests": [within | {"size": 5 << 20}]}).encode()
    return put(site, "1.0", lists[what])


@pytest.mark.parametrize(
    ("what", "why"),
    [
        ("no files", "has no files"),
        ("a digest of another kind", "'sha512:12', which is no sha256"),
        ("a container's image", "its layers are an archive, as in a container's image"),
        ("a directory", "'weights' is an archive"),
        ("nameless", "must each have a name"),
        ("twice", "must each have a name of their own"),
        ("outside", "must name a file inside"),
        ("absolute", "must name a file inside"),
        ("in a file", "'other.txt' is a file, and a directory"),
        ("another size", "a file has 5 bytes, not 4"),
        ("not there", "the server says 404"),
        ("no model", r"small:1\.0@sha256:\w+: there is no model.onnx"),
        ("a pickle", "there is no model.onnx"),
        ("no JSON", "its manifest is none of OCI"),
        ("no table", "its manifest is none of OCI"),
        ("a stranger", "of a kind that is not known here: 'text/x'"),
        ("several", "is 2 of which one must be chosen; say its digest"),
        ("a bad list", "by 'x', which is no sha256"),
        ("a list in a list", "is a list in a list"),
        ("another size within", "a file has [0-9]+ bytes, not 3"),
        ("large", "its manifest has more than"),
        ("large within", "its manifest has more than"),
    ],
)
def test_what_is_no_version_is_refused(
    what: str, why: str, version: Path, site: Site, wanted: Wanted, means: Means
) -> None:  # fmt: skip
    wrong(version, site, what)
    with pytest.raises(ModelError, match=why) as caught:
        pull(address(site), wanted, means)
    assert str(means.cache.directory) not in caught.value.message
    nothing_is_there(wanted)


def test_what_is_longer_than_it_was_said_is_not_downloaded(
    version: Path, site: Site, wanted: Wanted, means: Means
) -> None:  # fmt: skip
    reported = []
    means = replace(means, progress=lambda _, done, total: reported.append(done))
    long = layer(site, random.Random(2).randbytes(5 << 20), "weights/a.bin")
    for size in (3, 6 << 20):
        push(site, "1.0", [layer(site, (version / "model.onnx").read_bytes(), "model.onnx"), long | {"size": size}])
        with pytest.raises(ModelError, match=f"a file has {5 << 20} bytes, not {size} as its manifest says"):
            pull(address(site), wanted, means)
    put(site, "1.0", b" " * (5 << 20))
    with pytest.raises(ModelError, match="its manifest has more than"):
        pull(address(site), wanted, means)
    assert max(reported) < 1 << 20
    assert means.cache.size() < 1 << 20
    nothing_is_there(wanted)


def test_a_download_that_was_begun_is_of_the_size_that_is_said(
    version: Path, site: Site, wanted: Wanted, means: Means
) -> None:
    told = layer(site, pack(version, version.parent / "small.sluice").path.read_bytes(), "small.sluice")
    push(site, "1.0", [told])
    site.cuts = [1 << 20, 1 << 20, 100_000, 0, 0, 0]  # of the answers to all requests
    with pytest.raises(ModelError, match="gave up"):
        pull(address(site), wanted, means)
    assert means.cache.size() > 100_000
    push(site, "2.0", [told | {"size": 3}])
    with pytest.raises(ModelError, match="bytes, not 3 as its manifest says"):
        pull(address(site, ":2.0"), wanted, means)
    assert means.cache.size() < 100_000
    check(pull(address(site), wanted, means), wanted)


@pytest.mark.parametrize("title", ["../../x", "/etc/x", "weights/../x"])
def test_names_are_looked_at_before_anything_is_downloaded(
    title: str, version: Path, site: Site, wanted: Wanted, means: Means
) -> None:
    layers = [layer(site, (version / "model.onnx").read_bytes(), "model.onnx"), layer(site, b"x", title)]
    push(site, "1.0", layers)
    with pytest.raises(ModelError, match="must name a file inside"):
        pull(address(site), wanted, means)
    assert "blobs" not in asked(site)


def test_what_the_registry_changes_is_noticed(version: Path, site: Site, wanted: Wanted, means: Means) -> None:
    told = files_of(site, version)
    exact = push(site, "1.0", told)
    place = f"/v2/models/small/blobs/{told[-1]['digest']}"
    content = site.files[place]
    site.files[place] = content[:-1] + b"x"
    with pytest.raises(ModelError, match=rf"a file's sha256 is \w+, not {told[-1]['digest'][7:]}; it is not kept"):
        pull(address(site), wanted, means)
    nothing_is_there(wanted)
    site.files[place] = content
    check(pull(address(site), wanted, means), wanted)
    fresh = replace(means, cache=Cache(means.cache.directory.with_name("fresh"), 1 << 30))
    site.files[f"/v2/models/small/manifests/{exact}"] = b"{}"
    with pytest.raises(ModelError, match="the registry gives a manifest whose sha256 is"):
        pull(address(site, f"@{exact}"), replace(wanted, name="x"), fresh)


@pytest.mark.parametrize(
    "source",
    ["oci://host", "oci://host/UPPER", "oci://host/a:b:c", "oci://host/a@sha256:12", "oci://host/../a", "oci://a b/c"],
)
def test_an_address_is_one_of_a_registry(source: str, wanted: Wanted, means: Means) -> None:
    with pytest.raises(ModelError, match="is no address in a registry"):
        pull(source, wanted, means)


def test_a_password_in_an_address_is_not_repeated(wanted: Wanted, means: Means) -> None:
    with pytest.raises(ModelError) as caught:
        pull("oci://anna:s3cret@host/a:1", wanted, means)
    assert "s3cret" not in caught.value.message


def test_a_registry_that_is_not_there(site: Site, wanted: Wanted, means: Means) -> None:
    with pytest.raises(ModelError, match="the server says 404"):
        pull(address(site), wanted, means)
    site.statuses = [(503, {})] * 3
    with pytest.raises(ModelError, match="the server says 503; gave up after 3 attempts"):
        pull(address(site), wanted, means)
    with pytest.raises(ModelError, match="Connection refused; gave up after 3 attempts"):
        pull("oci://127.0.0.1:1/a", wanted, means)


# Who asks.


def write_config(environment: Path, told: Any) -> None:
    place = environment / "docker" / "config.json"
    place.parent.mkdir(exist_ok=True)
    place.write_text(told if isinstance(told, str) else json.dumps(told))


def test_a_name_and_password_are_told_to_their_registry_only(
    version: Path, site: Site, wanted: Wanted, means: Means, environment: Path
) -> None:
    package = pack(version, version.parent / "small.sluice").path.read_bytes()
    push(site, "1.0", [layer(site, package, "small.sluice")])
    site.password = SECRET
    with pytest.raises(ModelError, match="asks for a name and password; log in with `docker login`"):
        pull(address(site), wanted, means)
    write_config(environment, {"auths": {"other.example.com": {"auth": SECRET}}})
    with pytest.raises(ModelError, match="asks for a name and password"):
        pull(address(site), wanted, means)
    host = site.url.removeprefix("http://")
    write_config(environment, {"auths": {host: {"auth": base64.b64encode(b"anna:wrong").decode()}}})
    with pytest.raises(ModelError, match="the server says 401 Unauthorized; log in with `docker login`") as caught:
        pull(address(site), wanted, means)
    assert "wrong" not in caught.value.message
    write_config(environment, {"auths": {host: {"auth": SECRET}}})
    with Site() as storage:  # where registries have their blobs
        place = f"/v2/models/small/blobs/{digest(package)}"
        storage.files["/there"] = site.files.pop(place)
        site.moved[place] = f"{storage.url}/there"
        check(pull(address(site), wanted, means), wanted)
        assert [headers.get("Authorization") for _, headers in storage.requests] == [None]


class Tokens:
    """Gives tokens to who knows the password, as registries' servers do, and then lets a site answer."""

    def __init__(self, site: Site, life: float) -> None:
        self.asked: list[tuple[str, str, str]] = []  # method, query or form, authorization
        self.given = 0
        tokens = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, format: str, *args: Any) -> None:
                return None

            def do_GET(self) -> None:
                if self.path.startswith("/token"):
                    self._token(self.path.partition("?")[2])
                elif self.headers.get("Authorization") != f"Bearer token{tokens.given}":
                    challenge = f'Bearer realm="http://{self.headers["Host"]}/token",service="models",scope="x"'
                    self._answer(401, b"", {"WWW-Authenticate": challenge})
                elif (content := site.files.get(self.path)) is None:
                    self._answer(404, b"", {})
                else:
                    self._answer(200, content, {})

            def do_POST(self) -> None:
                self._token(self.rfile.read(int(self.headers["Content-Length"])).decode())

            def _token(self, told: str) -> None:
                who = self.headers.get("Authorization", "")
                tokens.asked.append((self.command, told, who))
                if self.command == "GET" and who not in ("", f"Basic {SECRET}"):
                    self._answer(401, b"", {})
                    return
                tokens.given += 1
                answer = {"token": f"token{tokens.given}", "expires_in": life}
                self._answer(200, json.dumps(answer).encode(), {})

            def _answer(self, code: int, body: bytes, headers: dict[str, str]) -> None:
                self.send_response(code)
                for name, value in (headers | {"Content-Length": str(len(body))}).items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.host = f"127.0.0.1:{self.server.server_port}"
        self._thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01})

    def __enter__(self) -> "Tokens":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self._thread.join()
        self.server.server_close()


def test_tokens_are_got_where_the_registry_says(
    version: Path, site: Site, wanted: Wanted, means: Means, environment: Path
) -> None:
    push(site, "1.0", files_of(site, version))
    with Tokens(site, life=300) as tokens:
        source = f"oci://{tokens.host}/models/small:1.0"
        check(pull(source, wanted, means), wanted)
        assert tokens.asked == [("GET", "scope=repository%3Amodels%2Fsmall%3Apull&service=models", "")]
        write_config(environment, {"auths": {tokens.host: {"auth": SECRET}}})
        pull(source, wanted, means)
        assert tokens.asked[-1][2] == f"Basic {SECRET}"
        write_config(environment, {"auths": {tokens.host: {"username": "anna", "password": "wrong"}}})
        with pytest.raises(ModelError, match="does not know this name and password"):
            pull(source, wanted, means)
        write_config(environment, {"auths": {tokens.host: {"auth": "", "identitytoken": "long"}}})
        pull(source, wanted, means)
        method, told, who = tokens.asked[-1]
        assert (method, who) == ("POST", "")
        assert "grant_type=refresh_token" in told
        assert "refresh_token=long" in told


def test_a_token_that_ends_is_renewed(version: Path, site: Site, wanted: Wanted, means: Means) -> None:
    push(site, "1.0", files_of(site, version))
    with Tokens(site, life=0) as tokens:  # which is read as a minute
        check(pull(f"oci://{tokens.host}/models/small:1.0", wanted, means), wanted)
        assert tokens.given == 1
    with Tokens(site, life=1e-6) as tokens:
        means = replace(means, cache=Cache(means.cache.directory.with_name("fresh"), 1 << 30))
        source = f"oci://{tokens.host}/models/small:1.0"
        check(pull(source, replace(wanted, name="x"), means), wanted, "x/1")
        assert tokens.given == 4  # one for each request


@pytest.mark.parametrize(
    ("challenge", "why"),
    [
        ('Bearer realm="http://tokens.example.com/"', "which is not https"),
        ('Bearer realm="http://127.0.0.1@tokens.example.com/"', "which is not https"),
        ('Bearer realm="https://[::1/t?key=s3cret"', r"sends to 'https://\[::1/t' for tokens: Invalid IPv6 URL"),
        ('Bearer realm="https://tokens.example.com/ü"', "which is no address"),
        ("Negotiate", "of a kind that is not known here: 'Negotiate'"),
        ("", "of a kind that is not known here"),
    ],
)
def test_nobody_is_told_a_password_who_should_not(
    challenge: str, why: str, site: Site, wanted: Wanted, means: Means
) -> None:  # fmt: skip
    site.statuses = [(401, {"WWW-Authenticate": challenge})]
    with pytest.raises(ModelError, match=why):
        pull(address(site), wanted, means)


def test_logins_are_found_where_docker_and_podman_have_them(
    environment: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    assert login("a.example.com") is None
    write_config(environment, {"auths": {"https://index.docker.io/v1/": {"auth": SECRET}, "a.example.com": {}}})
    assert login("docker.io") == Login("anna", "s3cret")
    assert login("a.example.com") is None
    running = environment / "run" / "containers" / "auth.json"
    running.parent.mkdir(parents=True)
    running.write_text(json.dumps({"auths": {"a.example.com": {"auth": SECRET}}}))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(environment / "run"))
    assert login("a.example.com") == Login("anna", "s3cret")
    assert "s3cret" not in repr(login("a.example.com"))
    (environment / "first.json").write_text(json.dumps({"auths": {"https://a.example.com": {"identitytoken": "x"}}}))
    monkeypatch.setenv("REGISTRY_AUTH_FILE", str(environment / "first.json"))
    assert login("a.example.com") == Login("", "", "x")


def test_helpers_are_asked(environment: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = environment / "bin" / "docker-credential-test"
    program.parent.mkdir()
    program.write_text(
        '#!/bin/sh\nread -r host\ncase "$host" in\n'
        'a.*) echo \'{"ServerURL": "", "Username": "anna", "Secret": "s3cret"}\';;\n'
        'b.*) echo \'{"Username": "<token>", "Secret": "long"}\';;\n'
        "c.*) echo nonsense;;\n"
        "*) echo credentials not found; exit 1;;\nesac\n"
    )
    program.chmod(stat.S_IRWXU)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    write_config(environment, {"credsStore": "test", "auths": {"a.example.com": {}}, "credHelpers": {"z.com": "none"}})
    assert login("a.example.com") == Login("anna", "s3cret")
    assert login("b.example.com") == Login("", "", "long")
    assert login("d.example.com") is None
    with pytest.raises(ModelError, match="does not answer as it should"):
        login("c.example.com")
    with pytest.raises(ModelError, match="the helper docker-credential-none, which is not installed"):
        login("z.com")
    write_config(environment, {"credsStore": "../evil"})
    with pytest.raises(ModelError, match="which no program is called"):
        login("a.example.com")


@pytest.mark.parametrize("told", ["{", '{"auths": 1}', '{"auths": {"a.example.com": {"auth": "%%%"}}}'])
def test_a_file_that_is_wrong_is_named(told: str, environment: Path) -> None:
    write_config(environment, told)
    with pytest.raises(ModelError, match=r"docker/config\.json: (cannot be read as|its auth is not base64)"):
        login("a.example.com")
