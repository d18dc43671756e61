"""Runs candidates beside their parent, in this process and as a worker would: what they answer and how quickly.

Speed is a ratio: parent and candidate take turns on the same batches, one thread each, by the time that the processor
worked for that thread. What else the machine does takes turns as well and cancels out.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto, helper

from sluice.backends.base import Backend, Source, create
from sluice.evaluation import measures
from sluice.evaluation.data import Sample, from_bfloat16
from sluice.evaluation.runner import padded
from sluice.quantize.nearness import Answer
from sluice.quantize.rewrite import Ranges
from sluice.quantize.scaling import Seen
from sluice.spec import ModelSpec, Signature, TensorSpec

MODEL = "model.onnx"
LARGEST_SINGLE_FILE = 1_900_000_000  # one protobuf message ends at 2 GiB

_IN_COMPANY = 40  # samples
_SEEN_ROWS = 256  # kept of each value

Array = np.ndarray[Any, Any]
Batch = dict[str, Array]


@dataclass(frozen=True, slots=True)
class Loaded:
    backend: Backend
    signature: Signature


def write(model: ModelProto, directory: Path, name: str = MODEL) -> None:
    """The model's file, and one beside it for the weights where a single one cannot hold them."""
    directory.mkdir(parents=True, exist_ok=True)
    path, weights = directory / name, _weights(directory / name)
    if sum(len(tensor.raw_data) for tensor in model.graph.initializer) > LARGEST_SINGLE_FILE:
        onnx.save_model(model, path, save_as_external_data=True, location=weights.name)
    else:
        onnx.save_model(model, path)


def size(path: Path) -> int:
    """What `write` wrote, in bytes."""
    return sum(each.stat().st_size for each in (path, _weights(path)) if each.exists())


def _weights(path: Path) -> Path:
    return path.with_name(f"{path.name}.data")


@contextmanager
def loaded(path: Path) -> Iterator[Loaded]:
    """A model's file in this thread, which does all of its work."""
    backend = create("onnxruntime")
    try:
        yield Loaded(backend, backend.load(Source(path.absolute(), path.parent.absolute(), {}, "cpu", 1, None)))
    finally:
        backend.close()


def answers(backend: Backend, spec: ModelSpec, samples: Sequence[Sample]) -> list[Answer]:
    """For each sample alone: what a request gets, and which of all outputs are not finite."""
    found = []
    every = [output.name for output in spec.outputs]
    for sample in samples:
        arrays = backend.run(_ready(sample.inputs), dict.fromkeys(every))
        read = {output.name: _readable(output, arrays[output.name]) for output in spec.outputs}
        broken = frozenset(name for name, array in read.items() if not measures.scan(array).finite)
        kept = {output.name: np.array(read[output.name]) for output in spec.outputs if output.default}
        found.append(Answer(kept, broken))
    return found


def _readable(output: TensorSpec, array: Array) -> Array:
    return from_bfloat16(array) if output.datatype == "BF16" else array


def batches(spec: ModelSpec, samples: Sequence[Sample], tokens: int, rows: int) -> list[Batch]:
    """The samples as a server sends them: neighbours by length together, of so many padded tokens and rows at most."""
    ordered = sorted(samples, key=lambda sample: sample.length)
    groups: list[list[Sample]] = []
    for sample in ordered:
        last = groups[-1] if groups else []
        if last and spec.batched and len(last) < rows and (len(last) + 1) * sample.length <= tokens:
            last.append(sample)
        else:
            groups.append([sample])
    return [batch(spec, group) for group in groups]


def batch(spec: ModelSpec, samples: Sequence[Sample]) -> Batch:
    length = max(sample.length for sample in samples)
    joined: Batch = {}
    for tensor in spec.inputs:
        rows = [padded(tensor, sample.inputs[tensor.name], length) for sample in samples]
        joined[tensor.name] = np.concatenate(rows, tensor.batch_axis or 0) if len(rows) > 1 else rows[0]
    return _ready(joined)


def speeds(
    parent: Backend, candidates: Sequence[Backend], spec: ModelSpec, work: Sequence[Batch], rounds: int
) -> list[float]:  # fmt: skip
    """How many times as fast as the parent each one is: the median over the rounds, each of which does all the work."""
    wanted = [output.name for output in spec.outputs if output.default]
    everyone = [parent, *candidates]
    for backend in everyone:  # what the first run allocates
        backend.run(work[-1], dict.fromkeys(wanted))
    ratios: list[list[float]] = [[] for _ in candidates]
    for _ in range(rounds):
        spent = [0.0] * len(everyone)
        for one in work:
            for number, backend in enumerate(everyone):
                start = time.thread_time()
                backend.run(one, dict.fromkeys(wanted))
                spent[number] += time.thread_time() - start
        for number, seconds in enumerate(spent[1:]):
            ratios[number].append(spent[0] / max(seconds, 1e-9))
    return [statistics.median(each) for each in ratios]


def in_company(backend: Backend, spec: ModelSpec, samples: Sequence[Sample]) -> float:
    """The largest difference that a longer companion makes to a sample's answer, as the probe at warm-up measures it;
    0 where nothing is batched or no output is one vector for each row."""
    if not spec.batched:
        return 0.0
    wanted = [output.name for output in spec.outputs if output.default]
    longest = max(samples, key=lambda sample: sample.length)
    worst = 0.0
    for sample in samples[:_IN_COMPANY]:
        alone = backend.run(_ready(sample.inputs), dict.fromkeys(wanted))
        together = backend.run(batch(spec, [sample, longest]), dict.fromkeys(wanted))
        for name in wanted:
            if together[name].shape[1:] == alone[name].shape[1:]:
                worst = max(worst, measures.difference(alone[name][:1], together[name][:1]))
    return worst


def ranges(
    model: ModelProto, values: Sequence[str], samples: Sequence[Sample], directory: Path, told: Callable[[int], None]
) -> Ranges:
    """What the values within the graph are, over the samples."""
    model = _with_outputs(model, values)
    write(model, directory)
    seen: dict[str, Seen] = {}
    random = np.random.default_rng(0)
    some = max(1, _SEEN_ROWS // max(1, len(samples)))
    with loaded(directory / MODEL) as model_here:
        for number, sample in enumerate(samples, 1):
            for name, array in model_here.backend.run(_ready(sample.inputs), dict.fromkeys(values)).items():
                found = _range(array, some, random)
                seen[name] = _joined(seen[name], found) if name in seen else found
            told(number)
    return seen


def _with_outputs(model: ModelProto, values: Sequence[str]) -> ModelProto:
    copy = ModelProto()
    copy.CopyFrom(model)
    there = {output.name for output in copy.graph.output}
    copy.graph.output.extend(
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in values if name not in there
    )
    return copy


def _range(array: Array, some: int, random: np.random.Generator) -> Seen:
    rows = array.reshape(-1, array.shape[-1]) if array.ndim else array.reshape(1, 1)
    if not rows.size:
        return Seen(0.0, 0.0, np.zeros(rows.shape[-1], np.float32), rows)
    chosen = rows[random.permutation(len(rows))[:some]]
    return Seen(float(rows.min()), float(rows.max()), np.abs(rows).max(axis=0), chosen)


def _joined(first: Seen, second: Seen) -> Seen:
    return replace(
        first,
        low=min(first.low, second.low),
        high=max(first.high, second.high),
        channels=np.maximum(first.channels, second.channels),
        rows=np.concatenate([first.rows, second.rows]),
    )


def _ready(inputs: Any) -> Batch:
    return {name: np.asarray(array, order="C") for name, array in inputs.items()}
