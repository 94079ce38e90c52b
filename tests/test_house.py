"""The rules that keep the house small."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from pathlib import Path
from types import UnionType
from typing import Any, get_args

import pytest
import yaml

from megatron_core.config import Recipe, Section
from stages.app import STAGES, TOOLS

ROOT = Path(__file__).parents[1]
SOURCES = sorted(
    p for top in ("stages", "megatron_core", "kernels") for p in ROOT.glob(f"{top}/**/*.py")
)
PIPELINES = [ROOT / "dvc.yaml", *sorted((ROOT / "pipelines").glob("*/dvc.yaml"))]
Function = ast.FunctionDef | ast.AsyncFunctionDef


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def nodes(kind: type[ast.AST] | UnionType) -> Iterator[tuple[str, Any]]:
    """Every node of a kind in our sources, with the place where it is."""
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, kind):
                yield f"{name_of(path)}:{node.lineno}", node


def test_imports_point_down_only(monkeypatch: pytest.MonkeyPatch) -> None:
    from importlinter.cli import EXIT_STATUS_SUCCESS, lint_imports

    monkeypatch.chdir(ROOT)
    assert lint_imports(cache_dir=None, no_cache=True) == EXIT_STATUS_SUCCESS


def test_files_are_short() -> None:
    """A longer one becomes a folder of the same name."""
    lengths = {name_of(p): len(p.read_text(encoding="utf-8").splitlines()) for p in SOURCES}
    assert {name: lines for name, lines in lengths.items() if lines > 400} == {}


def test_functions_are_short() -> None:
    """A longer one is split; its docstring does not count."""
    lengths = {
        f"{place} {node.name}": (node.end_lineno or 0) - node.lineno + 1
        - len((ast.get_docstring(node, clean=False) or "").splitlines())
        for place, node in nodes(Function)
    }  # fmt: skip
    assert len(lengths) > 100
    assert {name: lines for name, lines in lengths.items() if lines > 60} == {}


def test_nothing_is_asserted() -> None:
    """``assert`` goes away under ``python -O``, and its message tells nobody what to do."""
    assert [place for place, _ in nodes(ast.Assert)] == []


def test_modules_hold_no_state() -> None:
    assert [place for place, _ in nodes(ast.Global)] == []


def test_modules_say_what_they_are() -> None:
    silent = [
        name_of(path)
        for path in SOURCES
        if path.name != "__init__.py"
        and not ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    ]
    assert silent == []


@pytest.mark.parametrize("stage", [*STAGES, *TOOLS], ids=lambda stage: stage.__name__)
def test_commands_explain_themselves(stage: Callable[..., None]) -> None:
    assert stage.__doc__
    first, _, rest = stage.__doc__.strip().partition("\n")
    assert len(first) > 20
    assert first.endswith(".")
    assert stage in TOOLS or len(rest.split()) > 10, "say what a user should know"


@pytest.mark.parametrize("pipeline", PIPELINES, ids=lambda p: p.parent.name)
@pytest.mark.parametrize("name", [stage.__name__ for stage in STAGES])
def test_a_stage_has_one_name_everywhere(name: str, pipeline: Path) -> None:
    stage = yaml.safe_load(pipeline.read_text())["stages"][name]
    assert stage["cmd"] == f"reforge {name}"
    assert stage["params"] == [name]
    assert stage["outs"] == [f"artifacts/{name}", f"artifacts/{name}.manifest.json"]
    annotation = Recipe.model_fields[name].annotation
    for kind in get_args(annotation) or [annotation]:  # A union has a section for each kind.
        assert issubclass(get_args(kind)[0] if get_args(kind) else kind, Section)
    assert (ROOT / "stages" / f"{name}.py").is_file()


@pytest.mark.parametrize("pipeline", PIPELINES, ids=lambda p: p.parent.name)
def test_stages_read_what_earlier_ones_write(pipeline: Path) -> None:
    written: set[str] = set()
    for name, stage in yaml.safe_load(pipeline.read_text())["stages"].items():
        assert set(stage.get("deps", [])) <= written, name
        written |= set(stage["outs"])
