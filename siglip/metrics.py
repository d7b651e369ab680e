"""What a run reports: JSON lines, TensorBoard and a line of progress."""

import json
import os
import pathlib
import sys
import time

import rich.console
import rich.progress
import tensorboardX

JSONL = "metrics.jsonl"  # of training steps
EVALUATIONS = "evaluations.jsonl"


class MetricsWriter:
    """Appends to a file of JSON lines and to TensorBoard event files in the workdir.

    On resuming at `first_step`, what an interrupted run logged beyond it is dropped, so that every
    step occurs once.
    """

    def __init__(self, workdir: str | os.PathLike, first_step: int, name: str = JSONL):
        path = pathlib.Path(workdir) / name
        kept = [line for line in read_lines(path) if line["step"] <= first_step]
        temporary = path.with_suffix(".tmp")
        temporary.write_text("".join(json.dumps(line) + "\n" for line in kept))
        os.replace(temporary, path)
        self._file = open(path, "a", buffering=1)  # noqa: SIM115 (lives as long as the run)
        self._tensorboard = tensorboardX.SummaryWriter(
            str(pathlib.Path(workdir) / "tensorboard"), purge_step=first_step + 1
        )

    def write(self, step: int, values: dict[str, float]) -> None:
        self._file.write(json.dumps({"step": step, **values}) + "\n")
        for name, value in values.items():
            self._tensorboard.add_scalar(name, value, step)

    def close(self) -> None:
        self._file.close()
        self._tensorboard.close()


def read_lines(path: str | os.PathLike) -> list[dict]:
    """The records of a JSON-lines file; a last line cut short by a kill is left out."""
    path = pathlib.Path(path)
    if not path.exists():
        return []
    whole = path.read_text().split("\n")[:-1]
    return [json.loads(line) for line in whole]


class Progress:
    """A bar with rate and time left on a terminal; plain lines, with the same facts, in a log."""

    def __init__(self, total: int, done: int, unit: str = "steps"):
        self._total, self._unit = total, unit
        self._first, self._start = done, time.monotonic()
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

    def report(self, done: int, text: str) -> None:
        """Show `text`; in a log, as a line of its own."""
        if self._bar:
            self._bar.update(self._task, completed=done, description=text)
            return
        elapsed = time.monotonic() - self._start
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
