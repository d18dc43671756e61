from pathlib import Path

import graphs

from sluice.loading import fingerprint_of
from sluice.store import card
from sluice.store.manifest import seal
from sluice.store.repository import find


def fingerprint(repository: Path) -> object:
    (files,) = find(repository, "tagger").versions
    return fingerprint_of(files)


def test_what_is_said_of_a_version_makes_it_no_other(tmp_path: Path) -> None:
    directory = graphs.tagger(tmp_path).parent
    before = fingerprint(tmp_path)
    card.write(directory, seal(directory))
    assert fingerprint(tmp_path) == before
    seal(directory, metrics={"cosine": 0.998})
    assert fingerprint(tmp_path) == before
    (directory / "labels.txt").touch()
    assert fingerprint(tmp_path) != before
