"""What is trained in place of a model's weights."""

from __future__ import annotations

from megatron_core.config import AdapterConfig, LoraConfig
from megatron_core.model.language_model import LanguageModel
from megatron_core.model.lora import add_lora
from megatron_core.model.soft_prompt import SoftPrompt


def add_adapter(model: LanguageModel, config: AdapterConfig) -> None:
    """Freeze ``model``, whose weights are loaded, and add what ``config`` trains instead.

    The new parameters have no values yet: see :func:`megatron_core.model.initialize`.
    """
    model.requires_grad_(False)
    if isinstance(config, LoraConfig):
        add_lora(model, config)
    elif model.share.first:
        model.soft_prompt = SoftPrompt(config, model.config.hidden)
