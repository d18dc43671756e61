"""What clients are told about models: what each takes and gives, its versions with their states, and what they did.

Nothing is changed here; everything is read from the versions at the moment of asking.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from sluice.health import Part
from sluice.spec import TensorSpec
from sluice.store import triton
from sluice.telemetry.statistics import ModelStatistics
from sluice.versions import READY, UNAVAILABLE, UNLOADED, UNLOADING, Versions


@dataclass(frozen=True)
class IndexRow:
    """One line of the repository index."""

    name: str
    version: str
    state: str
    reason: str


@dataclass(frozen=True)
class ModelMetadata:
    """What clients are told about a model."""

    name: str
    versions: tuple[str, ...]
    platform: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    properties: dict[str, str]


@dataclass(frozen=True)
class Aliases:
    """What the versions of a model are called."""

    model: str
    aliases: dict[str, str]
    default: str  # the version that answers requests that name none; "" while there is none


class Inventory:
    """Reads the versions for whoever asks."""

    def __init__(self, versions: Versions) -> None:
        self._versions = versions
        self._models = versions.by_model

    def metadata(self, name: str, version: str = "") -> ModelMetadata:
        found = self._versions.live(name, version)
        spec = found.spec
        statuses = self._models[name]
        ready = sorted((number for number, status in statuses.items() if status.state == READY), key=int)
        properties = {"backend": spec.backend, "padding": spec.padding.value}
        if found.padding_reason:
            properties["padding_reason"] = found.padding_reason
        if found.text is not None:  # not among the inputs: who sends all of those would send it beside the tensors
            properties["text"] = found.text.profile.task
        properties["circuit"] = found.circuit.phase.value
        if found.circuit.reason:
            properties["circuit_reason"] = found.circuit.reason
        if found.files.settings.fallback:
            properties["fallback"] = found.files.settings.fallback
            if trouble := self._versions.stand_in(found).trouble:
                properties["fallback_trouble"] = trouble
        return ModelMetadata(name, tuple(ready), spec.platform, spec.inputs, spec.outputs, properties)

    def configuration(self, name: str, version: str = "") -> dict[str, Any]:
        found = self._versions.live(name, version)
        return triton.configuration(found.spec, found.files.settings)

    def statistics(self, name: str = "", version: str = "") -> list[ModelStatistics]:
        if name and version:
            return [self._versions.live(name, version).record.statistics]
        names = [name] if name else sorted(self._models)
        return [
            status.version.record.statistics
            for one in names
            for _, status in sorted(self._versions.known(one).items(), key=lambda item: int(item[0] or 0))
            if status.version is not None
        ]

    def index(self, ready: bool = False) -> list[IndexRow]:
        """Every version that is known; what was unloaded and then deleted is forgotten first."""
        on_disk = self._versions.names_on_disk()
        self._versions.forget_deleted(on_disk)
        rows = [
            IndexRow(name, number, status.state, self._versions.remark(status))
            for name, statuses in self._models.items()
            for number, status in statuses.items()
        ]
        rows += [IndexRow(name, "", UNAVAILABLE, "not loaded") for name in on_disk if name not in self._models]
        rows = [row for row in rows if row.state == READY] if ready else rows
        return sorted(rows, key=lambda row: (row.name, int(row.version or 0)))

    def parts(self) -> list[Part]:
        """The condition of every version that is or should be live."""
        return [
            self._versions.part(f"{name}/{number}" if number else name, status)
            for name, statuses in self._models.items()
            for number, status in statuses.items()
            if status.state != UNLOADING and status.reason != UNLOADED and not status.gave_way
        ]

    def in_use(self) -> Iterator[tuple[str, str, str]]:
        """Model, version and alias of what answers; the alias of what answers requests that name nothing is empty."""
        for name, statuses in self._models.items():
            if default := self._versions.default(name):
                yield name, default, ""
            for alias, number in self._versions.aliases(name).items():
                if number in statuses and statuses[number].state == READY:
                    yield name, number, alias
