"""What the processor can do with bytes, which decides what is exact on it and what is fast."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

_DOT_PRODUCTS = {"avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm"}


@dataclass(frozen=True, slots=True)
class Machine:
    """`bytes`: whether four products of bytes are summed exactly by one instruction. Where they are not, x86 sums pairs
    in 16 bits and cuts off what does not fit, unless weights have 7 bits."""

    name: str
    bytes: Literal["exact", "saturating"]


def this(information: Path = Path("/proc/cpuinfo")) -> Machine:
    try:
        lines = information.read_text("utf-8", "replace").splitlines()
    except OSError:
        lines = []
    told = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    name = told.get("model name") or platform.processor() or platform.machine()
    features = set((told.get("flags") or told.get("Features") or "").split())
    arm = platform.machine().lower() in ("aarch64", "arm64")
    return Machine(name, "exact" if arm or _DOT_PRODUCTS & features else "saturating")
