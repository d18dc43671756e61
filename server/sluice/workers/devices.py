"""Which devices the workers of this machine compute on; one worker each."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from sluice.config.settings import Workers
from sluice.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Device:
    """Where one worker computes."""

    kind: str  # "cpu" or "cuda"
    index: int
    threads: int

    @property
    def name(self) -> str:
        return f"{self.kind}:{self.index}"

    @property
    def model(self) -> str:
        """What it is, as the system names it; empty if it does not."""
        if self.kind == "cpu":
            return _value_of("model name", Path("/proc/cpuinfo"))
        described = sorted(Path("/proc/driver/nvidia/gpus").glob("*/information"))
        return _value_of("Model", described[self.index]) if self.index < len(described) else ""

    def environment(self) -> dict[str, str]:
        """Set before any framework is imported, which is when they read it."""
        threads = str(self.threads)
        pools = {"OMP_NUM_THREADS": threads, "OPENBLAS_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
        visible = str(self.index) if self.kind == "cuda" else ""
        return {**pools, "CUDA_VISIBLE_DEVICES": visible, "TOKENIZERS_PARALLELISM": "false"}


def _value_of(key: str, path: Path) -> str:
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.partition(":")[0].strip() == key), "")


def runtime(backend: str, kind: str) -> str:
    """The library that computes, with its version; what it costs changes with it."""
    if backend != "onnxruntime":
        return backend
    distribution = "onnxruntime-gpu" if kind == "cuda" else "onnxruntime"
    return f"{distribution} {metadata.version(distribution)}" if _installed(distribution) else backend


def choose(settings: Workers) -> list[Device]:
    """One device for every worker, as the settings say and the machine allows."""
    gpus = _gpus(os.environ)
    kind = settings.device
    if kind == "auto":
        kind = "cuda" if gpus and _installed("onnxruntime-gpu") else "cpu"
    if kind == "cuda":
        if not gpus:
            raise ConfigError("workers.device is 'cuda' but this machine shows no NVIDIA GPU")
        count = settings.count or len(gpus)
        return [Device("cuda", gpus[number % len(gpus)], settings.threads) for number in range(count)]
    count = settings.count or max(1, cores() // settings.threads)
    return [Device("cpu", number, settings.threads) for number in range(count)]


def cores(cgroup: Path = Path("/sys/fs/cgroup/cpu.max")) -> int:
    """Cores this process may really use: its affinity, and what its control group leaves of it."""
    available = len(os.sched_getaffinity(0))
    try:
        quota, period = cgroup.read_text().split()
    except (OSError, ValueError):
        return available
    return available if quota == "max" else max(1, min(available, round(int(quota) / int(period))))


def _gpus(environment: Mapping[str, str]) -> list[int]:
    present = sorted(
        int(match[1]) for path in Path("/dev").glob("nvidia*") if (match := re.fullmatch(r"nvidia(\d+)", path.name))
    )
    visible = environment.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return present
    return [int(index) for index in visible.split(",") if index.strip().isdigit() and int(index) in present]


def _installed(distribution: str) -> bool:
    try:
        metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return False
    return True
