"""Traces of a few steps, on one rank and on several, and what they leave alone."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from megatron_core.errors import Interrupted
from megatron_core.parallel.layout import Layout
from megatron_core.parallel.mesh import open_mesh
from megatron_core.regions import Region
from megatron_core.trainer import Trainer
from megatron_core.trainer.assemble import pretraining
from megatron_core.trainer.profile import Profiler, share_table, traced_steps
from megatron_core.trainer.shares import ATTENTION, PRODUCTS, ROWS, step_shares
from tests.ranks import run_ranks
from tests.recipes import recipe
from tests.trainings import Trained

CONFIG = recipe(steps=6, validate_every=4)


def trainer_of(tokens: Path, folder: Path, mesh: Any, *, profile: bool) -> Trainer:
    trainer = pretraining(CONFIG, tokens, {}, folder, mesh)
    if profile:
        trainer.profiler = Profiler(trainer.run.folder / "profile", mesh, tokens=1000)
    return trainer


def work(tokens: Path, folder: Path, text: str, profile: bool) -> None:
    with open_mesh(Layout.parse(text), "cpu", 1) as mesh:
        trainer_of(tokens, folder, mesh, profile=profile).train()


def trained(tokens: Path, folder: Path, layout: str = "data=1", profile: bool = True) -> Trained:
    ranks = Layout.parse(layout).ranks
    assert run_ranks(work, ranks, tokens, folder, layout, profile) == [0] * ranks
    return Trained(folder)


def traces(run: Path) -> dict[str, list[dict[str, Any]]]:
    """The events by file, of which there are no others."""
    found = {}
    for path in sorted((run / "profile").iterdir()):
        with gzip.open(path, "rt") as file:
            found[path.name] = json.load(file)["traceEvents"]
    return found


def test_each_rank_leaves_a_trace_that_names_our_parts_and_changes_no_bit(
    tokens: Path, tmp_path: Path
) -> None:
    plain = trained(tokens, tmp_path / "plain", profile=False)
    for layout, ranks in {"data=1": 1, "data=2": 2}.items():
        profiled = trained(tokens, tmp_path / layout, layout)
        assert (profiled.roots, profiled.steps) == (plain.roots, plain.steps)
        found = traces(profiled.run)
        assert list(found) == [f"rank-{rank}.json.gz" for rank in range(ranks)]
        for events in found.values():
            names = [event["name"] for event in events]
            assert names.count(Region.STEP) == 3
            assert set(Region) - set(names) == ({Region.EXCHANGE} if ranks == 1 else set())
            shares = step_shares(events)
            assert all(time >= -1e-3 for time in shares.values())
            expected = [row for row in ROWS if row != Region.EXCHANGE or ranks > 1]
            assert [row for row, time in shares.items() if time > 0.01] == expected
            assert shares[PRODUCTS] < sum(shares.values()) / 2  # this model is all overhead
            assert shares[ATTENTION] > 1
    assert not (plain.run / "profile").exists()


def test_the_table_is_printed_once_and_only_of_whole_profiles(
    tokens: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any, caplog: Any
) -> None:
    with open_mesh(Layout(), "cpu", 1) as mesh:
        ended = trainer_of(tokens, tmp_path / "ended", mesh, profile=True)
        monkeypatch.setattr(ended, "_checkpoint_due", lambda: ended.step == 3 and stop(ended))
        with pytest.raises(Interrupted):
            ended.train()
        assert "the run ended before its profile" in caplog.text
        assert "where the time went" not in capsys.readouterr().err
        assert not (ended.run.folder / "profile").exists()
        resumed = trainer_of(tokens, tmp_path / "ended", mesh, profile=True)
        resumed.train()
        assert "steps 4 to 6: " in (said := capsys.readouterr().err)
        assert said.count("where the time went") == 1
        assert said.rstrip().endswith(str(resumed.run.folder / "profile"))
        trainer_of(tokens, tmp_path / "ended", mesh, profile=True).train()
        assert "no step is left to profile" in caplog.text


def stop(trainer: Trainer) -> bool:
    trainer._save()
    trainer._give_up()
    return True


@pytest.mark.parametrize(
    ("first", "steps", "traced"),
    [(1, 100, range(3, 6)), (41, 100, range(43, 46)), (1, 5, range(3, 6)), (1, 4, range(2, 5)),
     (1, 3, range(1, 4)), (1, 2, range(1, 3)), (100, 100, range(100, 101))],
)  # fmt: skip
def test_the_first_steps_pass_where_there_are_enough(first: int, steps: int, traced: range) -> None:
    assert traced_steps(first, steps) == traced


def test_the_busiest_rank_is_the_one_that_waits_least() -> None:
    rows = [
        [{PRODUCTS: work, Region.EXCHANGE: 100.0 - work}.get(row, 0.0) for row in ROWS]
        for work in (60.0, 50.0, 80.0)
    ]
    console = Console(width=200)
    with console.capture() as capture:
        console.print(share_table(rows, range(3, 6), tokens=4000))
    said = capture.get()
    assert "steps 3 to 5: 100.0 ms each, 40,000 tokens/s" in said
    assert "rank 0, ms" in said
    assert "rank 2, busiest, ms" in said
    line = next(line for line in said.splitlines() if PRODUCTS in line)
    assert line.replace("│", " ").split()[2:] == ["60.0", "60.0", "80.0", "80.0"]
