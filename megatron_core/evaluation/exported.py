"""An exported model through lm-eval's own model of transformers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from lm_eval.models.huggingface import HFLM

_DTYPES = {"fp32": "float32", "bf16": "bfloat16"}


class ExportedModel(HFLM):  # type: ignore[misc]  # lm-eval has no types
    """A Hugging Face folder, each request of which is computed alone.

    In a batch sequences are padded to one length: products get other shapes, and their last bits
    depend on what else is in the batch.
    """

    def __init__(
        self,
        folder: Path,
        *,
        context: int,
        device: str = "cpu",
        precision: str = "fp32",
        on_done: Callable[[int], None] = lambda number: None,
    ) -> None:
        """
        Args:
            folder: Model and tokenizer.
            context: Tokens the model sees at most.
            device: ``cpu`` or ``cuda``.
            precision: ``fp32`` or ``bf16``.
            on_done: Told how many more requests are done.
        """
        super().__init__(
            pretrained=str(folder), device=device, dtype=_DTYPES[precision], batch_size=1,
            max_length=context, add_bos_token=False, trust_remote_code=False,
        )  # fmt: skip
        self.model.config.use_cache = False  # a cache that nothing reads costs a tenth
        self._on_done = on_done

    def _loglikelihood_tokens(
        self, requests: Any, disable_tqdm: bool = False, override_bs: int | None = None
    ) -> list[tuple[float, bool]]:
        answers: list[tuple[float, bool]] = super()._loglikelihood_tokens(
            requests, disable_tqdm=True, override_bs=override_bs
        )
        self._on_done(len(requests))
        return answers

    def loglikelihood(self, requests: Any, disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        answers: list[tuple[float, bool]] = super().loglikelihood(requests, disable_tqdm=True)
        return answers

    def loglikelihood_rolling(self, requests: Any, disable_tqdm: bool = False) -> list[float]:
        answers: list[float] = super().loglikelihood_rolling(requests, disable_tqdm=True)
        return answers

    def generate_until(self, requests: Any, disable_tqdm: bool = False) -> list[str]:
        answers: list[str] = super().generate_until(requests, disable_tqdm=True)
        self._on_done(len(requests))
        return answers
