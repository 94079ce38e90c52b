from kernels.linear.reference import add_weight_gradient, input_gradient, linear

__all__ = ["add_weight_gradient", "input_gradient", "linear"]
