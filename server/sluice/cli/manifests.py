"""`sluice models show` and `sluice models diff`: what versions in a repository are, without a server."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sluice.cli.console import print_json, print_table
from sluice.cli.options import Json
from sluice.cli.places import version_directory

if TYPE_CHECKING:
    from sluice.store.manifest import Manifest

Target = Annotated[str, typer.Argument(metavar="NAME[/N]", help="A model, NAME/N, or a version's directory.")]
Repository = Annotated[Path, typer.Option("--repository", "-r", help="Directory of models.")]

_BY_SEALING = ("created", "created_by", "runtime")
_SHORT = 12  # letters of a sha256 that tell files apart for a reader


def show(target: Target, repository: Repository = Path("models"), as_json: Json = False) -> None:
    """Show all that is known of a version; one that is not sealed is read and hashed for it."""
    from sluice.store.manifest import shape

    directory = version_directory(target, repository)
    found, sealed = _found(directory)
    document = _document(found, sealed)
    if as_json:
        print_json({"directory": str(directory), "sealed": sealed, **document})
        return
    facts = [("directory", str(directory)), ("sealed", "yes" if sealed else "no")]
    facts += [(key, value) for key, value in _facts(document).items()]
    print_table(("field", "value"), facts)
    for heading, ports in (("inputs", found.inputs), ("outputs", found.outputs)):
        if ports:
            print()
            rows = [(port.name, port.datatype, _shape(shape(port))) for port in ports]
            print_table((heading, "datatype", "shape"), rows)
    if found.metrics:
        print()
        print_table(("metric", "value"), [(name, str(found.metrics[name])) for name in sorted(found.metrics)])
    print()
    print_table(("file", "bytes", "sha256"), [(entry.path, f"{entry.size:,}", entry.sha256) for entry in found.files])


def diff(first: Target, second: Target, repository: Repository = Path("models"), as_json: Json = False) -> None:
    """Show in what two versions differ: what is said of them, their signatures, metrics and files."""
    old, new = (_document(*_found(version_directory(target, repository))) for target in (first, second))
    sides = [_flat(side) for side in (old, new)]
    keys = dict.fromkeys((*sides[0], *sides[1]))
    differences = [
        (key, sides[0].get(key), sides[1].get(key)) for key in keys if sides[0].get(key) != sides[1].get(key)
    ]
    same = [name for name in old["files"] if old["files"][name] == new["files"].get(name)]
    if as_json:
        rows = [{"field": key, "first": before, "second": after} for key, before, after in differences]
        print_json({"differences": rows, "same_files": same})
        return
    if differences:
        cells = [(key, _cell(before), _cell(after), _change(before, after)) for key, before, after in differences]
        print_table(("field", first, second, "change"), cells)
    else:
        print("no differences")
    if same:
        size = sum(old["files"][name]["size"] for name in same)
        print(f"\n{len(same)} files are the same, {size:,} bytes")


def _found(directory: Path) -> tuple[Manifest, bool]:
    """What is known of the version, and whether that is sealed."""
    from sluice.encryption.keys import Keys
    from sluice.store import manifest  # which needs numpy, and other commands do not

    sealed = manifest.read(directory)
    return sealed or manifest.examine(directory, Keys.given(os.environ)), sealed is not None


def _document(found: Manifest, sealed: bool) -> dict[str, Any]:
    """The manifest's tables; nobody has said yet when and with what an unsealed version was made."""
    from sluice.store.manifest import plain

    document = plain(found)
    return document if sealed else {key: value for key, value in document.items() if key not in _BY_SEALING}


def _facts(document: Mapping[str, Any]) -> dict[str, str]:
    """What is no list, by dotted key; a parent by its relation."""
    facts: dict[str, str] = {}
    for key, value in document.items():
        if key in ("manifest", "metrics", "signature", "files", "parents"):
            continue
        if isinstance(value, dict):
            facts |= {f"{key}.{name}": text for name, text in _facts(value).items()}
        else:
            facts[key] = str(value)
    for parent in document.get("parents", []):
        known = facts.get(f"parents.{parent['relation']}")
        digest = f", {parent['digest']}" if "digest" in parent else ""
        text = f"{parent['name']} {parent['version']}{digest}"
        facts[f"parents.{parent['relation']}"] = f"{known}; {text}" if known else text
    return facts


def _flat(document: Mapping[str, Any]) -> dict[str, Any]:
    """Everything in one table: a field's name and its value."""
    flat: dict[str, Any] = dict(_facts(document))
    for side, ports in document.get("signature", {}).items():
        flat |= {f"{side}.{port['name']}": {"datatype": port["datatype"], "shape": port["shape"]} for port in ports}
    flat |= {f"metrics.{name}": value for name, value in document.get("metrics", {}).items()}
    return flat | {f"files.{name}": entry for name, entry in document["files"].items()}


def _shape(dims: list[int | str]) -> str:
    return f"[{', '.join(map(str, dims))}]"


def _cell(value: Any) -> str:
    if isinstance(value, dict) and "sha256" in value:
        return f"{value['size']:,} bytes, {value['sha256'][:_SHORT]}"
    if isinstance(value, dict):
        return f"{value['datatype']} {_shape(value['shape'])}"
    return "" if value is None else str(value)


def _change(before: Any, after: Any) -> str:
    if before is None or after is None:
        return "new" if before is None else "gone"
    if isinstance(before, int | float) and isinstance(after, int | float):
        return f"{after - before:+.6g}"
    return ""
