"""The configuration reference in Markdown, generated from the settings model."""

from itertools import groupby
from operator import attrgetter

from sluice.config.fields import Field, fields
from sluice.config.settings import Section, Settings

BEGIN = "<!-- configuration reference: begin -->"
END = "<!-- configuration reference: end -->"
_HEAD = ("Setting", "Default", "Environment", "Flag", "Meaning")


def reference(model: type[Section] = Settings) -> str:
    """One table for each section."""
    parts = []
    for section, members in groupby(fields(model), key=attrgetter("section")):
        described = (model.model_fields[section].annotation.__doc__ or "").strip()
        rows = [_HEAD, ("---",) * len(_HEAD), *(_row(field) for field in members)]
        table = "\n".join("| " + " | ".join(row) + " |" for row in rows)
        parts.append(f"**`[{section}]`** {described}\n\n{table}\n")
    return "\n".join(parts)


def updated(text: str) -> str:
    """A document with what stands between the markers replaced; unchanged where it has none."""
    head, begin, rest = text.partition(BEGIN)
    _, end, tail = rest.partition(END)
    return f"{head}{begin}\n\n{reference()}\n{end}{tail}" if begin and end else text


def _row(field: Field) -> tuple[str, ...]:
    flag = f"`{field.flag}`" + (f", `--no-{field.flag.removeprefix('--')}`" if field.is_switch else "")
    choices = f" One of {', '.join(f'`{choice}`' for choice in field.choices)}." if field.choices else ""
    cells = (
        f"`{field.key}`",
        f"`{field.default_text}`",
        f"`{field.variable}`",
        flag,
        _prose(field.description) + choices,
    )
    return tuple(cell.replace("|", "\\|") for cell in cells)


def _prose(description: str) -> str:
    """Angle brackets and stars as text, not as HTML or emphasis."""
    return description.replace("<", "&lt;").replace(">", "&gt;").replace("*", "\\*")
