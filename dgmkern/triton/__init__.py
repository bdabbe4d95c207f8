"""Triton kernels, one file a family: for each op a function of its name with the arguments of its schema."""
