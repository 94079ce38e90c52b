"""What the rules for numbers cost: a step of the engine against a bare PyTorch loop.

    python -m benchmarks.overhead [--steps 9] [--hidden 512] [--length 256] [--sequences 16]

One process, one model, one batch, in turns within one run: a plain decoder with autograd and
torch's AdamW, our engine on a grid of one, and our engine on larger grids. Ratios of medians of
CPU time, which other work on the machine disturbs less than wall time.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.tables import write_table
from kernels.rms_norm import rms_norm
from kernels.rotary import rotary_frequencies, rotary_table
from megatron_core.config import BatchSizes, Grid, ModelConfig, PretrainConfig
from megatron_core.model import LanguageModel, Share, initialize
from megatron_core.optimizer import clip_coefficient
from megatron_core.parallel.batch import Batch
from megatron_core.parallel.engine import Engine
from megatron_core.parallel.layout import Layout
from megatron_core.parallel.mesh import Mesh, open_mesh

GRIDS = [Grid(), Grid(data=4), Grid(tensor=2), Grid(tensor=4), Grid(context=2), Grid(tensor=8)]


class Norm(nn.Module):
    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(hidden))

    def forward(self, x: Tensor) -> Tensor:
        return rms_norm(x, self.weight, 1e-5)


class PlainBlock(nn.Module):
    def __init__(self, model: ModelConfig) -> None:
        super().__init__()
        hidden, size = model.hidden, model.head_size
        widths = {
            "q": model.heads * size, "k": model.kv_heads * size, "v": model.kv_heads * size,
            "gate": model.ffn, "up": model.ffn,
        }  # fmt: skip
        for name, width in widths.items():
            setattr(self, name, nn.Linear(hidden, width, bias=False))
        self.o = nn.Linear(model.heads * size, hidden, bias=False)
        self.down = nn.Linear(model.ffn, hidden, bias=False)
        self.first, self.second = Norm(hidden), Norm(hidden)
        self.model = model

    def forward(self, x: Tensor, table: Tensor) -> Tensor:
        y = self.first(x)
        q, k, v = (
            layer(y).view(*y.shape[:2], -1, self.model.head_size).transpose(1, 2)
            for layer in (self.q, self.k, self.v)
        )
        groups = self.model.heads // self.model.kv_heads
        k, v = (x.repeat_interleave(groups, 1) for x in (rotate(k, table), v))
        mixed = F.scaled_dot_product_attention(rotate(q, table), k, v, is_causal=True)
        x = x + self.o(mixed.transpose(1, 2).reshape(x.shape))
        y = self.second(x)
        return x + self.down(F.silu(self.gate(y)) * self.up(y))


def rotate(x: Tensor, table: Tensor) -> Tensor:
    first, second = x.chunk(2, dim=-1)
    return x * table[0] + torch.cat([-second, first], dim=-1) * table[1]


class PlainModel(nn.Module):
    def __init__(self, model: ModelConfig) -> None:
        super().__init__()
        self.embedding = nn.Embedding(model.vocabulary, model.hidden)
        self.blocks = nn.ModuleList(PlainBlock(model) for _ in range(model.layers))
        self.norm = Norm(model.hidden)
        self.head = nn.Linear(model.hidden, model.vocabulary, bias=False)
        self.head.weight = self.embedding.weight
        self.table = rotary_table(
            model.positions, rotary_frequencies(model.head_size, model.rope_theta)
        )

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens)
        for block in self.blocks:
            x = block(x, self.table)
        return self.head(self.norm(x))


def recipe(grid: Grid, hidden: int, length: int, sequences: int) -> PretrainConfig:
    model = ModelConfig(
        vocabulary=4096, positions=length, layers=4, hidden=hidden, heads=hidden // 32,
        kv_heads=hidden // 32, ffn=3 * hidden,
    )  # fmt: skip
    return PretrainConfig(
        sequence_length=length, batch=BatchSizes(sequences=sequences, microbatch=2), grid=grid,
        model=model,
    )  # fmt: skip


def reader(config: PretrainConfig) -> Callable[[range], Batch]:
    def read(samples: range) -> Batch:
        rows = [
            torch.randint(
                config.model.vocabulary, (config.sequence_length + 1,),
                generator=torch.Generator().manual_seed(sample),
            )
            for sample in samples
        ]  # fmt: skip
        windows = torch.stack(rows)
        return Batch(windows[:, :-1], windows[:, 1:], windows[:, 1:].numel())

    return read


def engine_step(config: PretrainConfig, mesh: Mesh) -> Callable[[int], None]:
    def build(share: Share) -> LanguageModel:
        model = LanguageModel(config.model, share)
        initialize(model, config.model, config.seed)
        return model

    engine, read = Engine(build, config, mesh, model=config.model), reader(config)

    def step(number: int) -> None:
        engine.gradient(read, number)
        norm = engine.measure(checksums=True).norm
        engine.update(step=number, rate=1e-3, coefficient=clip_coefficient(norm, 1.0))

    return step


def plain_step(config: PretrainConfig) -> Callable[[int], None]:
    model, read, batch = PlainModel(config.model), reader(config), config.batch
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1)

    def step(number: int) -> None:
        optimizer.zero_grad()
        first = (number - 1) * batch.sequences
        for start in range(first, first + batch.sequences, batch.microbatch):
            part = read(range(start, start + batch.microbatch))
            loss = F.cross_entropy(
                model(part.tokens).flatten(0, 1), part.targets.flatten(), reduction="sum"
            )
            (loss / (batch.sequences * config.sequence_length)).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=9)
    parser.add_argument("--hidden", type=int, default=512)
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--sequences", type=int, default=16)
    options = parser.parse_args()
    sizes = options.hidden, options.length, options.sequences
    with open_mesh(Layout(), "cpu", 1) as mesh:
        steps = {"bare loop": plain_step(recipe(Grid(), *sizes))}
        for grid in GRIDS:
            name = ", ".join(f"{k} {v}" for k, v in grid.model_dump().items() if v > 1)
            steps[f"grid {name or 'of one'}"] = engine_step(recipe(grid, *sizes), mesh)
        times: dict[str, list[float]] = {name: [] for name in steps}
        for number in range(1, options.steps + 2):
            # To and fro, so that none always follows the same other one's caches.
            for name, step in list(steps.items())[:: 1 if number % 2 else -1]:
                start = time.process_time()
                step(number)
                if number > 1:
                    times[name].append(time.process_time() - start)
    bare, one = times["bare loop"], times["grid of one"]
    write_table(
        "overhead",
        f"python -m benchmarks.overhead --steps {options.steps} --hidden {options.hidden} "
        f"--length {options.length} --sequences {options.sequences}",
        ["step", "median", "over the bare loop", "over a grid of one"],
        [
            [
                name,
                f"{statistics.median(values) * 1e3:.0f} ms",
                f"{paired(values, bare):.3f}",
                f"{paired(values, one):.3f}",
            ]
            for name, values in times.items()
        ],
    )


def paired(values: list[float], others: list[float]) -> float:
    """The median of the ratios of neighbours in time."""
    return statistics.median(a / b for a, b in zip(values, others, strict=True))


if __name__ == "__main__":
    main()
