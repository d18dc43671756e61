"""What a version is called in the keys of kept answers: another name for all that changes its answers, no other."""

from __future__ import annotations

from pathlib import Path

import graphs
import pytest

from sluice.reuse.answers import Identity
from sluice.reuse.identity import identity_of
from sluice.store.manifest import seal
from sluice.store.repository import find

PLAIN = 'max_batch_rows = 8\n[parameters]\na = "1"\nb = "2"\n[[input]]\nname = "input_ids"\nfill = 1\n'


def identity(repository: Path, name: str, said: str, key: str = "", sealed: bool = True) -> Identity:
    directory = graphs.tagger(repository, name).parent
    (repository / name / "model.toml").write_text(said)
    if sealed:
        seal(directory)
    (files,) = find(repository, name).versions
    return identity_of(files, key)


@pytest.mark.parametrize(
    "said",
    [
        PLAIN.replace("fill = 1", "fill = 100"),
        PLAIN.replace("fill = 1", "fill = 1\npad = 3"),
        PLAIN.replace('b = "2"', 'b = "3"'),
        PLAIN.replace("max_batch_rows = 8", "max_batch_rows = 0"),
        f'padding = "never"\n{PLAIN}',
        f'backend = "onnxruntime"\n{PLAIN}',
        "",
    ],
)
def test_what_changes_answers_makes_it_another(tmp_path: Path, said: str) -> None:
    plain = identity(tmp_path / "one", "tagger", PLAIN)
    assert plain.is_shared
    assert identity(tmp_path / "other", "tagger", said) != plain


def test_another_name_is_another(tmp_path: Path) -> None:
    assert identity(tmp_path, "one", PLAIN) != identity(tmp_path, "other", PLAIN)


@pytest.mark.parametrize(
    "said",
    [PLAIN, f"target_latency = 0.5\ninstances = 1\n{PLAIN}", PLAIN.replace('a = "1"\nb = "2"', 'b = "2"\na = "1"')],
    ids=["the same", "about speed", "in another order"],
)
def test_replicas_call_it_the_same(tmp_path: Path, said: str) -> None:
    one = identity(tmp_path / "one", "tagger", PLAIN, key="tagger/1#1")
    assert identity(tmp_path / "other", "tagger", said, key="tagger/1#7") == one


def test_what_is_not_sealed_is_known_here_only(tmp_path: Path) -> None:
    found = identity(tmp_path, "tagger", PLAIN, key="tagger/1#3", sealed=False)
    assert found == Identity("tagger/1#3", False)
