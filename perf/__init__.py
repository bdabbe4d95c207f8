"""The performance harness of dgmkern: `python -m perf --help`.

A case is refused a stopwatch until its kernels agree with an fp64 formula. Variants are interleaved, so that a
neighbour on the machine disturbs all of them alike; medians and quartiles are reported, and every time is set beside
the limit of this machine, measured in the same run.
"""
