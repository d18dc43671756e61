"""A server that starts brings what its models lack, and serves the others whatever becomes of that."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import graphs
import psutil
import pytest
from servers import Server, StartServer
from traffic import until
from website import Site

ENVIRONMENT = {"SLUICE_MODELS__PULL": "missing", "no_proxy": "*"}


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with Site() as site:
        site.files["/tagger.onnx"] = graphs.tagger(tmp_path / "origin", factor=30).read_bytes()
        yield site


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    repository = tmp_path / "models"
    graphs.tagger(repository, "own", factor=10)
    return repository


def say(repository: Path, name: str, text: str) -> None:
    (repository / name).mkdir(exist_ok=True)
    (repository / name / "model.toml").write_text(text)


def environment(tmp_path: Path) -> dict[str, str]:
    return {**ENVIRONMENT, "SLUICE_CACHE": str(tmp_path / "cache"), "NETRC": str(tmp_path / "netrc")}


def index(server: Server) -> dict[tuple[str, str], tuple[str, str]]:
    status, rows = server.request("POST", "/v2/repository/index", {})
    assert status == 200
    return {(row["name"], row["version"]): (row["state"], row["reason"]) for row in rows}


def total(server: Server, name: str) -> int:
    body = {"inputs": [{"name": "input_ids", "datatype": "INT64", "shape": [1, 1], "data": [1]}]}
    status, answer = server.request("POST", f"/v2/models/{name}/infer", body)
    assert status == 200, answer
    return int(answer["outputs"][1]["data"][0])


def test_what_is_lacking_is_brought_before_it_is_loaded(
    start_server: StartServer, repository: Path, site: Site, tmp_path: Path
) -> None:
    say(repository, "far", f"[source]\nfrom = '{site.url}/tagger.onnx'")
    say(repository, "gone", f"[source]\nfrom = '{site.url}/gone.onnx?key=s3cret'")
    say(repository, "odd", "[source]\nfrom = 'az://acct/x?sv=1&sig=s3cret'")
    say(repository, "own", f"[source]\nfrom = '{site.url}/own.onnx'")  # which has a version
    graphs.tagger(repository, "partly", factor=40)
    say(repository, "partly", f"[source]\nfrom = '{site.url}/gone.onnx'\nversion = 2")
    server = start_server(repository, environment=environment(tmp_path))
    reason = f"cannot be brought from {site.url}/gone.onnx: {site.url}/gone.onnx: the server says 404 Not Found"
    odd = "cannot be brought from az://acct/x: 'az://acct/x': is no address, as az://CONTAINER/NAME"
    assert index(server) == {
        ("far", "1"): ("READY", ""),
        ("gone", ""): ("UNAVAILABLE", reason),
        ("odd", ""): ("UNAVAILABLE", odd),
        ("own", "1"): ("READY", ""),
        ("partly", "1"): ("READY", ""),
        ("partly", "2"): ("UNAVAILABLE", reason),
    }
    assert [total(server, name) for name in ("far", "own", "partly")] == [30, 10, 40]
    assert "/own.onnx" not in [path for path, _ in site.requests]
    assert "s3cret" not in server.output()


def test_nothing_is_brought_unless_it_is_wanted(
    start_server: StartServer, repository: Path, site: Site, tmp_path: Path
) -> None:
    say(repository, "far", f"[source]\nfrom = '{site.url}/tagger.onnx'")
    server = start_server(repository, environment={**environment(tmp_path), "SLUICE_MODELS__PULL": "off"})
    assert index(server)["far", ""] == (
        "UNAVAILABLE",
        f"far: there is no version directory (1, 2, …); `sluice pull far` brings one from {site.url}/tagger.onnx",
    )
    assert not site.requests
    assert server.request("POST", "/v2/repository/models/far/load", {})[0] == 400
    assert not site.requests


@pytest.mark.parametrize("signals", [[signal.SIGINT], [signal.SIGTERM, signal.SIGTERM]])
def test_a_server_that_is_stopped_stops_bringing(
    signals: list[signal.Signals], repository: Path, site: Site, tmp_path: Path
) -> None:
    say(repository, "far", f"[source]\nfrom = '{site.url}/tagger.onnx'")
    site.stalls = [100]
    command = [sys.executable, "-m", "sluice.cli.main", "serve", "-r", str(repository), "--workers", "1"]
    ports = ["--http-port", "0", "--grpc-port", "0", "--metrics-port", "0"]
    log = tmp_path / "log"
    with log.open("w") as errors:
        process = subprocess.Popen(
            [*command, *ports], stderr=errors, stdout=subprocess.DEVNULL, env=os.environ | environment(tmp_path)
        )
    try:
        server = psutil.Process(process.pid)
        until(lambda: bool(server.children(recursive=True)) and bool(site.requests), "the download has begun")
        children = server.children(recursive=True)
        assert any("pull" in child.cmdline() for child in children)
        for number in signals:
            process.send_signal(number)
        process.wait(30)
        _, alive = psutil.wait_procs(children, timeout=10)
        assert not alive
    finally:
        process.kill()
        process.wait()
    assert not [path for path in (repository / "far").iterdir() if path.name.isdigit()], log.read_text()
