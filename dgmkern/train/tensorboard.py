"""The log of a run for TensorBoard: figures as scalars, grids of samples as images."""

import time
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType

from PIL import Image

from .config import ConfigError

_FLUSH = 10.0  # seconds; a flush waits for the disk


class TensorBoardLog:
    """Writes events into `folder`, into a file of its own.

    Opened at step `step`, it makes TensorBoard drop what the files of a killed run have beyond that. Raises ConfigError
    where tensorboardX is missing.
    """

    def __init__(self, folder: Path, *, step: int) -> None:
        require_tensorboard()
        # its writer without the queue and the thread of its SummaryWriter, which no flush empties
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import Event, SessionLog
        from tensorboardX.proto.summary_pb2 import Summary

        self._event, self._summary = Event, Summary
        folder.mkdir(exist_ok=True)
        # names have the second of the start: a run resumed within it must not write over its own file
        self._writer = EventsWriter(str(folder / "events"), f".{step:08d}")
        start = SessionLog(status=SessionLog.START)
        self._writer.write_event(Event(wall_time=time.time(), step=step + 1, session_log=start))
        self.flush()

    def write(self, record: dict[str, float]) -> None:
        """The figures of a record of the log, each under its name."""
        values = [self._summary.Value(tag=name, simple_value=value) for name, value in record.items() if name != "step"]
        self._write(record["step"], values)

    def write_picture(self, name: str, path: Path, step: int) -> None:
        """A PNG."""
        with Image.open(path) as picture:
            size = {"width": picture.width, "height": picture.height, "colorspace": len(picture.getbands())}
        image = self._summary.Image(encoded_image_string=path.read_bytes(), **size)
        self._write(step, [self._summary.Value(tag=name, image=image)])

    def _write(self, step: int, values: list) -> None:
        event = self._event(wall_time=time.time(), step=step, summary=self._summary(value=values))
        self._writer.write_event(event)
        if time.monotonic() - self._flushed > _FLUSH:
            self.flush()

    def flush(self) -> None:
        """Put on the disk what was written."""
        self._writer.flush()
        self._flushed = time.monotonic()

    def __enter__(self) -> "TensorBoardLog":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._writer.close()


def require_tensorboard() -> None:
    """Raise ConfigError if tensorboardX is missing."""
    if find_spec("tensorboardX") is None:
        raise ConfigError("tensorboard: needs the package tensorboardX, which is not here; pip install tensorboardX")
