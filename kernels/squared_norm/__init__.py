from kernels.squared_norm.reference import squared_norm

__all__ = ["squared_norm"]
