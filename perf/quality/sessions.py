"""Long trainings in several sessions, of which each says what it took."""

import json
import sys
import time

from dgmkern.train import RunFolder, Trainer
from dgmkern.train.atomic import write_text_atomically


def train(trainer: Trainer, run: RunFolder) -> list[dict]:
    """Train in `run` to the end, or go on there; first step, steps and CPU seconds of each session, also in a file.

    Exits with the signal that stops it. A session that was killed is not among them: their steps do not add up then.
    """
    path = run.path / "sessions.json"
    sessions = json.loads(path.read_text()) if path.exists() else []
    if run.config.is_file():
        trainer.restore(run.latest())
    else:
        run.create(trainer.config)
    if trainer.step == trainer.config.train.steps:
        return sessions
    first, cpu = trainer.step, time.process_time()
    stopped = trainer.fit(run)
    seconds = round(time.process_time() - cpu, 1)
    sessions.append({"first_step": first, "steps": trainer.step - first, "cpu_seconds": seconds})
    write_text_atomically(path, json.dumps(sessions) + "\n")
    if stopped is not None:
        sys.exit(128 + stopped)
    return sessions


def cpu_seconds(sessions: list[dict]) -> float:
    """Of all sessions together."""
    return round(sum(session["cpu_seconds"] for session in sessions), 1)
