"""Training by torchrun: the number of ranks changes nothing but rounding."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import dgmkern
from dgmkern.train import ConfigError, Ranks, Trainer, load_checkpoint, read_log
from dgmkern.train.checkpoint import checkpoint_paths

ROOT = Path(dgmkern.__file__).parents[1]
MODELS = {
    "ddpm": ("--model.channels", "8", "--model.head-dim", "16", "--model.timesteps", "20"),
    "ddpm, importance-sampled t": (
        *("--model.channels", "8", "--model.head-dim", "16", "--model.timesteps", "3"),
        *("--model.step-sampling", "loss-second-moment", "--model.classes", "10"),
    ),
    "vae, IWAE": ("--model.encoder", "8", "--model.decoder", "8", "--model.samples", "3"),
    "vae, free bits": ("--model.encoder", "8", "--model.decoder", "8", "--model.free-bits", "0.1"),
    "gan": ("--model.network", "conv", "--model.channels", "4", "--model.discriminator-steps", "2"),
}


def train(out: Path, model: str, ranks: int, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
    command += ["-m", "dgmkern", "train", model.partition(",")[0], "--out", str(out), *MODELS[model], *options]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)


STEPS = ("--steps", "12", "--batch-size", "16", "--warmup", "2", "--checkpoint-every", "6")


@pytest.mark.parametrize("model", MODELS)
def test_losses_are_the_same_for_any_number_of_ranks(model, tmp_path):
    logs = {}
    for ranks in (1, 2) if "," in model else (1, 2, 4):
        run = tmp_path / str(ranks)
        done = train(run, model, ranks, *STEPS)
        assert done.returncode == 0, done.stderr
        logs[ranks] = read_log(run / "log.jsonl")
        assert [record["step"] for record in logs[ranks]] == list(range(1, 13))
        assert [load_checkpoint(path).step for path in checkpoint_paths(run / "checkpoints")] == [0, 6, 12]
    for ranks, records in logs.items():
        for one, record in zip(logs[1], records, strict=True):
            for name in one.keys() - {"seconds"}:
                assert record[name] == pytest.approx(one[name], rel=2e-4, abs=1e-6), (ranks, name, one["step"])


def test_a_run_goes_on_with_another_number_of_ranks(tmp_path):
    for run, ranks in ((tmp_path / "straight", (1, 1)), (tmp_path / "changing", (2, 1))):
        assert train(run, "ddpm", ranks[0], *STEPS, "--steps", "6").returncode == 0
        assert train(run, "ddpm", ranks[1], "--resume", "--steps", "12").returncode == 0
    straight, changing = (read_log(tmp_path / name / "log.jsonl") for name in ("straight", "changing"))
    for one, other in zip(straight, changing, strict=True):
        assert other["loss"] == pytest.approx(one["loss"], rel=2e-4)


def test_a_batch_that_ranks_do_not_divide_is_refused(tmp_path, digits, tiny, monkeypatch):
    monkeypatch.setattr(Ranks, "current", classmethod(lambda cls: cls(0, 3)))
    with pytest.raises(ConfigError, match="batch_size: got 8, want a multiple of 3 ranks"):
        Trainer(tiny(), digits)


def test_an_error_of_the_first_rank_ends_all_with_its_message(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "something").write_text("else")
    done = train(tmp_path / "run", "ddpm", 2, *STEPS)
    assert done.returncode != 0
    assert "is there already and is not the folder of a run" in done.stderr
