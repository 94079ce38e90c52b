"""A decoder that scores sequences and continues them, on the ranks that share its tensors."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from megatron_core.collectives import Span
from megatron_core.inference.sequences import Apart, Cache
from megatron_core.model import Documents, LanguageModel, Place, SequenceAttention


class Decoder:
    """Logits, the same on every rank and, for the same grid, on every layout.

    The tokens of a call are one row, padded at its end to a multiple of the tensor shards.
    """

    def __init__(self, model: LanguageModel) -> None:
        """Of a whole decoder, or of its local tensor shards on each rank that has some."""
        self.model, self.config = model.eval(), model.config
        self.span: Span = model.share.tensor
        self.device = next(model.parameters()).device
        soft_prompt = model.soft_prompt
        # Positions before each sequence; what token stands there makes no difference.
        self.prompt = [0] * (soft_prompt.tokens if soft_prompt is not None else 0)

    @property
    def positions(self) -> int:
        """Most tokens of a sequence."""
        return self.config.positions - len(self.prompt)

    @torch.no_grad()
    def score(self, tokens: Sequence[int]) -> Tensor:
        """Logits ``[s, vocabulary]`` after each of ``tokens``.

        A sequence is computed alone: no other changes a bit of its logits.
        """
        place = Place()
        before = len(self.prompt)
        row, padded = self._row([*self.prompt, *tokens])
        (x,) = self.model.blocks(self.model.embed([row], [place]), [place])
        (x,) = self.model.normed([x], [place])
        logits = self._logits(x)
        return logits[before : before + len(tokens)] if padded or before else logits

    @torch.no_grad()
    def score_together(self, sequences: Sequence[Sequence[int]], size: int) -> list[Tensor]:
        """As :meth:`score` of each, in one row of ``size`` tokens.

        Matrix products then have the shape that ``size`` gives, whatever the row holds.
        """
        sequences = [[*self.prompt, *tokens] for tokens in sequences]
        lengths = [len(tokens) for tokens in sequences]
        flat = [token for tokens in sequences for token in tokens]
        positions = [position for length in lengths for position in range(length)]
        x = self._run(
            flat + [0] * (size - len(flat)), positions + [0] * (size - len(flat)),
            Apart(lengths, self.config.window),
        )  # fmt: skip
        parts = torch.split(self._logits(x)[: len(flat)], lengths)
        return [part[len(self.prompt) :] for part in parts]

    @torch.no_grad()
    def begin(self, cache: Cache, slot: int, tokens: Sequence[int]) -> Tensor:
        """Put a sequence into ``slot`` of the cache; logits ``[vocabulary]`` after its end."""
        tokens = [*self.prompt, *tokens]
        cache.begin(slot, len(tokens))
        x = self._run(tokens, range(len(tokens)), cache)
        return self._logits(x, [len(tokens) - 1])[0]

    @torch.no_grad()
    def advance(self, cache: Cache, newest: Sequence[int | None]) -> Tensor:
        """Logits ``[slots, vocabulary]`` after one more token in each slot; None is an empty one.

        Matrix products have as many rows as there are slots, empty or not. Only of a mixture
        are slots computed in turn, since an expert has as many rows as chose it.
        """
        if self.config.experts is None:
            return self._advance(cache, range(len(newest)), newest)
        held = [slot for slot, token in enumerate(newest) if token is not None]
        found = [self._advance(cache, [slot], [newest[slot]]) for slot in held]
        whole = found[0].new_zeros(len(newest), self.config.vocabulary)
        whole[held] = torch.cat(found)
        return whole

    def _advance(self, cache: Cache, slots: Sequence[int], newest: Sequence[int | None]) -> Tensor:
        positions = [cache.lengths[slot] for slot in slots]
        cache.advance([s if t is not None else None for s, t in zip(slots, newest, strict=True)])
        return self._logits(self._run([token or 0 for token in newest], positions, cache))[
            : len(slots)
        ]

    def _row(self, numbers: Sequence[int]) -> tuple[Tensor, int]:
        """``numbers`` as int64 ``[n, 1]``, padded, and by how many."""
        padded = -len(numbers) % self.span.shards
        return torch.tensor([*numbers, *[0] * padded], device=self.device)[:, None], padded

    def _run(
        self, tokens: Sequence[int], positions: Sequence[int], attention: SequenceAttention
    ) -> Tensor:
        """Final hidden states of the row, as local slices ``[slice, 1, hidden]``."""
        row, _ = self._row(tokens)
        numbers, _ = self._row(positions)
        place = Place(documents=Documents(numbers, numbers), attention=attention)
        (x,) = self.model.blocks(self.model.embed([row], [place]), [place])
        (x,) = self.model.normed([x], [place])
        return x

    def _logits(self, x: Tensor, rows: Sequence[int] | None = None) -> Tensor:
        """fp32 ``[n, vocabulary]``, of all of the row or of some of it."""
        if rows is not None:
            taken = self.span.gather(x)[list(rows) + [0] * (-len(rows) % self.span.shards)]
            x = taken.chunk(self.span.ranks)[self.span.rank]
        shards = torch.stack(self.model.scores(x, Place()))
        whole = self.span.gather(shards)[:, :, 0].movedim(0, 1).flatten(1).float()
        return whole if rows is None else whole[: len(rows)]
