"""Searches the best setting of each peer's dynamic batching in a small grid, at one rate, so that it is at its best."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Callable

from loadtests.compare.checking import CheckError, Embeddings, wait_until_right
from loadtests.compare.contestants import Contestant, Setting, described, grid, request, start
from loadtests.compare.processes import ServerProcess, free_ports
from loadtests.compare.rounds import BareModel
from loadtests.compare.traces import trace
from sluice.bench.generators import Generators
from sluice.bench.samples import percentile
from sluice.bench.senders import Wire
from sluice.bench.traffic import mix

MIX = "lognormal"
SHARE_OF_CEILING = 0.5
SECONDS, WARM_UP = 6.0, 3.0  # BentoML learns from its first dozens of batches


def tune(
    entrants: list[Contestant],
    setting: Setting,
    wanted: Embeddings,
    bare: BareModel,
    generators: Generators,
    say: Callable[[str], None],
) -> dict[str, dict[str, float]]:
    """Say how every setting does; the best of each peer."""
    best: dict[str, dict[str, float]] = {}
    rate = statistics.median(bare.rate(MIX) for _ in range(3)) * SHARE_OF_CEILING
    say(f"{rate:.1f} requests per second of {MIX}")
    for contestant in entrants:
        if contestant.batching is None:
            continue
        found: list[tuple[float, float, dict[str, float]]] = []
        for batching in grid(contestant.peer, setting.target):
            tried = dataclasses.replace(contestant, batching=batching)
            try:
                share, p99 = _tried(tried, setting, wanted, generators, rate)
            except CheckError as error:
                say(f"  {contestant.peer} {described(tried, setting.target)}: {error}")
                continue
            found.append((share, -p99, batching))
            words = described(tried, setting.target)
            say(f"  {contestant.peer:9} {words:38} {share:7.2%} in time, p99 {p99 * 1000:6.0f} ms")
        if found:
            best[contestant.peer] = max(found, key=lambda each: each[:2])[2]
            say(f"{contestant.peer}: best is {best[contestant.peer]}")
    return best


def _tried(
    contestant: Contestant, setting: Setting, wanted: Embeddings, generators: Generators, rate: float
) -> tuple[float, float]:
    server = ServerProcess(start(contestant, setting, free_ports(3)))
    server.start()
    try:
        wait_until_right(contestant, server, wanted)
        bodies = {length: request(contestant, server.how.address, length) for length in mix(MIX).support}
        wire = Wire(server.how.address, bodies, 10 * setting.target)
        generators.run(wire, trace(MIX, rate / 4, WARM_UP, seed=0))
        samples = generators.run(wire, trace(MIX, rate, WARM_UP + SECONDS, seed=1))
        counted = [sample for sample in samples if sample.due >= WARM_UP]
        share = sum(each.outcome == "answered" and each.seconds <= setting.target for each in counted) / len(counted)
        answered = sorted(each.seconds for each in counted if each.outcome == "answered")
        return share, percentile(answered, 99)
    finally:
        server.stop()
