"""A model that takes more and more memory meets a server that first says so, then shrinks, then refuses, and recovers
once the memory is free; its budget may be its own or the container's."""

import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
from servers import Server, StartServer
from traffic import int64, until
from tritonclient.utils import InferenceServerException

MIB = 1 << 20
BOUND = 700 * MIB

HOG = '''
class Model:
    """Holds as many MiB more as it is asked to; what is made up at warm-up is less than one that counts."""

    def load(self, directory, parameters):
        self.held = []

    def run(self, inputs):
        x = inputs["x"]
        wanted = int(x.max(initial=0))
        if wanted >= 10:
            self.held.append(b"x" * (wanted << 20))
        return {"y": x}
'''
TOML = """
[[input]]
name = "x"
datatype = "INT64"
shape = [-1, 1]
batch_axis = 0
[[output]]
name = "y"
datatype = "INT64"
shape = [-1, 1]
batch_axis = 0
"""


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    directory = tmp_path / "models" / "hog"
    (directory / "1").mkdir(parents=True)
    (directory / "1" / "model.py").write_text(HOG)
    (directory / "model.toml").write_text(TOML)
    return tmp_path / "models"


def ask(server: Server, mebibytes: int = 1) -> tuple[int, Any]:
    body = {"inputs": [{"name": "x", "datatype": "INT64", "shape": [1, 1], "data": [mebibytes]}]}
    return server.request("POST", "/v2/models/hog/infer", body)


def fill(server: Server, share: float) -> None:
    """Have the model hold so much that this share of the bound is used."""
    limit, used = server.metric("sluice_memory_budget_bytes"), server.metric("sluice_memory_used_bytes")
    assert limit == BOUND
    assert ask(server, int((share * limit - used) / MIB))[0] == 200


def relieved(server: Server) -> None:
    """What the server gives back when memory is short is gone; if it gives nothing back, that is never seen."""
    before = server.metric("sluice_memory_used_bytes")
    for _ in range(500):  # which takes longer than it is before the server looks again
        if server.metric("sluice_memory_used_bytes") != before:
            return


def level(server: Server) -> int:
    return int(server.metric("sluice_memory_level"))


def reach(server: Server, share: float, wanted: int) -> None:
    """Fill it up to this level; what the server gives back meanwhile is filled up again."""
    for _ in range(8):
        fill(server, share)
        relieved(server)
        relieved(server)
        if level(server) == wanted:
            return
    raise AssertionError(f"level {wanted} was never reached")


def memory_part(server: Server) -> dict[str, str]:
    told = server.request("GET", "/v2/health/ready?verbose")[1]
    part: dict[str, str] = next(part for part in told["parts"] if part["kind"] == "memory")
    return part


def check_the_way_up_and_down(server: Server) -> None:
    until(lambda: 0 < server.metric("sluice_memory_used_bytes") < 0.6 * BOUND, "there is enough")
    assert memory_part(server)["condition"] == "ok"

    reach(server, 0.84, 1)
    assert memory_part(server)["condition"] == "degraded"
    assert ask(server)[0] == 200

    reach(server, 0.915, 2)
    assert ask(server)[0] == 200
    assert server.request("GET", "/v2/health/ready")[0] == 200

    reach(server, 0.975, 3)
    code, told = ask(server)
    assert (code, "nearly used up" in told["error"]) == (503, True)
    with (
        triton_grpc.InferenceServerClient(server.grpc) as client,
        pytest.raises(InferenceServerException, match="nearly used up") as caught,
    ):
        client.infer("hog", int64(triton_grpc, x=np.array([[1]], np.int64)))
    assert caught.value.status() == "StatusCode.UNAVAILABLE"
    assert server.metric("sluice_request_failures_total", reason="short_of_memory") == 2
    assert server.request("POST", "/v2/repository/models/hog/load", {})[0] == 503
    code, told = server.request("GET", "/v2/health/ready?verbose")
    assert code == 503
    assert any("memory" in reason for reason in told["reasons"])
    assert server.metric("sluice_worker_restarts_total") == 0

    for worker in server.workers():
        worker.kill()
    until(lambda: level(server) == 0, "what was held is free")
    until(lambda: server.request("GET", "/v2/health/ready")[0] == 200, "it is ready again")
    assert ask(server)[0] == 200
    said = [line for line in server.output().splitlines() if "memory is running short" in line]
    assert len(said) == 3
    assert "cannot watch" not in server.output()


def test_a_budget_of_its_own(repository: Path, start_server: StartServer) -> None:
    flags = ("--python-directory", str(repository), "--workers", "1")
    check_the_way_up_and_down(start_server(repository, *flags, "--memory-budget", str(BOUND)))


@pytest.fixture
def group() -> Iterator[Path]:
    """A memory control group that the kernel keeps to the bound; skips where none may be made."""
    for mount, limit in mounts():
        path = mount / f"sluice-{uuid.uuid4().hex}"
        try:
            path.mkdir()
        except OSError:
            continue
        try:
            (path / limit).write_text(str(BOUND))
        except OSError:
            continue
        else:
            yield path
            return
        finally:
            path.rmdir()
    pytest.skip("no control group for memory can be made here")


def mounts() -> Iterator[tuple[Path, str]]:
    """Where control groups are, and what the file of a limit is called there."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        place, (kind, _, options) = Path(before.split(" ")[4]), after.split(" ", 2)
        if kind == "cgroup2":
            yield place, "memory.max"
        elif kind == "cgroup" and "memory" in options.split(","):
            yield place, "memory.limit_in_bytes"


def joining(group: Path, place: Path) -> dict[str, str]:
    """An environment in which a Python process goes into the group before it does anything else. The test's own process
    stays out: what it touches meanwhile would be counted there."""
    place.mkdir()
    (place / "sitecustomize.py").write_text(f"open({str(group / 'cgroup.procs')!r}, 'w').write('0')\n")
    return {"PYTHONPATH": os.pathsep.join(filter(None, (str(place), os.environ.get("PYTHONPATH"))))}


def test_a_containers_limit(group: Path, repository: Path, start_server: StartServer, tmp_path: Path) -> None:
    environment = joining(group, tmp_path / "site")
    flags = ("--python-directory", str(repository), "--workers", "1")
    server = start_server(repository, *flags, environment=environment)
    check_the_way_up_and_down(server)
