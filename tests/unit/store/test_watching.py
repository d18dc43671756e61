"""What is said to have changed in a repository, look by look: only what has come to rest, and is complete."""

import os
import shutil
from pathlib import Path

import graphs
import pytest

from sluice.store.manifest import seal
from sluice.store.watching import AT_REST, Changed, Vanished, Watch, lacking


@pytest.fixture
def watch(tmp_path: Path) -> Watch:
    """What there was at the beginning is version 1 of `tagger`."""
    graphs.tagger(tmp_path)
    watch = Watch(tmp_path)
    watch.begin()
    assert looks(watch, 2 * AT_REST) == []
    return watch


def looks(watch: Watch, count: int = AT_REST + 1) -> list[Changed]:
    return [change for _ in range(count) for change in watch.look()]


def test_a_new_version_is_told_of_once_when_it_rests(watch: Watch, tmp_path: Path) -> None:
    graphs.tagger(tmp_path, version="2", factor=3)
    assert looks(watch, AT_REST) == []
    assert watch.unfinished("tagger") == {"2": ""}
    assert watch.look() == [Changed("tagger")]
    assert watch.unfinished("tagger") == {}
    assert looks(watch, 10) == []


def test_what_grows_is_left_alone(watch: Watch, tmp_path: Path) -> None:
    path = graphs.tagger(tmp_path, version="2")
    whole = path.read_bytes()
    for end in range(1, 20):
        path.write_bytes(whole[:end])
        assert watch.look() == []
        assert watch.unfinished("tagger") == {"2": ""}
    path.write_bytes(whole)
    assert looks(watch) == [Changed("tagger")]


def test_each_kind_of_change_counts(watch: Watch, tmp_path: Path) -> None:
    model = tmp_path / "tagger"
    for change in (
        lambda: (model / "model.toml").write_text("max_queue = 3\n"),
        lambda: (model / "aliases.toml").write_text("production = 1\n"),
        lambda: os.utime(model / "1" / "model.onnx", (1, 1)),
        lambda: (model / "warmup").mkdir(),
        lambda: (model / "warmup" / "x").touch(),
        lambda: (model / "model.toml").unlink(),
        lambda: seal(model / "1"),
    ):
        change()
        expected = [] if (model / "warmup").exists() and not [*(model / "warmup").iterdir()] else [Changed("tagger")]
        assert looks(watch) == expected
    shutil.rmtree(model / "1")
    assert looks(watch) == [Changed("tagger")]


def test_what_is_no_model_s_does_not(watch: Watch, tmp_path: Path) -> None:
    model = tmp_path / "tagger"
    for path in (".learned/1-cpu.json", "aliases.jsonl", ".model.toml.swp", "model.toml~", ".tmp-2/model.onnx"):
        (model / path).parent.mkdir(exist_ok=True)
        (model / path).write_text("x")
    (tmp_path / ".staged" / "1").mkdir(parents=True)
    (tmp_path / "copied.part" / "1").mkdir(parents=True)
    (tmp_path / "notes.txt").touch()
    assert looks(watch, 10) == []


def test_a_new_model_is_told_of_when_one_version_rests(watch: Watch, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    assert looks(watch, 10) == []
    graphs.tagger(tmp_path, "other")
    assert looks(watch) == [Changed("other")]


def test_a_model_that_goes_is_told_of_when_it_stays_away(watch: Watch, tmp_path: Path) -> None:
    graphs.tagger(tmp_path, "other")
    assert looks(watch) == [Changed("other")]
    (tmp_path / "other").rename(tmp_path / ".kept")
    assert looks(watch, AT_REST) == []
    (tmp_path / ".kept").rename(tmp_path / "other")
    assert looks(watch, 10) == []
    shutil.rmtree(tmp_path / "other")
    assert looks(watch) == [Changed("other", gone=True)]


def test_a_volume_that_is_gone_says_nothing_of_its_models(watch: Watch, tmp_path: Path) -> None:
    (tmp_path / "tagger").rename(tmp_path / ".kept")
    for _ in range(10):
        with pytest.raises(Vanished):
            watch.look()
    (tmp_path / ".kept").rename(tmp_path / "tagger")
    assert looks(watch, 10) == []
    missing = Watch(tmp_path / "nothing")
    missing.begin()
    with pytest.raises(FileNotFoundError):
        missing.look()


def test_a_sealed_version_waits_for_all_its_files(watch: Watch, tmp_path: Path) -> None:
    source = graphs.tagger(tmp_path / ".source").parent
    (source / "labels.txt").write_text("cat\n")
    seal(source)
    version = tmp_path / "tagger" / "2"
    version.mkdir()
    shutil.copy(source / "manifest.toml", version)
    assert looks(watch) == [Changed("tagger")]  # what it lacks is to be told
    assert "2 of the 2 files that its manifest names are not there" in watch.unfinished("tagger")["2"]
    shutil.copy(source / "labels.txt", version)
    (version / "model.onnx").write_bytes((source / "model.onnx").read_bytes()[:-1])
    assert looks(watch) == [Changed("tagger")]
    assert "1 of the 2 files" in watch.unfinished("tagger")["2"]
    assert "tagger/2/model.onnx" in watch.unfinished("tagger")["2"]
    shutil.copy(source / "model.onnx", version)
    assert looks(watch) == [Changed("tagger")]
    assert watch.unfinished("tagger") == {}


@pytest.mark.parametrize("name", ["model.onnx.part", "weights.tmp", "model.onnx.partial", "model.onnx~"])
def test_a_version_waits_for_what_is_being_written(tmp_path: Path, name: str) -> None:
    version = graphs.tagger(tmp_path).parent
    assert lacking(version) == ""
    (version / name).touch()
    assert lacking(version) == f"it is not complete: tagger/1/{name} is still being written"


def test_a_manifest_that_is_half_there_says_so(tmp_path: Path) -> None:
    version = graphs.tagger(tmp_path).parent
    seal(version)
    text = (version / "manifest.toml").read_text()
    (version / "manifest.toml").write_text(text[: len(text) // 2])
    assert "tagger/1/manifest.toml" in lacking(version)


def test_a_link_that_leads_to_itself_hides_nothing_else(watch: Watch, tmp_path: Path) -> None:
    graphs.tagger(tmp_path, "other")
    assert looks(watch) == [Changed("other")]
    (tmp_path / "other" / "2").symlink_to("2")
    (tmp_path / "other" / "loop").symlink_to("loop")
    (tmp_path / "round").symlink_to("round")
    graphs.tagger(tmp_path, version="2")
    assert sorted(change.name for change in looks(watch)) == ["other", "tagger"]
    anew = Watch(tmp_path)
    anew.begin()
    graphs.tagger(tmp_path, version="3")
    assert looks(anew) == [Changed("tagger")]
