"""Who is blamed for a batch that ended badly, and in whose company the others try again."""

import asyncio

import pytest

from sluice.errors import DeviceFault, Hung, WorkerLost
from sluice.request import InferRequest
from sluice.scheduler import blame
from sluice.scheduler.blame import DEATHS_ALONE, DEATHS_IN_COMPANY, MOST_DEATHS
from sluice.scheduler.entry import Batch, Entry, Work
from sluice.spec import ModelSpec

SPEC = ModelSpec("m", "1", "", "", (), (), 64)


def entry(number: int) -> Entry:
    work = Work(InferRequest("m", "", ()), (), (), 1, 10, "g")
    reply = asyncio.get_running_loop().create_future()
    return Entry(1, 10, 0, "g", 0.0, 1.0, 0.0, None, number, work, reply)


def batch(number: int, *entries: Entry) -> Batch:
    return Batch(number, "m", SPEC, entries, 10, 0.01)


def companies(entries: list[Entry]) -> list[list[int]]:
    groups: dict[object, list[int]] = {}
    for one in entries:
        groups.setdefault(one.group, []).append(one.sequence)
    return list(groups.values())


@pytest.mark.parametrize(
    ("count", "halves"),
    [(1, [[0]]), (2, [[0], [1]]), (3, [[0, 1], [2]]), (5, [[0, 1, 2], [3, 4]]), (8, [[0, 1, 2, 3], [4, 5, 6, 7]])],
)
async def test_suspects_try_again_in_halves(count: int, halves: list[list[int]]) -> None:
    entries = [entry(number) for number in range(count)]
    blame.regroup(entries, 7)
    assert companies(entries) == halves


async def test_halves_of_different_batches_are_different_groups() -> None:
    first, second = [entry(0), entry(1)], [entry(2), entry(3)]
    blame.regroup(first, 1)
    blame.regroup(second, 2)
    assert len(companies(first + second)) == 4


async def test_after_enough_deaths_in_company_each_is_alone() -> None:
    entries = [entry(number) for number in range(32)]
    for number in range(DEATHS_IN_COMPANY):
        assert len(companies(entries)) < 32
        whole = batch(number, *entries)
        blame.died(whole.entries)
        assert not blame.guilty(whole.entries, death=True)
        blame.regroup(entries, whole.number)
    assert companies(entries) == [[number] for number in range(32)]


async def test_a_killer_is_guilty_after_the_stated_number_of_deaths_and_not_before() -> None:
    suspects, deaths, number = [entry(one) for one in range(64)], 0, 0
    killer = suspects[37]
    while True:
        number += 1
        deaths += 1
        whole = batch(number, *suspects)
        blame.died(whole.entries)
        if blame.guilty(whole.entries, death=True):
            break
        blame.regroup(suspects, whole.number)
        suspects = [one for one in suspects if one.group == killer.group]
    assert suspects == [killer]
    assert (killer.losses, killer.lone_losses) == (MOST_DEATHS, DEATHS_ALONE)
    assert deaths == MOST_DEATHS


async def test_what_raises_alone_is_guilty_at_once_but_nobody_in_company() -> None:
    assert blame.guilty([entry(0)], death=False)
    assert not blame.guilty([entry(0), entry(1)], death=False)


@pytest.mark.parametrize("kind", [WorkerLost, Hung, DeviceFault])
async def test_the_verdict_says_what_happened_and_keeps_its_kind(kind: type[WorkerLost]) -> None:
    one = entry(0)
    one.losses, one.lone_losses = 4, 2
    verdict = blame.verdict(one, kind("exit code 9"))
    assert type(verdict) is kind
    assert "after 4 workers died under it, 2 of them while they computed nothing else: exit code 9" in verdict.message
