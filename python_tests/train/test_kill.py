"""Runs of the real command in processes of their own, stopped by real signals."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from dgmkern.cli import main
from dgmkern.train import load_checkpoint
from dgmkern.train.checkpoint import checkpoint_paths

STEPS = 150
SETTINGS = [
    *("--model.channels", "8", "--model.head-dim", "16", "--model.timesteps", "10"),
    *("--steps", str(STEPS), "--batch-size", "8", "--warmup", "5", "--checkpoint-every", "10", "--keep-last", "2"),
]


def start(out: Path, *more: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "dgmkern", "train", "ddpm", "--out", str(out), *more]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)


def wait_for_step(process: subprocess.Popen, out: Path, step: int) -> None:
    deadline = time.monotonic() + 60
    log = out / "log.jsonl"
    while not log.exists() or log.read_bytes().count(b"\n") < step:
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.002)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    out = tmp_path_factory.mktemp("uninterrupted") / "run"
    assert main(["train", "ddpm", "--out", str(out), *SETTINGS]) == 0
    torch.set_num_threads(threads)
    return out


def assert_same_bits(out: Path, other: Path) -> None:
    a, b = (load_checkpoint(checkpoint_paths(run / "checkpoints")[-1]) for run in (out, other))
    assert a.step == b.step == STEPS
    assert a.tensors.keys() == b.tensors.keys()
    assert [name for name in a.tensors if not torch.equal(a.tensors[name], b.tensors[name])] == []
    losses = [
        [(record["step"], record["loss"]) for record in map(json.loads, (run / "log.jsonl").read_text().splitlines())]
        for run in (out, other)
    ]
    assert losses[0] == losses[1]
    assert len(losses[0]) == STEPS


def test_ctrl_c_saves_at_once_and_resume_ends_with_the_same_bits(tmp_path, uninterrupted):
    out = tmp_path / "run"
    process = start(out, *SETTINGS)
    wait_for_step(process, out, 23)
    process.send_signal(signal.SIGINT)
    message = process.communicate(timeout=60)[1]
    assert process.returncode == 130, message
    assert f"go on with: dgmkern train ddpm --out {out} --resume" in message
    assert "Traceback" not in message
    stopped = checkpoint_paths(out / "checkpoints")[-1]
    assert 23 <= load_checkpoint(stopped).step < STEPS
    assert load_checkpoint(stopped).step == (out / "log.jsonl").read_bytes().count(b"\n")

    assert main(["train", "ddpm", "--out", str(out), "--resume"]) == 0
    assert_same_bits(out, uninterrupted)


KILLED = """
import os, signal, sys
from dgmkern.cli import main
from dgmkern.train import atomic, checkpoint

moment, writes = sys.argv[1], int(sys.argv[2])
save_file, replace = checkpoint.save_file, os.replace

def kill_if_now(here):
    if here == moment and writes <= 0:
        os.kill(os.getpid(), signal.SIGKILL)

def save(tensors, path, metadata):
    global writes
    writes -= 1
    save_file(tensors, path, metadata=metadata)
    if moment == "half written" and writes <= 0:
        os.truncate(path, os.path.getsize(path) // 2)
    kill_if_now("half written")

def rename(source, target):
    kill_if_now("before the rename")
    replace(source, target)
    kill_if_now("after the rename")

checkpoint.save_file, atomic.os.replace = save, rename
sys.exit(main(sys.argv[3:]))
"""


@pytest.mark.parametrize("first", [True, False], ids=["first checkpoint", "later"])
@pytest.mark.parametrize("moment", ["half written", "before the rename", "after the rename"])
def test_kill_9_while_a_checkpoint_is_written(tmp_path, uninterrupted, moment, first):
    """Of all moments the worst: the file is half there, or not yet the newest, or the older ones are still there."""
    out = tmp_path / "run"
    argv = ["train", "ddpm", "--out", str(out), *SETTINGS]
    command = [sys.executable, "-c", KILLED, moment, "1" if first else "7", *argv]
    killed = subprocess.run(command, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    whole = moment == "after the rename"
    assert len([*(out / "checkpoints").glob(".*.tmp.*")]) == (0 if whole else 1)
    paths = checkpoint_paths(out / "checkpoints")
    newest = (0 if whole else None) if first else (60 if whole else 50)
    assert (load_checkpoint(paths[-1]).step if paths else None) == newest
    assert main(argv if newest is None else ["train", "ddpm", "--out", str(out), "--resume"]) == 0
    assert not [*(out / "checkpoints").glob(".*.tmp.*")]
    assert_same_bits(out, uninterrupted)


def test_kill_9_loses_at_most_the_steps_since_the_last_checkpoint(tmp_path, uninterrupted, capfd):
    out = tmp_path / "run"
    for attempt, step in enumerate((34, 78)):
        process = start(out, *(["--resume"] if attempt else SETTINGS))
        wait_for_step(process, out, step)
        process.kill()
        process.communicate(timeout=60)
        assert process.returncode == -signal.SIGKILL
        newest = load_checkpoint(checkpoint_paths(out / "checkpoints")[-1]).step
        assert newest >= step - 10
    before, path = checkpoint_paths(out / "checkpoints")  # the newest is damaged as well: the one before must do
    path.write_bytes(path.read_bytes()[:-1000])

    assert main(["train", "ddpm", "--out", str(out), "--resume"]) == 0
    message = capfd.readouterr().err
    assert f"dgmkern: warning: {path}: damaged checkpoint" in message
    assert f"falling back to {before.name}" in message
    assert_same_bits(out, uninterrupted)
