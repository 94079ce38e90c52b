from kernels.rotary.reference import apply_rotary, rotary_frequencies, rotary_table

__all__ = ["apply_rotary", "rotary_frequencies", "rotary_table"]
