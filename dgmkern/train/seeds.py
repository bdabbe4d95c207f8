"""Seeds of single steps, so that a step's random numbers need no state from the steps before it."""

import numpy as np


def step_seed(run_seed: int, step: int) -> int:
    """Seed in [0, 2^63) of training step `step`: NumPy's SeedSequence hash of (run_seed, step)."""
    state = np.random.SeedSequence(run_seed, spawn_key=(0x57E9, step)).generate_state(1, np.uint64)
    return int(state[0] >> np.uint64(1))
