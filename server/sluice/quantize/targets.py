"""Which methods each target of `--to` may use."""

from __future__ import annotations

from sluice.errors import ConfigError
from sluice.quantize.machine import Machine
from sluice.quantize.methods import Menu, Method

TARGETS = ("int8", "uint8", "fp16", "bf16", "int4")

_ENTRIES = Method("entries", "entries")
# Never chosen: its answers differ alone and in company.
_DYNAMIC = Method("batch", "dynamic")
_BLOCKS = (Method("blocks of 32", "blocks", block=32), Method("blocks of 64", "blocks", block=64))


def menu(target: str, machine: Machine) -> Menu:
    """ConfigError if there is no such target."""
    exact = machine.bytes == "exact"
    match target:
        case "int8":
            bits = 8 if exact else 7
            rows = Method("rows", "rows", bits=bits, calibrated=True)
            return Menu((rows, Method("static", "static", bits=bits), *_BLOCKS), _ENTRIES, (_DYNAMIC,))
        case "uint8":
            rows = Method("rows", "rows", unsigned=True, calibrated=True)
            return Menu((rows, Method("static", "static", unsigned=True)), _ENTRIES)
        case "int4":
            fours = (
                Method("4 bits, blocks of 32", "blocks", 4, block=32),
                Method("4 bits, blocks of 16", "blocks", 4, block=16),
            )
            return Menu((*fours, *_BLOCKS), _ENTRIES, smallest=True)
        case "fp16" | "bf16":
            return Menu((Method(target, "stored", 16),), Method(target, "stored", 16), smallest=True)
    raise ConfigError(f"--to: {target!r} is none of {', '.join(TARGETS)}")
