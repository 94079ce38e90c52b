from kernels.gelu.reference import gelu

__all__ = ["gelu"]
