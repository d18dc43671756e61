import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from loadtests.compare.contestants import Start
from loadtests.compare.processes import ServerProcess, cpu_seconds, free_ports

from sluice.bench.address import Address

# A server that starts a worker, which says so, and then both wait to be ended; neither listens to a request to end.
TREE = """
import os, signal, sys
signal.signal(signal.SIGTERM, signal.SIG_IGN)
if os.fork() == 0:
    open(sys.argv[1], "w").write("ready")
while True:
    signal.pause()
"""


def becomes(condition: Callable[[], bool]) -> bool:
    """A signal takes effect when the process is next scheduled."""
    end = time.monotonic() + 60
    while not condition() and time.monotonic() < end:
        os.sched_yield()
    return condition()


def lives(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerProcess]:
    """One that has a worker."""
    os.mkfifo(tmp_path / "ready")
    command = [sys.executable, "-c", TREE, str(tmp_path / "ready")]
    made = ServerProcess(Start(command, dict(os.environ), Address("http", "127.0.0.1", 1), tmp_path, end_patience=0.2))
    made.start()
    assert (tmp_path / "ready").read_text() == "ready"
    yield made
    made.stop()


def test_a_server_is_its_process_and_all_that_it_started(server: ServerProcess) -> None:
    tree = server.tree()
    assert len(tree) == 2
    rss, pss = server.memory()
    assert 0 < pss <= rss
    assert cpu_seconds(tree) >= 0


def test_a_pause_stops_all_of_it_until_it_is_resumed(server: ServerProcess) -> None:
    tree = server.tree()
    server.pause()
    assert becomes(lambda: {process.status() for process in tree} == {psutil.STATUS_STOPPED})
    server.resume()
    assert becomes(lambda: psutil.STATUS_STOPPED not in {process.status() for process in tree})


def test_a_server_that_waits_has_settled(server: ServerProcess) -> None:
    assert server.settle(60)


def test_stopping_leaves_nothing_even_of_a_paused_server_that_does_not_listen(
    server: ServerProcess,
) -> None:
    tree = server.tree()
    server.pause()
    server.stop()
    assert becomes(lambda: not any(lives(process) for process in tree))
    assert not server.running
    server.stop()


def test_the_end_of_the_log_says_why_a_server_ended(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "raise SystemExit('no such model')"]
    server = ServerProcess(Start(command, dict(os.environ), Address("http", "127.0.0.1", 1), tmp_path))
    server.start()
    psutil.wait_procs(server.tree(), timeout=30)
    assert not server.running
    assert server.last_words().endswith("no such model")
    server.stop()


def test_ports_are_free_and_differ() -> None:
    assert len(set(free_ports(3))) == 3
