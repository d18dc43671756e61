"""The wire definitions agree with those that clients were built from, and live beside them in one process."""

import subprocess
import sys
from pathlib import Path

import pytest
from google.protobuf import text_format

from sluice.pb import health_pb2
from sluice.pb.model_config_pb2 import ModelConfig

ROOT = Path(__file__).resolve().parents[4]

OURS = "from sluice.pb import inference_pb2, model_config_pb2, health_pb2"
THEIRS = "from tritonclient.grpc import service_pb2, model_config_pb2 as their_config_pb2"

COMPARE = """
from sluice.pb.pool import POOL

def described(field):
    label = getattr(field, "is_repeated", None)
    kind = field.message_type or field.enum_type
    oneof = field.containing_oneof
    return (field.number, field.type, label, kind and kind.full_name, oneof and oneof.name, field.has_presence,
            field.is_packed)

def compare_messages(theirs):
    ours = POOL.FindMessageTypeByName(theirs.full_name)
    mine = {field.name: described(field) for field in ours.fields}
    for field in theirs.fields:
        assert mine.pop(field.name) == described(field), field.full_name
    assert not mine or (theirs.name, set(mine)) == ("ModelMetadataResponse", {"properties"}), (theirs.full_name, mine)
    for nested in theirs.nested_types:
        compare_messages(nested)
    for enum in theirs.enum_types:
        compare_enums(enum)

def compare_enums(theirs):
    ours = POOL.FindEnumTypeByName(theirs.full_name)
    assert [(v.name, v.number) for v in ours.values] == [(v.name, v.number) for v in theirs.values], theirs.full_name

compared = 0
for file in (service_pb2.DESCRIPTOR, their_config_pb2.DESCRIPTOR):
    for message in file.message_types_by_name.values():
        compare_messages(message)
        compared += 1
    for enum in file.enum_types_by_name.values():
        compare_enums(enum)
    for service in file.services_by_name.values():
        ours = POOL.FindServiceByName(service.full_name)
        def rpcs(service):
            return {m.name: (m.input_type.full_name, m.output_type.full_name, m.client_streaming, m.server_streaming)
                    for m in service.methods}
        assert rpcs(ours) == rpcs(service)
        assert len(ours.methods) == 20
print(compared)
"""


@pytest.mark.parametrize("imports", [(OURS, THEIRS), (THEIRS, OURS)], ids=["ours-first", "theirs-first"])
def test_equal_to_the_clients_definitions_in_one_process(imports: tuple[str, str]) -> None:
    script = "\n".join([*imports, COMPARE])
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 50


def test_generated_code_is_up_to_date(tmp_path: Path) -> None:
    script = ROOT / "protos" / "generate.py"
    done = subprocess.run([sys.executable, script, tmp_path], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    for fresh in tmp_path.iterdir():
        assert fresh.read_text() == (ROOT / "server" / "sluice" / "pb" / fresh.name).read_text(), fresh.name


def test_health_is_the_standard_one() -> None:
    request = health_pb2.HealthCheckRequest.DESCRIPTOR
    response = health_pb2.HealthCheckResponse.DESCRIPTOR
    assert request.full_name == "grpc.health.v1.HealthCheckRequest"
    assert [(f.name, f.number, f.type) for f in request.fields] == [("service", 1, request.fields[0].TYPE_STRING)]
    assert [(f.name, f.number, f.type) for f in response.fields] == [("status", 1, response.fields[0].TYPE_ENUM)]
    assert health_pb2.HealthCheckResponse.ServingStatus.items() == [
        ("UNKNOWN", 0),
        ("SERVING", 1),
        ("NOT_SERVING", 2),
        ("SERVICE_UNKNOWN", 3),
    ]


CONFIG = """
name: "everything"
platform: "onnxruntime_onnx"
max_batch_size: 8
version_policy: { specific { versions: [1, 3] } }
input [
  { name: "ids" data_type: TYPE_INT64 dims: [ -1 ] allow_ragged_batch: true },
  { name: "image" data_type: TYPE_FP16 format: FORMAT_NCHW dims: [ 3, 224, 224 ] reshape { shape: [ 3, 224, 224 ] } }
]
output { name: "scores" data_type: TYPE_FP32 dims: 10 label_filename: "labels.txt" }
batch_input { kind: BATCH_ACCUMULATED_ELEMENT_COUNT target_name: "n" data_type: TYPE_FP32 source_input: "ids" }
instance_group [ { count: 2 kind: KIND_GPU gpus: [ 0, 1 ] rate_limiter { resources { name: "R" global: true } } } ]
dynamic_batching {
  preferred_batch_size: [ 4, 8 ]
  max_queue_delay_microseconds: 100
  default_queue_policy { timeout_action: DELAY max_queue_size: 7 }
  priority_queue_policy { key: 1 value { default_timeout_microseconds: 5 } }
}
optimization {
  cuda { graphs: true graph_spec { batch_size: 1 input { key: "ids" value { dim: [ 3 ] } } } }
  execution_accelerators { gpu_execution_accelerator: [ { name: "tensorrt" parameters { key: "a" value: "b" } } ] }
}
model_warmup [ { name: "w" inputs { key: "ids" value { data_type: TYPE_INT64 dims: 5 zero_data: true } } } ]
parameters: { key: "EXECUTION_ENV" value: { string_value: "env.tar.gz" } }
response_cache { enable: true }
model_transaction_policy { decoupled: false }
"""


def test_a_rich_config_pbtxt_parses() -> None:
    config = text_format.Parse(CONFIG, ModelConfig())
    assert list(config.version_policy.specific.versions) == [1, 3]
    assert config.dynamic_batching.priority_queue_policy[1].default_timeout_microseconds == 5
    assert config.WhichOneof("scheduling_choice") == "dynamic_batching"
    assert config.model_warmup[0].inputs["ids"].zero_data
