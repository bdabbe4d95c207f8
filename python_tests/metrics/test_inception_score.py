import math

import numpy as np
import pytest
import torch

from dgmkern.metrics import InceptionScore, inception_score


def by_numpy(logits, splits=1) -> list[float]:
    x = np.asarray(logits, np.longdouble)
    log_p = x - x.max(1, keepdims=True)
    log_p = log_p - np.log(np.exp(log_p).sum(1, keepdims=True))
    n, scores = len(x), []
    for i in range(splits):
        part = log_p[i * n // splits : (i + 1) * n // splits]
        marginal = np.exp(part).mean(0)
        scores.append(float(np.exp((np.exp(part) * (part - np.log(marginal))).sum(1).mean())))
    return scores


def drawn(n, classes, scale=3.0, seed=0):
    return torch.from_numpy(scale * np.random.default_rng(seed).standard_normal((n, classes)))


@pytest.mark.parametrize("classes", [2, 10, 300])
def test_closed_forms(classes):
    rows = torch.arange(2 * classes) % classes
    one_hot = 5000.0 * torch.nn.functional.one_hot(rows, classes).double()
    uniform = torch.full((2 * classes, classes), 7.0)
    assert inception_score(one_hot, splits=1).mean == pytest.approx(classes, rel=1e-12)
    assert inception_score(one_hot, splits=2) == pytest.approx((classes, 0), rel=1e-12, abs=1e-9)
    assert inception_score(uniform, splits=1).mean == pytest.approx(1, abs=1e-14)
    assert inception_score(one_hot[:1].expand(20, -1), splits=4).mean == pytest.approx(1, abs=1e-14)


def test_two_kinds_of_samples_in_closed_form():
    # half of the samples have p = (a, 1 - a), half (1 - a, a): score = exp(log 2 - H(a))
    a = 0.9
    logits = torch.tensor([[a, 1 - a], [1 - a, a]], dtype=torch.float64).log().repeat(5, 1)
    entropy = -(a * math.log(a) + (1 - a) * math.log(1 - a))
    assert inception_score(logits, splits=5) == pytest.approx((2 * math.exp(-entropy), 0), rel=1e-13, abs=1e-14)


@pytest.mark.parametrize("splits", [1, 3, 10])
@pytest.mark.parametrize("scale", [1.0, 30.0, 1000.0])
def test_against_numpy(splits, scale):
    logits = drawn(107, 13, scale)
    wanted = by_numpy(logits, splits)
    result = inception_score(logits, splits=splits)
    assert result.mean == pytest.approx(np.mean(wanted), rel=1e-12)
    assert result.std == pytest.approx(np.std(wanted), rel=1e-9, abs=1e-13)


def test_classes_that_no_sample_gives_any_probability():
    logits = torch.tensor([[0.0, -1e6, -1e6], [-1e6, 0.0, -1e6]])
    assert inception_score(logits, splits=1).mean == pytest.approx(2, rel=1e-14)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_low_precision_logits_are_taken_as_they_are(dtype):
    logits = drawn(64, 10).to(dtype)
    assert inception_score(logits, splits=2).mean == pytest.approx(np.mean(by_numpy(logits.double(), 2)), rel=1e-12)


def test_seed_shuffles():
    logits = drawn(40, 6).sort(0).values
    plain, shuffled = inception_score(logits, splits=4), inception_score(logits, splits=4, seed=3)
    assert plain != shuffled == inception_score(logits, splits=4, seed=3)
    assert inception_score(logits, splits=1, seed=3).mean == pytest.approx(by_numpy(logits)[0], rel=1e-12)


def test_batches():
    logits = drawn(50, 7)
    metric = InceptionScore(splits=5)
    for batch in logits.split(13):
        metric.update(generated=batch)
    assert metric.compute().mean == pytest.approx(np.mean(by_numpy(logits, 5)), rel=1e-12)
    metric.reset()
    with pytest.raises(ValueError, match="generated: expected samples"):
        metric.compute()
    with pytest.raises(TypeError, match="split"):
        InceptionScore(split=3)


def test_against_torch_fidelity(peer):
    theirs = peer("torch_fidelity.metric_isc")
    logits = drawn(103, 11)
    result = theirs.isc_features_to_metric(logits, splits=7, shuffle=False)
    assert inception_score(logits, splits=7) == pytest.approx(
        (result["inception_score_mean"], result["inception_score_std"]), rel=1e-11
    )


@pytest.mark.parametrize(
    ("logits", "options", "kind", "message"),
    [
        (torch.zeros(5), {}, ValueError, r"logits: expected \[N, D\]"),
        (torch.tensor([[0.0, -torch.inf]]), {"splits": 1}, ValueError, "logits: .* got 0 NaN and 1 infinite in 1 of 1"),
        (torch.zeros(5, 2), {"splits": 6}, ValueError, r"splits: expected at most one a sample \(5\), got 6"),
        (torch.zeros(5, 2), {"splits": 0}, ValueError, "splits: expected at least 1, got 0"),
        (torch.zeros(5, 2, dtype=torch.int64), {}, TypeError, "logits: expected dtype"),
    ],
)
def test_refused_arguments(logits, options, kind, message):
    with pytest.raises(kind, match=message):
        inception_score(logits, **options)
