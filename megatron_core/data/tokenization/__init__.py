"""Documents into Megatron indexed datasets, one per split and source."""

from megatron_core.data.tokenization.datasets import SPLITS, dataset_prefix, tokenize_documents

__all__ = ["SPLITS", "dataset_prefix", "tokenize_documents"]
