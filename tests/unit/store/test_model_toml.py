import contextlib
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluice.errors import ModelError
from sluice.store import toml
from sluice.store.settings import ModelSettings, TensorSettings, VersionPolicy, WarmUp, WarmUpInput, combine


def _read(directory: Path, text: str) -> ModelSettings:
    path = directory / "m" / "model.toml"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    return combine("m", toml.read(path))


def test_every_key(tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "m/labels.txt").write_text("cat\ndog\n\n")
    text = """
        backend = "onnxruntime"
        filename = "net.onnx"
        max_batch_rows = 0
        max_batch_tokens = 512
        max_queue = 3
        queue_timeout = 0.5
        priority_levels = 4
        default_priority = 2
        instances = 1
        gpus = [0, 1]
        padding = "equal"
        tolerance = 1e-2
        max_length = 128
        warm_lengths = [8, 16]
        fallback = "smaller/2"
        [versions]
        policy = "specific"
        versions = [1, "3"]
        [[input]]
        name = "x"
        datatype = "INT64"
        shape = [-1, -1]
        batch_axis = 0
        sequence_axis = 1
        pad = 1
        fill = 0
        [[output]]
        name = "y"
        default = false
        labels = "labels.txt"
        [[output]]
        name = "z"
        labels = ["a", ""]
        [[warm_up]]
        name = "long"
        rows = 2
        repeat = 3
        input = [
            { name = "x", datatype = "INT64", shape = [4], source = "random" },
            { name = "w", datatype = "BYTES", shape = [], file = "w.bin" },
        ]
        [parameters]
        text = "a"
        number = 2
        flag = true
    """
    assert _read(tmp_path, text) == ModelSettings(
        name="m",
        backend="onnxruntime",
        filename="net.onnx",
        inputs=(TensorSettings("x", "INT64", (-1, -1), batch_axis=0, sequence_axis=1, pad=1, fill=0),),
        outputs=(TensorSettings("y", default=False, labels=("cat", "dog")), TensorSettings("z", labels=("a", ""))),
        max_batch_rows=0,
        max_batch_tokens=512,
        max_queue=3,
        queue_timeout=0.5,
        priority_levels=4,
        default_priority=2,
        instances=1,
        gpus=(0, 1),
        padding="equal",
        tolerance=0.01,
        version_policy=VersionPolicy("specific", versions=("1", "3")),
        warm_up=(
            WarmUp(
                "long",
                (WarmUpInput("x", "INT64", (4,), "random"), WarmUpInput("w", "BYTES", (), "file", "w.bin")),
                rows=2,
                repeat=3,
            ),
        ),
        warm_lengths=(8, 16),
        max_length=128,
        fallback="smaller/2",
        parameters={"text": "a", "number": "2", "flag": "true"},
    )


def test_an_empty_file_says_nothing(tmp_path: Path) -> None:
    assert _read(tmp_path, "# nothing\n") == ModelSettings("m")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("\nmax_queue =", "m/model.toml, line 2: not valid TOML: Invalid value"),
        ("a = 1\nb = [", "m/model.toml, line 2: not valid TOML"),
        ("\nmax_quue = 1", "m/model.toml, line 2: max_quue: unknown key; did you mean 'max_queue'?"),
        ("[inputs]\nname = 1", "m/model.toml, line 1: inputs: unknown key; did you mean 'input'?"),
        ("max_queue = 1\nmax_queue = 2", "m/model.toml, line 2: not valid TOML"),
        ("backend = 'onnx'", "line 1: backend: backend 'onnx' is not available here"),
        ("backend = 'pytorch'", "'pytorch' is not available here; there are onnxruntime and python"),
        ("name = 'other'", "m/model.toml, line 1: name: unknown key; a model's name is that of its directory"),
        ("backend = 1", "line 1: backend: must be a text, not 1"),
        ("filename = '/etc/passwd'", "line 1: filename: must be a file name inside"),
        ("max_queue = 0", "line 1: max_queue: must be a whole number of at least 1, not 0"),
        ("max_queue = true", "max_queue: must be a whole number"),
        ("max_batch_rows = -1", "max_batch_rows: must be a whole number of at least 0, not -1"),
        ("queue_timeout = nan", "queue_timeout: must be a number of at least 0, not nan"),
        ("tolerance = 'x'", "tolerance: must be a number, not 'x'"),
        ("gpus = 1", "gpus: must be a list, not 1"),
        ("padding = 'some'", "padding: must be one of any, equal, never, not 'some'"),
        ("padding = []", "padding: must be one of"),
        ("fallback = ''", "line 1: fallback: must be the name of a model, or \"name/version\", not ''"),
        ("fallback = 'a/latest'", "fallback: must be the name of a model"),
        ("fallback = '../a'", "fallback: must be the name of a model"),
        ("fallback = 1", "fallback: must be the name of a model"),
        ("parameters = 1", "parameters: must be a table"),
        ("[parameters]\na = []", "parameters: 'a' must be a text"),
        ("versions = 1", "line 1: versions: must be a table, not 1"),
        ("[versions]\npolicy = 'all'\ncount = 2", "line 3: versions.count: belongs to"),
        ("[versions]\npolicy = 'specific'", "line 1: versions.versions: a list of versions"),
        ("[versions]\nversions = [0]", "line 2: versions.versions: must be a list of version numbers"),
        ("source = 1", "line 1: source: must be a table, not 1"),
        ("[source]\nsha256 = '12'", "line 2: source.sha256: must be 64 hexadecimal digits"),
        ("[source]\nversion = 1", "line 1: source.from: is missing"),
        ("[source]\nfrom = 'x'", "line 2: source.from: must be an address, as https://…, or an absolute path, not 'x'"),
        ("[source]\nfrom = '/x'\nversion = 0", "line 3: source.version: must be a version's number, not 0"),
        (f"[source]\nfrom = '/x'\nsha256 = '{64 * 'a'}'", "line 2: source.from: has a sha256 beside it"),
        (f"[source]\nfrom = 'hf://a/b'\nsha256 = '{64 * 'a'}'", "source.from: has a sha256 beside it"),
        (f"[source]\nfrom = 'https://h/x#y'\nsha256 = '{64 * 'a'}'", "source.from: says after #"),
        (
            "[source]\nfrom = '/x'\nname = 'm'",
            "line 3: source.name: unknown key; a model's name is that of its directory",
        ),
        ("input = 1", "line 1: input: must be written as [[input]]"),
        ("[input]\nname = 'x'", "line 1: input: must be written as [[input]]"),
        ("input = [1]", "line 1: input: must be a table, not 1"),
        ("[[input]]\nname='a'\n[[input]]\nname='b'\n\npad='x'", "line 6: input.pad: must be a number, not 'x'"),
        ("[[input]]\nname='a'\n[[input]]\nname='a'", "line 4: input.name: 'a' is described twice"),
        ("[[input]]\npad=1", "line 1: input.name: is missing"),
        ("[[input]]\nname='a'\ndatatype='int64'", "line 3: input.datatype: must be one of"),
        ("[[input]]\nname='a'\nshape=[-2]", "line 3: input.shape: must be a whole number of at least -1"),
        ("[[input]]\nname='a'\nlabels=['b']", "line 3: input.labels: unknown key"),
        ("[[output]]\nname='a'\npad=0", "line 3: output.pad: unknown key"),
        ("[[output]]\nname='a'\ndefault=0", "line 3: output.default: must be true or false"),
        ("[[output]]\nname='a'\nlabels='none.txt'", "line 3: output.labels: 'none.txt' cannot be read"),
        ("[[output]]\nname='a'\nlabels='../x'", "line 3: output.labels: must be a file name inside"),
        ("[[output]]\nname='a'\nlabels=['x', 1]", "line 3: output.labels: must be a list of texts"),
        ("[[warm_up]]\nrows=1", "line 1: warm_up.input: is missing"),
        ("[[warm_up]]\n[[warm_up.input]]\nname='x'", "line 1: warm_up.datatype: is missing"),
        (
            "[[warm_up]]\ninput=[{name='x', datatype='INT64', shape=[1], source='file'}]",
            "line 1: warm_up.file: a file and source",
        ),
        ("x = " + "[" * 5000, "m/model.toml"),
    ],
)
def test_errors_say_where_and_why(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ModelError) as error:
        _read(tmp_path, text)
    assert message in error.value.message


def test_files_that_are_no_text(tmp_path: Path) -> None:
    path = tmp_path / "model.toml"
    path.write_bytes(b"a = 1\nb = '\xff'")
    with pytest.raises(ModelError, match="line 2: is not UTF-8 text"):
        toml.read(path)
    with pytest.raises(ModelError, match="cannot be read"):
        toml.read(tmp_path)
    with pytest.raises(ModelError, match="cannot be read"):
        toml.read(tmp_path / "missing.toml")


def test_labels_do_not_leave_the_directory_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "secret").write_text("password")
    (tmp_path / "m/labels.txt").symlink_to("../secret")
    with pytest.raises(ModelError, match="leads out of the model's directory"):
        _read(tmp_path, "[[output]]\nname='y'\nlabels='labels.txt'")


_KEYS = st.sampled_from(
    ["input", "output", "name", "shape", "versions", "warm_up", "gpus", "labels", "parameters", "x"]
)
_VALUES = st.recursive(
    st.one_of(st.integers(-3, 3).map(str), st.sampled_from(["true", "nan", "'x'", "1.5", "1979-05-27", "'INT64'"])),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(lambda items: f"[{', '.join(items)}]"),
        st.dictionaries(_KEYS, inner, max_size=3).map(
            lambda table: "{" + ", ".join(f"{key} = {value}" for key, value in table.items()) + "}"
        ),
    ),
    max_leaves=6,
)


@given(st.dictionaries(_KEYS, _VALUES, max_size=4), st.text(max_size=8))
def test_no_file_makes_it_raise_anything_else(
    tmp_path_factory: pytest.TempPathFactory, table: dict[str, str], text: str
) -> None:
    directory = tmp_path_factory.getbasetemp()
    with contextlib.suppress(ModelError):
        _read(directory, "\n".join(f"{key} = {value}" for key, value in table.items()) + "\n" + text)


def test_every_key_is_documented() -> None:
    page = (Path(__file__).parents[3] / "docs" / "model.md").read_text(encoding="utf-8")
    documented: dict[str, set[str]] = {}
    for section in page.split("\n## ")[1:]:
        title = re.match(r"`\[+([\w.]+)\]+`", section)
        documented[title[1] if title else ""] = set(re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE))
    assert documented == toml.KEYS


def test_where_versions_come_from(tmp_path: Path) -> None:
    text = f"[source]\nfrom = 'https://host/x.sluice?key=s3cret'\nsha256 = '{64 * 'A'}'\nversion = 3"
    settings = _read(tmp_path, text)
    assert settings.origin is not None
    assert settings.origin.source == f"https://host/x.sluice?key=s3cret#sha256={64 * 'a'}"
    assert settings.origin.shown == "https://host/x.sluice"
    assert settings.origin.version == "3"
    assert settings == _read(tmp_path, "")  # it changes nothing of what is served
