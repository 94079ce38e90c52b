"""Samples that are read before they are asked for."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from megatron_core.errors import CorpusError
from megatron_core.parallel.batch import Batch
from megatron_core.parallel.layout import Layout
from megatron_core.parallel.mesh import open_mesh
from megatron_core.trainer.assemble import pretraining
from megatron_core.trainer.read_ahead import ReadAhead
from tests.recipes import recipe


class Reader:
    """Notes what is read, and where; some samples cannot be."""

    def __init__(self, broken: int = -1) -> None:
        self.read: list[int] = []
        self.threads: set[str] = set()
        self.broken = broken

    def __call__(self, samples: range) -> Batch:
        if self.broken in samples:
            raise CorpusError(f"sample {self.broken} is torn")
        self.read += samples
        self.threads.add(threading.current_thread().name)
        return Batch(torch.tensor(list(samples))[:, None], torch.zeros(len(samples), 1), 1)


def numbers(batch: Batch) -> list[int]:
    return batch.tokens.flatten().tolist()


def readers() -> list[str]:
    """The threads that read."""
    return [t.name for t in threading.enumerate() if t.name.startswith("input")]


def test_every_sample_is_read_once_by_one_thread_and_none_after_the_last() -> None:
    """Of a run that resumes at its third step of five, on a rank that has the first four of eight
    sequences."""
    reader = Reader()
    with ReadAhead(reader, sequences=8, steps=5, pinned=False) as read:
        for step in (2, 3, 4):
            for start in (8 * step, 8 * step + 2):
                assert numbers(read(range(start, start + 2))) == [start, start + 1]
    assert sorted(reader.read) == [8 * step + n for step in (2, 3, 4) for n in range(4)]
    assert reader.threads == {"input_0"}
    assert readers() == []


def test_the_next_step_is_read_while_nobody_asks() -> None:
    begun = threading.Event()

    def reader(samples: range) -> Batch:
        if samples.start == 4:
            begun.set()
        return Reader()(samples)

    with ReadAhead(reader, sequences=4, steps=2, pinned=False) as read:
        read(range(4))
        assert begun.wait(60)


def test_what_cannot_be_read_is_said_when_it_is_asked_for() -> None:
    with ReadAhead(Reader(broken=9), sequences=4, steps=9, pinned=False) as read:
        assert numbers(read(range(4))) == [0, 1, 2, 3]
        assert numbers(read(range(4, 8))) == [4, 5, 6, 7]
        with pytest.raises(CorpusError, match="sample 9 is torn"):
            read(range(8, 12))
    assert readers() == []


def test_a_run_that_cannot_read_ends_in_the_step_that_needs_it(
    tokens: Path, tmp_path: Path
) -> None:
    """And leaves no thread; the same command goes on where it ended."""
    config = recipe(steps=5)
    broken = 2 * config.batch.sequences + 3
    with open_mesh(Layout(), "cpu", 1) as mesh:
        trainer = pretraining(config, tokens, {}, tmp_path / "torn", mesh)
        whole: Any = trainer.objective.read

        def torn(samples: range) -> Batch:
            return Reader(broken)(samples) if broken in samples else whole(samples)

        trainer.objective.read = torn  # type: ignore[method-assign, assignment]
        with pytest.raises(CorpusError, match=f"sample {broken} is torn"):
            trainer.train()
        assert trainer.step == len(trainer.run.read_steps(5)) == 2
        assert readers() == []
        _, resumed = pretraining(config, tokens, {}, tmp_path / "torn", mesh).train()
        _, plain = pretraining(config, tokens, {}, tmp_path / "plain", mesh).train()
    assert (resumed.step, resumed.root) == (5, plain.root)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_gets_pinned_memory() -> None:
    with ReadAhead(Reader(), sequences=4, steps=2, pinned=True) as read:
        batch = read(range(4))
    assert batch.tokens.is_pinned()
    assert batch.targets.is_pinned()
