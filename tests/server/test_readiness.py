"""What a running server says of itself: by HTTP, on the command line, and to those who watch over gRPC."""

import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import graphs
import grpc
import pytest
from servers import Server, StartServer
from traffic import until

from sluice.pb.health_pb2 import HealthCheckRequest, HealthCheckResponse

Status = HealthCheckResponse.ServingStatus


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    graphs.tagger(tmp_path / "models")
    return tmp_path / "models"


def verbose(server: Server) -> tuple[int, Any]:
    return server.request("GET", "/v2/health/ready?verbose")


def status(url: str, *flags: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "sluice.cli.main", "status", "--url", url, *flags]
    return subprocess.run(command, capture_output=True, text=True)


def test_every_part_is_told(repository: Path, start_server: StartServer) -> None:
    server = start_server(repository)
    code, told = verbose(server)
    assert (code, told["ready"], told["reasons"]) == (200, True, [])
    assert told["pid"] == server.process.pid
    kinds = Counter(part["kind"] for part in told["parts"])
    assert (
        kinds.items()
        >= {"memory": 1, "files": 1, "disk": 2, "loop": 1, "scheduler": 1, "worker": 2, "model": 1}.items()
    )
    assert all(part["condition"] == "ok" for part in told["parts"] if part["kind"] in ("scheduler", "worker", "model"))
    assert server.request("GET", "/v2/health/ready") == (200, {"ready": True})


def test_status_tells_people_and_scripts(repository: Path, start_server: StartServer) -> None:
    server = start_server(repository)
    shown = status(server.http)
    assert shown.returncode == 0, shown.stderr
    assert "is live and ready" in shown.stdout
    assert any(line.split()[:3] == ["model", "tagger/1", "ok"] for line in shown.stdout.splitlines())
    server.stop()
    assert status(server.http).returncode == 2


def test_a_server_that_is_not_ready_says_why(repository: Path, start_server: StartServer) -> None:
    server = start_server(repository, "--load", "tagger", "--load", "absent")
    code, told = verbose(server)
    assert (code, told["ready"]) == (503, False)
    assert any("absent" in reason and "no such model" in reason for reason in told["reasons"])
    shown = status(server.http)
    assert shown.returncode == 1
    assert "no such model" in shown.stdout
    assert server.request("GET", "/v2/health/live") == (200, {"live": True})


def test_a_server_that_stops_says_so_and_lives(repository: Path, start_server: StartServer) -> None:
    server = start_server(repository, "--lame-duck", "60")
    server.process.terminate()
    until(lambda: verbose(server)[0] == 503, "it is unready")
    assert verbose(server)[1]["reasons"] == ["the server is stopping"]
    assert server.request("GET", "/v2/health/live") == (200, {"live": True})


@pytest.mark.parametrize("service", ["", "tagger"])
def test_those_who_watch_see_workers_die_and_come_back(
    service: str, repository: Path, start_server: StartServer
) -> None:
    server = start_server(repository)
    with grpc.insecure_channel(server.grpc) as channel:
        watch = channel.unary_stream("/grpc.health.v1.Health/Watch")
        seen = watch(HealthCheckRequest(service=service).SerializeToString(), timeout=60)
        statuses = (HealthCheckResponse.FromString(message).status for message in seen)
        assert next(statuses) == Status.SERVING
        for worker in server.workers():
            worker.kill()
        assert next(statuses) == Status.NOT_SERVING
        assert next(statuses) == Status.SERVING
        seen.cancel()
