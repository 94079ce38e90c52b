import os

import torch

if not torch.cuda.is_available():
    # Triton then runs its kernels on the CPU. It asks when it is imported, which PyTorch does.
    os.environ["TRITON_INTERPRET"] = "1"
