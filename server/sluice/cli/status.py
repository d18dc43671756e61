"""`sluice status`: how a running server is, part by part."""

from typing import Annotated, Any

import typer

from sluice.cli.client import DEFAULT_URL, Client, Url
from sluice.cli.console import CommandError, print_error, print_json, print_table
from sluice.cli.options import Json

READY, UNREADY, UNREACHABLE = 0, 1, 2
_COLUMNS = ("kind", "name", "condition", "reason")
_UNITS = (("d", 86400), ("h", 3600), ("min", 60))


def status(
    url: Url = DEFAULT_URL,
    timeout: Annotated[float, typer.Option(min=0.001, help="Seconds to wait for the server's answer.")] = 10.0,
    as_json: Json = False,
) -> None:
    """Show whether a running server is ready and how each of its parts is.

    Exits with 0 if it is ready, 1 if it is not, and 2 if there is no answer.
    """
    try:
        client = Client(url, timeout)
        # That it lives is what any answer says.
        reply = client.get("v2/health/ready?verbose", accept=503)
        if not isinstance(reply.json, dict) or not {"ready", "reasons", "parts"} <= reply.json.keys():
            raise CommandError(f"{url} does not tell how it is", "is this a Sluice server, of this version?")
    except CommandError as error:
        print_error(error)
        raise typer.Exit(UNREACHABLE) from error
    if as_json:
        print_json({"live": True, **reply.json})
    else:
        _print(url, reply.json)
    raise typer.Exit(READY if reply.json["ready"] else UNREADY)


def _print(url: str, health: dict[str, Any]) -> None:
    print(f"{url} is live and {'ready' if health['ready'] else 'not ready'}")
    for reason in health["reasons"]:
        print(f"  {reason}")
    print(
        f"version {health.get('version', '?')}, process {health.get('pid', '?')}, up {_duration(health.get('uptime'))}"
    )
    print()
    print_table(_COLUMNS, [[str(part.get(column, "")) for column in _COLUMNS] for part in health["parts"]])


def _duration(seconds: Any) -> str:
    """In its two largest units."""
    if not isinstance(seconds, int | float):
        return "?"
    left, words = int(seconds), []
    for unit, size in _UNITS:
        if left >= size:
            words.append(f"{left // size} {unit}")
            left %= size
    return " ".join([*words, f"{left} s"][:2])
