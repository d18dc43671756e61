"""The settings as a table: each with its section, default, environment variable, flag, and whether it is secret."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel, SecretBytes, SecretStr

from sluice.config import toml

PREFIX = "SLUICE_"
MASK = "********"
_SECRETS = (SecretStr, SecretBytes)


@dataclass(frozen=True, slots=True)
class Field:
    """One setting; a secret one is a SecretStr, or says `json_schema_extra={"secret": True}`."""

    section: str
    key: str
    annotation: Any
    default: Any
    description: str
    flag: str
    secret: bool

    @property
    def name(self) -> str:
        return f"{self.section}.{self.key}"

    @property
    def variable(self) -> str:
        return f"{PREFIX}{self.section}__{self.key}".upper()

    @property
    def is_list(self) -> bool:
        return get_origin(self.annotation) is list

    @property
    def is_switch(self) -> bool:
        return self.annotation is bool

    @property
    def choices(self) -> tuple[str, ...]:
        return get_args(self.annotation) if get_origin(self.annotation) is Literal else ()

    @property
    def default_text(self) -> str:
        return "none" if self.default is None else toml.encode(self.shown(self.default))

    def shown(self, value: Any) -> Any:
        """The value as it may be printed: a secret that is set stays hidden."""
        if isinstance(value, _SECRETS):
            value = value.get_secret_value()
        return MASK if self.secret and value else value


def fields(model: type[BaseModel]) -> Iterator[Field]:
    """Every field of every section, in the order of the model."""
    for section, section_info in model.model_fields.items():
        section_model = section_info.annotation
        if not (isinstance(section_model, type) and issubclass(section_model, BaseModel)):
            raise TypeError(f"'{section}' is no section: settings are two levels deep, sections and their fields")
        for key, info in section_model.model_fields.items():
            extra = info.json_schema_extra if isinstance(info.json_schema_extra, dict) else {}
            yield Field(
                section=section,
                key=key,
                annotation=info.annotation,
                default=info.get_default(call_default_factory=True),
                description=info.description or "",
                flag=str(extra.get("flag", "--" + key.replace("_", "-"))),
                secret=bool(extra.get("secret")) or any(kind in _kinds(info.annotation) for kind in _SECRETS),
            )


def _kinds(annotation: Any) -> tuple[Any, ...]:
    return (annotation, *get_args(annotation))
