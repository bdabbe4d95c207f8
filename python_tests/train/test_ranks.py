"""Ranks of one run: the same state, errors and end on all of them."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import on_ranks
import pytest
import torch

import dgmkern
from dgmkern.data import load, to_signed
from dgmkern.models import WHOLE, Share, model_classes, phases_of
from dgmkern.train import RunFolder, read_log
from dgmkern.train.seeds import step_seed

RANKS = (1, 2, 4)


@pytest.fixture(scope="module")
def seen(tmp_path_factory):
    """By number of ranks: the folder, and what each rank saw."""
    found = {}
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(dgmkern.__file__).parents[1])}
    for ranks in RANKS:
        folder = tmp_path_factory.mktemp(f"{ranks}-ranks")
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
        command += [on_ranks.__file__, str(folder)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        found[ranks] = folder, [json.loads((folder / f"rank-{r}.json").read_text()) for r in range(ranks)]
    return found


@pytest.mark.parametrize("model", sorted(on_ranks.MODELS.keys() - {"free bits"}))  # its shares exchange KLs
def test_losses_and_gradients_of_shares_have_the_mean_of_the_batch(model):
    config = on_ranks.MODELS[model]
    digits, (model_class, _) = load("digits"), model_classes(on_ranks.name_of(config))
    torch.manual_seed(0)
    network = model_class(config, digits.image_shape).double().eval()  # spectral norm keeps its vectors
    x, labels = to_signed(digits.images[:16]).double(), digits.labels[:16]
    for phase in phases_of(network, 0):
        parameters = [p for p in phase.module.parameters() if p.requires_grad]

        def loss_and_gradients(share, phase=phase, parameters=parameters):
            part = {"labels": share.of(labels), "share": share}
            loss = phase.loss(share.of(x), seed=5, step=0, **part)
            gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
            return [loss.detach(), *(g for g in gradients if g is not None)]

        whole = loss_and_gradients(WHOLE)
        for ranks in (2, 4):
            parts = zip(*(loss_and_gradients(Share(rank, ranks)) for rank in range(ranks)), strict=True)
            for want, values in zip(whole, parts, strict=True):
                torch.testing.assert_close(sum(values) / ranks, want, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("model", on_ranks.MODELS)
def test_figures_are_those_of_one_rank_to_rounding(seen, model):
    one = seen[1][1][0]["trained"][model]["records"]
    for ranks in RANKS[1:]:
        for got, want in zip(seen[ranks][1][0]["trained"][model]["records"], one, strict=True):
            # a critic's scores are near 0, and Adam's first step is the sign of a gradient that may be rounding
            assert got == pytest.approx(want, rel=2e-5, abs=2e-5), (ranks, want["step"])


@pytest.mark.parametrize("model", on_ranks.MODELS)
def test_every_rank_ends_with_the_same_bits(seen, model):
    for ranks in RANKS[1:]:
        first, *others = (rank["trained"][model] for rank in seen[ranks][1])
        assert len(others) == ranks - 1
        assert all(other == first for other in others)


def test_nan_on_one_rank_is_the_same_error_on_all(seen):
    at = f"at step 1 (batch seed {step_seed(0, 1)})"
    for ranks in RANKS:
        for rank in seen[ranks][1]:
            assert rank["nan"] == [f"loss is nan {at}", f"gradient norm is nan {at}"]


def test_a_signal_to_one_rank_stops_all_after_the_same_step(seen):
    for ranks in RANKS:
        folder, of_ranks = seen[ranks]
        assert [rank["stopped"][:2] for rank in of_ranks] == [[signal.SIGTERM, 3]] * ranks
        run = RunFolder(folder / "run")
        assert run.latest().step == 3
        assert [record["step"] for record in read_log(run.log)] == [1, 2, 3]


def test_the_first_rank_alone_writes_for_tensorboard(seen):
    for ranks in RANKS:
        folder, of_ranks = seen[ranks]
        assert [rank["stopped"][2] for rank in of_ranks] == [1] + [0] * (ranks - 1)
        assert len(list(RunFolder(folder / "run").tensorboard.iterdir())) == 1


def test_gathered_rows_are_those_of_the_batch_and_gradients_add_over_ranks(seen):
    for ranks in RANKS:
        share = 4 // ranks
        for rank in seen[ranks][1]:
            whole, gradient = rank["gathered"]
            assert whole == [0.0, 1.0, 2.0, 3.0]
            # d (mean^2) / d row = 2 * 1.5 / 4 in the loss of each rank
            assert gradient == [ranks * 0.75] * share


def test_what_fails_on_the_first_rank_fails_on_all(seen):
    for ranks in RANKS:
        first, *others = (rank["failing"] for rank in seen[ranks][1])
        assert first == "OSError: disk full"
        assert others == ["PeerError: rank 0 failed; its message says why"] * (ranks - 1)


def test_no_thread_of_the_group_outlives_it(seen):
    """One that frees a tensor while Python ends would abort the process."""
    for ranks in RANKS:
        for rank in seen[ranks][1]:
            assert rank["threads"]
            assert rank["threads left"] == []
