"""`sluice promote`, `sluice rollback`, `sluice models unalias` and `… history`: which version has which name, and why.

They ask a running server, or with --repository change the directory itself, which servers heed at their next load.
"""

from __future__ import annotations

import getpass
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import quote

import typer

from sluice.cli.client import DEFAULT_URL, Client, Reply, Url, model_path
from sluice.cli.console import CommandError, print_json, print_table
from sluice.cli.options import Json, settings_here

if TYPE_CHECKING:
    from collections.abc import Mapping

Name = Annotated[str, typer.Argument(help="The model's name.")]
Version = Annotated[str, typer.Argument(help="A version's number, or an alias that it has.")]
Alias = Annotated[str, typer.Option("--alias", help="The name to give it.")]
By = Annotated[str, typer.Option("--by", help="Who does it; otherwise your user name.", show_default=False)]
Reason = Annotated[str, typer.Option("--reason", help="Why, for the history.", show_default=False)]
Repository = Annotated[
    Path | None,
    typer.Option("--repository", "-r", help="Work on this directory of models, without a server.", show_default=False),
]
Timeout = Annotated[float, typer.Option(min=0.001, help="Seconds to wait for the server's answer.")]

_COLUMNS = ("time", "by", "alias", "before", "after", "reason")


def promote(
    name: Name,
    version: Version,
    alias: Alias = "production",
    by: By = "",
    reason: Reason = "",
    repository: Repository = None,
    url: Url = DEFAULT_URL,
    timeout: Timeout = 600.0,
    as_json: Json = False,
) -> None:
    """Put a version into production, or give it another alias; a server loads it first if it is not live."""
    _promote(name, version, alias, by, reason, repository, Client(url, timeout), as_json)


def rollback(
    name: Name,
    by: By = "",
    reason: Reason = "",
    repository: Repository = None,
    url: Url = DEFAULT_URL,
    timeout: Timeout = 600.0,
    as_json: Json = False,
) -> None:
    """Put back into production what was there before; once more takes that back."""
    _promote(name, "previous", "production", by, reason, repository, Client(url, timeout), as_json)


def unalias(
    name: Name,
    alias: Annotated[str, typer.Argument(help="The alias to take away.")],
    by: By = "",
    reason: Reason = "",
    repository: Repository = None,
    url: Url = DEFAULT_URL,
    timeout: Timeout = 600.0,
    as_json: Json = False,
) -> None:
    """Take an alias away from the version that has it; the version is not kept live for it any more."""
    by = by or _user()
    if repository is not None:
        from sluice.store import aliases

        directory = _directory(repository, name)
        _check_removal(directory, alias)
        change: Mapping[str, Any] = asdict(aliases.remove(directory, alias, by, reason))
    else:
        sent = {"by": by, "reason": reason}
        change = _answered(Client(url, timeout).delete(f"{model_path(name)}/aliases/{quote(alias, safe='')}", sent))
    if as_json:
        print_json(change)
    else:
        print(f"{name} has no {alias} any more, it was version {change['before']}")


def history(
    name: Name,
    repository: Repository = None,
    url: Url = DEFAULT_URL,
    timeout: Timeout = 30.0,
    as_json: Json = False,
) -> None:
    """List the aliases of a model's versions, and who gave them when and why."""
    if repository is None:
        found = Client(url, timeout).get(f"{model_path(name)}/aliases").json
        if not isinstance(found, dict) or not {"aliases", "history"} <= found.keys():
            raise CommandError(f"{url} does not tell of aliases", "is this a Sluice server, of this version?")
    else:
        from sluice.store import aliases

        directory = _directory(repository, name)
        changes = [asdict(change) for change in aliases.history(directory)]
        found = {"model": name, "aliases": aliases.read(directory), "history": changes}
    if as_json:
        print_json(found)
        return
    if not found["aliases"] and not found["history"]:
        print("no aliases")
        return
    print_table(("alias", "version"), sorted(found["aliases"].items()))
    print()
    print_table(_COLUMNS, [[str(row.get(column, "")) for column in _COLUMNS] for row in found["history"]])


def _promote(
    name: str, version: str, alias: str, by: str, reason: str, repository: Path | None, client: Client, as_json: bool
) -> None:
    change = _changed(name, version, alias, by, reason, repository, client)
    if as_json:
        print_json(change)
    else:
        print(_told(name, change))


def _changed(
    name: str, version: str, alias: str, by: str, reason: str, repository: Path | None, client: Client
) -> Mapping[str, Any]:
    by = by or _user()
    if repository is not None:
        from sluice.store import aliases

        directory = _directory(repository, name)
        _check_approved(directory, alias, version)
        return asdict(aliases.promote(directory, alias, version, by, reason))
    sent = {"version": version, "by": by, "reason": reason}
    return _answered(client.post(f"{model_path(name)}/aliases/{quote(alias, safe='')}", sent))


def _answered(reply: Reply) -> Mapping[str, Any]:
    change = reply.json
    if not isinstance(change, dict) or not {"before", "after", "alias"} <= change.keys():
        raise CommandError("the server does not say what it did", "is this a Sluice server, of this version?")
    return change


def _check_approved(directory: Path, alias: str, version: str) -> None:
    """What the settings here ask of a version in production, a server is not there to ask."""
    from sluice.store import aliases

    models = settings_here().models
    if models.approval and alias == aliases.PRODUCTION:
        from sluice.store.approval import Approval

        Approval(models).check(directory / aliases.resolve(directory.name, aliases.read(directory), version))


def _check_removal(directory: Path, alias: str) -> None:
    """The same for what answers once nothing is in production."""
    from sluice.store import aliases

    models = settings_here().models
    if models.approval and alias == aliases.PRODUCTION:
        from sluice.store import repository
        from sluice.store.approval import Approval

        Approval(models).check_removal(directory, repository.left_without(directory, alias))


def _told(name: str, change: Mapping[str, Any]) -> str:
    if change["before"] == change["after"]:
        return f"{change['alias']} of {name} is version {change['after']} already"
    before = f", it was {change['before']}" if change["before"] else ""
    return f"{change['alias']} of {name} is version {change['after']} now{before}"


def _directory(repository: Path, name: str) -> Path:
    from sluice.store.repository import is_name

    if not is_name(name) or not (repository / name).is_dir():
        raise CommandError(f"there is no model '{name}' in {repository}")
    return repository / name


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container's user may have no name
        return ""
