"""The steps of a run, with all that happens between them."""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterable
from typing import Any

import jax
import numpy as np

from siglip import config as cfg
from siglip.checkpoint import Checkpoints
from siglip.data.pipeline import Batches, keys
from siglip.data.sources import Source
from siglip.parallel import mesh as meshes
from siglip.training.guard import Guard, Skips, Trouble
from siglip.training.reporting import Evaluations, Profile, Reporter, Run
from siglip.training.shutdown import Interrupted
from siglip.training.state import TrainState
from siglip.training.step import Batch, Metrics, Step
from siglip.training.validation import Validation


@dataclasses.dataclass(frozen=True)
class Start:
    """Where a run begins or goes on; `position` is what was saved beside the state, if it was."""

    state: TrainState
    done: int = 0  # steps
    position: dict[str, Any] | None = None


class Steps:
    """Takes a run from a state to its last step, or to where it is asked to end.

    Python stays one step ahead of the devices: the metrics of a step are read, which waits for it,
    only when the next one is under way and the batch after that is being made.

    Args:
      compiled: makes the step, when there is one to do.
      fingerprints: of the inputs, saved with every checkpoint.
    """

    def __init__(
        self, run: Run, compiled: Callable[[], Step], batches: Batches, checkpoints: Checkpoints,
        validation: Validation | None, fingerprints: dict[str, str],
    ):  # fmt: skip
        self._run, self._compiled, self._batches = run, compiled, batches
        self._checkpoints, self._validation = checkpoints, validation
        self._fingerprints = fingerprints
        self._guard = Guard(run.config)
        self._skips = Skips(run.config, run.workdir, jax.process_index())
        self._beginning = self._position()

    @functools.cached_property
    def _step(self) -> Step:
        self._run.watchdog("compiling")
        with self._run.watch("compiling"), self._run.shutdown.at_once():
            return self._compiled()

    def __call__(self, start: Start, again: Callable[[], Start], train: Source) -> TrainState:
        """The state after the last step, which is saved.

        Args:
          again: gives the start from the last checkpoint.
          train: names the samples of a batch that made trouble.

        Raises:
          UserError: a step made a state that must not be used, and the run has to stop.
          Stopped: a signal asked for the end.
        """
        left_out: Iterable[int] = ()
        while True:
            position = start.position or self._beginning
            self._batches.set_state(position["data"])
            self._batches.skip(left_out)
            self._run.ledger.set_state(position["ledger"])
            self._guard.set_state(position["guard"])
            try:
                with self._run.shutdown:
                    return self._attempt(start.state, start.done)
            except Trouble as trouble:
                back = self._checkpoints.wait() or 0
                position = self._checkpoints.position(self._run.config) or self._beginning
                first = position["data"]["next_index"]
                left_out = self._skips.after(trouble, back, first, keys(train, trouble.indices))
            start = again()

    def _position(self) -> dict[str, Any]:
        """What is to be known beside the state in order to go on."""
        ledger, guard = self._run.ledger.state(), self._guard.state()
        return {"data": self._batches.get_state(), "ledger": ledger, "guard": guard}

    def _attempt(self, train_state: TrainState, done: int) -> TrainState:
        run, self._saved = self._run, done
        self._given: dict[int, tuple[int, np.ndarray]] = {}  # by step, of its batch
        with contextlib.ExitStack() as stack:
            closing = lambda x: stack.enter_context(contextlib.closing(x))  # noqa: E731
            self._evaluations = closing(Evaluations(run, self._validation, done))
            if done == run.total and not self._evaluations.due(done):
                return train_state
            self._evaluations.begin()
            self._reporter = closing(Reporter(run, done))
            train_state, done, ended = self._advance(train_state, done)
            run.watchdog(f"step {done}: writing its checkpoint")
            with run.watch("checkpoints"):
                last = self._checkpoints.wait() or 0
        if ended:
            where = f"at step {done} of {run.total}, " if done else "before the first step"
            if done:
                where += "which is saved" if last == done else f"step {last} is saved"
            raise cfg.Stopped(
                f"stopped {where}; the same command continues", run.shutdown.exit_code
            )
        if last != run.total:
            raise cfg.UserError(
                f"{run.workdir}: the last step could not be saved; free some space, the same "
                f"command continues from step {last}"
            )
        return train_state

    def _advance(self, train_state: TrainState, done: int) -> tuple[TrainState, int, bool]:
        """`(state, steps done, whether that was asked for)`; the state is being saved."""
        run, previous = self._run, None
        profile = Profile(cfg.window(run.config.train.profile), run.workdir / "profile")
        with contextlib.closing(profile):
            ended = not self._evaluate(done, train_state)
            batch = None if ended else self._next_batch(done)
            while batch is not None:
                profile.before_step(done, train_state)
                run.watchdog(f"step {done + 1}")
                step = self._step
                with run.watch("steps"):
                    train_state, values = step(train_state, batch)
                    behind = self._batches.get_state()
                    if previous is not None:
                        self._read(done, previous)
                done, previous = done + 1, values
                batch = self._next_batch(done)
                save = batch is None or done % run.config.train.checkpoint_every == 0
                if save or self._evaluations.due(done):
                    with run.watch("steps"):
                        self._read(done, values)  # a state that is not finite is never saved
                    previous = None
                    if save or run.config.train.best:  # also what may turn out the best
                        self._save(done, train_state, behind)
                    if not self._evaluate(done, train_state):
                        self._save(done, train_state, behind)
                        ended, batch = True, None
        return train_state, done, ended or done < run.total

    def _next_batch(self, done: int) -> Batch | None:
        """For the step after `done`; None where there is none, or the run is asked to end."""
        run = self._run
        if done == run.total or run.shutdown.requested():
            return None
        run.watchdog(f"step {done + 1}: waiting for its batch")
        try:
            with run.watch("waiting for data"), run.shutdown.waiting():
                batch = meshes.put_batch(next(self._batches), run.mesh)
        except Interrupted:
            return None
        self._given[done + 1] = self._batches.number, self._batches.indices
        return batch

    def _read(self, step: int, values: Metrics) -> None:
        number, indices = self._given.pop(step)
        reason = self._guard.check(step, float(values["loss"]), float(values["param_norm"]))
        if reason:
            raise Trouble(reason, number, indices)
        self._reporter.read(step, values)

    def _save(self, done: int, train_state: TrainState, behind: dict[str, Any]) -> None:
        """`behind`: the state of the batches when the step was given its own."""
        if done == self._saved:
            return
        run = self._run
        run.watchdog(f"step {done}: saving")
        with run.watch("checkpoints"):
            self._reporter.commit()
            run.ledger.commit()
            self._checkpoints.save(
                done, train_state.to_items(), run.config, self._fingerprints,
                {**self._position(), "data": behind},
            )  # fmt: skip
        self._saved = done

    def _evaluate(self, done: int, train_state: TrainState) -> bool:
        """False where the run was asked to end before that was finished."""
        if self._evaluations.due(done):
            self._run.watchdog(f"step {done}: evaluating")
            try:
                self._evaluations(done, train_state.averaged)
            except Interrupted:
                return False
        return True
