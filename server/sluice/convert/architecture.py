"""The shape of a BERT-like encoder, as its configuration and weights describe it, and what its weights are called."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from sluice.convert import disentangled
from sluice.convert.disentangled import Disentangled
from sluice.convert.weights import Weights
from sluice.errors import ModelError

WORDS = "embeddings.word_embeddings.weight"
POSITIONS = "embeddings.position_embeddings.weight"
TYPES = "embeddings.token_type_embeddings.weight"


@dataclass(frozen=True, slots=True)
class Names:
    """What a family calls things: its weights within layer `i`, its settings in config.json."""

    layer: str  # where layer `number` is, or all of its `group`
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
    projection: str = ""  # from the embeddings' size to the layers', where that is another
    relative: str = ""  # a number for each head and distance between two tokens, added to their score


BERT_NAMES = Names(
    layer="encoder.layer.{number}",
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
    layer="transformer.layer.{number}",
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
MPNET_NAMES = replace(
    BERT_NAMES,
    query="attention.attn.q",
    key="attention.attn.k",
    value="attention.attn.v",
    attention_output="attention.attn.o",
    attention_norm="attention.LayerNorm",
    relative="encoder.relative_attention_bias.weight",
)
DEBERTA_NAMES = replace(
    BERT_NAMES,
    query="attention.self.query_proj",
    key="attention.self.key_proj",
    value="attention.self.value_proj",
    projection="embeddings.embed_proj",
)
ALBERT_NAMES = Names(
    layer="encoder.albert_layer_groups.{group}.albert_layers.0",
    query="attention.query",
    key="attention.key",
    value="attention.value",
    attention_output="attention.dense",
    attention_norm="attention.LayerNorm",
    expand="ffn",
    contract="ffn_output",
    output_norm="full_layer_layer_norm",
    projection="encoder.embedding_hidden_mapping_in",
)


@dataclass(frozen=True, slots=True)
class Head:
    """What stands between the first token's state and its classes."""

    dense: str
    last: str
    activation: str


@dataclass(frozen=True, slots=True)
class Family:
    """What models of one family have in common."""

    names: Names
    pad: int  # the padding token, where config.json names none
    head: Head
    pooler: str = ""  # a layer that some models have after the first token's state
    layers: int = 12
    activation: str = "gelu"
    positions_skip_padding: bool = False  # positions count the tokens that are not padding, from padding's id + 1
    disentangled: bool = False  # distances between tokens have parts of their own in scores; positions need not
    only_pad: bool = False  # no other padding token than the usual one works
    token_types: bool = False  # always an input; otherwise only if there is more than one type
    own_norm_epsilon: bool = True  # False: fixed, whatever config.json says


_OUTPUT = Head("classifier.dense", "classifier.out_proj", "tanh")
BERT = Family(BERT_NAMES, 0, Head("pooler.dense", "classifier", "tanh"), pooler="pooler.dense", token_types=True)
ROBERTA = Family(BERT_NAMES, 1, _OUTPUT, pooler="pooler.dense", positions_skip_padding=True)
DISTILBERT = Family(DISTILBERT_NAMES, 0, Head("pre_classifier", "classifier", "relu"), layers=6, own_norm_epsilon=False)
ELECTRA = Family(
    replace(BERT_NAMES, projection="embeddings_project"), 0, replace(_OUTPUT, activation="gelu"), token_types=True
)
MPNET = Family(MPNET_NAMES, 1, _OUTPUT, pooler="pooler.dense", positions_skip_padding=True, only_pad=True)
ALBERT = Family(
    ALBERT_NAMES, 0, Head("pooler", "classifier", "tanh"), pooler="pooler", activation="gelu_new", token_types=True
)
DEBERTA = Family(DEBERTA_NAMES, 0, Head("pooler.dense", "classifier", "gelu"), disentangled=True, token_types=True)
FAMILIES = {
    "bert": BERT,
    "roberta": ROBERTA,
    "xlm-roberta": ROBERTA,
    "camembert": ROBERTA,
    "distilbert": DISTILBERT,
    "electra": ELECTRA,
    "mpnet": MPNET,
    "albert": ALBERT,
    "deberta-v2": DEBERTA,
}

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
    "inner_group_num": (None, 1),
}


@dataclass(frozen=True, slots=True)
class Architecture:
    """Everything the graph builder needs to know about one encoder."""

    family: Family
    vocabulary: int
    positions: int
    token_types: int
    embedding: int  # the embeddings' size, if it is not the layers'
    hidden: int
    heads: int
    layers: int
    groups: int  # of layers that are one and the same; as many as layers, unless a family shares them
    intermediate: int
    activation: str
    norm_epsilon: float
    pad: int
    has_positions: bool = True  # in the embeddings
    distances: Disentangled | None = None

    @property
    def takes_token_types(self) -> bool:
        return self.token_types > 1 or (self.family.token_types and self.token_types > 0)

    @property
    def max_length(self) -> int:
        return self.positions - (self.pad + 1 if self.family.positions_skip_padding else 0)

    def layer_name(self, number: int) -> str:
        return self.family.names.layer.format(number=number, group=number * self.groups // self.layers)


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
    vocabulary, embedding = _matrix(weights, WORDS)
    has_positions = not family.disentangled or POSITIONS in weights
    positions = _matrix(weights, POSITIONS)[0] if has_positions else _whole(config, "max_position_embeddings", 512)
    token_types = _matrix(weights, TYPES)[0] if TYPES in weights else 0
    first = names.layer.format(number=0, group=0)
    intermediate, hidden = _matrix(weights, f"{first}.{names.expand}.weight")
    if hidden != embedding and (not names.projection or f"{names.projection}.weight" not in weights):
        raise ModelError(f"the weights' embeddings have size {embedding}, and their layers {hidden}")
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
    layers = _whole(config, names.setting_layers, family.layers)
    architecture = Architecture(
        family=family,
        vocabulary=vocabulary,
        positions=positions,
        token_types=token_types,
        embedding=embedding,
        hidden=hidden,
        heads=heads,
        layers=layers,
        groups=_whole(config, "num_hidden_groups", 1) if "{group}" in names.layer else layers,
        intermediate=intermediate,
        activation=_activation(config, names.setting_activation, family.activation),
        norm_epsilon=_epsilon(config) if family.own_norm_epsilon else 1e-12,
        has_positions=has_positions,
        distances=disentangled.read(config, positions, _epsilon(config)) if family.disentangled else None,
        pad=family.pad if config.get("pad_token_id") is None else _whole(config, "pad_token_id", 0, least=0),
    )
    if architecture.pad >= vocabulary:
        raise ModelError(f"config.json: pad_token_id = {architecture.pad} is beyond the vocabulary of {vocabulary}")
    if family.only_pad and architecture.pad != family.pad:
        raise ModelError(f"config.json: pad_token_id = {architecture.pad} cannot be imported; {family.pad} can")
    if architecture.groups > layers:
        raise ModelError(f"config.json: num_hidden_groups = {architecture.groups} of {layers} layers")
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


def _activation(config: Mapping[str, Any], name: str, usual: str) -> str:
    value = config.get(name, usual)
    if not isinstance(value, str) or value not in ACTIVATIONS:
        raise ModelError(f"config.json: {name} = {value!r} cannot be imported; these can: {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[value]
