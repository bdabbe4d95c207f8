"""Whole steps of training and sampling, beside the usual code: `python -m perf --steps`."""
