"""Direct preference optimization (Rafailov et al., 2023)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from kernels.cross_entropy import IGNORED
from megatron_core.config import ModelConfig
from megatron_core.model.language_model import LanguageModel
from megatron_core.model.place import Place, Share
from megatron_core.model.vocabulary import token_losses


class PreferenceModel(LanguageModel):
    """A decoder that is to find the first of each two sequences likelier than the second.

    The loss of a pair is ``-log σ(β (d - d₀))``, where ``d`` is by how much likelier the first is,
    in nats, and ``d₀`` the same by the model that training began with.
    """

    def __init__(
        self, config: ModelConfig, beta: float, share: Share | None = None, *, prompt: int = 0
    ) -> None:
        """``prompt`` is how many positions before the text a soft prompt takes."""
        super().__init__(config, share)
        self.beta, self.prompt = beta, prompt

    def outputs(
        self, chunks: Sequence[Tensor], targets: Sequence[Tensor], places: Sequence[Place]
    ) -> list[Tensor]:
        """The log-probability of each whole sequence, in one chunk: fp32 ``[b]``."""
        ((x,), (place,)), span = (self.normed(chunks, places), places), self.share.tensor
        tokens = targets[0][1:].nan_to_num(nan=IGNORED).long()
        after = x.shape[0] * span.ranks - self.prompt - len(tokens)  # padding
        tokens = F.pad(tokens, (0, 0, self.prompt, after), value=IGNORED)
        return [-token_losses(self.scores(x, place), tokens, span).sum(dim=0)]

    def losses(
        self, chunks: Sequence[Tensor], targets: Sequence[Tensor], places: Sequence[Place]
    ) -> list[Tensor]:
        """The summed loss of the pairs ``2i, 2i + 1`` of the microbatch.

        Args:
            targets: float64 ``[1 + s, b]``: the log-probability of the sequence by the first
                model, and the tokens to predict, ``IGNORED`` where none is. A pair of which it is
                NaN does not count.
        """
        (likely,) = self.outputs(chunks, targets, places)
        reference = targets[0][0]
        margin = likely - reference.nan_to_num().to(torch.float32)
        loss = -F.logsigmoid(self.beta * (margin[::2] - margin[1::2]))
        return [loss.where(~reference[::2].isnan(), 0.0).sum()]
