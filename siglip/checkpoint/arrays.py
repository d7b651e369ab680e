"""Arrays to and from the folder of a run's checkpoints: the only file that knows Orbax.

Each checkpoint is `checkpoints/<step>/`, written in the background and visible only when complete.
"""

import contextlib
import json
import logging
import os
from typing import Any

import jax
from etils import epath
from orbax.checkpoint import v1 as ocp

from siglip.checkpoint import checksums
from siglip.checkpoint.failing import Failed, ends_after, quieten, warn
from siglip.checkpoint.retention import Keep
from siglip.checkpoint.saved import METADATA, folder_of, saved_steps
from siglip.workdir import failures, is_remote

Items = dict[str, Any]  # name -> tree of arrays (or of shapes with shardings, to restore)

_UNNAMED = ".orbax-checkpoint-tmp"  # in the name of a folder that is not complete
_PATIENCE = 1200  # seconds for all hosts to have written; as long as Orbax waits

# What goes wrong while saving is told in a line, not in a stack trace for each of Orbax's threads.
logging.getLogger("absl").addFilter(lambda record: "orbax" not in record.pathname)


def read(folder: epath.Path, abstract: Items) -> Items:
    """The items of a checkpoint that `abstract` names, laid out like it.

    Raises:
      ValueError, KeyError: they are not of these names, shapes or types.
    """
    return ocp.load_checkpointables(folder, abstract)


class Writer:
    """Writes the checkpoints of a run, one at a time, and removes those that do not stay.

    What could not be written is told, and the last good checkpoint stays. All hosts of a run have
    one, and do the same with it.

    Args:
      last: step of the newest whole checkpoint, None if there is none.

    Attributes:
      last: as given, and then of what was written.
    """

    def __init__(self, workdir: str | os.PathLike, keep: Keep, last: int | None):
        self._workdir, self._keep, self.last = workdir, keep, last
        self._folder = folder_of(workdir)
        self._orbax: ocp.training.Checkpointer | None = None
        self._saving: tuple[int, Any] | None = None
        self._failed = False  # the last save

    def open(self) -> None:
        """Make the folder, and clear away what is half written there."""
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

    def save(self, step: int, items: Items, metadata: dict[str, Any]) -> None:
        """Copy the arrays off the devices, then write them, and JSON beside them.

        This waits for the write before it.
        """
        self.wait()
        if self._failed or self._orbax is None:
            self._reopen()  # clears away what was written after it had failed
            self._failed = False
        self._to_seal = step, metadata
        try:
            if self._orbax is None:
                raise OSError(f"{self._folder} cannot be read")
            with self._not_for_ever(step):
                self._saving = step, self._orbax.save_checkpointables_async(step, items)
        except failures(self._folder) as error:  # before anything was written
            self._saving = step, Failed(error)

    def wait(self) -> None:
        """Until what is being saved is on disk, or is known not to be."""
        if self._saving is not None:
            (step, response), self._saving = self._saving, None
            try:
                with self._not_for_ever(step):
                    response.result()
            except Exception as error:  # Orbax has a type of its own for each way to fail
                self._lost(step, error)
            else:
                self.last = step

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
        last = f"step {self.last} is whole" if self.last is not None else "there is none before it"
        where = f"the checkpoint of step {step} could not be written to {self._folder} ({reason})"
        warn(f"{where}; {last}, training goes on and tries again; free some space")
        self._reopen()
        self._failed = True

    def _reopen(self) -> None:
        """Forget a save that failed; where nothing can be read either, the next save tries."""
        with contextlib.suppress(Exception):  # the same error once more
            self._orbax.close()
        self._orbax = None
        with contextlib.suppress(failures(self._folder)):
            self.open()

    def close(self) -> None:
        self.wait()
        if self._orbax is not None:
            self._orbax.close()
