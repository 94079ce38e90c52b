from kernels.linear_cross_entropy.reference import linear_cross_entropy

__all__ = ["linear_cross_entropy"]
