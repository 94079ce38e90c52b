"""A mixture of experts in place of a feed-forward layer."""

from __future__ import annotations

from torch import nn

from megatron_core.config import ModelConfig
from megatron_core.model.place import Share


class Experts(nn.Module):
    """To be written."""

    def __init__(self, config: ModelConfig, share: Share) -> None:
        raise NotImplementedError
