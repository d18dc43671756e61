from pathlib import Path

import graphs
import pytest

from sluice.errors import ModelError
from sluice.store import card
from sluice.store.manifest import Parent, seal, verify


@pytest.fixture
def version(tmp_path: Path) -> Path:
    return graphs.tagger(tmp_path, "tagger", "3").parent


def written(directory: Path, **said: object) -> str:
    card.write(directory, seal(directory, **said))
    return (directory / "README.md").read_text("utf-8")


def test_a_card_says_what_is_known(version: Path) -> None:
    parents = (Parent("quantized from", "tagger", "1.0.0"),)
    text = written(version, licence="MIT", parents=parents, metrics={"cosine": 0.998})
    assert text.startswith("# tagger\n")
    for line in (
        "| version | 3.0.0 |",
        "| licence | MIT |",
        "| quantized from | tagger 1.0.0 |",
        "| input\\_ids | INT64 | batch, sequence |",
        "| cosine | 0.998 |",
    ):
        assert line in text.splitlines()
    assert "task" not in text  # which nobody said


def test_what_the_author_wrote_is_kept(version: Path) -> None:
    first = written(version)
    above, below = "# My tagger\n\nMade with care: größer.\n\n", "\n## Limits\n\nDo not use it.\n"
    (version / "README.md").write_text(above + first + below, "utf-8")
    text = written(version, version="3.1.0")
    assert text.startswith(above)
    assert text.endswith(below)
    assert "| version | 3.1.0 |" in text
    assert "3.0.0" not in text
    assert written(version) == text


def test_a_card_without_the_markers_gets_them_at_its_end(version: Path) -> None:
    (version / "README.md").write_text("All by myself.")
    text = written(version)
    assert text.startswith(f"All by myself.\n\n{card.BEGIN}\n")
    assert text.endswith(f"{card.END}\n")


def test_a_card_changes_nothing_that_is_sealed(version: Path) -> None:
    sealed = seal(version)
    card.write(version, sealed)
    verify(version, sealed)


def test_no_text_can_break_out_of_its_cell(version: Path) -> None:
    text = written(version, source=f"a|b <script> {card.END} [x](y) `z`")
    (row,) = [line for line in text.splitlines() if line.startswith("| source")]
    assert row.replace("\\|", "").count("|") == 3
    assert "<script>" not in text
    assert text.count(card.END) == 1


@pytest.mark.parametrize(
    "text", [card.BEGIN, card.END, f"{card.END}\n{card.BEGIN}", f"{card.BEGIN}{card.END}" * 2, card.BEGIN * 2]
)
def test_broken_markers_are_an_error_and_the_card_stays(version: Path, text: str) -> None:
    (version / "README.md").write_text(text)
    with pytest.raises(ModelError, match=r"README\.md: "):
        card.write(version, seal(version))
    assert (version / "README.md").read_text() == text
