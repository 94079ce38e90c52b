"""``reforge schema``."""

from __future__ import annotations

import json

from megatron_core.config import Recipe


def schema() -> None:
    """Print the JSON Schema of `params.yaml`, for editors and for reading."""
    print(json.dumps(Recipe.model_json_schema(), indent=2, ensure_ascii=False))
