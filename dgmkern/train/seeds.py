"""Seeds of single steps, so that a step's random numbers need no state from the steps before it."""

import numpy as np


def step_seed(run_seed: int, step: int, phase: int = 0) -> int:
    """Seed in [0, 2^63) of a phase of training step `step`: NumPy's SeedSequence hash of (run_seed, step[, phase])."""
    key = (0x57E9, step, phase) if phase else (0x57E9, step)
    state = np.random.SeedSequence(run_seed, spawn_key=key).generate_state(1, np.uint64)
    return int(state[0] >> np.uint64(1))
