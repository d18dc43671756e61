"""What is said of how long callbacks block an event loop."""

import pytest
from loadtests.texts.waiting import Heard


def told(*used: float, seconds: float) -> dict[str, float]:
    heard = Heard()
    heard.add({"late": [0.0, 0.001], "used": used}, seconds)
    return heard.told()


def test_rare_blocks_do_not_count_by_their_number_but_by_their_time() -> None:
    # A callback of 12 ms keeps those that come in its first 10 ms waiting for 2 ms and more: 0.1 % of ten seconds.
    assert told(0.012, seconds=10)["blocked_p999_ms"] == pytest.approx(2)
    assert told(0.012, *[0.0001] * 1000, seconds=10)["blocked_p999_ms"] == pytest.approx(2)
    # Two of 7 ms do the same.
    assert told(0.007, 0.007, seconds=10)["blocked_p999_ms"] == pytest.approx(2)
    assert told(0.012, 0.002, seconds=10)["blocked_p999_ms"] == pytest.approx(2)


def test_little_work_blocks_nobody() -> None:
    assert told(0.0001, 0.0002, seconds=10)["blocked_p999_ms"] == 0
    assert told(0.0001, 0.0002, seconds=10)["blocked_most_ms"] == pytest.approx(0.2)


def test_lateness_is_in_milliseconds() -> None:
    assert told(0.0, seconds=1)["most_ms"] == pytest.approx(1)
