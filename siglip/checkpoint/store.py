"""Checkpoints of a run: which of them is used, what it says, and the next one.

A workdir holds them (`arrays.py`), and `tokenizer.model`, so that it can be moved and used without
the files it was trained from.
"""

import contextlib
import functools
import os
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from siglip import config as cfg
from siglip.checkpoint import arrays, checksums, drift
from siglip.checkpoint.arrays import Items
from siglip.checkpoint.failing import warn
from siglip.checkpoint.retention import Keep
from siglip.checkpoint.saved import (
    MODEL_ITEMS,
    folder_of,
    newest_whole,
    read_metadata,
    saved_steps,
    step_of,
)
from siglip.workdir import failures
from siglip.workdir import reason as why

_DAMAGED = ".damaged"  # what a folder's name ends with that is not looked at again


class Checkpoints:
    """The checkpoints of one workdir.

    A reader opens one of them; a run, which says what to `keep`, the latest, and saves others.
    Where files were damaged the newest whole checkpoint is used instead of the latest, with a line
    that says so.

    Args:
      workdir: a folder, also of a bucket; must exist when reading.
      keep: which stay when a run saves another; None to read only. All hosts of a run open it.
      step: the checkpoint to read: a step's number, or "best"; by default the latest.
      items: those that will be read, and so must be whole; by default all.

    Attributes:
      step: of the checkpoint that is read, None if there is none yet.
    """

    def __init__(
        self,
        workdir: str | os.PathLike,
        keep: Keep | None = None,
        step: str = "",
        items: Sequence[str] | None = None,
    ):
        self._workdir, self._keep, self._items = workdir, keep, items
        self._folder = folder_of(workdir)
        self._broken: list[int] = []
        if keep is None and not self._folder.is_dir():
            raise cfg.UserError(
                f"{workdir}: no checkpoints in this folder; give the workdir of a training run"
            )
        with self._readable():
            look = self._look if keep is None else self._look_once
            self.step = self._find(step) if step else look()
        self._writer = None if keep is None else arrays.Writer(workdir, keep, self.step)
        if keep is None and self.step is None:
            raise cfg.UserError(f"{workdir}: holds no finished checkpoint yet; train longer")
        if keep is not None and self.step is not None and set(self.items) <= set(MODEL_ITEMS):
            raise cfg.UserError(
                f"{workdir}: holds parameters only, which cannot be continued; start from them in "
                f"a new --workdir with --config.init={workdir}"
            )

    @contextlib.contextmanager
    def _readable(self):
        try:
            yield
        except cfg.UserError:
            raise
        except failures(self._folder) as error:
            raise cfg.UserError(
                f"{self._workdir}: {why(error)}; give a --workdir that can be "
                f"{'read' if self._keep is None else 'written'}"
            ) from None

    def begin(self) -> None:
        """For a run: put aside what was damaged, clear away what is half written.

        Apart from opening, so that a workdir that is refused stays as it is.
        """
        with self._readable():
            if jax.process_index() == 0:
                for step in self._broken:  # the run will come to this step again, and save it
                    aside = self._folder / f"{step}{_DAMAGED}"
                    aside.rmtree(missing_ok=True)
                    (self._folder / str(step)).rename(aside)
            self._writer.open()

    # Reading

    def _look(self) -> int | None:
        step, broken = newest_whole(self._workdir, self._items)
        if self._keep is not None:
            # Orbax will read what lies beside the items of those before it, too.
            for older in saved_steps(self._workdir):
                if step is not None and older < step:
                    reason = checksums.damage(self._folder / str(older), items=())
                    broken |= {older: reason} if reason else {}
        for other, reason in broken.items():
            warn(f"{self._folder / str(other)}: damaged ({reason}); step {step} is used instead")
        self._broken = list(broken)
        return step

    def _look_once(self) -> int | None:
        """One host of a run looks, and all use what it found."""
        found, error = -1, None
        if jax.process_index() == 0:
            try:
                step = self._look()
                found = -1 if step is None else step
            except (cfg.UserError, failures(self._folder)) as trouble:
                found, error = -2, trouble
        if jax.process_count() > 1:
            found = int(multihost_utils.broadcast_one_to_all(np.int32(found)))
        if found == -2:
            raise error or cfg.UserError(f"{self._workdir}: not usable; the first host says why")
        return None if found == -1 else found

    def _find(self, name: str) -> int:
        step = step_of(self._workdir, name)
        if reason := checksums.damage(self._folder / str(step), self._items):
            others = [str(other) for other in saved_steps(self._workdir) if other != step]
            raise cfg.UserError(
                f"{self._workdir}@{step}: damaged ({reason}); use another of its checkpoints: "
                f"{', '.join(others) or 'there is none'}"
            )
        return step

    @property
    def items(self) -> list[str]:
        """What the checkpoint that is read consists of."""
        folder = self._folder / str(self.step)
        return sorted(path.name for path in folder.iterdir() if path.is_dir())

    @property
    def model_item(self) -> str:
        """The parameters to be used: their moving average, where there is one."""
        return "ema" if "ema" in self.items else "params"

    def restore(self, abstract: Items) -> Items:
        """The items that `abstract` names, laid out like it."""
        try:
            return arrays.read(self._folder / str(self.step), abstract)
        except (ValueError, KeyError) as error:
            raise cfg.UserError(
                f"{self._workdir}: step {self.step} does not fit the configuration "
                f"({str(error).splitlines()[0][:200]}); use a new --workdir"
            ) from error

    @functools.cached_property
    def metadata(self) -> dict[str, Any]:
        """What was saved beside the arrays."""
        return read_metadata(self._workdir, self.step)

    def config(self) -> cfg.Config:
        """The configuration saved with the checkpoint."""
        return cfg.from_dict(self.metadata["config"])

    def position(self, config: cfg.Config) -> dict[str, Any] | None:
        """The position saved with the checkpoint, for a run of this configuration."""
        if self.step is None:
            return None
        return drift.moved(self.metadata["position"], self.config(), config)

    def check_same_run(
        self, config: cfg.Config, inputs: dict[str, str], force: bool = False
    ) -> list[str]:
        """What changed since the checkpoint, a line each.

        Raises:
          UserError: a change of configuration or inputs that changes results, unless `force`.
        """
        return drift.check(self._workdir, self.metadata, config, inputs, force)

    # Saving

    def save(
        self,
        step: int,
        items: Items,
        config: cfg.Config,
        inputs: dict[str, str],
        position: dict[str, Any],
    ) -> None:
        """Copy the arrays off the devices, then write them in the background.

        One write at a time: this waits for the one before. What could not be written is told, and
        the last good checkpoint stays.

        Args:
          inputs: fingerprints of the data and the tokenizer.
          position: small and the same on every host: where in the data the run is, and what else
            it remembers.
        """
        metadata = {
            "config": cfg.to_dict(config), "inputs": inputs, "position": position,
            "keep_every": self._keep.every,
        }  # fmt: skip
        self._writer.save(step, items, metadata)

    def wait(self) -> int | None:
        """Until what is being saved is on disk; the step of the newest whole checkpoint."""
        self._writer.wait()
        if self.step != self._writer.last:
            self.step = self._writer.last
            self.__dict__.pop("metadata", None)
        return self.step

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
