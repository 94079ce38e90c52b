"""Which backend of each operation a run computes with."""

from __future__ import annotations

import torch

from kernels.registry import OPERATIONS, Choice, UnavailableError, backends, choose
from megatron_core.config import TrainingConfig
from megatron_core.errors import ConfigError

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def chosen_kernels(config: TrainingConfig) -> list[Choice]:
    """The backend of every operation, on this machine.

    Raises:
        ConfigError: one that the recipe names cannot be used here.
    """
    named, default = config.kernels.named, config.kernels.default
    found = []
    for operation in OPERATIONS:
        # The optimizer's numbers are fp32 whatever the model computes in.
        dtype = torch.float32 if operation == "adamw" else DTYPES[config.precision]
        wanted = named.get(operation, default)
        if operation not in named and default not in ("auto", *backends(operation)):
            wanted = "reference"
        try:
            found.append(choose(operation, wanted, config.device, dtype))
        except UnavailableError as error:
            raise ConfigError(str(error)) from error
    return found
