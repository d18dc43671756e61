"""What an operator may say about one model, whichever file said it (`model.toml`, `config.pbtxt`, a load request)."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from sluice.errors import ModelError
from sluice.store.origin import Origin

BACKENDS = {"onnxruntime": "model.onnx", "python": "model.py"}  # in the order looked for when nobody names one

Said = dict[str, Any]
"""What one source says: fields of ModelSettings by name, its inputs and outputs as {tensor name: {field: value}}."""


@dataclass(frozen=True, slots=True)
class TensorSettings:
    """Overrides for one input or output; None = read from the model file."""

    name: str
    datatype: str | None = None
    shape: tuple[int, ...] | None = None  # full shape, with the batch axis; -1 = any size
    batch_axis: int | None = None  # -1 = has none, whatever the graph suggests
    sequence_axis: int | None = None  # -1 = has none, whatever the graph suggests
    pad: float | None = None
    fill: float | None = None
    default: bool | None = None
    labels: tuple[str, ...] = ()
    reshape_batch: bool = False  # shape came without the batch axis (Triton's dims): prepend it when the model batches


@dataclass(frozen=True, slots=True)
class VersionPolicy:
    """Which of a model's version directories are served."""

    kind: Literal["latest", "all", "specific"] = "latest"
    count: int = 1  # latest: how many
    versions: tuple[str, ...] = ()  # specific


@dataclass(frozen=True, slots=True)
class WarmUp:
    """One extra request to run before the model is ready, beside the shapes warmed anyway."""

    name: str
    inputs: tuple["WarmUpInput", ...]
    rows: int = 1
    repeat: int = 1


@dataclass(frozen=True, slots=True)
class WarmUpInput:
    name: str
    datatype: str
    shape: tuple[int, ...]  # without the batch axis when the model batches
    source: Literal["zero", "random", "file"] = "zero"
    file: str = ""  # relative to the model's warmup directory


@dataclass(frozen=True, slots=True)
class TextSettings:
    """How texts are read, and answers to them understood; what nobody said follows from the model's files."""

    task: Literal["", "embedding", "classification", "token-classification", "rerank", "sparse"] = ""
    output: str = ""  # the answer; "" = the first that could be
    pooling: Literal["", "mean", "cls", "max", "last"] = ""  # of an output with a vector for each token
    normalize: bool | None = None  # embeddings; None = yes
    activation: Literal["", "softmax", "sigmoid", "none"] = ""  # of classes and scores
    max_length: int | None = None  # longest text, in tokens; None = as the files beside the model say
    truncate: Literal["", "error", "left", "right"] = ""  # of texts that are too long; "" = error
    overlap: int | None = None  # too long texts are read in windows that share so many tokens; None = they are not
    prompts: Mapping[str, str] = field(default_factory=dict)  # what is put before a text, by name
    default_prompt: str = ""  # the name of the one that is meant if none is named


@dataclass(frozen=True, slots=True)
class ModelSettings:
    """Everything said about one model; what nobody said keeps its default."""

    name: str
    backend: str = ""  # "" = by the file found: model.onnx → onnxruntime, model.py → python
    filename: str = ""  # "" = the backend's usual name
    inputs: tuple[TensorSettings, ...] = ()
    outputs: tuple[TensorSettings, ...] = ()
    target_latency: float | None = None  # seconds; None = the server's
    max_batch_rows: int | None = None  # 0 = the model has no batch axis; None = from the graph and the server's limit
    max_batch_tokens: int | None = None
    max_queue: int | None = None
    queue_timeout: float | None = None  # seconds
    priority_levels: int = 10  # 1 = most urgent
    default_priority: int = 5
    instances: int = 0  # workers that hold this model; 0 = all
    gpus: tuple[int, ...] = ()  # devices it may live on; () = any
    padding: Literal["", "any", "equal", "never"] = ""  # "" = what the probe at warm-up finds
    tolerance: float = 1e-3  # relative difference to the request alone that padding may cause
    version_policy: VersionPolicy = VersionPolicy()
    warm_up: tuple[WarmUp, ...] = ()
    warm_lengths: tuple[int, ...] = ()  # sequence lengths to warm; () = the usual ones
    max_length: int | None = None  # longest sequence accepted; None = no limit known
    origin: Origin | None = field(default=None, compare=False)  # where versions come from, which changes none of them
    text: TextSettings = TextSettings()
    fallback: str = ""  # "name" or "name/version": who answers while this one cannot
    parameters: Mapping[str, str] = field(default_factory=dict)
    triton: Mapping[str, Any] = field(default_factory=dict)  # config.pbtxt as JSON, echoed in the model's configuration
    notes: tuple[str, ...] = ()  # what was read but has no effect here, for the log


def combine(name: str, *sources: Said) -> ModelSettings:
    """One model's settings from several sources, the weakest first; tensors and parameters are joined by name."""
    merged: Said = {"inputs": {}, "outputs": {}, "parameters": {}, "notes": ()}
    for source in sources:
        for key, value in source.items():
            if key in ("inputs", "outputs"):
                for tensor, said in value.items():
                    merged[key][tensor] = {**merged[key].get(tensor, {}), **said}
            elif key == "parameters":
                merged[key].update(value)
            elif key == "notes":
                merged[key] += tuple(value)
            else:
                merged[key] = value
    for key in ("inputs", "outputs"):
        merged[key] = tuple(TensorSettings(name=tensor, **said) for tensor, said in merged[key].items())
    if "priority_levels" in merged:
        merged.setdefault("default_priority", (merged["priority_levels"] + 1) // 2)
    settings = ModelSettings(name=name, **merged)
    if settings.default_priority > settings.priority_levels:
        levels = f"the {settings.priority_levels} priority_levels"
        raise ModelError(f"{name}: default_priority: {settings.default_priority} is beyond {levels}")
    return settings
