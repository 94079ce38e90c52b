from kernels.adamw.reference import adamw_step

__all__ = ["adamw_step"]
