"""Planned traffic is what ranks send: collectives of a real step are counted."""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from megatron_core.config import PretrainConfig
from megatron_core.model import LanguageModel, Share
from megatron_core.parallel.batch import Batch
from megatron_core.parallel.engine import Engine
from megatron_core.parallel.layout import Layout
from megatron_core.parallel.mesh import open_mesh
from megatron_core.planning.job import Job
from megatron_core.planning.presets import read_preset
from megatron_core.planning.software import Software
from megatron_core.planning.traffic import step_transfers
from tests.ranks import run_ranks

BASE: dict[str, Any] = {
    "model": {
        "vocabulary": 512, "positions": 64, "layers": 4, "hidden": 64, "heads": 4, "kv_heads": 2,
        "ffn": 96,
    },
    "sequence_length": 64,
    "batch": {"sequences": 8, "microbatch": 2},
    "grid": {"data": 2, "tensor": 2, "context": 2},
    "precision": "bf16",
}  # fmt: skip
EXPERTS = {**BASE["model"], "experts": {"count": 4, "chosen": 2, "ffn": 48}}


class Counted:
    """Counts the bytes that this process sends by ``torch.distributed``."""

    def __init__(self) -> None:
        self.sent: Counter[str] = Counter()
        for name in ("all_gather_single", "all_to_all_single", "isend", "send", "broadcast"):
            setattr(dist, name, self._counting(name, getattr(dist, name)))

    def _counting(self, name: str, call: Any) -> Any:
        def counted(*args: Any, **options: Any) -> Any:
            self.sent[name] += self._bytes(name, args, options)
            return call(*args, **options)

        return counted

    def _bytes(self, name: str, args: tuple[Any, ...], options: dict[str, Any]) -> int:
        if name in {"isend", "send"}:
            return args[0].nbytes
        group = options["group"]
        ranks, rank = dist.get_world_size(group), dist.get_rank(group)
        if name == "all_gather_single":
            return args[1].nbytes * (ranks - 1)
        if name == "broadcast":  # as a ring passes it on: everyone but the last once
            return 0 if options["group_src"] == rank else args[0].nbytes
        sizes = args[3] if len(args) > 3 else None
        if sizes is None:
            return args[1].nbytes * (ranks - 1) // ranks
        return (sum(sizes) - sizes[rank]) * args[1].nbytes // max(sum(sizes), 1)


def count_step(config: dict[str, Any], layout: str, folder: Path) -> None:
    parsed = PretrainConfig.model_validate(config)
    with open_mesh(Layout.parse(layout), "cpu", 1) as mesh:

        def build(share: Share) -> LanguageModel:
            model = LanguageModel(parsed.model, share)
            for parameter in model.parameters():
                parameter.data.normal_(std=0.02)
            return model

        def batches(samples: range) -> Batch:
            tokens = torch.arange(len(samples) * 64).view(-1, 64) % 512
            return Batch(tokens, tokens, tokens.numel())

        engine = Engine(build, parsed, mesh, model=parsed.model)
        counted = Counted()
        engine.gradient(batches, 1)
        engine.update(step=1, rate=1e-3, coefficient=1.0)
    (folder / f"{os.environ['RANK']}.json").write_text(json.dumps(counted.sent))


@pytest.mark.parametrize(
    ("layout", "changes"),
    [
        ("tensor=2", {}),
        ("context=2,pipeline=2", {}),
        ("data=2,pipeline=2", {"recompute": "full"}),
        ("data=2,expert=2", {"model": EXPERTS}),
    ],
)
def test_a_step_sends_what_is_planned(layout: str, changes: dict[str, Any], tmp_path: Path) -> None:
    config = {**BASE, **changes}
    training = PretrainConfig.model_validate(config)
    job = Job.of(training, training.model, Layout.parse(layout))
    ranks = job.layout.ranks
    assert run_ranks(count_step, ranks, config, layout, tmp_path) == [0] * ranks
    software = read_preset(Software, "software", "reforge")
    for rank in range(ranks):
        sent = Counter(json.loads((tmp_path / f"{rank}.json").read_text()))
        transfers = step_transfers(job, software, rank * job.layout.pipeline // ranks)
        planned: Counter[str] = Counter()
        for transfer in transfers:
            planned[transfer.pattern] += int(transfer.total)
        kinds = {
            "ring": sent["all_gather_single"] + sent["broadcast"],
            "exchange": sent["all_to_all_single"],
            "send": sent["isend"] + sent["send"],
        }
        for pattern, count in kinds.items():
            assert planned[pattern] == pytest.approx(count, rel=0.05, abs=1000), pattern
