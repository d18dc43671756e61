"""What runs out besides memory: disks, file descriptors, and the patience of a wall clock. The server serves on, says
once what is wrong, and recovers by itself."""

import base64
import contextlib
import json
import resource
import shutil
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import graphs
import grpc
import numpy as np
import psutil
import pytest
import tritonclient.grpc as triton_grpc
from servers import Server, StartServer, end, launch
from traffic import Gate, Load, connect, int64, pending, post, until

from sluice.pb.health_pb2 import HealthCheckRequest, HealthCheckResponse

SPACE = 64 << 20
READY = b"GET /v2/health/ready HTTP/1.1\r\nhost: x\r\n\r\n"


def tag(server: Server, value: int = 7) -> tuple[int, Any]:
    body = {"inputs": [{"name": "input_ids", "datatype": "INT64", "shape": [1, 1], "data": [value]}]}
    return server.request("POST", "/v2/models/tagger/infer", body)


def parts(server: Server, kind: str) -> list[dict[str, str]]:
    told = server.request("GET", "/v2/health/ready?verbose")[1]
    return [part for part in told["parts"] if part["kind"] == kind]


def logged(server: Server, text: str) -> int:
    """How many lines of the log say so."""
    return sum(text in line for line in server.output().splitlines())


# Disks


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A small file system of its own; skips where none may be mounted."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SPACE}", "none", place], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.decode().strip()}")
    yield place
    subprocess.run(["umount", "--lazy", place], check=True)


@contextlib.contextmanager
def full(disk: Path) -> Iterator[None]:
    """Not a byte is left on it."""
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(1 << 20))
    with filler.open("ab", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(1))
    try:
        yield
    finally:
        filler.unlink()


def test_a_full_disk_under_the_repository(disk: Path, start_server: StartServer) -> None:
    repository = disk / "models"
    graphs.tagger(repository)
    server = start_server(repository)
    until(lambda: parts(server, "disk")[0]["condition"] == "ok", "there is room")
    with full(disk):
        for _ in range(2):
            # What was learned of a version is kept when it leaves.
            assert server.request("POST", "/v2/repository/models/tagger/unload", {})[0] == 200
            assert server.request("POST", "/v2/repository/models/tagger/load", {})[0] == 200
            assert tag(server)[0] == 200
        until(lambda: parts(server, "disk")[0]["condition"] == "degraded", "it is seen")
        assert "No space left on device" in parts(server, "disk")[0]["reason"]
        assert server.request("GET", "/v2/health/ready")[0] == 200
        assert logged(server, "cannot be kept") == 1
    assert server.request("POST", "/v2/repository/models/tagger/unload", {})[0] == 200
    until(lambda: parts(server, "disk")[0]["condition"] == "ok", "there is room again")
    assert not list((repository / "tagger" / ".learned").glob("*.tmp"))


def test_a_full_disk_for_temporary_files(disk: Path, tmp_path: Path, start_server: StartServer) -> None:
    repository = tmp_path / "models"
    model = graphs.tagger(repository)
    content = base64.b64encode(model.read_bytes() + bytes(1 << 16)).decode()
    overlay = {"parameters": {"config": "{}", "file:2/model.onnx": content}}
    server = start_server(repository, environment={"TMPDIR": str(disk)})
    with full(disk):
        code, told = server.request("POST", "/v2/repository/models/tagger/load", overlay)
        assert (code, "No space left on device" in told["error"]) == (400, True)
        until(lambda: parts(server, "disk")[1]["condition"] == "degraded", "it is seen")
        assert tag(server)[0] == 200
        assert not list(disk.glob("sluice-*"))
    assert server.request("GET", "/v2/health/ready")[0] == 200


def test_a_full_disk_under_the_log(disk: Path, tmp_path: Path) -> None:
    graphs.tagger(tmp_path / "models")
    server = launch(tmp_path / "models", disk / "log", "--log-level", "debug")
    try:
        with full(disk):
            for _ in range(100):  # a line each, more than is buffered anywhere
                assert tag(server)[0] == 200
            assert "No space left on device" in parts(server, "log")[0]["reason"]
        assert tag(server)[0] == 200
        until(lambda: logged(server, "lines of the log were lost: No space left on device") == 1, "the loss is told")
        assert parts(server, "log") == []
    finally:
        end(server)


def test_nowhere_to_write_to(tmp_path: Path) -> None:
    """Neither what it prints nor what it logs can be written from the start."""
    graphs.tagger(tmp_path / "models")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "sluice.cli.main", "serve", "--repository", str(tmp_path / "models")]
    ports = ["--http-port", str(port), "--grpc-port", "0", "--metrics-port", "0"]
    with Path("/dev/full").open("w") as nowhere:
        process = subprocess.Popen(
            [*command, *ports, "--workers", "1"], stdout=nowhere, stderr=nowhere, cwd=tmp_path, text=True
        )
    server = Server(process, http=f"http://127.0.0.1:{port}")

    def ready() -> bool:
        assert process.poll() is None
        with contextlib.suppress(OSError):
            return server.request("GET", "/v2/health/ready")[0] == 200
        return False

    try:
        until(ready, "it is ready")
        assert tag(server)[0] == 200
        assert server.stop(signal.SIGINT) == 0
    finally:
        process.kill()
        process.wait()


# File descriptors


@pytest.fixture
def server(tmp_path: Path, start_server: StartServer) -> Server:
    repository = tmp_path / "models"
    graphs.tagger(repository)
    graphs.lookup(repository)
    return start_server(repository)


# Less than none, since descriptors come and go while they are counted.
NONE = -4


@contextlib.contextmanager
def few_files(server: Server, spare: int) -> Iterator[None]:
    """The server may open only so many more."""
    process = psutil.Process(server.process.pid)
    before = resource.prlimit(process.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (process.num_fds() + spare, before[1]))
    try:
        yield
    finally:
        resource.prlimit(process.pid, resource.RLIMIT_NOFILE, before)


def answered(client: socket.socket) -> bool:
    """Whether a connection is served by a server that is ready; one that was not accepted for want of a descriptor is
    closed."""
    client.settimeout(60)
    try:
        client.sendall(READY)
        return client.recv(1 << 16).startswith(b"HTTP/1.1 200")
    except ConnectionError:
        return False


def test_it_may_open_as_many_files_as_there_may_be(server: Server) -> None:
    soft, hard = resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE)
    assert soft == min(hard, 1 << 20)


def test_connections_beyond_the_descriptors_are_closed_and_the_others_served(server: Server) -> None:
    with contextlib.ExitStack() as clients, connect(server) as first:
        assert answered(first)
        with few_files(server, spare=10):
            crowd = [clients.enter_context(connect(server)) for _ in range(40)]
            served = [answered(client) for client in crowd]
            assert 0 < sum(served) < 20
            until(lambda: logged(server, "file descriptors are used up") == 1, "it is said")
            assert answered(first)
            for client in crowd:
                client.close()
            until(lambda: answered(clients.enter_context(connect(server))), "there is room for connections again")
            assert tag(server)[0] == 200
    until(lambda: logged(server, "there are file descriptors again") == 1, "that is said as well")
    assert logged(server, "file descriptors are used up") == 1
    assert logged(server, "Traceback") == 0


def test_grpc_calls_go_on_without_descriptors(server: Server) -> None:
    request = HealthCheckRequest().SerializeToString()

    def status(channel: grpc.Channel) -> int:
        check = channel.unary_unary("/grpc.health.v1.Health/Check")
        return int(HealthCheckResponse.FromString(check(request, timeout=60, wait_for_ready=True)).status)

    separate = [("grpc.use_local_subchannel_pool", 1)]
    with grpc.insecure_channel(server.grpc) as first, grpc.insecure_channel(server.grpc, options=separate) as late:
        assert status(first) == HealthCheckResponse.SERVING
        with ThreadPoolExecutor(1) as pool:
            with few_files(server, spare=NONE):
                waiting = pool.submit(status, late)
                until(lambda: logged(server, "file descriptors are used up") == 1, "it is said")
                assert status(first) == HealthCheckResponse.SERVING
            assert waiting.result() == HealthCheckResponse.SERVING


def test_a_model_that_cannot_be_loaded_without_descriptors_can_be_later(server: Server) -> None:
    assert server.request("POST", "/v2/repository/models/lookup/unload", {})[0] == 200
    with connect(server) as first:
        assert answered(first)
        with few_files(server, spare=NONE):
            first.sendall(post("/v2/repository/models/lookup/load", {}))
            status, told = read(first)
        assert (status, "Too many open files" in told["error"]) == (400, True)
    assert logged(server, "Traceback") == 0
    assert server.request("POST", "/v2/repository/models/lookup/load", {})[0] == 200
    assert tag(server)[0] == 200


def test_a_worker_that_cannot_be_started_without_descriptors_is_later(server: Server) -> None:
    with connect(server) as first:
        assert answered(first)
        with few_files(server, spare=NONE):
            for worker in server.workers():
                worker.kill()
            # What the dead leave behind may do for one of them, but not for both.
            until(lambda: logged(server, "Too many open files") > 0, "it cannot be started, which is said")
    until(lambda: server.metric("sluice_workers", state="running") == 2, "they run again")
    until(lambda: server.request("GET", "/v2/health/ready")[0] == 200, "it is ready again")
    assert tag(server)[0] == 200
    assert logged(server, "Traceback") == 0


def read(client: socket.socket) -> tuple[int, Any]:
    """One answer with a short body."""
    text = client.recv(1 << 16)
    head, _, body = text.partition(b"\r\n\r\n")
    return int(head.split(b" ")[1]), json.loads(body)


# The wall clock

SHIM = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>

/* The time of day is as many seconds off as a file says; clocks that only go forward are left alone. */
static volatile long long *off;

__attribute__((constructor)) static void begin(void) {
    const char *path = getenv("CLOCK_SHIFT");
    int file = path ? open(path, O_RDONLY) : -1;
    void *seen = file < 0 ? MAP_FAILED : mmap(0, sizeof *off, PROT_READ, MAP_SHARED, file, 0);
    if (seen != MAP_FAILED) off = seen;
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real) real = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    int failed = real(clock, now);
    if (!failed && off && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) now->tv_sec += *off;
    return failed;
}

int gettimeofday(struct timeval *now, void *zone) {
    struct timespec exact;
    clock_gettime(CLOCK_REALTIME, &exact);
    now->tv_sec = exact.tv_sec;
    now->tv_usec = exact.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *out) {
    struct timespec exact;
    clock_gettime(CLOCK_REALTIME, &exact);
    if (out) *out = exact.tv_sec;
    return exact.tv_sec;
}
"""


class Clock:
    """The time of day that a server sees."""

    def __init__(self, directory: Path) -> None:
        self._file = directory / "shift"
        self.library = directory / "shift.so"
        source = directory / "shift.c"
        source.write_text(SHIM)
        compiler = next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), None)
        if compiler is None:
            pytest.skip("no C compiler, which a clock that jumps is made with")
        command = [compiler, "-shared", "-fPIC", "-o", str(self.library), str(source), "-ldl"]
        subprocess.run(command, check=True, capture_output=True)
        self._file.write_bytes(bytes(8))

    def shift(self, days: int) -> None:
        with self._file.open("r+b") as file:
            file.write(struct.pack("q", days * 86400))

    @property
    def environment(self) -> dict[str, str]:
        return {"LD_PRELOAD": str(self.library), "CLOCK_SHIFT": str(self._file)}


@pytest.fixture
def clock(tmp_path: Path) -> Clock:
    return Clock(tmp_path)


def test_a_wall_clock_that_jumps_costs_no_request(clock: Clock, tmp_path: Path, start_server: StartServer) -> None:
    repository = tmp_path / "models"
    graphs.tagger(repository)
    graphs.lookup(repository)
    server = start_server(repository, environment=clock.environment)

    def days_off() -> int:
        """By the last line of the log, which shows the time of day."""
        said = datetime.fromisoformat(json.loads(server.output().splitlines()[-1])["time"])
        return round((said - datetime.now(UTC)) / timedelta(days=1))

    load = Load(server)
    with load.running():
        for days in (1, -1, 400, 0):
            clock.shift(days)
            load.wait_for_more(50)
            for change in ("unload", "load"):
                assert server.request("POST", f"/v2/repository/models/lookup/{change}", {})[0] == 200
            assert days_off() == days
        assert server.request("GET", "/v2/health/ready")[0] == 200
    assert not load.failures
    assert server.metric("sluice_worker_restarts_total") == 0


def test_deadlines_do_not_follow_the_wall_clock(clock: Clock, tmp_path: Path, start_server: StartServer) -> None:
    gate = Gate(tmp_path / "gate")
    repository = tmp_path / "models"
    graphs.python_echo(repository, gate=gate.path)
    graphs.python_echo(repository, "other", gate=gate.path)
    flags = ("--python-directory", str(repository), "--workers", "1", "--queue-timeout", "3600")
    server = start_server(repository, *flags, environment=clock.environment)
    body = {"inputs": [{"name": "x", "datatype": "INT64", "shape": [1, 1], "data": [5]}]}
    patient = {"x-request-timeout-ms": "3600000"}

    def over_grpc() -> Any:
        with triton_grpc.InferenceServerClient(server.grpc) as client:
            inputs = int64(triton_grpc, x=np.array([[5]], np.int64))
            return client.infer("other", inputs, client_timeout=3600).as_numpy("y").tolist()

    with ThreadPoolExecutor(2) as pool:
        with gate.holding(server):
            over_http = pool.submit(server.request, "POST", "/v2/models/other/infer", body, patient)
            calls = [over_http, pool.submit(over_grpc)]
            until(lambda: pending(server, "other") == 2, "both wait")
            for days in (2, -2):
                clock.shift(days)
                assert pending(server, "other") == 2
        assert calls[0].result()[0] == 200
        assert calls[1].result() == [[5]]
    # And what has little time has it by the clock that goes forward.
    clock.shift(-2)
    with gate.holding(server):
        assert server.request("POST", "/v2/models/other/infer", body, {"x-request-timeout-ms": "50"})[0] == 504
