"""The shape of a BERT-like encoder, as its configuration and weights describe it, and what its weights are called."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sluice.convert.weights import Weights
from sluice.errors import ModelError

WORDS = "embeddings.word_embeddings.weight"
POSITIONS = "embeddings.position_embeddings.weight"
TYPES = "embeddings.token_type_embeddings.weight"


@dataclass(frozen=True, slots=True)
class Names:
    """What a family calls things: its weights within layer `i`, its settings in config.json."""

    layer: str
    query: str
    key: str
    value: str
    attention_output: str
    attention_norm: str
    expand: str
    contract: str
    output_norm: str
    setting_hidden: str = "hidden_size"
    setting_heads: str = "num_attention_heads"
    setting_layers: str = "num_hidden_layers"
    setting_intermediate: str = "intermediate_size"
    setting_activation: str = "hidden_act"


BERT_NAMES = Names(
    layer="encoder.layer",
    query="attention.self.query",
    key="attention.self.key",
    value="attention.self.value",
    attention_output="attention.output.dense",
    attention_norm="attention.output.LayerNorm",
    expand="intermediate.dense",
    contract="output.dense",
    output_norm="output.LayerNorm",
)
DISTILBERT_NAMES = Names(
    layer="transformer.layer",
    query="attention.q_lin",
    key="attention.k_lin",
    value="attention.v_lin",
    attention_output="attention.out_lin",
    attention_norm="sa_layer_norm",
    expand="ffn.lin1",
    contract="ffn.lin2",
    output_norm="output_layer_norm",
    setting_hidden="dim",
    setting_heads="n_heads",
    setting_layers="n_layers",
    setting_intermediate="hidden_dim",
    setting_activation="activation",
)


@dataclass(frozen=True, slots=True)
class Family:
    """What models of one family have in common."""

    names: Names
    pad: int  # the padding token, where config.json names none
    layers: int = 12
    positions_skip_padding: bool = False  # positions count the tokens that are not padding, from padding's id + 1
    token_types: bool = False  # always an input; otherwise only if there is more than one type
    own_norm_epsilon: bool = True  # False: fixed, whatever config.json says


BERT = Family(BERT_NAMES, pad=0, token_types=True)
ROBERTA = Family(BERT_NAMES, pad=1, positions_skip_padding=True)
DISTILBERT = Family(DISTILBERT_NAMES, pad=0, layers=6, own_norm_epsilon=False)
FAMILIES = {"bert": BERT, "roberta": ROBERTA, "xlm-roberta": ROBERTA, "camembert": ROBERTA, "distilbert": DISTILBERT}

# config.json's name → ours; the approximations by tanh differ in nothing but how torch computes them.
ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_python": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_python_tanh": "gelu_tanh",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
}
# Settings that change the computation in ways not built here, and the values that leave it as it is.
PLAIN = {
    "is_decoder": (None, False),
    "is_encoder_decoder": (None, False),
    "add_cross_attention": (None, False),
    "position_embedding_type": (None, "absolute"),
    "pruned_heads": (None, {}),
    "quantization_config": (None, {}),
}


@dataclass(frozen=True, slots=True)
class Architecture:
    """Everything the graph builder needs to know about one encoder."""

    family: Family
    vocabulary: int
    positions: int
    token_types: int
    hidden: int
    heads: int
    layers: int
    intermediate: int
    activation: str
    norm_epsilon: float
    pad: int

    @property
    def takes_token_types(self) -> bool:
        return self.token_types > 1 or (self.family.token_types and self.token_types > 0)

    @property
    def max_length(self) -> int:
        return self.positions - (self.pad + 1 if self.family.positions_skip_padding else 0)


def find_family(config: Mapping[str, Any]) -> Family:
    kind = config.get("model_type")
    if not isinstance(kind, str) or kind not in FAMILIES:
        known = ", ".join(FAMILIES)
        raise ModelError(f"config.json: model_type {kind!r} cannot be imported; these can: {known}")
    for name, plain in PLAIN.items():
        if config.get(name) not in plain:
            raise ModelError(f"config.json: {name} = {config[name]!r} cannot be imported")
    return FAMILIES[kind]


def read_architecture(config: Mapping[str, Any], weights: Weights) -> Architecture:
    """Sizes come from the weights, the rest from config.json; where both speak they must agree."""
    family = find_family(config)
    names = family.names
    weights.find_prefix(WORDS)
    vocabulary, hidden = _matrix(weights, WORDS)
    positions, _ = _matrix(weights, POSITIONS)
    token_types = _matrix(weights, TYPES)[0] if TYPES in weights else 0
    intermediate, _ = _matrix(weights, f"{names.layer}.0.{names.expand}.weight")
    for name, size in (
        ("vocab_size", vocabulary),
        ("max_position_embeddings", positions),
        (names.setting_hidden, hidden),
        (names.setting_intermediate, intermediate),
    ):
        if config.get(name, size) != size:
            raise ModelError(f"config.json: {name} = {config[name]!r}, but the weights have {size}")
    heads = _whole(config, names.setting_heads, 12)
    if hidden % heads:
        raise ModelError(f"config.json: {names.setting_heads} = {heads} does not divide the hidden size {hidden}")
    architecture = Architecture(
        family=family,
        vocabulary=vocabulary,
        positions=positions,
        token_types=token_types,
        hidden=hidden,
        heads=heads,
        layers=_whole(config, names.setting_layers, family.layers),
        intermediate=intermediate,
        activation=_activation(config, names.setting_activation),
        norm_epsilon=_epsilon(config) if family.own_norm_epsilon else 1e-12,
        pad=family.pad if config.get("pad_token_id") is None else _whole(config, "pad_token_id", 0, least=0),
    )
    if architecture.pad >= vocabulary:
        raise ModelError(f"config.json: pad_token_id = {architecture.pad} is beyond the vocabulary of {vocabulary}")
    if architecture.max_length < 1:
        raise ModelError(f"config.json: max_position_embeddings = {positions} leaves no room for tokens")
    return architecture


def _matrix(weights: Weights, name: str) -> tuple[int, int]:
    shape = weights.shape(name)
    if len(shape) != 2 or 0 in shape:
        raise ModelError(f"weight {name} has shape {list(shape)}, expected a matrix")
    return shape[0], shape[1]


def _whole(config: Mapping[str, Any], name: str, default: int, least: int = 1) -> int:
    value = config.get(name, default)
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ModelError(f"config.json: {name} = {value!r}, expected a whole number from {least}")
    return value


def _epsilon(config: Mapping[str, Any]) -> float:
    value = config.get("layer_norm_eps", 1e-12)
    if not isinstance(value, int | float) or not 0 <= value < 1:
        raise ModelError(f"config.json: layer_norm_eps = {value!r}, expected a small number")
    return float(value)


def _activation(config: Mapping[str, Any], name: str) -> str:
    value = config.get(name, "gelu")
    if not isinstance(value, str) or value not in ACTIVATIONS:
        raise ModelError(f"config.json: {name} = {value!r} cannot be imported; these can: {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[value]
