import itertools
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import get_args, get_type_hints

import numpy as np
import pytest
import torch
from PIL import Image

from dgmkern import data, models
from dgmkern.cli import doctor, main, train
from dgmkern.models.ddpm import DDPM
from dgmkern.train import RunFolder, Trainer, load_checkpoint
from dgmkern.train.checkpoint import checkpoint_paths

TINY = [
    *("--model.channels", "8", "--model.head-dim", "16", "--model.timesteps", "10"),
    *("--steps", "6", "--batch-size", "8", "--warmup", "2", "--checkpoint-every", "4"),
]


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("cli") / "run"
    assert main(["train", "ddpm", "--out", str(out), *TINY]) == 0
    return RunFolder(out)


def fails_with_one_line(capfd, *argv: str) -> str:
    assert main(list(argv)) == 2
    lines = [line for line in capfd.readouterr().err.splitlines() if line]
    errors = [line for line in lines if line.startswith("dgmkern: error: ")]
    assert len(errors) == 1
    assert not any("Traceback" in line for line in lines)
    assert lines[-1] == errors[0]
    return errors[0]


def test_training_leaves_checkpoints_log_and_both_pictures(run):
    assert [load_checkpoint(path).step for path in checkpoint_paths(run.checkpoints)] == [0, 4, 6]
    assert run.log.read_text().count("\n") == 6
    assert Image.open(run.samples).size == (10 * 50 + 2, 10 * 50 + 2)
    assert Image.open(run.loss_curve).size[0] > 600


TINY_OF = {
    "vae": ("--model.encoder", "8", "--model.decoder", "8", "--model.latent", "2"),
    "gan": ("--model.channels", "4", "--model.latent", "4", "--model.discriminator-steps", "2"),
}


@pytest.mark.parametrize("model", TINY_OF)
def test_every_model_trains_resumes_and_samples(model, tmp_path):
    out, grid = tmp_path / "run", tmp_path / "grid.png"
    steps = ("--steps", "3", "--batch-size", "8", "--warmup", "1", "--checkpoint-every", "2")
    assert main(["train", model, "--out", str(out), *TINY_OF[model], *steps]) == 0
    assert main(["train", model, "--out", str(out), "--resume", "--steps", "5"]) == 0
    assert [load_checkpoint(path).step for path in checkpoint_paths(out / "checkpoints")] == [2, 3, 4, 5][-3:]
    assert main(["sample", str(out), "--n", "4", "--out", str(grid)]) == 0
    assert Image.open(grid).size == (2 * 50 + 2, 2 * 50 + 2)


def test_settings_of_a_resumed_run_outlive_a_crash_before_its_next_checkpoint(tmp_path, monkeypatch):
    out = tmp_path / "run"
    assert main(["train", "ddpm", "--out", str(out), *TINY]) == 0
    plain = Trainer.train_step

    def crash(trainer):
        if trainer.step == 8:
            raise MemoryError
        return plain(trainer)

    monkeypatch.setattr(Trainer, "train_step", crash)
    with pytest.raises(MemoryError):
        main(["train", "ddpm", "--out", str(out), "--resume", "--steps", "20", "--checkpoint-every", "10"])
    monkeypatch.undo()
    assert RunFolder(out).latest().config.train.steps == 20
    assert main(["train", "ddpm", "--out", str(out), "--resume"]) == 0
    assert RunFolder(out).latest().step == 20


def test_a_folder_with_spaces_is_quoted_where_a_command_is_shown(tmp_path, monkeypatch, capfd):
    out = tmp_path / "my  run"
    monkeypatch.setattr(DDPM, "loss", lambda self, x, **how: self.unet.head.weight.sum() * math.nan)
    message = fails_with_one_line(capfd, "train", "ddpm", "--out", str(out), *TINY)
    assert f"reproduce it with: dgmkern train ddpm --out '{out}' --resume" in message


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["train", "ddpm", "--out"], "--out: expected one argument"),
        (["train", "ddpm", "--resume=yes"], "--resume: ignored explicit argument 'yes'"),
        (["train", "ddpm", "--model.classes", "9", *TINY], "classes: got 9, but digits has labels up to 9"),
    ],
)
def test_what_does_not_parse_or_fit_leaves_no_folder(argv, message, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    assert message in fails_with_one_line(capfd, *argv)
    assert list(tmp_path.iterdir()) == []


def test_bad_counts_of_images_are_named(run, tmp_path, capfd):
    out = tmp_path / "grid.png"
    for wrong in (("--n", "0"), ("--n", "-1", "--label", "2"), ("--batch-size", "0")):
        message = fails_with_one_line(capfd, "sample", str(run.path), "--out", str(out), *wrong)
        assert "--n, --batch-size: got" in message


def test_samplers_of_a_diffusion_model_and_of_no_other(run, tmp_path, capfd):
    pictures = []
    for options in ((), ("--sampler", "ddim", "--steps", "3"), ("--sampler", "dpm-solver", "--steps", "3")):
        out = tmp_path / "grid.png"
        assert main(["sample", str(run.path), "--n", "4", "--out", str(out), *options]) == 0
        pictures.append(np.asarray(Image.open(out)))
    assert not any((a == b).all() for a, b in itertools.pairwise(pictures))
    assert "label" in fails_with_one_line(capfd, "sample", str(run.path), "--label", "3", "--out", str(out))
    other = tmp_path / "vae"
    assert main(["train", "vae", "--out", str(other), *TINY_OF["vae"], "--steps", "1", "--batch-size", "8"]) == 0
    argv = ("sample", str(other), "--steps", "3", "--out", str(out))
    assert "--steps: is for diffusion models" in fails_with_one_line(capfd, *argv)


def test_sample_draws_the_same_images_from_folder_and_file(run, tmp_path):
    pictures = []
    for checkpoint in (run.path, checkpoint_paths(run.checkpoints)[-1]):
        out = tmp_path / "grid.png"
        assert main(["sample", str(checkpoint), "--n", "9", "--out", str(out), "--seed", "3"]) == 0
        pictures.append(np.asarray(Image.open(out)))
    assert pictures[0].shape == (3 * 50 + 2, 3 * 50 + 2)
    assert np.array_equal(*pictures)
    assert main(["sample", str(run.path), "--n", "9", "--out", str(out), "--seed", "4"]) == 0
    assert not np.array_equal(np.asarray(Image.open(out)), pictures[0])


def test_a_finished_run_can_be_made_longer(run, capfd):
    assert main(["train", "ddpm", "--out", str(run.path), "--resume", "--steps", "8"]) == 0
    assert run.latest().step == 8
    assert '"steps": 8' in run.config.read_text()


def test_an_existing_run_is_not_overwritten(run, capfd):
    before = run.log.read_bytes()
    assert "--resume" in fails_with_one_line(capfd, "train", "ddpm", "--out", str(run.path), *TINY)
    assert run.log.read_bytes() == before


def test_another_network_on_resume_is_refused(run, capfd):
    argv = ("train", "ddpm", "--out", str(run.path), "--resume", "--model.blocks", "2")
    assert "model_config.blocks: got 2, but the run to resume has 1" in fails_with_one_line(capfd, *argv)


def test_another_data_set_on_resume_is_refused(run, capfd):
    argv = ("train", "ddpm", "--out", str(run.path), "--resume", "--data", "mnist")
    assert "--data: got mnist, but the run to resume is on digits" in fails_with_one_line(capfd, *argv)


def test_resume_without_a_run_is_refused(tmp_path, capfd):
    assert "no such run" in fails_with_one_line(capfd, "train", "ddpm", "--out", str(tmp_path / "x"), "--resume")


def test_a_missing_or_damaged_checkpoint_is_named(tmp_path, capfd):
    assert "no such checkpoint" in fails_with_one_line(capfd, "sample", str(tmp_path / "x.safetensors"))
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(b"not a checkpoint at all")
    assert f"{broken}: damaged checkpoint" in fails_with_one_line(capfd, "sample", str(broken))


def test_an_impossible_output_is_refused_before_any_work(run, tmp_path, capfd):
    out = tmp_path / "missing" / "grid.png"
    for bad in (out, tmp_path):
        assert f"--out: got {bad}" in fails_with_one_line(capfd, "sample", str(run.path), "--out", str(bad))
    (tmp_path / "file").write_text("")
    argv = ("train", "ddpm", "--out", str(tmp_path / "file" / "run"), *TINY)
    assert "Not a directory" in fails_with_one_line(capfd, *argv)


def test_a_corrupt_data_file_is_named(tmp_path, capfd, monkeypatch):
    (tmp_path / "mnist").mkdir()
    (tmp_path / "mnist" / "train-images-idx3-ubyte.gz").write_bytes(b"cut short")
    monkeypatch.setenv("DGMKERN_DATA", str(tmp_path))
    out = tmp_path / "run"
    message = fails_with_one_line(capfd, "train", "ddpm", "--data", "mnist", "--out", str(out))
    assert "train-images-idx3-ubyte.gz: wrong checksum" in message
    assert not out.exists()


def test_a_diverging_run_stops_with_a_command_that_reproduces_it(tmp_path, capfd):
    out = tmp_path / "run"
    message = fails_with_one_line(capfd, "train", "ddpm", "--out", str(out), *TINY, "--lr", "1e30", "--seed", "7")
    command = message.partition("reproduce it with: ")[2]
    assert command == f"dgmkern train ddpm --out {out} --resume"
    assert "batch seed" in message
    assert fails_with_one_line(capfd, *command.split()[1:]) == message
    assert all(tensor.isfinite().all() for tensor in RunFolder(out).latest().tensors.values())


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["train", "ddpm", "--model.schedule", "quadratic"], "Expected one of ('linear', 'cosine', 'sigmoid')"),
        (
            ["train", "ddpm", "--data", "svhn"],
            "--data: got svhn, want one of digits, mnist, fashion-mnist, binarized-mnist, cifar10, cifar10-subset, or",
        ),
        (["train", "pixelcnn"], "Expected one of ('vae', 'gan', 'ddpm')"),
        (["train", "ddpm", "--stpes", "3"], "--stpes"),
        (["paint"], "paint"),
    ],
)
def test_a_command_line_with_a_typo_is_answered_with_the_choices(capfd, monkeypatch, argv, message):
    monkeypatch.setenv("COLUMNS", "60")
    assert message in fails_with_one_line(capfd, *argv)


def test_a_setting_out_of_range_is_named(tmp_path, capfd):
    assert "lr: got -1.0" in fails_with_one_line(capfd, "train", "ddpm", "--out", str(tmp_path / "r"), "--lr", "-1")
    assert "timesteps" in fails_with_one_line(capfd, "train", "ddpm", *TINY, "--model.timesteps", "0")


def test_doctor_prints_versions_and_every_op_with_its_backends(capfd):
    assert main(["doctor"]) == 0
    text = capfd.readouterr().out
    assert f"torch {torch.__version__}" in text
    for name in ("q_sample", "gaussian_rsample_kl", "normal"):
        line = next(line for line in text.splitlines() if line.startswith(f"{name} "))
        assert line.split()[1] == "yes"  # the reference


def test_the_grid_says_why_a_backend_is_missing_once():
    grid = {
        "a": {"reference": True, "cpp": "no compiler", "cuda": "no nvcc"},
        "b": {"reference": True, "cpp": True, "cuda": "no nvcc"},
    }
    assert doctor._grid(grid).splitlines() == [
        "op  reference        cpp       cuda",
        "a         yes      - [1]      - [2]",
        "b         yes        yes      - [2]",
        "[1] no compiler",
        "[2] no nvcc",
    ]


def test_the_command_line_offers_every_model_and_data_set():
    assert train.MODELS == get_args(get_type_hints(train.Train)["model"]) == tuple(models.MODELS)
    names, path = get_args(get_type_hints(train.TrainOptions)["data"])
    assert get_args(names) == data.NAMES
    assert path is Path


def test_help_loads_nothing_that_it_does_not_need():
    code = (
        "import sys, dgmkern.cli\n"
        "try: dgmkern.cli.main(['--help'])\n"
        "except SystemExit: pass\n"
        "print([m for m in ('matplotlib', 'sklearn', 'PIL', 'safetensors') if m in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=os.environ | {"COLUMNS": "80"}
    )
    assert "doctor" in done.stdout
    assert done.stderr.strip() == "[]"
