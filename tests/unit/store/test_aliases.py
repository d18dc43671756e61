"""A model's aliases: what is written is read, nothing is half done, and the history tells of it."""

import json
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import pytest

from sluice.errors import InvalidRequest, ModelError, UnknownModel
from sluice.store import aliases


@pytest.fixture
def model(tmp_path: Path) -> Path:
    for number in ("1", "2", "10"):
        (tmp_path / "m" / number).mkdir(parents=True)
    return tmp_path / "m"


def test_a_promotion_is_kept_with_who_and_why(model: Path) -> None:
    assert aliases.read(model) == {}
    assert aliases.history(model) == []
    before = datetime.now(UTC).replace(microsecond=0)
    change = aliases.promote(model, "production", "2", "ann", "it is better")
    assert (change.by, change.alias, change.before, change.after) == ("ann", "production", "", "2")
    assert before <= datetime.fromisoformat(change.time) <= datetime.now(UTC)
    assert aliases.read(model) == {"production": "2"}
    aliases.promote(model, "staging", "10", "bob")
    aliases.promote(model, "eu.west-1", "10", "bob")
    assert aliases.read(model) == {"production": "2", "staging": "10", "eu.west-1": "10"}
    assert aliases.history(model)[0] == change
    assert [one.alias for one in aliases.history(model)] == ["production", "staging", "eu.west-1"]
    assert sorted(path.name for path in model.iterdir() if path.is_file()) == [aliases.HISTORY, aliases.ALIASES]


def test_previous_is_what_was_in_production_and_the_way_back(model: Path) -> None:
    aliases.promote(model, "production", "1", "")
    assert "previous" not in aliases.read(model)
    aliases.promote(model, "production", "2", "")
    assert aliases.read(model) == {"production": "2", "previous": "1"}
    for after, previous in (("1", "2"), ("2", "1")):
        assert aliases.promote(model, "production", "previous", "").after == after
        assert aliases.read(model) == {"production": after, "previous": previous}


@pytest.mark.parametrize(("served", "expected"), [("1", {"previous": "1"}), ("2", {}), ("", {})])
def test_the_first_promotion_leaves_a_way_back_to_what_served(
    model: Path, served: str, expected: dict[str, str]
) -> None:
    aliases.promote(model, "production", "2", "", served=served)
    assert aliases.read(model) == {"production": "2", **expected}


def test_the_same_again_changes_nothing(model: Path) -> None:
    aliases.promote(model, "production", "1", "")
    aliases.promote(model, "production", "2", "")
    assert aliases.promote(model, "production", "2", "").before == "2"
    assert aliases.read(model) == {"production": "2", "previous": "1"}
    assert len(aliases.history(model)) == 2


@pytest.mark.parametrize("alias", ["", "1", "2nd", "Production", "a b", "a/b", "-x", "x" * 65, "latest", "ä", "a\n"])
def test_what_no_alias_can_be(model: Path, alias: str) -> None:
    with pytest.raises(InvalidRequest, match="is not an alias: "):
        aliases.promote(model, alias, "1", "")
    assert not (model / aliases.HISTORY).exists()


@pytest.mark.parametrize(
    ("wanted", "reason"),
    [
        ("3", "'m' has no version 3; there are 1, 2, 10"),
        ("02", "'m' has no version 02; there are 1, 2, 10"),
        ("staging", "'m' version staging is not found among aliases; there are production"),
        ("../m/2", "'m' version ../m/2 is not found among aliases; there are production"),
        ("", "'m' version  is not found among aliases; there are production"),
    ],
)
def test_what_is_not_there_cannot_be_promoted(model: Path, wanted: str, reason: str) -> None:
    aliases.promote(model, "production", "1", "")
    with pytest.raises(UnknownModel) as caught:
        aliases.promote(model, "production", wanted, "")
    assert caught.value.message.removeprefix("Request for unknown model: ") == reason
    assert aliases.read(model) == {"production": "1"}
    assert len(aliases.history(model)) == 1


def test_without_aliases_there_is_no_way_back(model: Path) -> None:
    with pytest.raises(UnknownModel, match="version previous is not found among aliases; there are none"):
        aliases.promote(model, "production", "previous", "")


@pytest.mark.parametrize(("by", "reason"), [("x" * 129, ""), ("", "x" * 1001), ("a\nb", ""), ("", "a\x1b[2J")])
def test_texts_are_one_line_of_bounded_length(model: Path, by: str, reason: str) -> None:
    with pytest.raises(InvalidRequest, match=r"longer than|one line"):
        aliases.promote(model, "production", "1", by, reason)
    assert aliases.read(model) == {}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("production = ", r"m/aliases\.toml: Invalid value"),
        ('production = "two"', "m/aliases.toml: production: must be the number of a version, not 'two'"),
        ("production = true", "production: must be the number"),
        ('Production = "1"', "m/aliases.toml: 'Production' is not an alias"),
        ("[production]\n", "production: must be the number"),
    ],
)
def test_a_file_that_is_wrong_says_where(model: Path, text: str, reason: str) -> None:
    (model / aliases.ALIASES).write_text(text)
    with pytest.raises(ModelError, match=reason):
        aliases.read(model)
    with pytest.raises(ModelError, match=reason):
        aliases.promote(model, "production", "1", "")
    assert (model / aliases.ALIASES).read_text() == text


def test_a_file_written_by_hand(model: Path) -> None:
    (model / aliases.ALIASES).write_text('# mine\nproduction = 2\nstaging = "10"\n')
    assert aliases.read(model) == {"production": "2", "staging": "10"}


def test_what_cannot_be_written_is_not_in_the_history(model: Path) -> None:
    aliases.promote(model, "production", "1", "")
    told = (model / aliases.HISTORY).read_bytes()
    (model / aliases.ALIASES).unlink()
    (model / aliases.ALIASES).mkdir()
    with pytest.raises(ModelError):
        aliases.promote(model, "production", "2", "")
    (model / aliases.ALIASES).rmdir()
    assert (model / aliases.HISTORY).read_bytes() == told


def test_a_line_that_was_cut_off_costs_no_other(model: Path, caplog: pytest.LogCaptureFixture) -> None:
    aliases.promote(model, "production", "1", "")
    with (model / aliases.HISTORY).open("a") as file:
        file.write('{"time": "2026-')
    aliases.promote(model, "production", "2", "")
    assert [change.after for change in aliases.history(model)] == ["1", "2"]
    assert "line 2, is not what was written there" in caplog.text


def test_everybody_is_heard_when_many_promote_at_once(model: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda count: aliases.promote(model, f"a{count}", "2", "ann"), range(32)))
    assert aliases.read(model) == {f"a{count}": "2" for count in range(32)}
    lines = (model / aliases.HISTORY).read_text().splitlines()
    assert sorted(json.loads(line)["alias"] for line in lines) == sorted(f"a{count}" for count in range(32))


def test_an_alias_is_taken_away_with_who_and_why(model: Path) -> None:
    aliases.promote(model, "production", "1", "ann")
    aliases.promote(model, "staging", "2", "ann")
    change = aliases.remove(model, "staging", "bob", "done with it")
    assert (change.by, change.alias, change.before, change.after, change.reason) == (
        "bob",
        "staging",
        "2",
        "",
        "done with it",
    )
    assert aliases.read(model) == {"production": "1"}
    assert aliases.history(model)[-1] == change
    for alias in ("staging", "previous"):
        with pytest.raises(UnknownModel, match=f"version {alias} is not found among aliases; there are production"):
            aliases.remove(model, alias, "bob")
    with pytest.raises(InvalidRequest, match="is not an alias"):
        aliases.remove(model, "1", "bob")
    assert len(aliases.history(model)) == 3


def test_where_there_are_no_aliases_none_is_taken_away(model: Path) -> None:
    with pytest.raises(UnknownModel, match="there are none"):
        aliases.remove(model, "production", "bob")
    assert not (model / aliases.HISTORY).exists()


def test_there_is_a_bound(model: Path) -> None:
    for count in range(aliases.MAX_ALIASES):
        aliases.promote(model, f"a{count}", "1", "")
    with pytest.raises(InvalidRequest, match="aliases already"):
        aliases.promote(model, "another", "1", "")
    aliases.promote(model, "a0", "2", "")
