"""Checkpoints of a run: arrays, position and configuration, saved as one.

The only file that knows Orbax. A workdir holds `checkpoints/<step>/`, each written in the
background and visible only when complete, and `tokenizer.model`, so that a workdir can be moved
and used without the files it was trained from.
"""

import contextlib
import functools
import json
import logging
import os
import sys
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from orbax.checkpoint import v1 as ocp

from siglip import config as cfg
from siglip.checkpoint import checksums, drift
from siglip.checkpoint.failing import Failed, ends_after, quieten
from siglip.checkpoint.retention import Keep
from siglip.checkpoint.saved import (
    METADATA,
    MODEL_ITEMS,
    folder_of,
    newest_whole,
    read_metadata,
    saved_steps,
    step_of,
)
from siglip.workdir import failures, is_remote
from siglip.workdir import reason as why

Items = dict[str, Any]  # name -> tree of arrays (or of shapes with shardings, to restore)

_UNNAMED = ".orbax-checkpoint-tmp"  # in the name of a folder that is not complete
_DAMAGED = ".damaged"  # what a folder's name ends with that is not looked at again
_PATIENCE = 1200  # seconds for all hosts to have written; as long as Orbax waits

# What goes wrong while saving is told in a line, not in a stack trace for each of Orbax's threads.
logging.getLogger("absl").addFilter(lambda record: "orbax" not in record.pathname)


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
        self._saving: tuple[int, Any] | None = None
        self._broken: list[int] = []
        self._failed = False  # the last save
        if keep is None and not self._folder.is_dir():
            raise cfg.UserError(
                f"{workdir}: no checkpoints in this folder; give the workdir of a training run"
            )
        with self._readable():
            look = self._look if keep is None else self._look_once
            self.step = self._find(step) if step else look()
        self._orbax: ocp.training.Checkpointer | None = None
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
            self._open()

    def _open(self) -> None:
        quieten()
        if jax.process_index() == 0:
            self._clear()
        context = ocp.Context()
        # Smaller arrays are written by one device each: a slice of each for every device that holds
        # a copy would be a program to compile and a file to write, for a few bytes.
        context.array_options.saving.min_slice_bytes_for_replica_parallel = 2**20
        # On the first process, when all files are written and before the folder gets its name.
        context.async_options.post_finalization_callback = lambda: self._seal()
        self._orbax = ocp.training.Checkpointer(
            self._folder,
            context=context,
            # The training loop decides when to save.
            save_decision_policy=ocp.training.save_decision_policies.FixedIntervalPolicy(1),
            preservation_policy=self._keep,
        )

    def _clear(self) -> None:
        """Remove what is half written. Orbax would in a thread, which may come too late."""
        if not self._folder.is_dir():
            return
        whole = set(saved_steps(self._workdir))
        for path in self._folder.iterdir():
            half = path.name.isdigit() and int(path.name) not in whole  # in a bucket
            if half or _UNNAMED in path.name:
                with contextlib.suppress(failures(path)):  # written to at this moment: next time
                    path.rmtree()

    def _seal(self) -> None:
        step, metadata = self._to_seal
        unnamed = self._folder / str(step)
        if not is_remote(unnamed):  # in a bucket it has its name at once
            (unnamed,) = self._folder.glob(f"{step}{_UNNAMED}*")
        (unnamed / METADATA).write_text(json.dumps(metadata))
        checksums.write(unnamed)

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
            _tell(f"{self._folder / str(other)}: damaged ({reason}); step {step} is used instead")
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
            return ocp.load_checkpointables(self._folder / str(self.step), abstract)
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
        self.wait()
        if self._failed or self._orbax is None:
            self._reopen()  # clears away what was written after it had failed
            self._failed = False
        self._to_seal = step, {
            "config": cfg.to_dict(config), "inputs": inputs, "position": position,
            "keep_every": self._keep.every,
        }  # fmt: skip
        try:
            if self._orbax is None:
                raise OSError(f"{self._folder} cannot be read")
            with self._not_for_ever(step):
                self._saving = step, self._orbax.save_checkpointables_async(step, items)
        except failures(self._folder) as error:  # before anything was written
            self._saving = step, Failed(error)

    def wait(self) -> int | None:
        """Until what is being saved is on disk; the step of the newest whole checkpoint."""
        if self._saving is not None:
            (step, response), self._saving = self._saving, None
            try:
                with self._not_for_ever(step):
                    response.result()
            except Exception as error:  # Orbax has a type of its own for each way to fail
                self._lost(step, error)
            else:
                self.step = step
                self.__dict__.pop("metadata", None)
        return self.step

    def _not_for_ever(self, step: int) -> contextlib.AbstractContextManager[None]:
        if jax.process_count() == 1:
            return contextlib.nullcontext()
        line = (
            f"the checkpoint of step {step} was not written to {self._folder} by all hosts within "
            f"{_PATIENCE} s: one of them could not, see their logs; start again"
        )
        return ends_after(_PATIENCE, line)

    def _lost(self, step: int, error: Exception) -> None:
        reason = str(error).splitlines()[0]
        if "No space left" in reason or "quota" in reason.lower():
            reason = "no space left"
        last = f"step {self.step} is whole" if self.step is not None else "there is none before it"
        where = f"the checkpoint of step {step} could not be written to {self._folder} ({reason})"
        _tell(f"{where}; {last}, training goes on and tries again; free some space")
        self._reopen()
        self._failed = True

    def _reopen(self) -> None:
        """Forget a save that failed; where nothing can be read either, the next save tries."""
        with contextlib.suppress(Exception):  # the same error once more
            self._orbax.close()
        self._orbax = None
        with contextlib.suppress(failures(self._folder)):
            self._open()

    def close(self) -> None:
        self.wait()
        if self._orbax is not None:
            self._orbax.close()


def _tell(line: str) -> None:
    if jax.process_index() == 0:
        print(f"warning: {line}", file=sys.stderr, flush=True)
