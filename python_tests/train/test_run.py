import os

import pytest

from dgmkern.train import CheckpointError, RunFolder, losses_of, read_log, require_writable
from dgmkern.train.log import JSONLLog
from dgmkern.train.run import open_checkpoint


def test_a_run_is_not_overwritten_unless_asked_and_then_only_its_own_files(tmp_path, tiny):
    run = RunFolder(tmp_path / "a" / "run")
    run.create(tiny())
    run.log.write_text('{"step": 1}\n')
    (run.path / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="holds a run already"):
        run.create(tiny())
    assert run.log.exists()
    run.create(tiny(lr=0.5), overwrite=True)
    assert not run.log.exists()
    assert (run.path / "notes.txt").read_text() == "mine"
    assert '"lr": 0.5' in run.config.read_text()


def test_what_a_kill_left_before_the_first_checkpoint_is_no_run(tmp_path, tiny):
    run = RunFolder(tmp_path / "run")
    run.path.mkdir()
    (run.path / ".config.123.tmp.json").write_text("{")  # killed while it wrote the config
    run.create(tiny())
    assert sorted(os.listdir(run.path)) == ["checkpoints", "config.json"]
    (run.checkpoints / ".step-00000000.123.tmp.safetensors").write_bytes(b"half")  # or the first checkpoint
    run.create(tiny(lr=0.5))
    assert os.listdir(run.checkpoints) == []
    assert '"lr": 0.5' in run.config.read_text()
    (run.checkpoints / "step-00000000.safetensors").write_bytes(b"whole")
    with pytest.raises(FileExistsError, match="holds a run already"):
        run.create(tiny())


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_folder_that_is_not_a_run_is_never_touched(tmp_path, tiny, overwrite):
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(FileExistsError, match="is not the folder of a run"):
        RunFolder(tmp_path).create(tiny(), overwrite=overwrite)
    assert os.listdir(tmp_path) == ["thesis.tex"]
    with pytest.raises(FileExistsError, match="is not the folder of a run"):
        RunFolder(tmp_path / "thesis.tex").create(tiny(), overwrite=overwrite)


def test_an_unwritable_folder_is_refused_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may write anywhere
    with pytest.raises(PermissionError, match="cannot write here"):
        require_writable(tmp_path)


def test_a_missing_run_is_named(tmp_path):
    with pytest.raises(CheckpointError, match="nowhere: no such"):
        open_checkpoint(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match="no checkpoint here"):
        open_checkpoint(tmp_path)


def test_a_reopened_log_drops_what_lies_beyond_the_checkpoint_and_a_torn_line(tmp_path):
    path = tmp_path / "log.jsonl"
    with JSONLLog(path, step=0) as log:
        for step in range(1, 8):
            log.write({"step": step, "loss": 0.5})
    with path.open("a") as file:
        file.write('{"step": 8, "lo')
    assert [record["step"] for record in read_log(path)] == list(range(1, 8))
    with JSONLLog(path, step=5) as log:
        log.write({"step": 6, "loss": 0.25})
    assert [(r["step"], r["loss"]) for r in read_log(path)][-2:] == [(5, 0.5), (6, 0.25)]


def test_the_losses_of_a_log_are_found_by_name():
    records = [{"step": k, "loss": 1.0 / k, "critic_loss": -k, "critic_grad_norm": 1.0, "lossy": 0.0} for k in (1, 2)]
    assert losses_of(records) == {"loss": [1.0, 0.5], "critic_loss": [-1, -2]}
