"""Writes a live version's configuration in Triton's JSON form, as clients read it.

The law: clients decide by the presence of keys. A key is there with a meaning, or not at all; 64-bit integers are JSON
numbers; names equal those in the metadata; what the operator wrote is repeated unless the live version knows better.
"""

from typing import Any

from sluice.spec import BYTES, ModelSpec, TensorSpec
from sluice.store.settings import ModelSettings, VersionPolicy

# Written from the live version below, so never repeated from the file.
_LIVE = frozenset(
    {
        "name",
        "platform",
        "backend",
        "version_policy",
        "max_batch_size",
        "input",
        "output",
        "dynamic_batching",
        "parameters",
    }
)


def configuration(spec: ModelSpec, settings: ModelSettings) -> dict[str, Any]:
    """The configuration of one live version: fit for `json.dumps` and for `json_format.ParseDict` into ModelConfig."""
    written = {key: value for key, value in settings.triton.items() if value and key not in _LIVE}
    result: dict[str, Any] = {
        "name": spec.name,
        "platform": spec.platform,
        "backend": spec.backend,
        "version_policy": _policy(settings.version_policy),
        "max_batch_size": spec.max_batch_rows,
        "input": [_input(tensor, spec) for tensor in spec.inputs],
        "output": [_tensor(tensor, spec) for tensor in spec.outputs],
        **written,
        "model_transaction_policy": {"decoupled": False},
        "response_cache": {"enable": False},
    }
    if settings.filename:
        result["default_model_filename"] = settings.filename
    if spec.batched:
        result["dynamic_batching"] = _batching(settings)
    if "instance_group" not in written and (settings.instances or settings.gpus):
        result["instance_group"] = [_instances(settings)]
    if settings.parameters:
        result["parameters"] = {key: {"string_value": value} for key, value in settings.parameters.items()}
    if settings.warm_up and "model_warmup" not in written:
        result["model_warmup"] = _warm_up(settings)
    return result


def type_name(datatype: str) -> str:
    """Triton's name of a protocol datatype."""
    return "TYPE_STRING" if datatype == BYTES else f"TYPE_{datatype}"


def _policy(policy: VersionPolicy) -> dict[str, Any]:
    if policy.kind == "all":
        return {"all": {}}
    if policy.kind == "specific":
        return {"specific": {"versions": [int(version) for version in policy.versions]}}
    return {"latest": {"num_versions": policy.count}}


def _tensor(tensor: TensorSpec, spec: ModelSpec) -> dict[str, Any]:
    dims = [size for axis, size in enumerate(tensor.shape) if not (spec.batched and axis == tensor.batch_axis)]
    return {"name": tensor.name, "data_type": type_name(tensor.datatype), "dims": dims}


def _input(tensor: TensorSpec, spec: ModelSpec) -> dict[str, Any]:
    return _tensor(tensor, spec) | ({"optional": True} if tensor.fill is not None else {})


def _batching(settings: ModelSettings) -> dict[str, Any]:
    written = settings.triton.get("dynamic_batching", {})
    policy = dict(written.get("default_queue_policy", {}))
    if settings.max_queue:
        policy["max_queue_size"] = settings.max_queue
    if settings.queue_timeout:
        policy["default_timeout_microseconds"] = round(settings.queue_timeout * 1e6)
    return {
        **written,
        "priority_levels": settings.priority_levels,
        "default_priority_level": settings.default_priority,
        "default_queue_policy": {**policy, "allow_timeout_override": True},
    }


def _instances(settings: ModelSettings) -> dict[str, Any]:
    group: dict[str, Any] = {"name": f"{settings.name}_0", "kind": "KIND_GPU" if settings.gpus else "KIND_AUTO"}
    group["count"] = settings.instances or 1
    return group | ({"gpus": list(settings.gpus)} if settings.gpus else {})


def _warm_up(settings: ModelSettings) -> list[dict[str, Any]]:
    samples = []
    for sample in settings.warm_up:
        inputs = {}
        for tensor in sample.inputs:
            source: dict[str, Any] = {f"{tensor.source}_data": True}
            if tensor.source == "file":
                source = {"input_data_file": tensor.file}
            inputs[tensor.name] = {"data_type": type_name(tensor.datatype), "dims": list(tensor.shape), **source}
        samples.append({"name": sample.name, "batch_size": sample.rows, "inputs": inputs, "count": sample.repeat})
    return samples
