"""The ways in which a layer can be computed with fewer bits, and which of them each target may use."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Way = Literal["rows", "static", "dynamic", "blocks", "stored", "entries"]


@dataclass(frozen=True, slots=True)
class Method:
    """One way.

    rows: a product in bytes, whose input gets a scale for each row, found while it runs
    static: the same with one scale, found beforehand on calibration data
    dynamic: the same with one scale for the whole batch, found while it runs
    blocks: weights with a scale for each block of them; the input is rounded in blocks as well
    stored: 16-bit weights, widened when the model is loaded
    entries: a table of bytes with a scale for each entry
    """

    name: str
    way: Way
    bits: int = 8
    unsigned: bool = False
    block: int = 0
    calibrated: bool = False  # rows: with factors for channels, and a byte for zero, found on calibration data


@dataclass(frozen=True, slots=True)
class Menu:
    """What a search may choose from."""

    methods: tuple[Method, ...]  # for products; exact ones and quick ones, in any order
    table: Method | None = None
    compared: tuple[Method, ...] = ()  # measured and shown, never chosen
    smallest: bool = False  # what counts is the size, not the speed

    @property
    def calibrated(self) -> bool:
        """Whether it needs to be known beforehand what the layers' inputs are."""
        return any(method.way == "static" or method.calibrated for method in (*self.methods, *self.compared))
