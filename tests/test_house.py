"""The rules that keep the house small."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from megatron_core.config import Recipe, Section
from stages.app import STAGES, TOOLS

ROOT = Path(__file__).parents[1]
SOURCES = sorted(
    p for top in ("stages", "megatron_core", "kernels") for p in ROOT.glob(f"{top}/**/*.py")
)
PIPELINES = [ROOT / "dvc.yaml", *sorted((ROOT / "pipelines").glob("*/dvc.yaml"))]
source = pytest.mark.parametrize("path", SOURCES, ids=lambda p: p.relative_to(ROOT).as_posix())


def nodes(path: Path) -> Iterator[ast.AST]:
    return ast.walk(ast.parse(path.read_text(encoding="utf-8")))


def test_imports_point_down_only(monkeypatch: pytest.MonkeyPatch) -> None:
    from importlinter.cli import EXIT_STATUS_SUCCESS, lint_imports

    monkeypatch.chdir(ROOT)
    assert lint_imports(cache_dir=None, no_cache=True) == EXIT_STATUS_SUCCESS


def length(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of a function, without its docstring."""
    lines = (function.end_lineno or function.lineno) - function.lineno + 1
    return lines - len((ast.get_docstring(function, clean=False) or "").splitlines())


@source
def test_files_and_functions_are_short(path: Path) -> None:
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines <= 400, f"{path} has {lines} lines: make it a folder"
    long = {
        f"{node.name} in line {node.lineno}": length(node)
        for node in nodes(path)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and length(node) > 60
    }
    assert not long, f"{path} has long functions: split {long}"


@source
def test_nothing_is_asserted(path: Path) -> None:
    """``assert`` goes away under ``python -O``, and its message helps nobody."""
    asserted = [node.lineno for node in nodes(path) if isinstance(node, ast.Assert)]
    assert not asserted, f"{path} asserts in lines {asserted}: raise an error that says what to do"


@source
def test_modules_hold_no_state(path: Path) -> None:
    """No ``global``, and no work at import that a caller could not repeat or avoid."""
    assert not [node.lineno for node in nodes(path) if isinstance(node, ast.Global)]


@source
def test_modules_say_what_they_are(path: Path) -> None:
    documented = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    assert documented or path.name == "__init__.py", f"{path} has no docstring"


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
    assert isinstance(annotation, type)
    assert issubclass(annotation, Section)
    assert (ROOT / "stages" / f"{name}.py").is_file()


@pytest.mark.parametrize("pipeline", PIPELINES, ids=lambda p: p.parent.name)
def test_stages_read_what_earlier_ones_write(pipeline: Path) -> None:
    written: set[str] = set()
    for name, stage in yaml.safe_load(pipeline.read_text())["stages"].items():
        assert set(stage.get("deps", [])) <= written, name
        written |= set(stage["outs"])
