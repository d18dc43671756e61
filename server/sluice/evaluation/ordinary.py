"""Whether a version that workers hold answers ordinary input with numbers, which `sluice check` asks of each."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from sluice.errors import InvalidRequest, ModelError, ModelFailed, SluiceError
from sluice.evaluation import data, measures
from sluice.evaluation.data import Row, Sample, from_bfloat16
from sluice.loading import Version
from sluice.request import InferRequest, Tensor, encode_bytes
from sluice.scheduler.entry import Work
from sluice.scheduler.policy import Bounds
from sluice.spec import BYTES, ModelSpec
from sluice.workers import warming

_SAMPLES = 16
_LENGTHS = (8, 32)  # where no tokenizer can be asked for texts


async def trouble(version: Version) -> str:
    """What of its answers is no number, or why there are none; empty if all is well. What the model does not take is
    no trouble of its own."""
    spec = replace(version.spec, outputs=tuple(replace(output, default=True) for output in version.spec.outputs))
    works = await asyncio.to_thread(lambda: [*_works(version, spec)])
    for place, work in works:
        try:
            outputs = await version.workers[0].trial(version.lane.key, spec, [work])
        except (InvalidRequest, ModelFailed):
            continue  # its warm-up tells
        except SluiceError as error:
            return f"{place}: {error.message}"
        for tensor in outputs.values():
            array = tensor.array()
            found = measures.scan(from_bfloat16(array) if tensor.datatype == "BF16" else array)
            if not found.finite:
                return f"output '{tensor.name}' has {found} for ordinary input ({place})"
    return ""


def _works(version: Version, spec: ModelSpec) -> Iterator[tuple[str, Work]]:
    """What its operator wrote down to warm it, made-up requests as those that warm it, and texts."""
    names = tuple(output.name for output in spec.outputs)
    one_row = Bounds(1, 1, 0)
    for work in warming.works(spec, version.files.settings, one_row, version.files.directory.parent):
        yield f"a warm-up request of length {work.length}" if spec.has_sequence else "a warm-up request", work
    for sample in data.dataset(version.files, spec, _rows(version, spec), data.SYNTHETIC).samples:
        tensors = tuple(_tensor(spec, name, sample) for name in spec.input_by_name)
        request = InferRequest(spec.name, spec.version, tensors)
        yield sample.place, Work(request, tensors, names, 1, sample.length, group=None)


def _rows(version: Version, spec: ModelSpec) -> list[Row]:
    try:
        return data.made_up(version.files, spec, _SAMPLES)
    except (ModuleNotFoundError, ModelError):  # no tokenizer to ask: it is none of what a server needs
        random = np.random.default_rng(0)
        lengths = _LENGTHS if spec.has_sequence else (1,)
        return [
            Row(inputs=data.tensors(spec, length, random), place=f"made-up input of length {length}")
            for length in lengths
        ]


def _tensor(spec: ModelSpec, name: str, sample: Sample) -> Tensor:
    array = sample.inputs[name]
    datatype = spec.input_by_name[name].datatype
    packed = encode_bytes(array.reshape(-1)) if datatype == BYTES else np.asarray(array, order="C").tobytes()
    return Tensor(name, datatype, array.shape, packed)
