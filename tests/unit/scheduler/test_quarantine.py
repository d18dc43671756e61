"""Requests that killed workers are known again, whoever sends them; what they are told apart by costs nothing else."""

from dataclasses import replace

import numpy as np
import pytest

from sluice.request import InferRequest, Tensor
from sluice.scheduler import quarantine as module
from sluice.scheduler.blame import DEATHS_ALONE, MOST_DEATHS
from sluice.scheduler.entry import Work
from sluice.scheduler.quarantine import MOST, Quarantine, fingerprint

SECONDS = 300.0


def work(*values: int, name: str = "x", outputs: tuple[str, ...] = ("y",), tenant: str = "") -> Work:
    data = np.array([values], np.int64).tobytes()
    tensor = Tensor(name, "INT64", (1, len(values)), data)
    request = InferRequest("m", "", (tensor,), id=tenant, tenant=tenant)
    return Work(request, (tensor,), outputs, 1, len(values), "g", len(data))


def guilty(quarantine: Quarantine, killer: Work, now: float = 0.0, model: str = "m/1") -> None:
    quarantine.mark(model, killer, MOST_DEATHS, DEATHS_ALONE, now)


def test_the_same_request_is_refused_until_its_time_is_over() -> None:
    quarantine = Quarantine(SECONDS)
    guilty(quarantine, work(1, 2))
    found = quarantine.find("m/1", work(1, 2, tenant="another client"), SECONDS - 10)
    assert found is not None
    assert found.guilty
    refusal = found.refusal(SECONDS - 10)
    assert refusal.retry_after == pytest.approx(10)
    assert "killed workers lately; it is not computed again for 10 seconds" in refusal.message
    assert quarantine.find("m/1", work(1, 2), SECONDS) is None
    assert len(quarantine) == 0


@pytest.mark.parametrize(
    "other",
    [
        work(1, 3),
        work(1, 2, 2),
        work(1, 2, name="z"),
        work(1, 2, outputs=()),
        replace(work(1, 2), inputs=(None,)),
        replace(work(1, 2), inputs=(replace(work(1, 2).request.inputs[0], shape=(2, 1)),)),
        replace(work(1, 2), inputs=(replace(work(1, 2).request.inputs[0], datatype="UINT64"),)),
    ],
)
def test_another_request_is_not(other: Work) -> None:
    quarantine = Quarantine(SECONDS)
    guilty(quarantine, work(1, 2))
    assert quarantine.find("m/1", other, 1.0) is None
    assert quarantine.find("m/2", work(1, 2), 1.0) is None


def test_views_and_bytes_are_the_same() -> None:
    one = work(1, 2)
    tensor = replace(one.request.inputs[0], data=memoryview(bytearray(one.request.inputs[0].data)))
    assert fingerprint(replace(one, inputs=(tensor,))) == fingerprint(one)


def test_a_suspect_keeps_what_is_known_of_it() -> None:
    quarantine = Quarantine(SECONDS)
    quarantine.mark("m/1", work(1), 2, 1, 0.0)
    quarantine.mark("m/1", work(1), 1, 0, 1.0)
    found = quarantine.find("m/1", work(1), 2.0)
    assert found is not None
    assert (found.losses, found.lone_losses, found.guilty) == (2, 1, False)
    quarantine.acquit("m/1", work(1))
    assert quarantine.find("m/1", work(1), 2.0) is None


def test_a_model_loaded_anew_begins_anew() -> None:
    quarantine = Quarantine(SECONDS)
    for model in ("m/1", "m/2"):
        guilty(quarantine, work(1), model=model)
    quarantine.clear("m/1")
    assert quarantine.find("m/1", work(1), 1.0) is None
    assert quarantine.find("m/2", work(1), 1.0) is not None


def test_it_is_bounded_and_forgets_the_oldest() -> None:
    quarantine = Quarantine(SECONDS)
    for number in range(MOST + 10):
        guilty(quarantine, work(number), now=number / 1000)
    assert len(quarantine) == MOST
    assert quarantine.find("m/1", work(9), 1.0) is None
    assert quarantine.find("m/1", work(10), 1.0) is not None
    guilty(quarantine, work(0), now=2 * SECONDS)  # the others' time is over
    assert len(quarantine) == 1


def test_zero_seconds_remember_nothing() -> None:
    quarantine = Quarantine(0.0)
    guilty(quarantine, work(1))
    assert quarantine.find("m/1", work(1), 0.0) is None


def test_nothing_is_fingerprinted_unless_something_alike_is_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[Work] = []

    def counting(one: Work) -> bytes:
        taken.append(one)
        return fingerprint(one)

    monkeypatch.setattr(module, "fingerprint", counting)
    quarantine = Quarantine(SECONDS)
    quarantine.find("m/1", work(1), 0.0)
    quarantine.acquit("m/1", work(1))
    assert not taken
    guilty(quarantine, work(1))
    taken.clear()
    quarantine.find("m/1", work(1, 2), 0.0)
    quarantine.find("m/2", work(1), 0.0)
    assert not taken
    quarantine.find("m/1", work(2), 0.0)
    assert len(taken) == 1
