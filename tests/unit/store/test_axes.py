import json
import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper

from sluice.backends.base import Source
from sluice.backends.ort import OnnxRuntimeBackend
from sluice.errors import ModelError
from sluice.spec import ModelSpec, Padding, Port, Signature, TensorSpec
from sluice.store.axes import build_spec, signature_from_settings
from sluice.store.repository import VersionFiles
from sluice.store.settings import ModelSettings, TensorSettings

Dims = tuple[int | str | None, ...]
NOWHERE = Path("/nonexistent")


def _ports(dims: Mapping[str, Dims]) -> tuple[Port, ...]:
    return tuple(Port(name, "FP32" if name.isupper() else "INT64", dim) for name, dim in dims.items())


def _spec(inputs: Mapping[str, Dims], outputs: Mapping[str, Dims], /, **settings: Any) -> ModelSpec:
    directory = settings.pop("directory", NOWHERE)
    files = VersionFiles("m", "1", directory, directory / "model.onnx", "onnxruntime", ModelSettings("m", **settings))
    return build_spec(files, Signature("onnxruntime_onnx", _ports(inputs), _ports(outputs)), 64)


def _axes(spec: ModelSpec) -> dict[str, tuple[int | None, int | None]]:
    return {tensor.name: (tensor.batch_axis, tensor.sequence_axis) for tensor in (*spec.inputs, *spec.outputs)}


B, S = "batch", "sequence"
# (inputs, outputs, the batch and sequence axis of each tensor)
_GRAPHS: dict[str, tuple[dict[str, Dims], dict[str, Dims], list[tuple[int | None, int | None]]]] = {
    "an encoder": (
        {"input_ids": (B, S), "attention_mask": (B, S)},
        {"STATES": (B, S, 384), "POOLED": (B, 384)},
        [(0, 1), (0, 1), (0, 1), (0, None)],
    ),
    "images": ({"X": ("N", 3, 224, 224)}, {"Y": ("N", 1000)}, [(0, None), (0, None)]),
    "images of any size": ({"X": ("N", 3, "height", "width")}, {"Y": ("N", 10)}, [(0, None), (0, None)]),
    "speech": ({"X": (B, "time", 80)}, {"Y": (B, "T", 40)}, [(0, 1), (0, 1)]),
    "speech, downsampled": ({"X": (B, "T", 80)}, {"Y": (B, "T_out", 40)}, [(0, 1), (0, None)]),
    "nameless tokens": (
        {"input_ids": (None, None), "attention_mask": (None, None)},
        {"Y": (None, None, 4)},
        [(0, 1), (0, 1), (0, None)],
    ),
    "tokens of TensorFlow": (
        {"input_ids:0": ("unk__1", "unk__2"), "input_mask:0": ("unk__3", "unk__4")},
        {"Y": ("unk__1", "unk__2", 4), "Z": ("unk__9", 2)},
        [(0, 1), (0, 1), (0, 1), (0, None)],
    ),
    "symbols of torch.export": (
        {"input_ids": ("s0", "s1"), "attention_mask": ("s0", "s1")},
        {"Y": ("s0", "s1", 4)},
        [(0, 1), (0, 1), (0, 1)],
    ),
    "only one is named": (
        {"input_ids": (None, None), "attention_mask": (B, S)},
        {"Y": (B, S, 4)},
        [(0, 1), (0, 1), (0, 1)],
    ),
    "nameless axes of another input": ({"X": (None, None)}, {"Y": (None, None)}, [(0, None), (0, None)]),
    "a fixed batch": ({"input_ids": (1, S)}, {"Y": (1, S)}, [(None, 1), (None, 1)]),
    "a fixed length": ({"input_ids": (B, 128)}, {"Y": (B, 128)}, [(0, None), (0, None)]),
    "a stream of tokens": ({"x": ("num_tokens",)}, {"y": ("num_tokens",)}, [(None, 0), (None, 0)]),
    "sequence first": ({"X": (S, B, 8)}, {"Y": (S, B, 8)}, [(None, 0), (None, 0)]),
    "two batches": (
        {"input_ids": ("text_batch", S), "X": ("image_batch", 3)},
        {"Y": ("text_batch", "image_batch")},
        [(None, 1), (None, None), (None, None)],
    ),
    "rows that meet": ({"X": (B, 8)}, {"Y": (B, B)}, [(None, None), (None, None)]),
    "a square": ({"X": ("n", "n")}, {"Y": ("n",)}, [(None, None), (None, None)]),
    "rows that are merged": ({"X": (B, 8)}, {"Y": (1, 8)}, [(None, None), (None, None)]),
    "detections": ({"X": (B, 3, 64, 64)}, {"Y": ("boxes", 6)}, [(None, None), (None, None)]),
    "a scalar beside": ({"X": (B, 8), "T": ()}, {"Y": (B, 8)}, [(None, None), (None, None), (None, None)]),
    "another name for the batch": ({"X": ("N", 8)}, {"Y": (B, 8)}, [(0, None), (0, None)]),
    "encoder and decoder": (
        {"input_ids": (B, "encoder_sequence"), "decoder_ids": (B, "decoder_sequence")},
        {"Y": (B, "decoder_sequence", 8), "Z": (B, "encoder_sequence", 8)},
        [(0, 1), (0, None), (0, None), (0, 1)],
    ),
    "a cache": (
        {"input_ids": (B, S), "attention_mask": (B, "past_sequence + sequence"), "PAST": (B, 4, "past_sequence", 8)},
        {"Y": (B, S, 8)},
        [(0, 1), (0, None), (0, None), (0, 1)],
    ),
    "a mask of both sides": (
        {"input_ids": (B, S), "MASK": (B, 1, S, S)},
        {"Y": (B, S, 8)},
        [(0, None), (0, None), (0, None)],
    ),
    "attentions": ({"input_ids": (B, S)}, {"Y": (B, 4, S, S)}, [(0, 1), (0, None)]),
    "no inputs": ({}, {"Y": (3,)}, [(None, None)]),
}


@pytest.mark.parametrize("graph", _GRAPHS)
def test_axes_of_graphs(graph: str) -> None:
    inputs, outputs, axes = _GRAPHS[graph]
    spec = _spec(inputs, outputs)
    assert list(_axes(spec).values()) == axes
    assert spec.max_batch_rows == (64 if axes[0][0] == 0 else 0)
    for tensor in (*spec.inputs, *spec.outputs):
        dims = {**inputs, **outputs}[tensor.name]
        assert tensor.shape == tuple(dim if isinstance(dim, int) else -1 for dim in dims)


def _through_onnx(path: Path, inputs: Mapping[str, Dims], outputs: Mapping[str, Dims]) -> Signature:
    """The same graph as a file, loaded by onnxruntime. Outputs have no shape but the declared one."""
    nodes = [helper.make_node("RandomUniform", [], ["source"], shape=[2])]
    nodes += [
        helper.make_node("NonZero", ["source"], ["found"]),
        helper.make_node("Constant", [], ["all"], value_ints=[-1]),
    ]
    nodes += [helper.make_node("Reshape", ["found", "all"], ["shape"])]
    nodes += [helper.make_node("Expand", ["source", "shape"], [name]) for name in outputs]
    types = {True: TensorProto.FLOAT, False: TensorProto.INT64}
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info(name, types[name.isupper()], dims) for name, dims in inputs.items()],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, dims) for name, dims in outputs.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), str(path))
    backend = OnnxRuntimeBackend()
    try:
        return backend.load(Source(path, path.parent, {}, "cpu", 1, None))
    finally:
        backend.close()


@pytest.mark.parametrize("graph", _GRAPHS)
def test_axes_of_the_same_graphs_as_onnxruntime_reads_them(graph: str, tmp_path: Path) -> None:
    inputs, outputs, axes = _GRAPHS[graph]
    path = tmp_path / "model.onnx"
    files = VersionFiles("m", "1", tmp_path, path, "onnxruntime", ModelSettings("m"))
    spec = build_spec(files, _through_onnx(path, inputs, outputs), 64)
    found = _axes(spec)
    assert [found[name] for name in (*inputs, *outputs)] == axes


def test_why_a_model_is_not_batched_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="sluice.store"):
        _spec({"X": ("batch", 8)}, {"Y": (1, 8)})
    assert "one request at a time: output 'Y' [1, 8] has no batch axis" in caplog.text


def test_everything_else_of_the_spec() -> None:
    spec = _spec(
        {"input_ids": (B, S)},
        {"Y": (B, 4), "Z": (B, S)},
        padding="equal",
        outputs=(TensorSettings("Z", default=False), TensorSettings("Y", labels=("a", "b"))),
    )
    assert (spec.name, spec.version, spec.platform, spec.backend) == ("m", "1", "onnxruntime_onnx", "onnxruntime")
    assert spec.padding is Padding.EQUAL
    assert spec.outputs == (
        TensorSpec("Y", "FP32", (-1, 4), batch_axis=0, labels=("a", "b")),
        TensorSpec("Z", "FP32", (-1, -1), batch_axis=0, sequence_axis=1, default=False),
    )
    with pytest.raises(ModelError, match="would get none"):
        _spec({"X": (B,)}, {"Y": (B,)}, outputs=(TensorSettings("Y", default=False),))


# Padding and inputs that may be left out.


def test_what_a_tokenizer_gives_may_be_left_out_where_its_ids_tell_the_shape() -> None:
    names = ("input_ids", "attention_mask", "token_type_ids", "position_ids")
    spec = _spec(dict.fromkeys(names, (B, S)), {"Y": (B, 4)})
    assert {tensor.name: tensor.fill for tensor in spec.inputs} == dict(zip(names, (None, 1, 0, None), strict=True))
    assert {tensor.pad for tensor in spec.inputs} == {0}
    fixed = _spec(dict.fromkeys(names, (B, 128)), {"Y": (B, 4)})
    assert [tensor.fill for tensor in fixed.inputs] == [None, 1, 0, None]
    alone = _spec({"attention_mask": (B, S)}, {"Y": (B, 4)})
    assert alone.inputs[0].fill is None
    other_length = _spec({"input_ids": (B, S), "attention_mask": (B, "past + sequence")}, {"Y": (B, 4)})
    assert other_length.input_by_name["attention_mask"].fill is None
    unbatched = _spec(dict.fromkeys(names, (None, S)), {"Y": (1, 4)})
    assert [tensor.fill for tensor in unbatched.inputs] == [None] * 4


@pytest.mark.parametrize(
    ("tokenizer", "pad"),
    [
        ({"padding": {"strategy": "BatchLongest", "pad_id": 7, "pad_token": "x"}, "added_tokens": []}, 7),
        ({"padding": None, "added_tokens": [{"id": 3, "content": "<s>"}, {"id": 1, "content": "<pad>"}]}, 1),
        ({"added_tokens": []}, 0),
        ({"padding": {"pad_id": -1}}, 0),
        ({"padding": 3}, 0),
        ([], 0),
    ],
)
def test_ids_are_padded_as_the_tokenizer_beside_them_says(tmp_path: Path, tokenizer: object, pad: int) -> None:
    (tmp_path / "tokenizer.json").write_text(json.dumps(tokenizer))
    graph: tuple[dict[str, Dims], dict[str, Dims]] = ({"input_ids": (B, S), "attention_mask": (B, S)}, {"Y": (B, 4)})
    assert [tensor.pad for tensor in _spec(*graph, directory=tmp_path).inputs] == [pad, 0]
    said = _spec(*graph, directory=tmp_path, inputs=(TensorSettings("input_ids", pad=5),))
    assert [tensor.pad for tensor in said.inputs] == [5, 0]


def test_pad_and_fill_are_values_of_the_datatype() -> None:
    def build(datatype: str, **said: Any) -> TensorSpec:
        settings = ModelSettings("m", inputs=(TensorSettings("x", **said),))
        files = VersionFiles("m", "1", NOWHERE, NOWHERE, "onnxruntime", settings)
        inputs = (Port("x", datatype, (B, S)), Port("z", "INT64", (B, S)))
        return build_spec(files, Signature("p", inputs, (Port("y", "FP32", (B, S)),)), 8).inputs[0]

    assert build("FP32", pad=-1.5, fill=0.5).pad == -1.5
    assert build("BF16", pad=1, fill=1).pad == build("BF16", fill=1).fill == 0x3F80
    assert build("BOOL", pad=1).pad == 1
    assert build("BYTES").pad == 0
    for datatype, value in (("INT64", 0.5), ("UINT8", -1), ("UINT8", 256), ("BOOL", 2), ("INT32", float("nan"))):
        with pytest.raises(ModelError, match=f"input 'x': pad: .* is not a value of {datatype}"):
            build(datatype, pad=value)
    with pytest.raises(ModelError, match=r"input 'x': fill: .* is not a value of INT64"):
        build("INT64", fill=1.5)
    with pytest.raises(ModelError, match="BYTES have no such value"):
        build("BYTES", pad=1)


@pytest.mark.parametrize(
    ("inputs", "why"),
    [
        ({"X": (B, S)}, "number of rows"),
        ({"X": (B, S), "Z": (B, 3)}, "tell the length"),
        ({"X": (B, S, None), "Z": (B, S)}, "sizes that no other input tells"),
    ],
)
def test_a_fill_needs_an_input_that_tells_the_shape(inputs: dict[str, Dims], why: str) -> None:
    with pytest.raises(ModelError, match=f"input 'X': fill: .*{why}"):
        _spec(inputs, {"Y": (B, 3)}, inputs=(TensorSettings("X", fill=1),))


# What operators say.


def test_limits_of_rows() -> None:
    graph: tuple[dict[str, Dims], dict[str, Dims]] = ({"X": (B, 8)}, {"Y": (B, 8)})
    assert _spec(*graph).max_batch_rows == 64
    assert _spec(*graph, max_batch_rows=128).max_batch_rows == 128
    unbatched = _spec(*graph, max_batch_rows=0)
    assert unbatched.max_batch_rows == 0
    assert _axes(unbatched) == {"X": (None, None), "Y": (None, None)}


def test_operators_may_be_certain_where_the_graph_is_unclear() -> None:
    detections = _spec({"X": ("N", 3)}, {"Y": ("rows", 6)}, max_batch_rows=4)
    assert _axes(detections) == {"X": (0, None), "Y": (0, None)}
    names_differ = _spec({"X": ("a", 3), "Z": ("b", 3)}, {"Y": ("c", 3)}, max_batch_rows=4)
    assert names_differ.max_batch_rows == 4
    said = (TensorSettings("X", batch_axis=1, sequence_axis=0),)
    turned = _spec({"X": (S, B, 8)}, {"Y": (B, 8)}, inputs=said)
    assert _axes(turned) == {"X": (1, 0), "Y": (0, None)}
    stale = _spec({"X": (B, 8)}, {"Y": (1, 8)}, outputs=(TensorSettings("Y", shape=(-1, 8), batch_axis=0),))
    assert stale.outputs[0].shape == (-1, 8)
    shared = _spec({"X": (B, 8)}, {"Y": (3,)}, outputs=(TensorSettings("Y", batch_axis=-1),))
    assert (shared.max_batch_rows, shared.outputs[0].batch_axis) == (64, None)


@pytest.mark.parametrize(
    ("inputs", "outputs", "why"),
    [
        ({"X": (1, 8)}, {"Y": (1, 8)}, r"input 'X' \[1, 8\] has no batch axis"),
        ({"X": ()}, {"Y": ("N",)}, "input 'X'"),
        ({"X": ("N", 8)}, {"Y": (8,)}, "output 'Y' .*batch_axis"),
        ({}, {"Y": ("N",)}, "no inputs"),
    ],
)
def test_a_model_that_cannot_batch_is_not_made_to(inputs: dict[str, Dims], outputs: dict[str, Dims], why: str) -> None:
    with pytest.raises(ModelError, match=f"m: max_batch_rows: the model cannot batch: .*{why}"):
        _spec(inputs, outputs, max_batch_rows=8)


def test_sequence_axes_as_said() -> None:
    graph: tuple[dict[str, Dims], dict[str, Dims]] = ({"X": (B, None), "Z": (B, None)}, {"Y": (B, None)})
    said = (TensorSettings("X", sequence_axis=1), TensorSettings("Z", sequence_axis=1))
    spec = _spec(*graph, inputs=said, outputs=(TensorSettings("Y", sequence_axis=1),))
    assert _axes(spec) == dict.fromkeys("XZY", (0, 1))
    symbol = _spec({"X": (B, "a"), "Z": (B, "a")}, {"Y": (B, "a")}, inputs=said[:1])
    assert _axes(symbol) == dict.fromkeys("XZY", (0, 1))
    none = _spec({"X": (B, S)}, {"Y": (B, S)}, inputs=(TensorSettings("X", sequence_axis=-1),))
    assert _axes(none) == dict.fromkeys("XY", (0, None))


@pytest.mark.parametrize(
    ("side", "said", "why"),
    [
        (
            "input",
            TensorSettings("Z"),
            "there is no input 'Z' in the model; its inputs are X FP32 [batch, sequence, 8]",
        ),
        ("output", TensorSettings("X"), "there is no output 'X' in the model; its outputs are Y FP32 [batch, 4]"),
        ("input", TensorSettings("X", datatype="INT64"), "input 'X': is said to be INT64, but is FP32 in the model"),
        ("input", TensorSettings("X", shape=(-1, -1)), "is said to be [any, any] but is [batch, sequence, 8]"),
        ("input", TensorSettings("X", shape=(-1, -1, -1)), "is said to be [any, any, any] but is"),
        ("input", TensorSettings("X", shape=(-1, 9, 9)), "is said to be [any, 9, 9] but is"),
        ("input", TensorSettings("X", batch_axis=3), "batch_axis 3 is not an axis of [batch, sequence, 8]"),
        ("input", TensorSettings("X", sequence_axis=2), "sequence_axis 2 has a fixed size"),
        ("input", TensorSettings("X", batch_axis=1, sequence_axis=1), "sequence_axis and batch_axis are both 1"),
        ("input", TensorSettings("X", sequence_axis=0), "sequence_axis 0 is its batch axis"),
        ("output", TensorSettings("Y", sequence_axis=5), "output 'Y': sequence_axis 5 is not an axis of [batch, 4]"),
    ],
)
def test_what_is_said_has_to_fit_the_graph(side: str, said: TensorSettings, why: str) -> None:
    with pytest.raises(ModelError) as error:
        _spec({"X": (B, S, 8)}, {"Y": (B, 4)}, **{f"{side}s": (said,)})
    assert why in error.value.message


def test_open_sizes_may_be_narrowed() -> None:
    spec = _spec({"X": (B, S, None)}, {"Y": ()}, inputs=(TensorSettings("X", shape=(-1, 16, 4)),), max_batch_rows=0)
    assert spec.inputs[0].shape == (-1, 16, 4)
    assert spec.inputs[0].sequence_axis is None
    unknown = _spec({"X": (B,)}, {"Y": ()}, outputs=(TensorSettings("Y", shape=(-1, 3)),))
    assert (unknown.outputs[0].shape, unknown.outputs[0].batch_axis) == ((-1, 3), 0)


def test_tritons_dims_come_without_the_batch_axis() -> None:
    said = (TensorSettings("X", "FP32", (-1, 8), reshape_batch=True),)
    spec = _spec({"X": (B, S, 8)}, {"Y": (B, 4)}, inputs=said, max_batch_rows=8)
    assert spec.inputs[0].shape == (-1, -1, 8)
    full = (TensorSettings("X", "FP32", (1, -1, 8)),)
    assert _spec({"X": (B, S, 8)}, {"Y": (B, 4)}, inputs=full, max_batch_rows=0).inputs[0].shape == (1, -1, 8)
    with pytest.raises(
        ModelError, match=r"is said to be \[any, any, 8\], with the batch axis, but is \[1, sequence, 8\]"
    ):
        _spec({"X": (1, S, 8)}, {"Y": (B, 4)}, inputs=said, max_batch_rows=8)


# Models whose file does not tell.


def test_a_signature_from_settings() -> None:
    settings = ModelSettings(
        "m",
        inputs=(TensorSettings("X", "FP32", (-1, -1, 8), batch_axis=0, sequence_axis=1),),
        outputs=(
            TensorSettings("Y", "FP32", (-1, -1), batch_axis=0),
            TensorSettings("Z", "BYTES", (2,), batch_axis=-1),
        ),
    )
    signature = signature_from_settings(settings)
    assert signature == Signature(
        "python",
        (Port("X", "FP32", ("batch", "sequence", 8)),),
        (Port("Y", "FP32", ("batch", None)), Port("Z", "BYTES", (2,))),
    )
    files = VersionFiles("m", "1", NOWHERE, NOWHERE, "python", settings)
    assert _axes(build_spec(files, signature, 8)) == {"X": (0, 1), "Y": (0, None), "Z": (None, None)}
    triton = replace(
        settings,
        inputs=(TensorSettings("X", "FP32", (8,), reshape_batch=True),),
        outputs=(TensorSettings("Y", "FP32", (), reshape_batch=True),),
        max_batch_rows=4,
    )
    assert signature_from_settings(triton).inputs == (Port("X", "FP32", ("batch", 8)),)
    spec = build_spec(replace(files, settings=triton), signature_from_settings(triton), 8)
    assert [tensor.shape for tensor in (*spec.inputs, *spec.outputs)] == [(-1, 8), (-1,)]


@pytest.mark.parametrize(
    ("inputs", "outputs", "why"),
    [
        ((), (TensorSettings("Y", "FP32", (1,)),), r"describe each in model.toml as \[\[input\]\]"),
        ((TensorSettings("X", "FP32", (1,)),), (), r"describe each in model.toml as \[\[output\]\]"),
        ((TensorSettings("X", "FP32"),), (), "input 'X': shape is missing"),
        ((TensorSettings("X", shape=(1,)),), (), "input 'X': datatype is missing"),
    ],
)
def test_a_signature_that_is_not_whole(
    inputs: tuple[TensorSettings, ...], outputs: tuple[TensorSettings, ...], why: str
) -> None:
    with pytest.raises(ModelError, match=why):
        signature_from_settings(ModelSettings("m", inputs=inputs, outputs=outputs))


# Laws over all graphs.

_DIM = st.sampled_from([1, 8, None, "", B, "N", S, "seq_len", "time", "unk__1", "unk__2", "s0", "past + 1", "boxes"])
_DIMS = st.lists(_DIM, max_size=4).map(tuple)
_NAMES = st.sampled_from(["input_ids", "attention_mask", "token_type_ids", "X", "Z", "x"])


@given(
    st.dictionaries(_NAMES, _DIMS, min_size=1, max_size=3), st.dictionaries(st.sampled_from("YW"), _DIMS, min_size=1)
)
def test_every_graph_has_a_spec_that_is_consistent(inputs: dict[str, Dims], outputs: dict[str, Dims]) -> None:
    spec = _spec(inputs, outputs)
    assert [tensor.name for tensor in spec.inputs] == list(inputs)
    for tensor in (*spec.inputs, *spec.outputs):
        dims = {**inputs, **outputs}[tensor.name]
        assert tensor.shape == tuple(dim if isinstance(dim, int) else -1 for dim in dims)
        assert tensor.batch_axis == (0 if spec.batched else None)
        if tensor.batch_axis is not None:
            assert tensor.shape[0] == -1
        if tensor.sequence_axis is not None:
            assert tensor.shape[tensor.sequence_axis] == -1
            assert tensor.sequence_axis != tensor.batch_axis
    if not spec.has_sequence:
        assert all(output.sequence_axis is None for output in spec.outputs)
    assert any(tensor.fill is None for tensor in spec.inputs)


@given(st.dictionaries(_NAMES, _DIMS, min_size=1, max_size=3), _DIMS)
def test_saying_what_was_found_changes_nothing(inputs: dict[str, Dims], output: Dims) -> None:
    found = _spec(inputs, {"Y": output})
    said = {
        side: tuple(
            TensorSettings(
                tensor.name,
                tensor.datatype,
                tensor.shape,
                batch_axis=-1 if tensor.batch_axis is None else tensor.batch_axis,
                sequence_axis=-1 if tensor.sequence_axis is None else tensor.sequence_axis,
                fill=tensor.fill,
            )
            for tensor in tensors
        )
        for side, tensors in (("inputs", found.inputs), ("outputs", found.outputs))
    }
    assert _spec(inputs, {"Y": output}, max_batch_rows=found.max_batch_rows, **said) == found


def test_labels_that_do_not_fit_are_told(caplog: pytest.LogCaptureFixture) -> None:
    def said(dims: Dims, count: int) -> list[str]:
        caplog.clear()
        labels = tuple(f"label {number}" for number in range(count))
        _spec({"X": ("N", 3)}, {"Y": dims}, outputs=(TensorSettings("Y", labels=labels),))
        return caplog.messages

    assert said(("N", 4), 4) == said(("N", 2, 2), 4) == said(("N", "classes"), 4) == said(("N", 4), 0) == []
    assert said(("N", 4), 3) == ["model 'm' version 1: output 'Y' has 3 labels for the 4 elements of a row"]
