"""A run on a folder of pictures: begun, resumed, sampled from and evaluated by the command."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from dgmkern.cli import main
from dgmkern.data import load
from dgmkern.train import RunFolder, load_checkpoint
from dgmkern.train.checkpoint import checkpoint_paths

pytestmark = pytest.mark.usefixtures("one_thread")

DDPM = ("--model.channels", "8", "--model.head-dim", "16", "--model.timesteps", "10", "--model.classes", "3")
VAE = ("--model.network", "mlp", "--model.encoder", "8", "--model.decoder", "8", "--model.latent", "2")
SETTINGS = ("--image-size", "10", "--steps", "3", "--batch-size", "8", "--warmup", "1")


@pytest.fixture
def folder(tmp_path):
    """Digits 0, 1 and 2, a folder each, larger than they are asked for and not square; one is in RGB."""
    digits = load("digits")
    for i in range(120):
        image = Image.fromarray(digits.images[i, 0].numpy()).resize((14, 12 + i % 4))
        path = tmp_path / "pictures" / str(int(digits.labels[i]) % 3) / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        (image.convert("RGB") if i == 7 else image).save(path)
    return tmp_path / "pictures"


def fails(capfd, *argv) -> str:
    assert main(list(map(str, argv))) == 2
    lines = [line for line in capfd.readouterr().err.splitlines() if line]
    errors = [line for line in lines if line.startswith("dgmkern: error: ")]
    assert errors == lines[-1:]
    assert not any("Traceback" in line for line in lines)
    return errors[0]


def test_a_run_on_a_folder_trains_resumes_and_samples(folder, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)  # a relative path is remembered as an absolute one
    assert main(["train", "ddpm", "--data", "pictures", *DDPM, *SETTINGS]) == 0
    printed = capfd.readouterr().err
    run = RunFolder(tmp_path / "runs" / "ddpm-pictures")
    config = run.latest().config
    assert (config.data, config.image_shape) == (str(folder), (3, 10, 10))
    assert config.fingerprint.startswith("120 pictures")
    held_out = 120 - int(printed.split(" pictures of 3 classes")[0].split()[-1])
    assert 2 <= held_out <= 30
    monkeypatch.chdir(folder)
    assert main(["train", "ddpm", "--out", str(run.path), "--resume", "--steps", "5"]) == 0
    assert [load_checkpoint(path).step for path in checkpoint_paths(run.checkpoints)] == [0, 3, 5]
    shutil.rmtree(folder / "0")  # samples need no pictures
    grid = tmp_path / "grid.png"
    assert main(["sample", str(run.path), "--n", "4", "--label", "2", "--guidance", "2", "--out", str(grid)]) == 0
    assert np.asarray(Image.open(grid)).shape == (2 * 42 + 2, 2 * 42 + 2, 3)


def test_a_run_does_not_write_among_the_pictures_it_learns_from(folder, monkeypatch, capfd):
    monkeypatch.chdir(folder)
    for out in ((), ("--out", str(folder / "0" / "run"))):
        assert "--out: got" in fails(capfd, "train", "vae", "--data", ".", *out, *VAE, *SETTINGS)
    assert not (folder / "runs").exists()
    assert not (folder / "0" / "run").exists()


def test_a_moved_folder_with_the_name_of_a_data_set_is_no_data_set(folder, tmp_path, monkeypatch, capfd):
    out = tmp_path / "run"
    assert main(["train", "vae", "--data", str(folder), "--out", str(out), *VAE, *SETTINGS]) == 0
    folder.rename(tmp_path / "digits")
    monkeypatch.chdir(tmp_path)
    capfd.readouterr()
    assert main(["evaluate", str(out), "--data", "digits", "--importance-samples", "1", "--json"]) == 0
    record = json.loads(capfd.readouterr().out)
    assert record["data"] == f"{tmp_path / 'digits'}:test"
    assert record["features"] == "pixels"


def test_a_run_on_a_folder_is_evaluated_on_what_was_held_out(folder, tmp_path, capfd):
    out = tmp_path / "run"
    assert main(["train", "vae", "--data", str(folder), "--out", str(out), *VAE, *SETTINGS]) == 0
    argv = ["evaluate", str(out), "--importance-samples", "2", "--json"]
    capfd.readouterr()
    records = {}
    for split in ("train", "test"):
        assert main([*argv, "--split", split]) == 0
        records[split] = json.loads(capfd.readouterr().out)
    assert records["test"]["data"] == f"{folder}:test"
    assert records["test"]["features"] == "pixels"
    assert records["train"]["images"] + records["test"]["images"] == 120
    moved = folder.rename(tmp_path / "moved")
    assert f"{folder}: no such folder" in fails(capfd, *argv)
    assert main([*argv, "--data", str(moved)]) == 0
    assert json.loads(capfd.readouterr().out)["nll"] == records["test"]["nll"]
    next(moved.rglob("*.png")).unlink()
    assert f"{moved}: has changed since it was read before: 119 pictures" in fails(capfd, *argv, "--data", moved)


def test_a_folder_that_moved_can_be_resumed_and_one_that_changed_cannot(folder, tmp_path, capfd):
    out = tmp_path / "run"
    start, again = ["train", "vae", "--out", str(out)], ["train", "vae", "--out", str(out), "--resume", "--steps", "4"]
    assert main([*start, "--data", str(folder), *VAE, *SETTINGS]) == 0
    moved = folder.rename(tmp_path / "moved")
    assert f"{folder}: no such folder" in fails(capfd, *again)
    assert "--image-size: got 9, but the run to resume has 10" in fails(capfd, *again, "--image-size", "9")
    assert f"--data: got digits, but the run to resume is on {folder}" in fails(capfd, *again, "--data", "digits")
    assert main([*again, "--data", str(moved)]) == 0
    assert RunFolder(out).latest().config.data == str(moved)
    (moved / "0" / "new.png").write_bytes(b"not read before this is noticed")
    assert "has changed since it was read before: 121 pictures" in fails(capfd, *again)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--data", "{folder}"], "--image-size: want the height and width for the pictures of {folder}"),
        (["--data", "{folder}", "--image-size", "0"], "size: expected at least 1, got 0"),
        (["--data", "{folder}/none", "--image-size", "8"], "--data: got {folder}/none, want one of digits, mnist"),
        (["--image-size", "8"], "--image-size: is for folders of pictures, got it for digits"),
        (["--data", "{folder}/../broken", "--image-size", "8"], "broken.png: not a whole picture"),
        (
            ["--data", "{folder}", "--image-size", "8", "--model.classes", "2"],
            "classes: got 2, but {folder} has labels up to 2",
        ),
    ],
)
def test_what_does_not_go_is_one_line(folder, tmp_path, capfd, argv, message):
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "broken.png").write_bytes(b"no picture")
    argv = [part.format(folder=folder) for part in argv]
    assert message.format(folder=folder) in fails(capfd, "train", "ddpm", "--out", tmp_path / "run", *DDPM[:-2], *argv)


def test_a_run_on_a_data_set_takes_no_folder(folder, tmp_path, capfd):
    out = tmp_path / "run"
    assert main(["train", "vae", "--out", str(out), *VAE, "--steps", "1", "--batch-size", "8"]) == 0
    message = f"data: got {folder}, but the run is on digits, which is no folder of pictures"
    assert message in fails(capfd, "evaluate", out, "--data", folder)
