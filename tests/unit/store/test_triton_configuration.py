import json
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import json_format
from hypothesis import given
from hypothesis import strategies as st

from sluice.pb import model_config_pb2
from sluice.spec import DATATYPES, ModelSpec, TensorSpec
from sluice.store import pbtxt
from sluice.store.settings import ModelSettings, VersionPolicy, WarmUp, WarmUpInput, combine
from sluice.store.triton import configuration


def _spec(rows: int = 8, **changes: Any) -> ModelSpec:
    batch = 0 if rows else None
    inputs = (
        TensorSpec("ids", "INT64", (-1, -1), batch, 1),
        TensorSpec("mask", "INT64", (-1, -1), batch, 1, fill=1),
        TensorSpec("text", "BYTES", (-1,), batch),
    )
    outputs = (TensorSpec("y", "FP32", (-1, 384), batch), TensorSpec("c", "BF16", (3,)))
    return ModelSpec("m", "1", "onnxruntime_onnx", "onnxruntime", inputs, outputs, rows, **changes)


def _parsed(config: dict[str, Any]) -> model_config_pb2.ModelConfig:
    return json_format.ParseDict(json.loads(json.dumps(config)), model_config_pb2.ModelConfig())


def test_a_live_version() -> None:
    assert configuration(_spec(), ModelSettings("m")) == {
        "name": "m",
        "platform": "onnxruntime_onnx",
        "backend": "onnxruntime",
        "version_policy": {"latest": {"num_versions": 1}},
        "max_batch_size": 8,
        "input": [
            {"name": "ids", "data_type": "TYPE_INT64", "dims": [-1]},
            {"name": "mask", "data_type": "TYPE_INT64", "dims": [-1], "optional": True},
            {"name": "text", "data_type": "TYPE_STRING", "dims": []},
        ],
        "output": [
            {"name": "y", "data_type": "TYPE_FP32", "dims": [384]},
            {"name": "c", "data_type": "TYPE_BF16", "dims": [3]},
        ],
        "dynamic_batching": {
            "priority_levels": 10,
            "default_priority_level": 5,
            "default_queue_policy": {"allow_timeout_override": True},
        },
        "model_transaction_policy": {"decoupled": False},
        "response_cache": {"enable": False},
    }


def test_without_a_batch_axis_the_dims_are_the_full_shape_and_nothing_batches() -> None:
    config = configuration(_spec(rows=0), ModelSettings("m"))
    assert config["max_batch_size"] == 0
    assert config["input"][0]["dims"] == [-1, -1]
    assert "dynamic_batching" not in config
    assert "sequence_batching" not in config


def test_what_operators_say() -> None:
    settings = ModelSettings(
        "m",
        filename="net.onnx",
        instances=2,
        max_queue=16,
        queue_timeout=0.25,
        parameters={"a": "b"},
        version_policy=VersionPolicy("specific", versions=("1", "3")),
        warm_up=(WarmUp("w", (WarmUpInput("ids", "INT64", (4,)), WarmUpInput("text", "BYTES", (), "file", "f"))),),
    )
    config = configuration(_spec(), settings)
    assert config["default_model_filename"] == "net.onnx"
    assert config["instance_group"] == [{"name": "m_0", "kind": "KIND_AUTO", "count": 2}]
    assert config["parameters"] == {"a": {"string_value": "b"}}
    assert config["version_policy"] == {"specific": {"versions": [1, 3]}}
    policy = config["dynamic_batching"]["default_queue_policy"]
    assert (policy["max_queue_size"], policy["default_timeout_microseconds"]) == (16, 250_000)
    message = _parsed(config)
    assert message.model_warmup[0].inputs["ids"].zero_data
    assert message.model_warmup[0].inputs["text"].input_data_file == "f"
    gpus = configuration(_spec(), ModelSettings("m", gpus=(1,)))
    assert gpus["instance_group"] == [{"name": "m_0", "kind": "KIND_GPU", "count": 1, "gpus": [1]}]


def test_what_config_pbtxt_says_is_repeated_unless_the_live_version_knows_better(tmp_path: Path) -> None:
    path = tmp_path / "m/config.pbtxt"
    path.parent.mkdir()
    path.write_text(
        """name: "m" max_batch_size: 4 optimization { priority: PRIORITY_MAX }
        input { name: "ids" data_type: TYPE_INT64 dims: [ 16 ] }
        dynamic_batching { preferred_batch_size: [ 4 ] max_queue_delay_microseconds: 5 }
        instance_group { count: 1 kind: KIND_CPU }
        response_cache { enable: true } metric_tags { key: "a" value: "b" } version_policy { all { } }"""
    )
    config = configuration(_spec(), combine("m", pbtxt.read(path), {"version_policy": VersionPolicy("latest", 2)}))
    assert config["max_batch_size"] == 8
    assert config["input"][0]["dims"] == [-1]
    assert config["optimization"] == {"priority": "PRIORITY_MAX"}
    assert config["metric_tags"] == {"a": "b"}
    assert config["instance_group"] == [{"count": 1, "kind": "KIND_CPU"}]
    assert config["dynamic_batching"]["max_queue_delay_microseconds"] == 5
    assert config["response_cache"] == {"enable": False}
    assert config["version_policy"] == {"latest": {"num_versions": 2}}
    _parsed(config)


def test_unset_batching_stays_away_even_if_it_was_written(tmp_path: Path) -> None:
    settings = ModelSettings("m", triton={"dynamic_batching": {}, "optimization": {}})
    config = configuration(_spec(rows=0), settings)
    assert config.keys().isdisjoint({"dynamic_batching", "optimization"})


@pytest.mark.parametrize(
    "policy", [VersionPolicy("all"), VersionPolicy("latest", 3), VersionPolicy("specific", 1, ("7",))]
)
def test_version_policies(policy: VersionPolicy) -> None:
    message = _parsed(configuration(_spec(), ModelSettings("m", version_policy=policy)))
    assert message.version_policy.WhichOneof("policy_choice") == policy.kind


@given(
    st.lists(st.tuples(st.sampled_from(sorted(DATATYPES)), st.lists(st.integers(-1, 1 << 40), max_size=3)), max_size=3),
    st.integers(0, 1 << 20),
)
def test_every_spec_is_a_model_config(tensors: list[tuple[str, list[int]]], rows: int) -> None:
    specs = tuple(
        TensorSpec(f"t{index}", datatype, (-1, *dims), 0 if rows else None)
        for index, (datatype, dims) in enumerate(tensors)
    )
    spec = ModelSpec("m", "1", "python", "python", specs, specs, rows)
    message = _parsed(configuration(spec, ModelSettings("m")))
    for tensor, written in zip(specs, message.input, strict=True):
        assert written.name == tensor.name
        assert pbtxt.datatype(model_config_pb2.DataType.Name(written.data_type)) == tensor.datatype
        assert tuple(written.dims) == (tensor.shape[1:] if rows else tensor.shape)
    assert message.HasField("dynamic_batching") == (rows > 0)
