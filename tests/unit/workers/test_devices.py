"""How many workers there are follows from the settings, the affinity and the control group."""

import os
from pathlib import Path

import pytest

from sluice.config.settings import Workers
from sluice.errors import ConfigError
from sluice.workers import devices
from sluice.workers.devices import Device, choose, cores

AVAILABLE = len(os.sched_getaffinity(0))


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("max 100000\n", AVAILABLE),
        ("100000 100000\n", 1),
        ("50000 100000\n", 1),
        ("100000000 100000\n", AVAILABLE),
        ("", AVAILABLE),
        ("nonsense\n", AVAILABLE),
    ],
)
def test_cores_are_what_the_control_group_leaves(tmp_path: Path, content: str, expected: int) -> None:
    limit = tmp_path / "cpu.max"
    limit.write_text(content)
    assert cores(limit) == expected


def test_cores_without_a_control_group(tmp_path: Path) -> None:
    assert cores(tmp_path / "nothing") == AVAILABLE


def test_a_quota_rounds_to_whole_cores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    limit = tmp_path / "cpu.max"
    limit.write_text("260000 100000")
    assert cores(limit) == 3


def test_as_many_one_thread_workers_as_cores() -> None:
    assert choose(Workers(device="cpu")) == [Device("cpu", number, 1) for number in range(cores())]
    assert choose(Workers(device="cpu", count=3, threads=2)) == [Device("cpu", number, 2) for number in range(3)]


def test_more_threads_than_cores_still_make_a_worker() -> None:
    assert len(choose(Workers(device="cpu", threads=1000))) == 1


def test_a_gpu_that_is_not_there_is_the_operators_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "_gpus", lambda _: [])
    with pytest.raises(ConfigError, match=r"workers\.device"):
        choose(Workers(device="cuda"))


def test_one_worker_for_each_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "_gpus", lambda _: [0, 2])
    assert [device.name for device in choose(Workers(device="cuda"))] == ["cuda:0", "cuda:2"]
    assert [device.name for device in choose(Workers(device="cuda", count=3))] == ["cuda:0", "cuda:2", "cuda:0"]


def test_a_worker_sees_only_its_own_device() -> None:
    assert Device("cuda", 2, 1).environment()["CUDA_VISIBLE_DEVICES"] == "2"
    assert Device("cpu", 2, 4).environment()["CUDA_VISIBLE_DEVICES"] == ""
    assert Device("cpu", 2, 4).environment()["OMP_NUM_THREADS"] == "4"


def test_a_device_and_its_runtime_have_names() -> None:
    """What is learned on one is worth nothing on another."""
    assert Device("cpu", 0, 1).model == Device("cpu", 1, 1).model != ""
    assert devices.runtime("onnxruntime", "cpu").startswith("onnxruntime 1.")
    assert devices.runtime("python", "cpu") == "python"
