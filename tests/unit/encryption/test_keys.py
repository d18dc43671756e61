"""Keys: where they come from, which one it is, and that no message tells one."""

import base64
import os
import subprocess
import sys
from pathlib import Path

import pytest

from sluice.encryption.keys import FILE_VARIABLE, VARIABLE, Key, Keys
from sluice.errors import ModelError

FIRST, SECOND = bytes(range(32)), bytes(range(100, 132))
BASE64 = base64.b64encode(FIRST).decode()


@pytest.mark.parametrize(
    "text",
    [
        BASE64,
        f"  {BASE64}\n",
        BASE64.rstrip("="),
        base64.urlsafe_b64encode(FIRST).decode(),
        FIRST.hex(),
        FIRST.hex().upper(),
    ],
)
def test_a_key_is_written_in_several_ways(text: str) -> None:
    assert Keys(text).first().id == Key(FIRST).id


def test_several_are_found_by_their_ids(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text(f"# of this year\n\n{FIRST.hex()}  # made in January\n")
    for keys in (
        Keys(f"{SECOND.hex()},{BASE64}"),
        Keys(f"{SECOND.hex()} {BASE64}"),
        Keys(SECOND.hex(), file),
        Keys.given({VARIABLE: SECOND.hex(), FILE_VARIABLE: str(file)}),
    ):
        assert keys
        assert keys.first().id == Key(SECOND).id
        for secret in (FIRST, SECOND):
            assert keys.find(Key(secret).id, "model.onnx").derive(b"salt") == Key(secret).derive(b"salt")
    # What is wrong behind it harms no key.
    assert Keys(f"{BASE64},nonsense", tmp_path / "none").find(Key(FIRST).id, "model.onnx")
    # One that was added later is found, and one that was seen is kept.
    keys = Keys("", file)
    assert keys.find(Key(FIRST).id, "model.onnx")
    file.write_text(SECOND.hex())
    assert keys.find(Key(SECOND).id, "model.onnx")
    file.unlink()
    assert keys.find(Key(FIRST).id, "model.onnx")


def test_a_key_that_is_missing_is_told(tmp_path: Path) -> None:
    assert not Keys()
    with pytest.raises(
        ModelError, match=f"model.onnx: is encrypted with the key 0011, and no key is given: set {VARIABLE}"
    ):
        Keys().find("0011", "model.onnx")
    with pytest.raises(ModelError, match=f"the key 0011; those given are {Key(FIRST).id}"):
        Keys(BASE64).find("0011", "model.onnx")
    with pytest.raises(ModelError, match=r"there is no key to encrypt with: set SLUICE_MODEL_KEY.*openssl rand"):
        Keys().first()
    with pytest.raises(ModelError, match=r"models\.key_file: .*/none: cannot be read: No such file"):
        Keys("", tmp_path / "none").first()


def test_what_is_no_key_is_told_and_not_shown(tmp_path: Path) -> None:
    wrong = "SECRET" + BASE64[6:-8]
    file = tmp_path / "keys"
    for text, place in ((wrong, "SLUICE_MODEL_KEY, key 1"), (f"{BASE64},{wrong}", "SLUICE_MODEL_KEY, key 2")):
        with pytest.raises(ModelError, match=f"{place}: is no key; a key is 32 bytes") as error:
            Keys(text).find("00", "model.onnx")
        assert "SECRET" not in error.value.message
    for content, why in (
        (b"# nothing\n", "holds no key"),
        (b"\n" + wrong.encode(), "line 2: is no key"),
        (FIRST, "line 1: is no key"),
        (bytes(100_000), "is larger than 65536 bytes"),
    ):
        file.write_bytes(content)
        with pytest.raises(ModelError, match=why) as error:
            Keys("", file).first()
        assert "SECRET" not in error.value.message


@pytest.mark.parametrize(("mode", "warnings"), [(0o600, 0), (0o640, 0), (0o644, 1)])
def test_a_file_that_everybody_can_read_is_told_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, mode: int, warnings: int
) -> None:
    file = tmp_path / "keys"
    file.write_text(BASE64)
    file.chmod(mode)
    keys = Keys("", file)
    for _ in range(3):
        keys.first()
        assert keys.get("00") is None
    assert caplog.text.count("everybody on this machine can read it; chmod 600") == warnings
    assert BASE64 not in caplog.text


def test_nothing_that_is_printed_tells_a_key() -> None:
    keys = Keys(BASE64)
    shown = f"{keys.first()!r} {keys.find(Key(FIRST).id, '')} {keys!r} {vars(Key).keys()}"
    assert BASE64 not in shown
    assert FIRST.hex() not in shown
    assert f"Key({Key(FIRST).id})" in shown
    assert Key(FIRST).id not in (FIRST.hex()[:16], BASE64[:16])


def test_a_process_that_has_keys_is_not_in_core_dumps() -> None:
    program = (
        "import os; open('/proc/self/coredump_filter', 'w').write('0x33');"
        "from sluice.encryption.keys import Keys; Keys.given(os.environ);"
        "print(int(open('/proc/self/coredump_filter').read(), 16))"
    )
    filters = [
        int(subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, check=True).stdout)
        for environment in (dict(os.environ), {**os.environ, VARIABLE: BASE64})
    ]
    assert filters[0] != 0
    assert filters[1] == 0


@pytest.mark.parametrize("text", [BASE64, FIRST.hex()])
def test_a_key_in_place_of_its_file_is_not_shown(text: str) -> None:
    with pytest.raises(ModelError, match="looks like a key itself") as error:
        Keys.given({FILE_VARIABLE: text}).first()
    assert text not in error.value.message
