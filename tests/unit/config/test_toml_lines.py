"""Lines of keys in TOML texts, and values written as TOML."""

import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluice.config.toml import encode, key_lines, parse


def test_every_way_to_write_a_key_is_found() -> None:
    text = '''# a comment

dotted.key = 1
inline = { first = 1, second = [2] }

[table]
"quoted" = 1
many = [
  1,
  # not_a_key = 2
]
prose = """
fake = 1
[fake]
"""
last = 3   # [also fake]
[outer.inner]
key = true
'''
    assert key_lines(text) == {
        ("dotted",): 3,
        ("dotted", "key"): 3,
        ("inline",): 4,
        ("inline", "first"): 4,
        ("inline", "second"): 4,
        ("table",): 6,
        ("table", "quoted"): 7,
        ("table", "many"): 8,
        ("table", "prose"): 12,
        ("table", "last"): 16,
        ("outer",): 17,
        ("outer", "inner"): 17,
        ("outer", "inner", "key"): 18,
    }


def test_windows_line_ends_count_as_one() -> None:
    assert key_lines("\r\n[a]\r\nb = 1\r\n")[("a", "b")] == 3


def test_an_array_of_tables_has_a_line() -> None:
    assert key_lines("[[a]]\nb = 1\n") == {("a",): 1, ("a", "b"): 2}


scalars = st.one_of(
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(st.characters(exclude_categories=["Cs"])),
)


@given(st.one_of(scalars, st.lists(scalars)))
def test_an_encoded_value_reads_back(value: object) -> None:
    assert tomllib.loads(f"key = {encode(value)}")["key"] == value


def test_a_path_is_a_string() -> None:
    assert encode(Path("a/b")) == '"a/b"'


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (f"a = {'1' * 5000}", "has a number beyond 64 bits"),
        (f"a = [{{ b = 0x{'f' * 5000} }}]", "has a number beyond 64 bits"),
        ("a = 9223372036854775808", "has a number beyond 64 bits"),
        (f"a = {'[' * 50_000}", "is nested too deeply"),
        (f"a = {'[' * 100}{']' * 100}", "is nested too deeply"),
        (f"x{'.x' * 20_000} = 1", "is nested too deeply"),
    ],
)
def test_what_no_reader_should_have_to_take(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        parse(text)
    assert parse("a = -9223372036854775808\nb = [[{ c.d.e = 1 }]]")["a"] == -(1 << 63)
