"""What TensorBoard finds in the folder of a run."""

import io
import struct
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tensorboardX.proto.event_pb2 import Event, SessionLog

from dgmkern.cli import main
from dgmkern.train import ConfigError, RunFolder, Trainer, read_log, tensorboard
from dgmkern.train.tensorboard import TensorBoardLog


def events(folder: Path) -> list[Event]:
    """The events of a folder as TensorBoard takes them: files in the order of their names, each a file of records of
    length (8 bytes), checksum (4), Event, checksum (4); a START hides what is of its step or later before it."""
    found = []
    for path in sorted(folder.glob("*tfevents*")):
        data, at, first = path.read_bytes(), 0, True
        while at < len(data):
            (length,) = struct.unpack_from("<Q", data, at)
            event = Event.FromString(data[at + 12 : at + 12 + length])
            at += 12 + length + 4
            assert event.file_version == ("brain.Event:2" if first else "")
            first = False
            if event.HasField("session_log") and event.session_log.status == SessionLog.START:
                found = [old for old in found if old.step < event.step]
            found.append(event)
        assert at == len(data)
    return found


def values(folder: Path, name: str) -> list[tuple[int, object]]:
    return [(event.step, v) for event in events(folder) for v in event.summary.value if v.tag == name]


def scalars(folder: Path, name: str) -> list[tuple[int, float]]:
    return [(step, value.simple_value) for step, value in values(folder, name)]


def test_every_figure_of_the_log_and_every_grid_is_there(tmp_path, digits, tiny_gan):
    run, trainer = RunFolder(tmp_path / "run"), Trainer(tiny_gan(tensorboard=True, sample_every=5), digits)
    run.create(trainer.config)
    trainer.fit(run, progress=False)
    records = read_log(run.log)
    assert len(records) == 12
    names = set(records[0]) - {"step"}
    assert {v.tag for event in events(run.tensorboard) for v in event.summary.value} == {*names, "samples"}
    for name in names:
        want = [(record["step"], np.float32(record[name])) for record in records]
        assert scalars(run.tensorboard, name) == want
    pictures = values(run.tensorboard, "samples")
    assert [step for step, _ in pictures] == [5, 10]
    for step, value in pictures:
        shown, drawn = Image.open(io.BytesIO(value.image.encoded_image_string)), Image.open(run.samples_at(step))
        assert np.array_equal(np.asarray(shown), np.asarray(drawn))
        assert (value.image.width, value.image.height, value.image.colorspace) == (*drawn.size, 1)


def test_a_resumed_run_continues_the_curves(tmp_path, digits, tiny):
    config = tiny(tensorboard=True)
    run = RunFolder(tmp_path / "run")
    run.create(config)
    killed = Trainer(config, digits)
    sound = killed.train_step

    def train_step():
        if killed.step == 6:
            raise MemoryError
        return sound()

    killed.train_step = train_step
    with pytest.raises(MemoryError):
        killed.fit(run, progress=False)
    assert [step for step, _ in scalars(run.tensorboard, "loss")] == list(range(1, 7))
    resumed = Trainer(config, digits)
    resumed.restore(run.latest())
    assert resumed.step == 4
    resumed.fit(run, progress=False)
    assert len(list(run.tensorboard.iterdir())) == 2  # though the second began within a second of the first
    losses = [(record["step"], np.float32(record["loss"])) for record in read_log(run.log)]
    assert scalars(run.tensorboard, "loss") == losses
    assert [step for step, _ in losses] == list(range(1, 13))


def test_a_checkpoint_finds_all_that_led_to_it_on_the_disk(tmp_path, digits, tiny):
    run, trainer, seen = RunFolder(tmp_path / "run"), Trainer(tiny(tensorboard=True), digits), []
    run.create(trainer.config)
    sound = trainer.save

    def save(run):
        seen.append((trainer.step, len(scalars(run.tensorboard, "lr"))))
        sound(run)

    trainer.save = save
    trainer.fit(run, progress=False)
    assert seen == [(0, 0), (4, 4), (8, 8), (12, 12)]


def test_there_is_none_unless_asked_for_and_overwriting_a_run_deletes_its_own(tmp_path, digits, tiny):
    run = RunFolder(tmp_path / "run")
    for wanted in (True, False):
        trainer = Trainer(tiny(steps=2, tensorboard=wanted), digits)
        run.create(trainer.config, overwrite=True)
        assert not any(run.tensorboard.glob("events*"))
        trainer.fit(run, progress=False)
        assert any(run.tensorboard.glob("events*")) == wanted
        if wanted:
            (run.tensorboard / "notes.txt").write_text("mine")
    assert [path.name for path in run.tensorboard.iterdir()] == ["notes.txt"]


def test_it_may_be_turned_on_and_off_when_a_run_is_resumed(tmp_path):
    out = tmp_path / "run"
    settings = ("--model.encoder", "8", "--model.decoder", "8", "--batch-size", "8", "--warmup", "1")
    for more in (settings, ("--resume", "--tensorboard"), ("--resume",), ("--resume", "--no-tensorboard")):
        steps = str(RunFolder(out).latest().step + 2 if out.exists() else 2)
        assert main(["train", "vae", "--out", str(out), "--steps", steps, *more]) == 0
    assert [step for step, _ in scalars(out / "tensorboard", "loss")] == [3, 4, 5, 6]


def test_without_the_package_it_is_one_line_before_any_work(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(tensorboard, "find_spec", lambda name: None if name == "tensorboardX" else sys.modules[name])
    out = tmp_path / "run"
    assert main(["train", "vae", "--out", str(out), "--tensorboard"]) == 2
    lines = capfd.readouterr().err.splitlines()
    assert lines == [
        "dgmkern: error: tensorboard: needs the package tensorboardX, which is not here; pip install tensorboardX"
    ]
    assert not out.exists()
    with pytest.raises(ConfigError, match="needs the package tensorboardX"):
        TensorBoardLog(tmp_path, step=0)
