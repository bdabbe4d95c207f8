"""The `dgmkern` command: train a model, sample from it, evaluate it, compare images, show what this machine has.

Models, data and plotting are imported by the command that needs them.
"""

import os
import signal
import sys
import warnings
from typing import Annotated, Any

import tyro

from ..memory import keep_freed_memory
from . import doctor, evaluate, fid, sample, train
from .parsing import fail, parse


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns the exit status: 0, 2 after an error of the user's, 130 after Ctrl-C."""
    if argv is None:  # the process is the command's own
        keep_freed_memory()
        argv = sys.argv[1:]
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _print_warning
            return _run(argv)
    except KeyboardInterrupt:
        print("dgmkern: interrupted", file=sys.stderr)
        return 128 + signal.SIGINT
    except Exception as error:
        if not isinstance(error, _user_errors()) or os.environ.get("DGMKERN_DEBUG") == "1":
            raise
        return fail(_message(error))


def _run(argv: list[str]) -> int:
    if argv[:1] == ["train"] and argv[1:2] and argv[1] in train.MODELS:
        return train.run(argv[1], argv[2:])
    command = parse(
        Annotated[train.Train, tyro.conf.subcommand("train")]
        | Annotated[sample.Sample, tyro.conf.subcommand("sample")]
        | Annotated[evaluate.Evaluate, tyro.conf.subcommand("evaluate")]
        | Annotated[fid.FID, tyro.conf.subcommand("fid")]
        | Annotated[doctor.Doctor, tyro.conf.subcommand("doctor")],
        prog="dgmkern",
        description="Fused ops for deep generative models, and models trained with them.",
        args=argv,
        config=(tyro.conf.FlagCreatePairsOff,),
    )
    if isinstance(command, doctor.Doctor):
        return doctor.run()
    runs = {sample.Sample: sample.run, evaluate.Evaluate: evaluate.run, fid.FID: fid.run}
    return runs[type(command)](command)


def _user_errors() -> tuple[type[Exception], ...]:
    """What a command may raise because of its input or its surroundings, told in one line."""
    from .._library import MissingBackendError
    from ..data import DataError
    from ..features import ExtractorError
    from ..train import CheckpointError, NonFiniteLossError, PeerError

    return (
        ValueError,
        OSError,
        MissingBackendError,
        DataError,
        ExtractorError,
        CheckpointError,
        NonFiniteLossError,
        PeerError,
    )


def _message(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return str(error)


def _print_warning(message: Warning | str, *details: Any, **more: Any) -> None:
    print(f"dgmkern: warning: {message}", file=sys.stderr)
