from kernels.attention.reference import causal_attention

__all__ = ["causal_attention"]
