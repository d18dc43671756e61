"""The configuration reference, and the README that carries it."""

from pathlib import Path

from sluice.config.fields import fields
from sluice.config.reference import BEGIN, END, reference, updated
from sluice.config.settings import Settings

README = Path(__file__).parents[3] / "README.md"


def test_every_setting_is_there_and_described() -> None:
    text = reference()
    for field in fields(Settings):
        assert field.description, field.name
        assert f"| `{field.key}` |" in text
        assert f"`{field.variable}`" in text
        assert f"`{field.flag}`" in text


def test_every_row_has_every_column() -> None:
    rows = [line for line in reference().splitlines() if line.startswith("|")]
    assert {row.replace("\\|", "").count("|") for row in rows} == {6}


def test_only_what_stands_between_the_markers_is_replaced() -> None:
    text = updated(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    assert text == f"before\n{BEGIN}\n\n{reference()}\n{END}\nafter\n"
    assert updated(text) == text
    assert updated("no markers") == "no markers"


def test_the_readme_is_up_to_date() -> None:
    text = README.read_text(encoding="utf-8")
    assert updated(text) == text, "put the output of `sluice config --reference` between the README's markers"
