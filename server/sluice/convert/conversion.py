"""Makes the ONNX graph and the model's settings from a source; writes nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from onnx import ModelProto

from sluice import __version__
from sluice.convert.architecture import Architecture, read_architecture
from sluice.convert.encoder import Encoder
from sluice.convert.graph import Graph
from sluice.convert.heads import add_sequence_classifier, add_step, add_token_classifier
from sluice.convert.source import Source
from sluice.convert.weights import Weights

Progress = Callable[[str, int, int], None]  # what is being done, how much of it is done, of how much


@dataclass(frozen=True, slots=True)
class Conversion:
    """A converted model, still in memory."""

    model: ModelProto
    architecture: Architecture
    labels: tuple[str, ...]
    on_request: tuple[str, ...]  # outputs returned only when asked for
    classes: str  # the output that the labels name; "" = none


def convert(source: Source, progress: Progress) -> Conversion:
    with Weights(source.weight_files) as weights:
        architecture = read_architecture(source.config, weights)
        graph = Graph()
        ids, mask = (graph.input(name, ("batch", "sequence")) for name in ("input_ids", "attention_mask"))
        types = graph.input("token_type_ids", ("batch", "sequence")) if architecture.takes_token_types else None
        encoder = Encoder(graph, architecture, weights)
        states, bias = encoder.embed(ids, types), encoder.mask_bias(mask)
        for number in range(architecture.layers):
            progress("layers", number, architecture.layers)
            states = encoder.layer(number, states, bias)
        progress("layers", architecture.layers, architecture.layers)
        classes, labels = _add_outputs(graph, source, architecture, weights, (states, mask))
    return Conversion(
        model=graph.model("sluice", __version__),
        architecture=architecture,
        labels=labels,
        on_request=("token_embeddings",) if source.task == "embedding" else (),
        classes=classes,
    )


def _add_outputs(
    graph: Graph, source: Source, architecture: Architecture, weights: Weights, values: tuple[str, str]
) -> tuple[str, tuple[str, ...]]:
    """The head and the outputs; returns which of them has classes, and their labels."""
    states, mask = values
    every = ("batch", "sequence", architecture.hidden)
    match source.task:
        case "embedding":
            value, size = states, architecture.hidden
            for step in source.steps:
                value, size = add_step(graph, step, value, size, mask)
            graph.output("embedding", value, ("batch", size))
            graph.output("token_embeddings", states, every)
            return "", ()
        case "sequence_classification":
            value, size = add_sequence_classifier(graph, architecture, weights, states)
            graph.output("logits", value, ("batch", size))
            return "logits", read_labels(source.config, size)
        case "token_classification":
            value, size = add_token_classifier(graph, architecture, weights, states)
            graph.output("logits", value, ("batch", "sequence", size))
            return "logits", read_labels(source.config, size)
        case _:
            graph.output("last_hidden_state", states, every)
            return "", ()


def read_labels(config: Mapping[str, Any], count: int) -> tuple[str, ...]:
    """The name of each class, or nothing when config.json does not name exactly these."""
    table = config.get("id2label")
    if not isinstance(table, dict) or set(table) != {str(number) for number in range(count)}:
        return ()
    return tuple(str(table[str(number)]) for number in range(count))
