"""What is wrong with a step, and which batches a run leaves out to get past it.

Nothing here touches arrays or data: every host decides from the same numbers, and a run that was
killed decides as if it had not been.
"""

import collections
import math
import pathlib
import statistics
from collections.abc import Callable, Sequence
from typing import Any

from siglip import config as cfg
from siglip.data.sources.base import listed
from siglip.workdir import failures
from siglip.workdir import reason as why

WINDOW = 64  # losses of which a spike's median is taken
SHOWN = 3  # keys of a bad batch in a message; a file has all


class Trouble(Exception):
    """A step that made a state which must not be used.

    Attributes:
      number: of the batch that the step was given.
      indices: of this host's samples in it, as `Batches.indices`.
    """

    def __init__(self, reason: str, number: int, indices: Sequence[int]):
        super().__init__(reason)
        self.number, self.indices = number, indices


class Guard:
    """Judges the numbers of each step, in order."""

    def __init__(self, c: cfg.Config):
        self._spike = c.train.spike
        self._losses: collections.deque[float] = collections.deque(maxlen=WINDOW)

    def check(self, step: int, loss: float, param_norm: float) -> str | None:
        """What is wrong with a step, None if it is accepted.

        `loss` and `param_norm`, of the updated parameters, are the same on every host.
        """
        if not (math.isfinite(loss) and math.isfinite(param_norm)):
            return (
                f"step {step}: the loss is {loss}, the norm of the updated parameters {param_norm}"
            )
        if self._spike and len(self._losses) == WINDOW:
            median = statistics.median(self._losses)
            if loss > self._spike * median:
                return (
                    f"step {step}: the loss is {loss:.4g}, above train.spike={self._spike:g} times "
                    f"{median:.4g}, the median of the last {WINDOW}"
                )
        self._losses.append(loss)
        return None

    def state(self) -> dict[str, Any]:
        """The losses of the last accepted steps; JSON, which keeps floats exactly."""
        return {"losses": list(self._losses)}

    def set_state(self, state: dict[str, Any]) -> None:
        self._losses = collections.deque(state["losses"], maxlen=WINDOW)


class Skips:
    """Which batches are left out where there is trouble, or that the run stops.

    With `train.on_nonfinite="skip"` a run goes back to its last checkpoint. The first time it
    leaves out the batch of the trouble; the second time all batches from the checkpoint to it, as
    PaLM did (arXiv 2204.02311, section 5.1); the third time it stops. With a new checkpoint the
    trouble is over.

    Args:
      folder: where the keys of a bad batch are written, each host's of its own rows.
      host: this one.
    """

    def __init__(
        self, c: cfg.Config, folder: pathlib.Path, host: int = 0,
        tell: Callable[[str], None] = print,
    ):  # fmt: skip
        self._c, self._folder, self._host, self._tell = c, folder, host, tell
        self._step = 0  # of the checkpoint that the run goes back to
        self._tried: list[tuple[int, int]] = []  # first and last number of what was left out

    def after(self, trouble: Trouble, step: int, first: int, keys: Sequence[str]) -> range:
        """The numbers of the batches to leave out from the checkpoint on.

        Args:
          step: of the checkpoint; 0: the start of the run.
          first: number of the batch that the checkpoint goes on with.
          keys: of this host's samples in the batch of the trouble.

        Raises:
          UserError: the run has to stop.
        """
        if step != self._step:
            self._step, self._tried = step, []
        number = trouble.number
        what = f"{trouble}; batch {number} ({self._write(number, keys)})"
        if self._c.train.on_nonfinite == "stop" or len(self._tried) == 2:
            raise cfg.UserError(f"{what}; {self._remedy()}")
        # On other devices than the first time, trouble may come earlier the second.
        last = max([number, *(last for _, last in self._tried)])
        first = first if self._tried else number
        self._tried.append((first, last))
        if self._host == 0:
            self._tell(f"{what}; back to step {self._step}, without {_render(first, last)}")
        return range(first, last + 1)

    def _write(self, number: int, keys: Sequence[str]) -> str:
        """Such as "a, b, c, ...: PATH"."""
        # A key may be the name of a file: more than a line, or no text.
        keys = [
            key.encode("utf-8", "backslashreplace").decode().replace("\n", r"\n") for key in keys
        ]
        path = self._folder / f"bad-batch-{number}{f'-{self._host}' if self._host else ''}.txt"
        shown = listed(keys[:SHOWN]) + (", ..." if len(keys) > SHOWN else "")
        try:
            path.write_text("".join(f"{key}\n" for key in keys), encoding="utf-8")
        except failures(path) as error:  # must not hide the trouble
            return f"{shown}; {path} cannot be written: {why(error)}"
        return f"{shown}: {path}"

    def _remedy(self) -> str:
        c, tried = self._c.optimizer, ", then ".join(_render(*numbers) for numbers in self._tried)
        in_vain = f"without {tried} since step {self._step} it came again; " if tried else ""
        skip = ", or go on without such batches by train.on_nonfinite='skip'"
        return (
            f"{in_vain}checkpoints before it are intact in {self._folder}; lower "
            f"optimizer.learning_rate={c.learning_rate} or lengthen optimizer.warmup={c.warmup!r}"
            f"{skip if self._c.train.on_nonfinite == 'stop' else ''}"
        )


def _render(first: int, last: int) -> str:
    return f"batch {first}" if first == last else f"batches {first} to {last}"
