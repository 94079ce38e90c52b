"""A program: stock Megatron-Core loads checkpoints, computes logits, and saves them again.

Run with a folder of models, each a folder with our export ``ours``; ``tokens.json`` beside them.
Each gets a folder ``theirs``. It is on a CPU, which Megatron-Core's training code is not made for,
so what asks for a GPU is answered here.
"""

from __future__ import annotations

import json
import os
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch

ACTIVATIONS = {
    "silu": torch.nn.functional.silu,
    "gelu": torch.nn.functional.gelu,
    "gelu_tanh": lambda x: torch.nn.functional.gelu(x, approximate="tanh"),
}


def main(folder: Path) -> None:
    torch.cuda.current_device = lambda: torch.device("cpu")  # type: ignore[assignment]
    torch.cuda.synchronize = lambda *_: None  # type: ignore[assignment]
    from megatron.core import parallel_state
    from megatron.core.tensor_parallel import random
    from megatron.core.transformer.moe import moe_utils

    moe_utils.te_general_gemm = None  # it is named where Transformer Engine is missing, too
    os.environ |= {"MASTER_ADDR": "localhost", "MASTER_PORT": "0"}
    store = torch.distributed.FileStore(str(folder / "store"), 1)
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    parallel_state.initialize_model_parallel()
    random._CUDA_RNG_STATE_TRACKER = type(
        "Tracker", (random.CudaRNGStatesTracker,), {"fork": lambda self, *_: nullcontext()}
    )()
    random._CUDA_RNG_STATE_TRACKER_INITIALIZED = True
    ids = torch.tensor(json.loads((folder / "tokens.json").read_text()))
    for source in sorted(folder.glob("*/ours")):
        compute(source, ids, source.with_name("theirs"))


def build(arguments: dict[str, Any]) -> Any:
    """The model that ``arguments.json`` describes, of layers that need no GPU."""
    from megatron.core.models.gpt import GPTModel
    from megatron.core.models.gpt.gpt_layer_specs import get_gpt_layer_local_spec
    from megatron.core.transformer import TransformerConfig

    settings = dict(arguments["TransformerConfig"])
    config = TransformerConfig(
        **settings | {"activation_func": ACTIVATIONS[settings["activation_func"]]},
        use_cpu_initialization=True, bias_activation_fusion=False, masked_softmax_fusion=False,
        attention_dropout=0.0, hidden_dropout=0.0, apply_rope_fusion=False,
        gradient_accumulation_fusion=False, moe_grouped_gemm=False,
        moe_token_dispatcher_type="allgather",
    )  # fmt: skip
    spec = get_gpt_layer_local_spec(
        num_experts=settings.get("num_moe_experts"), moe_grouped_gemm=False,
        qk_layernorm=settings["qk_layernorm"], normalization=settings["normalization"],
    )  # fmt: skip
    if "num_moe_experts" in settings:
        # With Transformer Engine, as it is trained, this norm of a mixture has its own name.
        del spec.submodules.sharded_state_dict_keys_map["pre_mlp_layernorm."]
    return GPTModel(config=config, transformer_layer_spec=spec, **arguments["GPTModel"]).eval()


def compute(source: Path, ids: torch.Tensor, output: Path) -> None:
    """Load ``source``, write the logits of ``ids`` and what it saves to ``output``."""
    from megatron.core import dist_checkpointing

    model = build(json.loads((source / "arguments.json").read_text()))
    latest = (source / "latest_checkpointed_iteration.txt").read_text()
    state = dist_checkpointing.load(
        model.sharded_state_dict(prefix=""), str(source / f"iter_{int(latest):07}")
    )
    missing = model.load_state_dict(state, strict=False)
    assert not [k for k in missing.missing_keys if "_extra_state" not in k], missing
    length = ids.shape[1]
    positions = torch.arange(length)[None].expand_as(ids)
    mask = ~torch.ones(1, 1, length, length, dtype=torch.bool).tril()
    saved = output / "iter_0000001"
    saved.mkdir(parents=True)
    with torch.no_grad():
        torch.save(model(ids, positions, mask), output / "logits.pt")
    dist_checkpointing.save(model.sharded_state_dict(prefix=""), str(saved))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
