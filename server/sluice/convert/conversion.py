"""Makes the ONNX graph and the model's settings from a source; writes nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from onnx import ModelProto

from sluice import __version__
from sluice.convert.architecture import Architecture, read_architecture
from sluice.convert.encoder import Encoder
from sluice.convert.graph import Graph
from sluice.convert.heads import add_pooler, add_sequence_classifier, add_step, add_token_classifier, has_pooler
from sluice.convert.layers import activate
from sluice.convert.making import Progress
from sluice.convert.source import Source
from sluice.convert.weights import Weights


@dataclass(frozen=True, slots=True)
class Outputs:
    """What a graph gives."""

    task: str
    on_request: tuple[str, ...] = ()  # returned only when asked for
    classes: str = ""  # the one that the labels name; "" = none
    labels: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Conversion:
    """A converted model, still in memory."""

    model: ModelProto
    architecture: Architecture
    outputs: Outputs


def convert(source: Source, progress: Progress) -> Conversion:
    with Weights(source.weight_files) as weights:
        architecture = read_architecture(source.config, weights)
        graph = Graph()
        ids, mask = (graph.input(name, ("batch", "sequence")) for name in ("input_ids", "attention_mask"))
        types = graph.input("token_type_ids", ("batch", "sequence")) if architecture.takes_token_types else None
        encoder = Encoder(graph, architecture, weights)
        states, bias = encoder.embed(ids, types), encoder.bias(ids, mask)
        for number in range(architecture.layers):
            progress("layers", number, architecture.layers)
            states = encoder.layer(number, states, bias)
        progress("layers", architecture.layers, architecture.layers)
        outputs = _add_outputs(graph, source, architecture, weights, (states, mask))
    return Conversion(graph.model("sluice", __version__), architecture, outputs)


def _add_outputs(
    graph: Graph, source: Source, architecture: Architecture, weights: Weights, values: tuple[str, str]
) -> Outputs:
    """The head and the outputs."""
    states, mask = values
    every = ("batch", "sequence", architecture.hidden)
    match source.head:
        case "embedding":
            value, size = states, architecture.hidden
            for step in source.steps:
                value, size = add_step(graph, step, value, size, mask)
            graph.output("embedding", value, ("batch", size))
            graph.output("token_embeddings", states, every)
            return Outputs("embedding", ("token_embeddings",))
        case "sequence":
            value, size = add_sequence_classifier(graph, architecture, weights, states)
            if size == 1:  # one number for a text, or for a pair of texts
                graph.output("score", activate(graph, source.score_activation, value), ("batch", 1))
                graph.output("logits", value, ("batch", 1))
                return Outputs("rerank", ("logits",))
            graph.output("logits", value, ("batch", size))
            return Outputs("classification", (), "logits", read_labels(source.config, size))
        case "token":
            value, size = add_token_classifier(graph, architecture, weights, states)
            graph.output("logits", value, ("batch", "sequence", size))
            return Outputs("token-classification", (), "logits", read_labels(source.config, size))
        case _:
            graph.output("last_hidden_state", states, every)
            if not has_pooler(architecture, weights):
                return Outputs("other")
            pooled = add_pooler(graph, architecture, weights, states)
            graph.output("pooler_output", pooled, ("batch", architecture.hidden))
            return Outputs("other", ("pooler_output",))


def read_labels(config: Mapping[str, Any], count: int) -> tuple[str, ...]:
    """The name of each class, or nothing when config.json does not name exactly these."""
    table = config.get("id2label")
    if not isinstance(table, dict) or set(table) != {str(number) for number in range(count)}:
        return ()
    return tuple(str(table[str(number)]) for number in range(count))
