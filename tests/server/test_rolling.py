"""Servers restarted one after the other under the load of real clients, behind every proxy that is installed."""

import re
from pathlib import Path

import pytest
from loadtests.rolling import proxies, rounds
from loadtests.rolling.__main__ import table
from loadtests.rolling.proxies import Proxy
from loadtests.rolling.replicas import Replica

from sluice.workers.worker import Worker


@pytest.mark.parametrize("proxy", proxies.ALL, ids=lambda proxy: proxy.name)
def test_nobody_notices_a_rolling_restart(proxy: Proxy, tmp_path: Path) -> None:
    if proxy.program() is None:
        pytest.skip(f"{proxy.name} is not installed")
    run = rounds.behind(proxy, tmp_path)
    assert not run.failures
    assert run.restarts == 2
    assert [one.kind for one in run.outcomes] == ["HTTP", "gRPC", "gRPC streams", "gRPC endless stream"]


def test_clients_that_ask_for_health_need_no_proxy(tmp_path: Path) -> None:
    run = rounds.behind(None, tmp_path)
    assert not run.failures
    assert run.restarts == 2


def test_models_change_under_load(tmp_path: Path) -> None:
    run = rounds.changed(tmp_path, rounds=1)
    assert not run.failures
    assert not any(one.resent for one in run.outcomes)
    lines = table([run]).splitlines()
    assert [line.split(" | ")[:5] for line in lines[2:]] == [
        ["| reload", one.kind, "-", str(len(one.seconds)), "0"] for one in run.outcomes
    ]


@pytest.mark.skipif(not hasattr(Worker, "recycle"), reason="workers are not recycled here")
def test_a_worker_is_replaced_under_load(tmp_path: Path) -> None:
    run = rounds.recycled(tmp_path)
    assert not run.failures
    assert not any(one.resent for one in run.outcomes)


@pytest.mark.parametrize("proxy", proxies.ALL, ids=lambda proxy: proxy.name)
def test_the_examples_are_run_with_other_addresses_only(proxy: Proxy, tmp_path: Path) -> None:
    replicas = [Replica(tmp_path, tmp_path, (), number, [number * 10, number * 10 + 1]) for number in (1, 2)]
    example = (proxies.EXAMPLES / proxy.example).read_text()
    text = proxies.configured(example, replicas, [30, 31])
    ports = [int(port) for port in re.findall(r"127\.0\.0\.1(?::|, port_value: )(\d+)", text)]
    assert sorted(ports) == [10, 11, 20, 21, 30, 31]
    assert len(text.splitlines()) == len(example.splitlines())
    with pytest.raises(ValueError, match=r"10\.0\.0\.1"):
        proxies.configured("somewhere else: 10.0.0.1:9999", replicas, [30, 31])
