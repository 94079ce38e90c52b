"""What is shown of a model that comes from elsewhere."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from megatron_core.config import ConvertConfig
from megatron_core.conversion.certificate import compare_tensors
from megatron_core.conversion.folder import HuggingFaceModel
from megatron_core.conversion.megatron import MegatronModel
from megatron_core.conversion.parity import check_logits


def import_certificate(
    theirs: HuggingFaceModel | MegatronModel,
    ours: Mapping[str, Tensor],
    checkpoint: str,
    config: ConvertConfig,
) -> dict[str, Any]:
    """Compare a checkpoint with what it was made of, tensor by tensor, and the logits.

    Args:
        theirs: What it was made of.
        ours: The checkpoint's weights, read back from the disk.
        checkpoint: Its root.
        config: Whether logits are compared, and the largest difference.

    Raises:
        IntegrityError: a tensor is not bitwise the same.
        ReforgeError: the logits differ by more than the configuration allows.
    """
    from_hugging_face = isinstance(theirs, HuggingFaceModel)
    difference = None  # Megatron-Core is not among our dependencies
    if from_hugging_face and config.compare_logits:
        difference = check_logits(ours, theirs.config, theirs.folder, config)
    parameters = sum(math.prod(shape) for link in theirs.links for shape in link.shapes)
    return {
        "bytes": parameters * 4,
        "checkpoint": checkpoint,
        "dtype": "float32",
        "family": theirs.family.model_type if isinstance(theirs, HuggingFaceModel) else None,
        "format": "reforge",
        "from": "hugging_face" if from_hugging_face else "megatron_core",
        "left_out": list(theirs.left_out),
        "max_logit_difference": difference,
        "parameters": parameters,
        "round_trip": "bitwise",
        "tensors": compare_tensors(theirs.links, ours, theirs.files),
    }
