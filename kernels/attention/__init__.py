from kernels.attention.reference import attention

__all__ = ["attention"]
