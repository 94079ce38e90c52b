"""One root over layouts, and over kills and resumes on random layouts.

    python -m benchmarks.layouts [--kills 100] [--seed 1] [--families dense mixture]

Trains a tiny recipe of each family over the layouts below in real processes over gloo. Then
trains it again and again, each time killing a random rank at a random step and going on with
another random layout, until as many kills as asked for are spread over the families. Ends with
exit code 1 if any root differs.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import tempfile
import time
from pathlib import Path

from benchmarks.tables import write_table
from megatron_core.checkpoint import find_checkpoints, read_checkpoint
from megatron_core.config import (
    AdamW,
    BatchSizes,
    Checkpoints,
    ExpertsConfig,
    Grid,
    MaskingConfig,
    ModelConfig,
    PretrainConfig,
    RateSchedule,
)
from megatron_core.parallel.layout import Layout
from megatron_core.parallel.mesh import open_mesh
from megatron_core.trainer.assemble import pretraining
from tests.ranks import run_ranks
from tests.trainable import write_trainable

SHAPE = {
    "vocabulary": 320, "positions": 32, "layers": 3, "hidden": 64, "heads": 4, "kv_heads": 2,
    "ffn": 96,
}  # fmt: skip
FAMILIES = {
    "dense decoder": ModelConfig(**SHAPE, tied_embeddings=True),
    "encoder": ModelConfig(**SHAPE, kind="encoder", tied_embeddings=False, dropout=0.1),
    "mixture of experts": ModelConfig(
        **SHAPE, tied_embeddings=True, experts=ExpertsConfig(count=4, chosen=2, ffn=48)
    ),
}
LAYOUTS = [
    "data=1", "data=2", "data=4", "tensor=2", "context=2", "pipeline=2", "pipeline=3",
    "pipeline=3,schedule=zero_bubble", "pipeline=2,schedule=zero_bubble,data=2",
    "data=2,tensor=2", "data=2,context=2", "tensor=2,context=2", "tensor=2,pipeline=2",
    "data=2,tensor=2,context=2", "data=4,tensor=2", "data=2,pipeline=2,context=2",
]  # fmt: skip
EXPERT_LAYOUTS = [
    "data=2,expert=2",
    "data=4,expert=2",
    "data=4,expert=4",
    "data=2,expert=2,tensor=2",
]
STEPS = 8


def recipe(model: ModelConfig) -> PretrainConfig:
    """Eight steps, each saved."""
    return PretrainConfig(
        steps=STEPS,
        sequence_length=32,
        batch=BatchSizes(sequences=16, microbatch=2),
        grid=Grid(data=4, tensor=2, context=2),
        optimizer=AdamW(learning_rate=1e-2),
        schedule=RateSchedule(warmup_steps=2),
        checkpoints=Checkpoints(every=1, keep_last=2),
        bucket_megabytes=0.05,
        validate_every=4,
        trackers=[],
        model=model,
        masking=MaskingConfig(token=1),
    )


def work(
    tokens: Path, folder: Path, config: PretrainConfig, layout: str, victim: int, step: int
) -> None:
    """Train as one of the ranks; number ``victim`` dies at the beginning of ``step``."""
    with open_mesh(Layout.parse(layout), config.device, config.threads) as mesh:
        trainer = pretraining(config, tokens, {}, folder, mesh)
        read = trainer.objective.read

        def dying(samples: range) -> object:
            if mesh.rank == victim and trainer.step + 1 == step:
                os.kill(os.getpid(), signal.SIGKILL)
            return read(samples)

        trainer.objective.read = dying  # type: ignore[method-assign,assignment]
        trainer.train()


def train(
    tokens: Path, folder: Path, config: PretrainConfig, layout: str, victim: int = -1, step: int = 0
) -> bool:
    """Whether all ranks came to the end."""
    ranks = Layout.parse(layout).ranks
    return not any(run_ranks(work, ranks, tokens, folder, config, layout, victim, step))


def final_root(folder: Path) -> str:
    """The root of the last checkpoint, which must be of the last step."""
    (run,) = folder.glob("pretrain-*")
    found = read_checkpoint(find_checkpoints(run / "checkpoints")[-1])
    if found.step != STEPS:
        raise RuntimeError(f"{run} ended at step {found.step}")
    return found.root


def over_layouts(tokens: Path, config: PretrainConfig, layouts: list[str]) -> dict[str, str]:
    """The root that each layout comes to."""
    roots = {}
    for layout in layouts:
        with tempfile.TemporaryDirectory() as folder:
            started = time.monotonic()
            done = train(tokens, Path(folder), config, layout)
            roots[layout] = final_root(Path(folder)) if done else "failed"
        print(f"  {layout:40} {roots[layout][:16]} {time.monotonic() - started:5.1f} s", flush=True)
    return roots


def over_kills(
    tokens: Path, config: PretrainConfig, layouts: list[str], kills: int, dice: random.Random
) -> list[str]:
    """The roots of as many trainings as it takes to kill ``kills`` times."""
    roots = []
    while kills > 0:
        with tempfile.TemporaryDirectory() as folder:
            done, step = False, 0
            while not done:
                layout = dice.choice(layouts)
                # A step or three on from where the last one was killed, or to the end.
                step += dice.randint(1, 3)
                victim = dice.randrange(Layout.parse(layout).ranks)
                if kills == 0:
                    step = 0
                done = train(tokens, Path(folder), config, layout, victim, step)
                kills -= not done
            roots.append(final_root(Path(folder)))
        print(f"  {roots[-1][:16]}, {kills} kills left", flush=True)
    return roots


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--families", nargs="*", default=[], help="beginnings of names; all")
    options = parser.parse_args()
    dice, rows, same = random.Random(options.seed), [], True
    families = {
        name: model for name, model in FAMILIES.items()
        if not options.families or name.startswith(tuple(options.families))
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as project:
        tokens = write_trainable(Path(project)) / "artifacts" / "tokenize"
        for i, (name, model) in enumerate(families.items()):
            print(name)
            layouts = LAYOUTS + (EXPERT_LAYOUTS if model.experts else [])
            roots = over_layouts(tokens, recipe(model), layouts)
            kills = options.kills // len(families) + (i < options.kills % len(families))
            killed = over_kills(tokens, recipe(model), layouts, kills, dice)
            distinct = {*roots.values(), *killed}
            same &= len(distinct) == 1
            rows.append(
                [name, str(len(layouts)), str(kills), ", ".join(root[:16] for root in distinct)]
            )
    command = f"python -m benchmarks.layouts --kills {options.kills} --seed {options.seed}"
    header = ["family", "layouts", "kills and resumes", "roots"]
    write_table("layouts", command, header, rows, f"Layouts: {'; '.join(LAYOUTS)}; with experts "
                f"also {'; '.join(EXPERT_LAYOUTS)}.")  # fmt: skip
    raise SystemExit(not same)


if __name__ == "__main__":
    main()
