"""Which methods each target of `--to` may use."""

from __future__ import annotations

from sluice.errors import ConfigError
from sluice.quantize.machine import Machine
from sluice.quantize.methods import Menu, Method

TARGETS = ("int8", "uint8", "fp16", "bf16", "int4")


def menu(target: str, machine: Machine) -> Menu:
    if target not in TARGETS:
        raise ConfigError(f"--to: {target!r} is none of {', '.join(TARGETS)}")
    raise NotImplementedError(machine)


_ = Method
