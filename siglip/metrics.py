"""What a run reports: JSON lines, TensorBoard and a line of progress."""

import contextlib
import json
import os
import pathlib
import sys
import time

import rich.console
import rich.progress

from siglip import tensorboard
from siglip.workdir import Log, locate, whole_lines

JSONL = "metrics.jsonl"  # of training steps
EVALUATIONS = "evaluations.jsonl"
_FOLLOWED = 10.0  # seconds between two lines of a log


class MetricsWriter:
    """Writes a file of JSON lines, and TensorBoard's event files, into a workdir.

    A resumed run starts it anew at `first_step`: what an interrupted one logged beyond that is
    dropped, so that every step occurs once. What a full disk refuses is written later; see `Log`.

    Args:
      workdir: a folder, also in a bucket.
      name: of the file of JSON lines. Event files of others than `JSONL` have a folder of their
        own, which is a run of its own in TensorBoard: of files that grow side by side in one
        folder it follows only the last.
    """

    def __init__(self, workdir: str | os.PathLike, first_step: int, name: str = JSONL):
        folder = locate(workdir)
        self._lines = Log(folder / name, lambda content: _until(content, first_step))
        folder /= "tensorboard"
        if name != JSONL:
            folder /= pathlib.PurePath(name).stem
        self._events = Log(folder / tensorboard.file_name(), len)
        self._events.append(tensorboard.start(first_step + 1))

    def write(self, step: int, values: dict[str, float]) -> None:
        """`step` is above those before it."""
        self._lines.append(json.dumps({"step": step, **values}).encode() + b"\n")
        self._events.append(tensorboard.scalars(step, values))

    def commit(self) -> None:
        """Make durable what was written; in a bucket, write it.

        To be called before a checkpoint of the last step appears: a run that continues from it
        does not come to that step again.
        """
        self._lines.commit()
        self._events.commit()

    def close(self) -> None:
        self._lines.close()
        self._events.close()


def _until(content: bytes, step: int) -> int:
    """How many bytes of JSON lines are of no later step."""
    size = 0
    for line in content[: whole_lines(content)].splitlines(keepends=True):
        record = _record(line)
        if record is None or record["step"] > step:
            break
        size += len(line)
    return size


def read_lines(path: str | os.PathLike) -> list[dict]:
    """The records of a JSON-lines file, none if there is no such file; a last line that was cut
    short is left out."""
    try:
        content = locate(path).read_bytes()
    except FileNotFoundError:
        return []
    records = map(_record, content[: whole_lines(content)].splitlines())
    return [record for record in records if record is not None]


def _record(line: bytes) -> dict | None:
    """None for what is no record: a machine that lost its power may leave zeros."""
    with contextlib.suppress(ValueError):
        return json.loads(line)
    return None


class Progress:
    """A bar with rate and time left on a terminal; plain lines, with the same facts, in a log."""

    def __init__(self, total: int, done: int, unit: str = "steps"):
        self._total, self._unit = total, unit
        self._first, self._start = done, time.monotonic()
        self._told = self._start
        console = rich.console.Console(file=sys.stdout)
        self._bar = None
        if console.is_terminal:
            self._bar = rich.progress.Progress(
                rich.progress.BarColumn(),
                rich.progress.TextColumn("{task.completed}/{task.total} " + unit),
                rich.progress.TimeRemainingColumn(),
                rich.progress.TextColumn("{task.description}"),
                console=console,
            )
            self._task = self._bar.add_task("", total=total, completed=done)
            self._bar.start()

    def advance_to(self, done: int) -> None:
        """Cheap enough for every step."""
        if self._bar:
            self._bar.update(self._task, completed=done)

    def follow(self, done: int, text: str = "") -> None:
        """`advance_to`, and now and then `report`: for what has no steps to report at."""
        self.advance_to(done)
        if time.monotonic() - self._told > _FOLLOWED:
            self.report(done, text)

    def report(self, done: int, text: str) -> None:
        """Show `text`; in a log, as a line of its own."""
        self._told = time.monotonic()
        if self._bar:
            self._bar.update(self._task, completed=done, description=text)
            return
        elapsed = self._told - self._start
        rate = (done - self._first) / elapsed
        left = (self._total - done) / rate if rate else float("inf")
        print(
            f"{done}/{self._total} {self._unit}  {text}  "
            f"{rate:.1f} {self._unit}/s  {duration(left)} left",
            flush=True,
        )

    def close(self) -> None:
        if self._bar:
            self._bar.stop()


def duration(seconds: float) -> str:
    """`3:07` or `2:05:30`."""
    if seconds == float("inf"):
        return "?"
    minutes, s = divmod(round(seconds), 60)
    hours, m = divmod(minutes, 60)
    return f"{hours}:{m:02d}:{s:02d}" if hours else f"{m}:{s:02d}"
