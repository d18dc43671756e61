"""A worker that fails where others succeed, and a version that fails everywhere."""

from sluice.workers.peers import Peers


def fill(peers: Peers, worker: str, key: str, good: int, bad: int, now: float = 0.0) -> None:
    for number in range(good + bad):
        peers.add(worker, key, failed=number < bad, now=now)


def test_a_worker_that_fails_alone_is_suspected() -> None:
    peers = Peers()
    fill(peers, "a", "m", good=2, bad=18)
    fill(peers, "b", "m", good=20, bad=0)
    assert peers.suspicion("a", 0.0) == "90% of its batches failed lately, 0% of the others'"
    assert not peers.suspicion("b", 0.0)


def test_a_version_that_fails_everywhere_is_no_workers_fault() -> None:
    peers = Peers()
    for worker in "abc":
        fill(peers, worker, "broken", good=1, bad=30)
    assert not any(peers.suspicion(worker, 0.0) for worker in "abc")


def test_the_only_worker_of_a_version_is_not_suspected() -> None:
    peers = Peers()
    fill(peers, "a", "mine", good=0, bad=30)
    fill(peers, "b", "other", good=30, bad=0)
    assert not peers.suspicion("a", 0.0)


def test_few_failures_and_a_small_share_say_nothing() -> None:
    peers = Peers()
    fill(peers, "a", "m", good=0, bad=5)
    fill(peers, "b", "m", good=30, bad=0)
    assert not peers.suspicion("a", 0.0)
    fill(peers, "a", "m", good=40, bad=10)
    assert not peers.suspicion("a", 0.0)


def test_outcomes_fade_and_are_forgiven() -> None:
    peers = Peers()
    fill(peers, "a", "m", good=0, bad=20)
    fill(peers, "b", "m", good=20, bad=0)
    assert peers.suspicion("a", 1.0)
    assert not peers.suspicion("a", 60.0)
    fill(peers, "a", "m", good=0, bad=20, now=60.0)
    fill(peers, "b", "m", good=20, bad=0, now=60.0)
    peers.forgive("a")
    assert not peers.suspicion("a", 60.0)


def test_a_version_that_is_gone_counts_no_more() -> None:
    peers = Peers()
    fill(peers, "a", "m", good=0, bad=20)
    fill(peers, "b", "m", good=20, bad=0)
    peers.drop("m")
    assert not peers.suspicion("a", 0.0)
