from kernels.squared_norm.reference import halving_sum_, squared_norms

__all__ = ["halving_sum_", "squared_norms"]
