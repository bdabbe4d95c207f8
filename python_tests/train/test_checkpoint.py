import dataclasses
import json
import os

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from dgmkern.train import Checkpoint, CheckpointError, latest_checkpoint, load_checkpoint, save_checkpoint
from dgmkern.train.checkpoint import tensors_digest


@pytest.fixture
def checkpoint(tiny):
    tensors = {
        "model.w": torch.randn(3, 4, 2, 2).to(memory_format=torch.channels_last),
        "ema.w": torch.randn(3, dtype=torch.bfloat16),
        "optimizer.w.step": torch.tensor(7.0),
        "model.empty": torch.empty(0, 3),
    }
    return Checkpoint(tiny(), 7, tensors)


def damage(path, offset):
    raw = bytearray(path.read_bytes())
    raw[offset] ^= 1
    path.write_bytes(raw)


def test_a_checkpoint_survives_the_disk_bit_for_bit(tmp_path, checkpoint):
    loaded = load_checkpoint(save_checkpoint(tmp_path, checkpoint, keep_last=1))
    assert (loaded.config, loaded.step) == (checkpoint.config, 7)
    assert loaded.tensors.keys() == checkpoint.tensors.keys()
    for name, tensor in checkpoint.tensors.items():
        assert torch.equal(loaded.tensors[name], tensor)
        assert loaded.tensors[name].dtype == tensor.dtype
    assert list(loaded.part("ema")) == ["w"]


def test_it_is_plain_safetensors_with_json_metadata(tmp_path, checkpoint):
    path = save_checkpoint(tmp_path, checkpoint, keep_last=1)
    with safe_open(path, framework="np") as file:
        metadata = file.metadata()
    assert metadata["format"] == "2"
    assert metadata["step"] == "7"
    assert json.loads(metadata["config"])["model"] == "ddpm"


def test_only_the_last_ones_are_kept_and_leftovers_of_a_kill_are_cleared(tmp_path, checkpoint):
    (tmp_path / ".step-00000003.99.tmp.safetensors").write_bytes(b"half")
    for step in (5, 10, 15, 20):
        save_checkpoint(tmp_path, dataclasses.replace(checkpoint, step=step), keep_last=2)
    assert sorted(os.listdir(tmp_path)) == ["step-00000015.safetensors", "step-00000020.safetensors"]


@pytest.mark.parametrize("keep_last", [1, 2])
def test_a_run_that_went_back_behind_a_damaged_checkpoint_keeps_the_new_ones(tmp_path, checkpoint, keep_last):
    for step in (50, 100):
        save_checkpoint(tmp_path, dataclasses.replace(checkpoint, step=step), keep_last=2)
    damage(tmp_path / "step-00000100.safetensors", -1)
    for step in (60, 70):
        path = save_checkpoint(tmp_path, dataclasses.replace(checkpoint, step=step), keep_last=keep_last)
        assert load_checkpoint(path).step == step
    kept = [f"step-000000{step}.safetensors" for step in (60, 70)][-keep_last:]
    assert sorted(os.listdir(tmp_path)) == kept


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, checkpoint, monkeypatch):
    save_checkpoint(tmp_path, checkpoint, keep_last=3)

    def full_disk(tensors, path, metadata):
        path.write_bytes(b"half a checkp")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("dgmkern.train.checkpoint.save_file", full_disk)
    with pytest.raises(OSError, match="No space left"):
        save_checkpoint(tmp_path, dataclasses.replace(checkpoint, step=8), keep_last=3)
    assert os.listdir(tmp_path) == ["step-00000007.safetensors"]
    assert latest_checkpoint(tmp_path).step == 7


def test_checkpoints_of_format_1_are_read(tmp_path, checkpoint):
    tensors = {name: tensor.contiguous() for name, tensor in checkpoint.tensors.items()}
    metadata = {"format": "1", "config": checkpoint.config.to_json(), "step": "7", "sha256": tensors_digest(tensors)}
    path = tmp_path / "step-00000007.safetensors"
    save_file(tensors, path, metadata=metadata)
    assert load_checkpoint(path).step == 7
    damage(path, -1)
    with pytest.raises(CheckpointError, match="damaged checkpoint"):
        load_checkpoint(path)


@pytest.mark.parametrize(
    "how", ["last byte flipped", "cut short", "empty", "header broken", "another step", "another config"]
)
def test_a_damaged_newest_checkpoint_falls_back_to_the_one_before_and_says_so(tmp_path, checkpoint, how):
    save_checkpoint(tmp_path, checkpoint, keep_last=3)
    newest = save_checkpoint(tmp_path, dataclasses.replace(checkpoint, step=8), keep_last=3)
    if how == "last byte flipped":
        damage(newest, -1)
    elif how == "header broken":
        damage(newest, 9)
    elif how.startswith("another"):
        raw = newest.read_bytes()
        right, wrong = (b'"8"', b'"9"') if how == "another step" else (b'seed\\": 0', b'seed\\": 1')
        assert raw.count(right) == 1
        newest.write_bytes(raw.replace(right, wrong))
    else:
        newest.write_bytes(newest.read_bytes()[: -100 if how == "cut short" else 0])
    with pytest.raises(CheckpointError, match="damaged checkpoint"):
        load_checkpoint(newest)
    with pytest.warns(UserWarning, match=r"step-00000008.*damaged.*falling back to step-00000007"):
        assert latest_checkpoint(tmp_path).step == 7


def test_if_all_are_damaged_the_newest_is_blamed(tmp_path, checkpoint):
    for step in (7, 8):
        damage(save_checkpoint(tmp_path, dataclasses.replace(checkpoint, step=step), keep_last=3), -1)
    with pytest.raises(CheckpointError, match=r"step-00000008.*damaged"):
        latest_checkpoint(tmp_path)


def test_missing_and_foreign_files_are_told_apart(tmp_path, checkpoint):
    with pytest.raises(CheckpointError, match="no such checkpoint"):
        load_checkpoint(tmp_path / "nope.safetensors")
    with pytest.raises(CheckpointError, match="no checkpoint here"):
        latest_checkpoint(tmp_path)
    save_file({"w": torch.zeros(2)}, tmp_path / "other.safetensors")
    with pytest.raises(CheckpointError, match="not a dgmkern checkpoint"):
        load_checkpoint(tmp_path / "other.safetensors")
    save_file({"w": torch.zeros(2)}, tmp_path / "newer.safetensors", metadata={"format": "3", "config": "{}"})
    with pytest.raises(CheckpointError, match="checkpoint format 3, this version reads 1 and 2"):
        load_checkpoint(tmp_path / "newer.safetensors")


def test_a_config_of_an_unknown_model_is_named(tmp_path, checkpoint, monkeypatch):
    text = checkpoint.config.to_json().replace('"ddpm"', '"vae9"')
    monkeypatch.setattr(type(checkpoint.config), "to_json", lambda self: text)
    path = save_checkpoint(tmp_path, checkpoint, keep_last=1)
    with pytest.raises(CheckpointError, match=r"another model or version.*unknown model 'vae9'"):
        load_checkpoint(path)
