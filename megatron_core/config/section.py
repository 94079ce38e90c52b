"""What every section of ``params.yaml`` is made of."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field


class Section(BaseModel):
    """A part of the recipe: immutable, and strict about names and types."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    def identity(self) -> dict[str, Any]:
        """The fields that may change the bits, as plain JSON values."""
        dumped = self.model_dump(mode="json")
        for name, field in type(self).model_fields.items():
            extra = field.json_schema_extra
            if isinstance(extra, dict) and extra.get("operational"):
                del dumped[name]
            elif isinstance(value := getattr(self, name), Section):
                dumped[name] = value.identity()
            elif isinstance(value, dict):
                sections = {key: one for key, one in value.items() if isinstance(one, Section)}
                dumped[name] |= {key: one.identity() for key, one in sections.items()}
        return dumped


def operational(default: Any, description: str, **constraints: Any) -> Any:
    """A field that never changes a bit of a result: how often to save, what to show."""
    return Field(
        default, description=description, json_schema_extra={"operational": True}, **constraints
    )
