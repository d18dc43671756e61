"""`sluice cache`: what downloads have left to be used again."""

from datetime import datetime
from typing import Annotated

import typer

from sluice.cli.console import CommandError, print_json, print_table
from sluice.cli.options import Command, Group, Json
from sluice.cli.progress import size_text

app = typer.Typer(cls=Group, help="The cache of downloads.", no_args_is_help=True)


@app.command("list", cls=Command)
def list_blobs(json: Json = False) -> None:
    """List the files in the cache, those used last first."""
    from sluice.store.blobs import Cache

    cache = Cache.usual()
    blobs, partials = cache.blobs(), cache.partials()
    if json:
        files = [{"sha256": b.sha256, "size": b.size, "used": _time(b.used), "sources": b.sources} for b in blobs]
        unfinished = [{"key": p.key, "size": p.size, "used": _time(p.used)} for p in partials]
        print_json({"directory": str(cache.directory), "limit": cache.limit, "files": files, "unfinished": unfinished})
        return
    rows = [(b.sha256[:12], size_text(b.size), _time(b.used), "\n".join(b.sources)) for b in blobs]
    rows += [(p.key[:12], size_text(p.size), _time(p.used), "unfinished") for p in partials]
    print_table(("SHA256", "SIZE", "USED", "FROM"), rows)


@app.command("size", cls=Command)
def size() -> None:
    """Say where the cache is, how much it holds and how much it may."""
    from sluice.store.blobs import Cache

    cache = Cache.usual()
    print(f"{cache.directory} holds {size_text(cache.size())} of at most {size_text(cache.limit)}")


@app.command("prune", cls=Command)
def prune(
    to: Annotated[str, typer.Option("--to", metavar="SIZE", help="What may stay, as 5GB.")] = "0",
) -> None:
    """Remove files, those used longest ago first; what is in use stays."""
    from sluice.store.blobs import Cache, size_of

    cache = Cache.usual()
    freed = cache.prune(size_of(to))
    print(f"{size_text(freed)} removed, {size_text(cache.size())} left in {cache.directory}")


@app.command("verify", cls=Command)
def verify() -> None:
    """Read every file, and remove those that are not what they were."""
    from sluice.store.blobs import Cache

    cache = Cache.usual()
    wrong = cache.verify()
    if wrong:
        raise CommandError(
            f"{len(wrong)} damaged and removed: {', '.join(wrong)}", "they are downloaded anew when needed"
        )
    print(f"{len(cache.blobs())} files, all as they were downloaded")


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds).astimezone().isoformat(" ", "seconds")
