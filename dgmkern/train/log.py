"""The log of a run: one JSON object a line, one line a step."""

import json
from pathlib import Path
from types import TracebackType

from .atomic import write_text_atomically


class JSONLLog:
    """Appends records to a file; opened at step `step`, it first drops what a killed run logged beyond that."""

    def __init__(self, path: Path, *, step: int) -> None:
        if path.exists():
            kept = [record for record in read_log(path) if record["step"] <= step]
            write_text_atomically(path, "".join(json.dumps(record) + "\n" for record in kept))
        self._file = path.open("a", encoding="utf-8", buffering=1)  # line-buffered: can be followed while it grows

    def write(self, record: dict[str, float]) -> None:
        self._file.write(json.dumps(record) + "\n")

    def __enter__(self) -> "JSONLLog":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()


def is_loss(name: str) -> bool:
    """Whether the figure `name` of a record is a loss: "loss", or that of a player, such as "generator_loss"."""
    return name == "loss" or name.endswith("_loss")


def losses_of(records: list[dict[str, float]]) -> dict[str, list[float]]:
    """The losses of a run by name, one number a step; `records` are those of `read_log`, at least one."""
    return {name: [record[name] for record in records] for name in records[0] if is_loss(name)}


def read_log(path: Path) -> list[dict[str, float]]:
    """The records of a log; a last line torn by a kill is left out."""
    records = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return records
