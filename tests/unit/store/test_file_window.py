"""The window that files are inspected through."""

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from sluice.store.window import Window


@given(content=st.binary(max_size=300), places=st.lists(st.tuples(st.integers(0, 400), st.integers(0, 400))))
def test_it_shows_what_lies_there(content: bytes, places: list[tuple[int, int]]) -> None:
    window = Window.over(content)
    for position, length in places:
        assert window.at(position, length) == content[position : position + length]


def test_a_large_file_is_seen_everywhere(tmp_path: Path) -> None:
    content = bytes(range(256)) * 4000
    (tmp_path / "file").write_bytes(content)
    with (tmp_path / "file").open("rb") as file:
        window = Window(file.fileno())
        for position in (0, 999_999, 131_070, 5, len(content) - 3, len(content), len(content) + 9):
            assert window.at(position, 7) == content[position : position + 7]
        assert window.find(b"\xff", 500_000) == content.index(b"\xff", 500_000)
        assert window.find(b"\n", len(content)) == -1


def test_a_file_that_is_cut_short_meanwhile_just_ends(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(1 << 20))
    with path.open("rb") as file:
        window = Window(file.fileno())
        path.write_bytes(b"")
        assert window.at(500_000, 10) == b""
        assert window.find(b"\1", 0) == -1
