"""transformers' Trainer on its own Llama: its loop, one step at a time."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from benchmarks.plain import Reader
from megatron_core.config import ModelConfig, PretrainConfig
from megatron_core.conversion.families.llama import FAMILY


def llama(model: ModelConfig, weights: Mapping[str, Tensor]) -> nn.Module:
    """LlamaForCausalLM of the same settings and weights."""
    theirs = LlamaForCausalLM(LlamaConfig(**FAMILY.write(model), use_cache=False))
    parameters = dict(theirs.named_parameters())
    with torch.no_grad():
        for link in FAMILY.links(model):
            if link.theirs in parameters:
                parameters[link.theirs].copy_(link.join(weights))
    return theirs


class Samples(Dataset[dict[str, Tensor]]):
    """The samples of a reader, by number."""

    def __init__(self, read: Reader, count: int) -> None:
        self.read, self.count = read, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, number: int) -> dict[str, Tensor]:
        one = self.read(range(number, number + 1))
        targets = one.targets[0]
        return {"input_ids": one.tokens[0], "labels": targets, "shift_labels": targets}


class Gate(TrainerCallback):
    """Holds the loop back before each step until it is asked for one."""

    def __init__(self) -> None:
        self.asked: queue.Queue[bool] = queue.Queue()
        self.done: queue.Queue[BaseException | None] = queue.Queue()

    def wait(self, control: Any) -> None:
        if not self.asked.get():
            control.should_training_stop = True

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.wait(control)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.done.put(None)
        self.wait(control)


class LossTrainer(Trainer):
    """Remembers the loss of the step."""

    loss: Tensor | float = 0.0

    def training_step(self, *args: Any, **more: Any) -> Tensor:
        part: Tensor = super().training_step(*args, **more)
        self.loss = self.loss + part
        return part


@contextmanager
def trainer_step(
    config: PretrainConfig, weights: Mapping[str, Tensor], read: Reader, steps: int, folder: Path
) -> Iterator[Callable[[int], float]]:
    """A step of the Trainer's loop, in a thread of its own; it returns the mean loss.

    Args:
        config: Of the same training.
        weights: To begin with.
        read: Reads the samples.
        steps: The most that are asked for, in order.
        folder: The Trainer's.
    """
    batch, adamw, gate = config.batch, config.optimizer, Gate()
    arguments = TrainingArguments(
        output_dir=str(folder), max_steps=steps + 1, use_cpu=config.device == "cpu",
        bf16=config.precision == "bf16", per_device_train_batch_size=batch.microbatch,
        gradient_accumulation_steps=batch.sequences // batch.microbatch,
        learning_rate=adamw.learning_rate, lr_scheduler_type="constant",
        adam_beta1=adamw.beta1, adam_beta2=adamw.beta2, adam_epsilon=adamw.epsilon,
        weight_decay=adamw.weight_decay, max_grad_norm=adamw.clip,
        train_sampling_strategy="sequential", remove_unused_columns=False, save_strategy="no",
        logging_strategy="no", report_to=[], disable_tqdm=True,
    )  # fmt: skip
    trainer = LossTrainer(
        llama(config.model, weights), arguments, callbacks=[gate],
        train_dataset=Samples(read, (steps + 2) * batch.sequences),
    )  # fmt: skip

    trainer.remove_callback(PrinterCallback)

    def run() -> None:
        torch.set_num_threads(config.threads)  # each thread has a count of its own
        try:
            trainer.train()
        except BaseException as error:  # it is the caller's to know
            gate.done.put(error)

    def step(_: int) -> float:
        trainer.loss = 0.0
        gate.asked.put(True)
        error = gate.done.get()
        if error is not None:
            raise error
        return float(trainer.loss)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield step
    finally:
        gate.asked.put(False)
        thread.join()
