from kernels.dropout.reference import dropout, dropout_key

__all__ = ["dropout", "dropout_key"]
