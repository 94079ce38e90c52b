"""Read a recipe from YAML and say everything that is wrong with it at once."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from megatron_core.config.presets import model_settings
from megatron_core.config.problem import Problem
from megatron_core.config.recipe import Recipe, cross_section_problems
from megatron_core.errors import ConfigError


def load_recipe(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe in ``path`` with ``overrides`` (``a.b=value``, the value in YAML) applied.

    Raises:
        ConfigError: the file cannot be read, or the recipe is wrong; the message lists every
            problem with its dotted path, the value found and what is allowed.
    """
    raw = _read_yaml(path)
    for override in overrides:
        _apply(raw, override)
    _fill_model(raw)
    try:
        recipe = Recipe.model_validate(raw)
    except ValidationError as error:
        problems = [_explain(details, raw) for details in error.errors()]
    else:
        problems = list(cross_section_problems(recipe))
        if not problems:
            return recipe
    raise ConfigError(_render(str(path), problems))


class _UniqueKeyLoader(yaml.SafeLoader):
    """Refuses a mapping that gives one key twice, where YAML would keep the last in silence."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"`{key}` is given twice", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


# YAML 1.1 reads 1e-3 as a string; every recipe writes learning rates that way.
_UniqueKeyLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\d[\d_]*)(\.\d*)?[eE][-+]?\d+$"),
    list("-+0123456789"),
)


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise ConfigError(
            f"{path} does not exist: run in a project's folder, start one with "
            "`reforge init RECIPE DIR`, or name a file with --params"
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from error
    try:
        raw = yaml.load(text, _UniqueKeyLoader)
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(raw, dict):
        raise ConfigError(f"{path} must be a mapping of sections, not {type(raw).__name__}")
    return raw


def _apply(raw: dict[str, Any], override: str) -> None:
    dotted, equals, text = override.partition("=")
    if not equals or not dotted:
        raise ConfigError(f"--set {override}: write it as section.key=value")
    *parents, last = dotted.split(".")
    node = raw
    for key in parents:
        child = node.setdefault(key, {})
        if not isinstance(child, dict):
            raise ConfigError(f"--set {override}: `{key}` holds a value, not a section")
        node = child
    try:
        node[last] = yaml.load(text, _UniqueKeyLoader)
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {override}: the value is not valid YAML") from error


def _fill_model(raw: dict[str, Any]) -> None:
    """Put the fields of ``pretrain.model.preset`` in place, below those that are given."""
    pretrain = raw.get("pretrain")
    model = pretrain.get("model") if isinstance(pretrain, dict) else None
    if isinstance(pretrain, dict) and isinstance(model, dict) and "preset" in model:
        given = {key: value for key, value in model.items() if key != "preset"}
        try:
            pretrain["model"] = model_settings(str(model["preset"])) | given
        except ConfigError as error:
            raise ConfigError(f"pretrain.model.preset: {error}") from error


def _explain(details: ErrorDetails, raw: Mapping[str, Any]) -> Problem:
    keys = [str(key) for key in _keys(details["loc"], raw)]
    path = ".".join(keys)
    kind, message = details["type"], details["msg"]
    if kind == "extra_forbidden":
        return Problem(path, _unknown_key(keys[-1], _allowed_keys(keys[:-1], raw)))
    if kind == "missing":
        return Problem(path, "is required and missing")
    if kind == "union_tag_not_found":
        return Problem(f"{path}.kind", "is required and missing")
    if kind == "union_tag_invalid":
        context = details["ctx"]
        return Problem(f"{path}.kind", f"must be one of {context['expected_tags']}", context["tag"])
    message = message.removeprefix("Value error, ").replace("Input should", "should")
    return Problem(path, message[0].lower() + message[1:], details["input"])


def _keys(location: Sequence[int | str], raw: Any) -> Iterator[int | str]:
    """The keys of ``location`` that stand in the file: pydantic adds the tags of unions."""
    node = raw
    for index, key in enumerate(location):
        if isinstance(node, Mapping) and key not in node:
            implied = "kind" not in node and node.keys() & set(location[index + 1 : index + 2])
            if node.get("kind") == key or implied:
                continue
        if key == "[key]":
            continue
        yield key
        if isinstance(node, Mapping) or (isinstance(node, list) and isinstance(key, int)):
            try:
                node = node[key]  # type: ignore[index]
            except (KeyError, IndexError):
                yield from location[index + 1 :]
                return


def _unknown_key(key: str, allowed: Sequence[str]) -> str:
    close = difflib.get_close_matches(key, allowed, n=1, cutoff=0.6)
    if close:
        return f"unknown key; did you mean `{close[0]}`?"
    return f"unknown key; allowed here: {', '.join(allowed)}"


def _allowed_keys(keys: Sequence[str], raw: Any) -> list[str]:
    """The keys that the schema allows at ``keys``."""
    schema = Recipe.model_json_schema()
    node, data = schema, raw
    for key in keys:
        node = _resolve(node, data, schema)
        named = node.get("properties", {})
        free = [*node.get("patternProperties", {}).values(), node.get("additionalProperties")]
        node = named.get(key, free[0] if isinstance(free[0], dict) else {})
        data = data.get(key) if isinstance(data, Mapping) else None
    return list(_resolve(node, data, schema).get("properties", {}))


def _resolve(node: dict[str, Any], data: Any, schema: dict[str, Any]) -> dict[str, Any]:
    """Follow references, past a null that is also allowed, and a union's tag as in ``data``."""
    node = next((kind for kind in node.get("anyOf", []) if {"$ref", "oneOf"} & kind.keys()), node)
    if "discriminator" in node and isinstance(data, Mapping):
        reference = node["discriminator"]["mapping"].get(data.get("kind"))
        node = {"$ref": reference} if reference else {}
    elif "oneOf" in node and isinstance(data, Mapping):  # a union with a default kind
        kinds = [_resolve(kind, data, schema) for kind in node["oneOf"]]
        node = next((kind for kind in kinds if _is_of(kind["properties"]["kind"], data)), {})
    while "$ref" in node:
        node = schema["$defs"][node["$ref"].rsplit("/", 1)[-1]]
    return node


def _is_of(kind: Mapping[str, Any], data: Mapping[str, Any]) -> bool:
    return bool(data.get("kind", kind.get("default")) == kind["const"])


def _render(source: str, problems: Sequence[Problem]) -> str:
    count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
    lines = [f"{source} has {count}; nothing was run or written"]
    for problem in problems:
        shown = ""
        if problem.value is not None and not isinstance(problem.value, Mapping | list):
            shown = f" = {problem.value!r}"
        lines.append(f"  {problem.path}{shown}: {problem.message}")
    return "\n".join(lines)
