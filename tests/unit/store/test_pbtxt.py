import contextlib
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluice.errors import ModelError
from sluice.store import pbtxt
from sluice.store.settings import ModelSettings, TensorSettings, VersionPolicy, WarmUp, WarmUpInput, combine


def _read(directory: Path, text: str) -> ModelSettings:
    path = directory / "m" / "config.pbtxt"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    return combine("m", pbtxt.read(path))


def test_an_ordinary_configuration(tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "m/labels.txt").write_text("cat\ndog\n")
    settings = _read(
        tmp_path,
        """
        name: "m"  # the directory's
        platform: "onnxruntime_onnx"
        default_model_filename: "net.onnx"
        max_batch_size: 8
        input [ { name: "x" data_type: TYPE_INT64 dims: [ -1 ] }, { name: "s" data_type: TYPE_STRING dims: [ 1 ] } ]
        output { name: "y" data_type: TYPE_FP32 dims: [ 2 ] label_filename: "labels.txt" }
        version_policy: { latest: { num_versions: 2 } }
        instance_group [ { count: 2 kind: KIND_CPU } ]
        dynamic_batching {
          priority_levels: 3
          default_priority_level: 2
          default_queue_policy { max_queue_size: 16 default_timeout_microseconds: 2500 }
        }
        parameters { key: "a" value { string_value: "1" } }
        model_warmup [ {
          name: "one" batch_size: 4 count: 2
          inputs { key: "x" value { data_type: TYPE_INT64 dims: [ 5 ] random_data: true } }
          inputs { key: "s" value { data_type: TYPE_STRING dims: [ 1 ] input_data_file: "s.bin" } }
        } ]
        """,
    )
    assert settings.notes == ()
    assert settings == ModelSettings(
        name="m",
        backend="onnxruntime",
        filename="net.onnx",
        inputs=(
            TensorSettings("x", "INT64", (-1,), reshape_batch=True),
            TensorSettings("s", "BYTES", (1,), reshape_batch=True),
        ),
        outputs=(TensorSettings("y", "FP32", (2,), labels=("cat", "dog"), reshape_batch=True),),
        max_batch_rows=8,
        max_queue=16,
        queue_timeout=0.0025,
        priority_levels=3,
        default_priority=2,
        instances=2,
        version_policy=VersionPolicy("latest", 2),
        warm_up=(
            WarmUp(
                "one",
                (WarmUpInput("s", "BYTES", (1,), "file", "s.bin"), WarmUpInput("x", "INT64", (5,), "random")),
                rows=4,
                repeat=2,
            ),
        ),
        parameters={"a": "1"},
        triton=settings.triton,
    )
    assert settings.triton["input"][0] == {"name": "x", "data_type": "TYPE_INT64", "dims": [-1]}
    assert settings.triton["dynamic_batching"]["default_queue_policy"]["default_timeout_microseconds"] == 2500
    assert settings.triton["parameters"] == {"a": {"string_value": "1"}}
    json.dumps(settings.triton)


def test_the_json_of_a_load_request_says_the_same(tmp_path: Path) -> None:
    text = """max_batch_size: 4 input { name: "x" data_type: TYPE_FP32 dims: [ 3 ] }
        version_policy { specific { versions: [ 1, 3 ] } } backend: "python" """
    document = {
        "max_batch_size": 4,
        "input": [{"name": "x", "data_type": "TYPE_FP32", "dims": ["3"]}],
        "versionPolicy": {"specific": {"versions": [1, "3"]}},
        "backend": "python",
    }
    settings = _read(tmp_path, text)
    assert combine("m", pbtxt.read_json(json.dumps(document), tmp_path / "m")) == settings
    assert settings.version_policy == VersionPolicy("specific", versions=("1", "3"))
    assert settings.backend == "python"


@pytest.mark.parametrize(
    ("text", "rows", "shape", "reshape"),
    [
        ("max_batch_size: 2 %s", 2, (3,), True),
        ("max_batch_size: 0 %s", 0, (3,), False),
        ("%s", 0, (3,), False),
        ("# max_batch_size: 2\n%s", 0, (3,), False),
        ("", None, None, False),
        ("max_batch_size: 0", 0, None, False),
    ],
)
def test_without_a_batch_the_dims_are_the_full_shape(
    tmp_path: Path, text: str, rows: int | None, shape: tuple[int, ...] | None, reshape: bool
) -> None:
    settings = _read(tmp_path, text.replace("%s", 'input { name: "x" data_type: TYPE_FP32 dims: [ 3 ] }'))
    assert settings.max_batch_rows == rows
    assert [(tensor.shape, tensor.reshape_batch) for tensor in settings.inputs] == ([(shape, reshape)] if shape else [])


def test_the_models_own_shape_counts_where_it_is_another_than_the_clients(tmp_path: Path) -> None:
    text = """max_batch_size: 2
        input { name: "x" data_type: TYPE_FP32 dims: [ 1 ] reshape { shape: [ ] } }
        output { name: "y" data_type: TYPE_FP32 dims: [ 4 ] reshape { shape: [ 4 ] } }"""
    settings = _read(tmp_path, text)
    assert (settings.inputs[0].shape, settings.outputs[0].shape) == ((), (4,))
    (note,) = settings.notes
    assert note == "config.pbtxt: input 'x': reshape: tensors are sent in the model's own shape []"


@pytest.mark.parametrize(
    ("groups", "instances", "gpus"),
    [
        ("{ kind: KIND_CPU }", 0, ()),
        ("{ count: 1 }", 1, ()),
        ("{ count: 1 kind: KIND_CPU }, { count: 2 kind: KIND_CPU }", 3, ()),
        ("{ kind: KIND_GPU count: 1 }", 0, ()),
        ("{ kind: KIND_GPU gpus: [ 1, 0 ] }, { gpus: [ 1, 2 ] }", 0, (1, 0, 2)),
        ("{ count: 1 }, { passive: true count: 5 }", 1, ()),
    ],
)
def test_instance_groups(tmp_path: Path, groups: str, instances: int, gpus: tuple[int, ...]) -> None:
    settings = _read(tmp_path, f"instance_group [ {groups} ]")
    assert (settings.instances, settings.gpus) == (instances, gpus)


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("optimization { priority: PRIORITY_MAX }", "optimization"),
        ("response_cache { enable: true }", "response_cache"),
        ("dynamic_batching { preferred_batch_size: [ 4 ] }", "dynamic_batching: preferred_batch_size"),
        ("dynamic_batching { max_queue_delay_microseconds: 100 }", "dynamic_batching: max_queue_delay_microseconds"),
        ("dynamic_batching { default_queue_policy { timeout_action: DELAY } }", "dynamic_batching: timeout_action"),
        ("dynamic_batching { priority_queue_policy { key: 1 value { } } }", "dynamic_batching: priority_queue_policy"),
        ("instance_group { kind: KIND_GPU count: 2 }", "instance_group: count"),
        ("instance_group { host_policy: 'x' }", "instance_group: host_policy"),
        ("max_batch_size: 1 input { name: 'x' allow_ragged_batch: true }", "input 'x': allow_ragged_batch"),
        ("max_batch_size: 1 input { name: 'x' optional: true }", "input 'x': optional"),
        ("input { name: 'x' }", "max_batch_size"),
        ("metric_tags { key: 'a' value: 'b' }", "metric_tags"),
        ("model_operations { op_library_filename: 'x.so' }", "model_operations"),
    ],
)
def test_what_has_no_effect_is_noted(tmp_path: Path, text: str, field: str) -> None:
    (note,) = _read(tmp_path, text).notes
    assert note.startswith(f"config.pbtxt: {field}: ")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("\nmax_batch: 3", "m/config.pbtxt, line 2: unknown field 'max_batch'; did you mean 'max_batch_size'?"),
        ("input {\n dim: 3 }", "m/config.pbtxt, line 2: unknown field 'dim'; did you mean 'dims'?"),
        ("name: 3", "m/config.pbtxt, line 1: 'name: 3': Expected string"),
        ("input [", "m/config.pbtxt, line 1: "),
        ("\nbackend: 'tensorrt'", "line 2: backend: backend 'tensorrt' is not available here"),
        ("platform: 'pytorch_libtorch'", "line 1: platform: backend 'pytorch_libtorch' is not available here"),
        ("platform: 'ensemble'", "line 1: platform: ensembles are not served here"),
        ("ensemble_scheduling { }", "line 1: ensemble_scheduling: ensembles are not served here"),
        ("sequence_batching { }", "line 1: sequence_batching: models that keep a state"),
        ("model_transaction_policy {\n decoupled: true }", "line 2: decoupled: models that answer"),
        ("batch_input { kind: BATCH_ELEMENT_COUNT }", "line 1: batch_input: inputs made from the batch"),
        ("\nname: 'other'", "line 2: name: 'other' is not the directory's name 'm'"),
        ("max_batch_size: -1", "line 1: max_batch_size: must be at least 0, not -1"),
        ("default_model_filename: '/etc/passwd'", "line 1: default_model_filename: must be a file name inside"),
        ("version_policy { specific { } }", "line 1: specific: must list at least one version"),
        ("input { dims: [ 1 ] }", "line 1: input: name is missing"),
        ("input { name: 'a' }\ninput { name: 'b' }\ninput { name: 'a' }", "line 1: input: 'a' is described twice"),
        ("input { name: 'a' }\ninput { name: 'b' dims: [ -2 ] }", "line 2: dims: input 'b': sizes must be at least 0"),
        ("input { name: 'a' data_type: 99 }", "m/config.pbtxt, line 1: "),
        ("output { name: 'a' label_filename: 'x.txt' }", "line 1: label_filename: 'x.txt' cannot be read"),
        ("output { name: 'a' label_filename: '../../x' }", "line 1: label_filename: must be a file name inside"),
        (
            "model_warmup { inputs { key: 'a' value { dims: [ 1 ] } } }",
            "line 1: model_warmup: model_warmup '': input 'a'",
        ),
        (
            "model_warmup { inputs { key: 'a' value { data_type: TYPE_BOOL input_data_file: '../x' } } }",
            "line 1: input_data_file: ",
        ),
        ("input { " * 200, "m/config.pbtxt"),
    ],
)
def test_errors_say_where_and_why(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ModelError) as error:
        _read(tmp_path, text)
    assert message in error.value.message


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({"nam": 1}, "the load request's config: unknown field 'nam'; did you mean 'name'?"),
        ({"version_policy": "\ud800"}, "the load request's config: not valid JSON: "),
        ({"input": [{"dim": 1}]}, "unknown field 'dim'; did you mean 'dims'?"),
        ({"max_batch_size": "x"}, "the load request's config: Failed to parse max_batch_size field"),
        ({"input": [{"name": "a", "data_type": 99}]}, "data_type: input 'a': unknown data type 99"),
        ({"max_batch_size": 1 << 40}, "the load request's config: "),
        ({"output": [{"name": "a", "label_filename": "/etc/passwd"}]}, "label_filename: must be a file name inside"),
    ],
)
def test_errors_in_the_json_of_a_load_request(tmp_path: Path, document: object, message: str) -> None:
    with pytest.raises(ModelError) as error:
        pbtxt.read_json(json.dumps(document), tmp_path / "m")
    assert message in error.value.message


_WORDS = st.sampled_from(
    [
        "name",
        "input",
        "dims",
        ":",
        "{",
        "}",
        "[",
        "]",
        "'x'",
        "1",
        "-1",
        "max_batch_size",
        "#",
        "data_type",
        "99",
        "TYPE_FP32",
        "output",
        "reshape",
        "model_warmup",
        "inputs",
        "key",
        "value",
        "instance_group",
        "count",
    ]
)


@given(st.lists(_WORDS | st.just("\n") | st.just("\ud800"), max_size=12).map(" ".join))
def test_no_file_makes_it_raise_anything_else(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    with contextlib.suppress(ModelError):
        _read(tmp_path_factory.getbasetemp(), text)


_JSON = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(), st.sampled_from(["x", "TYPE_FP32", "-1", "\ud800"])
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.sampled_from(["name", "input", "dims", "data_type", "parameters", "version_policy", "specific", "x"]),
            inner,
        ),
    ),
    max_leaves=8,
)


@given(_JSON)
def test_no_json_makes_it_raise_anything_else(document: object) -> None:
    with contextlib.suppress(ModelError):
        pbtxt.read_json(json.dumps(document), Path("m"))
