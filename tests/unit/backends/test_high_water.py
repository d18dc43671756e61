"""What a giant took is given back once, after what came since needed far less; ordinary change gives nothing back."""

from sluice.backends.high_water import FACTOR, WINDOW, HighWater


def uses(high_water: HighWater, *sizes: int) -> list[int]:
    """What is said to give back, without the many times when it is nothing."""
    return [answer for size in sizes if (answer := high_water.use(size)) is not None]


def test_steady_use_gives_nothing_back() -> None:
    assert uses(HighWater(), *range(1, FACTOR * WINDOW)) == []


def test_a_giant_is_forgotten_within_two_windows_and_once() -> None:
    high_water = HighWater()
    assert uses(high_water, *[10] * (WINDOW // 2), 1000) == []
    assert uses(high_water, *[10, 20] * WINDOW) == [20]
    assert uses(high_water, *[10, 20] * (5 * WINDOW)) == []


def test_giants_that_keep_coming_keep_their_memory() -> None:
    window = [1000, *[10] * (WINDOW - 1)]
    assert uses(HighWater(), *window * 20) == []


def test_what_is_below_the_factor_is_kept() -> None:
    assert uses(HighWater(), FACTOR * 10, *[10] * (10 * WINDOW)) == []
    assert uses(HighWater(), FACTOR * 10 + 1, *[10] * (10 * WINDOW)) == [10]


def test_a_slow_ebb_is_followed_step_by_step() -> None:
    steps = [size for size in (1000, 100, 10, 1) for _ in range(2 * WINDOW)]
    assert uses(HighWater(), *steps) == [100, 10, 1]


def test_nothing_at_all_is_a_use_too() -> None:
    """Batches without a byte (zero rows, empty tensors) follow a giant as well."""
    assert uses(HighWater(), 5, *[0] * (2 * WINDOW)) == [0]
