"""Large JSON in pieces says what it would say in one."""

from __future__ import annotations

from typing import Any

import numpy as np
import orjson
import pytest

from sluice.frontends.http.pieces import MOST, pieces, pieces_of_each

ROWS = np.arange(3 * MOST, dtype=np.float32).reshape(3, MOST)
TOKENS = [{"id": number, "special": False} for number in range(3 * MOST)]


@pytest.mark.parametrize(
    "value",
    [
        {},
        [],
        [1, "two", None],
        {"a": [1.5, 2], "b": {"c": "größer"}},
        list(range(3 * MOST + 1)),
        ROWS,
        list(ROWS),
        ROWS.reshape(2, 3, -1),
        [ROWS, ROWS[:1]],
        {"object": "list", "data": [{"index": i, "embedding": row} for i, row in enumerate(ROWS)], "n": 3},
        {"data": [{"embedding": "x" * 3000}] * 100},
        {"data": [[{"label": "a", "score": 0.5}] * 9] * 1000},
        ROWS[:, :10],
        np.asfortranarray(ROWS),
    ],
    ids=range(14),
)
def test_nothing_is_different(value: Any) -> None:
    def plain(one: Any) -> Any:
        return one.tolist() if isinstance(one, np.ndarray) else one

    written = b"".join(pieces(value))
    assert orjson.loads(written) == orjson.loads(orjson.dumps(value, default=plain))


@pytest.mark.parametrize("value", [list(ROWS), {"data": [{"embedding": row} for row in ROWS]}, ROWS, [list(ROWS)]])
def test_pieces_are_small(value: Any) -> None:
    assert max(map(len, pieces(value))) < 12 * MOST


@pytest.mark.parametrize("value", [[], [[]], [[1], TOKENS, []], [TOKENS]], ids=range(4))
def test_lists_of_all_lengths_are_cut(value: Any) -> None:
    written = list(pieces_of_each(value))
    assert orjson.loads(b"".join(written)) == value
    assert max(map(len, written)) < 16 * MOST
