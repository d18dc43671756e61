"""How the server and its models describe themselves; both protocols answer metadata requests from here."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from sluice import __version__

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sluice.config.settings import Server
    from sluice.health import Report
    from sluice.inventory import ModelMetadata
    from sluice.spec import TensorSpec

SERVER_NAME = "sluice"

# Only what is served: clients change their behaviour by this list (perf_analyzer diffs statistics when it names them).
EXTENSIONS = (
    "classification",
    "model_repository",
    "model_repository(unload_dependents)",
    "schedule_policy",
    "model_configuration",
    "system_shared_memory",
    "binary_tensor_data",
    "parameters",
    "statistics",
    "trace",
    "logging",
)


def extensions(limits: Server) -> list[str]:
    """The extensions served under these settings."""
    return [name for name in EXTENSIONS if limits.shared_memory or name != "system_shared_memory"]


def server_metadata(limits: Server) -> dict[str, Any]:
    """ServerMetadataResponse in JSON form."""
    return {"name": SERVER_NAME, "version": __version__, "extensions": extensions(limits)}


def health(report: Report) -> dict[str, Any]:
    """The whole state of the server, for its operator."""
    return {
        "ready": report.ready,
        "reasons": report.reasons,
        "version": __version__,
        "pid": os.getpid(),
        "uptime": round(report.uptime, 3),
        "parts": [
            {"kind": part.kind, "name": part.name, "condition": part.condition.value, "reason": part.reason}
            for part in report.parts
        ],
    }


def model_metadata(metadata: ModelMetadata) -> dict[str, Any]:
    """ModelMetadataResponse in JSON form; `properties` only when there are some."""
    described: dict[str, Any] = {
        "name": metadata.name,
        "versions": list(metadata.versions),
        "platform": metadata.platform,
        "inputs": _tensors(metadata.inputs),
        "outputs": _tensors(metadata.outputs),
    }
    if metadata.properties:
        described["properties"] = dict(metadata.properties)
    return described


def _tensors(specs: Iterable[TensorSpec]) -> list[dict[str, Any]]:
    return [{"name": spec.name, "datatype": spec.datatype, "shape": list(spec.shape)} for spec in specs]
