"""Reads what a Hugging Face style directory says about its model; opens no weights and runs nothing found in it.

Pickles (`pytorch_model.bin`) can run code when opened, so they are refused by name and never read.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from sluice.errors import ModelError

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
PICKLES = ("pytorch_model.bin", "pytorch_model.bin.index.json", "model.bin", "model.pt", "model.pth", "tf_model.h5")
# What later turns text into this model's inputs; copied beside the model.
TEXT_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "sentence_bert_config.json",
    "config_sentence_transformers.json",
)
LARGEST_JSON = 16 << 20

# In the order in which sentence-transformers joins them.
POOLINGS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
KNOWN_POOLINGS = ("cls", "max", "mean", "mean_sqrt_len_tokens")
DENSE_ACTIVATIONS = {
    "Identity": "identity",
    "Tanh": "tanh",
    "ReLU": "relu",
    "GELU": "gelu",
    "SiLU": "silu",
    "Sigmoid": "sigmoid",
}


@dataclass(frozen=True, slots=True)
class Pooling:
    modes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Dense:
    file: Path
    size: int
    new_size: int
    bias: bool
    activation: str


@dataclass(frozen=True, slots=True)
class Normalize:
    pass


Step = Pooling | Dense | Normalize
_NO_STEPS: tuple[Step, ...] = ()
Head = Literal["embedding", "sequence", "token", "states"]


@dataclass(frozen=True, slots=True)
class Source:
    """One model to be imported."""

    directory: Path
    config: Mapping[str, Any]
    weight_files: tuple[Path, ...]
    steps: tuple[Step, ...]  # what follows the encoder, for sentence embeddings
    text_files: tuple[Path, ...]
    stated_activation: str = ""  # of a cross-encoder, where newer versions of sentence-transformers write it

    @property
    def head(self) -> Head:
        """What follows the encoder."""
        if self.steps:
            return "embedding"
        architecture = _head(self.config)
        if architecture.endswith("ForSequenceClassification"):
            return "sequence"
        if architecture.endswith("ForTokenClassification"):
            return "token"
        return "states"

    @property
    def score_activation(self) -> str:
        """What becomes of the logit of a model that has only one; sigmoid, as in sentence-transformers, unless said."""
        table = self.config.get("sentence_transformers")
        newer = table.get("activation_fn") if isinstance(table, dict) else None
        said = self.stated_activation or newer or self.config.get("sbert_ce_default_activation_function") or "Sigmoid"
        kind = str(said).rpartition(".")[2]
        if kind not in DENSE_ACTIVATIONS:
            known = ", ".join(DENSE_ACTIVATIONS)
            raise ModelError(
                f"config.json: the activation {said!r} of the score cannot be imported; these can: {known}"
            )
        return DENSE_ACTIVATIONS[kind]

    @property
    def files(self) -> tuple[Path, ...]:
        """Everything the result depends on, as far as it exists."""
        names = [self._encoder / name for name in ("config.json", INDEX)]
        names += [self.directory / "modules.json", *sorted(self.directory.glob("*_*/config.json"))]
        dense = [step.file for step in self.steps if isinstance(step, Dense)]
        every = dict.fromkeys([*names, *self.weight_files, *dense, *self.text_files])
        return tuple(path for path in every if path.is_file())

    @property
    def _encoder(self) -> Path:
        return self.weight_files[0].parent


def has_weights(directory: Path) -> bool:
    """Whether it is laid out as Hugging Face models are, with weights to be converted."""
    names = (WEIGHTS, INDEX, "modules.json")
    return any((directory / name).is_file() for name in names)


def read_source(directory: Path) -> Source:
    if not directory.is_dir():
        raise ModelError(f"{directory}: no such directory")
    encoder, steps = directory, _NO_STEPS
    if (directory / "modules.json").is_file():
        encoder, steps = _read_modules(directory)
    config = read_object(encoder / "config.json")
    architecture = _head(config)
    if not steps and architecture.endswith(("ForQuestionAnswering", "ForMultipleChoice", "ForNextSentencePrediction")):
        raise ModelError(f"config.json: the head of {architecture} cannot be imported")
    texts = [next((p for p in (encoder / n, directory / n) if p.is_file()), None) for n in TEXT_FILES]
    return Source(
        directory=directory,
        config=config,
        weight_files=_find_weights(encoder),
        steps=steps,
        text_files=tuple(path for path in texts if path is not None),
        stated_activation=_stated_activation(directory),
    )


def _stated_activation(directory: Path) -> str:
    path = directory / "config_sentence_transformers.json"
    return str(read_object(path).get("activation_fn") or "") if path.is_file() else ""


def _head(config: Mapping[str, Any]) -> str:
    """The name of the class that the model was saved from."""
    named = config.get("architectures")
    return str(named[0]) if isinstance(named, list) and named else ""


def read_object(path: Path) -> dict[str, Any]:
    value = _read_json(path)
    if not isinstance(value, dict):
        raise ModelError(f"{path.name}: expected a JSON object")
    return value


def _read_json(path: Path) -> Any:
    try:
        if path.stat().st_size > LARGEST_JSON:
            raise ModelError(f"{path.name}: larger than {LARGEST_JSON >> 20} MiB")
        return json.loads(path.read_text("utf-8"))
    except FileNotFoundError as error:
        raise ModelError(f"{path.parent}: has no {path.name}") from error
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{path.name}: not readable as JSON: {error}") from error


def _find_weights(directory: Path) -> tuple[Path, ...]:
    if (directory / WEIGHTS).is_file():
        return (directory / WEIGHTS,)
    if (directory / INDEX).is_file():
        table = read_object(directory / INDEX).get("weight_map")
        if not isinstance(table, dict) or not table:
            raise ModelError(f"{INDEX}: weight_map must name the file of each weight")
        files = tuple(inside(directory, str(name)) for name in sorted({str(name) for name in table.values()}))
        for path in files:
            if path.suffix != ".safetensors" or not path.is_file():
                raise ModelError(f"{INDEX}: {path.name} is not a safetensors file in this directory")
        return files
    pickles = [name for name in PICKLES if (directory / name).is_file()]
    if pickles:
        raise ModelError(
            f"{directory}: has {pickles[0]} but no {WEIGHTS}; such files can run code when opened, so only safetensors "
            "are imported. Save the model again with safe_serialization=True"
        )
    raise ModelError(f"{directory}: has no {WEIGHTS}")


def inside(directory: Path, name: str) -> Path:
    """A path below the directory, or ModelError. Links are followed freely: downloaded models are full of them."""
    path = Path(name)
    if path.is_absolute() or ".." in path.parts:
        raise ModelError(f"{directory}: {name!r} points outside of the model's directory")
    return directory / path


def _read_modules(directory: Path) -> tuple[Path, tuple[Step, ...]]:
    modules = _read_json(directory / "modules.json")
    if not isinstance(modules, list) or not all(isinstance(module, dict) for module in modules) or not modules:
        raise ModelError("modules.json: expected a list of modules")
    kinds = [str(module.get("type", "")).rpartition(".")[2] for module in modules]
    paths = [inside(directory, str(module.get("path", ""))) for module in modules]
    if kinds[0] != "Transformer":
        raise ModelError(f"modules.json: the first module is {kinds[0]!r}, expected Transformer")
    steps = [_read_step(kind, path) for kind, path in zip(kinds[1:], paths[1:], strict=True) if kind != "Dropout"]
    if steps and not isinstance(steps[0], Pooling):
        raise ModelError(f"modules.json: {kinds[1]} comes before Pooling, which cannot be imported")
    if sum(isinstance(step, Pooling) for step in steps) > 1:
        raise ModelError("modules.json: more than one Pooling cannot be imported")
    return paths[0], tuple(steps)


def _read_step(kind: str, path: Path) -> Step:
    match kind:
        case "Pooling":
            return _read_pooling(read_object(path / "config.json"), f"{path.name}/config.json")
        case "Normalize":
            return Normalize()
        case "Dense":
            return _read_dense(path)
        case _:
            raise ModelError(f"modules.json: {kind!r} cannot be imported; these can: Pooling, Dense, Normalize")


def _read_pooling(config: Mapping[str, Any], where: str) -> Pooling:
    stated = config.get("pooling_mode")
    if stated is None:
        modes = [mode for key, mode in POOLINGS.items() if config.get(key)] or ["mean"]
    else:
        modes = list(stated) if isinstance(stated, list) else [stated]
    for mode in modes:
        if mode not in KNOWN_POOLINGS:
            raise ModelError(
                f"{where}: pooling mode {mode!r} cannot be imported; these can: {', '.join(KNOWN_POOLINGS)}"
            )
    if config.get("include_prompt") is False:
        raise ModelError(f"{where}: include_prompt = false cannot be imported: tensors do not say where a prompt ends")
    return Pooling(tuple(modes))


def _read_dense(path: Path) -> Dense:
    config, where = read_object(path / "config.json"), f"{path.name}/config.json"
    activation = str(config.get("activation_function", "torch.nn.modules.activation.Tanh")).rpartition(".")[2]
    if activation not in DENSE_ACTIVATIONS:
        raise ModelError(f"{where}: activation_function {activation!r} cannot be imported")
    for name, plain in (
        ("use_residual", False),
        ("module_input_name", "sentence_embedding"),
        ("module_output_name", None),
    ):
        if config.get(name, plain) not in (plain, None, "sentence_embedding"):
            raise ModelError(f"{where}: {name} = {config[name]!r} cannot be imported")
    sizes = config.get("in_features"), config.get("out_features")
    if not isinstance(sizes[0], int) or not isinstance(sizes[1], int):
        raise ModelError(f"{where}: in_features and out_features must be whole numbers")
    return Dense(
        _find_weights(path)[0], sizes[0], sizes[1], bool(config.get("bias", True)), DENSE_ACTIVATIONS[activation]
    )
