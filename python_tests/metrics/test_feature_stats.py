import functools
import itertools
import multiprocessing

import numpy as np
import pytest
import torch
import torch.distributed as dist

from dgmkern.metrics import FeatureStats

LONG = np.longdouble  # 64 bits of mantissa on x86


def drawn(n: int, width: int, offset: float = 0.0, scale: float = 1.0, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return offset + scale * rng.standard_normal((n, width)) @ rng.standard_normal((width, width))


def exact(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance in extended precision, of differences from a row, which are exact."""
    d = x.astype(LONG) - x[0].astype(LONG)
    low = d.mean(0)
    d -= low
    return x[0].astype(LONG) + low, d.T @ d / LONG(len(x) - 1)


def error(stats: FeatureStats, x: np.ndarray, wanted: np.ndarray | None = None) -> float:
    """Largest error of the covariance, relative to the standard deviations of its row and column."""
    wanted = exact(x)[1] if wanted is None else wanted
    scale = np.sqrt(np.diag(wanted))
    return float((np.abs(stats.covariance.cpu().numpy() - wanted) / np.outer(scale, scale)).max())


def stats_of(*batches: np.ndarray | torch.Tensor) -> FeatureStats:
    stats = FeatureStats()
    for batch in batches:
        stats.update(torch.as_tensor(batch))
    return stats


@pytest.mark.parametrize(("offset", "scale"), [(0.0, 1.0), (1e4, 1e-3), (1e4, 1e-6), (-1e8, 1e-4)])
@pytest.mark.parametrize("batch", [1, 7, 100, 10_000])
def test_any_split_into_batches_far_from_zero(offset, scale, batch):
    x = drawn(400 if batch == 1 else 4500, 5, offset, scale)
    stats = stats_of(*torch.from_numpy(x).split(batch))
    assert stats.count == len(x)
    assert error(stats, x) < 1e-13
    mean, _ = exact(x)
    spread = x.std(0).max()
    assert float(np.abs(stats.mean.numpy() - mean).max()) <= np.spacing(abs(offset)) + 1e-14 * spread


def test_ordinary_features_against_numpy():
    x = drawn(500, 8, 3.0)
    stats = stats_of(x[:123], x[123:])
    np.testing.assert_allclose(stats.mean.numpy(), x.mean(0), rtol=1e-14)
    np.testing.assert_allclose(stats.covariance.numpy(), np.cov(x.T), rtol=0, atol=1e-13 * np.cov(x.T).max())
    assert torch.equal(stats.covariance, stats.covariance.T)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_low_precision_features_are_summed_in_fp64(dtype):
    x = torch.from_numpy(drawn(700, 6, 10.0, 0.5)).to(dtype)
    stats = stats_of(*x.split(50))
    assert stats.covariance.dtype == torch.float64
    assert error(stats, x.double().numpy()) < 1e-13


def test_a_mean_that_drifts_and_a_first_row_far_away():
    x = np.concatenate([np.full((1, 3), 1e9), drawn(400, 3, 1e4, 1e-2), drawn(400, 3, -5.0, 1e-2, seed=1)])
    assert error(stats_of(x[:1], x[1:401], x[401:]), x) < 1e-13


@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_merge_in_any_grouping_and_order(offset):
    parts = [drawn(n, 5, offset, 1e-4, seed) for seed, n in enumerate((1, 40, 3, 200))]
    whole = np.concatenate(parts)
    left = functools.reduce(lambda a, b: a + b, map(stats_of, parts))
    balanced = (stats_of(parts[0]) + stats_of(parts[1])) + (stats_of(parts[2]) + stats_of(parts[3]))
    wanted = exact(whole)[1]
    for stats in (left, balanced):
        assert error(stats, whole, wanted) < 1e-13
    for order in itertools.permutations(parts):
        stats = FeatureStats()
        for part in order:
            stats.merge(stats_of(part))
        assert stats.count == 244
        assert error(stats, whole, wanted) < 1e-13


def test_a_sum_leaves_its_parts_alone_and_empty_ones_add_nothing():
    a, b = stats_of(drawn(9, 3)), stats_of(drawn(5, 3, seed=1))
    before = a.covariance, b.covariance
    both = a + b
    both.update(torch.ones(4, 3))
    assert torch.equal(a.covariance, before[0])
    assert torch.equal(b.covariance, before[1])
    for same in (a + FeatureStats(), FeatureStats() + a, a + FeatureStats(3)):
        assert torch.equal(same.covariance, a.covariance)
        assert same.count == 9
    twice = stats_of(drawn(9, 3))
    twice.merge(twice)
    assert error(twice, np.concatenate([drawn(9, 3)] * 2)) < 1e-13
    with pytest.raises(TypeError):
        a + 1


def test_the_batch_itself_is_not_written_to():
    x = torch.from_numpy(drawn(30, 4))
    before = x.clone()
    stats = stats_of(x, x)
    assert torch.equal(x, before)
    x.zero_()
    assert stats.mean.abs().sum() > 0


def test_state_goes_on_bit_for_bit():
    x = torch.from_numpy(drawn(300, 4, 1e4, 1e-5))
    whole, first, second = stats_of(x[:100], x[100:]), stats_of(x[:100]), FeatureStats()
    second.load_state_dict(first.state_dict())
    second.update(x[100:])
    assert all(torch.equal(part, second.state_dict()[name]) for name, part in whole.state_dict().items())
    assert first.count == 100
    state = first.state_dict()
    with pytest.raises(KeyError, match=r"expected .*mean_low.*, got"):
        second.load_state_dict({"mean": state["mean"]})
    with pytest.raises(ValueError, match=r"state\['m2'\]: expected torch.float64 \(4, 4\), got torch.float32"):
        second.load_state_dict(state | {"m2": state["m2"].float()})


def test_npz_round_trip_and_as_pytorch_fid_reads_it(tmp_path):
    path = tmp_path / "real.npz"
    x = drawn(200, 5, 2.0)
    stats = stats_of(x)
    stats.save(path)
    with np.load(path) as file:
        mu, sigma, n = file["mu"][:], file["sigma"][:], file["n"]
    np.testing.assert_allclose(mu, x.mean(0), rtol=1e-14)
    np.testing.assert_allclose(sigma, np.cov(x, rowvar=False), rtol=1e-12)
    assert (mu.dtype, sigma.dtype, int(n)) == (np.float64, np.float64, 200)
    again = FeatureStats.load(path)
    assert again.count == 200
    assert torch.equal(again.mean, stats.mean)
    torch.testing.assert_close(again.covariance, stats.covariance, rtol=4e-16, atol=0)
    again.update(torch.from_numpy(x[:50]))
    assert error(again, np.concatenate([x, x[:50]])) < 1e-13
    assert [file.name for file in tmp_path.iterdir()] == ["real.npz"]


def test_a_file_of_pytorch_fid_has_no_count(tmp_path):
    x = drawn(50, 3)
    np.savez_compressed(tmp_path / "theirs.npz", mu=x.mean(0), sigma=np.cov(x, rowvar=False))
    stats = FeatureStats.load(tmp_path / "theirs.npz")
    assert stats.count is None
    assert np.array_equal(stats.mean.numpy(), x.mean(0))
    assert np.array_equal(stats.covariance.numpy(), np.cov(x, rowvar=False))
    for refused in (
        lambda: stats.update(torch.zeros(1, 3)),
        lambda: stats.merge(stats_of(x)),
        lambda: stats_of(x).merge(stats),
        lambda: stats + stats_of(x),
        stats.state_dict,
    ):
        with pytest.raises(ValueError, match=r"known number of samples, got .*no n, as in pytorch-fid's"):
            refused()
    stats.save(tmp_path / "copy.npz")
    with np.load(tmp_path / "copy.npz") as file:
        assert sorted(file.files) == ["mu", "sigma"]
        assert np.array_equal(file["sigma"], stats.covariance.numpy())


def test_files_that_are_not_statistics(tmp_path):
    path = tmp_path / "x.npz"
    eye, two = np.eye(2), np.zeros(2)
    for arrays, message in (
        ({"mu": two}, "got no sigma"),
        ({"mu": two, "sigma": np.eye(3)}, r"got \(2,\) and \(3, 3\)"),
        ({"mu": two, "sigma": eye * np.nan}, "finite values in sigma, got 4"),
        ({"mu": two, "sigma": eye.astype(int)}, "sigma of a floating dtype, got int64"),
        ({"mu": np.array([None, None]), "sigma": eye}, "not a whole .npz file of plain arrays"),
        ({"mu": two, "sigma": eye, "n": np.int64(1)}, "n, one integer of at least 2"),
        ({"mu": two, "sigma": eye, "n": np.zeros(3)}, "n, one integer of at least 2"),
    ):
        np.savez(path, **arrays)
        with pytest.raises(ValueError, match=message) as raised:
            FeatureStats.load(path)
        assert str(path) in str(raised.value)
    np.savez(path, mu=two, sigma=eye)
    whole = path.read_bytes()
    np.save(tmp_path / "lone.npy", two)
    for broken in (b"", b"text", whole[: len(whole) // 2], whole[:-5], (tmp_path / "lone.npy").read_bytes()):
        path.write_bytes(broken)
        with pytest.raises(ValueError, match=r"not a whole \.npz file"):
            FeatureStats.load(path)
    with pytest.raises(FileNotFoundError):
        FeatureStats.load(tmp_path / "none.npz")


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_damaged_bytes_raise_nothing_but_a_value_error(tmp_path, save):
    path = tmp_path / "x.npz"
    save(path, mu=np.zeros(3), sigma=np.cov(drawn(9, 3).T), n=np.int64(9))
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(150):
        damaged = bytearray(whole)
        damaged[rng.integers(len(whole))] ^= int(rng.integers(1, 256))
        path.write_bytes(damaged)
        try:
            FeatureStats.load(path)
        except ValueError:
            refused += 1
    assert refused > 75


def test_a_failed_save_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "x.npz"
    stats_of(drawn(9, 2)).save(path)
    before = path.read_bytes()
    monkeypatch.setattr(np, "savez", lambda file, **_: file.write(b"half") and 1 / 0)
    with pytest.raises(ZeroDivisionError):
        stats_of(drawn(8, 2)).save(path)
    assert path.read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 1
    with pytest.raises(ValueError, match=r"ends in \.npz.*got 'x.txt'"):
        stats_of(drawn(8, 2)).save("x.txt")


def test_too_few_samples():
    with pytest.raises(ValueError, match="mean: expected at least 1 sample, got 0"):
        _ = FeatureStats().mean
    one = stats_of(np.ones((1, 2)))
    assert one.mean.tolist() == [1, 1]
    for stats, count in ((FeatureStats(), 0), (one, 1)):
        with pytest.raises(ValueError, match=f"covariance: expected at least 2 samples, got {count}"):
            _ = stats.covariance
    empty = stats_of(np.zeros((0, 2)))
    assert empty.count == 0


def test_refused_features_are_named_and_change_nothing():
    stats = stats_of(drawn(10, 3))
    before = stats.state_dict()
    bad = torch.zeros(8, 3)
    bad[2, 1], bad[5] = torch.nan, torch.inf
    for features, kind, message in (
        (bad, ValueError, "finite values, got 1 NaN and 3 infinite in 2 of 8 rows, the first in row 2"),
        (torch.zeros(4, 5), ValueError, "features: expected 3 features per sample, as before, got 5"),
        (torch.zeros(3), ValueError, r"\[N, D\], .* got the shape \(3,\)"),
        (torch.zeros(3, 1, 3), ValueError, r"got the shape \(3, 1, 3\)"),
        (torch.zeros(3, 0), ValueError, "at least one feature"),
        (torch.zeros(2, 3, dtype=torch.int64), TypeError, "features: expected dtype float64.* got torch.int64"),
        (np.zeros((2, 3)), TypeError, "features: expected a tensor, got ndarray"),
    ):
        with pytest.raises(kind, match=message):
            stats.update(features)
    assert all(torch.equal(part, before[name]) for name, part in stats.state_dict().items())
    with pytest.raises(ValueError, match="other: expected 3 features per sample, as here, got 4"):
        stats.merge(stats_of(drawn(5, 4)))
    with pytest.raises(ValueError, match="features: expected the device meta of the statistics, got cpu"):
        FeatureStats(device="meta").update(torch.zeros(2, 3))
    with pytest.raises(TypeError, match="other: expected FeatureStats, got int"):
        stats.merge(3)
    with pytest.raises(RuntimeError, match=r"all_reduce: expected .*init_process_group"):
        stats.all_reduce()


PARTS = (40, 0, 1, 300)


def of_rank(rank: int) -> np.ndarray:
    return drawn(PARTS[rank], 6, 1e4, 1e-5, rank)


def run_rank(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=4)
    results = {}
    pair = dist.new_group([1, 3])
    for name, group in (("all", None), ("pair", pair)):
        if group is None or rank in (1, 3):
            stats = stats_of(of_rank(rank))
            stats.all_reduce(group)
            results[name] = stats.state_dict()
    stats = stats_of(np.zeros((rank, 2 + rank % 2)))
    try:
        stats.all_reduce()
    except ValueError as error:
        results["widths"] = str(error)
    empty = FeatureStats()
    empty.all_reduce()
    results["empty"] = empty.count
    torch.save(results, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_all_reduce_over_two_and_four_ranks(tmp_path):
    multiprocessing.set_forkserver_preload(["dgmkern.metrics", "pytest"])  # imported once, not by each rank
    torch.multiprocessing.start_processes(run_rank, (str(tmp_path),), nprocs=4, start_method="forkserver")
    results = [torch.load(tmp_path / f"{rank}.pt") for rank in range(4)]
    for name, ranks in (("all", (0, 1, 2, 3)), ("pair", (1, 3))):
        whole = np.concatenate([of_rank(rank) for rank in ranks])
        one = functools.reduce(lambda a, b: a + b, [stats_of(of_rank(rank)) for rank in ranks]).state_dict()
        for rank in ranks:
            state = results[rank][name]
            assert all(torch.equal(part, one[key]) for key, part in state.items()), (name, rank)
            stats = FeatureStats()
            stats.load_state_dict(state)
            assert stats.count == len(whole)
            assert error(stats, whole) < 1e-13
    for result in results:
        assert "one number of features per sample, got by rank [0, 3, 2, 3]" in result["widths"]
        assert result["empty"] == 0
