"""Signed versions in a running server: what is not as somebody trusted signed it is refused, and all else is served."""

from __future__ import annotations

import base64
import json
import mmap
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import graphs
import pytest
import signers
from servers import Server, StartServer, end, launch
from signers import Signer
from traffic import Load, until

from sluice.cli.main import main
from sluice.store import signing
from sluice.store.manifest import seal

NAMES = ("good", "changed", "resealed", "forged", "unsigned", "open", "certified", "foreign")


@pytest.fixture
def keys(tmp_path: Path) -> dict[str, Signer]:
    root = signers.signer(tmp_path / "keys", "root", authority=True)
    return {
        "ann": signers.signer(tmp_path / "keys", "ann"),
        "mallory": signers.signer(tmp_path / "keys", "mallory"),
        "root": root,
        "bob": signers.signer(tmp_path / "keys", "bob", root),
    }


def sign(directory: Path, signer: Signer, certificate: bytes = b"") -> None:
    signing.sign(directory, signing.Identity(signer.key.read_bytes(), certificate))


@pytest.fixture
def repository(tmp_path: Path, keys: dict[str, Signer]) -> Path:
    """A version that is as ann signed it, one that bob's certificate vouches for, and others that are not so."""
    models = tmp_path / "models"
    for name in NAMES:
        directory = graphs.tagger(models, name).parent
        (directory / "labels.txt").write_text("cat\n")
        if name != "open":
            seal(directory)
        if name in ("good", "changed", "resealed"):
            sign(directory, keys["ann"])
    sign(models / "certified" / "1", keys["bob"], keys["bob"].certified.read_bytes())
    sign(models / "foreign" / "1", keys["mallory"])
    (models / "changed" / "1" / "labels.txt").write_text("dog\n")
    (models / "resealed" / "1" / "labels.txt").write_text("dog\n")
    seal(models / "resealed" / "1")
    shutil.copy(models / "resealed" / "1" / "model.sig", models / "forged" / "1" / "model.sig")
    return models


@pytest.fixture
def trusted(keys: dict[str, Signer]) -> tuple[str, ...]:
    return "--trusted-key", str(keys["ann"].public), "--trusted-key", f"certified={keys['root'].certified}"


@pytest.fixture
def server(repository: Path, tmp_path: Path, trusted: tuple[str, ...]) -> Iterator[Server]:
    server = launch(repository, tmp_path / "server.log", "--workers", "1", "--signatures", "require", *trusted)
    yield server
    end(server)


def total(server: Server, name: str) -> int:
    body = {"inputs": [{"name": "input_ids", "datatype": "INT64", "shape": [1, 1], "data": [1]}]}
    status, answer = server.request("POST", f"/v2/models/{name}/infer", body)
    return int(answer["outputs"][1]["data"][0]) if status == 200 else status


def rows(server: Server) -> dict[str, Any]:
    return {row["name"]: row for row in server.request("POST", "/v2/repository/index", {})[1]}


def load(server: Server, name: str) -> str:
    """Load it anew; what the server says against it."""
    status, answer = server.request("POST", f"/v2/repository/models/{name}/load", {})
    assert (status == 200) == (not answer)
    return str(answer["error"]) if answer else ""


def test_only_what_is_as_it_was_signed_is_served(server: Server, repository: Path, keys: dict[str, Signer]) -> None:
    found = rows(server)
    assert {name for name, row in found.items() if row["state"] == "READY"} == {"good", "certified"}
    for name, reason in (
        ("changed", "changed/1 is not what its manifest says: labels.txt is changed"),
        ("resealed", "resealed/1/model.sig: labels.txt is not as it was signed; manifest.toml is not as it was signed"),
        ("forged", "forged/1/model.sig: manifest.toml is not as it was signed"),
        ("unsigned", "unsigned/1 is not signed"),
        ("open", "open/1 is not sealed and signed"),
        ("foreign", "foreign/1/model.sig: is by key sha256:"),
    ):
        assert reason in found[name]["reason"], name
        assert total(server, name) == 503
    assert (total(server, "good"), total(server, "certified")) == (2, 2)
    log = server.output()
    assert re.search(r"good/1 is signed by key sha256:[0-9a-f]{64} \(.*ann\.pub\)", log)
    assert "certified/1 is signed by CN=bob, certified by CN=root" in log

    # Put right, it is served; whoever may sign for one model may not sign for another.
    sign(repository / "unsigned" / "1", keys["ann"])
    assert load(server, "unsigned") == ""
    assert total(server, "unsigned") == 2
    sign(repository / "foreign" / "1", keys["bob"], keys["bob"].certified.read_bytes())
    assert "is by CN=bob, certified by CN=root, who is not trusted" in load(server, "foreign")

    # Changed while it is served, the new files are refused and the old life goes on.
    directory = repository / "good" / "1"
    graphs.tagger(repository, "good", factor=7)
    seal(directory)
    assert "good/1/model.sig: manifest.toml is not as it was signed" in load(server, "good")
    assert total(server, "good") == 2
    sign(directory, keys["ann"])
    assert load(server, "good") == ""
    assert total(server, "good") == 7


def test_a_worker_that_takes_a_dead_one_s_place_verifies_it_too(server: Server, repository: Path) -> None:
    (repository / "good" / "1" / "model.sig").unlink()
    server.workers()[0].kill()
    assert total(server, "certified") == 2
    assert total(server, "good") == 503
    assert "good/1 is not signed" in server.output()


def test_what_is_signed_while_the_directory_is_watched_is_served(
    start_server: StartServer, repository: Path, trusted: tuple[str, ...], keys: dict[str, Signer]
) -> None:
    server = start_server(repository, "--workers", "1", "--watch", "0.05", "--signatures", "require", *trusted)
    assert total(server, "unsigned") == 503
    sign(repository / "unsigned" / "1", keys["ann"])
    until(lambda: total(server, "unsigned") == 2, "it is served")
    assert total(server, "forged") == 503


def test_one_may_be_warned_only(
    start_server: StartServer, repository: Path, trusted: tuple[str, ...], keys: dict[str, Signer]
) -> None:
    server = start_server(repository, "--workers", "1", "--signatures", "warn", *trusted)
    ready = {name for name, row in rows(server).items() if row["state"] == "READY"}
    assert ready == {*NAMES} - {"changed"}  # which its manifest refuses
    log = server.output()
    for name in ("resealed", "forged", "unsigned", "open", "foreign"):
        assert re.search(rf"{name}/1.*it is served all the same, since models\.signatures is 'warn'", log), name


def test_nothing_is_promoted_that_is_not_approved(
    start_server: StartServer, tmp_path: Path, keys: dict[str, Signer], monkeypatch: pytest.MonkeyPatch
) -> None:
    models = tmp_path / "approved"
    for number, factor in (("1", 10), ("2", 20)):
        seal(graphs.tagger(models, version=number, factor=factor).parent)
    key = ("--trusted-key", str(keys["ann"].public))
    server = start_server(models, "--approval", "signed", "--approval", "evaluated", *key)
    monkeypatch.setenv("SLUICE_URL", server.http)
    traffic = Load(server)
    with traffic.running(1):
        status, answer = server.request("POST", "/v2/models/tagger/aliases/production", {"version": "1"})
        assert status == 403
        assert answer["error"] == (
            "tagger/1 cannot become production: tagger/1 is not signed; it was not evaluated; "
            "`sluice evaluate` does it (models.approval)"
        )
        assert main(["promote", "tagger", "1"]) == 1
        directory = models / "tagger" / "1"
        digest = seal(directory).digest()
        seal(directory, metrics={"evaluation.verdict": "passed", "evaluation.digest": digest})
        sign(directory, keys["ann"])
        assert main(["promote", "tagger", "1"]) == 0
        traffic.wait_for_more()
        assert total(server, "tagger") == 10
    assert not traffic.failures
    assert set(traffic.answers) == {10, 20}


def test_check_says_what_is_not_signed(
    repository: Path, trusted: tuple[str, ...], capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(
        ["check", "good", "unsigned", "-r", str(repository), "--workers", "1", "--signatures", "require", *trusted]
    )
    lines = {line.split()[0]: line for line in capfd.readouterr().out.splitlines() if line}
    assert " ok " in lines["good"]
    assert "unsigned/1 is not signed" in lines["unsigned"]


def test_a_key_that_is_not_there_stops_the_start(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "-r", str(repository), "--signatures", "require", "--trusted-key", "nowhere.pem"]) == 1
    assert "error: models.trusted_keys: nowhere.pem: cannot be read" in capsys.readouterr().err


def spoil(directory: Path) -> None:
    """Give the signer's certificate an extension twice, which its parser does not forgive."""
    path = directory / "model.sig"
    document = json.loads(path.read_text())
    own = document["verificationMaterial"]["x509CertificateChain"]["certificates"][0]
    changed = base64.b64decode(own["rawBytes"]).replace(b"\x55\x1d\x13", b"\x55\x1d\x0f")
    own["rawBytes"] = base64.b64encode(changed).decode()
    path.write_text(json.dumps(document))


def test_a_malformed_certificate_costs_its_own_version_only(
    server: Server, repository: Path, keys: dict[str, Signer], capsys: pytest.CaptureFixture[str]
) -> None:
    spoil(repository / "certified" / "1")
    server.workers()[0].kill()
    assert total(server, "good") == 2
    assert total(server, "certified") == 503
    assert "certified/1/model.sig: its certificate cannot be read" in server.output()
    assert main(["verify", str(repository / "certified" / "1"), "--trusted-key", str(keys["root"].certified)]) == 1
    assert "error: " in capsys.readouterr().err


def test_a_malformed_certificate_in_production_stops_no_start(
    start_server: StartServer, repository: Path, keys: dict[str, Signer]
) -> None:
    spoil(repository / "certified" / "1")
    (repository / "certified" / "aliases.toml").write_text("production = 1\n")
    key = ("--trusted-key", str(keys["root"].certified))
    server = start_server(repository, "--workers", "1", "--signatures", "warn", "--approval", "signed", *key)
    assert (total(server, "good"), total(server, "certified")) == (2, 2)
    assert "which is not approved: certified/1/model.sig: its certificate" in rows(server)["certified"]["reason"]
    status, answer = server.request("POST", "/v2/models/certified/aliases/production", {"version": "1"})
    assert status == 403
    assert "certificate cannot be read" in answer["error"]


def test_files_that_were_changed_unseen_are_found(
    start_server: StartServer, tmp_path: Path, keys: dict[str, Signer]
) -> None:
    """What is written through a mapping that was there before changes no time of the file."""
    models = tmp_path / "mapped"
    path = graphs.tagger(models, "good")
    seal(path.parent)
    sign(path.parent, keys["ann"])
    good, evil = path.read_bytes(), graphs.tagger(tmp_path / "other", "good", factor=7).read_bytes()
    assert len(good) == len(evil)
    with path.open("r+b") as file, mmap.mmap(file.fileno(), len(good)) as mapped:
        mapped[:] = good  # from now on the page may be written
        key = ("--trusted-key", str(keys["ann"].public))
        server = start_server(models, "--workers", "1", "--signatures", "require", *key)
        assert total(server, "good") == 2
        mapped[:] = evil
        server.workers()[0].kill()
        assert total(server, "good") == 503
        assert "model.onnx is changed" in load(server, "good")
