"""What goes into a slot comes out again: each entry gets its own rows at its own length, whatever shares its batch."""

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from sluice.request import InferRequest, Tensor, encode_bytes
from sluice.scheduler.entry import Work
from sluice.spec import BYTES, NUMPY_TYPES, ModelSpec, TensorSpec
from sluice.workers import assembly
from sluice.workers.slots import array_at

DATATYPES = st.sampled_from([*NUMPY_TYPES, BYTES])


@st.composite
def batches(draw: st.DrawFn) -> tuple[ModelSpec, list[Work]]:
    """An identity model of one to three inputs, with the axes anywhere, and entries of any sizes for it."""
    batch_axis, sequence_axis = draw(st.sampled_from([(0, 1), (1, 0), (0, 2), (0, None)]))
    fixed = draw(st.integers(1, 3))
    shape = tuple(-1 if axis in (batch_axis, sequence_axis) else fixed for axis in range(3))
    names = [f"input{number}" for number in range(draw(st.integers(1, 3)))]
    specs = tuple(
        TensorSpec(name, draw(DATATYPES), shape, batch_axis, sequence_axis, pad=1 if draw(st.booleans()) else 0)
        for name in names
    )
    spec = ModelSpec("m", "1", "test", "test", specs, specs, 64)
    works = []
    for number in range(draw(st.integers(1, 5))):
        rows, length = draw(st.integers(1, 3)), draw(st.integers(1, 9)) if sequence_axis is not None else 1
        sizes = {batch_axis: rows, sequence_axis: length}
        mine = tuple(sizes.get(axis, fixed) for axis in range(3))
        tensors = tuple(tensor(one, mine, number) for one in specs)
        wanted = tuple(draw(st.permutations(names))[: draw(st.integers(1, len(names)))])
        works.append(Work(InferRequest("m", "1", tensors), tensors, wanted, rows, length, None))
    return spec, works


def tensor(spec: TensorSpec, shape: tuple[int, ...], seed: int) -> Tensor:
    count = math.prod(shape)
    if spec.datatype == BYTES:
        elements = [b"%d-%d" % (seed, index) * seed for index in range(count)]
        return Tensor(spec.name, BYTES, shape, encode_bytes(elements))
    raw = np.random.default_rng(seed).integers(0, 2, count).astype(NUMPY_TYPES[spec.datatype])
    return Tensor(spec.name, spec.datatype, shape, raw.tobytes())


@given(batches(), st.none() | st.integers(9, 16))
def test_an_identity_gives_each_entry_its_own(batch: tuple[ModelSpec, list[Work]], length: int | None) -> None:
    spec, works = batch
    planned = assembly.plan(spec, works, length=length if spec.has_sequence else None)
    memory = memoryview(bytearray(planned.size + 1))
    assembly.write(spec, works, planned, memory)
    answers = assembly.read(spec, works, planned.inputs, memory)
    for work, answer in zip(works, answers, strict=True):
        given_by_name = {one.name: one for one in work.inputs if one is not None}
        assert [one.name for one in answer] == list(work.outputs)
        for one in answer:
            assert one == given_by_name[one.name]


@given(batches())
def test_nothing_overlaps(batch: tuple[ModelSpec, list[Work]]) -> None:
    spec, works = batch
    planned = assembly.plan(spec, works)
    places = [*planned.inputs, *(wanted.place for wanted in planned.outputs if wanted.place is not None)]
    end = 0
    for place in places:
        assert place.offset >= end
        assert place.offset % 64 == 0
        end = place.offset + place.size
    assert end <= planned.size


def test_padding_and_left_out_inputs_are_filled() -> None:
    ids = TensorSpec("input_ids", "INT64", (-1, -1), 0, 1, pad=7)
    mask = TensorSpec("attention_mask", "INT64", (-1, -1), 0, 1, pad=0, fill=1)
    spec = ModelSpec("m", "1", "test", "test", (ids, mask), (), 8)

    def work(*values: int) -> Work:
        given_ids = Tensor("input_ids", "INT64", (1, len(values)), np.array(values, "<i8").tobytes())
        return Work(InferRequest("m", "1", (given_ids,)), (given_ids, None), (), 1, len(values), None)

    works = [work(1, 2, 3), work(4)]
    planned = assembly.plan(spec, works)
    # A slot is used again and again: what an earlier batch left in it must not show.
    memory = memoryview(bytearray(b"\xff" * planned.size))
    assembly.write(spec, works, planned, memory)
    assert array_at(memory, planned.inputs[0]).tolist() == [[1, 2, 3], [4, 7, 7]]
    assert array_at(memory, planned.inputs[1]).tolist() == [[1, 1, 1], [1, 0, 0]]
