import numpy as np
import pytest

from dgmkern.data import batch_indices


def test_each_image_is_seen_exactly_once_an_epoch_even_if_batches_straddle_epochs():
    size, batch = 10, 4  # 5 steps are 2 epochs
    seen = np.concatenate([batch_indices(size, batch, seed=3, step=step) for step in range(5)])
    for epoch in seen.reshape(2, size):
        assert sorted(epoch) == list(range(size))
    assert not np.array_equal(seen[:size], seen[size:])


def test_a_batch_may_be_larger_than_the_data_set():
    indices = batch_indices(3, 7, seed=0, step=2)
    assert indices.shape == (7,)
    assert set(indices) == {0, 1, 2}


def test_a_step_needs_no_history():
    forward = [batch_indices(1000, 32, seed=1, step=step) for step in range(80)]
    for step in (79, 3, 40):
        assert np.array_equal(batch_indices(1000, 32, seed=1, step=step), forward[step])


def test_seeds_give_different_orders():
    assert not np.array_equal(batch_indices(100, 100, seed=0, step=0), batch_indices(100, 100, seed=1, step=0))


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="got 0, 1, 0"):
        batch_indices(0, 1, seed=0, step=0)
