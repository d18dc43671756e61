"""What is done to servers while clients work: all restarted one after the other, or their models changed."""

from __future__ import annotations

import contextlib
import shutil
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import tritonclient.grpc as triton_grpc
from tritonclient.utils import InferenceServerException

from loadtests.rolling import model, proxies
from loadtests.rolling.clients import Crowd, Outcomes
from loadtests.rolling.proxies import Entrance, Proxy
from loadtests.rolling.replicas import Replica, until

BEHIND_A_PROXY = ("HTTP", "gRPC", "gRPC streams", "gRPC endless stream")
WITHOUT_PROXY = BEHIND_A_PROXY[1:]  # tritonclient's HTTP client knows one server only
LAME_DUCK = 3.0  # seconds; longer than a proxy needs to see that a server is not ready
RESTARTS = "sluice_worker_restarts_total"
BYSTANDER = "bystander"


@dataclass(frozen=True)
class Run:
    """What clients saw while something was done to the servers."""

    name: str
    restarts: int
    outcomes: Sequence[Outcomes]
    windows: Sequence[tuple[float, float]]  # when it was done

    @property
    def failures(self) -> list[str]:
        return [failure for one in self.outcomes for failure in one.failures]


@contextlib.contextmanager
def served(folder: Path, count: int, flags: Sequence[str] = ()) -> Iterator[list[Replica]]:
    """Servers that are ready, each with one worker and with the version of the model that has its number."""
    all_flags = ("--workers", "1", "--lame-duck", str(LAME_DUCK), *flags)
    replicas = [Replica(folder, folder / f"models-{number}", all_flags, number) for number in range(1, count + 1)]
    try:
        for replica in replicas:
            model.write(replica.repository, replica.number)
            replica.start()
        for replica in replicas:
            until(replica.ready, "a server is ready")
        yield replicas
    finally:
        for replica in replicas:
            replica.stop(signal.SIGINT)


def behind(proxy: Proxy | None, folder: Path, rounds: int = 1, each: int = 2) -> Run:
    """Restart two servers, one after the other, behind a proxy or with clients that know both."""
    flags = proxy.flags if proxy is not None else ()
    with served(folder, 2, flags) as replicas, _entrance(proxy, replicas, folder) as entrance:
        crowd = Crowd(entrance)
        windows = []
        # Without a proxy each client finds out by itself who is ready; one of a kind tells when it has.
        with crowd.working(*((BEHIND_A_PROXY, each) if proxy else (WITHOUT_PROXY, 1))):
            for replica in replicas * rounds:
                windows.append(_restart(replica))
                # Whoever rolls a release out has to wait for that, too: ready is not yet known to be ready.
                crowd.wait_for_answers_of(str(replica.number))
        name = proxy.name if proxy is not None else "none"
        return Run(name, len(windows), list(crowd.outcomes.values()), windows)


@contextlib.contextmanager
def _entrance(proxy: Proxy | None, replicas: Sequence[Replica], folder: Path) -> Iterator[Entrance]:
    if proxy is None:
        yield Entrance("", ",".join(f"127.0.0.1:{replica.ports[1]}" for replica in replicas))
        return
    with proxies.running(proxy, replicas, folder) as entrance:
        front = Replica(folder, Path(), (), 0, [int(entrance.http.split(":")[1])])
        until(lambda: front.ask("GET", "/v2/health/ready")[0] == 200, f"{proxy.name} serves HTTP", entrance.alive)
        until(lambda: _serves_grpc(entrance.grpc), f"{proxy.name} serves gRPC", entrance.alive)
        yield entrance


def _serves_grpc(address: str) -> bool:
    with triton_grpc.InferenceServerClient(address) as client:
        try:
            return bool(client.is_model_ready(model.NAME))
        except InferenceServerException:
            return False


def _restart(replica: Replica) -> tuple[float, float]:
    began = time.monotonic()
    code = replica.stop()
    if code:
        raise RuntimeError(f"a server ended with {code}, see {replica.log}")
    replica.start()
    until(replica.ready, "a server is ready again")
    return began, time.monotonic()


def changed(folder: Path, rounds: int = 3, each: int = 2) -> Run:
    """Change the model that clients ask for, in every way there is, and load and unload another, on one server."""
    with served(folder, 1) as (server,):
        entrance = Entrance(f"127.0.0.1:{server.ports[0]}", f"127.0.0.1:{server.ports[1]}")
        crowd = Crowd(entrance)
        windows = []
        with crowd.working(BEHIND_A_PROXY, each):
            for edition in range(1, rounds + 1):
                began = time.monotonic()
                for step in _changes(server.repository, edition):
                    step()
                    _do(server, "load", model.NAME)
                    crowd.wait_for_more(5)
                model.write(server.repository, name=BYSTANDER)
                _do(server, "load", BYSTANDER)
                _do(server, "unload", BYSTANDER)
                crowd.wait_for_more(5)
                windows.append((began, time.monotonic()))
        return Run("reload", 0, list(crowd.outcomes.values()), windows)


def recycled(folder: Path, each: int = 2) -> Run:
    """Give a server's worker a bound on its memory that it cannot keep, so that it is replaced while it serves."""
    with served(folder, 1, ("--max-memory", "1")) as (server,):
        entrance = Entrance(f"127.0.0.1:{server.ports[0]}", f"127.0.0.1:{server.ports[1]}")
        crowd = Crowd(entrance)
        with crowd.working(BEHIND_A_PROXY, each):
            began = time.monotonic()
            until(lambda: server.metric(RESTARTS) > 0, "a worker is replaced")
            crowd.wait_for_more(20)
            window = (began, time.monotonic())
        return Run("recycle", 0, list(crowd.outcomes.values()), [window])


def _changes(repository: Path, edition: int) -> Iterator[Callable[[], object]]:
    yield lambda: model.write(repository, 1, edition)  # the same version from another file
    yield lambda: model.write(repository, 2, edition)  # a new version takes over
    yield lambda: model.write(repository, 2, -edition)
    yield lambda: shutil.rmtree(repository / model.NAME / "2")  # and goes again


def _do(server: Replica, what: str, name: str) -> None:
    status, body = server.ask("POST", f"/v2/repository/models/{name}/{what}", {})
    if status != 200:
        raise RuntimeError(f"{what} {name}: {status} {body.decode()}")
