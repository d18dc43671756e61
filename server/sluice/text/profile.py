"""What a version does with texts: its task, the output that says the answer, and how to read that."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeVar

import msgspec

from sluice.errors import ModelError
from sluice.spec import ModelSpec, TensorSpec
from sluice.store import manifest
from sluice.store.settings import TextSettings
from sluice.text.heads import Activation, PoolingMode

Task = Literal["embedding", "classification", "token-classification", "rerank", "sparse", "other"]

# Where sentence-transformers keeps a model's prompts, and how long its texts may be.
PROMPTS = "config_sentence_transformers.json"
LONGEST = "sentence_bert_config.json"

# Where transformers keeps what a tokenizer's model takes.
TOKENIZER_CONFIG = "tokenizer_config.json"

# What an imported cross-encoder's outputs are called.
SCORE, LOGITS = "score", "logits"

# Whether a too long text is cut, and at which end; False: it is refused, whatever the model's settings say.
Truncation = bool | Literal["left", "right"]

_T = TypeVar("_T", bound=msgspec.Struct)

_FLOATS = ("FP16", "FP32", "FP64")


@dataclass(frozen=True, slots=True)
class Profile:
    """How a version's texts are read and its answers understood."""

    task: Task
    output: TensorSpec | None  # the answer; None: the model has none that a text could ask for
    pooling: PoolingMode | None  # the output is a vector for each token; None: one for the text
    normalise: bool  # unless a request says otherwise
    activation: Activation  # what makes scores of the output
    raw: str  # the output that has the scores before that, where it is another one
    max_length: int | None  # tokens of a text
    typed: bool  # the model was trained to see which text of a pair a token is of
    truncate: Literal["left", "right"] | None
    overlap: int | None
    prompts: Mapping[str, str] = field(default_factory=dict)
    default_prompt: str = ""  # put before texts for which the request names none

    def direction(self, wanted: Truncation | None) -> Literal["left", "right"] | None:
        """The end of a too long text that goes, by what a request says of it; None: the text is refused."""
        if wanted is None:
            return self.truncate
        if wanted is True:
            return self.truncate or "right"
        return wanted or None

    @property
    def labels(self) -> tuple[str, ...]:
        return self.output.labels if self.output is not None else ()


def read(spec: ModelSpec, said: TextSettings, directory: Path) -> Profile:
    """From what the operator says, the manifest, the files beside the model, and else the model's outputs."""
    output = _output(spec, said)
    task = _task(said, output, directory)
    prompts, default = _prompts(directory)
    prompts |= said.prompts
    if said.default_prompt and said.default_prompt not in prompts:
        raise ModelError(f"text.default_prompt: '{said.default_prompt}' is not among text.prompts")
    per_token = output is not None and len(output.shape) == 3
    return Profile(
        task=task,
        output=output,
        pooling=(said.pooling or "mean") if per_token and task == "embedding" else None,
        normalise=said.normalize if said.normalize is not None else task == "embedding",
        activation=said.activation or _activation(output),
        raw=LOGITS if output is not None and output.name == SCORE and LOGITS in spec.output_by_name else "",
        max_length=said.max_length or _longest(directory),
        typed=_typed(directory),
        truncate=said.truncate if said.truncate in ("left", "right") else None,
        overlap=said.overlap,
        prompts=prompts,
        default_prompt=prompts.get(said.default_prompt or default, ""),
    )


def _activation(output: TensorSpec | None) -> Activation:
    if output is not None and output.name == SCORE:
        return "none"  # the graph has made one of its logits
    return "sigmoid" if output is not None and output.shape[-1] == 1 else "softmax"


def _output(spec: ModelSpec, said: TextSettings) -> TensorSpec | None:
    if said.output:
        found = spec.output_by_name.get(said.output)
        if found is None:
            names = ", ".join(spec.output_by_name)
            raise ModelError(f"text.output: '{spec.name}' has no output '{said.output}'; it has {names}")
        return found
    able = [one for one in spec.outputs if one.datatype in _FLOATS and one.batch_axis == 0 and len(one.shape) in (2, 3)]
    whole = [one for one in able if len(one.shape) == 2 and one.default]
    return next(iter([*whole, *(one for one in able if one.default), *able]), None)


def _task(said: TextSettings, output: TensorSpec | None, directory: Path) -> Task:
    if said.task:
        return said.task
    if output is None:
        return "other"
    sealed = manifest.read(directory)
    named = sealed.task if sealed is not None else ""
    match named:
        case "embedding" | "classification" | "token-classification" | "rerank":
            return named
    if output.labels:
        return "token-classification" if len(output.shape) == 3 else "classification"
    return "embedding"


class _Prompts(msgspec.Struct):
    prompts: dict[str, str] = {}
    default_prompt_name: str | None = None


class _Longest(msgspec.Struct):
    max_seq_length: int | None = None


def _prompts(directory: Path) -> tuple[dict[str, str], str]:
    """Those that the model was trained with, and the name of the one that is meant if none is named."""
    found = _beside(directory / PROMPTS, _Prompts)
    return {name: prompt for name, prompt in found.prompts.items() if prompt}, found.default_prompt_name or ""


def _longest(directory: Path) -> int | None:
    found = _beside(directory / LONGEST, _Longest).max_seq_length
    return found if found is not None and found > 0 else None


class _Names(msgspec.Struct):
    model_input_names: list[str] | None = None


def _typed(directory: Path) -> bool:
    names = _beside(directory / TOKENIZER_CONFIG, _Names).model_input_names
    return names is None or "token_type_ids" in names


def _beside(path: Path, kind: type[_T]) -> _T:
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except FileNotFoundError:
        return kind()
    except (OSError, msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ModelError(f"{path.name}: cannot be read: {error}") from error
